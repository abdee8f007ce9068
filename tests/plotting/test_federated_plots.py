"""Pictures of federated training show every number that they are given."""

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from helpers.plotting import Row

from raffm_utils.federated import RoundResult
from raffm_utils.plotting import (
    plot_heterogeneity,
    plot_rounds,
    plot_settings,
    plot_shrinkage,
)

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    matplotlib.pyplot.close("all")


def test_rounds_are_drawn_for_both_ends():
    ends = ((0.4, 0.3), (0.6, 0.5))
    ax = plot_rounds(
        [
            RoundResult(round=number, learning_rate=1.0, clients=4, loss=1.0, full=full, smallest=smallest)
            for number, (full, smallest) in enumerate(ends, 1)
        ]
    )
    full, smallest = ax.get_lines()
    assert full.get_ydata().tolist() == [40, 60]
    assert smallest.get_ydata().tolist() == [30, 50]


def test_settings_are_laid_over_each_other_with_intervals():
    large = [Row(8_000_000 + 100_000 * i, 0.9) for i in range(60)]
    small = [Row(8_000_000 + 100_000 * i, 0.8 + 0.001 * i) for i in range(60)]
    ax = plot_settings({"Large": large, "Small": small}, {"Large": [Row(20_000_000, 0.91, examples=10_000)]})
    assert [len(dots.get_offsets()) for dots in ax.collections if dots.get_offsets().shape[0] > 2] == [60, 60]
    for line, level in ((ax.get_lines()[0], 90.0), (ax.get_lines()[-1], None)):
        heights = np.asarray(line.get_ydata(), dtype=float)
        if level is None:
            assert (np.diff(heights) > 0).all()
        else:
            assert np.allclose(heights, level)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["Large: 60 submodels on 2,000 each", "Small: 60 submodels on 2,000 each", "Large: on 10,000 each"]


def test_heterogeneity_shows_accuracies_with_intervals_and_what_was_sent():
    def result(accuracy: float, up: float) -> dict:
        sizes = ("full", "half", "fifth", "smallest")
        found = {
            s: {"parameters": 2e7, "accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.05} for s in sizes
        }
        sent = {"bytes_down": [2e6, 4e6], "bytes_up": [up, up]}
        return {"recipe": {"participants": 4}, "accuracy": found, **sent}

    accuracy, sent = plot_heterogeneity({"large, IID": result(0.8, 3e6), "small, IID": result(0.7, 1e6)})
    assert [text.get_text() for text in accuracy.get_yticklabels()] == ["large, IID", "small, IID"]
    assert [bars.get_label() for bars in accuracy.containers] == [
        f"{size}: 20.0 M" for size in ("full", "half", "fifth", "smallest")
    ]
    assert sent.get_xlabel() == "MB a round, all 4 clients together"
    assert [float(x) for x in accuracy.containers[0].lines[0].get_xdata()] == [80, 70]
    assert [bar.get_width() for bar in sent.patches] == [3, 3, 3, 1]


def test_shrinkage_is_drawn_for_every_rule_and_round():
    sizes = {"divided by all": torch.linspace(1, 0.1, 8).expand(4, 8), "divided by coverage": torch.ones(4, 8)}
    ax = plot_shrinkage(sizes, (1, 3))
    assert [line.get_label() for line in ax.get_lines()] == [
        f"{rule}, after {rounds}" for rule in sizes for rounds in ("1 round", "3 rounds")
    ]
    assert np.allclose(ax.get_lines()[0].get_ydata(), 100 * np.linspace(1, 0.1, 8))
