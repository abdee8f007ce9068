"""The costs that the explorer can limit: their names, units, and how their amounts are written and read."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InfeasibleBudget
from ..space import Budget, Cost


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
        return f"{self.amount(value)}\u00a0{self.unit}"

    def amount(self, value: float) -> str:
        """As `text`, without the unit."""
        shown = value / self.scale
        return f"{shown:,.2f}" if shown >= 1 else f"{shown:.3g}"

    def at_least(self, value: float) -> str:
        """As `text`, rounded up: whoever types what is shown gets no less than `value`."""
        return self._towards(value, math.ceil)

    def at_most(self, value: float) -> str:
        """As `text`, rounded down."""
        return self._towards(value, math.floor)

    def _towards(self, value: float, rounding: Callable[[float], int]) -> str:
        shown = value / self.scale
        digits = 2 if shown >= 1 else 2 - math.floor(math.log10(shown)) if shown > 0 else 0
        near = rounding(round(shown * 10**digits, 6)) / 10**digits
        return self.text(near * self.scale)

    def read(self, text: str, full: float) -> float:
        """The value that someone typed, in the units of `Cost`: `12.5`, `12,5`, `1,234`, `12.5 M` or `40%` of `full`.

        A comma before three digits separates thousands, unless only the other reading is within the full network.
        Raises `InfeasibleBudget` for anything else.
        """
        found = re.fullmatch(r"\s*(\d[\d.,\s\u00a0]*|[.,]\d+)\s*(%?)\s*([^\W\d]*)\s*", text)
        unit = found[3].casefold() if found else ""
        if found is None or (unit and unit != self.unit.casefold()):
            raise InfeasibleBudget(
                f"{self.name}: {text.strip()!r} is not a number; give one in {self.unit}, such as "
                f"{self.amount(full / 2)}, or a share, such as 50%"
            )
        numbers = _readings(re.sub(r"\s", "", found[1]))
        if not numbers:
            raise InfeasibleBudget(f"{self.name}: {text.strip()!r} has more than one decimal point; give one number")
        if found[2]:
            return numbers[-1] / 100 * full
        return next((n for n in numbers if n * self.scale <= full), numbers[0]) * self.scale


def _readings(digits: str) -> list[float]:
    """What a number with points and commas may mean, the likeliest first."""
    found = []
    if re.fullmatch(r"\d+(,\d{3})*(\.\d*)?|\.\d+", digits):
        found.append(float(digits.replace(",", "")))
    if re.fullmatch(r"\d*,\d+|\d+(\.\d{3})+(,\d*)?", digits):
        found.append(float(digits.replace(".", "").replace(",", ".")))
    return found


PARAMETERS = Metric("parameters", "Parameters", "M", 1e6)
WITHOUT_EMBEDDINGS = Metric("encoder_parameters", "Without embeddings", "M", 1e6)
MACS = Metric("macs", "MACs", "M", 1e6)
ALL_METRICS = (
    PARAMETERS,
    WITHOUT_EMBEDDINGS,
    MACS,
    Metric("latency_ms", "Latency", "ms", 1.0),
    Metric("weight_bytes", "Weight memory", "MB", 1e6),
    Metric("peak_activation_bytes", "Peak activations", "MB", 1e6),
)


def known_metrics(cost: Cost, size_metric: str, budget: Budget) -> tuple[Metric, ...]:
    """The costs to limit: all that have a value; parameters without embeddings where they are the size, or limited."""

    def wanted(metric: Metric) -> bool:
        if metric is WITHOUT_EMBEDDINGS:
            return size_metric == metric.key or budget.max_encoder_parameters is not None
        return getattr(cost, metric.key, None) is not None

    return tuple(metric for metric in ALL_METRICS if wanted(metric))


def problem_of(budget: Budget, smallest: Cost, full: Cost) -> dict[str, str]:
    """What is wrong with each limit that no submodel can meet, by the key of its cost; empty if each can be met."""
    found = {}
    for metric in ALL_METRICS:
        if getattr(full, metric.key, None) is None:
            continue
        low, high = getattr(budget, f"min_{metric.key}", None), getattr(budget, f"max_{metric.key}")
        if high is not None and high < metric.of(smallest):
            found[metric.key] = f"at least {metric.at_least(metric.of(smallest))}"
        elif low is not None and low > metric.of(full):
            found[metric.key] = f"at most {metric.at_most(metric.of(full))}"
    return found


def limits_text(budget: Budget, *, lower_only: bool = False) -> list[str]:
    """The limits in force in words, such as `Weight memory at most 30.00 MB`."""
    found = []
    for metric in ALL_METRICS:
        for edge, word in (("min", "at least"), ("max", "at most")):
            value = getattr(budget, f"{edge}_{metric.key}", None)
            if value is not None and not (lower_only and edge == "max"):
                found.append(f"{metric.name} {word} {metric.text(value)}")
    return found
