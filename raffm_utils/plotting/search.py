"""Figures of predictions, searches and fleets: pure functions that draw on a matplotlib Axes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation import Interval, LatencyModel, SweepRow
from ..search import FleetPlan, FrontPoint, HeldOut
from ..space import PRESETS
from .style import AXIS_LABELS, BLUE, GREEN, ORANGE, PURPLE, VERMILION, is_wide, label_axes, logarithmic, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_pareto(
    front: Sequence[FrontPoint], rows: Sequence[SweepRow] = (), ax: "Axes | None" = None, *, metric: str = "parameters"
) -> "Axes":
    """The predicted front with its 90 % intervals, over the measured submodels; returns the Axes.

    `metric` is the one that the front was asked for. Points that lie outside the data are hollow. The cost has a
    logarithmic axis where the range asks for it.
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
    if is_wide([*cost, *(getattr(row, metric) / unit for row in measured)]):
        logarithmic(ax)
    label_axes(ax, across_label, "Accuracy (%)")
    ax.legend(loc="lower right", fontsize=9)
    return ax


def plot_predicted(held_out: HeldOut, ax: "Axes | None" = None) -> "Axes":
    """Predicted against measured accuracy of held-out submodels, with 90 % prediction intervals; returns the Axes.

    Intervals that miss the measured value have another colour.
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
    corners = [min(measured.min(), predicted.min()), max(measured.max(), predicted.max())]
    ax.plot(corners, corners, color="#404040", linestyle="--", linewidth=1, zorder=1)
    title = f"RMSE {100 * held_out.rmse:.2f} points, Kendall tau {held_out.kendall_tau:.2f}"
    ax.set_title(f"{title}, {held_out.coverage:.0%} covered", fontsize=11)
    label_axes(ax, "Measured accuracy (%)", "Predicted accuracy, submodel held out (%)")
    ax.legend(loc="upper left", fontsize=9)
    return ax


def plot_latency(model: LatencyModel, ax: "Axes | None" = None) -> "Axes":
    """Predicted against measured milliseconds, of the submodels fitted to and of those held out; returns the Axes."""
    ax = ax or new_axes((5.0, 4.6))
    for timed, name, colour, marker in (
        (model.measured, "fitted to", BLUE, "o"),
        (model.held_out, f"held out: median error {model.held_out_error:.1%}", ORANGE, "D"),
    ):
        predicted = [model.predict_ms(config) for config, _ in timed]
        ax.scatter([ms for _, ms in timed], predicted, s=28, color=colour, marker=marker, label=name)
    times = [ms for _, ms in (*model.measured, *model.held_out)]
    ax.axline((min(times), min(times)), slope=1, color="#999999", linewidth=1, zorder=0)
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_xlabel("Measured (ms)")
    ax.set_ylabel("Predicted (ms)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


# of Okabe and Ito; the last three are for classes that are no preset
_COLOURS = (VERMILION, ORANGE, GREEN, BLUE, PURPLE, "#56B4E9", "#000000", "#F0E442")
_NOBODY: dict[str, Any] = {"facecolor": "#eeeeee", "edgecolor": "#999999", "hatch": "//"}
_LABEL = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.9}


def plot_fleet(plan: FleetPlan, ax: "Axes | None" = None) -> "Axes":
    """Accuracy of every class, as wide as its share of the clients; returns the Axes.

    Lines are predicted accuracies with their 90 % intervals as bands, points are measured ones with their 95 %
    intervals, and hatched blocks are classes that no submodel fits.
    """
    ax = ax or new_axes((8.4, 4.8))
    colours, left = class_colours(a.device.name for a in plan.assignments), 0.0
    for a in plan.assignments:
        width = 100 * a.device.share
        text = f"{a.device.name}: {width:.3g}% of clients, "
        if a.predicted is None or a.cost is None:
            ax.axvspan(left, left + width, label=text + "no model", **_NOBODY)
        else:
            colour, edges = colours[a.device.name], [left, left + width]
            text += f"{a.cost.parameters / 1e6:.1f} M parameters"
            ax.fill_between(edges, 100 * a.predicted.low, 100 * a.predicted.high, color=colour, alpha=0.3)
            height = [100 * a.predicted.accuracy] * 2
            ax.plot(edges, height, color=colour, linewidth=3, solid_capstyle="butt", label=text)
            middle, up = left + width / 2, 100 * (a.measured or a.predicted).accuracy
            if a.measured is not None:
                looks = {"fmt": "o", "color": "black", "markerfacecolor": colour}
                _point(ax, middle, a.measured, vertical=True, markersize=8, **looks)
            ax.annotate(f"{up:.1f}%", (middle, up), (9, 7), textcoords="offset points", fontsize=9, bbox=_LABEL)
        left += width
    for measured, style in ((False, "--"), (True, ":")):
        if (mean := plan.mean(measured=measured)) is not None:
            label = f"mean {'measured' if measured else 'predicted'}: {mean}"
            ax.axhline(100 * mean.accuracy, color="#333333", linestyle=style, linewidth=1.2, label=label)
    ax.set_xlim(0, 100)
    ax.margins(y=0.12)
    ax.set_xlabel(f"Clients (%); {plan.coverage:.0%} have a submodel")
    ax.set_ylabel("Accuracy (%)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    return ax


def plot_fleets(plans: Mapping[str, FleetPlan], axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
    """Several fleets: their classes with the accuracy of each, and mean and worst class; returns the Axes.

    Markers are filled if all submodels of a fleet were measured, and hollow if they are only predicted.
    """
    if axes is None:
        from matplotlib import pyplot

        size = (10.4, 1.6 + 0.72 * len(plans))
        axes = pyplot.subplots(1, 2, figsize=size, layout="constrained", sharey=True, width_ratios=(1.5, 1))[1]
    shares, accuracies = axes
    colours = class_colours(a.device.name for plan in plans.values() for a in plan.served)
    for place, plan in enumerate(plans.values()):
        left = 0.0
        for a in plan.assignments:
            width, found = 100 * a.device.share, a.measured or a.predicted
            fill = {"facecolor": colours[a.device.name], "edgecolor": "white"} if found else _NOBODY
            shares.barh(place, width, 0.62, left, **fill)
            text = f"{100 * found.accuracy:.1f}" if found else "none"
            shares.text(left + width / 2, place, text, ha="center", va="center", fontsize=8.5, bbox=_LABEL)
            left += width
        for measured in (False, True):
            mean, worst = plan.mean(measured=measured), plan.worst(measured=measured)
            if mean is None or worst is None:
                continue
            for value, marker, colour, shift in ((mean, "o", BLUE, -0.2), (worst[1], "D", VERMILION, 0.2)):
                looks: dict[str, Any] = {
                    "fmt": marker,
                    "color": colour,
                    "markerfacecolor": colour if measured else "white",
                }
                _point(accuracies, place + shift + 0.1 * measured, value, vertical=False, markersize=7, **looks)
    names = [f"{name}\n{plan.coverage:.0%} covered" for name, plan in plans.items()]
    shares.set_yticks(range(len(plans)), names)
    shares.set_ylim(len(plans) - 0.5, -0.5)
    accuracies.set_ylim(shares.get_ylim())
    shares.set_xlim(0, 100)
    shares.set_xlabel("Clients (%), with the accuracy of their class (%, measured where it was)")
    accuracies.set_xlabel("Accuracy (%)")
    accuracies.grid(True, axis="x", linestyle="--", color="#b0b0b0", alpha=0.8)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    _legends(plans, colours, shares, accuracies)
    return axes


def class_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for every class; presets have the same colour in every figure."""
    found = dict.fromkeys(names)
    order = [*PRESETS, *(name for name in found if name not in PRESETS)]
    return {name: _COLOURS[order.index(name) % len(_COLOURS)] for name in found}


def _point(ax: "Axes", place: float, value: Interval, *, vertical: bool, **looks: Any) -> None:
    centre = 100 * value.accuracy
    whisker = [[centre - 100 * value.low], [100 * value.high - centre]]
    looks |= {"yerr" if vertical else "xerr": whisker, "capsize": 3, "zorder": 5}
    ax.errorbar(*((place, centre) if vertical else (centre, place)), **looks)


def _legends(plans: Mapping[str, FleetPlan], colours: Mapping[str, str], shares: "Axes", accuracies: "Axes") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False, "fontsize": 9}
    blocks = [Patch(color=colour, label=name) for name, colour in colours.items()]
    if any(plan.coverage < 1 for plan in plans.values()):
        blocks.append(Patch(label="no submodel fits", **_NOBODY))
    shares.legend(handles=blocks, ncols=3, **place)
    looks: dict[str, Any] = {"linestyle": "", "color": "#333333"}
    marks = [
        Line2D([], [], linestyle="", marker="o", color=BLUE, label="mean of the clients"),
        Line2D([], [], linestyle="", marker="D", color=VERMILION, label="worst class"),
        Line2D([], [], marker="s", markerfacecolor="white", label="predicted (90%)", **looks),
    ]
    if any(plan.mean(measured=True) for plan in plans.values()):
        marks.append(Line2D([], [], marker="s", label="measured (95%)", **looks))
    accuracies.legend(handles=marks, ncols=2, **place)
