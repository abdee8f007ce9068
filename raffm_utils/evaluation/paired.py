"""Two submodels compared example by example: what both answer alike says nothing, and its noise drops out."""

import base64
import binascii
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import DataError

CONFIDENCE = 0.95


class Answered(Protocol):
    """What is compared: an `Evaluation` or a row of a sweep."""

    @property
    def examples(self) -> int:
        """How many were answered."""

    @property
    def data_fingerprint(self) -> str:
        """Of the examples and their order."""

    @property
    def right(self) -> str | None:
        """See `pack`; None where answers were not kept."""


@dataclass(frozen=True)
class Difference:
    """How much more often one submodel is right than another, on the same examples.

    `difference` is of the accuracies, -1 to 1; `low` and `high` are its 95 % interval for paired proportions (adjusted
    Wald, Bonett and Price 2012). `won` examples only the first answered rightly, `lost` only the second.

    Example:
        >>> right, other = (np.arange(100) < number for number in (80, 70))
        >>> f"{Difference.of(right, other)}"
        '+10.0 points (+3.4 to +16.2)'
    """

    difference: float
    low: float
    high: float
    won: int
    lost: int
    examples: int

    @classmethod
    def of(cls, right: np.ndarray, other: np.ndarray) -> "Difference":
        """From two arrays of truth values, one for each example."""
        from scipy.stats import norm

        if right.shape != other.shape or right.ndim != 1 or not right.size:
            raise DataError(f"{right.shape} and {other.shape} answers: give both for the same examples, at least one")
        won, lost, examples = int((right & ~other).sum()), int((~right & other).sum()), len(right)
        size = examples + 2
        centre, spread = (won - lost) / size, (won + lost + 2) / size
        half = float(norm.ppf((1 + CONFIDENCE) / 2)) * float(np.sqrt((spread - centre**2) / size))
        return cls((won - lost) / examples, max(-1, centre - half), min(1, centre + half), won, lost, examples)

    @property
    def p(self) -> float:
        """The probability of a difference at least so large between equals (exact McNemar test, two-sided)."""
        from scipy.stats import binomtest

        return float(binomtest(self.won, self.won + self.lost).pvalue) if self.won + self.lost else 1.0

    def __format__(self, form: str) -> str:
        difference, low, high = (f"{100 * value:{form or '+.1f'}}" for value in (self.difference, self.low, self.high))
        return f"{difference} points ({low} to {high})"


def compare(one: Answered, other: Answered) -> Difference:
    """How much more often `one` is right than `other`: two evaluations, or rows of sweeps, on the same examples.

    Its interval is many times narrower than those of the two accuracies. Raises `DataError` if the examples are not
    the same, or answers were not kept.

    Example:
        full, half = (evaluate(supernet.extract(config), data) for config in (supernet.full, chosen))
        print(f"{compare(half, full)}")  # -0.4 points (-0.8 to +0.0)
    """
    if one.data_fingerprint != other.data_fingerprint:
        raise DataError(
            f"measured on different examples ({one.data_fingerprint[:12]} and {other.data_fingerprint[:12]}): evaluate "
            "both on one split"
        )
    return Difference.of(right_answers(one), right_answers(other))


def right_answers(measured: Answered) -> np.ndarray:
    """For every example, in the order of the split's batches, whether it was answered rightly."""
    if measured.right is None:
        raise DataError("measured before answers were kept: evaluate again, or sweep into a new file")
    return unpack(measured.right, measured.examples)


def pack(right: np.ndarray) -> str:
    """Truth values as text: eight to a byte, the first in the highest bit, in base64."""
    return base64.b64encode(np.packbits(right.astype(bool)).tobytes()).decode()


def unpack(text: str, examples: int) -> np.ndarray:
    """Inverse of `pack`; raises `DataError` if it is not of so many examples."""
    try:
        bits = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"answers {text[:20]!r} are not base64 ({error}): evaluate again") from error
    if len(bits) != -(-examples // 8):
        raise DataError(f"answers to {8 * len(bits)} examples at most, not to {examples}: evaluate again")
    return np.unpackbits(bits, count=examples).astype(bool)
