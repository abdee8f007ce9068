"""The curve of the budget explorer as SVG: what accuracy costs, what is in reach, and where the shown submodel lies.

It has two layers: the ground, which changes when something was evaluated, and what follows the sliders above it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ..evaluation import Interval
from ..plotting import GREEN, ORANGE, VERMILION, is_wide
from .metrics import Metric
from .state import ExplorerState

WIDE, HIGH = 520, 330  # of the picture
LEFT, RIGHT, TOP, BOTTOM = 48, 508, 34, 288  # of the plane within it
PAPER = "var(--jp-layout-color0, white)"
SKY = "#56B4E9"  # of the palette of Okabe and Ito as well; seen on white and on black
ROUND = (1, 2, 5)
SPARE = 0.06  # of the range of accuracies, above and below
HATCH = (
    '<defs><pattern id="raffm-hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path d="M0 0V7" stroke="currentColor" stroke-width="1.6" opacity="0.3"/></pattern></defs>'
)


@dataclass(frozen=True)
class Plane:
    """Where sizes and accuracies lie in the picture; sizes are of one cost, on a logarithmic scale if they ask for it.

    `least` and `most` are the smallest and the largest size, `low` and `high` the ends of the accuracies, 0 to 1.
    """

    metric: Metric
    least: float
    most: float
    low: float
    high: float

    @classmethod
    def of(cls, state: ExplorerState) -> "Plane":
        """The plane that holds all that is known."""
        metric = state.size
        known = [row.accuracy for row in state.rows]
        for one in (*state.history, *(point.predicted for point in state.front)):
            known += [one.low, one.high]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        spare = SPARE * (high - low) or SPARE
        least, most = metric.of(state.smallest_cost), metric.of(state.full_cost)
        return cls(metric, least, max(most, least * 1.001), max(0, low - spare), min(1, high + spare))

    @property
    def logarithmic(self) -> bool:
        return is_wide([self.least, self.most])

    def x(self, size: float) -> float:
        """Where a size lies from left to right; those outside lie on the edge."""
        if self.logarithmic:
            share = math.log(max(size, 1e-300) / self.least) / math.log(self.most / self.least)
        else:
            share = (size - self.least) / (self.most - self.least)
        return LEFT + (RIGHT - LEFT) * min(max(share, 0), 1)

    def size(self, x: float) -> float:
        """The inverse of `x`."""
        share = min(max((x - LEFT) / (RIGHT - LEFT), 0), 1)
        if self.logarithmic:
            return float(self.least * (self.most / self.least) ** share)
        return self.least + (self.most - self.least) * share

    def y(self, accuracy: float) -> float:
        """Where an accuracy lies from the top down; those outside lie on the edge."""
        share = (accuracy - self.low) / (self.high - self.low)
        return BOTTOM - (BOTTOM - TOP) * min(max(share, 0), 1)


def ground_svg(state: ExplorerState, plane: Plane) -> str:
    """What does not follow the sliders: axes, the submodels measured before, and the front of the best predicted."""
    parts = [HATCH, *_axes(plane)]
    if places := [
        f"M{plane.x(size):.1f} {plane.y(row.accuracy):.1f}h0"
        for row in state.rows
        if (size := getattr(row, plane.metric.key)) is not None
    ]:
        parts.append(
            f'<path d="{"".join(places)}" stroke="{SKY}" stroke-width="5" stroke-linecap="round" opacity="0.7">'
            f"<title>{len(places)} submodels of a stored sweep</title></path>"
        )
    if state.front:
        across = [plane.x(point.cost) for point in state.front]
        edges = [[plane.y(getattr(point.predicted, edge)) for point in state.front] for edge in ("low", "high")]
        band = [*zip(across, edges[0], strict=True), *reversed(list(zip(across, edges[1], strict=True)))]
        parts.append(f'<path d="M{_line(band)}Z" fill="{GREEN}" opacity="0.15"/>')
        line = [(x, plane.y(point.predicted.accuracy)) for x, point in zip(across, state.front, strict=True)]
        parts.append(f'<path d="M{_line(line)}" stroke="{GREEN}" stroke-width="2.5" fill="none"/>')
        for (x, y), point in zip(line, state.front, strict=True):
            said = f"best predicted with {plane.metric.text(point.cost)}: {point.predicted}"
            parts.append(
                f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{GREEN}">'
                f"<title>{said}</title></rect>"
            )
    return "".join([*parts, *_legend(state)])


def over_svg(state: ExplorerState, plane: Plane) -> str:
    """What follows the sliders: what is out of reach, what was evaluated, and the submodel shown."""
    parts = list(_out_of_reach(state, plane))
    parts += [_mark(plane, plane.metric.of(item.cost), item, ORANGE, "evaluated") for item in state.history]
    if state.held is not None:
        parts.append(_held(state, plane, plane.metric.of(state.held_cost)))
    return "".join([*parts, _shown(state, plane)])


def said(state: ExplorerState) -> str:
    """The shown submodel in words, for those who do not see the curve."""
    if not state.count:
        return "nothing fits"
    size = state.size.text(state.size.of(state.cost))
    found = state.evaluated or state.predicted
    if found is None:
        return f"{size}, not evaluated"
    return f"{size}, {'evaluated' if state.evaluated else 'predicted'} accuracy {found}"


def _shown(state: ExplorerState, plane: Plane) -> str:
    size, found = plane.metric.of(state.cost), state.evaluated or state.predicted
    x = plane.x(size)
    at_right = x > (LEFT + RIGHT) / 2
    side = f'x="{x + (-12 if at_right else 12):.1f}" text-anchor="{"end" if at_right else "start"}"'
    faded = "" if state.count else ' opacity="0.3"'
    if found is None:
        return (
            f'<g class="raffm-shown"{faded}><path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="{VERMILION}" stroke-width="2.5" '
            f'stroke-dasharray="6 4"/>{_text(side, TOP + 16, f"{plane.metric.text(size)}, not evaluated")}</g>'
        )
    y = plane.y(found.accuracy)
    up = y - 14 if y > TOP + 34 else y + 26
    words = f"{found.accuracy:.1%} {'measured' if state.evaluated else 'predicted'}"
    return (
        f'<g class="raffm-shown"{faded}>{_whisker(plane, x, found, VERMILION, 3)}'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7.5" fill="{VERMILION}" style="stroke: {PAPER}" '
        f'stroke-width="2"/>{_text(side, up, f"{plane.metric.text(size)}, {words}")}</g>'
    )


def _text(side: str, y: float, words: str) -> str:
    halo = f'paint-order="stroke" style="stroke: {PAPER}" stroke-width="4" stroke-linejoin="round"'
    return f'<text {side} y="{y:.1f}" font-weight="600" {halo}>{escape(words)}</text>'


def _held(state: ExplorerState, plane: Plane, size: float) -> str:
    found, x = state.known_of_held, plane.x(size)
    if found is None:
        return (
            f'<path d="M{x:.1f} {TOP}V{BOTTOM}" stroke="currentColor" stroke-dasharray="2 4"><title>held</title></path>'
        )
    y = plane.y(found.accuracy)
    return (
        f"{_whisker(plane, x, found, 'currentColor', 1.5)}"
        f'<path d="M{x:.1f} {y - 9:.1f}l9 9l-9 9l-9 -9Z" fill="none" stroke="currentColor" stroke-width="2">'
        f"<title>held for comparison: {plane.metric.text(size)}, {found}</title></path>"
    )


def _mark(plane: Plane, size: float, found: Interval, colour: str, name: str) -> str:
    x, y = plane.x(size), plane.y(found.accuracy)
    said = f"{name}: {plane.metric.text(size)}, {found.accuracy:.1%} ({found.low:.1%} to {found.high:.1%})"
    return (
        f"{_whisker(plane, x, found, colour, 2)}"
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}" stroke="#222"><title>{said}</title></circle>'
    )


def _whisker(plane: Plane, x: float, found: Interval, colour: str, width: float) -> str:
    low, high = plane.y(found.low), plane.y(found.high)
    return (
        f'<path d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 5:.1f} {low:.1f}h10M{x - 5:.1f} {high:.1f}h10" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def _out_of_reach(state: ExplorerState, plane: Plane) -> Iterator[str]:
    """The part of the plane that the budget excludes: sizes that no submodel inside it has."""
    first, last = (plane.x(edge) for edge in state.reach) if state.reach else (RIGHT, LEFT)
    areas = [(last, RIGHT), (LEFT, first)] if state.reach else [(LEFT, RIGHT)]
    for left, right in areas:
        if right - left < 0.5:
            continue
        yield (
            f'<g class="raffm-out"><rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{BOTTOM - TOP}" '
            f'fill="currentColor" opacity="0.09"/><rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{BOTTOM - TOP}" fill="url(#raffm-hatch)"><title>out of reach of these limits</title></rect></g>'
        )
    if state.reach and last < RIGHT - 0.5:
        yield f'<path d="M{last:.1f} {TOP}V{BOTTOM}" stroke="currentColor" stroke-width="1.5"/>'


def _axes(plane: Plane) -> Iterator[str]:
    for value in _ticks(plane.low, plane.high):
        y = plane.y(value)
        yield f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="currentColor" opacity="0.15"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.4g}%</text>'
    scale = plane.metric.scale
    last = -math.inf
    for value in _sizes(plane.least / scale, plane.most / scale, plane.logarithmic):
        x = plane.x(value * scale)
        if x - last > 24:
            yield f'<text x="{x:.1f}" y="{BOTTOM + 17}" text-anchor="middle">{value:.4g}</text>'
            yield f'<path d="M{x:.1f} {BOTTOM}v4" stroke="currentColor"/>'
            last = x
    yield f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" stroke="currentColor" fill="none"/>'
    name = f"{plane.metric.name} ({plane.metric.unit})"
    yield f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 36}" text-anchor="middle">{name}</text>'


def _legend(state: ExplorerState) -> Iterator[str]:
    items = [(f'<circle cx="6" cy="-4" r="6" fill="{VERMILION}"/>', "shown")]
    if state.front:
        items.append((f'<path d="M0 -4h14" stroke="{GREEN}" stroke-width="3"/>', "best predicted"))
    if state.rows:
        items.append((f'<circle cx="6" cy="-4" r="4" fill="{SKY}" opacity="0.8"/>', "stored sweep"))
    if state.history:
        items.append((f'<circle cx="6" cy="-4" r="5" fill="{ORANGE}" stroke="#222"/>', "evaluated"))
    items.append(
        ('<rect y="-10" width="14" height="12" fill="url(#raffm-hatch)" stroke="currentColor"/>', "out of reach")
    )
    x = 4.0
    for shape, name in items:
        yield f'<g transform="translate({x:.0f} 18)">{shape}<text x="19">{name}</text></g>'
        x += 34 + 6.4 * len(name)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within a range."""
    step = _round_up((high - low) / 6)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_up(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(size * power for size in (*ROUND, 10) if size * power >= rough * (1 - 1e-9))


def _sizes(low: float, high: float, logarithmic: bool) -> Iterable[float]:
    if not logarithmic:
        return _ticks(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [value for power in powers for size in ROUND if low <= (value := size * 10.0**power) <= high]


def _line(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
