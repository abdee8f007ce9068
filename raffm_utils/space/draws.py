"""Draws of submodels by size: spread over a cost or over widths, or close to a share or a limit."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import ElasticSpaceError, InfeasibleBudget
from .axes import SubmodelConfig
from .budget import LATENCY, METRICS, Budget
from .elastic_space import ElasticSpace
from .randomness import Rng, generator
from .ways import Ways, ways_of

NEAR = 0.97  # candidates lie between this share of a limit and the limit
WINDOW = 0.02  # a submodel near a share of the full network's cost has at most so much less


def sample_between(
    space: ElasticSpace,
    low: float,
    high: float,
    rng: Rng,
    metric: str = "parameters",
    *,
    never_above: bool = False,
) -> SubmodelConfig:
    """A submodel drawn uniformly among those whose cost lies between two values.

    An interval without submodels is widened on both sides until it holds some; with `never_above`, only
    downwards. Raises `InfeasibleBudget` when even the smallest submodel lies above.
    """
    rng, step = generator(rng), max(1, high - low if never_above else (high - low) // 2)
    while True:  # ends: the step doubles until the whole reach is covered
        limits: dict[str, Any] = {f"min_{metric}": max(0, low), f"max_{metric}": high}
        try:
            return space.sample(Budget(**limits), rng)
        except InfeasibleBudget:
            if never_above and low <= 0:
                raise
            low, high, step = low - step, high if never_above else high + step, 2 * step


def spread_over_size(space: ElasticSpace, number: int, rng: Rng, metric: str = "parameters") -> list[SubmodelConfig]:
    """Draw `number` submodels spread evenly over the logarithm of a cost, from small to large.

    The range is cut into `number` parts of equal ratio, and from each one submodel is drawn uniformly. A part that
    holds no submodel is widened on both sides until it does.
    """
    if number < 1 or metric not in METRICS:
        raise ElasticSpaceError(f"number={number}, metric={metric!r}: give at least 1, and one of {', '.join(METRICS)}")
    rng, (least, most) = generator(rng), space.reach(metric)
    # the ends exactly, whatever rounding does to them
    edges = [least, *(int(edge) for edge in np.geomspace(least, most, number + 1)[1:-1]), most]
    return [sample_between(space, low, high, rng, metric) for low, high in pairwise(edges)]


def near_share(space: ElasticSpace, share: float, rng: Rng, metric: str = "parameters") -> SubmodelConfig:
    """Draw a submodel that costs about, and at most, `share` of the full network; the smallest if none does."""
    space = space.sized
    smallest, largest = space.reach(metric)
    if share >= 1:
        return space.largest()
    if share * largest <= smallest * 1.01:
        return space.smallest()
    low, high = max(0.0, share - WINDOW) * largest, share * largest
    return sample_between(space, low, high, rng, metric, never_above=True)


def near_the_limit(space: ElasticSpace, budget: Budget, number: int, rng: Rng) -> list[SubmodelConfig]:
    """Draw up to `number` different submodels just inside a budget; only the largest if that one fits."""
    rng = generator(rng)
    tight = budget
    for metric in (*METRICS, LATENCY):
        high = getattr(budget, f"max_{metric}")
        if high is not None and getattr(budget, f"min_{metric}") is None:
            _, most = space.reach(metric)
            bounds: dict[str, Any] = {f"min_{metric}": NEAR * min(high, most)}
            tight = tighter if space.count(tighter := replace(tight, **bounds)) else tight
    found = [space.largest()] if space.fits(space.largest(), budget) else []
    found += [space.sample(tight, rng) for _ in range(number)]
    return list(dict.fromkeys(found))[:number]


def spread_over_widths(space: ElasticSpace, number: int, rng: Rng) -> list[SubmodelConfig]:
    """Draw `number` submodels to fit a predictor to, with hidden width and both total widths each spread.

    Uniform draws nearly all have similar totals, so a predictor would know little beyond those. Hidden widths are
    spread evenly, totals over their logarithm, or a space that reaches from 3% to all would have hardly any small
    ones; the three form a Latin hypercube. Numbers of blocks are drawn evenly among those that reach a total, layers
    uniformly among all that then have it.
    """
    if number < 1:
        raise ElasticSpaceError(f"number={number}: ask for at least 1 submodel")
    rng = generator(rng)
    axes = [(ways, *_places(ways)) for ways in (ways_of(space.attention), ways_of(space.ffn))]
    shares = [(rng.permutation(number) + rng.random(number)) / number for _ in range(3)]
    configs = []
    for hidden, *others in zip(*shares, strict=True):
        widths = []
        for (ways, places, ends), share in zip(axes, others, strict=True):
            same = places[int(np.searchsorted(ends, share, side="right"))]
            widths.append(ways.draw(*same[int(rng.integers(len(same))) if len(same) > 1 else 0], rng))
        configs.append(SubmodelConfig(space.hidden[int(hidden * len(space.hidden))], *widths))
    return configs


def _places(ways: Ways) -> tuple[list[list[tuple[int, int]]], np.ndarray]:
    """For every total width that can be, ascending: its entries (row, place in it), and the share where it ends.

    Shares, from 0 to 1, divide the logarithm of the total evenly. The least total counts as half of the next at least.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for n in ways.rows:
        for k in np.flatnonzero(ways.ways[n] > 0).tolist():
            found.setdefault(int(ways.totals[n][k]), []).append((n, k))
    totals = np.array(sorted(found), dtype=float)
    logs = np.log(np.maximum(totals, totals[min(1, len(totals) - 1)] / 2 or 1))
    middles = (logs[1:] + logs[:-1]) / 2
    return [found[total] for total in sorted(found)], (middles - logs[0]) / (logs[-1] - logs[0] or 1.0)
