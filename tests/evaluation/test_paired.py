"""Differences between submodels on the same examples: the textbook's interval, and answers that survive a file."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_split, make_supernet, some_configs
from hypothesis import given
from hypothesis import strategies as st

from raffm_utils.errors import DataError, SweepError
from raffm_utils.evaluation import Difference, compare, evaluate, pack, read_sweep, right_answers, sweep
from raffm_utils.evaluation.paired import unpack

Z = 1.959963984540054


def answers(both: int, won: int, lost: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    ours = [True] * (both + won) + [False] * (lost + none)
    theirs = [True] * both + [False] * won + [True] * lost + [False] * none
    return np.array(ours), np.array(theirs)


def test_the_interval_is_the_published_one():
    """Bonett and Price (2012), equation 3, by hand: 59 only the first, 6 only the second, 16 neither, 80 both."""
    found = Difference.of(*answers(80, 59, 6, 16))
    first, second, size = 60 / 163, 7 / 163, 163
    half = Z * np.sqrt((first + second - (first - second) ** 2) / size)
    assert (found.difference, found.won, found.lost, found.examples) == (53 / 161, 59, 6, 161)
    assert (found.low, found.high) == pytest.approx((first - second - half, first - second + half))


@given(*[st.integers(0, 60)] * 3, st.integers(1, 60))
def test_the_interval_holds_the_difference_and_turns_round_with_it(both, won, lost, none):
    found = Difference.of(*answers(both, won, lost, none))
    back = Difference.of(*reversed(answers(both, won, lost, none)))
    assert -1 <= found.low <= found.difference <= found.high <= 1
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert back.p == found.p
    assert 0 < found.p <= 1


def test_nineteen_in_twenty_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    first = rng.random((2000, 500))
    ours, theirs = first < 0.90, np.where(rng.random(first.shape) < 0.1, rng.random(first.shape), first) < 0.88
    found = [Difference.of(*pair) for pair in zip(ours, theirs, strict=True)]
    assert 0.935 <= np.mean([each.low <= 0.02 <= each.high for each in found]) <= 0.97


def test_p_is_that_of_a_coin():
    assert Difference.of(*answers(5, 5, 0, 5)).p == pytest.approx(2 / 2**5)
    assert Difference.of(*answers(5, 0, 0, 5)).p == 1


def test_it_prints_itself_in_points():
    difference = Difference(-0.0123, -0.02, 0.001, 1, 2, 100)
    assert f"{difference}" == "-1.2 points (-2.0 to +0.1)"
    assert f"{difference:+.2f}" == "-1.23 points (-2.00 to +0.10)"


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_packed_answers_come_back(right):
    assert unpack(pack(np.array(right)), len(right)).tolist() == right


def test_answers_that_cannot_be_are_refused():
    for text, said in (("?", "not base64"), ("AAAA", "24 examples at most, not to 30")):
        with pytest.raises(DataError, match=said):
            unpack(text, 30)
    with pytest.raises(DataError, match="at least one"):
        Difference.of(np.array([], dtype=bool), np.array([], dtype=bool))


def test_evaluations_are_compared_example_by_example():
    supernet, data = make_supernet(), make_split()
    one, other = (evaluate(supernet.extract(config), data, batch_size=7) for config in some_configs(supernet, 2))
    assert right_answers(one).mean() == one.accuracy
    found = compare(one, other)
    assert found.difference == pytest.approx(one.accuracy - other.accuracy)
    assert found.won + found.lost == (right_answers(one) != right_answers(other)).sum() > 0
    with pytest.raises(DataError, match="different examples"):
        compare(one, replace(other, data_fingerprint="others"))
    with pytest.raises(DataError, match="before answers were kept"):
        compare(one, replace(other, right=None))


def test_rows_of_a_sweep_are_compared_with_each_other_and_with_evaluations(tmp_path):
    supernet, data, path = make_supernet(), make_split(), tmp_path / "rows.jsonl"
    configs = some_configs(supernet, 2)
    sweep(supernet, configs, data, path, progress=False)
    one, other = read_sweep(path)
    again = evaluate(supernet.extract(configs[1]), data)
    assert compare(one, other) == compare(one, again)
    path.write_bytes(replace(one, right=pack(np.zeros(30))).to_json())
    with pytest.raises(SweepError, match=r"line 1: .*holds 0 right answers"):
        read_sweep(path)
    path.write_bytes(replace(one, right="AA==").to_json())
    with pytest.raises(SweepError, match=r"line 1: .*not to 30"):
        read_sweep(path)
