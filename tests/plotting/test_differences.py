"""The figure of paired differences shows what `compare` says."""

import matplotlib.pyplot
import numpy as np
import pytest
from helpers.search import make_row
from matplotlib.container import ErrorbarContainer

from raffm_utils.errors import DataError
from raffm_utils.evaluation import compare
from raffm_utils.evaluation.paired import pack
from raffm_utils.plotting import plot_differences
from raffm_utils.space import SubmodelConfig

matplotlib.use("Agg")
FULL = SubmodelConfig(48, (48,) * 3, (64,) * 3)


def row(parameters: int, right: np.ndarray, **changes):
    return make_row(
        FULL,
        float(right.mean()),
        parameters=parameters,
        right=pack(right),
        examples=len(right),
        data_fingerprint="same",
        **changes,
    )


RNG = np.random.default_rng(0)
WHOLE = RNG.random(1000) < 0.9
ROWS = [row(int(1e6 * 2**k), WHOLE & (RNG.random(1000) > 0.04 * (5 - k))) for k in range(6)]
REFERENCE = row(40_000_000, WHOLE)


def test_points_and_whiskers_are_the_paired_differences():
    ax = plot_differences(ROWS, REFERENCE)
    bars = [item for item in ax.containers if isinstance(item, ErrorbarContainer)]
    drawn = {}
    for bar in bars:
        across, up = bar.lines[0].get_data()
        whiskers = bar.lines[2][0].get_segments()
        for x, y, ends in zip(across, up, whiskers, strict=True):
            drawn[float(x)] = (float(y), float(ends[0][1]), float(ends[1][1]))
    assert len(drawn) == 6
    for each in ROWS:
        found = compare(each, REFERENCE)
        expected = (100 * found.difference, 100 * found.low, 100 * found.high)
        assert drawn[each.parameters / 1e6] == pytest.approx(expected)
    assert [bar.get_label() for bar in bars] == ["5 different", "1 not told apart"]
    assert ax.get_xscale() == "log"
    assert "1,000" in ax.get_title()
    matplotlib.pyplot.close("all")


def test_other_examples_are_refused():
    other = row(1, WHOLE[:500])
    with pytest.raises(DataError):
        plot_differences([other], REFERENCE)
    matplotlib.pyplot.close("all")
