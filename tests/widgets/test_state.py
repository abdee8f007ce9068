"""The state of the budget explorer does the right thing, without any widget."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.explorer import (
    CLASSES,
    BrokenImages,
    FlatLatency,
    Images,
    SlowImages,
    image_supernet,
    made_predictor,
    text_supernet,
)

from raffm_utils import Budget, RaffmError, Supernet, load_submodel
from raffm_utils.deployment import widths_of
from raffm_utils.search import best_submodel, largest_submodel
from raffm_utils.space import DEVICE_CAPS
from raffm_utils.widgets import BEST, LARGEST, RANDOM, ExplorerState
from raffm_utils.widgets.view import count_html, widths_html


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return image_supernet()


@pytest.fixture(scope="module")
def predictor(supernet):
    return made_predictor(supernet)


@pytest.fixture
def state(supernet) -> ExplorerState:
    return ExplorerState(supernet, Images())


def test_starts_without_a_limit(state, supernet):
    assert state.count == state.total == supernet.space.count() == 3 * 4**6
    assert state.problem == state.failure == ""
    assert state.config in supernet.space
    assert state.limit("parameters") == supernet.cost(supernet.full).parameters


def test_count_and_draw_follow_both_limits(state, supernet):
    rng = np.random.default_rng(1)
    full = state.full_cost
    for _ in range(50):
        parameters, macs = rng.uniform(0.5, 1, size=2)
        state.set_limit("parameters", parameters * full.parameters)
        state.set_limit("macs", macs * full.macs)
        budget = Budget(max_parameters=parameters * full.parameters, max_macs=macs * full.macs)
        assert state.count == supernet.space.count(budget)
        if state.count:
            assert state.cost.parameters <= parameters * full.parameters
            assert state.cost.macs <= macs * full.macs
        assert bool(state.problem) == (state.count == 0)


def test_full_cost_or_more_is_no_limit(state):
    state.set_limit("parameters", state.smallest_cost.parameters)
    assert state.count == 1
    state.set_limit("parameters", state.full_cost.parameters)
    assert state.budget.max_parameters is None
    assert state.count == state.total


def test_same_budget_shows_the_same_submodel(state):
    state.set_limit("parameters", 0.7 * state.full_cost.parameters)
    first = state.config
    state.set_limit("parameters", 0.6 * state.full_cost.parameters)
    state.set_limit("parameters", 0.7 * state.full_cost.parameters)
    assert state.config == first


def test_draw_gives_others_from_the_same_budget(state):
    state.set_limit("parameters", 0.7 * state.full_cost.parameters)
    count, seen = state.count, {state.config}
    for _ in range(10):
        state.draw()
        seen.add(state.config)
        assert state.cost.parameters <= 0.7 * state.full_cost.parameters
    assert len(seen) > 8
    assert state.count == count


def test_generator_decides_the_draws(supernet):
    first, second, other = (ExplorerState(supernet, rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.config == second.config != other.config


def test_nothing_fits_keeps_the_last_submodel_and_says_why(state):
    state.set_limit("parameters", 0.7 * state.full_cost.parameters)
    last = state.config
    state.set_limit("parameters", 10)
    assert state.count == 0
    assert state.config == last
    assert state.problem == f"Parameters: {state.wrong['parameters']}"
    assert state.wrong["parameters"] == "at least 0.00261\u00a0M"
    state.draw()
    assert state.count == 0
    assert state.config == last
    state.set_limit("parameters", state.smallest_cost.parameters)
    assert state.problem == ""
    assert state.count == 1


def test_limits_that_contradict_each_other(supernet):
    full = supernet.cost(supernet.full)
    state = ExplorerState(supernet, budget=Budget(min_parameters=0.95 * full.parameters))
    assert 0 < state.count < state.total
    state.set_limit("macs", 0.5 * full.macs)
    assert state.count == 0
    assert "not all of them together" in state.problem
    assert "Parameters at least" in state.problem
    assert "MACs at most" in state.problem
    assert state.wrong == {}


@pytest.mark.parametrize("value", [-1, float("nan"), -float("inf")])
def test_a_limit_that_is_no_number_is_explained(state, value):
    state.set_limit("macs", value)
    assert state.count == 0
    assert state.problem.startswith("MACs: ")
    assert state.wrong == {"macs": "give a number above 0"}


def test_budget_that_is_impossible_from_the_start(supernet):
    state = ExplorerState(supernet, budget=Budget(max_parameters=1))
    assert state.count == 0
    assert state.problem
    assert state.config == supernet.space.smallest()


def test_evaluate_measures_the_shown_submodel_once(state):
    steps: list[tuple[int, int]] = []
    item = state.evaluate(lambda done, total: steps.append((done, total)))
    assert item is not None
    assert item.config == state.config
    assert 0 <= item.low <= item.accuracy <= item.high <= 1
    assert item.examples == 40
    assert (item.parameters, item.macs) == (state.cost.parameters, state.cost.macs)
    assert steps[-1] == (40, 40)
    assert state.evaluated is item
    assert state.evaluate() is item
    assert state.history == [item]


def test_history_grows_and_finds_earlier_ones(state):
    first = state.evaluate()
    limit = state.limit("parameters")
    state.set_limit("parameters", first.parameters - 1)
    assert state.evaluated is None
    second = state.evaluate()
    assert state.history == [first, second]
    state.set_limit("parameters", limit)
    assert state.evaluated is first


def test_evaluate_does_not_touch_the_supernet(state, supernet):
    before = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
    state.evaluate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.model.state_dict().items())


def test_evaluate_without_data_is_explained(supernet):
    state = ExplorerState(supernet)
    assert state.evaluate() is None
    assert "load_split" in state.failure
    assert state.problem == ""


def test_evaluation_that_fails_is_explained_and_forgotten_by_the_next_step(supernet):
    state = ExplorerState(supernet, BrokenImages())
    assert state.evaluate() is None
    assert "the <disk> is gone" in state.failure
    assert state.history == []
    assert state.count == state.total
    state.draw()
    assert state.failure == ""


def test_export_writes_the_shown_submodel_once(supernet, tmp_path):
    state = ExplorerState(supernet, Images(), exports=tmp_path)
    folder = state.export()
    assert folder == state.exported
    assert folder.parent == tmp_path
    assert str(state.cost.parameters) in folder.name
    again = load_submodel(folder)
    assert widths_of(again) == state.config
    assert again.config.num_labels == CLASSES
    assert state.export() == folder
    assert len(list(tmp_path.iterdir())) == 1
    assert ExplorerState(supernet, exports=tmp_path).export().name == f"{folder.name}-2", "made by another panel"
    first = state.config
    state.draw()
    assert state.config != first
    assert state.exported is None
    assert state.export() not in (None, folder)


def test_export_that_fails_is_explained(supernet, tmp_path):
    (tmp_path / "file").write_text("")
    state = ExplorerState(supernet, Images(), exports=tmp_path / "file")
    assert state.export() is None
    assert "cannot be written" in state.failure
    assert state.exported is None


def test_text_model_needs_a_token_count():
    supernet = text_supernet()
    with pytest.raises(RaffmError, match="tokens"):
        ExplorerState(supernet)
    supernet.tokens = 8
    short = ExplorerState(supernet)
    supernet.tokens = 64
    long = ExplorerState(supernet)
    assert short.full_cost.macs < long.full_cost.macs
    long.set_limit("macs", 0.8 * long.full_cost.macs)
    assert 0 < long.count < long.total


def test_budget_keeps_the_limits_it_was_given(supernet):
    full = supernet.cost(supernet.full)
    given = Budget(max_weight_bytes=0.9 * full.weight_bytes)
    state = ExplorerState(supernet, budget=given)
    state.set_limit("macs", 0.8 * full.macs)
    assert state.budget == replace(given, max_macs=0.8 * full.macs)


# --- what can be limited ---


def test_every_known_cost_can_be_limited_exactly(supernet):
    state = ExplorerState(supernet)
    assert [m.key for m in state.metrics] == ["parameters", "macs", "weight_bytes", "peak_activation_bytes"]
    for metric in state.metrics:
        smallest, full = metric.of(state.smallest_cost), metric.of(state.full_cost)
        state = ExplorerState(supernet)
        state.set_limit(metric.key, (smallest + full) / 2)
        assert 0 < state.count < state.total
        assert state.count == supernet.space.count(state.budget)
        assert metric.of(state.cost) <= (smallest + full) / 2


def test_latency_can_be_limited_where_it_was_measured():
    supernet = image_supernet()
    supernet.latency = FlatLatency()
    state = ExplorerState(supernet)
    assert "latency_ms" in [m.key for m in state.metrics]
    middle = (state.smallest_cost.latency_ms + state.full_cost.latency_ms) / 2
    state.set_limit("latency_ms", middle)
    assert 0 < state.count < state.total
    assert state.cost.latency_ms <= middle


# --- devices ---


def test_presets_are_the_devices_of_the_published_settings(state):
    assert list(state.presets) == list(DEVICE_CAPS)
    state.set_preset("Jetson AGX Orin")
    assert state.preset == "Jetson AGX Orin"
    assert state.limit("parameters") == pytest.approx(0.85 * state.full_cost.parameters)
    assert state.cost.parameters <= 0.85 * state.full_cost.parameters
    state.set_preset("V100")
    assert state.count == state.total


def test_a_preset_keeps_limits_of_other_kinds_and_gives_back_those_of_its_own(state):
    macs, parameters = 0.9 * state.full_cost.macs, 0.8 * state.full_cost.parameters
    state.set_limit("macs", macs)
    state.set_limit("parameters", parameters)
    own = state.budget
    for device in ("Dell XPS 15", "V100"):
        state.set_preset(device)
        assert state.budget.max_macs == macs
        assert state.limit("parameters") == pytest.approx(DEVICE_CAPS[device] * state.full_cost.parameters)
    state.set_preset(None)
    assert state.budget == own
    state.set_preset("Dell XPS 15")
    state.set_limit("macs", 0.8 * state.full_cost.macs)
    assert state.preset is None
    assert state.limit("parameters") == pytest.approx(0.7 * state.full_cost.parameters)
    budget = state.budget
    state.set_preset(None)
    assert state.budget == budget
    state.lift()
    assert state.budget == Budget()
    assert state.count == state.total


def test_presets_of_ones_own_may_limit_several_costs_at_once(supernet):
    full = supernet.cost(supernet.full)
    watch = Budget(max_weight_bytes=0.8 * full.weight_bytes, max_macs=0.7 * full.macs)
    state = ExplorerState(supernet, presets={"watch": watch}, budget=Budget(min_parameters=10))
    state.set_preset("watch")
    assert state.budget == replace(watch, min_parameters=10)
    assert state.count == supernet.space.count(state.budget) > 0


def test_a_device_with_too_little_room_says_so(supernet):
    state = ExplorerState(supernet, presets={"button": Budget(max_parameters=5)})
    state.set_preset("button")
    assert state.count == 0
    assert "Parameters: at least" in state.problem


# --- every limit in force ---


def test_a_limit_without_embeddings_has_its_slider_where_they_are_the_size_or_limited(supernet):
    words = text_supernet()
    words.tokens = 8
    assert "encoder_parameters" in [metric.key for metric in ExplorerState(words).metrics]
    assert "encoder_parameters" not in [metric.key for metric in ExplorerState(supernet).metrics]
    limited = ExplorerState(supernet, budget=Budget(max_encoder_parameters=1e9))
    assert "encoder_parameters" in [metric.key for metric in limited.metrics]


def test_whatever_is_limited_can_be_seen_and_lifted(supernet):
    full = supernet.cost(supernet.full)
    state = ExplorerState(supernet, budget=Budget(min_parameters=0.9 * full.parameters))
    assert state.count < state.total
    assert f"Also: Parameters at least {state.size.text(0.9 * full.parameters)}" in count_html(state)
    state.lift()
    assert state.count == state.total
    assert "Also" not in count_html(state)


@pytest.mark.parametrize("metric", ["parameters", "macs", "weight_bytes", "peak_activation_bytes"])
def test_the_amount_that_is_said_to_be_the_least_is_enough(supernet, metric):
    state = ExplorerState(supernet)
    state.set_limit(metric, 1)
    assert state.count == 0
    known = next(known for known in state.metrics if known.key == metric)
    state.type_limit(metric, state.wrong[metric].removeprefix("at least "))
    assert state.count > 0
    assert state.limit(metric) == pytest.approx(known.of(state.smallest_cost), rel=0.01)


# --- what is in reach, and the front ---


def test_reach_is_that_of_all_limits_together(supernet):
    state = ExplorerState(supernet)
    full = state.full_cost
    assert state.reach == (state.smallest_cost.parameters, full.parameters)
    state.set_limit("macs", 0.6 * full.macs)
    largest = largest_submodel(supernet.space, state.budget)
    assert state.reach[1] == supernet.cost(largest).parameters < full.parameters
    state.set_limit("macs", 1)
    assert state.reach is None


def test_a_place_near_the_front_means_its_point(supernet, predictor):
    state = ExplorerState(supernet, predictor=predictor)
    point = state.front[len(state.front) // 2]
    state.choose_size(point.cost * 1.0001)
    assert state.budget.max_parameters == point.cost
    assert state.config == point.config
    assert len(ExplorerState(supernet).front) == 0


def test_every_step_along_the_front_shows_another_point(supernet, predictor):
    state = ExplorerState(supernet, predictor=predictor)
    for point in reversed(state.front[:-1]):
        state.move(-1)
        assert state.config == point.config
    state.choose_size((state.front[1].cost + state.front[2].cost) / 2)
    state.move(-1)
    assert state.config == state.front[0].config
    state.move(1)
    assert state.config == state.front[1].config


def test_steps_without_a_front_reach_both_ends(state):
    state.move(-1)
    assert state.cost.parameters <= state.limit("parameters") < state.full_cost.parameters
    state.move(-1000)
    assert state.count == 1
    state.move(1000)
    assert state.budget == Budget()


def test_two_evaluated_submodels_have_a_paired_difference(state):
    first = state.evaluate()
    state.hold()
    assert state.difference is None, "it is the one held"
    state.draw()
    assert state.difference is None, "not evaluated yet"
    second = state.evaluate()
    assert state.difference.difference == pytest.approx(second.accuracy - first.accuracy)
    assert state.known_of_held is first
    state.hold()
    state.hold()
    assert state.held is None


# --- policies ---


def test_only_a_predictor_knows_the_best(supernet, predictor):
    without, with_one = ExplorerState(supernet), ExplorerState(supernet, predictor=predictor)
    assert (without.policies, without.policy, without.predicted) == ((RANDOM, LARGEST), RANDOM, None)
    assert (with_one.policies, with_one.policy) == ((BEST, RANDOM, LARGEST), BEST)
    assert with_one.predicted == predictor.predict(with_one.config)


def test_best_predicted_is_shown_again_after_every_change(supernet, predictor):
    state = ExplorerState(supernet, predictor=predictor)
    for share in (0.9, 0.8, 0.7):
        state.set_limit("parameters", share * state.full_cost.parameters)
        assert state.config == best_submodel(supernet.space, predictor, state.budget)
        assert state.predicted == predictor.predict(state.config)
        best, seen = state.predicted.accuracy, set()
        for _ in range(8):
            state.draw()
            seen.add(state.config)
            assert (state.chosen.place > 0) == (state.config != best_submodel(supernet.space, predictor, state.budget))
            assert state.predicted.accuracy <= best
            assert state.cost.parameters <= share * state.full_cost.parameters
        assert len(seen) > 1


def test_largest_that_fits(state, supernet):
    state.set_policy(LARGEST)
    assert state.config == supernet.space.largest()
    assert not state.can_draw
    state.set_limit("parameters", 0.7 * state.full_cost.parameters)
    largest = state.cost.parameters
    assert largest <= 0.7 * state.full_cost.parameters
    state.set_policy(RANDOM)
    assert state.can_draw
    for _ in range(50):
        state.draw()
        assert state.cost.parameters <= largest


@pytest.mark.parametrize("policy", [BEST, RANDOM, LARGEST])
def test_every_policy_keeps_to_the_joint_budget_and_explains_an_impossible_one(supernet, predictor, policy):
    state, rng = ExplorerState(supernet, predictor=predictor), np.random.default_rng(3)
    state.set_policy(policy)
    for _ in range(20):
        for metric in state.metrics:
            state.set_limit(metric.key, rng.uniform(0.6, 1) * metric.of(state.full_cost))
        assert bool(state.problem) == (state.count == 0)
        if state.count:
            assert all(metric.of(state.cost) <= state.limit(metric.key) for metric in state.metrics)
    state.set_limit("parameters", 1)
    assert state.count == 0
    assert "at least" in state.problem
    assert not state.can_draw


# --- evaluation beside other work ---


def test_an_evaluation_can_be_cancelled_and_leaves_nothing_behind(supernet):
    state = ExplorerState(supernet, Images(rows=100))
    assert state.evaluate(lambda done, total: state.cancel()) is None
    assert state.history == []
    assert state.measurement is None
    assert "cancelled after 64 of 100" in state.failure
    state.cancel()  # nothing is under way: nothing happens
    assert state.evaluate() is not None
    assert state.failure == ""


def test_progress_may_cancel_by_raising(supernet):
    class Enough(Exception):
        pass

    def enough(done: int, total: int) -> None:
        raise Enough("that will do")

    state = ExplorerState(supernet, Images())
    assert state.evaluate(enough) is None
    assert "that will do" in state.failure
    assert state.measurement is None


def test_what_is_shown_may_change_while_another_submodel_is_evaluated(supernet):
    data = SlowImages()
    state = ExplorerState(supernet, data)
    shown = state.config
    assert state.begin()
    thread = threading.Thread(target=state.finish)
    thread.start()
    assert data.asked.wait(60)
    assert not state.begin(), "one at a time"
    assert state.evaluate() is None
    assert state.measurement.done == 32
    state.set_limit("parameters", state.cost.parameters - 1)
    assert state.config != shown
    data.go.set()
    thread.join(60)
    assert [item.config for item in state.history] == [shown]
    assert state.history[0].cost == supernet.cost(shown)
    assert state.evaluated is None
    assert state.measurement is None


def test_a_cancel_is_heard_from_another_thread(supernet):
    data = SlowImages()
    state = ExplorerState(supernet, data)
    state.begin()
    thread = threading.Thread(target=state.finish)
    thread.start()
    assert data.asked.wait(60)
    state.cancel()
    data.go.set()
    thread.join(60)
    assert state.history == []
    assert "cancelled" in state.failure
    assert torch.is_inference_mode_enabled() is False


def test_begin_without_data_or_twice(supernet):
    state = ExplorerState(supernet)
    assert not state.begin()
    assert "load_split" in state.failure
    assert state.finish() is None


def test_blocks_that_may_be_left_out_are_counted_and_shown(supernet, tmp_path):
    optional = image_supernet(atten_out_space=[16, 8, 0], inter_hidden_space=[32, 16, 0])
    state = ExplorerState(optional, Images(), exports=tmp_path)
    assert state.total == 3 * 3**6
    least, most = optional.space.reach("parameters")
    state.set_limit("parameters", least + 0.3 * (most - least))
    present = state.config.totals.attention_blocks + state.config.totals.ffn_blocks
    assert present < 6
    assert f"{6 - present} blocks left out" in widths_html(state)
    assert "left out</text>" not in widths_html(ExplorerState(supernet)), "nothing can be left out there"
    assert state.evaluate() is not None
    model = optional.extract(state.config)
    assert sum(p.numel() for p in model.parameters()) == state.cost.parameters
