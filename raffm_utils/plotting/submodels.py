"""Pictures of a submodel's widths, on a matplotlib Axes and as inline SVG for live redrawing; and of latencies."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..space import SubmodelConfig
from .style import BLUE, GREEN, ORANGE, VERMILION, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PARTS = {"hidden": (GREEN, "hidden"), "attention": (BLUE, "attention"), "ffn": (ORANGE, "FFN")}


class Bar(NamedTuple):
    """One width of a submodel: the position of its bar (layer 1 is at 1), and its share of the full width.

    Width and share are 0 where a block is left out.
    """

    part: str
    layer: int | None
    position: float
    width: int
    share: float


def width_bars(config: SubmodelConfig, full: SubmodelConfig) -> Iterator[Bar]:
    """The widths of a submodel as bars: hidden at 0, then attention and FFN of every layer."""
    yield Bar("hidden", None, 0.0, config.hidden, config.hidden / full.hidden)
    for part, offset in (("attention", -0.2), ("ffn", 0.2)):
        widths = zip(getattr(config, part), getattr(full, part), strict=True)
        for layer, (width, most) in enumerate(widths, start=1):
            yield Bar(part, layer, layer + offset, width, width / most if width else 0.0)


def plot_widths(config: SubmodelConfig, full: SubmodelConfig, ax: "Axes | None" = None) -> "Axes":
    """The widths of a submodel per layer, as shares of the full network outlined behind; returns the Axes.

    A block that is left out is crossed out.
    """
    layers = len(config.attention)
    ax = ax or new_axes((max(6.0, 0.7 * layers), 3.4))
    bars = list(width_bars(config, full))
    ax.bar([b.position for b in bars], [100] * len(bars), 0.36, color="none", edgecolor="#bbbbbb")
    for part, (colour, name) in PARTS.items():
        own = [b for b in bars if b.part == part]
        text = f"{name} {config.hidden:,} of {full.hidden:,}" if part == "hidden" else name
        ax.bar([b.position for b in own], [100 * b.share for b in own], 0.36, color=colour, label=text)
    if out := [b.position for b in bars if not b.width]:
        ax.scatter(out, [6] * len(out), marker="x", s=34, linewidths=1.6, color=VERMILION, label="left out", zorder=3)
    ax.set_xticks(range(layers + 1), ["hidden", *map(str, range(1, layers + 1))])
    ax.set_ylim(0, 105)
    ax.set_xlabel("Layer")
    ax.set_ylabel("Width (% of full)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    return ax


DASHED = ' stroke-dasharray="3 3"'


def _cross(x: float, y: float, arm: float) -> str:
    left, high, wide = x - arm, y - arm, 2 * arm
    return (
        f'<path d="M{left:.1f} {high:.1f}l{wide:.1f} {wide:.1f}m0 {-wide:.1f}l{-wide:.1f} {wide:.1f}"'
        f' stroke="{VERMILION}" stroke-width="2" fill="none"/>'
    )


def widths_svg(config: SubmodelConfig, full: SubmodelConfig, *, faded: bool = False) -> str:
    """The picture of `plot_widths` as inline SVG, made in well under a millisecond, for live redrawing.

    Each layer can be focused, and says its widths: to screen readers, and in a text with the class `raffm-said`,
    which a page may show while the layer (`raffm-layer`) is pointed at.
    """
    layers, top, high, left = len(config.attention), 30, 92, 50
    pitch = min(56.0, max(28.0, 440 / (layers + 1)))
    thick, right = 0.37 * pitch, left + (layers + 1) * pitch
    wide, bottom = max(round(right) + 6, left + 400), top + high  # the legend has to fit as well
    shapes = [f'<line x1="{left}" x2="{right:.0f}" y1="{bottom}" y2="{bottom}" stroke="currentColor"/>']
    for share in (0, 50, 100):
        shapes.append(
            f'<text x="{left - 6}" y="{bottom - high * share / 100 + 5:.0f}" text-anchor="end">{share}%</text>'
        )
    bars = dict[int, list[Bar]]()
    for bar in width_bars(config, full):
        bars.setdefault(bar.layer or 0, []).append(bar)
    for layer, own in bars.items():
        said = ("" if layer == 0 else f"layer {layer}: ") + ", ".join(_said(bar, full) for bar in own)
        x = left + (layer + 0.5) * pitch
        columns = "".join(_column(bar, left + (bar.position + 0.315) * pitch, thick, bottom, high) for bar in own)
        shapes.append(
            f'<g class="raffm-layer" tabindex="0" role="img" aria-label="{said}">{columns}'
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{layer or "hidden"}</text>'
            f'<text class="raffm-said" display="none" x="{left}" y="{bottom + 36}">{said}</text></g>'
        )
    x = 4
    for part, (colour, name) in PARTS.items():
        text = f"{name} {config.hidden:,} of {full.hidden:,}" if part == "hidden" else name
        shapes.append(
            f'<rect x="{x}" y="6" width="14" height="14" fill="{colour}"/><text x="{x + 19}" y="18">{text}</text>'
        )
        x += 40 + 7 * len(text)
    if out := (*config.attention, *config.ffn).count(0):
        shapes.append(f'{_cross(x + 7, 13, 6)}<text x="{x + 19}" y="18">{out} blocks left out</text>')
    about = f"Widths: hidden {config.hidden}; attention {config.attention}; FFN {config.ffn}; 0: left out"
    style = f"width:100%;max-width:{wide}px;opacity:{0.3 if faded else 1}"
    return (
        f'<svg viewBox="0 0 {wide} {bottom + 42}" role="group" aria-label="{about}" font-size="14" fill="currentColor" '
        f'style="{style}">{"".join(shapes)}</svg>'
    )


def _said(bar: Bar, full: SubmodelConfig) -> str:
    most = full.hidden if bar.layer is None else getattr(full, bar.part)[bar.layer - 1]
    return f"{PARTS[bar.part][1]} {f'{bar.width:,} of {most:,}' if bar.width else 'left out'}"


def _column(bar: Bar, x: float, thick: float, bottom: float, high: float) -> str:
    """One bar in the outline of its full width; a cross where a block is left out."""
    tall = high * bar.share
    outline = f'<rect x="{x:.1f}" y="{bottom - high}" width="{thick:.1f}" height="{high}" fill="none" stroke="#999"'
    if not bar.width:
        return f"{outline}{DASHED}/>{_cross(x + thick / 2, bottom - thick, min(0.35 * thick, 6))}"
    colour = PARTS[bar.part][0]
    bar_itself = f'<rect x="{x:.1f}" y="{bottom - tall:.1f}" width="{thick:.1f}" height="{tall:.1f}" fill="{colour}"/>'
    return f"{outline}/>{bar_itself}"
