"""Budgets, and what counting needs to know of costs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

from ..errors import InfeasibleBudget

METRICS = ("parameters", "macs", "weight_bytes", "encoder_parameters")  # counted for every supernet
LATENCY, PEAK = "latency_ms", "peak_activation_bytes"
NS_PER_MS = 1_000_000
_UNBOUNDED = 2**62  # above any cost, and a 64-bit integer still
Choices = tuple[tuple[int, ...], ...]  # of every layer


class Affine(NamedTuple):
    """A cost `base + per_attention * sum(attention) + per_ffn * sum(ffn)` for one hidden width."""

    base: int
    per_attention: int
    per_ffn: int

    def __call__(self, attention: int, ffn: int) -> int:
        return self.base + self.per_attention * attention + self.per_ffn * ffn


class Costs(Protocol):
    """What a space needs to know of costs (see `cost.CostModel`)."""

    def affine(self, hidden: int, tokens: int | None, metrics: Iterable[str]) -> dict[str, Affine]:
        """The named metrics as affine functions of the total widths; `latency_ms` in whole nanoseconds."""

    def peak(self, hidden: int, attention: Sequence[int], ffn: Sequence[int], tokens: int | None) -> int:
        """Bytes of activations alive at once, at most, while one example is computed."""

    def within_peak(
        self, hidden: int, attention: Choices, ffn: Choices, tokens: int | None, limit: int
    ) -> tuple[Choices, Choices] | None:
        """The choices of every layer that keep the peak within `limit` bytes; None where a layer has none."""


class Latency(Protocol):
    """What a space and those who show it need to know of a latency model (see `latency_model.LatencyModel`)."""

    @property
    def batch_size(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def tokens(self) -> int | None: ...
    @property
    def held_out_error(self) -> float: ...

    def affine(self, hidden: int) -> Affine:
        """Nanoseconds of one batch as an affine function of the total widths."""


@dataclass(frozen=True)
class Budget:
    """Limits that hold together, both ends included.

    `tokens` is the sequence length that MACs and activations of a text model are counted at. Latencies need
    `supernet.latency` and are kept to the nanosecond. Peak activations are explained at `Cost`.
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
    tokens: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not (0 <= value < math.inf):
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


def _whole(metric: str, value: float) -> float:
    # rounded, so that a latency read from a cost and given back as a limit is the same nanosecond
    return round(value * NS_PER_MS, 3) if metric == LATENCY else value


SIZE_TOKENS = 32  # the sentence length that MACs are compared at; their shares hardly depend on it
