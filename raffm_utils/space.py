"""Elastic spaces: configurations, exact counts inside budgets, and exactly uniform draws.

For a given hidden width every cost is affine in the total attention width and the total FFN width. A
budget therefore sees three numbers only, and counting reduces to one-dimensional counts over the layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .budget import LATENCY, NS_PER_MS, PEAK, Budget, Choices, Costs
from .counting import Totals, pick, span, totals
from .errors import ElasticSpaceError, InfeasibleBudget
from .families import Axis


@dataclass(frozen=True)
class SubmodelConfig:
    """The widths of one submodel: one hidden width, and attention and FFN widths for every layer."""

    hidden: int
    attention: tuple[int, ...]
    ffn: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.attention) != len(self.ffn) or not self.attention:
            raise ElasticSpaceError(
                f"{len(self.attention)} attention widths and {len(self.ffn)} FFN widths: give one of each per layer"
            )

    def widths(self, layer: int | None) -> dict[Axis, int]:
        """Width of every axis in `layer`; outside the layers only the hidden axis has one."""
        if layer is None:
            return {Axis.HIDDEN: self.hidden}
        return {Axis.HIDDEN: self.hidden, Axis.ATTENTION: self.attention[layer], Axis.FFN: self.ffn[layer]}

    @classmethod
    def from_arc(cls, arc: Mapping[str, Mapping[str, int]], hidden: int | None = None) -> "SubmodelConfig":
        """Read the published form `{"layer_1": {"atten_out", "inter_hidden", "residual_hidden"}, ...}`.

        The earliest published architectures have no `residual_hidden`: give the full width as `hidden`.
        """
        try:
            rows = [arc[f"layer_{i + 1}"] for i in range(len(arc))]
            attention = tuple(int(row["atten_out"]) for row in rows)
            ffn = tuple(int(row["inter_hidden"]) for row in rows)
        except (KeyError, TypeError, ValueError) as error:
            raise ElasticSpaceError(
                f"not a published architecture ({error!r}): expected layer_1 ... layer_N, each with "
                "'atten_out', 'inter_hidden' and 'residual_hidden'"
            ) from error
        found = {int(row["residual_hidden"]) for row in rows if "residual_hidden" in row}
        found = found or ({hidden} if hidden is not None else set())
        if len(found) != 1:
            raise ElasticSpaceError(
                f"'residual_hidden' is {sorted(found) or 'missing'}: a network has one hidden width; "
                "give every layer the same, or pass hidden=..."
            )
        return cls(found.pop(), attention, ffn)

    def to_arc(self) -> dict[str, dict[str, int]]:
        """The published form; inverse of `from_arc`."""
        return {
            f"layer_{i + 1}": {"atten_out": a, "inter_hidden": f, "residual_hidden": self.hidden}
            for i, (a, f) in enumerate(zip(self.attention, self.ffn, strict=True))
        }


class Region(NamedTuple):
    """All that fits a budget at one hidden width: for every attention total, FFN totals first..last-1.

    `attention` and `ffn` count the ways to each total; `ways` is their product summed over the FFN totals that
    fit, for every attention total, and `size` the sum of that. Under a limit on peak activations, which each
    layer has to keep for itself, they count only the choices that keep it.
    """

    hidden: int
    attention: Totals
    ffn: Totals
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
    costs: Costs | None = field(default=None, compare=False, repr=False)

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
        """The narrowest submodel: the least of every cost."""
        attention, ffn = (tuple(c[-1] for c in axis) for axis in (self.attention, self.ffn))
        return SubmodelConfig(self.hidden[-1], attention, ffn)

    def largest(self) -> SubmodelConfig:
        """The widest submodel; in most checkpoints the full network."""
        attention, ffn = (tuple(c[0] for c in axis) for axis in (self.attention, self.ffn))
        return SubmodelConfig(self.hidden[0], attention, ffn)

    def count(self, budget: Budget | None = None) -> int:
        """The exact number of submodels, or of those inside `budget`: 0 when none fits."""
        return sum(part.size for part in self.regions(budget or Budget()))

    def sample(self, budget: Budget | None, rng: np.random.Generator) -> SubmodelConfig:
        """A submodel drawn uniformly among all that lie inside `budget`.

        Raises `InfeasibleBudget`, with the reachable range, when there is none.
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
        """One cost of one submodel, in closed form: a whole number, but for `latency_ms`."""
        whole = self._whole_cost(config, metric, tokens)
        return whole / NS_PER_MS if metric == LATENCY else whole

    def fits(self, config: SubmodelConfig, budget: Budget) -> bool:
        """Whether a submodel keeps all limits, whether or not it is in this space."""
        for metric, (low, high) in budget.limits().items():
            cost = self._whole_cost(config, metric, budget.tokens)
            if (low is not None and cost < low) or (high is not None and cost > high):
                return False
        return True

    def _whole_cost(self, config: SubmodelConfig, metric: str, tokens: int | None) -> int:
        if metric == PEAK:
            return self._known_costs.peak(config.hidden, config.attention, config.ffn, tokens)
        affine = self._known_costs.affine(config.hidden, tokens, (metric,))[metric]
        return affine(sum(config.attention), sum(config.ffn))

    @property
    def _known_costs(self) -> Costs:
        if self.costs is None:
            raise ElasticSpaceError("this space knows no costs, so it cannot be limited: use the one of a Supernet")
        return self.costs

    def regions(self, budget: Budget) -> list[Region]:
        """What fits `budget`, for each hidden width from the largest; regions may be empty."""
        limits = budget.limits()
        _, peak = limits.pop(PEAK, (None, None))
        kept: tuple[Choices, Choices] | None = (self.attention, self.ffn)
        unlimited = attention, ffn = totals(self.attention), totals(self.ffn)
        regions = []
        for hidden in self.hidden:
            if peak is not None:
                kept = self._known_costs.within_peak(hidden, self.attention, self.ffn, budget.tokens, peak)
                attention, ffn = (totals(kept[0]), totals(kept[1])) if kept else unlimited
            first = np.zeros(len(attention.values), dtype=np.int64)
            last = np.full(len(attention.values), len(ffn.values) if kept else 0, dtype=np.int64)
            affine = self._known_costs.affine(hidden, budget.tokens, limits) if limits else {}
            for metric, (low, high) in limits.items():
                base, per_attention, per_ffn = affine[metric]
                least, most = span(ffn.values, base + per_attention * attention.values, per_ffn, low, high)
                first, last = np.maximum(first, least), np.minimum(last, most)
            last = np.maximum(first, last)
            ways = attention.ways * (ffn.below[last] - ffn.below[first])
            regions.append(Region(hidden, attention, ffn, first, last, ways, int(ways.sum())))
        return regions

    def why_infeasible(self, budget: Budget) -> str:
        """What to change in a budget that nothing fits, and what can be reached."""
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
    """A number with all that counts: milliseconds down to the nanosecond."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")
