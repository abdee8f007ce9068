"""One evaluation of the budget explorer, which runs in a thread and can be followed and cancelled."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..evaluation import Interval, evaluate
from ..space import Cost, SubmodelConfig
from ..supernet import Supernet

if TYPE_CHECKING:
    from ..data import Split


BATCH_SIZE = 32  # after every batch there is progress to be seen, and a cancel is heard


@dataclass(frozen=True)
class HistoryItem(Interval):
    """One line of the explorer's history; it can be plotted and compared like a row of a sweep."""

    config: SubmodelConfig
    cost: Cost
    examples: int
    dataset: str
    split: str
    data_fingerprint: str = ""
    right: str | None = field(default=None, repr=False)

    @property
    def parameters(self) -> int:
        return self.cost.parameters

    @property
    def macs(self) -> int | None:
        return self.cost.macs


class Cancelled(Exception):
    """Ends an evaluation from within."""


class Measurement:
    """A submodel on its way to being evaluated: `done` of `total` examples."""

    def __init__(self, supernet: Supernet, config: SubmodelConfig, cost: Cost, data: "Split") -> None:
        self.supernet, self.config, self.cost, self.data = supernet, config, cost, data
        self.done, self.total = 0, len(data)
        self._stop = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._stop.is_set()

    def cancel(self) -> None:
        """Make `run` stop after the current batch; may be called from any thread."""
        self._stop.set()

    def run(self, on_progress: Callable[[int, int], None] | None = None) -> HistoryItem:
        """Evaluate; raises `Cancelled`, or whatever went wrong."""

        def advance(done: int, total: int) -> None:
            self.done, self.total = done, total
            if self.cancelled:
                raise Cancelled
            if on_progress is not None:
                on_progress(done, total)

        model = self.supernet.extract(self.config)
        measured = evaluate(model, self.data, batch_size=BATCH_SIZE, on_progress=advance)
        return HistoryItem(
            *(measured.accuracy, measured.low, measured.high),
            config=self.config,
            cost=self.cost,
            examples=measured.examples,
            dataset=self.data.name,
            split=self.data.split,
            data_fingerprint=measured.data_fingerprint,
            right=measured.right,
        )
