"""Elastic spaces: exact counts inside budgets, and exactly uniform draws.

For a given hidden width every cost is affine in the total attention width and the total FFN width. A
budget therefore sees three numbers only, and counting reduces to one-dimensional counts over the layers (`Ways`).
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import ElasticSpaceError, InfeasibleBudget
from .axes import SubmodelConfig
from .budget import LATENCY, NS_PER_MS, PEAK, Budget, Choices
from .cost import CostModel


class Ways:
    """The number of ways to reach every total width, with the partial counts that draws walk back through."""

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
def ways_to(choices: tuple[tuple[int, ...], ...]) -> Ways:
    """The totals of these choices, cached: budgets often restrict layers to the same few sets."""
    return Ways(choices)


def span(
    values: np.ndarray, spent: np.ndarray, per_value: int, low: int | None, high: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """For each amount already spent, the range of `values` (ascending) whose price keeps the sum within low..high.

    Returns first and last, where values[first:last] fit; both limits are inclusive.
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


class Region(NamedTuple):
    """The submodels inside a budget at one hidden width: for every attention total, FFN totals first..last-1.

    `attention` and `ffn` count the ways to each total; `ways` is their product summed over the FFN totals that
    fit, for every attention total, and `size` the sum of that. A limit on peak activations applies to each
    layer separately; then only the choices that meet it are counted.
    """

    hidden: int
    attention: Ways
    ffn: Ways
    first: np.ndarray
    last: np.ndarray
    ways: np.ndarray
    size: int


@dataclass(frozen=True)
class ElasticSpace:
    """All submodels of a supernet: choices of width per axis, and per layer.

    Widths are kept from the largest to the smallest. Everything is immutable and safe to share.
    """

    hidden: tuple[int, ...]
    attention: tuple[tuple[int, ...], ...]
    ffn: tuple[tuple[int, ...], ...]
    costs: CostModel | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for axis, groups in (("hidden", (self.hidden,)), ("attention", self.attention), ("ffn", self.ffn)):
            for choices in groups:
                if not choices or min(choices) < 1 or len(set(choices)) != len(choices):
                    raise ElasticSpaceError(f"{axis} choices {choices}: give at least one, all positive and different")
        if len(self.attention) != len(self.ffn):
            raise ElasticSpaceError(f"{len(self.attention)} layers of attention choices, but {len(self.ffn)} of FFN")
        ordered = {
            "hidden": tuple(sorted(self.hidden, reverse=True)),
            "attention": tuple(tuple(sorted(c, reverse=True)) for c in self.attention),
            "ffn": tuple(tuple(sorted(c, reverse=True)) for c in self.ffn),
        }
        for name, value in ordered.items():
            object.__setattr__(self, name, value)

    def __contains__(self, config: object) -> bool:
        return (
            isinstance(config, SubmodelConfig)
            and len(config.attention) == len(self.attention)
            and config.hidden in self.hidden
            and all(w in c for w, c in zip(config.attention, self.attention, strict=True))
            and all(w in c for w, c in zip(config.ffn, self.ffn, strict=True))
        )

    def smallest(self) -> SubmodelConfig:
        """The narrowest submodel, which has the lowest value of every cost."""
        attention, ffn = (tuple(c[-1] for c in axis) for axis in (self.attention, self.ffn))
        return SubmodelConfig(self.hidden[-1], attention, ffn)

    def largest(self) -> SubmodelConfig:
        """The widest submodel; in most checkpoints the full network."""
        attention, ffn = (tuple(c[0] for c in axis) for axis in (self.attention, self.ffn))
        return SubmodelConfig(self.hidden[0], attention, ffn)

    def count(self, budget: Budget | None = None) -> int:
        """The exact number of submodels, or of those inside `budget`; 0 when none fits.

        Example:
            >>> ElasticSpace((48, 36), ((48, 32),) * 3, ((64, 40),) * 3).count()
            128
        """
        return sum(part.size for part in self.regions(budget or Budget()))

    def sample(self, budget: Budget | None, rng: np.random.Generator) -> SubmodelConfig:
        """Draw a submodel uniformly from all that lie inside `budget`; None means the whole space.

        Raises `InfeasibleBudget`, with the reachable range, when nothing fits.

        Example:
            >>> space = ElasticSpace((48, 36), ((48, 32),) * 3, ((64, 40),) * 3)
            >>> space.sample(None, np.random.default_rng(0)) in space
            True
        """
        budget = budget or Budget()
        regions = self.regions(budget)
        if not any(part.size for part in regions):
            raise InfeasibleBudget(self.why_infeasible(budget))
        part = regions[pick((part.size for part in regions), rng)]
        row = pick(part.ways, rng)
        first, last = int(part.first[row]), int(part.last[row])
        column = first + pick(part.ffn.ways[first:last], rng)
        return SubmodelConfig(part.hidden, part.attention.draw(row, rng), part.ffn.draw(column, rng))

    def reach(self, metric: str, tokens: int | None = None) -> tuple[float, float]:
        """The smallest and largest value of one cost in this space."""
        return self.cost_of(self.smallest(), metric, tokens), self.cost_of(self.largest(), metric, tokens)

    def cost_of(self, config: SubmodelConfig, metric: str, tokens: int | None = None) -> float:
        """One cost of one submodel, in closed form; an integer except for `latency_ms`."""
        whole = self._whole_cost(config, metric, tokens)
        return whole / NS_PER_MS if metric == LATENCY else whole

    def fits(self, config: SubmodelConfig, budget: Budget) -> bool:
        """Whether a submodel meets all limits; it need not belong to this space."""
        for metric, (low, high) in budget.limits().items():
            cost = self._whole_cost(config, metric, budget.tokens)
            if (low is not None and cost < low) or (high is not None and cost > high):
                return False
        return True

    def _whole_cost(self, config: SubmodelConfig, metric: str, tokens: int | None) -> int:
        if metric == PEAK:
            return self._known_costs.peak(config.hidden, config.attention, config.ffn, tokens)
        affine = self._known_costs.affine(config.hidden, tokens, (metric,))[metric]
        return affine(config.totals)

    @property
    def _known_costs(self) -> CostModel:
        if self.costs is None:
            raise ElasticSpaceError("this space knows no costs, so it cannot be limited: use the one of a Supernet")
        return self.costs

    def regions(self, budget: Budget) -> list[Region]:
        """What fits `budget`, for each hidden width in descending order; regions may be empty."""
        limits = budget.limits()
        _, peak = limits.pop(PEAK, (None, None))
        kept: tuple[Choices, Choices] | None = (self.attention, self.ffn)
        unlimited = attention, ffn = ways_to(self.attention), ways_to(self.ffn)
        regions = []
        for hidden in self.hidden:
            if peak is not None:
                sets = self._known_costs.within_peak(hidden, self.attention, self.ffn, budget.tokens, peak)
                kept = sets[0] if sets else None
                attention, ffn = (ways_to(kept[0]), ways_to(kept[1])) if kept else unlimited
            first = np.zeros(len(attention.values), dtype=np.int64)
            last = np.full(len(attention.values), len(ffn.values) if kept else 0, dtype=np.int64)
            affine = self._known_costs.affine(hidden, budget.tokens, limits) if limits else {}
            for metric, (low, high) in limits.items():
                base, per_attention, per_attention_block, per_ffn, per_ffn_block = affine[metric]
                base += len(self.ffn) * (per_attention_block + per_ffn_block)  # until widths may be 0
                least, most = span(ffn.values, base + per_attention * attention.values, per_ffn, low, high)
                first, last = np.maximum(first, least), np.minimum(last, most)
            last = np.maximum(first, last)
            ways = attention.ways * (ffn.below[last] - ffn.below[first])
            regions.append(Region(hidden, attention, ffn, first, last, ways, int(ways.sum())))
        return regions

    def why_infeasible(self, budget: Budget) -> str:
        """Explain why nothing fits a budget: which limit to change, and the range the space can reach."""
        faults, reaches = [], []
        for metric, limits in budget.limits().items():
            smallest, largest = self.reach(metric, budget.tokens)
            low, high = (None if x is None else x / NS_PER_MS if metric == LATENCY else x for x in limits)
            reaches.append(f"{metric} from {_text(smallest)} to {_text(largest)}")
            if high is not None and high < smallest:
                faults.append(f"max_{metric}={_text(high)} is too low: raise it to {_text(smallest)} or more")
            if low is not None and low > largest:
                faults.append(f"min_{metric}={_text(low)} is too high: lower it to {_text(largest)} or less")
        reach = "this space reaches " + ", ".join(reaches)
        if not faults:
            asked = ", ".join(f"{k}={_text(v)}" for k, v in vars(budget).items() if v is not None and k != "tokens")
            faults = [f"nothing between these limits ({asked}): widen one of them"]
        return f"no submodel fits: {'; '.join(faults)} ({reach})"


def _text(value: float) -> str:
    """A number without trailing zeros, milliseconds down to the nanosecond."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")
