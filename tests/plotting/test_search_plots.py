"""Figures of searching show every point they are given, and mark what cannot be trusted."""

import matplotlib.pyplot
import numpy as np
import pytest
from helpers.search import make_rows, make_space
from matplotlib.container import ErrorbarContainer

from raffm_utils.plotting import plot_pareto, plot_predicted
from raffm_utils.search import FrontPoint, HeldOut, Predicted

matplotlib.use("Agg")
SPACE = make_space()
ROWS = make_rows(SPACE, 12, 0)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    matplotlib.pyplot.close("all")


def points_of(ax) -> list[list[list[float]]]:
    return [collection.get_offsets().tolist() for collection in ax.collections if len(collection.get_offsets()) > 1]


def test_front_is_drawn_over_what_was_measured():
    front = [
        FrontPoint(SPACE.smallest(), 1e6 * i, Predicted(0.8 + i / 100, 0.75, 0.95, "outside the data" * (i > 3)))
        for i in range(1, 7)
    ]
    ax = plot_pareto(front, ROWS)
    measured, inside, outside = points_of(ax)
    assert len(measured) == len(ROWS)
    assert measured[0] == pytest.approx([ROWS[0].parameters / 1e6, 100 * ROWS[0].accuracy])
    np.testing.assert_allclose(inside, [[1, 81], [2, 82], [3, 83]])
    np.testing.assert_allclose(outside, [[4, 84], [5, 85], [6, 86]])
    assert "outside the data" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_xlabel() == "Model Parameters (Million)"
    assert ax.get_xscale() == "log"


def test_a_front_alone_and_rows_without_the_metric_are_no_error():
    front = [FrontPoint(SPACE.smallest(), 5e6, Predicted(0.8, 0.7, 0.9))] * 2
    ax = plot_pareto(front, ROWS, metric="macs")
    assert [len(points) for points in points_of(ax)] == [2]
    assert ax.get_xscale() == "linear"
    assert plot_pareto(front, [], ax, metric="macs") is ax


@pytest.mark.parametrize(
    ("metric", "cost", "label"),
    [("latency_ms", 5, "Latency (ms)"), ("peak_activation_bytes", 5e6, "Peak activation (MB)")],
)
def test_costs_that_rows_do_not_have_are_drawn_in_their_own_units(metric, cost, label):
    ax = plot_pareto([FrontPoint(SPACE.smallest(), cost, Predicted(0.8, 0.7, 0.9))] * 2, ROWS, metric=metric)
    assert points_of(ax)[0][0] == pytest.approx([5, 80])
    assert ax.get_xlabel() == label


def test_every_held_out_submodel_is_drawn_and_misses_stand_out():
    measured = np.array([0.80, 0.82, 0.84, 0.90])
    low, high = measured - 0.02, np.array([0.9, 0.9, 0.9, 0.89])
    held_out = HeldOut(0.01, 0.03, 0.7, 0.6, 0.75, measured, measured - 0.01, low, high)
    ax = plot_predicted(held_out)
    bars = [container for container in ax.containers if isinstance(container, ErrorbarContainer)]
    assert [len(bar.lines[0].get_xdata()) for bar in bars] == [3, 1]
    assert bars[1].lines[0].get_xdata() == pytest.approx([90])
    assert "RMSE 1.00 points" in ax.get_title()
    assert "75% covered" in ax.get_title()
