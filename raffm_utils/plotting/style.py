"""Colours, labels and axes that all figures share, and a function that saves them reproducibly.

Colours are from the palette of Okabe and Ito, which colour-blind readers can tell apart.
"""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

from ..errors import RaffmError
from ..files import REPOSITORY
from ..writing import explained, replacing

FIGURES = REPOSITORY / "figures"
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
AXIS_LABELS = {
    "parameters": "Model Parameters (Million)",
    "encoder_parameters": "Model Parameters without Embeddings (Million)",
    "macs": "MACs of One Example (Million)",
}


def approximately(count: int) -> tuple[str, int]:
    """Mantissa to one decimal and exponent of a whole number of any size: 2,104 is ('2.1', 3)."""
    mantissa, _, exponent = f"{Decimal(count):.1e}".partition("e")
    return mantissa, int(exponent) if count else 0


def new_axes(size: tuple[float, float]) -> "Axes":
    """A figure with one Axes; inches."""
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def label_axes(ax: "Axes", across: str, up: str) -> None:
    """Set the labels, and a grid behind everything else."""
    ax.set_axisbelow(True)
    ax.grid(True, linestyle="--", linewidth=0.6, color="#b0b0b0", alpha=0.8)
    ax.set_xlabel(across, fontsize=11)
    ax.set_ylabel(up, fontsize=11)


LOG_FROM = 4.0  # times the smallest size: from there on, a linear axis would crowd the small ones


def is_wide(sizes: Sequence[float]) -> bool:
    """Whether sizes differ so much that their axis should be logarithmic."""
    return bool(sizes) and max(sizes) >= LOG_FROM * min(sizes) > 0


def logarithmic(ax: "Axes") -> None:
    """A logarithmic size axis, with plain numbers at 1, 2 and 5 of every power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def save_figure(fig: "Figure", name: str, folder: str | Path = FIGURES) -> list[Path]:
    """Write `name.png` (150 dpi) and `name.svg`; the same drawing gives the same bytes.

    Raises `RaffmError` where they cannot be written.
    """
    from matplotlib import rc_context

    folder = Path(folder).expanduser()
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": 150, "metadata": {"Software": None}},
        "svg": {"metadata": {"Date": None, "Creator": None}},
    }
    paths = [folder / f"{name}.{kind}" for kind in options]
    with explained(folder, RaffmError), rc_context({"svg.hashsalt": name}):
        for path, own in zip(paths, options.values(), strict=True):
            with replacing(path) as part:
                fig.savefig(part, bbox_inches="tight", **own)
    return paths
