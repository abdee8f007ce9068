"""Fleets of clients: a submodel for each class of devices, and how well the clients are served.

Only the classes and their shares of the clients are needed; no client is simulated.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

from ..errors import FleetError
from ..evaluation import Interval, SweepRow
from ..space import DEVICE_CAPS, Cost, DeviceClass, SubmodelConfig
from ..supernet import Supernet
from .exact import best_submodel
from .predictor import AccuracyPredictor, Predicted


def with_quota(
    fleet: Iterable[DeviceClass],
    supernet: Supernet,
    shares: Mapping[str, float] = DEVICE_CAPS,
) -> tuple[DeviceClass, ...]:
    """The same classes, each with memory for a share of the full network, looked up by the name of the class.

    A device cannot spend all of its memory on a model, and gigabytes would never limit a small network. The default
    shares are the assumed sizes that the classes trained with. As in training, no quota is below the needs of the
    smallest submodel: its weights, and the peak activations of one example.
    """
    fleet, costs = tuple(fleet), (supernet.cost(c) for c in (supernet.space.smallest(), supernet.full))
    least, full = (cost.weight_bytes + (cost.peak_activation_bytes or 0) for cost in costs)
    if unknown := sorted({device.name for device in fleet} - set(shares)):
        raise FleetError(f"no share for {', '.join(unknown)}: there are those of {', '.join(shares)}")
    return tuple(replace(device, memory_bytes=max(least, shares[device.name] * full)) for device in fleet)


SPLITS = 5  # how many divisions of a memory between weights and activations are tried


@dataclass(frozen=True)
class Assignment:
    """The submodel assigned to one class of devices.

    Without a `config`, `note` says what the smallest submodel would need; otherwise it is the note of the prediction.
    `predicted` has the predictor's interval (90 %), `measured` that of the sweep (95 %, Wilson).
    """

    device: DeviceClass
    config: SubmodelConfig | None = None
    cost: Cost | None = None
    predicted: Predicted | None = None
    measured: SweepRow | None = None
    note: str = ""

    @property
    def memory_bytes(self) -> int | None:
        """Weights and peak activations of one example."""
        return None if self.cost is None else self.cost.weight_bytes + (self.cost.peak_activation_bytes or 0)

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds for one example at the class's MACs per second."""
        return None if self.cost is None else 1000 * (self.cost.macs or 0) / self.device.macs_per_second


@dataclass(frozen=True)
class FleetPlan:
    """One submodel for every class of a fleet; `fingerprint` is of the weights they are cut from."""

    assignments: tuple[Assignment, ...]
    fingerprint: str

    @property
    def served(self) -> tuple[Assignment, ...]:
        """The classes that have a submodel."""
        return tuple(a for a in self.assignments if a.config is not None)

    @property
    def coverage(self) -> float:
        """The share of clients that have a submodel."""
        return float(sum(a.device.share for a in self.served))

    @property
    def configs(self) -> list[SubmodelConfig]:
        """The different submodels of the fleet, for `sweep` to measure."""
        return list(dict.fromkeys(a.config for a in self.served if a.config is not None))

    def mean(self, *, measured: bool = False) -> Interval | None:
        """The mean accuracy over the clients that have a submodel; None if there is none, or one is not `measured`.

        All submodels share one predictor, or one set of examples, so their errors may be correlated: low and high
        are the means of the lows and highs, which is conservative.
        """
        found = _accuracies(self, measured)
        if not found:
            return None
        shares = [device.share for device, _ in found]
        intervals = [(value.accuracy, value.low, value.high) for _, value in found]
        return Interval(*(float(v) for v in np.average(intervals, axis=0, weights=shares)))

    def worst(self, *, measured: bool = False) -> tuple[DeviceClass, Interval] | None:
        """The class with the lowest accuracy, among those that have a submodel; None as for `mean`."""
        return min(_accuracies(self, measured), key=lambda found: found[1].accuracy, default=None)

    def summary(self, *, measured: bool = False) -> str:
        """Coverage, mean and worst class in one line."""
        mean, worst = self.mean(measured=measured), self.worst(measured=measured)
        text = f"{self.coverage:4.0%} of the clients have a submodel"
        if mean is None or worst is None:
            return text
        return f"{text}: mean {mean}, worst {worst[1].accuracy:.1%} ({worst[0].name})"

    def with_measured(self, rows: Iterable[SweepRow]) -> "FleetPlan":
        """The same plan with the measured accuracy wherever `rows` hold the submodel.

        Raises `FleetError` when rows are of other weights, or not all of the same examples.
        """
        rows = list(rows)
        if strange := {row.fingerprint for row in rows} - {self.fingerprint}:
            raise FleetError(f"rows of other weights ({', '.join(strange)}, not {self.fingerprint}): sweep these again")
        if len(places := {(row.dataset, row.split, row.data_fingerprint) for row in rows}) > 1:
            named = ", ".join(sorted({f"{dataset}/{split}" for dataset, split, _ in places}))
            raise FleetError(f"rows of {len(places)} sets of examples ({named}) do not compare: give those of one")
        found = {row.config: row for row in rows}
        return replace(
            self,
            assignments=tuple(
                replace(a, measured=None if a.config is None else found.get(a.config)) for a in self.assignments
            ),
        )

    def _repr_html_(self) -> str:
        """The table that JupyterLab shows."""
        names = ("device", "clients", "parameters", "memory", "latency", "predicted (90%)", "measured (95%)")
        head = "".join(f"<th>{name}</th>" for name in names)
        notes = [f"<br>* {escape(a.device.name)}: {escape(a.note)}" for a in self.assignments if a.note]
        return f"<table><tr>{head}</tr>{''.join(map(_html_row, self.assignments))}</table>{''.join(notes)}"


def plan_fleet(supernet: Supernet, predictor: AccuracyPredictor, fleet: Sequence[DeviceClass]) -> FleetPlan:
    """For every class, find the submodel with the highest predicted accuracy that fits its memory and latency.

    Weights and activations share the memory. Several ways to divide it are tried; at most a quarter of the difference
    between the largest and the smallest peak activations of the space remains unused.

    Example:
        fleet = with_quota(FLEETS["large"], supernet)
        plan = plan_fleet(supernet, predictor, fleet)
        print(plan.summary())
    """
    if not fleet or len({device.name for device in fleet}) < len(fleet):
        raise FleetError(f"classes {[device.name for device in fleet]}: give at least one, each once")
    if abs(total := sum(device.share for device in fleet) - 1) > 1e-6:
        raise FleetError(f"the shares of the clients add up to {1 + total:.3g}: make them add up to 1")
    supernet.costs.counted_at()  # text needs a token count: say so before any search
    assignments = tuple(_assign(supernet, predictor, device) for device in fleet)
    return FleetPlan(assignments, supernet.fingerprint())


def _assign(supernet: Supernet, predictor: AccuracyPredictor, device: DeviceClass) -> Assignment:
    space = supernet.space
    smallest = Assignment(device, space.smallest(), supernet.cost(space.smallest()))
    if not _fits(smallest):  # it is the least of every cost, so nothing else does
        memory = f"{(smallest.memory_bytes or 0) / 1e6:,.1f} MB and {smallest.latency_ms:,.3g} ms"
        allowed = f"{device.memory_bytes / 1e6:,.1f} MB and {device.latency_ms:,.3g} ms"
        return Assignment(device, note=f"the smallest submodel takes {memory}, but there are {allowed}")
    least, most = space.reach("peak_activation_bytes")
    # what is best with the least set aside for activations is, if it fits, the best there is
    splits = [(least, most), *((peak, peak) for peak in np.linspace(most, least, SPLITS).astype(int).tolist())]
    found: list[tuple[float, Assignment]] = []
    for aside, peak in splits:
        budget = replace(device.budget(aside), max_peak_activation_bytes=peak)
        if not space.count(budget):
            continue
        config = best_submodel(space, predictor, budget)
        predicted = predictor.predict(config)
        assignment = Assignment(device, config, supernet.cost(config), predicted, note=predicted.note)
        if _fits(assignment):
            found.append((predicted.accuracy, assignment))
            if aside < peak:
                break
    return max(found, key=lambda pair: pair[0])[1]


def _fits(assignment: Assignment) -> bool:
    macs = (assignment.cost.macs if assignment.cost else None) or 0
    return (assignment.memory_bytes or 0) <= assignment.device.memory_bytes and macs <= assignment.device.max_macs


def _accuracies(plan: FleetPlan, measured: bool) -> list[tuple[DeviceClass, Interval]]:
    """The accuracy of every class that has a submodel; empty if one of them has not been measured."""
    found = [(a.device, a.measured if measured else a.predicted) for a in plan.served]
    return [(device, v) for device, v in found if v] if all(v for _, v in found) else []


def _html_row(a: Assignment) -> str:
    cells = [escape(a.device.name), f"{100 * a.device.share:.3g}%"]
    if a.cost is None:
        cells += ["none *", *[""] * 4]
    else:
        cells.append(f"{a.cost.parameters / 1e6:.2f} M")
        cells.append(f"{(a.memory_bytes or 0) / 1e6:,.1f} of {a.device.memory_bytes / 1e6:,.1f} MB")
        cells.append(f"{a.latency_ms:,.3g} of {a.device.latency_ms:,.3g} ms")
        cells.append(f"{a.predicted}{' *' if a.note else ''}" if a.predicted else "")
        cells.append(f"{a.measured}" if a.measured else "")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
