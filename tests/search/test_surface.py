"""The surface is the sum that it says it is, and learns one that is."""

import numpy as np
import pytest
from helpers.search import make_space, score

from raffm_utils.search import FittedSurface, Surface, Terms
from raffm_utils.space import Axis, SubmodelConfig

SPACE = make_space()


def draws(number: int, seed: int = 0) -> list[SubmodelConfig]:
    rng = np.random.default_rng(seed)
    return [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(None, rng) for _ in range(number - 2))]


def matrix(terms: Terms, configs: list[SubmodelConfig]) -> np.ndarray:
    return np.stack([terms.row(config) for config in configs])


def test_terms_of_the_sum_add_up_to_the_columns():
    rng = np.random.default_rng(1)
    terms = Terms(SPACE, draws(5))  # few, so that many of the others lie beyond them
    others = matrix(terms, draws(40, seed=2))
    surface = Surface(terms, rng.normal(size=others.shape[1]), 0.3)
    expected = others @ surface.coefficients + surface.constant
    np.testing.assert_allclose([score(surface, config) for config in draws(40, seed=2)], expected, atol=1e-12)


def test_layers_of_equal_width_add_nothing_of_their_own():
    even = SubmodelConfig(80, (32,) * 6, (96,) * 6)
    assert np.abs(Terms(SPACE, draws(20)).row(even)[8:]).max() < 1e-12


def test_a_surface_is_learnt_from_noisy_measurements():
    terms = Terms(SPACE, configs := draws(400))
    columns = matrix(terms, configs)
    weights = terms.weights(0.5)
    rng = np.random.default_rng(0)
    true = Surface(terms, weights * rng.normal(size=len(weights)), 0.8)
    accuracies = columns @ true.coefficients + true.constant
    fitted = FittedSurface(terms, columns, accuracies + 0.02 * rng.normal(size=400))
    others = matrix(terms, draws(100, seed=5))
    error = others @ (fitted.coefficients - true.coefficients) + fitted.constant - true.constant
    assert np.sqrt(np.mean(error**2)) < 0.015 < accuracies.std() / 10
    assert fitted.layer_weight > 0


def test_layers_that_only_add_noise_are_left_out():
    terms = Terms(SPACE, configs := draws(60))
    columns = matrix(terms, configs)
    rng = np.random.default_rng(3)
    fitted = FittedSurface(terms, columns, 0.8 + 0.1 * columns[:, 0] + 0.02 * rng.normal(size=60))
    assert np.abs(fitted.coefficients[8:]).max() < 0.02 < fitted.coefficients[0]


def test_draws_spread_as_fits_to_other_measurements_of_the_same_would():
    terms = Terms(SPACE, configs := draws(200))
    columns, others = matrix(terms, configs), matrix(terms, draws(50, seed=8))
    rng = np.random.default_rng(0)
    true = columns @ (0.1 * terms.weights(0.5))

    def spread(surfaces: list[Surface]) -> float:
        return np.array([others @ each.coefficients + each.constant for each in surfaces]).std(axis=0).mean()

    fits = [FittedSurface(terms, columns, true + 0.05 * rng.normal(size=200)) for _ in range(30)]
    drawn = [fits[0].draw(rng) for _ in range(200)]
    assert 0.8 < spread(drawn) / spread(fits) < 2
    values = np.array([others @ each.coefficients + each.constant for each in drawn])
    np.testing.assert_allclose(values.mean(axis=0), others @ fits[0].coefficients + fits[0].constant, atol=0.01)


def test_leverage_grows_with_the_distance_from_what_was_measured():
    narrow = SPACE.__class__((80,), ((40, 32),) * 6, ((112, 96, 80),) * 6)
    rng = np.random.default_rng(0)
    terms = Terms(SPACE, configs := [narrow.sample(None, rng) for _ in range(100)])
    columns = matrix(terms, configs)
    fitted = FittedSurface(terms, columns, rng.normal(size=100))
    inside = fitted.leverage(columns)
    extreme = fitted.leverage(matrix(terms, [SubmodelConfig(80, (48, 24) * 3, (128, 64) * 3)]))
    assert extreme[0] > 2 * inside.max()


def test_totals_stop_at_the_hull_of_what_was_measured():
    measured = [
        SubmodelConfig(64, (24,) * 6, (64,) * 6),
        SubmodelConfig(64, (32,) * 6, (64,) * 6),
        SubmodelConfig(96, (40,) * 6, (64,) * 6),
        SubmodelConfig(96, (48,) * 6, (64,) * 6),
    ]
    terms = Terms(SPACE, measured)
    assert terms.edges(Axis.ATTENTION, 64) == (144, 192)
    assert terms.edges(Axis.ATTENTION, 80) == (192, 240)
    assert terms.edges(Axis.ATTENTION, 200) == terms.edges(Axis.ATTENTION, 96) == (240, 288)
    _, within = terms.total(Axis.ATTENTION, 80, np.array([150, 192, 230, 288]))
    assert within[0] == within[1] < within[2] < within[3] == terms.total(Axis.ATTENTION, 80, np.array([240]))[1][0]


def test_axes_that_are_not_elastic_have_no_scale():
    space = make_space().__class__((96,), ((48,),), ((128,),))
    row = Terms(space, [space.largest()]).row(space.largest())
    assert np.isfinite(row).all()
    assert row == pytest.approx(np.zeros(len(row)))
