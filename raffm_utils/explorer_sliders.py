"""The sliders of the budget explorer, and where a limit stands on them."""

import math
from typing import Any

import ipywidgets

from .explorer_metrics import Metric
from .explorer_state import ExplorerState

STEPS = 250
BELOW_SMALLEST = 0.9  # where sliders begin, so that it can be seen what happens when nothing fits
LOG_FROM = 4.0  # a cost that spans more than this factor has steps of equal ratio, not of equal size


class LimitSlider:
    """A slider over one cost, in its shown unit, from below the smallest submodel to the full network or just above.

    The browser only knows values on its steps, and answers with those.
    """

    def __init__(self, state: ExplorerState, metric: Metric) -> None:
        self.metric, self._state = metric, state
        high = metric.of(state.full_cost) / metric.scale
        low = min(metric.of(state.smallest_cost) / metric.scale, high)
        self.logarithmic = high > LOG_FROM * low
        low *= BELOW_SMALLEST
        if self.logarithmic:
            self._first, self._steps, self._digits = math.log10(low), STEPS, 12
            self._step = (math.log10(high) - self._first) / STEPS
            shown = ",.4r"
        else:
            self._step, self._digits = _round_step((high - low) / STEPS)
            self._first = math.floor(low / self._step) * self._step
            self._steps = math.ceil((high - self._first) / self._step)
            shown = f",.{max(0, self._digits)}f"
        kind = ipywidgets.FloatLogSlider if self.logarithmic else ipywidgets.FloatSlider
        self.widget: Any = kind(
            value=self._value(self._steps),
            min=self._position(0),
            max=self._position(self._steps),
            step=self._step,
            readout_format=shown,
            description=f"{metric.name} ({metric.unit})",
            style={"description_width": "170px"},
            layout={"width": "560px", "max_width": "100%"},
        )
        self.show()

    def show(self) -> None:
        """Move to where the limit in force stands: the last step that is not above it, or the end without one."""
        self.widget.value = self._value(self._stand())

    def moved(self) -> bool:
        """Whether the slider is elsewhere than where the limit stands: someone moved it."""
        return not math.isclose(self.widget.value, self._value(self._stand()), rel_tol=1e-9)

    def limit(self) -> float:
        """What the slider stands at, in the units of `Cost`; the cost of the full network at the end."""
        at_the_end = math.isclose(self.widget.value, self._value(self._steps), rel_tol=1e-9)
        return self.metric.of(self._state.full_cost) if at_the_end else self.widget.value * self.metric.scale

    def _stand(self) -> int:
        limit = self._state.limit(self.metric.key)
        if limit >= self.metric.of(self._state.full_cost):
            return self._steps
        wanted = limit / self.metric.scale
        position = math.log10(max(wanted, 1e-300)) if self.logarithmic else wanted
        step = math.floor((position - self._first) / self._step + 1e-6)
        return min(max(step, 0), self._steps)

    def _position(self, step: int) -> float:
        return round(self._first + step * self._step, self._digits)

    def _value(self, step: int) -> float:
        return float(10.0 ** self._position(step) if self.logarithmic else self._position(step))


def _round_step(rough: float) -> tuple[float, int]:
    """The largest of 1, 2, 5, 10 times a power of ten that is not above `rough`, and the digits it needs."""
    digits = -math.floor(math.log10(rough))
    return next(size for size in (10, 5, 2, 1) if size * 10.0**-digits <= rough) * 10.0**-digits, digits
