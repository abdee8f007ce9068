"""The widgets of the budget explorer show its state, errors included, and change it as they say."""

import threading
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.explorer import (
    BrokenImages,
    FlatLatency,
    Images,
    SlowImages,
    image_supernet,
    made_predictor,
    made_rows,
    text_supernet,
)
from ipywidgets import FloatLogSlider
from transformers import ViTConfig, ViTForImageClassification

import raffm_utils
from raffm_utils import Budget, BudgetExplorer, Supernet, load_submodel
from raffm_utils.deployment import widths_of
from raffm_utils.search import AccuracyPredictor
from raffm_utils.space import FAMILIES
from raffm_utils.supernet import ElasticSpec
from raffm_utils.widgets import BEST, LARGEST, RANDOM
from raffm_utils.widgets.still import still_figure


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return image_supernet()


@pytest.fixture(scope="module")
def measured_supernet() -> Supernet:
    supernet = image_supernet()
    supernet.latency = FlatLatency()
    return supernet


@pytest.fixture
def explorer(supernet) -> BudgetExplorer:
    return BudgetExplorer(supernet, Images())


@pytest.fixture(scope="module")
def predictor(measured_supernet) -> AccuracyPredictor:
    return made_predictor(measured_supernet)


@pytest.fixture
def panel(measured_supernet, predictor) -> BudgetExplorer:
    """Everything that there is."""
    return BudgetExplorer(measured_supernet, Images(), predictor=predictor, rows=made_rows(measured_supernet))


def shown_by(explorer: BudgetExplorer) -> str:
    parts = (explorer.count, *explorer.shares.values(), explorer.widths, explorer.predicted)
    return "\n".join(part.value for part in parts)


def view_of(explorer: BudgetExplorer) -> str:
    return shown_by(explorer).replace("<wbr>", "")


def problem_shown(explorer: BudgetExplorer) -> bool:
    return "No submodel fits" in shown_by(explorer)


def ends(slider) -> tuple[float, float]:
    return (10**slider.min, 10**slider.max) if isinstance(slider, FloatLogSlider) else (slider.min, slider.max)


def evaluate(explorer: BudgetExplorer) -> None:
    explorer.evaluate_button.click()
    if explorer.thread is not None:
        explorer.thread.join(60)


def test_construction_shows_everything(explorer):
    assert f"{explorer.state.total:,}" in view_of(explorer)
    assert "<svg" in shown_by(explorer)
    for words in ("Parameters", "MACs", "Weight memory", "Peak activations"):
        assert any(words in field.description for field in explorer.fields.values())
    assert len(explorer.fields) == 4
    assert "Predicted" not in shown_by(explorer)
    assert all("no limit" in label.value for label in explorer.shares.values())
    assert "not been evaluated" in explorer.result.value
    assert explorer.past.value == ""


def test_the_whole_panel_shows_everything(panel):
    assert list(panel.sliders) == ["parameters", "macs", "latency_ms", "weight_bytes", "peak_activation_bytes"]
    predicted = panel.state.predicted
    assert f"Predicted accuracy {predicted.accuracy:.1%}" in shown_by(panel)
    assert f"90% interval {predicted.low:.1%} to {predicted.high:.1%}" in shown_by(panel)
    assert f"{len(panel.state.rows)} submodels of a stored sweep" in panel.curve.ground
    assert panel.past.value == ""
    assert panel.policy.value == BEST


def test_lazy_names_of_the_package():
    assert set(raffm_utils.__all__) <= set(dir(raffm_utils))
    assert all(getattr(raffm_utils, name) is not None for name in raffm_utils.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        raffm_utils.nonsense  # noqa: B018


def test_dragging_updates_count_picture_costs_and_share(panel):
    for key, slider in panel.sliders.items():
        before, (low, high) = shown_by(panel), ends(slider)
        slider.value = 0.3 * low + 0.7 * high
        state = panel.state
        assert 0 < state.count < state.total
        assert shown_by(panel) != before
        assert f"{state.count:,}" in view_of(panel)
        assert f"{getattr(state.cost, key) / getattr(state.full_cost, key):.1%}" in shown_by(panel)
        assert f"{state.limit(key) / getattr(state.full_cost, key):.1%}" in panel.shares[key].value
        assert f"Predicted accuracy {state.predicted.accuracy:.1%}" in shown_by(panel)
        slider.value = high


@pytest.mark.parametrize("key", ["parameters", "macs", "latency_ms", "weight_bytes", "peak_activation_bytes"])
def test_left_end_explains_in_place_and_greys_the_picture(panel, key):
    slider = panel.sliders[key]
    slider.value, high = ends(slider)
    assert problem_shown(panel)
    assert "at least" in panel.shares[key].value
    assert panel.curve.said == "nothing fits"
    assert "opacity:0.3" in shown_by(panel)
    buttons = (panel.draw_button, panel.evaluate_button, panel.export_button)
    assert all(button.disabled for button in buttons)
    slider.value = high
    assert not problem_shown(panel)
    assert "opacity:1" in shown_by(panel)
    assert not any(button.disabled for button in buttons)


def test_starting_budget_is_kept_exactly_and_sets_the_sliders(supernet):
    full = supernet.cost(supernet.full)
    explorer = BudgetExplorer(supernet, budget=Budget(max_parameters=0.8 * full.parameters))
    slider = explorer.sliders["parameters"]
    assert 0 <= 0.8 * full.parameters / 1e6 - slider.value < slider.step
    assert explorer.state.budget.max_parameters == 0.8 * full.parameters
    assert "80.0%" in explorer.shares["parameters"].value
    assert explorer.sliders["macs"].value == pytest.approx(ends(explorer.sliders["macs"])[1])
    assert explorer.state.budget.max_macs is None


def test_the_step_that_a_browser_answers_with_changes_nothing(explorer):
    explorer.preset.value = "Jetson AGX Orin"
    budget = explorer.state.budget
    slider = explorer.sliders["parameters"]
    assert slider.value * 1e6 <= budget.max_parameters
    slider.value = np.nextafter(slider.value, 0)
    assert explorer.state.budget == budget
    assert explorer.preset.value == "Jetson AGX Orin"


def test_a_preset_moves_the_sliders_and_a_hand_takes_it_back(explorer):
    parameters, macs = explorer.sliders["parameters"], explorer.sliders["macs"]
    macs.value = 0.5 * sum(ends(macs))
    own = explorer.shares["macs"].value.split("<br>")[0]
    explorer.preset.value = "Dell XPS 15"
    assert 0.7 * explorer.state.full_cost.parameters / 1e6 - parameters.value < parameters.step
    assert "70.0%" in explorer.shares["parameters"].value
    assert own in explorer.shares["macs"].value, "a device leaves other limits alone"
    macs.value = 0.6 * sum(ends(macs))
    assert explorer.preset.value == "own limits"
    assert "70.0%" in explorer.shares["parameters"].value
    explorer.lift_button.click()
    assert explorer.state.budget == Budget()
    assert all(slider.value == pytest.approx(ends(slider)[1]) for slider in explorer.sliders.values())
    assert all(field.value == "" for field in explorer.fields.values())


def test_a_device_is_taken_off_again(explorer):
    explorer.fields["macs"].value = "90%"
    budget = explorer.state.budget
    explorer.preset.value = "Dell XPS 15"
    explorer.preset.value = "own limits"
    assert explorer.state.budget == budget


def test_limits_are_typed(explorer):
    field, slider, full = explorer.fields["macs"], explorer.sliders["macs"], explorer.state.full_cost.macs
    field.value = "50%"
    assert explorer.state.budget.max_macs == 0.5 * full
    assert field.value == f"{0.5 * full / 1e6:.3g}"
    assert slider.value < ends(slider)[1]
    field.value = "a lot"
    assert "is not a number" in explorer.shares["macs"].value
    assert explorer.state.budget.max_macs == 0.5 * full
    field.value = ""
    assert explorer.state.budget.max_macs is None
    assert "no limit" in explorer.shares["macs"].value


def ask(explorer: BudgetExplorer, **content: float) -> None:
    explorer.curve._handle_custom_msg(content, [])


def test_keys_go_along_the_front_and_the_slider_follows(panel):
    ask(panel, steps=-999)
    front, sizes = panel.state.front, []
    for point in front[:3]:
        assert panel.state.config == point.config
        assert panel.state.budget.max_parameters == point.cost
        assert point.predicted == panel.state.predicted
        assert panel.state.size.text(point.cost) in panel.curve.said
        sizes.append(panel.sliders["parameters"].value)
        ask(panel, steps=1)
    assert sizes == sorted(set(sizes))
    ask(panel, steps=999)
    assert panel.state.budget.max_parameters is None


def test_a_click_on_the_curve_sets_the_size(panel, explorer):
    for one in (panel, explorer):
        sizes = []
        for x in (400, 300, 200):
            ask(one, x=x)
            sizes.append(one.state.budget.max_parameters)
            assert one.state.cost.parameters <= sizes[-1]
        assert sizes == sorted(sizes, reverse=True)
        assert one.sliders["parameters"].value <= sizes[-1] / 1e6 * (1 + 1e-9)


def test_only_what_moves_is_drawn_again(panel):
    ground, over = panel.curve.ground, panel.curve.over
    panel.fields["parameters"].value = "60%"
    assert panel.curve.ground == ground
    assert panel.curve.over != over
    evaluate(panel)
    assert panel.curve.ground != ground


def test_two_are_held_side_by_side(explorer):
    evaluate(explorer)
    explorer.hold_button.click()
    assert explorer.hold_button.description == "Let go"
    explorer.draw_button.click()
    assert "for their paired difference" in explorer.result.value
    assert explorer.hold_button.description == "Hold"
    evaluate(explorer)
    found = explorer.state.difference
    assert found.examples == 40
    assert f"{100 * found.difference:+.1f} points" in explorer.result.value
    assert "held for comparison" in explorer.curve.over


def test_the_cell_keeps_a_picture_for_those_without_a_kernel(panel, monkeypatch):
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda output, **_: shown.append(output))
    panel.fields["parameters"].value = "60%"
    panel._ipython_display_()
    live, still = shown
    assert "application/vnd.jupyter.widget-view+json" in live
    assert b64decode(still["image/png"]).startswith(b"\x89PNG")
    assert "  Parameters at most" in still["text/plain"]
    assert f"{panel.state.count:,} submodels fit" in still["text/plain"]
    assert f"predicted accuracy {panel.state.predicted}" in still["text/plain"]


def test_the_picture_shows_what_the_curve_does(panel):
    figure = still_figure(panel.state)
    widths, curve = (part.axes[0] for part in figure.subfigs)
    names = [text.get_text() for text in curve.get_legend().get_texts()]
    assert names == ["stored sweep", "best predicted", "shown"]
    assert len(curve.collections[0].get_offsets()) == len(panel.state.rows)
    assert curve.get_xlabel() == "Parameters (M)"
    assert len(widths.patches) == 2 * (1 + 2 * len(panel.state.full.attention))


def test_policies(panel, explorer):
    assert explorer.policy.options == (RANDOM, LARGEST)
    panel.sliders["parameters"].value *= 0.8
    best = panel.state.predicted.accuracy
    panel.policy.value = LARGEST
    assert panel.draw_button.disabled
    largest = panel.state.cost.parameters
    assert panel.state.predicted.accuracy <= best
    panel.policy.value = RANDOM
    assert not panel.draw_button.disabled
    assert panel.state.cost.parameters <= largest
    panel.policy.value = BEST
    assert panel.state.predicted.accuracy == best


def test_a_note_of_the_predictor_is_shown_and_escaped(panel, monkeypatch):
    found = panel.state.predicted
    monkeypatch.setattr(
        type(panel.state.predictor), "predict", lambda *_: type(found)(0.9, 0.8, 0.95, "outside the <data>")
    )
    panel.draw_button.click()
    assert "outside the &lt;data&gt;" in shown_by(panel)


def test_draw_button(explorer):
    before = explorer.config
    explorer.draw_button.click()
    assert explorer.config != before
    assert str(explorer.config.hidden) in shown_by(explorer)


def test_code_is_that_of_the_shown_submodel(explorer):
    for _ in range(3):
        explorer.draw_button.click()
        config = explorer.config
        assert f"SubmodelConfig({config.hidden}, {config.attention}, {config.ffn})" in explorer.code.value
        assert "<details" in explorer.code.value


def test_evaluate_button_shows_accuracy_interval_and_history(explorer):
    evaluate(explorer)
    (item,) = explorer.state.history
    assert f"Accuracy {item.accuracy:.1%}" in explorer.result.value
    assert "95% interval" in explorer.result.value
    assert "40 examples of pictures test" in explorer.result.value
    assert explorer.progress.value == explorer.progress.max == 40
    assert explorer.progress.layout.display == "none"
    assert "evaluated: " in explorer.curve.over
    assert not explorer.evaluate_button.disabled
    explorer.draw_button.click()
    assert "not been evaluated" in explorer.result.value
    evaluate(explorer)
    assert explorer.past.value.count("<tr>") == 3
    evaluate(explorer)
    assert len(explorer.state.history) == 2


def test_sliders_are_heard_and_cancel_works_while_an_evaluation_runs(supernet):
    data = SlowImages()
    explorer = BudgetExplorer(supernet, data)
    assert explorer.cancel_button.disabled
    explorer.evaluate_button.click()
    assert data.asked.wait(60)
    assert not explorer.cancel_button.disabled
    assert explorer.evaluate_button.disabled
    assert explorer.progress.layout.display == ""
    assert (explorer.progress.value, explorer.progress.max) == (32, 100)
    assert "Evaluating this submodel" in explorer.result.value
    slider, before = explorer.sliders["parameters"], shown_by(explorer)
    slider.value = 0.5 * sum(ends(slider))
    assert shown_by(explorer) != before
    explorer.draw_button.click()
    assert "a submodel shown before" in explorer.result.value
    explorer.cancel_button.click()
    assert "Cancelling" in explorer.result.value
    data.go.set()
    explorer.thread.join(60)
    assert explorer.state.history == []
    assert "cancelled" in explorer.result.value
    assert explorer.cancel_button.disabled
    assert not explorer.evaluate_button.disabled
    assert explorer.progress.layout.display == "none"
    evaluate(explorer)
    assert len(explorer.state.history) == 1


def test_widgets_agree_with_the_state_after_a_storm_of_events(supernet):
    explorer = BudgetExplorer(supernet, Images(rows=200))
    rng = np.random.default_rng(0)
    low, high = ends(explorer.sliders["parameters"])
    for _ in range(15):
        explorer.evaluate_button.click()
        for _ in range(5):
            explorer.sliders["parameters"].value = low + (high - low) * rng.uniform(0.3, 1)
        if rng.random() < 0.5:
            explorer.cancel_button.click()
    if explorer.thread is not None:
        explorer.thread.join(60)
    state = explorer.state
    assert state.measurement is None
    assert f"{state.count:,}" in view_of(explorer)
    assert f"hidden {state.config.hidden};" in shown_by(explorer)
    assert explorer.past.value.count("<tr>") == len(state.history) + bool(state.history)
    assert not [thread for thread in threading.enumerate() if thread is explorer.thread]


def test_export_button_says_where_the_folder_is(supernet, tmp_path):
    explorer = BudgetExplorer(supernet, Images(), exports=tmp_path)
    explorer.export_button.click()
    explorer.export_button.click()
    (folder,) = tmp_path.iterdir()
    assert f"<code>{folder.as_posix()}</code>" in explorer.result.value
    assert widths_of(load_submodel(folder)) == explorer.config
    assert not explorer.export_button.disabled
    explorer.draw_button.click()
    assert "Exported" not in explorer.result.value


def test_failure_is_shown_in_place_and_escaped(supernet):
    explorer = BudgetExplorer(supernet, BrokenImages())
    evaluate(explorer)
    assert "the &lt;disk&gt; is gone" in explorer.result.value
    assert not explorer.evaluate_button.disabled
    assert explorer.progress.layout.display == "none"


def test_without_data_evaluate_says_what_to_do(supernet):
    explorer = BudgetExplorer(supernet)
    evaluate(explorer)
    assert "load_split" in explorer.result.value


def test_text_explorer():
    supernet = text_supernet()
    supernet.tokens = 16
    explorer = BudgetExplorer(supernet, predictor=made_predictor(supernet))
    assert list(explorer.sliders) == [
        "parameters",
        "encoder_parameters",
        "macs",
        "weight_bytes",
        "peak_activation_bytes",
    ]
    assert explorer.state.size.key == "encoder_parameters"
    low, high = ends(explorer.sliders["macs"])
    explorer.sliders["macs"].value = 0.3 * low + 0.7 * high
    assert 0 < explorer.state.count < explorer.state.total
    assert "Predicted accuracy" in shown_by(explorer)


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


@pytest.mark.parametrize("policy", [BEST, RANDOM, LARGEST])
def test_a_step_of_the_slider_is_quick_on_a_vit_base_space(policy):
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=10))
    space = {
        "atten_out_space": list(range(768, 599, -12)),
        "inter_hidden_space": list(range(3072, 1855, -64)),
        "residual_hidden_space": list(range(768, 551, -24)),
    }
    supernet = Supernet(model, FAMILIES["vit"], ElasticSpec.from_json(space, "published"))
    explorer = BudgetExplorer(supernet, predictor=made_predictor(supernet))
    explorer.policy.value = policy
    slider = explorer.sliders["parameters"]
    values = np.linspace(slider.min, slider.max, 20)
    seconds = [timed(lambda value=value: setattr(slider, "value", value)) for value in values]
    print(f"{policy}: median {1000 * np.median(seconds):.0f} ms, slowest {1000 * max(seconds):.0f} ms")
    assert np.median(seconds) < 0.1
