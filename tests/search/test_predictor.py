"""Predictions rank submodels, intervals cover what they promise, and strange rows are refused."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.search import make_row, make_rows, make_space, make_wide_rows, make_wide_space, truth

from raffm_utils.errors import SweepError
from raffm_utils.search import MIN_ROWS, AccuracyPredictor
from raffm_utils.search.predictor import _tau_near
from raffm_utils.space import ElasticSpace, SubmodelConfig, spread_over_widths

SPACE = make_space()
NOISE = 0.004


@pytest.fixture(scope="module")
def predictor() -> AccuracyPredictor:
    return AccuracyPredictor.fit(make_rows(SPACE, 300, NOISE), SPACE)


def test_new_submodels_are_predicted_to_within_the_noise(predictor):
    others = make_rows(SPACE, 200, 0, seed=9)
    errors = np.array([predictor.predict(row.config).accuracy - row.accuracy for row in others])
    assert np.sqrt(np.mean(errors**2)) < NOISE / 2
    assert predictor.submodels == 300
    assert predictor.examples == 1000


def test_nine_in_ten_intervals_hold_a_new_measurement(predictor):
    others = make_rows(SPACE, 1000, NOISE, seed=9)[2:]
    predicted = [predictor.predict(row.config) for row in others]
    assert all(p.low <= p.accuracy <= p.high for p in predicted)
    covered = np.mean([p.low <= row.accuracy <= p.high for p, row in zip(predicted, others, strict=True)])
    assert 0.85 <= covered <= 0.95
    widths = [p.high - p.low for p in predicted]
    assert np.mean(widths) < 2 * 1.645 * NOISE * 1.3  # no wider than such noise needs, or little


@pytest.mark.parametrize("seed", range(3))
def test_the_held_out_test_tells_what_new_submodels_show(seed):
    predictor = AccuracyPredictor.fit(make_rows(SPACE, 150, NOISE, seed=seed), SPACE)
    held_out = predictor.held_out
    assert 0.85 <= held_out.coverage <= 0.95
    assert NOISE * 0.8 < held_out.rmse < NOISE * 1.5 < held_out.spread
    assert 0.5 < held_out.kendall_tau < 0.95
    assert len(held_out.measured) == len(held_out.predicted) == len(held_out.low) == len(held_out.high) == 150
    assert predictor.held_out is held_out


def test_submodels_from_2_percent_to_all_with_blocks_left_out_are_ranked():
    space = make_wide_space()
    predictor = AccuracyPredictor.fit(make_wide_rows(space, 150, NOISE), space)
    held_out = predictor.held_out
    assert held_out.kendall_tau >= 0.9
    assert held_out.kendall_tau_near >= 0.6
    assert held_out.rmse < held_out.spread / 7
    assert 0.85 <= held_out.coverage <= 0.96
    order = np.argsort([predictor.predict(row.config).accuracy for row in make_wide_rows(space, 150, NOISE)])
    inside = (held_out.low <= held_out.measured) & (held_out.measured <= held_out.high)
    # among 30 of a wide range, nine in ten would be 27; where errors are few, their logarithm is noisier
    assert all(inside[end].mean() >= 0.75 for end in (order[:30], order[-30:]))


def test_losses_tell_apart_what_right_answers_do_not():
    """Right answers with much noise, losses with little: with the losses, the ranking is nearer to the truth."""
    from scipy.stats import kendalltau

    rng = np.random.default_rng(1)
    noisy = [make_row(row.config, row.accuracy + 0.04 * rng.normal(), loss=0.5) for row in make_rows(SPACE, 60, 0)]
    guided = [replace(row, loss=1 - truth(row.config) + 0.001 * rng.normal()) for row in noisy]
    others = [SPACE.sample(None, rng) for _ in range(100)]
    expected = [truth(config) for config in others]
    fitted = [AccuracyPredictor.fit(rows, SPACE) for rows in (noisy, guided)]
    alone, with_losses = (
        kendalltau([predictor.predict(config).accuracy for config in others], expected).statistic
        for predictor in fitted
    )
    assert with_losses > alone + 0.05


def test_ranking_among_equal_sizes_is_that_of_pairs():
    sizes = np.array([100.0, 105.0, 109.0, 200.0, 210.0, 1000.0])
    measured = np.array([0.7, 0.8, 0.9, 0.5, 0.5, 0.1])
    predicted = np.array([0.6, 0.9, 0.8, 0.3, 0.2, 0.9])
    assert _tau_near(predicted, measured, sizes) == pytest.approx((1 + 1 - 1) / 3)
    assert np.isnan(_tau_near(predicted[-1:], measured[-1:], sizes[-1:]))


def test_accuracies_that_do_not_depend_on_widths_give_no_ranking_and_honest_intervals():
    rng = np.random.default_rng(0)
    rows = [make_row(row.config, 0.9 + 0.005 * rng.normal()) for row in make_rows(SPACE, 200, 0)]
    held_out = AccuracyPredictor.fit(rows, SPACE).held_out
    assert abs(held_out.kendall_tau) < 0.15
    assert held_out.rmse < 1.1 * held_out.spread
    assert 0.84 <= held_out.coverage <= 0.96


def test_equal_accuracies_are_predicted_as_such():
    predictor = AccuracyPredictor.fit([make_row(row.config, 1.0) for row in make_rows(SPACE, 50, 0)], SPACE)
    predicted = predictor.predict(SPACE.smallest())
    assert (predicted.low, predicted.accuracy, predicted.high) == pytest.approx((1, 1, 1))
    assert predicted.high <= 1
    assert predictor.held_out.kendall_tau == 0


def test_the_same_rows_and_seed_give_the_same_predictor(predictor):
    again = AccuracyPredictor.fit(make_rows(SPACE, 300, NOISE), SPACE)
    assert again.predict(SPACE.largest()) == predictor.predict(SPACE.largest())
    other = AccuracyPredictor.fit(make_rows(SPACE, 300, NOISE), SPACE, seed=1)
    assert other.predict(SPACE.largest()).accuracy == predictor.predict(SPACE.largest()).accuracy


def test_a_submodel_like_those_measured_has_no_note(predictor):
    rng = np.random.default_rng(4)
    notes = [predictor.predict(SPACE.sample(None, rng)).note for _ in range(100)]
    assert np.mean([not note for note in notes]) > 0.9


def test_notes_say_what_lies_outside_the_data():
    middle = [row for row in make_rows(SPACE, 400, NOISE)[2:] if row.config.hidden == 80]
    predictor = AccuracyPredictor.fit(middle, SPACE)
    assert "hidden width 96" in predictor.predict(SPACE.largest()).note
    narrow = SubmodelConfig(80, SPACE.smallest().attention, middle[0].config.ffn)
    assert "total attention width 144" in predictor.predict(narrow).note


def test_a_note_tells_of_a_mix_of_widths_unlike_any_measured():
    even = ElasticSpace(SPACE.hidden, SPACE.attention, ((112, 96, 80),) * 6)
    predictor = AccuracyPredictor.fit(make_rows(even, 100, NOISE)[2:], SPACE)
    assert predictor.predict(SubmodelConfig(80, (40, 32) * 3, (96,) * 6)).note == ""
    assert "mix of widths" in predictor.predict(SubmodelConfig(80, (40, 32) * 3, (128, 64) * 3)).note


def test_outside_the_data_nothing_runs_away():
    """The surface has squares: where attention was never wide, it must not promise more for it."""
    rows = [row for row in make_rows(SPACE, 700, 0) if sum(row.config.attention) < 200]
    predictor = AccuracyPredictor.fit(rows, SPACE)
    assert abs(predictor.predict(SPACE.largest()).accuracy - truth(SPACE.largest())) < 0.03


def test_a_repeated_row_counts_once(predictor):
    rows = make_rows(SPACE, 300, NOISE)
    twice = AccuracyPredictor.fit([*rows, *rows], SPACE)
    assert twice.predict(SPACE.largest()) == predictor.predict(SPACE.largest())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "rows of the test split"),
        ({"fingerprint": "others"}, "different weights"),
        ({"data_fingerprint": "others"}, "different examples"),
        ({"config": SubmodelConfig(96, (48,), (128,))}, "1 layers, but the space has 6"),
    ],
)
def test_rows_that_do_not_belong_are_refused(changes, message):
    rows = make_rows(SPACE, MIN_ROWS + 5, NOISE)
    wrong = make_row(**{"config": rows[0].config, "accuracy": 0.9, **changes})
    with pytest.raises(SweepError, match=message):
        AccuracyPredictor.fit([wrong, *rows[1:]], SPACE)


def test_too_few_rows_are_refused():
    with pytest.raises(SweepError, match=f"29 submodels .* at least {MIN_ROWS}"):
        AccuracyPredictor.fit(make_rows(SPACE, MIN_ROWS - 1, NOISE), SPACE)
    with pytest.raises(SweepError, match="0 submodels"):
        AccuracyPredictor.fit([], SPACE)


def test_submodels_to_learn_from_reach_totals_that_uniform_draws_do_not():
    rng = np.random.default_rng(0)
    spread = spread_over_widths(SPACE, 120, rng)
    assert all(config in SPACE for config in spread)
    assert [sum(config.hidden == width for config in spread) for width in SPACE.hidden] == [40, 40, 40]
    uniform = [SPACE.sample(None, rng) for _ in range(120)]
    for totals in (lambda c: sum(c.attention), lambda c: sum(c.ffn)):
        assert np.std([totals(c) for c in spread]) > 1.5 * np.std([totals(c) for c in uniform])
    assert spread == spread_over_widths(SPACE, 120, np.random.default_rng(0))


def test_submodels_to_learn_from_are_as_often_small_as_large():
    spread = spread_over_widths(make_wide_space(), 200, np.random.default_rng(0))
    for widths in ([c.attention for c in spread], [c.ffn for c in spread]):
        totals = np.array([sum(each) for each in widths])
        middle = np.sqrt(totals.min() * totals.max())
        assert 0.4 < np.mean(totals < middle) < 0.6
