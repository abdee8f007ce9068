"""The logic of the budget explorer, without widgets: limits, the submodel shown, evaluations, exports."""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..deployment import about, export_submodel
from ..errors import RaffmError
from ..evaluation import Difference, SweepRow, compare
from ..space import Budget, Cost, Rng, SubmodelConfig, generator
from ..supernet import Supernet
from .code import code_of
from .measurement import Cancelled, HistoryItem, Measurement
from .metrics import ALL_METRICS, known_metrics, limits_text, problem_of
from .policies import LARGEST, Chosen, device_budgets, policies, shown_submodel

if TYPE_CHECKING:
    from ..data import Split
    from ..search import AccuracyPredictor, FrontPoint, Predicted


NEAR = 0.02  # how far from a point of the front, as a share of its size, a place still means that point
STEPS = 60  # along the sizes, where there is no front


class ExplorerState:
    """A budget, how many submodels fit it, the one displayed, and all that were evaluated.

    Attributes:
        budget: the limits in force.
        metrics: the costs that can be limited, see `known_metrics`.
        own: the limits set by hand, which hold beside those of a device.
        preset: the device whose limits are in force; None after a limit was set by hand.
        policy: how the shown submodel is chosen, one of `policies`.
        count: the exact number of submodels inside the budget; 0 when nothing fits.
        chosen: the shown submodel, and its place among candidates; the last that fitted when nothing does now.
        cost: what it costs.
        predicted: its predicted accuracy; None without a predictor.
        problem: why no submodel fits; empty when one does.
        wrong: what is wrong with single limits, by the key of their cost, to be said beside them.
        failure: why the last evaluation or export failed; empty when it succeeded.
        measurement: the running evaluation, possibly of a submodel that was shown before.
        history: the evaluated submodels, oldest first.
        size: the cost that the curve is drawn over.
        reach: the smallest and largest size inside the budget; None when nothing fits.
        held: the submodel that the shown one is compared with, and its `held_cost`.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: "Split | None" = None,
        *,
        predictor: "AccuracyPredictor | None" = None,
        rows: Sequence[SweepRow] = (),
        presets: Mapping[str, Budget] | None = None,
        budget: Budget | None = None,
        rng: Rng | None = None,
        exports: str | Path = "exports",
    ) -> None:
        self.supernet, self.data, self.predictor, self.rows = supernet, data, predictor, tuple(rows)
        self.exports = Path(exports)
        self._exported: dict[SubmodelConfig, Path] = {}
        self.seed = int(generator(0 if rng is None else rng).integers(2**63))
        self.draws = 0
        self.budget = self.own = budget or Budget()
        self.total = supernet.space.count()
        self.full = supernet.full
        self.full_cost = self.cost_of(self.full)
        self.smallest_cost = self.cost_of(supernet.space.smallest())
        self.metrics = known_metrics(self.full_cost, supernet.family.size_metric, self.budget)
        self.size = next(metric for metric in self.metrics if metric.key == supernet.family.size_metric)
        self.reach: tuple[float, float] | None = None
        self.held: SubmodelConfig | None = None
        self.held_cost = self.smallest_cost
        self.presets = dict(device_budgets(self.full_cost) if presets is None else presets)
        self.preset: str | None = None
        self.policies = policies(predictor)
        self.policy = self.policies[0]
        self.chosen, self.cost = Chosen(supernet.space.smallest()), self.smallest_cost
        self.predicted: Predicted | None = None
        self.count = 0
        self.problem = self.failure = ""
        self.wrong: dict[str, str] = {}
        self.measurement: Measurement | None = None
        self.history: list[HistoryItem] = []
        self._update(self.budget)

    @property
    def config(self) -> SubmodelConfig:
        """The configuration of the shown submodel."""
        return self.chosen.config

    @property
    def exported(self) -> Path | None:
        """The folder of the shown submodel, when it was exported."""
        return self._exported.get(self.config)

    @property
    def code(self) -> str:
        """Python that recreates the shown submodel."""
        return code_of(self.supernet, self.config)

    @property
    def evaluated(self) -> HistoryItem | None:
        """The latest evaluation of the shown submodel, if there is one."""
        return self._evaluation_of(self.config)

    @property
    def known_of_held(self) -> "HistoryItem | Predicted | None":
        """What is known of the accuracy of the held submodel: measured, or else predicted."""
        if self.held is None:
            return None
        found = self._evaluation_of(self.held)
        return found if found or self.predictor is None else self.predictor.predict(self.held)

    @property
    def difference(self) -> Difference | None:
        """By how much the shown submodel is better than the held one, once both were evaluated."""
        if self.held is None or self.held == self.config:
            return None
        one, other = self.evaluated, self._evaluation_of(self.held)
        return None if one is None or other is None else compare(one, other)

    @cached_property
    def front(self) -> Sequence["FrontPoint"]:
        """The best predicted submodel of every size, from small to large; empty without a predictor."""
        if self.predictor is None:
            return ()
        from ..search import pareto_front

        return pareto_front(self.supernet.space, self.predictor, self.size.key)

    def cost_of(self, config: SubmodelConfig) -> Cost:
        """All costs of a submodel; a text model needs a token count."""
        self.supernet.costs.counted_at()
        return self.supernet.cost(config)

    def limit(self, metric: str) -> float:
        """The limit in force; the cost of the full network where there is none."""
        limit = getattr(self.budget, f"max_{metric}")
        return float(getattr(self.full_cost, metric) if limit is None else limit)

    def set_limit(self, metric: str, value: float | None) -> None:
        """Limit one cost and select a submodel inside the new budget; the full network's cost or more means no limit.

        The same limits always show the same submodel, until `draw` asks for another.
        """
        if value is not None and value >= getattr(self.full_cost, metric):
            value = None
        limit: dict[str, Any] = {f"max_{metric}": value}
        try:
            self._limit(replace(self.budget, **limit))
        except RaffmError:
            self.count, self.problem = 0, f"{self._named(metric)}: {value} is no limit; give a number above 0"
            self.wrong = {metric: "give a number above 0"}
        self.own, self.preset = self.budget, None

    def type_limit(self, metric: str, text: str) -> None:
        """Set a limit that someone typed, see `Metric.read`; nothing typed is no limit.

        What cannot be read changes nothing, and is said in `wrong`.
        """
        known = next(known for known in self.metrics if known.key == metric)
        try:
            value = known.read(text, known.of(self.full_cost)) if text.strip() else None
        except RaffmError as error:
            self.wrong = {**self.wrong, metric: str(error).removeprefix(f"{known.name}: ")}
        else:
            self.set_limit(metric, value)

    def choose_size(self, size: float) -> None:
        """Limit the size that the curve is drawn over, to that of a point of the front if one is near."""
        near = min((point.cost for point in self.front), key=lambda cost: abs(cost - size), default=size)
        self.set_limit(self.size.key, near if abs(near - size) <= NEAR * size else size)

    def move(self, steps: int) -> None:
        """Go up or down along the front by so many points; without a front, by small steps in size."""
        least, full = self.size.of(self.smallest_cost), self.size.of(self.full_cost)
        stops = [point.cost for point in self.front] or [float(x) for x in np.geomspace(least, full, STEPS)]
        place = bisect_right(stops, self.limit(self.size.key)) - 1 + steps
        last = len(stops) - 1  # which no limit shows as well
        self.set_limit(self.size.key, None if place >= last else stops[max(place, 0)])

    def hold(self) -> None:
        """Keep the shown submodel to compare others with it; if it is the one held, let it go."""
        self.held = None if self.held == self.config else self.config
        self.held_cost = self.cost

    def set_preset(self, name: str | None) -> None:
        """Put the limits of a device in the place of one's own on the same costs; None takes the device's off again."""
        limits = (
            {} if name is None else {key: value for key, value in vars(self.presets[name]).items() if value is not None}
        )
        full = {f"max_{metric.key}": metric.of(self.full_cost) for metric in self.metrics}
        in_force = {key: None if value >= full.get(key, value + 1) else value for key, value in limits.items()}
        self._limit(replace(self.own, **in_force))
        self.preset = name

    def lift(self) -> None:
        """Take off all limits."""
        self._limit(Budget())
        self.own, self.preset = self.budget, None

    def set_policy(self, policy: str) -> None:
        """Change the way the shown submodel is chosen."""
        self.policy, self.draws = policy, 0
        self._update(self.budget)

    @property
    def can_draw(self) -> bool:
        """Whether another submodel can be drawn; there is only one largest."""
        return bool(self.count) and self.policy != LARGEST

    def draw(self) -> None:
        """Show another submodel from inside the budget: a random one, or one that may be as good as the best."""
        self.draws += 1
        self._update(self.budget)

    def evaluate(self, on_progress: Callable[[int, int], None] | None = None) -> HistoryItem | None:
        """Measure the shown submodel, once; None, with `failure` set, when that cannot be done."""
        return self.finish(on_progress) if self.begin() else self.evaluated

    def begin(self) -> bool:
        """Prepare the shown submodel to be measured by `finish`, which may run in another thread.

        Returns False if there is nothing to do: it is already measured, an evaluation is running, or there is no data.
        """
        if self.measurement is not None or self.evaluated is not None:
            return False
        self.failure = ""
        if self.data is None:
            self.failure = "there is no data to evaluate on: use BudgetExplorer(supernet, load_split(...))"
            return False
        self.measurement = Measurement(self.supernet, self.config, self.cost, self.data)
        return True

    def finish(self, on_progress: Callable[[int, int], None] | None = None) -> HistoryItem | None:
        """Measure the submodel that `begin` prepared; None, with `failure` set, when it fails or is cancelled."""
        measurement = self.measurement
        if measurement is None:
            return None
        try:
            self.history.append(found := measurement.run(on_progress))
        except Cancelled:
            self.failure = f"the evaluation was cancelled after {measurement.done:,} of {measurement.total:,} examples"
            return None
        except Exception as error:  # whatever went wrong is shown in place, where no one reads a traceback
            self.failure = f"the evaluation failed: {error or type(error).__name__}"
            return None
        finally:
            self.measurement = None
        return found

    def cancel(self) -> None:
        """Stop the running evaluation after its current batch and discard it."""
        if (measurement := self.measurement) is not None:
            measurement.cancel()

    def export(self) -> Path | None:
        """Write the shown submodel as a folder of its own, once; None, with `failure` set, when that cannot be done."""
        self.failure, config = "", self.config
        if self.exported is not None and self.exported.exists():
            return self.exported
        name = f"{self.supernet.name}-{self.cost.parameters}-{hashlib.sha256(repr(config).encode()).hexdigest()[:6]}"
        folder, number = self.exports / name, 1
        while folder.exists():  # by an earlier panel, perhaps of other weights
            number += 1
            folder = self.exports / f"{name}-{number}"
        facts = about(self.supernet, config)
        try:
            model, processor = self.supernet.extract(config), self.supernet.folder and self.supernet.processor
            export_submodel(model, folder, ("safetensors",), processor=processor, about=facts)
        except Exception as error:  # shown in place, as above
            self.failure = f"the export failed: {error or type(error).__name__}"
            return None
        self._exported[config] = folder
        return folder

    def _evaluation_of(self, config: SubmodelConfig) -> HistoryItem | None:
        return next((item for item in reversed(self.history) if item.config == config), None)

    def _named(self, metric: str) -> str:
        return next(known.name for known in self.metrics if known.key == metric)

    def _limit(self, budget: Budget) -> None:
        self.draws = 0
        self._update(budget)

    def _update(self, budget: Budget) -> None:
        self.budget, self.failure = budget, ""
        space = self.supernet.space
        self.count = space.count(budget)
        self.problem, self.wrong = self._problem()
        if self.count:
            self.chosen = shown_submodel(self.policy, space, budget, self.predictor, draws=self.draws, seed=self.seed)
            self.cost = self.cost_of(self.config)
        self.predicted = None if self.predictor is None else self.predictor.predict(self.config)
        self.reach = space.reach_inside(self.size.key, budget) if self.count else None

    def _problem(self) -> tuple[str, dict[str, str]]:
        """Why nothing fits, as a whole and for single limits; empty if something does."""
        if self.count:
            return "", {}
        if wrong := problem_of(self.budget, self.smallest_cost, self.full_cost):
            names = {metric.key: metric.name for metric in ALL_METRICS}
            return "; ".join(f"{names[key]}: {text}" for key, text in wrong.items()), wrong
        limits = ", ".join(limits_text(self.budget))
        return f"each limit can be met, but not all of them together ({limits}): widen one", {}
