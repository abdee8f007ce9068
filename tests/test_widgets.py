"""The budget explorer: its state does the right thing, and its widgets show it, errors included."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

import raffm_utils
from raffm_utils import Budget, BudgetExplorer, RaffmError, Supernet, load_submodel
from raffm_utils.explorer_state import ExplorerState
from raffm_utils.families import FAMILIES
from raffm_utils.space_file import ElasticSpec
from raffm_utils.submodel_folder import widths_of

CLASSES = 3
SHAPE = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, num_labels=CLASSES)
SPACE = {
    "residual_hidden_space": [16, 12, 8],
    "atten_out_space": [16, 12, 8, 4],
    "inter_hidden_space": [32, 24, 16, 8],
    "head_slicing": "per_head",
}


@dataclass
class Images:
    """Stands in for a `Split`."""

    rows: int = 40
    name: str = "pictures"
    split: str = "test"
    label_names: tuple[str, ...] = ("LABEL_0", "LABEL_1", "LABEL_2")

    def __len__(self) -> int:
        return self.rows

    def batches(self, batch_size: int):
        pixels = torch.randn(self.rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(self.rows) % CLASSES
        parts = zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
        return (({"pixel_values": x}, y) for x, y in parts)


class BrokenImages(Images):
    def batches(self, batch_size: int):
        raise RuntimeError("the <disk> is gone")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **SHAPE))
    return Supernet(model, FAMILIES["vit"], ElasticSpec.from_json(SPACE, "test"))


@pytest.fixture(scope="module")
def text_supernet() -> Supernet:
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **SHAPE))
    return Supernet(model, FAMILIES["bert"], ElasticSpec.from_json(SPACE, "test"))


@pytest.fixture
def state(supernet) -> ExplorerState:
    return ExplorerState(supernet, Images())


@pytest.fixture
def explorer(supernet) -> BudgetExplorer:
    return BudgetExplorer(supernet, Images())


# --- the state ---


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
    assert "max_parameters=10 is too low" in state.problem
    assert f"{state.smallest_cost.parameters:,}" in state.problem
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
    assert "nothing between these limits" in state.problem
    assert "min_parameters" in state.problem
    assert "max_macs" in state.problem


@pytest.mark.parametrize("value", [-1, float("nan"), -float("inf")])
def test_a_limit_that_is_no_number_is_explained(state, value):
    state.set_limit("macs", value)
    assert state.count == 0
    assert "max_macs" in state.problem


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
    assert state.export() is None
    assert "is not empty" in state.failure
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


def test_text_model_needs_a_token_count(text_supernet):
    with pytest.raises(RaffmError, match="tokens"):
        ExplorerState(text_supernet)
    short, long = (ExplorerState(text_supernet, tokens=tokens) for tokens in (8, 64))
    assert short.full_cost.macs < long.full_cost.macs
    long.set_limit("macs", 0.8 * long.full_cost.macs)
    assert 0 < long.count < long.total


# --- the widgets ---


def view_of(explorer: BudgetExplorer) -> str:
    return explorer.view.value.replace("<wbr>", "")


def problem_shown(explorer: BudgetExplorer) -> bool:
    return "No submodel fits" in explorer.view.value


def test_construction_shows_everything(explorer):
    assert f"{explorer.state.total:,}" in view_of(explorer)
    assert "<svg" in explorer.view.value
    for words in ("Parameters", "MACs", "Weights", "of the full network"):
        assert words in explorer.view.value
    assert all("no limit" in label.value for label in explorer.shares.values())
    assert "not been evaluated" in explorer.result.value


def test_lazy_names_of_the_package():
    assert set(raffm_utils.__all__) <= set(dir(raffm_utils))
    assert all(getattr(raffm_utils, name) is not None for name in raffm_utils.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        raffm_utils.nonsense  # noqa: B018


def test_sliders_reach_from_below_the_smallest_to_the_full_network(explorer):
    state = explorer.state
    for metric, slider in explorer.sliders.items():
        assert slider.min * 1e6 < getattr(state.smallest_cost, metric)
        assert slider.max * 1e6 >= getattr(state.full_cost, metric)
        assert slider.continuous_update
        assert 100 <= (slider.max - slider.min) / slider.step <= 1000


def test_dragging_updates_count_picture_costs_and_share(explorer):
    slider = explorer.sliders["parameters"]
    before = explorer.view.value
    slider.value = 0.7 * slider.max
    state = explorer.state
    assert 0 < state.count < state.total
    assert explorer.view.value != before
    assert f"{state.count:,}" in view_of(explorer)
    assert f"{state.cost.parameters / state.full_cost.parameters:.1%}" in explorer.view.value
    assert f"{state.limit('parameters') / state.full_cost.parameters:.1%}" in explorer.shares["parameters"].value


@pytest.mark.parametrize("metric", ["parameters", "macs"])
def test_left_end_explains_in_place_and_greys_the_picture(explorer, metric):
    slider = explorer.sliders[metric]
    slider.value = slider.min
    assert problem_shown(explorer)
    assert metric in explorer.view.value
    assert "opacity:0.3" in explorer.view.value
    assert explorer.draw_button.disabled
    assert explorer.evaluate_button.disabled
    assert explorer.export_button.disabled
    slider.value = slider.max
    assert not problem_shown(explorer)
    assert "opacity:1" in explorer.view.value
    assert not explorer.evaluate_button.disabled


def test_starting_budget_sets_the_sliders(supernet):
    full = supernet.cost(supernet.full)
    explorer = BudgetExplorer(supernet, budget=Budget(max_parameters=0.8 * full.parameters))
    slider = explorer.sliders["parameters"]
    assert 0 <= 0.8 * full.parameters / 1e6 - slider.value < slider.step
    assert explorer.state.budget.max_parameters == pytest.approx(1e6 * slider.value)
    assert explorer.sliders["macs"].value == explorer.sliders["macs"].max
    assert explorer.state.budget.max_macs is None


def test_sliders_stand_on_their_steps(supernet):
    for share in np.linspace(0.1, 1.1, 11):
        limits = {f"max_{m}": share * getattr(supernet.cost(supernet.full), m) for m in ("parameters", "macs")}
        for slider in BudgetExplorer(supernet, budget=Budget(**limits)).sliders.values():
            steps = (slider.value - slider.min) / slider.step
            assert steps == pytest.approx(round(steps), abs=1e-6)
            assert slider.min <= slider.value <= slider.max


def test_draw_button(explorer):
    before = explorer.config
    explorer.draw_button.click()
    assert explorer.config != before
    assert str(explorer.config.hidden) in explorer.view.value


def test_evaluate_button_shows_accuracy_interval_and_history(explorer):
    explorer.evaluate_button.click()
    (item,) = explorer.state.history
    assert f"Accuracy {item.accuracy:.1%}" in explorer.result.value
    assert "95% interval" in explorer.result.value
    assert "40 examples of pictures test" in explorer.result.value
    assert explorer.progress.value == explorer.progress.max == 40
    assert explorer.progress.layout.display == "none"
    assert "data:image/png;base64," in explorer.past.value
    assert not explorer.evaluate_button.disabled
    explorer.draw_button.click()
    assert "not been evaluated" in explorer.result.value
    explorer.evaluate_button.click()
    assert explorer.past.value.count("<tr>") == 3


def test_export_button_says_where_the_folder_is(supernet, tmp_path):
    explorer = BudgetExplorer(supernet, Images(), exports=tmp_path)
    explorer.export_button.click()
    (folder,) = tmp_path.iterdir()
    assert f"<code>{folder.as_posix()}</code>" in explorer.result.value
    assert widths_of(load_submodel(folder)) == explorer.config
    assert not explorer.export_button.disabled
    explorer.export_button.click()
    assert "is not empty" in explorer.result.value
    explorer.draw_button.click()
    assert "Exported" not in explorer.result.value


def test_failure_is_shown_in_place_and_escaped(supernet):
    explorer = BudgetExplorer(supernet, BrokenImages())
    explorer.evaluate_button.click()
    assert "the &lt;disk&gt; is gone" in explorer.result.value
    assert not explorer.evaluate_button.disabled
    assert explorer.progress.layout.display == "none"


def test_without_data_evaluate_says_what_to_do(supernet):
    explorer = BudgetExplorer(supernet)
    explorer.evaluate_button.click()
    assert "load_split" in explorer.result.value


def test_text_explorer(text_supernet):
    explorer = BudgetExplorer(text_supernet, tokens=16)
    explorer.sliders["macs"].value = 0.8 * explorer.sliders["macs"].max
    assert 0 < explorer.state.count < explorer.state.total


def test_space_with_one_submodel(supernet):
    spec = ElasticSpec.from_json({}, "test")
    rigid = Supernet(supernet.model, supernet.family, spec)
    explorer = BudgetExplorer(rigid, Images())
    assert explorer.state.count == 1
    explorer.sliders["parameters"].value = explorer.sliders["parameters"].min
    assert problem_shown(explorer)


def timed(action: Callable[[], None]) -> float:
    import time

    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def test_a_step_of_the_slider_is_quick_on_a_vit_base_space():
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=10))
    space = {
        "atten_out_space": list(range(768, 599, -12)),
        "inter_hidden_space": list(range(3072, 1855, -64)),
        "residual_hidden_space": list(range(768, 551, -24)),
    }
    explorer = BudgetExplorer(Supernet(model, FAMILIES["vit"], ElasticSpec.from_json(space, "published")))
    slider = explorer.sliders["parameters"]
    values = np.linspace(slider.min, slider.max, 40)
    seconds = [timed(lambda value=value: setattr(slider, "value", value)) for value in values]
    assert sorted(seconds)[len(seconds) // 2] < 0.1


def test_budget_keeps_the_limits_it_was_given(supernet):
    full = supernet.cost(supernet.full)
    given = Budget(max_weight_bytes=0.9 * full.weight_bytes)
    state = ExplorerState(supernet, budget=given)
    state.set_limit("macs", 0.8 * full.macs)
    assert state.budget == replace(given, max_macs=0.8 * full.macs)
