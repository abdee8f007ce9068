"""In how many ways the layers of one axis reach a total width with a number of blocks: exact counts and draws."""

import math
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from .budget import Choices


class Ways:
    """For one axis: how many choices of its layers reach each total width with each number of blocks present.

    Row `n` is for `n` blocks; entry `k` of it stands for the total width `totals[n][k]`, which `ways[n][k]` choices
    reach; `below[n][k]` is the sum of all ways before it. `rows` are the numbers of blocks that can be: without a 0
    among the choices, that of all layers alone.
    """

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        widths = sorted({width for options in choices for width in options if width})
        self._narrowest = widths[0] if widths else 0
        self.unit = math.gcd(*(width - self._narrowest for width in widths)) or 1
        # The counts of a row are packed into one integer, a slot of bytes each, so that adding a layer takes a few
        # shifts and additions of long integers (Kronecker substitution).
        self._slot = (math.prod(map(len, choices)).bit_length() + 7) // 8
        stages = [[1]]  # the packed rows after each layer
        for options in choices:
            rows = [0] * (len(stages[-1]) + 1)
            for width in options:
                shift = 8 * self._slot * self.step(width)
                for n, packed in enumerate(stages[-1]):
                    rows[n + (width > 0)] += packed << shift
            stages.append(rows)
        self._stages = [[row.to_bytes((row.bit_length() + 7) // 8, "little") for row in stage] for stage in stages]
        counts = [self._unpacked(row) for row in self._stages[-1]]
        self.ways = [np.array(row, dtype=object) for row in counts]
        self.below = [np.concatenate([np.zeros(1, dtype=object), np.cumsum(row)]) for row in self.ways]
        self.totals = [n * self._narrowest + self.unit * np.arange(len(row)) for n, row in enumerate(counts)]
        self.rows = [n for n, row in enumerate(counts) if row]

    def step(self, width: int) -> int:
        """By how many entries a layer of this width moves a total on."""
        return (width - self._narrowest) // self.unit if width else 0

    def _unpacked(self, row: bytes) -> list[int]:
        return [int.from_bytes(row[i : i + self._slot], "little") for i in range(0, len(row), self._slot)]

    def _at(self, layers: int, n: int, k: int) -> int:
        """The ways of the first `layers` layers to entry `k` of row `n`; 0 outside of the rows."""
        if not (0 <= n <= layers and k >= 0):
            return 0
        return int.from_bytes(self._stages[layers][n][k * self._slot : (k + 1) * self._slot], "little")

    def draw(self, n: int, k: int, rng: np.random.Generator) -> tuple[int, ...]:
        """A uniform choice per layer among all that reach entry `k` of row `n`."""
        widths = []
        for layer in reversed(range(len(self.choices))):
            options = self.choices[layer]
            left = [(n - (width > 0), k - self.step(width)) for width in options]
            picked = pick([self._at(layer, *place) for place in left], rng)
            widths.append(options[picked])
            n, k = left[picked]
        return tuple(reversed(widths))


@lru_cache(maxsize=256)
def ways_of(choices: Choices) -> Ways:
    """The ways of these choices, cached: budgets often restrict layers to the same few sets."""
    return Ways(choices)


def uniform_below(n: int, rng: np.random.Generator) -> int:
    """A uniform integer in [0, n) for n of any size, without a rejection loop (bias below 2**-64)."""
    count = n.bit_length() // 8 + 9
    return int.from_bytes(rng.bytes(count), "little") * n >> (8 * count)


def pick(weights: Iterable[int], rng: np.random.Generator) -> int:
    """An index, drawn in proportion to its weight; weights are whole numbers of any size."""
    cumulative = list(np.cumsum(np.array(list(weights), dtype=object)))
    return bisect_right(cumulative, uniform_below(cumulative[-1], rng))
