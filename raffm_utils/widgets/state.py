"""The logic of the budget explorer, without widgets: metrics, policies, limits, history."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..deployment import about, export_submodel
from ..errors import RaffmError
from ..evaluation import SweepRow
from ..space import DEVICE_CAPS, Budget, Cost, ElasticSpace, Rng, SubmodelConfig, generator
from ..supernet import BUNDLED_FOLDER, Supernet, bundled
from .measurement import Cancelled, HistoryItem, Measurement

if TYPE_CHECKING:
    from ..data import Split
    from ..search import AccuracyPredictor, Predicted


@dataclass(frozen=True)
class Metric:
    """One cost: `key` is its field in `Cost` and `max_<key>` its limit in `Budget`; `scale` converts to `unit`."""

    key: str
    name: str
    unit: str
    scale: float

    def of(self, cost: Cost) -> float:
        """The value in `cost`, in the units of `Cost`."""
        return float(getattr(cost, self.key))

    def text(self, value: float) -> str:
        """A value in the units of `Cost`, as it is shown."""
        shown = value / self.scale
        return f"{shown:,.2f}\u00a0{self.unit}" if shown >= 1 else f"{shown:.3g}\u00a0{self.unit}"


PARAMETERS = Metric("parameters", "Parameters", "M", 1e6)
MACS = Metric("macs", "MACs", "M", 1e6)
ALL_METRICS = (
    PARAMETERS,
    MACS,
    Metric("latency_ms", "Latency", "ms", 1.0),
    Metric("weight_bytes", "Weight memory", "MB", 1e6),
    Metric("peak_activation_bytes", "Peak activations", "MB", 1e6),
)


def known_metrics(cost: Cost) -> tuple[Metric, ...]:
    """The costs that have a value: latency has none without a latency model."""
    return tuple(metric for metric in ALL_METRICS if getattr(cost, metric.key, None) is not None)


BEST, RANDOM, LARGEST = "best predicted", "random", "largest that fits"
SHORTLIST = 8  # how many of those that may be the best can be leafed through


def policies(predictor: "AccuracyPredictor | None") -> tuple[str, ...]:
    """The ways to choose a submodel, the default first; the best predicted needs a predictor."""
    return (RANDOM, LARGEST) if predictor is None else (BEST, RANDOM, LARGEST)


def shown_submodel(
    policy: str,
    space: ElasticSpace,
    budget: Budget,
    predictor: "AccuracyPredictor | None",
    *,
    draws: int,
    seed: int,
) -> SubmodelConfig:
    """The submodel that `policy` selects after `draws` requests for another; raises `InfeasibleBudget`.

    The best predicted is followed by others that may be as good; there is only one largest, in parameters.
    """
    if policy == LARGEST:
        from ..search import largest_submodel

        return largest_submodel(space, budget)
    rng = np.random.default_rng([seed, draws])
    if policy == RANDOM:
        return space.sample(budget, rng)
    from ..search import best_submodel, best_submodels

    assert predictor is not None, "policies() offers the best predicted only with a predictor"
    if not draws:
        return best_submodel(space, predictor, budget)
    found = best_submodels(space, predictor, budget, SHORTLIST, np.random.default_rng(seed))
    return found[draws % len(found)]


def device_budgets(full: Cost) -> dict[str, Budget]:
    """What each device of the published system settings can hold, as a share of the full network's parameters."""
    return {device: Budget(max_parameters=share * full.parameters) for device, share in DEVICE_CAPS.items()}


HUB_CACHE = "models--"  # how the hub's client names its folders: models--owner--name


def code_of(supernet: Supernet, config: SubmodelConfig) -> str:
    """Python code that loads the checkpoint and extracts `config`; without a folder, it assumes `supernet` exists."""
    widths = f"SubmodelConfig({config.hidden}, {config.attention}, {config.ffn})"
    if supernet.folder is None:
        return f"from raffm_utils import SubmodelConfig\n\nmodel = supernet.extract({widths})\n"
    return (
        "from raffm_utils import SubmodelConfig, Supernet\n\n"
        f"supernet = Supernet.from_pretrained({json.dumps(_checkpoint_name(supernet.folder), ensure_ascii=False)})\n"
        f"model = supernet.extract({widths})\n"
    )


def _checkpoint_name(folder: Path) -> str:
    """The name to load it with: a bundled name, a hub id, or a path."""
    if folder.parent == BUNDLED_FOLDER and folder.name in bundled():
        return folder.name
    cached = next((part for part in folder.parts if part.startswith(HUB_CACHE)), None)
    return folder.resolve().as_posix() if cached is None else cached.removeprefix(HUB_CACHE).replace("--", "/")


class ExplorerState:
    """A budget, how many submodels fit it, the one displayed, and all that were evaluated.

    Attributes:
        budget: the last valid budget; limits not explored here stay as they were given.
        metrics: the costs that can be limited: all that have a value for this supernet.
        preset: the device whose budget this is; None after a limit was set by hand.
        policy: how the shown submodel is chosen, one of `policies`.
        count: the exact number of submodels inside the budget; 0 when nothing fits.
        config: the shown submodel; the last one that fitted when nothing does now.
        predicted: its predicted accuracy; None without a predictor.
        problem: why no submodel fits; empty when one does.
        failure: why the last evaluation or export failed; empty when it succeeded.
        measurement: the running evaluation, possibly of a submodel that was shown before.
        exported: the folder of the shown submodel, when it was exported.
        history: the evaluated submodels, oldest first.
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
        self.exported: Path | None = None
        self.seed = int(generator(0 if rng is None else rng).integers(2**63))
        self.draws = 0
        self.budget = budget or Budget()
        self.total = supernet.space.count()
        self.full = supernet.full
        self.full_cost = self.cost_of(self.full)
        self.smallest_cost = self.cost_of(supernet.space.smallest())
        self.metrics = known_metrics(self.full_cost)
        self.presets = dict(device_budgets(self.full_cost) if presets is None else presets)
        self.preset: str | None = None
        self.policies = policies(predictor)
        self.policy = self.policies[0]
        self.config = supernet.space.smallest()
        self.predicted: Predicted | None = None
        self.count = 0
        self.problem = self.failure = ""
        self.measurement: Measurement | None = None
        self.history: list[HistoryItem] = []
        self._update(self.budget)

    @property
    def cost(self) -> Cost:
        """What the shown submodel costs."""
        return self.cost_of(self.config)

    @property
    def code(self) -> str:
        """Python that recreates the shown submodel."""
        return code_of(self.supernet, self.config)

    @property
    def evaluated(self) -> HistoryItem | None:
        """The latest evaluation of the shown submodel, if there is one."""
        return next((item for item in reversed(self.history) if item.config == self.config), None)

    def cost_of(self, config: SubmodelConfig) -> Cost:
        """All costs of a submodel; a text model needs a token count."""
        self.supernet.costs.counted_at()
        return self.supernet.cost(config)

    def limit(self, metric: str) -> float:
        """The limit in force; the cost of the full network where there is none."""
        limit = getattr(self.budget, f"max_{metric}")
        return float(getattr(self.full_cost, metric) if limit is None else limit)

    def set_limit(self, metric: str, value: float) -> None:
        """Limit one cost and select a submodel inside the new budget; the full network's cost or more means no limit.

        The same limits always show the same submodel, until `draw` asks for another.
        """
        self.preset = None
        self._limit({metric: value})

    def set_preset(self, name: str | None) -> None:
        """Apply the limits of a device and clear all others that have a slider; None keeps the limits."""
        if name is not None:
            limits = {metric.key: getattr(self.presets[name], f"max_{metric.key}") for metric in self.metrics}
            self._limit(limits)
        self.preset = name

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
        """Write the shown submodel as a folder of its own; None, with `failure` set, when that cannot be done."""
        self.failure, config = "", self.config
        name = f"{self.supernet.name}-{self.cost.parameters}-{hashlib.sha256(repr(config).encode()).hexdigest()[:6]}"
        facts = about(self.supernet, config)
        try:
            model, processor = self.supernet.extract(config), self.supernet.folder and self.supernet.processor
            export_submodel(model, self.exports / name, ("safetensors",), processor=processor, about=facts)
        except Exception as error:  # shown in place, as above
            self.failure = f"the export failed: {error or type(error).__name__}"
            return None
        self.exported = self.exports / name
        return self.exported

    def _limit(self, limits: Mapping[str, float | None]) -> None:
        full, self.draws = self.full_cost, 0
        changed: dict[str, Any] = {
            f"max_{key}": None if value is None or value >= getattr(full, key) else value
            for key, value in limits.items()
        }
        try:
            self._update(replace(self.budget, **changed))
        except RaffmError as error:
            self.count, self.problem = 0, str(error)

    def _update(self, budget: Budget) -> None:
        self.budget, self.failure, self.exported = budget, "", None
        space = self.supernet.space
        self.count = space.count(budget)
        try:
            self.config = shown_submodel(self.policy, space, budget, self.predictor, draws=self.draws, seed=self.seed)
            self.problem = ""
        except RaffmError as error:
            self.problem = str(error)
        self.predicted = None if self.predictor is None else self.predictor.predict(self.config)
