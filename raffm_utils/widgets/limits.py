"""One limit of the budget explorer: a slider, a field to type in, and what they mean."""

import math
from typing import Any

import ipywidgets

from .metrics import Metric
from .state import ExplorerState
from .view import share_html

STEPS = 250
BELOW_SMALLEST = 0.9  # where sliders begin, so that it can be seen what happens when nothing fits
LOG_FROM = 4.0  # a cost that spans more than this factor has steps of equal ratio, not of equal size


class LimitSlider:
    """One row of the panel: a slider over one cost, from below the smallest submodel to the full network, and a field.

    The browser only knows values on the slider's steps, and reports those.
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
        else:
            self._step, self._digits = _round_step((high - low) / STEPS)
            self._first = math.floor(low / self._step) * self._step
            self._steps = math.ceil((high - self._first) / self._step)
        kind = ipywidgets.FloatLogSlider if self.logarithmic else ipywidgets.FloatSlider
        self.widget: Any = kind(
            value=self._value(self._steps),
            min=self._position(0),
            max=self._position(self._steps),
            step=self._step,
            readout=False,  # it would read 12,5 as 12
            layout={"width": "100%", "margin": "0"},
        )
        self.field: Any = ipywidgets.Text(
            description=f"{metric.name} ({metric.unit})", placeholder="no limit", continuous_update=False
        )
        self.share: Any = ipywidgets.HTML()
        self.row: Any = ipywidgets.GridBox([self.field, self.share, self.widget])
        self.row.add_class("raffm-limit")
        self.show()

    def show(self) -> None:
        """Move to the current limit: the last step that is not above it, or the end if there is none; and say it."""
        if self.moved():  # the browser's own value for this step may differ in its last digits: leave that alone
            self.widget.value = self._value(self._stand())
        self.field.value = self.typed()
        self.share.value = share_html(self._state, self.metric)

    def typed(self) -> str:
        """The current limit as it would be typed; empty if there is none."""
        limit, full = self._state.limit(self.metric.key), self.metric.of(self._state.full_cost)
        return "" if limit >= full else self.metric.amount(limit)

    def moved(self) -> bool:
        """Whether the slider differs from the current limit because someone moved it."""
        return not math.isclose(self.widget.value, self._value(self._stand()), rel_tol=1e-9)

    def limit(self) -> float:
        """The value of the slider in the units of `Cost`; at its end, the cost of the full network."""
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
