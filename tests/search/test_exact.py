"""The best submodel is the best: against brute force, in budgets of every kind."""

import itertools
import time

import numpy as np
import pytest
from helpers.search import Costs, Tables, make_rows, make_space, score
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raffm_utils.errors import ElasticSpaceError, InfeasibleBudget
from raffm_utils.search import (
    AccuracyPredictor,
    best_submodel,
    best_submodels,
    highest_between,
    largest_submodel,
    pareto_front,
    promising_submodels,
)
from raffm_utils.space import METRICS, Budget, ElasticSpace, SubmodelConfig

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def brute_force(space: ElasticSpace, budget: Budget) -> list[SubmodelConfig]:
    everything = (
        SubmodelConfig(hidden, attention, ffn)
        for hidden in space.hidden
        for attention in itertools.product(*space.attention)
        for ffn in itertools.product(*space.ffn)
    )
    return [
        config
        for config in everything
        if all(
            (low is None or low <= space.cost_of(config, metric))
            and (high is None or space.cost_of(config, metric) <= high)
            for metric, (low, high) in budget.limits().items()
        )
    ]


@st.composite
def spaces_with_budgets(draw) -> tuple[ElasticSpace, Budget]:
    layers = draw(st.integers(1, 3))
    choices = st.lists(st.integers(1, 40), min_size=1, max_size=3, unique=True).map(tuple)
    with_none = st.lists(st.integers(0, 40) | st.just(0), min_size=1, max_size=3, unique=True).map(tuple)
    per_layer = st.lists(with_none, min_size=layers, max_size=layers).map(tuple)
    scale = draw(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)))
    space = ElasticSpace(draw(choices), draw(per_layer), draw(per_layer), Costs(scale))
    limits = {}
    for metric in draw(st.lists(st.sampled_from(METRICS), max_size=2, unique=True)):
        least, most = space.reach(metric)
        side = draw(st.sampled_from(("min", "max")))
        limits[f"{side}_{metric}"] = draw(st.integers(int(least), int(most)))
    return space, Budget(**limits)


@QUICK
@given(spaces_with_budgets(), st.integers(0, 1000))
def test_best_submodel_is_the_best_of_all_that_fit(pair, seed):
    space, budget = pair
    tables, fitting = Tables(seed), brute_force(space, budget)
    if not fitting:
        with pytest.raises(InfeasibleBudget):
            best_submodel(space, tables, budget)
        return
    best = best_submodel(space, tables, budget)
    assert best in fitting
    assert score(tables, best) == pytest.approx(max(score(tables, config) for config in fitting), abs=1e-9)


@QUICK
@given(spaces_with_budgets(), st.sampled_from(METRICS))
def test_largest_submodel_is_the_largest_of_all_that_fit(pair, metric):
    space, budget = pair
    if fitting := brute_force(space, budget):
        largest = largest_submodel(space, budget, metric)
        assert largest in fitting
        assert space.cost_of(largest, metric) == max(space.cost_of(config, metric) for config in fitting)


@QUICK
@given(spaces_with_budgets(), st.integers(0, 1000), st.sampled_from(METRICS))
def test_every_point_of_the_front_is_the_best_up_to_its_cost(pair, seed, metric):
    space, _ = pair
    tables = Tables(seed)
    front = pareto_front(space, tables, metric, points=5)
    costs, values = [point.cost for point in front], [point.predicted.accuracy for point in front]
    assert costs == sorted(set(costs))
    assert values == sorted(values)
    assert values[-1] == pytest.approx(score(tables, best_submodel(space, tables)))
    for point in front:
        rivals = brute_force(space, Budget(**{f"max_{metric}": point.cost}))
        assert point.predicted.accuracy == pytest.approx(max(score(tables, config) for config in rivals))


@given(st.lists(st.floats(-5, 5) | st.just(-np.inf), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_highest_between_finds_the_highest_of_every_range(values, random):
    values = np.array(values)
    ends = [sorted(random.randint(0, len(values)) for _ in range(2)) for _ in range(30)]
    first, last = np.array(ends).T
    for i, j, found in zip(first, last, highest_between(values, first, last), strict=True):
        assert i <= found < j if i < j else found == 0
        assert i == j or values[found] == values[i:j].max()


@pytest.mark.parametrize(
    ("attention", "ffn"),
    [
        (((48, 32, 24),) * 3, ((128, 96, 64),) * 3),
        (((48, 32, 0),) * 3, ((128, 64, 0),) * 3),
        (((48, 32), (48, 0), (0,)), ((128, 96), (128, 64, 0), (64, 0))),
    ],
)
def test_best_submodel_of_a_fitted_predictor_is_the_best_by_its_own_predictions(attention, ffn):
    space = ElasticSpace((96, 64), attention, ffn, Costs())
    predictor = AccuracyPredictor.fit(make_rows(space, 120, 0.002), space)
    _, most = space.reach("parameters")
    for share in (0.6, 0.8, 1):
        budget = Budget(max_parameters=share * most)
        best = predictor.predict(best_submodel(space, predictor, budget)).accuracy
        rivals = brute_force(space, budget)
        assert best == pytest.approx(max(predictor.predict(config).accuracy for config in rivals), abs=1e-12)


def test_of_submodels_of_equal_size_the_largest_is_the_most_even():
    space = make_space()
    uneven, even = ((48,) * 3 + (24,) * 3), (40, 40, 32, 32, 40, 32)
    size = space.cost_of(SubmodelConfig(96, uneven, (128,) * 6), "parameters")
    largest = largest_submodel(space, Budget(max_parameters=size))
    assert size - space.cost_of(largest, "parameters") < 8 * 96 * 2
    for widths in (largest.attention, largest.ffn):
        assert len(set(widths)) <= 2
    assert sum(uneven) == sum(even)


def test_candidates_are_different_fit_and_start_with_the_best():
    space = make_space()
    limit = sum(space.reach("parameters")) // 2
    budget = Budget(max_parameters=limit)
    predictor = AccuracyPredictor.fit(make_rows(space, 100, 0.02), space)
    found = best_submodels(space, predictor, budget, 8, np.random.default_rng(0))
    assert found[0] == best_submodel(space, predictor, budget)
    assert len(set(found)) == len(found) == 8
    assert {config.hidden for config in found} == {96, 80, 64}
    assert all(space.cost_of(config, "parameters") <= limit for config in found)
    assert found == best_submodels(space, predictor, budget, 8, np.random.default_rng(0))
    assert found[:1] == best_submodels(space, predictor, budget, 1, np.random.default_rng(1))


def test_promising_submodels_are_of_all_sizes_and_not_the_best_alone():
    space = make_space()
    predictor = AccuracyPredictor.fit(make_rows(space, 100, 0.02), space)
    found = promising_submodels(space, predictor, 12, np.random.default_rng(0))
    assert found == promising_submodels(space, predictor, 12, np.random.default_rng(0))
    assert 6 <= len(set(found)) == len(found) <= 12
    assert not set(found) <= {point.config for point in pareto_front(space, predictor)}
    least, most = space.reach("parameters")
    sizes = [space.cost_of(config, "parameters") for config in found]
    assert sizes == sorted(sizes)
    assert (most - least) / 2 < sizes[-1] - sizes[0]
    chance = [predictor.predict(space.sample(None, np.random.default_rng(seed))).accuracy for seed in range(20)]
    assert np.mean([predictor.predict(config).accuracy for config in found]) > np.mean(chance)


def test_fewer_candidates_come_back_where_fewer_fit():
    space = make_space()
    least, _ = space.reach("parameters")
    assert best_submodels(space, Tables(0), Budget(max_parameters=least), 5, np.random.default_rng(0)) == [
        space.smallest()
    ]
    with pytest.raises(InfeasibleBudget, match="max_parameters"):
        best_submodels(space, Tables(0), Budget(max_parameters=least - 1), 5, np.random.default_rng(0))


def test_answers_of_a_large_space_take_less_than_two_seconds():
    layers = 12
    attention, ffn = ((*range(768, 599, -12),),) * layers, ((*range(3072, 1855, -64),),) * layers
    space = ElasticSpace(tuple(range(768, 551, -24)), attention, ffn, Costs())
    predictor = AccuracyPredictor.fit(make_rows(space, 60, 0.01), space)
    start = time.process_time()
    best_submodel(space, predictor, Budget(max_parameters=sum(space.reach("parameters")) / 2))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "call",
    [
        lambda space: pareto_front(space, Tables(0), "beauty"),
        lambda space: pareto_front(space, Tables(0), points=1),
        lambda space: largest_submodel(space, metric="beauty"),
        lambda space: largest_submodel(space, metric="peak_activation_bytes"),
        lambda space: best_submodels(space, Tables(0), None, 0, np.random.default_rng(0)),
        lambda space: promising_submodels(space, Tables(0), 0, np.random.default_rng(0)),
        lambda space: promising_submodels(space, Tables(0), 3, np.random.default_rng(0), "beauty"),
        lambda space: largest_submodel(ElasticSpace((4,), ((4,),), ((4,),))),
    ],
)
def test_what_cannot_be_searched_is_refused(call):
    with pytest.raises(ElasticSpaceError):
        call(make_space())
