"""Elastic spaces: the choices of width of a supernet, exact counts inside budgets, and exactly uniform draws."""

from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ElasticSpaceError, InfeasibleBudget
from .axes import SubmodelConfig
from .budget import LATENCY, NS_PER_MS, PEAK, SIZE_TOKENS, Budget
from .cost import CostModel
from .inside import Inside, Limit, region
from .randomness import Rng, generator

REMEMBERED = 4  # budgets; what is inside one takes up to some megabytes


@dataclass(frozen=True)
class ElasticSpace:
    """All submodels of a supernet: choices of width per axis, and per layer.

    A 0 among the choices of attention or FFN means that this block may be left out. Widths are kept from the largest
    to the smallest. A space does not change: `under` gives another one, in which other conditions hold.
    """

    hidden: tuple[int, ...]
    attention: tuple[tuple[int, ...], ...]
    ffn: tuple[tuple[int, ...], ...]
    costs: CostModel | None = field(default=None, compare=False, repr=False)
    _inside: dict[Budget, Inside] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for axis, groups, least in (
            ("hidden", (self.hidden,), 1),
            ("attention", self.attention, 0),
            ("ffn", self.ffn, 0),
        ):
            for choices in groups:
                if not choices or min(choices) < least or len(set(choices)) != len(choices):
                    raise ElasticSpaceError(
                        f"{axis} choices {choices}: give at least one, all different and none below {least}"
                    )
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
        return self.inside(budget).count

    def inside(self, budget: Budget | None = None) -> Inside:
        """What lies inside `budget`, to be counted, drawn from and searched; it may be empty.

        What was asked for last is remembered, so that counting, drawing and searching share it.
        """
        budget = budget or Budget()
        if budget not in self._inside:
            while len(self._inside) >= REMEMBERED:
                self._inside.pop(next(iter(self._inside)), None)
            self._inside[budget] = self._what_fits(budget)
        return self._inside[budget]

    def _what_fits(self, budget: Budget) -> Inside:
        limits = budget.limits()
        _, peak = limits.pop(PEAK, (None, None))
        sets, regions = [(self.attention, self.ffn)], []
        for hidden in self.hidden:
            affine = self._known_costs.affine(hidden, limits) if limits else {}
            within = [Limit(affine[metric], *both) for metric, both in limits.items()]
            if peak is not None:
                sets = self._known_costs.within_peak(hidden, self.attention, self.ffn, peak)
            regions += [region(hidden, *choices, within) for choices in sets]
        return Inside(regions)

    def sample(self, budget: Budget | None, rng: Rng) -> SubmodelConfig:
        """Draw a submodel uniformly from all that lie inside `budget`; None means the whole space.

        Raises `InfeasibleBudget`, with the reachable range, when nothing fits.

        Example:
            >>> space = ElasticSpace((48, 36), ((48, 32),) * 3, ((64, 40),) * 3)
            >>> space.sample(None, np.random.default_rng(0)) in space
            True
        """
        if not (inside := self.inside(budget)).count:
            raise InfeasibleBudget(self.why_infeasible(budget or Budget()))
        return inside.draw(generator(rng))

    def under(self, **conditions: Any) -> "ElasticSpace":
        """This space under other `Conditions`, given by name: `space.under(tokens=32)`."""
        costs = self._known_costs.under(replace(self._known_costs.conditions, **conditions))
        return self if costs is self.costs else replace(self, costs=costs)

    @property
    def sized(self) -> "ElasticSpace":
        """This space, with a text counted at the length that sizes are compared at, or at all positions if fewer."""
        positions = self._known_costs.positions
        return self.under(tokens=min(SIZE_TOKENS, positions or SIZE_TOKENS))

    def reach(self, metric: str) -> tuple[float, float]:
        """The smallest and largest value of one cost in this space."""
        return self.cost_of(self.smallest(), metric), self.cost_of(self.largest(), metric)

    def reach_inside(self, metric: str, budget: Budget) -> tuple[float, float]:
        """The smallest and largest value of one cost inside `budget`, exactly; peak activations have none here.

        Raises `InfeasibleBudget`, with the reachable range, when nothing fits.
        """
        regions = [region for region in self.inside(budget).regions if region.count]
        if not regions:
            raise InfeasibleBudget(self.why_infeasible(budget))
        if metric == PEAK:
            raise ElasticSpaceError(f"metric={metric!r} is set by one layer alone: ask for another metric")
        ends = [each.ends(self._known_costs.affine(each.hidden, (metric,))[metric]) for each in regions]
        least, most = min(low for low, _ in ends), max(high for _, high in ends)
        return (least / NS_PER_MS, most / NS_PER_MS) if metric == LATENCY else (least, most)

    def cost_of(self, config: SubmodelConfig, metric: str) -> float:
        """One cost of one submodel, in closed form; an integer except for `latency_ms`."""
        whole = self._whole_cost(config, metric)
        return whole / NS_PER_MS if metric == LATENCY else whole

    def fits(self, config: SubmodelConfig, budget: Budget) -> bool:
        """Whether a submodel meets all limits; it need not belong to this space."""
        for metric, (low, high) in budget.limits().items():
            cost = self._whole_cost(config, metric)
            if (low is not None and cost < low) or (high is not None and cost > high):
                return False
        return True

    def _whole_cost(self, config: SubmodelConfig, metric: str) -> int:
        if metric == PEAK:
            return self._known_costs.peak(config.hidden, config.attention, config.ffn)
        affine = self._known_costs.affine(config.hidden, (metric,))[metric]
        return affine(config.totals)

    @property
    def _known_costs(self) -> CostModel:
        if self.costs is None:
            raise ElasticSpaceError("this space knows no costs, so it cannot be limited: use the one of a Supernet")
        return self.costs

    def why_infeasible(self, budget: Budget) -> str:
        """Explain why nothing fits a budget: which limit to change, and the range the space can reach."""
        faults, reaches = [], []
        for metric, limits in budget.limits().items():
            smallest, largest = self.reach(metric)
            low, high = (None if x is None else x / NS_PER_MS if metric == LATENCY else x for x in limits)
            reaches.append(f"{metric} from {_text(smallest)} to {_text(largest)}")
            if high is not None and high < smallest:
                faults.append(f"max_{metric}={_text(high)} is too low: raise it to {_text(smallest)} or more")
            if low is not None and low > largest:
                faults.append(f"min_{metric}={_text(low)} is too high: lower it to {_text(largest)} or less")
        reach = "this space reaches " + ", ".join(reaches)
        if not faults:
            asked = ", ".join(f"{k}={_text(v)}" for k, v in vars(budget).items() if v is not None)
            faults = [f"nothing between these limits ({asked}): widen one of them"]
        return f"no submodel fits: {'; '.join(faults)} ({reach})"


def _text(value: float) -> str:
    """A number without trailing zeros, milliseconds down to the nanosecond."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")
