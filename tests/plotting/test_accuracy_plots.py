"""Figures show what they are given, say what they rest on, and are saved byte for byte alike."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib.pyplot
import pytest
from helpers.plotting import Row
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer

from raffm_utils.errors import SweepError
from raffm_utils.plotting import (
    approximately,
    plot_accuracy_vs_parameters,
    plot_intervals,
    plot_widths,
    save_figure,
    width_bars,
    widths_svg,
)
from raffm_utils.space import SubmodelConfig

matplotlib.use("Agg")

FULL = SubmodelConfig(384, (384,) * 3, (1536,) * 3)
CONFIG = SubmodelConfig(288, (192, 288, 384), (768, 1152, 1536))


class OldRow(Row):
    encoder_parameters = None


ROWS = [Row(8_000_000 + 250_000 * i, 0.85 + 0.001 * (i % 13)) for i in range(40)]
LIVE = [Row(9_000_000, 0.86), Row(12_000_000, 0.87)]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    matplotlib.pyplot.close("all")


def cells_of(ax) -> PolyCollection:
    (cells,) = [item for item in ax.collections if isinstance(item, PolyCollection)]
    return cells


def texts_of(ax) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def whiskers_of(ax) -> list[tuple[float, float]]:
    bars = [item for item in ax.containers if isinstance(item, ErrorbarContainer)]
    return [(path[0][1], path[1][1]) for bar in bars for path in bar.lines[2][0].get_segments()]


def test_published_style():
    ax = plot_accuracy_vs_parameters(ROWS)
    assert ax.get_title() == "ViT Scaled Model Performance"
    assert ax.get_xlabel() == "Model Parameters (Million)"
    assert ax.get_ylabel() == "Accuracy (%)"
    assert cells_of(ax).get_cmap().name == "Blues"
    assert [axes.get_ylabel() for axes in ax.figure.axes] == ["Accuracy (%)", "Submodels per cell"]


def test_the_axis_says_when_embeddings_are_left_out():
    ax = plot_accuracy_vs_parameters(ROWS, metric="encoder_parameters")
    assert ax.get_xlabel() == "Model Parameters without Embeddings (Million)"
    assert 3 < ax.get_xlim()[0] < 4 < 8.875 < ax.get_xlim()[1] < 10
    with pytest.raises(SweepError, match=r"without encoder_parameters.*sweep again"):
        plot_accuracy_vs_parameters([OldRow(8_000_000, 0.85)], metric="encoder_parameters")


def test_what_a_search_has_chosen_is_a_line_with_intervals():
    chosen = [Row(12_000_000, 0.9), Row(8_500_000, 0.88), Row(17_000_000, 0.91)]
    ax = plot_accuracy_vs_parameters(ROWS, front=chosen)
    (line,) = [line for line in ax.lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"]
    assert list(line.get_xdata()) == [8.5, 12, 17]
    assert list(line.get_ydata()) == pytest.approx([88, 90, 91])
    assert len(whiskers_of(ax)) == 3
    assert "3 chosen by the search" in texts_of(ax)
    assert any("3 chosen by the search" in text.get_text() for text in ax.get_legend().get_texts())


def test_every_row_is_in_a_cell():
    assert cells_of(plot_accuracy_vs_parameters(ROWS)).get_array().sum() == len(ROWS)


def test_axes_are_millions_and_percent():
    ax = plot_accuracy_vs_parameters(ROWS)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert 6 < left < 8 < 17.75 < right < 19
    assert 84 < bottom < 85 < 86.2 < top < 87


def test_live_points_have_their_intervals():
    ax = plot_accuracy_vs_parameters(ROWS, live=LIVE)
    assert whiskers_of(ax) == [pytest.approx((84, 87)), pytest.approx((85, 88))]
    assert "2 submodels evaluated just now" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_full_and_smallest_are_marked_with_their_accuracy():
    ax = plot_accuracy_vs_parameters(ROWS, full=Row(21_500_000, 0.9123, 10_000), smallest=Row(7_500_000, 0.8))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "full network: 21.5 M, 91.2% (89.2 to 92.2) on 10,000",
        "smallest: 7.5 M, 80.0% (78.0 to 81.0) on 2,000",
    ]
    assert len(whiskers_of(ax)) == 2


def test_caption_says_what_the_figure_rests_on():
    text = texts_of(plot_accuracy_vs_parameters(ROWS, live=LIVE, count=2_104_000_000_000_000_001))
    assert "40 submodels and 2 evaluated just now" in text
    assert "2,000 fashion_mnist test examples" in text
    assert "95% intervals, typically ±1.5 points" in text
    assert "2,104,000,000,000,000,001" in text
    assert r"$2.1\times10^{18}$" in text


def test_caption_names_the_range_when_the_numbers_of_examples_differ():
    rows = [Row(8_000_000, 0.8, examples=500), Row(9_000_000, 0.8, examples=10_000)]
    assert "500 to 10,000" in texts_of(plot_accuracy_vs_parameters(rows))


def test_caption_tells_apart_what_was_measured_on_other_examples():
    live = [Row(8_000_000, 0.8, examples=128)]
    text = texts_of(plot_accuracy_vs_parameters(ROWS, live=live))
    assert "40 submodels, each on 2,000 fashion_mnist test examples\n1 evaluated just now, on 128 fashion_mnist" in text


def test_macs_instead_of_parameters():
    ax = plot_accuracy_vs_parameters(ROWS, metric="macs")
    assert "MACs" in ax.get_xlabel()
    assert ax.get_xlim()[0] > 17 * 7


def test_nothing_to_draw_is_no_error():
    ax = plot_accuracy_vs_parameters([])
    assert ax.get_legend() is None
    ax.figure.canvas.draw()


@pytest.mark.parametrize("poor", [(), (Row(16_000_000, 0.842),)], ids=["right", "left"])
def test_no_submodel_lies_under_the_legend(poor: tuple[Row, ...]):
    """Under small clients, large networks may be poorer than small ones."""
    rows = [Row(10_000_000 + 250_000 * i, 0.86 + 0.0001 * i) for i in range(46)] + list(poor)
    ax = plot_accuracy_vs_parameters(rows, full=Row(21_500_000, 0.87), smallest=Row(10_000_000, 0.86))
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert not any(box.contains(*ax.transData.transform((row.parameters / 1e6, 100 * row.accuracy))) for row in rows)


def test_a_wide_range_of_sizes_has_a_logarithmic_axis():
    narrow = plot_accuracy_vs_parameters(ROWS)
    rows = [Row(700_000 * 2**i, 0.80 + 0.02 * i) for i in range(6)]
    wide = plot_accuracy_vs_parameters(rows, full=rows[-1], smallest=rows[0], live=LIVE)
    wide.figure.canvas.draw()
    assert (narrow.get_xscale(), wide.get_xscale()) == ("linear", "log")
    assert cells_of(wide).get_array().sum() == len(rows)
    left, right = wide.get_xlim()
    assert 0.4 < left < 0.7 < 22.4 < right < 40
    labels = [text.get_text() for text in wide.get_xticklabels()]
    assert {"1", "2", "5", "10", "20"} <= set(labels)
    box = wide.get_legend().get_window_extent()
    assert not any(box.contains(*wide.transData.transform((r.parameters / 1e6, 100 * r.accuracy))) for r in rows)


def test_one_submodel_is_enough():
    ax = plot_accuracy_vs_parameters(ROWS[:1])
    assert cells_of(ax).get_array().sum() == 1
    ax.figure.canvas.draw()


def test_cells_stay_regular_beside_long_whiskers():
    ax = plot_accuracy_vs_parameters(ROWS, live=[Row(12_000_000, 0.7), Row(13_000_000, 0.98)])
    ax.figure.canvas.draw()
    box = cells_of(ax).get_paths()[0].transformed(ax.transData).get_extents()
    assert 0.5 < box.width / box.height < 2
    assert cells_of(ax).get_array().sum() == len(ROWS)


def test_live_points_alone():
    ax = plot_accuracy_vs_parameters([], live=LIVE)
    assert len(whiskers_of(ax)) == 2
    ax.figure.canvas.draw()


def test_given_axes_are_used():
    _, ax = matplotlib.pyplot.subplots()
    assert plot_accuracy_vs_parameters(ROWS, ax) is ax
    assert plot_intervals(LIVE, ax) is ax
    assert plot_widths(CONFIG, FULL, ax) is ax


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, ("0.0", 0)), (7, ("7.0", 0)), (2104, ("2.1", 3)), (9_960, ("1.0", 4)), (10**400, ("1.0", 400))],
)
def test_approximately(count, expected):
    assert approximately(count) == expected


def test_bars_are_shares_of_the_full_widths():
    bars = list(width_bars(CONFIG, FULL))
    assert [(bar.part, bar.layer, bar.width, bar.share) for bar in bars] == [
        ("hidden", None, 288, 0.75),
        ("attention", 1, 192, 0.5),
        ("attention", 2, 288, 0.75),
        ("attention", 3, 384, 1.0),
        ("ffn", 1, 768, 0.5),
        ("ffn", 2, 1152, 0.75),
        ("ffn", 3, 1536, 1.0),
    ]
    assert len({bar.position for bar in bars}) == len(bars)


def test_plot_widths_draws_every_bar_before_its_outline():
    ax = plot_widths(CONFIG, FULL)
    heights = [patch.get_height() for patch in ax.patches]
    assert heights == [100] * 7 + [75, 50, 75, 100, 50, 75, 100]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["hidden", "1", "2", "3"]
    assert "hidden 288 of 384" in [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("layers", [1, 12, 48])
def test_svg_is_well_formed_and_complete(layers):
    config = SubmodelConfig(288, (192,) * layers, (768,) * layers)
    full = SubmodelConfig(384, (384,) * layers, (1536,) * layers)
    root = ElementTree.fromstring(widths_svg(config, full))
    said = [layer.attrib["aria-label"] for layer in root.iter("g")]
    assert said[0] == "hidden 288 of 384"
    assert said[-1] == f"layer {layers}: attention 192 of 384, FFN 768 of 1,536"
    assert len(said) == 1 + layers
    assert "288" in root.attrib["aria-label"]
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for rect in root.iter("rect"):
        x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + w <= width
        assert 0 <= y <= y + h <= height


def test_a_block_that_is_left_out_is_shown_as_such():
    config = SubmodelConfig(288, (192, 0, 384), (0, 768, 0))
    ax = plot_widths(config, FULL)
    crosses = next(c for c in ax.collections if c.get_label() == "left out")
    assert sorted(crosses.get_offsets()[:, 0].tolist()) == pytest.approx([1.2, 1.8, 3.2])
    assert "left out" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert not plot_widths(CONFIG, FULL).collections
    svg = widths_svg(config, FULL)
    said = [layer.attrib["aria-label"] for layer in ElementTree.fromstring(svg).iter("g")]
    assert said[2] == "layer 2: attention left out, FFN 768 of 1,536"
    assert "3 blocks left out" in svg
    assert svg.count("<path") == 3 + 1, "and one in the legend"
    assert "<path" not in widths_svg(CONFIG, FULL)


def test_svg_fades_when_asked():
    assert "opacity:1" in widths_svg(CONFIG, FULL)
    assert "opacity:0.3" in widths_svg(CONFIG, FULL, faded=True)


def test_saved_figures_are_reproducible(tmp_path: Path):
    for folder in ("a", "b"):
        ax = plot_accuracy_vs_parameters(ROWS, live=LIVE, count=10**12)
        paths = save_figure(ax.figure, "name", tmp_path / folder)
        assert [path.name for path in paths] == ["name.png", "name.svg"]
    for name in ("name.png", "name.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a" / "name.svg").read_bytes()
