"""Drawing accuracies: pure functions on a matplotlib Axes, and figures saved under stable names.

Colours are from the palette of Okabe and Ito, which colour-blind readers can tell apart.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import SweepError
from .style import AXIS_LABELS, GREEN, ORANGE, PURPLE, VERMILION, approximately, is_wide, logarithmic, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Measured(Protocol):
    """A submodel with an accuracy between 0 and 1 and its 95% interval, such as a row of a sweep."""

    @property
    def parameters(self) -> int: ...
    @property
    def macs(self) -> int | None: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def examples(self) -> int: ...


def plot_accuracy_vs_parameters(
    rows: Sequence[Measured],
    ax: "Axes | None" = None,
    *,
    title: str = "ViT Scaled Model Performance",
    live: Sequence[Measured] = (),
    front: Sequence[Measured] = (),
    full: Measured | None = None,
    smallest: Measured | None = None,
    count: int | None = None,
    metric: str = "parameters",
) -> "Axes":
    """Accuracy of many submodels against a cost, as a hexagonal histogram; returns the Axes.

    `live` points are drawn one by one with their intervals, those of `front`, which a search has chosen at several
    sizes, along a line, `full` and `smallest` are marked and labelled; `count`, the number of submodels in the space,
    is given in the caption. The cost has a logarithmic axis where the range asks for it, see `is_wide`.

    Example:
        rows = read_sweep("figures/data/vit-small-fashion-mnist-large-budget.jsonl")
        ax = plot_accuracy_vs_parameters(rows, title="Scaled ViT")
    """
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    ax = ax or new_axes((8.4, 6.2))
    ax.set_axisbelow(True)
    marked = [*live, *front, *(point for point in (full, smallest) if point is not None)]
    sizes = [_millions(point, metric) for point in [*rows, *marked]]
    wide = is_wide(sizes)
    if rows:
        cells = ax.hexbin(
            [_millions(row, metric) for row in rows],
            [100 * row.accuracy for row in rows],
            gridsize=35,
            extent=_extent(rows, marked, metric, wide),
            xscale="log" if wide else "linear",
            cmap="Blues",
            mincnt=1,
            linewidths=0.2,
        )
        cells.set_clim(0, max(1, int(cells.get_array().max())))  # type: ignore[union-attr]
        ax.set_facecolor(colormaps["Blues"](0.0))
        bar = ax.figure.colorbar(cells, ax=ax, ticks=MaxNLocator(integer=True), pad=0.02)
        bar.set_label("Submodels per cell")
    if live:
        label = f"{len(live)} submodel{'' if len(live) == 1 else 's'} evaluated just now"
        plot_intervals(live, ax, metric=metric, label=label)
    if front:
        line = sorted((_millions(point, metric), 100 * point.accuracy) for point in front)
        ax.plot(*zip(*line, strict=True), color=GREEN, linewidth=1.6, zorder=4)
        label = f"{len(front)} chosen by the search on validation"
        plot_intervals(front, ax, metric=metric, label=label, marker="s", colour=GREEN, size=6)
    for point, name, marker, colour in (
        (full, "full network", "*", VERMILION),
        (smallest, "smallest", "D", PURPLE),
    ):
        if point is not None:
            label = f"{name}: {_millions(point, metric):.1f} M, {100 * point.accuracy:.1f}% "
            label += f"({100 * point.low:.1f} to {100 * point.high:.1f}) on {point.examples:,}"
            size = 15 if marker == "*" else 8
            plot_intervals([point], ax, metric=metric, label=label, marker=marker, colour=colour, size=size)
    if wide:
        logarithmic(ax)
    ax.grid(True, linestyle="--", linewidth=0.6, color="#b0b0b0", alpha=0.8)
    ax.margins(0.06)
    ax.set_title(title, fontsize=14)
    ax.set_xlabel(AXIS_LABELS[metric], fontsize=12)
    ax.set_ylabel("Accuracy (%)", fontsize=12)
    if live or front or full is not None or smallest is not None:
        ax.legend(loc=_free_corner(ax, rows, metric), fontsize=9, framealpha=0.95)
    below: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center", "va": "top"}
    text = _caption(rows, live, front, count)
    ax.annotate(text, (0.5, 0), (0, -44), fontsize=8.5, color="#333333", annotation_clip=False, **below)
    return ax


def _free_corner(ax: "Axes", rows: Sequence[Measured], metric: str) -> Literal["upper left", "lower right"]:
    """A corner where the legend covers no submodel: at the right it would hide large, poor ones."""
    ax.autoscale_view()  # else the limits would follow only when the figure is drawn
    place = ax.transData + ax.transAxes.inverted()
    places = [place.transform((_millions(row, metric), 100 * row.accuracy)) for row in rows]
    return "upper left" if any(across > 0.4 and up < 0.17 for across, up in places) else "lower right"


def plot_intervals(
    points: Sequence[Measured],
    ax: "Axes | None" = None,
    *,
    metric: str = "parameters",
    label: str = "",
    marker: str = "o",
    colour: str = ORANGE,
    size: float = 7,
) -> "Axes":
    """Accuracy of a few submodels, each with its 95% interval as a whisker; returns the Axes."""
    ax = ax or new_axes((5.2, 3.2))
    whiskers = [[100 * (p.accuracy - p.low) for p in points], [100 * (p.high - p.accuracy) for p in points]]
    ax.errorbar(
        [_millions(p, metric) for p in points],
        [100 * p.accuracy for p in points],
        yerr=whiskers,
        fmt=marker,
        color=colour,
        ecolor="#404040",
        elinewidth=1.1,
        capsize=3,
        markersize=size,
        markeredgecolor="black",
        markeredgewidth=0.8,
        label=label or None,
        zorder=5,
    )
    return ax


def _millions(point: Measured, metric: str) -> float:
    value = getattr(point, metric)
    if value is None:
        raise SweepError(f"a row without {metric} cannot be placed: draw another metric, or sweep again")
    return float(value) / 1e6


def _extent(
    rows: Sequence[Measured], whiskered: Sequence[Measured], metric: str, wide: bool
) -> tuple[float, float, float, float]:
    """The area covered by the cells: everything drawn, so that they are regular across the figure; wide: log10 of x."""
    across = [_millions(point, metric) for point in [*rows, *whiskered]]
    up = [100 * p.accuracy for p in rows] + [100 * edge for p in whiskered for edge in (p.low, p.high)]
    left, right, bottom, top = min(across), max(across), min(up), max(up)
    if wide:
        left, right = math.log10(left), math.log10(right)
    return left, right + 0.1 * (left == right), bottom, top + 0.1 * (bottom == top)


def _caption(rows: Sequence[Measured], live: Sequence[Measured], front: Sequence[Measured], count: int | None) -> str:
    points = [*rows, *live]
    if not points:
        return ""
    half_widths = sorted(100 * (point.high - point.low) / 2 for point in points)
    half_width = half_widths[len(half_widths) // 2]
    shown, just_now = f"{len(rows):,} submodels", f"{len(live):,} evaluated just now"
    if not live:
        text = f"{shown}, each {_on(rows)}"
    elif not rows:
        text = f"{just_now}, {_on(live)}"
    elif _on(rows) == _on(live):
        text = f"{shown} and {just_now}, each {_on(rows)}"
    else:
        text = f"{shown}, each {_on(rows)}\n{just_now}, {_on(live)}"
    if front:
        text += f"\n{len(front):,} chosen by the search, each {_on(front)}"
    text += f"\n95% intervals, typically ±{half_width:.1f} points"
    if count is not None:
        mantissa, exponent = approximately(count)
        text += f"; the space holds exactly\n{count:,} (${mantissa}\\times10^{{{exponent}}}$) submodels"
    return text


def _on(points: Sequence[Measured]) -> str:
    """What was used to measure, such as "on 2,000 fashion_mnist test examples"."""
    examples = _few(f"{point.examples:,}" for point in points)
    data = _few(getattr(point, "dataset", "") for point in points)
    where = _few(getattr(point, "split", "") for point in points)
    return " ".join(part for part in ("on", examples, data, where, "examples") if part)


def _few(values: Iterable[str]) -> str:
    found = sorted(set(values) - {""}, key=lambda text: (len(text), text))
    return " to ".join([found[0], found[-1]] if len(found) > 1 else found)
