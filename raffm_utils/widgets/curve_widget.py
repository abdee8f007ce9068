"""The curve as a widget: shows two layers of SVG, and tells what was clicked, dragged or asked for by key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from .curve import HIGH, LEFT, RIGHT, WIDE, Plane, ground_svg, over_svg, said
from .state import ExplorerState


class CurveWidget(anywidget.AnyWidget):
    """`on_size(size)` is called for a place that was clicked, `on_steps(steps)` for arrow keys."""

    _esm = (Path(__file__).parent / "curve.js").read_text(encoding="utf-8")
    extent = traitlets.List([WIDE, HIGH]).tag(sync=True)
    ground = traitlets.Unicode().tag(sync=True)
    over = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)
    share = traitlets.Float().tag(sync=True)

    def __init__(self, state: ExplorerState, on_size: Callable[[float], None], on_steps: Callable[[int], None]) -> None:
        super().__init__()
        self._state, self._on_size, self._on_steps = state, on_size, on_steps
        self._plane, self._known = Plane.of(state), -1
        self.label = f"Accuracy against {state.size.name.lower()}: the arrow keys choose a budget along the curve"
        self.on_msg(self._asked)
        self.show()

    def show(self) -> None:
        """Follow the state; the ground only when something was evaluated."""
        state = self._state
        if self._known != (known := len(state.history)):
            self._plane, self._known = Plane.of(state), known
            self.ground = ground_svg(state, self._plane)
        self.over, self.said = over_svg(state, self._plane), said(state)
        self.share = (self._plane.x(state.size.of(state.cost)) - LEFT) / (RIGHT - LEFT)

    def _asked(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if isinstance(x := content.get("x"), int | float):
            self._on_size(self._plane.size(x))
        elif isinstance(steps := content.get("steps"), int):
            self._on_steps(steps)
