"""Latency of every submodel on this machine, from a few that are measured.

As for the other costs, latency is affine in the total attention width and the total FFN width for each hidden
width; here the three coefficients are themselves affine in the hidden width, so that a few measurements tell all
six numbers. None is negative: wider is never predicted to be faster.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from typing import NamedTuple

import numpy as np

from . import latency_cache
from .budget import NS_PER_MS, Affine
from .errors import ElasticSpaceError
from .evaluation import spread_over_size
from .latency import example_inputs, timed_ms
from .space import ElasticSpace, SubmodelConfig
from .supernet import Supernet

__all__ = ["LatencyModel", "Timed"]

BLOCK_SECONDS = 0.03  # of one submodel, before it is another's turn
KEPT_BELOW = 0.10  # a model with a larger error was measured on a busy machine and is not kept
CONTROL_SECONDS = 0.2  # of each of two submodels that tell whether kept measurements still hold


class Timed(NamedTuple):
    """A submodel and the median milliseconds that one batch took."""

    config: SubmodelConfig
    measured_ms: float


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the milliseconds of one forward pass of `batch_size` examples on `threads` threads.

    `tokens` is the length of every text, None for images. `measured` are the submodels that it was fitted to,
    `held_out` those that it was not.
    """

    measured: tuple[Timed, ...]
    held_out: tuple[Timed, ...]
    batch_size: int = 1
    threads: int = 1
    tokens: int | None = None

    @classmethod
    def fit(
        cls,
        supernet: Supernet,
        *,
        batch_size: int = 1,
        threads: int = 1,
        tokens: int | None = None,
        submodels: int = 20,
        held_out: int = 10,
        seconds: float = 30.0,
        cache: bool = True,
        rng: np.random.Generator | None = None,
        progress: bool = True,
    ) -> "LatencyModel":
        """Measure `submodels` submodels to fit to and `held_out` others, in about `seconds`.

        All take turns in random order, again and again, so that a machine that becomes slower or faster slows or
        speeds all of them. Up to eight are corners of the space, the others are spread evenly over MACs. With
        `cache` the measurements are kept in the user's cache folder, for this machine, checkpoint and setting, unless
        the error on held-out submodels was above 10 %. They are read from there the next time if the machine is
        still as fast, within 10 %, on the fastest and the slowest of them; if not, all is measured anew.
        """
        if submodels < 1 or held_out < 1:
            raise ElasticSpaceError(f"submodels={submodels}, held_out={held_out}: give at least 1 of each")
        tokens = None if supernet.family.is_image else tokens
        settings = {"batch_size": batch_size, "threads": threads, "tokens": tokens}
        path = latency_cache.path(supernet, {**settings, "submodels": submodels, "held_out": held_out})
        if cache and (kept := latency_cache.read(path, supernet.space)):
            fitted, others = (tuple(Timed(*pair) for pair in pairs) for pairs in kept)
            model = cls(fitted, others, batch_size, threads, tokens)
            if model._still_holds(supernet):
                return model
        rng = np.random.default_rng(0) if rng is None else rng
        chosen = _chosen(supernet.space, submodels, tokens, rng)
        apart = [c for c in spread_over_size(supernet.space, held_out, rng, "macs", tokens) if c not in chosen]
        times = _measure(supernet, [*chosen, *apart], batch_size, threads, tokens, seconds, rng, progress)
        timed = [tuple(Timed(config, times[config]) for config in configs) for configs in (chosen, apart)]
        model = cls(timed[0], timed[1], batch_size, threads, tokens)
        if cache and model.held_out_error <= KEPT_BELOW:
            latency_cache.write(path, *timed)
        return model

    def affine(self, hidden: int) -> Affine:
        """Nanoseconds of one batch at a hidden width, as an affine function of the total widths."""
        base, attention, ffn = self._coefficients @ (1, hidden)
        return Affine(round(base), round(attention), round(ffn))

    def predict_ms(self, config: SubmodelConfig) -> float:
        """Milliseconds of one batch."""
        return self.affine(config.hidden)(sum(config.attention), sum(config.ffn)) / NS_PER_MS

    @cached_property
    def held_out_error(self) -> float:
        """Median relative error on the held-out submodels; NaN where the space had no others left."""
        errors = [abs(self.predict_ms(config) / measured - 1) for config, measured in self.held_out]
        return float(np.median(errors)) if errors else float("nan")

    def _still_holds(self, supernet: Supernet) -> bool:
        inputs = example_inputs(supernet.model, self.batch_size, self.tokens)
        ordered = sorted(self.measured, key=lambda timed: timed.measured_ms)
        ratios = [
            np.median(timed_ms(supernet.extract(config), inputs, self.threads, CONTROL_SECONDS)) / measured_ms
            for config, measured_ms in (ordered[0], ordered[-1])
        ]
        return abs(float(np.mean(ratios)) - 1) <= KEPT_BELOW

    @cached_property
    def _coefficients(self) -> np.ndarray:
        """Nanoseconds: base, per attention width and per FFN width (rows), constant and per hidden width (columns).

        Relative errors are made least, so that small submodels are told as well as large ones.
        """
        from scipy.optimize import nnls

        widths = np.array([(1, sum(c.attention), sum(c.ffn)) for c, _ in self.measured], dtype=float)
        hidden = np.array([(1, c.hidden) for c, _ in self.measured], dtype=float)
        terms = (widths[:, :, None] * hidden[:, None, :]).reshape(len(widths), 6)
        terms /= NS_PER_MS * np.array([measured for _, measured in self.measured])[:, None]
        scale = np.linalg.norm(terms, axis=0)
        return (nnls(terms / scale, np.ones(len(terms)))[0] / scale).reshape(3, 2)


def _chosen(space: ElasticSpace, number: int, tokens: int | None, rng: np.random.Generator) -> list[SubmodelConfig]:
    corners = [
        SubmodelConfig(hidden, tuple(c[a] for c in space.attention), tuple(c[f] for c in space.ffn))
        for hidden in (space.hidden[0], space.hidden[-1])
        for a in (0, -1)
        for f in (0, -1)
    ]
    corners = list(dict.fromkeys(corners))[:number]
    spread = spread_over_size(space, number - len(corners), rng, "macs", tokens) if number > len(corners) else []
    return list(dict.fromkeys([*corners, *spread]))


def _measure(
    supernet: Supernet,
    configs: list[SubmodelConfig],
    batch_size: int,
    threads: int,
    tokens: int | None,
    seconds: float,
    rng: np.random.Generator,
    progress: bool,
) -> dict[SubmodelConfig, float]:
    """Median milliseconds of every submodel; they take turns, at least twice, until the time is up."""
    from tqdm.auto import tqdm

    inputs = example_inputs(supernet.model, batch_size, tokens)
    times: dict[SubmodelConfig, list[float]] = {config: [] for config in configs}
    turns = chain.from_iterable(rng.permutation(len(configs)) for _ in count())
    start, least = time.perf_counter(), 2 * len(configs)
    with tqdm(total=100, desc="measuring latencies", unit="%", disable=not progress) as bar:
        for done, number in enumerate(turns):
            passed = time.perf_counter() - start
            share = min(passed / seconds, done / least)
            bar.update(min(100, int(100 * share)) - bar.n)
            if share >= 1:
                break
            # extracted anew, which takes milliseconds: all at once might not fit into memory
            model = supernet.extract(configs[number])
            times[configs[number]].append(float(np.median(timed_ms(model, inputs, threads, BLOCK_SECONDS))))
    return {config: float(np.median(found)) for config, found in times.items()}
