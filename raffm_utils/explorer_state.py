"""What the budget explorer knows and does, without any widget."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .budget import Budget
from .cost import Cost
from .deployment import about
from .errors import RaffmError
from .evaluation import Evaluation, evaluate
from .export import export_submodel
from .space import SubmodelConfig
from .supernet import Supernet

if TYPE_CHECKING:
    from .data import Split

LIMITED = ("parameters", "macs")  # what can be limited while exploring


@dataclass(frozen=True)
class Evaluated:
    """One line of the explorer's history."""

    config: SubmodelConfig
    cost: Cost
    evaluation: Evaluation

    @property
    def parameters(self) -> int:
        return self.cost.parameters

    @property
    def macs(self) -> int | None:
        return self.cost.macs

    @property
    def accuracy(self) -> float:
        return self.evaluation.accuracy

    @property
    def low(self) -> float:
        return self.evaluation.low

    @property
    def high(self) -> float:
        return self.evaluation.high

    @property
    def examples(self) -> int:
        return self.evaluation.examples


class ExplorerState:
    """A budget, how many submodels fit it, the one drawn from it, and all that were evaluated.

    Attributes:
        budget: the last valid budget; limits not explored here stay as they were given.
        count: the exact number of submodels inside it; 0 when nothing fits.
        config: the drawn submodel; the last one that fitted when nothing does now.
        problem: why no submodel fits; empty when one does.
        failure: why the last evaluation or export gave nothing; empty when it did.
        exported: the folder of the shown submodel, when it was exported.
        history: the evaluated submodels, oldest first.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: "Split | None" = None,
        *,
        budget: Budget | None = None,
        rng: np.random.Generator | None = None,
        tokens: int | None = None,
        exports: str | Path = "exports",
    ) -> None:
        self.supernet = supernet
        self.data = data
        self.exports = Path(exports)
        self.exported: Path | None = None
        self.seed = int((rng or np.random.default_rng(0)).integers(2**63))
        self.draws = 0
        self.budget = replace(budget or Budget(), **({} if tokens is None else {"tokens": tokens}))
        self.total = supernet.space.count()
        self.full = supernet.full
        self.full_cost = self.cost_of(self.full)
        self.smallest_cost = self.cost_of(supernet.space.smallest())
        self.config = supernet.space.smallest()
        self.count = 0
        self.problem = self.failure = ""
        self.history: list[Evaluated] = []
        self._update(self.budget)

    @property
    def cost(self) -> Cost:
        """What the shown submodel costs."""
        return self.cost_of(self.config)

    @property
    def evaluated(self) -> Evaluated | None:
        """The latest evaluation of the shown submodel, if there is one."""
        return next((item for item in reversed(self.history) if item.config == self.config), None)

    def cost_of(self, config: SubmodelConfig) -> Cost:
        """All costs of a submodel at the budget's token count; a text model needs one."""
        self.supernet.costs.tokens(self.budget.tokens)
        return self.supernet.cost(config, self.budget.tokens)

    def limit(self, metric: str) -> float:
        """The limit in force; the cost of the full network where there is none."""
        limit = getattr(self.budget, f"max_{metric}")
        return float(getattr(self.full_cost, metric) if limit is None else limit)

    def set_limit(self, metric: str, value: float) -> None:
        """Limit one cost and draw from inside the new budget; the full network's cost or more is no limit.

        The same budget always shows the same submodel, until `draw` asks for another.
        """
        limit = None if value >= getattr(self.full_cost, metric) else value
        try:
            changed: dict[str, Any] = {f"max_{metric}": limit}
            self._update(replace(self.budget, **changed))
        except RaffmError as error:
            self.count, self.problem = 0, str(error)

    def draw(self) -> None:
        """Draw another submodel from inside the budget."""
        self.draws += 1
        self._update(self.budget)

    def evaluate(self, on_progress: Callable[[int, int], None] | None = None) -> Evaluated | None:
        """Measure the shown submodel, once; None, with `failure` set, when that cannot be done."""
        self.failure = ""
        if self.evaluated is not None:
            return self.evaluated
        if self.data is None:
            self.failure = "there is no data to evaluate on: use BudgetExplorer(supernet, load_split(...))"
            return None
        config = self.config
        try:
            measured = evaluate(self.supernet.extract(config), self.data, on_progress=on_progress)
        except Exception as error:  # whatever went wrong is shown in place, where no one reads a traceback
            self.failure = f"the evaluation failed: {error or type(error).__name__}"
            return None
        self.history.append(Evaluated(config, self.cost_of(config), measured))
        return self.history[-1]

    def export(self) -> Path | None:
        """Write the shown submodel as a folder of its own; None, with `failure` set, when that cannot be done."""
        self.failure, config = "", self.config
        name = f"{self.supernet.name}-{self.cost.parameters}-{hashlib.sha256(repr(config).encode()).hexdigest()[:6]}"
        facts = about(self.supernet, config, self.budget.tokens)
        try:
            model, processor = self.supernet.extract(config), self.supernet.folder and self.supernet.processor
            export_submodel(model, self.exports / name, ("safetensors",), processor=processor, about=facts)
        except Exception as error:  # shown in place, as above
            self.failure = f"the export failed: {error or type(error).__name__}"
            return None
        self.exported = self.exports / name
        return self.exported

    def _update(self, budget: Budget) -> None:
        self.budget, self.failure, self.exported = budget, "", None
        self.count = self.supernet.space.count(budget)
        try:
            rng = np.random.default_rng([self.seed, self.draws])
            self.config = self.supernet.space.sample(budget, rng)
            self.problem = ""
        except RaffmError as error:
            self.problem = str(error)
