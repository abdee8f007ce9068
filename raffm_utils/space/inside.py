"""What lies inside a joint budget: counted exactly, once; then drawn from and searched as often as asked.

At one hidden width every cost is affine in four numbers, the `Totals`. So a submodel is an entry of the `Ways` of
attention and one of the FFN, and beside each entry of attention, what fits is an interval in every row of the FFN.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .axes import SubmodelConfig
from .budget import Affine, Choices
from .ways import Ways, pick, uniform_below, ways_of


class Limit(NamedTuple):
    """One metric at one hidden width: what it costs, and its lowest and highest value, both inclusive."""

    affine: Affine
    low: int | None
    high: int | None


def span(
    start: int, step: int, length: int, spent: np.ndarray, price: int, low: int | None, high: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """For each amount already spent, which of the widths `start + step * k`, k < `length`, keep the sum within limits.

    Returns first and last, where k = first..last-1 fit; no search is needed, since the widths are evenly spaced.
    """
    spent, step = spent + price * start, price * step
    if not step:
        fits = np.ones(len(spent), dtype=bool)
        if high is not None:
            fits &= spent <= high
        if low is not None:
            fits &= spent >= low
        return np.zeros(len(spent), dtype=np.int64), np.where(fits, length, 0)
    first, last = np.zeros(len(spent), dtype=np.int64), np.full(len(spent), length)
    if high is not None:
        last = np.clip((high - spent) // step + 1, 0, length)
    if low is not None:
        first = np.clip(-((spent - low) // step), 0, length)
    return first, last


class Region:
    """The submodels inside the limits at one hidden width.

    Entry `i` of `blocks` and `total` is an entry of attention: its number of blocks and its total width.
    `size[i]` counts the submodels that have these. `spans[n]` holds, for all of these entries, first and last of the
    entries first..last-1 in row `n` of the FFN that fit beside them.
    """

    def __init__(self, hidden: int, attention: Ways, ffn: Ways, limits: Sequence[Limit]) -> None:
        self.hidden, self.attention, self.ffn = hidden, attention, ffn
        self.blocks = np.repeat(np.arange(len(attention.totals)), [len(row) for row in attention.totals])
        self.total = np.concatenate(attention.totals)
        spent = [
            limit.affine.base + limit.affine.per_attention * self.total + limit.affine.per_attention_block * self.blocks
            for limit in limits
        ]
        self.spans = {n: self._span(n, limits, spent) for n in ffn.rows}
        self.size = np.zeros(len(self.total), dtype=object)
        for n, (first, last) in self.spans.items():
            some = np.flatnonzero(last > first)
            self.size[some] += ffn.below[n][last[some]] - ffn.below[n][first[some]]
        self.size *= np.concatenate(attention.ways)
        self.count = int(self.size.sum())

    def _span(self, n: int, limits: Sequence[Limit], spent: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        start, length = int(self.ffn.totals[n][0]), len(self.ffn.totals[n])
        first, last = np.zeros(len(self.total), dtype=np.int64), np.full(len(self.total), length)
        for (affine, low, high), own in zip(limits, spent, strict=True):
            least, most = span(start, self.ffn.unit, length, own + affine.per_ffn_block * n, affine.per_ffn, low, high)
            first, last = np.maximum(first, least), np.minimum(last, most)
        return first, np.maximum(first, last)

    def ends(self, cost: Affine) -> tuple[int, int]:
        """The lowest and the highest value of a cost among these; there must be one."""
        attention = cost.base + cost.per_attention * self.total + cost.per_attention_block * self.blocks
        reached = np.concatenate(self.attention.ways) > 0
        lows, highs = [], []
        for n, (first, last) in self.spans.items():
            there = np.flatnonzero(self.ffn.ways[n] > 0)
            low, high = np.searchsorted(there, first), np.searchsorted(there, last) - 1
            some = np.flatnonzero(reached & (high >= low))
            if len(some):
                other = cost.per_ffn_block * n + cost.per_ffn * self.ffn.totals[n][there]
                lows.append(int((attention[some] + other[low[some]]).min()))
                highs.append(int((attention[some] + other[high[some]]).max()))
        return min(lows), max(highs)

    def place(self, entry: int) -> tuple[int, int]:
        """The row of attention, and the entry in it, that `entry` stands for."""
        n = int(self.blocks[entry])
        return n, entry - int(np.searchsorted(self.blocks, n))

    def draw(self, rng: np.random.Generator) -> SubmodelConfig:
        """A submodel drawn uniformly from all of these."""
        entry = pick(self.size, rng)
        below, rows = self.ffn.below, list(self.spans)
        spans = [(int(first[entry]), int(last[entry])) for first, last in self.spans.values()]
        number = 0
        if (
            len(rows) > 1
        ):  # without zeros there is one: nothing is drawn, so that such spaces give what they always gave
            number = pick([below[n][last] - below[n][first] for n, (first, last) in zip(rows, spans, strict=True)], rng)
        n, (first, last) = rows[number], spans[number]
        target = below[n][first] + uniform_below(below[n][last] - below[n][first], rng)
        k = bisect_right(below[n], target) - 1
        return SubmodelConfig(self.hidden, self.attention.draw(*self.place(entry), rng), self.ffn.draw(n, k, rng))


class Inside:
    """All submodels inside a budget, in regions without a common one; a region may be empty."""

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = tuple(regions)
        self.count = sum(region.count for region in self.regions)

    def draw(self, rng: np.random.Generator) -> SubmodelConfig:
        """A submodel drawn uniformly from all of these; there must be one."""
        return self.regions[pick([region.count for region in self.regions], rng)].draw(rng)


def region(hidden: int, attention: Choices, ffn: Choices, limits: Sequence[Limit]) -> Region:
    """The region of these choices at one hidden width."""
    return Region(hidden, ways_of(attention), ways_of(ffn), limits)
