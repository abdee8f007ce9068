"""A still picture of the budget explorer, and its text, for readers without a kernel."""

from io import BytesIO
from typing import TYPE_CHECKING

from ..evaluation import Interval
from ..plotting import BLUE, GREEN, ORANGE, VERMILION, approximately, is_wide, label_axes, logarithmic, plot_widths
from .curve import said
from .metrics import limits_text
from .state import ExplorerState

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 90


def summary(state: ExplorerState) -> list[str]:
    """Limits, count and the submodel shown, in a few lines of text."""
    mantissa, exponent = approximately(state.count)
    number = f"{state.count:,}" if exponent < 7 else f"about {mantissa}e{exponent}"
    lines = [f"Budget of {state.preset}" if state.preset else "Budget"]
    lines += [f"  {limit}" for limit in limits_text(state.budget)] or ["  no limit"]
    lines.append(f"{number} submodels fit" if state.count else f"No submodel fits. {state.problem}")
    lines.append(f"Shown ({state.policy}): {said(state)}")
    return lines


def still_figure(state: ExplorerState) -> "Figure":
    """The text, the widths of the submodel shown and the curve, as one figure."""
    from matplotlib.figure import Figure

    lines = summary(state)
    figure = Figure(figsize=(12.5, 3.3 + 0.22 * len(lines)), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(9, 11))
    left, right = (figure.add_subfigure(grid[0, place]) for place in (0, 1))
    left.suptitle("\n".join(lines), x=0.02, ha="left", fontsize=9.5)
    plot_widths(state.config, state.full, left.subplots())
    _plot_curve(state, right.subplots())
    return figure


def still_png(state: ExplorerState) -> bytes:
    """`still_figure` as a PNG, which no viewer takes for dangerous: JupyterLab shows SVG only where it trusts."""
    picture = BytesIO()
    still_figure(state).savefig(picture, dpi=DPI, metadata={"Software": None})
    return picture.getvalue()


def _plot_curve(state: ExplorerState, ax: "Axes") -> None:
    """What `curve.py` draws, on an Axes."""
    metric = state.size
    label_axes(ax, f"{metric.name} ({metric.unit})", "Accuracy (%)")
    ends = [metric.of(cost) / metric.scale for cost in (state.smallest_cost, state.full_cost)]
    if known := [(x, row.accuracy) for row in state.rows if (x := getattr(row, metric.key)) is not None]:
        across, up = [x / metric.scale for x, _ in known], [100 * y for _, y in known]
        ax.scatter(across, up, s=10, color=BLUE, alpha=0.35, label="stored sweep", edgecolors="none")
    if state.front:
        across = [point.cost / metric.scale for point in state.front]
        low, up, high = (
            [100 * getattr(point.predicted, edge) for point in state.front] for edge in ("low", "accuracy", "high")
        )
        ax.fill_between(across, low, high, color=GREEN, alpha=0.15, linewidth=0)
        ax.plot(across, up, color=GREEN, linewidth=2, label="best predicted")
    for number, item in enumerate(state.history):
        _point(ax, metric.of(item.cost) / metric.scale, item, ORANGE, "_" if number else "evaluated")
    size, found = metric.of(state.cost) / metric.scale, state.evaluated or state.predicted
    if found is None:
        ax.axvline(size, color=VERMILION, linestyle="--", label="shown")
    else:
        _point(ax, size, found, VERMILION, "shown")
    first, last = (edge / metric.scale for edge in state.reach) if state.reach else (ends[1], ends[0])
    for edges in [(ends[0], first), (last, ends[1])] if state.reach else [ends]:
        ax.axvspan(*edges, facecolor="#888888", alpha=0.15, hatch="//", edgecolor="#555555", linewidth=0)
    ax.set_xlim(ends[0] * 0.97, ends[1] * 1.03)
    if is_wide(ends):
        logarithmic(ax)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)


def _point(ax: "Axes", size: float, found: Interval, colour: str, name: str) -> None:
    below, above = 100 * (found.accuracy - found.low), 100 * (found.high - found.accuracy)
    bars = [[below], [above]]
    ax.errorbar([size], [100 * found.accuracy], bars, fmt="o", color=colour, capsize=4, label=name, zorder=4)
