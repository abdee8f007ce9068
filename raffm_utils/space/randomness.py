"""Randomness as callers may give it: a generator, or a seed."""

import operator

import numpy as np

from ..errors import ElasticSpaceError

Rng = int | np.random.Generator


def generator(rng: Rng | None) -> np.random.Generator:
    """The generator itself, or a new one with this seed; raises `ElasticSpaceError` for anything else."""
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(operator.index(rng))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ElasticSpaceError(
            f"rng={rng!r}: give numpy.random.default_rng(seed), or the seed alone, a whole number from 0"
        ) from error
