"""A still picture of the budget explorer, and its text, for readers without a kernel."""

from html import escape

from ..plotting import approximately, widths_shapes
from .curve import HIGH, WIDE, Plane, ground_svg, over_svg, said
from .metrics import limits_text
from .state import ExplorerState

LINE = 22
COLUMN = 470  # how wide the text and the widths are; the curve stands to the right


def summary(state: ExplorerState) -> list[str]:
    """Limits, count and the submodel shown, in a few lines of text."""
    mantissa, exponent = approximately(state.count)
    number = f"{state.count:,}" if exponent < 7 else f"about {mantissa}e{exponent}"
    lines = [f"Budget of {state.preset}" if state.preset else "Budget"]
    lines += [f"  {limit}" for limit in limits_text(state.budget)] or ["  no limit"]
    lines.append(f"{number} submodels fit" if state.count else f"No submodel fits. {state.problem}")
    lines.append(f"Shown ({state.policy}): {said(state)}")
    return lines


def still_svg(state: ExplorerState) -> str:
    """The text, the widths of the submodel shown and the curve, as one SVG that stands alone."""
    lines, plane = summary(state), Plane.of(state)
    texts = "".join(
        f'<text x="8" y="{LINE * number}" xml:space="preserve">{escape(line)}</text>'
        for number, line in enumerate(lines, start=1)
    )
    widths, wide, high = widths_shapes(state.config, state.full)
    below, scale = LINE * len(lines) + 14, min(1, COLUMN / wide)
    tall = max(HIGH, round(below + high * scale))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMN + WIDE} {tall}" width="{COLUMN + WIDE}" '
        f'font-family="sans-serif" role="img" aria-label="{escape(". ".join(lines), quote=True)}">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<g font-size="14">{texts}<g transform="translate(0 {below}) scale({scale:.3f})">{widths}</g></g>'
        f'<g font-size="12.5" transform="translate({COLUMN} 0)">{ground_svg(state, plane)}{over_svg(state, plane)}</g>'
        f"</svg>"
    )
