"""Exact one-dimensional counts of width totals, and exactly uniform draws from them."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np


class Totals:
    """How many ways there are to reach every total width, with the partial counts to walk back from."""

    def __init__(self, choices: Sequence[Sequence[int]]) -> None:
        self.choices = choices
        self.lowest = sum(min(c) for c in choices)
        self.unit = math.gcd(*(width - min(c) for c in choices for width in c)) or 1
        ways = np.ones(1, dtype=object)
        self.stages = [ways]
        for options in choices:
            steps = self._steps(options)
            longer = np.zeros(len(ways) + max(steps), dtype=object)
            for step in steps:
                longer[step : step + len(ways)] += ways
            self.stages.append(ways := longer)
        self.values = self.lowest + self.unit * np.arange(len(ways), dtype=np.int64)
        self.ways = ways
        self.below = np.concatenate([np.zeros(1, dtype=object), np.cumsum(ways)])

    def _steps(self, options: Sequence[int]) -> list[int]:
        return [(width - min(options)) // self.unit for width in options]

    def draw(self, index: int, rng: np.random.Generator) -> tuple[int, ...]:
        """A uniform choice per layer among all that reach total number `index`."""
        widths = []
        for options, stage in zip(reversed(self.choices), reversed(self.stages[:-1]), strict=True):
            left = [index - step for step in self._steps(options)]
            weights = [stage[i] if 0 <= i < len(stage) else 0 for i in left]
            picked = pick(weights, rng)
            widths.append(options[picked])
            index = left[picked]
        return tuple(reversed(widths))


@lru_cache(maxsize=256)
def totals(choices: tuple[tuple[int, ...], ...]) -> Totals:
    """The totals of these choices; kept, because budgets often restrict layers to the same few sets."""
    return Totals(choices)


def span(
    values: np.ndarray, spent: np.ndarray, per_value: int, low: int | None, high: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """For every amount spent already, which of the rising `values` at a price each stay within low..high.

    They are numbers first..last-1; both ends of the limits are included.
    """
    first, last = np.zeros(len(spent), dtype=np.int64), np.full(len(spent), len(values), dtype=np.int64)
    if high is not None:
        last = (
            np.searchsorted(values, (high - spent) // per_value, side="right")
            if per_value
            else np.where(spent <= high, last, 0)
        )
    if low is not None:
        first = (
            np.searchsorted(values, -((spent - low) // per_value), side="left")
            if per_value
            else np.where(spent >= low, first, len(values))
        )
    return first, last


def uniform_below(n: int, rng: np.random.Generator) -> int:
    """A uniform integer in [0, n) for n of any size, without a rejection loop (bias below 2**-64)."""
    count = n.bit_length() // 8 + 9
    return int.from_bytes(rng.bytes(count), "little") * n >> (8 * count)


def pick(weights: Iterable[int], rng: np.random.Generator) -> int:
    cumulative = list(np.cumsum(np.array(list(weights), dtype=object)))
    return bisect_right(cumulative, uniform_below(cumulative[-1], rng))
