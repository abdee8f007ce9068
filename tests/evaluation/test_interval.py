"""The interval of an accuracy: computed by the textbook, printed in one way."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raffm_utils.errors import DataError
from raffm_utils.evaluation import Interval
from raffm_utils.search import Predicted

Z = 1.959963984540054  # of the normal distribution, 95 % within


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_textbook_formula(counts: tuple[int, int]):
    hits, examples = counts
    share, scale = hits / examples, 1 + Z**2 / examples
    centre = (share + Z**2 / (2 * examples)) / scale
    half = Z * sqrt(share * (1 - share) / examples + Z**2 / (4 * examples**2)) / scale
    found = Interval.wilson(hits, examples)
    assert (found.accuracy, found.low, found.high) == pytest.approx((share, centre - half, centre + half), abs=1e-9)


@pytest.mark.parametrize(("hits", "examples"), [(0, 0), (-1, 5), (6, 5)])
def test_counts_that_cannot_be_are_refused(hits: int, examples: int):
    with pytest.raises(DataError, match=f"{hits} right answers to {examples} examples"):
        Interval.wilson(hits, examples)


def test_it_prints_itself_with_the_digits_asked_for():
    interval = Interval(0.9162, 0.9106, 0.9216)
    assert f"{interval}" == "91.6% (91.1% to 92.2%)"
    assert f"{interval:.2%}" == "91.62% (91.06% to 92.16%)"
    assert interval.between() == "91.1% to 92.2%"
    assert f"{Predicted(0.9, 0.85, 0.95, 'outside the data')}" == "90.0% (85.0% to 95.0%)"
