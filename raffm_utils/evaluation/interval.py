"""An accuracy with its interval: the one way to compute it and to print it."""

from dataclasses import dataclass

from ..errors import DataError


@dataclass(frozen=True)
class Interval:
    """An accuracy and the ends of its interval, all three from 0 to 1.

    Printed as a percentage with its interval; a format such as `.2%` sets the digits.

    Example:
        >>> f"{Interval(0.9162, 0.9106, 0.9216)}"
        '91.6% (91.1% to 92.2%)'
    """

    accuracy: float
    low: float
    high: float

    @classmethod
    def wilson(cls, hits: int, examples: int) -> "Interval":
        """The 95 % interval of `hits` right answers to `examples` examples (Wilson 1927)."""
        from scipy.stats import binomtest

        if not 0 <= hits <= examples or not examples:
            raise DataError(f"{hits} right answers to {examples} examples: give at least 1 example, and 0 to all right")
        found = binomtest(hits, examples).proportion_ci(0.95, method="wilson")
        return Interval(hits / examples, float(found.low), float(found.high))

    def between(self, form: str = ".1%") -> str:
        """The interval alone, such as `91.1% to 92.2%`."""
        return f"{self.low:{form}} to {self.high:{form}}"

    def __format__(self, form: str) -> str:
        form = form or ".1%"
        return f"{self.accuracy:{form}} ({self.between(form)})"
