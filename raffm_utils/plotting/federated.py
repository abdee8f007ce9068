"""Figures of federated training: its rounds, the cost of heterogeneity, the effect of the aggregation rule."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..evaluation import SweepRow
from .accuracy import Measured, plot_intervals
from .style import AXIS_LABELS, BLUE, GREEN, ORANGE, PURPLE, VERMILION, label_axes, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..federated import RoundResult


_SIZES = {"full": ("*", VERMILION), "half": ("o", BLUE), "fifth": ("s", GREEN), "smallest": ("D", PURPLE)}
_BINS = 12


def plot_rounds(results: "Sequence[RoundResult]", ax: "Axes | None" = None) -> "Axes":
    """Validation accuracy of the full and the smallest network after the rounds of `simulation.run`; the Axes."""
    ax = ax or new_axes((7.0, 3.8))
    for size in ("full", "smallest"):
        marker, colour = _SIZES[size]
        seen = [result for result in results if getattr(result, size) is not None]
        numbers, accuracy = [result.round for result in seen], [100 * getattr(result, size) for result in seen]
        ax.plot(numbers, accuracy, marker=marker, color=colour, label=size, markersize=5)
    label_axes(ax, "Round", "Validation accuracy (%)")
    ax.legend(fontsize=9)
    return ax


def plot_settings(
    sweeps: Mapping[str, Sequence[SweepRow]],
    ends: Mapping[str, Sequence[Measured]] | None = None,
    ax: "Axes | None" = None,
    *,
    metric: str = "parameters",
) -> "Axes":
    """Sweeps of several checkpoints over each other; returns the Axes.

    A point is a submodel. Each line connects the means of equal ranges of size, and its band is the mean of the 95 %
    intervals there: submodels of one sweep share their examples, so averaging does not reduce the sampling error.
    `ends` are a few submodels of each sweep, drawn with their own intervals.
    """
    ax = ax or new_axes((8.4, 5.6))
    for (name, rows), colour, marker in zip(sweeps.items(), (BLUE, VERMILION, GREEN, PURPLE), "os^v", strict=False):
        across = np.array([getattr(row, metric) for row in rows]) / 1e6
        accuracy, low, high = (
            100 * np.array([getattr(row, key) for row in rows]) for key in ("accuracy", "low", "high")
        )
        ax.scatter(across, accuracy, s=9, color=colour, alpha=0.45, linewidths=0)
        part = np.digitize(across, np.linspace(across.min(), across.max(), _BINS + 1)[1:-1])
        means = [[values[part == p].mean() for p in np.unique(part)] for values in (across, accuracy, low, high)]
        ax.fill_between(means[0], means[2], means[3], color=colour, alpha=0.15, linewidth=0)
        ax.plot(means[0], means[1], color=colour, label=f"{name}: {len(rows):,} submodels on {rows[0].examples:,} each")
        if points := (ends or {}).get(name):
            text = f"{name}: on {points[0].examples:,} each"
            plot_intervals(points, ax, metric=metric, label=text, marker=marker, colour=colour)
    label_axes(ax, AXIS_LABELS[metric], "Test accuracy (%), with 95% intervals")
    ax.legend(fontsize=9, loc="upper left")
    return ax


def plot_heterogeneity(
    results: Mapping[str, Mapping[str, Any]], axes: "Sequence[Axes] | None" = None
) -> "Sequence[Axes]":
    """Accuracy of a few sizes after equal federations, and what was sent (`benchmarks/heterogeneity.json`)."""
    if axes is None:
        from matplotlib import pyplot

        axes = pyplot.subplots(
            1, 2, figsize=(10.5, 0.6 + 0.6 * len(results)), layout="constrained", sharey=True, width_ratios=(3, 2)
        )[1]
    names, places = list(results), np.arange(len(results))[::-1]
    first = results[names[0]]
    sizes = [size for size in _SIZES if size in first["accuracy"]]
    for shift, size in zip(np.linspace(0.24, -0.24, len(sizes)), sizes, strict=True):
        marker, colour = _SIZES[size]
        found = [results[name]["accuracy"][size] for name in names]
        accuracy, low, high = (100 * np.array([item[key] for item in found]) for key in ("accuracy", "low", "high"))
        axes[0].errorbar(
            accuracy,
            places + shift,
            xerr=[accuracy - low, high - accuracy],
            fmt=marker,
            color=colour,
            ecolor="#404040",
            capsize=3,
            label=f"{size}: {found[0]['parameters'] / 1e6:.1f} M",
        )
    for shift, key, colour in ((0.14, "bytes_down", BLUE), (-0.14, "bytes_up", ORANGE)):
        megabytes = [np.mean(results[name][key]) / 1e6 for name in names]
        axes[1].barh(places + shift, megabytes, 0.26, color=colour, label=key.replace("bytes_", ""))
    axes[0].set_yticks(places, names)
    label_axes(axes[0], "Test accuracy (%), with 95% intervals", "")
    label_axes(axes[1], f"MB a round, all {first['recipe']['participants']} clients together", "")
    for ax, title in zip(axes, ("Parameters", "Sent"), strict=True):
        ax.legend(title=title, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return axes


def plot_shrinkage(sizes: Mapping[str, torch.Tensor], rounds: Sequence[int], ax: "Axes | None" = None) -> "Axes":
    """How FFN weights shrink in rounds without learning, by aggregation rule (see `idle_rounds`); returns the Axes."""
    from matplotlib import colormaps

    ax = ax or new_axes((7.6, 4.2))
    for (rule, table), colours in zip(sizes.items(), ("Oranges", "Blues"), strict=False):
        for place, number in enumerate(rounds):
            colour = colormaps[colours]((place + 1) / len(rounds))
            label = f"{rule}, after {number} round{'s' if number > 1 else ''}"
            # later rounds thinner, so that lines that lie on each other are all seen
            ax.plot(100 * table[number].numpy(), color=colour, linewidth=4 - 3 * place / len(rounds), label=label)
    label_axes(ax, "FFN neuron of the first layer, the most important first", "Size of its weights (% of the start)")
    ax.set_ylim(0, 108)
    ax.legend(fontsize=9)
    return ax
