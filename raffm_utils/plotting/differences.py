"""Drawing what submodels lose against one other, pair by pair."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..evaluation import SweepRow, compare
from .style import AXIS_LABELS, BLUE, ORANGE, is_wide, label_axes, logarithmic, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_differences(
    rows: Sequence[SweepRow], reference: SweepRow, ax: "Axes | None" = None, *, metric: str = "parameters"
) -> "Axes":
    """Accuracy less that of `reference`, such as the full network, against a cost; returns the Axes.

    Whiskers are 95 % intervals of the difference (see `compare`), which are much narrower than those of the accuracies.
    Submodels whose interval holds 0 are hollow. Raises `DataError` unless all were measured on the same examples.

    Example:
        rows = read_sweep("figures/data/vit-small-fashion-mnist-large-budget.jsonl")
        ax = plot_differences(rows, max(rows, key=lambda row: row.parameters))
    """
    ax = ax or new_axes((8.4, 4.6))
    found = sorted(((getattr(row, metric), compare(row, reference)) for row in rows), key=lambda pair: pair[0])
    even = [pair for pair in found if pair[1].low <= 0 <= pair[1].high]
    apart = [pair for pair in found if pair not in even]
    for pairs, colour, inside, text in ((apart, BLUE, BLUE, "different"), (even, ORANGE, "white", "not told apart")):
        ax.errorbar(
            [cost / 1e6 for cost, _ in pairs],
            [100 * each.difference for _, each in pairs],
            yerr=[
                [100 * (each.difference - each.low) for _, each in pairs],
                [100 * (each.high - each.difference) for _, each in pairs],
            ],
            fmt="o",
            color=colour,
            elinewidth=0.8,
            markersize=4,
            markerfacecolor=inside,
            label=f"{len(pairs):,} {text}",
        )
    ax.axhline(0, color="black", linewidth=0.8)
    if is_wide([cost for cost, _ in found]):
        logarithmic(ax)
    label_axes(ax, AXIS_LABELS[metric], "Accuracy Less the Reference's (Points)")
    ax.set_title(
        f"{len(found):,} submodels, each against one of {getattr(reference, metric) / 1e6:.2f} M "
        f"on the same {reference.examples:,} {reference.split} examples",
        fontsize=10,
    )
    ax.legend(loc="lower right", fontsize=9)
    return ax
