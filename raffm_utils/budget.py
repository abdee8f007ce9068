"""Budgets, and what counting needs to know of costs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

from .errors import InfeasibleBudget

METRICS = ("parameters", "macs", "weight_bytes", "encoder_parameters")


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
        """The named metrics as affine functions of the total widths."""


@dataclass(frozen=True)
class Budget:
    """Limits that hold together, both ends included; `tokens` is the sequence length MACs are counted at."""

    max_parameters: float | None = None
    max_macs: float | None = None
    max_weight_bytes: float | None = None
    min_parameters: float | None = None
    min_macs: float | None = None
    min_weight_bytes: float | None = None
    max_encoder_parameters: float | None = None
    min_encoder_parameters: float | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not (0 <= value < math.inf):
                raise InfeasibleBudget(f"{item.name}={value}: give a finite number of at least 0, or None for no limit")

    def limits(self) -> dict[str, tuple[int | None, int | None]]:
        """(lowest, highest) whole value of every limited metric; costs are whole numbers."""
        found = {}
        for metric in METRICS:
            low, high = getattr(self, f"min_{metric}"), getattr(self, f"max_{metric}")
            if low is not None or high is not None:
                found[metric] = (
                    None if low is None else math.ceil(low),
                    None if high is None else math.floor(high),
                )
        return found
