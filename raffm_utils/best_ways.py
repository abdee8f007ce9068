"""Dynamic programming over the layers of one axis: the best way to every total width."""

from collections.abc import Sequence

import numpy as np

from .counting import Totals


class BestWays:
    """The best way to every total width: `best[i]` is its score for total number `i`, -inf where there is none."""

    def __init__(self, totals: Totals, scores: Sequence[np.ndarray]) -> None:
        self.totals, self._scores = totals, scores  # keeps the totals alive, whose identity is a key
        self._steps = [(np.array(c) - min(c)) // totals.unit for c in totals.choices]
        self._stages = [np.zeros(1)]
        for steps, values in zip(self._steps, scores, strict=True):
            before = self._stages[-1]
            after = np.full(len(before) + int(steps.max()), -np.inf)
            for step, value in zip(steps, values, strict=True):
                part = after[step : step + len(before)]
                np.maximum(part, before + value, out=part)
            self._stages.append(after)
        self.best = self._stages[-1]

    def widths(self, index: int) -> tuple[int, ...]:
        """The width of every layer on the best way to total number `index`."""
        found = []
        layers = zip(self.totals.choices, self._steps, self._scores, self._stages[:-1], strict=True)
        for choices, steps, scores, stage in reversed(list(layers)):
            left = index - steps
            inside = (left >= 0) & (left < len(stage))
            values = np.where(inside, stage[np.where(inside, left, 0)] + scores, -np.inf)
            picked = int(values.argmax())
            found.append(choices[picked])
            index = int(left[picked])
        return tuple(reversed(found))


def highest_between(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Where `values` is highest in first..last-1, for each pair; 0 where that is empty. A sparse table of maxima."""
    length = np.maximum(last - first, 1)
    levels = [np.arange(len(values))]
    while 2 ** len(levels) <= length.max():
        half = 2 ** (len(levels) - 1)
        left, right = levels[-1][:-half], levels[-1][half:]
        levels.append(np.where(values[left] >= values[right], left, right))
    level = np.floor(np.log2(length)).astype(int)
    result = np.zeros(len(first), dtype=np.int64)
    for number, maxima in enumerate(levels):
        asked = (level == number) & (last > first)
        left, right = maxima[first[asked]], maxima[last[asked] - 2**number]
        result[asked] = np.where(values[left] >= values[right], left, right)
    return result
