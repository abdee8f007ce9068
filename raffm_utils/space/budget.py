"""Budgets: joint limits on costs."""

import contextlib
import math
import operator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..errors import InfeasibleBudget
from .axes import Totals

METRICS = ("parameters", "macs", "weight_bytes", "encoder_parameters")  # counted for every supernet
LATENCY, PEAK = "latency_ms", "peak_activation_bytes"
NS_PER_MS = 1_000_000
_UNBOUNDED = 2**62  # above any cost, and a 64-bit integer still
Choices = tuple[tuple[int, ...], ...]  # of every layer


class Affine(NamedTuple):
    """A cost at one hidden width: a constant, and what each unit of `Totals` adds."""

    base: int
    per_attention: int
    per_attention_block: int
    per_ffn: int
    per_ffn_block: int

    def __call__(self, totals: Totals) -> int:
        return self.base + sum(price * number for price, number in zip(self[1:], totals, strict=True))


@dataclass(frozen=True)
class Budget:
    """Joint limits on the costs of a submodel, bounds included; None means no limit.

    Latencies need `supernet.latency` and are exact to the nanosecond. `Cost` explains peak activations.

    Example:
        >>> Budget(max_parameters=12e6, max_macs=200e6).limits()
        {'parameters': (None, 12000000), 'macs': (None, 200000000)}
    """

    max_parameters: float | None = None
    max_macs: float | None = None
    max_weight_bytes: float | None = None
    min_parameters: float | None = None
    min_macs: float | None = None
    min_weight_bytes: float | None = None
    max_encoder_parameters: float | None = None
    min_encoder_parameters: float | None = None
    max_latency_ms: float | None = None
    min_latency_ms: float | None = None
    max_peak_activation_bytes: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            value = _number(item.name, value)
            object.__setattr__(self, item.name, value)
            if not 0 <= value < math.inf:
                raise InfeasibleBudget(f"{item.name}={value}: give a finite number of at least 0, or None for no limit")

    def limits(self) -> dict[str, tuple[int | None, int | None]]:
        """(lowest, highest) whole value of every limited metric: numbers, bytes, and nanoseconds of `latency_ms`."""
        found = {}
        for metric in (*METRICS, LATENCY, PEAK):
            low, high = getattr(self, f"min_{metric}", None), getattr(self, f"max_{metric}")
            if low is not None or high is not None:
                found[metric] = (
                    None if low is None else min(math.ceil(_whole(metric, low)), _UNBOUNDED),
                    None if high is None else min(math.floor(_whole(metric, high)), _UNBOUNDED),
                )
        return found


def _number(name: str, value: Any) -> int | float:
    """A number of Python's own: those of numpy may overflow."""
    try:
        with contextlib.suppress(TypeError):
            return operator.index(value)
        return float(value)
    except (TypeError, ValueError) as error:
        raise InfeasibleBudget(f"{name}={value!r}: give a number, or None for no limit") from error


def _whole(metric: str, value: float) -> float:
    # rounded, so that a latency read from a cost and given back as a limit is the same nanosecond
    return round(value * NS_PER_MS, 3) if metric == LATENCY else value


SIZE_TOKENS = 32  # the sentence length that MACs are compared at; their shares hardly depend on it
