"""The costs that the budget explorer limits and shows: their names, units and scales."""

from dataclasses import dataclass

from .cost import Cost


@dataclass(frozen=True)
class Metric:
    """One cost: `key` is its field in `Cost` and `max_<key>` its limit in `Budget`; `scale` makes `unit` of that."""

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
ALL = (
    PARAMETERS,
    MACS,
    Metric("latency_ms", "Latency", "ms", 1.0),
    Metric("weight_bytes", "Weight memory", "MB", 1e6),
    Metric("peak_activation_bytes", "Peak activations", "MB", 1e6),
)


def known(cost: Cost) -> tuple[Metric, ...]:
    """The costs that have a value: latency has none without a latency model."""
    return tuple(metric for metric in ALL if getattr(cost, metric.key, None) is not None)
