"""Drawing what was predicted and searched: pure functions on a matplotlib Axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .plotting import AXIS_LABELS, BLUE, VERMILION, label_axes, new_axes
from .predictor import HeldOut
from .search import FrontPoint
from .sweep_file import SweepRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_pareto(
    front: Sequence[FrontPoint], rows: Sequence[SweepRow] = (), ax: "Axes | None" = None, *, metric: str = "parameters"
) -> "Axes":
    """The predicted front with its 90 % intervals, over the measured submodels; returns the Axes.

    `metric` is the one that the front was asked for. Points that lie outside the data are hollow.
    """
    ax = ax or new_axes((8.4, 5.2))
    unit, unit_name = (1.0, "ms") if metric.endswith("_ms") else (1e6, "MB" if metric.endswith("_bytes") else "million")
    across_label = AXIS_LABELS.get(metric, f"{metric.rpartition('_')[0].replace('_', ' ').capitalize()} ({unit_name})")
    measured = [row for row in rows if getattr(row, metric, None) is not None]
    if measured:
        across, up = [getattr(row, metric) / unit for row in measured], [100 * row.accuracy for row in measured]
        label = f"{len(measured):,} measured submodels"
        ax.scatter(across, up, s=14, color="#9a9a9a", linewidths=0, alpha=0.8, label=label)
    cost = [point.cost / unit for point in front]
    accuracy, low, high = (
        [100 * getattr(point.predicted, name) for point in front] for name in ("accuracy", "low", "high")
    )
    ax.fill_between(cost, low, high, step="post", color=BLUE, alpha=0.18, linewidth=0, label="90% prediction interval")
    ax.plot(cost, accuracy, drawstyle="steps-post", color=BLUE, label="best by prediction, up to this size")
    for text, face in (("", BLUE), ("outside the data", "white")):
        part = [number for number, point in enumerate(front) if bool(point.predicted.note) is bool(text)]
        if part:
            x, y = [cost[number] for number in part], [accuracy[number] for number in part]
            ax.scatter(x, y, s=30, color=face, edgecolors=BLUE, zorder=4, label=text or None)
    label_axes(ax, across_label, "Accuracy (%)")
    ax.legend(loc="lower right", fontsize=9)
    return ax


def plot_predicted(held_out: HeldOut, ax: "Axes | None" = None) -> "Axes":
    """Predicted against measured accuracy of held-out submodels, with 90 % prediction intervals; returns the Axes.

    Intervals that miss what was measured have another colour.
    """
    ax = ax or new_axes((6.0, 5.2))
    measured, predicted = 100 * held_out.measured, 100 * held_out.predicted
    whiskers = np.abs(100 * np.stack([held_out.low, held_out.high]) - predicted)
    inside = (held_out.low <= held_out.measured) & (held_out.measured <= held_out.high)
    for part, colour, text in ((inside, BLUE, "holds"), (~inside, VERMILION, "misses")):
        ax.errorbar(
            measured[part],
            predicted[part],
            yerr=whiskers[:, part],
            fmt="o" if colour == BLUE else "s",
            color=colour,
            ecolor=colour,
            alpha=0.6,
            elinewidth=0.5,
            markersize=4,
            label=f"interval {text} the measured accuracy ({part.sum():,})",
        )
    ends = [min(measured.min(), predicted.min()), max(measured.max(), predicted.max())]
    ax.plot(ends, ends, color="#404040", linestyle="--", linewidth=1, zorder=1)
    title = f"RMSE {100 * held_out.rmse:.2f} points, Kendall tau {held_out.kendall_tau:.2f}"
    ax.set_title(f"{title}, {held_out.coverage:.0%} covered", fontsize=11)
    label_axes(ax, "Measured accuracy (%)", "Predicted accuracy, submodel held out (%)")
    ax.legend(loc="upper left", fontsize=9)
    return ax
