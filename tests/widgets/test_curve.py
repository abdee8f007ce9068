"""The curve places what it shows, and is well formed whatever is known."""

from xml.etree import ElementTree

import pytest
from helpers.explorer import Images, image_supernet, made_predictor, made_rows, text_supernet

from raffm_utils import Budget, Supernet
from raffm_utils.widgets import ExplorerState
from raffm_utils.widgets.curve import BOTTOM, HIGH, LEFT, RIGHT, TOP, WIDE, Plane, ground_svg, over_svg, said
from raffm_utils.widgets.still import still_png


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return image_supernet()


@pytest.fixture
def state(supernet) -> ExplorerState:
    return ExplorerState(supernet, Images(), predictor=made_predictor(supernet), rows=made_rows(supernet))


def layers(state: ExplorerState) -> tuple[ElementTree.Element, ElementTree.Element]:
    plane = Plane.of(state)
    ground, over = (f"<svg>{layer(state, plane)}</svg>" for layer in (ground_svg, over_svg))
    return ElementTree.fromstring(ground), ElementTree.fromstring(over)


def shown_at(state: ExplorerState) -> tuple[float, float]:
    circle = layers(state)[1].find(".//g[@class='raffm-shown']/circle")
    return float(circle.attrib["cx"]), float(circle.attrib["cy"])


def out_of_reach(state: ExplorerState) -> list[tuple[float, float]]:
    areas = layers(state)[1].iterfind(".//g[@class='raffm-out']")
    rects = [area.find("rect").attrib for area in areas]
    return [(float(rect["x"]), float(rect["x"]) + float(rect["width"])) for rect in rects]


@pytest.mark.parametrize("logarithmic", [True, False])
def test_places_and_sizes_are_inverse(state, logarithmic):
    plane = Plane(state.size, 1e6, 2e7 if logarithmic else 3e6, 0.8, 0.9)
    assert plane.logarithmic == logarithmic
    for x in (LEFT, 100, 333, RIGHT):
        assert plane.x(plane.size(x)) == pytest.approx(x)
    assert (plane.x(1e5), plane.x(1e9)) == (LEFT, RIGHT)
    assert (plane.y(0.8), plane.y(0.9), plane.y(0), plane.y(1)) == (BOTTOM, TOP, BOTTOM, TOP)


def test_the_shown_submodel_lies_at_its_predicted_accuracy_and_moves_with_the_limit(state):
    seen = set()
    for share in (0.75, 0.6, 0.5):
        state.set_limit("parameters", share * state.full_cost.parameters)
        plane = Plane.of(state)
        expected = plane.x(state.cost.parameters), plane.y(state.predicted.accuracy)
        assert shown_at(state) == pytest.approx(expected, abs=0.06)
        seen.add(shown_at(state))
        assert state.size.text(state.cost.parameters) in said(state)
    assert len(seen) == 3


def test_once_evaluated_it_lies_at_its_accuracy(state):
    item = state.evaluate()
    assert shown_at(state)[1] == pytest.approx(Plane.of(state).y(item.accuracy), abs=0.06)
    assert "evaluated accuracy" in said(state)


def test_what_the_budget_excludes_is_shaded(state):
    assert out_of_reach(state) == []
    state.set_limit("macs", 0.7 * state.full_cost.macs)
    ((first, last),) = out_of_reach(state)
    assert first == pytest.approx(Plane.of(state).x(state.reach[1]), abs=0.06)
    assert last == pytest.approx(RIGHT, abs=0.1)
    state.set_limit("macs", 1)
    assert out_of_reach(state) == [(LEFT, RIGHT)]
    assert said(state) == "nothing fits"


def test_lower_limits_shade_the_left(supernet):
    full = supernet.cost(supernet.full)
    state = ExplorerState(supernet, budget=Budget(min_parameters=0.7 * full.parameters))
    ((first, last),) = out_of_reach(state)
    assert first == LEFT
    assert state.reach[0] >= 0.7 * full.parameters
    assert last == pytest.approx(Plane.of(state).x(state.reach[0]), abs=0.1)


def test_without_anything_known_there_is_a_size_and_no_accuracy(supernet):
    state = ExplorerState(supernet)
    assert "not evaluated" in said(state)
    assert layers(state)[1].find(".//g[@class='raffm-shown']/circle") is None
    assert "not evaluated" in over_svg(state, Plane.of(state))


@pytest.mark.parametrize("blocks", [True, False])
def test_all_of_it_is_well_formed_and_inside_the_picture(blocks):
    supernet = image_supernet(**({"atten_out_space": [16, 8, 0], "inter_hidden_space": [32, 0]} if blocks else {}))
    state = ExplorerState(supernet, Images(), predictor=made_predictor(supernet), rows=made_rows(supernet))
    for _ in range(3):
        state.evaluate()
        state.hold()
        state.move(-4)
        for layer in layers(state):
            for circle in layer.iter("circle"):
                if (x := float(circle.attrib["cx"])) > 6:  # else it is part of the legend
                    assert LEFT <= x <= RIGHT < WIDE
                    assert TOP <= float(circle.attrib["cy"]) <= BOTTOM < HIGH
    assert still_png(state).startswith(b"\x89PNG")


def test_a_text_model_is_drawn_over_what_its_figure_counts():
    supernet = text_supernet()
    supernet.tokens = 8
    state = ExplorerState(supernet, rows=made_rows(supernet), predictor=made_predictor(supernet))
    assert "Without embeddings (M)" in ground_svg(state, Plane.of(state))
