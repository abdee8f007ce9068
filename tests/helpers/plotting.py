"""A stand-in for a row of a sweep, as far as figures ask for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    parameters: int
    accuracy: float
    examples: int = 2000
    dataset: str = "fashion_mnist"
    split: str = "test"

    @property
    def macs(self) -> int:
        return 17 * self.parameters

    @property
    def encoder_parameters(self) -> int | None:
        return self.parameters // 2

    @property
    def low(self) -> float:
        return self.accuracy - 0.02

    @property
    def high(self) -> float:
        return self.accuracy + 0.01
