"""The budget explorer as a widget; colours are from the palette of Okabe and Ito."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from ..evaluation import SweepRow
from ..plotting import widths_svg
from ..space import Budget, Rng, SubmodelConfig
from ..supernet import Supernet
from .state import ExplorerState, Metric
from .view import code_html, past_html, result_html, share_html, view_html

if TYPE_CHECKING:
    from ..data import Split
    from ..search import AccuracyPredictor


STYLE = """<style>
.raffm-explorer { --jp-widgets-font-size: 15px; width: 100%; max-width: 860px; container-type: inline-size; }
.raffm-explorer .widget-html, .raffm-explorer .widget-html-content { min-width: 0; max-width: 100%; }
.raffm-explorer .widget-html-content { font-size: 15px; line-height: 1.4; width: 100%; }
.raffm-explorer .noUi-handle { background: #0072B2; border-color: #0072B2; }
.raffm-explorer :is(.noUi-handle, button, select, summary, pre):focus-visible { outline: 3px solid #D55E00; }
.raffm-explorer .noUi-handle:focus { outline: 3px solid #D55E00; outline-offset: 2px; }
.raffm-explorer button { width: auto; padding: 0 14px; }
.raffm-explorer .widget-toggle-buttons { display: flex; flex-flow: row nowrap; align-items: baseline; }
.raffm-explorer .widget-toggle-buttons { width: auto; max-width: 100%; height: auto; }
.raffm-explorer .widget-toggle-buttons > .widget-label { flex: 0 0 auto; text-align: left; }
.raffm-explorer .widget-toggle-button i { display: none; }
.raffm-explorer .widget-toggle-button { width: auto; padding: 0 10px; }
.raffm-explorer .widget-toggle-button.mod-active { background: #0072B2; color: white; font-weight: 600; }
.raffm-explorer button i { margin-right: 8px !important; }
.raffm-count { height: 5.2em; overflow-y: auto; overflow-wrap: anywhere; }
.raffm-count b { font-size: 20px; }
.raffm-problem small { font-size: 14px; }
.raffm-problem { border-left: 5px solid #D55E00; padding: 2px 10px; overflow-wrap: anywhere; }
.raffm-explorer table { border-collapse: collapse; margin: 6px 0; font-variant-numeric: tabular-nums; }
.raffm-explorer th, .raffm-explorer td { padding: 1px 18px 1px 0; text-align: right; }
.raffm-explorer td { white-space: nowrap; }
.raffm-explorer th:first-child { text-align: left; }
.raffm-faded { opacity: 0.35; }
.raffm-predicted { min-height: 3.2em; }
.raffm-result { min-height: 1.6em; padding-left: 2px; }
.raffm-past > div { max-height: 220px; overflow: auto; }
.raffm-past img { width: 700px; max-width: 100%; height: auto; aspect-ratio: 84 / 60; }
.raffm-code summary {
  cursor: pointer; list-style: none; display: inline-block; padding: 0 14px; line-height: 28px; margin: 2px;
  background: var(--jp-layout-color2, #eee); font-size: var(--jp-widgets-font-size);
}
.raffm-code pre {
  user-select: all; white-space: pre-wrap; word-break: normal; overflow-wrap: break-word;
  margin: 4px 2px; padding: 8px 10px; border: 1px solid var(--jp-border-color1, #bbb); font-size: 13px;
}
.raffm-code-row:has(details[open]) { flex-basis: 100%; }
@container (max-width: 520px) {
  .widget-slider { flex-wrap: wrap; height: auto; }
  .widget-slider .widget-label { flex-basis: 100%; text-align: left; }
  .raffm-limit { position: relative; }
  .raffm-limit > .widget-html { position: absolute; right: 0; top: 0; margin: 6px 0 0; }
  .widget-slider .widget-readout { min-width: 60px; }
  th, td { padding-right: 10px !important; }
  .raffm-past :is(th, td):nth-child(3) { display: none; }
  svg { font-size: 20px; }
  .raffm-count { height: 8em; }
  .raffm-count b { font-size: 17px; }
}
</style>"""
STEPS = 250
BELOW_SMALLEST = 0.9  # where sliders begin, so that it can be seen what happens when nothing fits
LOG_FROM = 4.0  # a cost that spans more than this factor has steps of equal ratio, not of equal size


class LimitSlider:
    """A slider over one cost, in its displayed unit, from below the smallest submodel to the full network.

    The browser only knows values on its steps, and reports those.
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
        """Move to the current limit: the last step that is not above it, or the end if there is none."""
        self.widget.value = self._value(self._stand())

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


OWN = "own limits"
AT_MOST = "<b>At most</b>"


class BudgetExplorer(ipywidgets.VBox):
    """Limit costs with sliders; see how many submodels fit, draw one, evaluate it, export it.

    Parameters, MACs, weight and peak activation memory can be limited, and latency when `supernet.latency` is set.
    Without `data` (a `Split`) everything but the evaluation works. A `predictor` adds predicted accuracies, and
    the option to show the best of them; `rows` of a sweep are drawn behind the evaluated submodels. `presets` are
    the budgets of named devices, by default those of the published system settings; `budget` is where the sliders
    start; exports are written to the folder `exports`. A text model needs its `Supernet.tokens`.

    Example:
        explorer = BudgetExplorer(supernet, load_split("fashion_mnist", "test", processor=supernet.processor))
        explorer  # in a notebook: shows the panel
        model = supernet.extract(explorer.config)
    """

    def __init__(
        self,
        supernet: Supernet,
        data: "Split | None" = None,
        *,
        predictor: "AccuracyPredictor | None" = None,
        rows: Sequence[SweepRow] = (),
        presets: Mapping[str, Budget] | None = None,
        budget: Budget | None = None,
        rng: Rng | None = None,
        exports: str | Path = "exports",
    ) -> None:
        self.state = ExplorerState(
            supernet,
            data,
            predictor=predictor,
            rows=rows,
            presets=presets,
            budget=budget,
            rng=rng,
            exports=exports,
        )
        state = self.state
        self.limits = {metric.key: LimitSlider(state, metric) for metric in state.metrics}
        self.sliders = {key: limit.widget for key, limit in self.limits.items()}
        self.shares = {key: ipywidgets.HTML() for key in self.limits}
        self.preset = _choice("Device", [OWN, *state.presets], OWN)
        self.policy = _choice("Show", state.policies, state.policy)
        self.view = ipywidgets.HTML()
        self.draw_button = _button("Draw another", "refresh", self._do(state.draw))
        self.evaluate_button = _button("Evaluate", "play", self._evaluate, "primary")
        self.cancel_button = _button("Cancel", "stop", self._do(state.cancel))
        self.export_button = _button("Export", "download", self._export)
        self.code = ipywidgets.HTML()
        self.code.add_class("raffm-code-row")
        self.progress = ipywidgets.IntProgress(layout={"width": "150px", "display": "none"})
        self.result = ipywidgets.HTML()
        self.past = ipywidgets.HTML(past_html(state))
        self.thread: threading.Thread | None = None
        self._turn = threading.RLock()  # the evaluation reports from a thread of its own
        for key, slider in self.sliders.items():
            slider.observe(lambda _, key=key: self._limit(key), names="value")
        self.preset.observe(self._take_preset, names="value")
        self.policy.observe(lambda change: self._do(state.set_policy, change["new"])(), names="value")
        rows_of_limits = [_row(self.sliders[key], self.shares[key]) for key in self.limits]
        for row in rows_of_limits:
            row.add_class("raffm-limit")
        buttons = (self.draw_button, self.evaluate_button, self.cancel_button, self.export_button)
        actions, outcome = _row(*buttons, self.code), _row(self.progress, self.result)
        super().__init__(
            [
                ipywidgets.HTML(STYLE),
                self.preset,
                self.policy,
                ipywidgets.HTML(AT_MOST),
                *rows_of_limits,
                self.view,
                actions,
                outcome,
                self.past,
            ]
        )
        self.add_class("raffm-explorer")
        self._show()

    @property
    def config(self) -> SubmodelConfig:
        """The configuration of the displayed submodel, for `supernet.extract`."""
        return self.state.config

    def _do(self, action: Callable[..., object], *values: Any) -> Callable[..., None]:
        """A handler that changes the state and displays it, without interference from the evaluation thread."""

        def handle(*_: object) -> None:
            with self._turn:
                action(*values)
                self._show()

        return handle

    def _take_preset(self, change: dict[str, Any]) -> None:
        self._do(self.state.set_preset, None if change["new"] == OWN else change["new"])()
        if change["new"] != OWN:
            for limit in self.limits.values():
                limit.show()

    def _limit(self, key: str) -> None:
        # the browser answers every value that is set with the step it stands on: no one has moved anything then
        if self.limits[key].moved():
            self._do(self.state.set_limit, key, self.limits[key].limit())()

    def _evaluate(self, *_: object) -> None:
        with self._turn:
            if self.state.begin():
                self.progress.max, self.progress.value = self.state.measurement.total, 0  # type: ignore[union-attr]
                self.thread = threading.Thread(target=self._measure, daemon=True)
                self.thread.start()
            self._show()

    def _measure(self) -> None:
        self.state.finish(self._advance)
        with self._turn:
            self._show()
        past = past_html(self.state)  # takes a moment, which the sliders need not wait for
        with self._turn:
            self.past.value = past

    def _advance(self, done: int, total: int) -> None:
        with self._turn:
            self.progress.value, self.progress.max = done, total
            self.result.value = result_html(self.state)

    def _export(self, *_: object) -> None:
        self.result.value = "exporting …"
        self._do(self.state.export)()

    def _show(self) -> None:
        state, busy = self.state, self.state.measurement is not None
        for key, limit in self.limits.items():
            self.shares[key].value = share_html(state, limit.metric)
        self.preset.value = state.preset or OWN
        picture = widths_svg(state.config, state.full, faded=not state.count)
        self.view.value = view_html(state, picture)
        self.code.value = code_html(state)
        self.draw_button.disabled = not state.can_draw
        self.evaluate_button.disabled = not state.count or busy
        self.cancel_button.disabled = not busy
        self.export_button.disabled = not state.count
        self.progress.layout.display = "" if busy else "none"
        self.result.value = result_html(state)


def _row(*children: Any) -> Any:
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def _button(text: str, icon: str, action: Callable[..., None], style: str = "") -> Any:
    button = ipywidgets.Button(description=text, icon=icon, button_style=style)
    button.on_click(action)
    return button


def _choice(name: str, options: Sequence[str], value: str) -> Any:
    # no drop-down list: JupyterLab takes the arrow keys and letters that one is worked by for commands of its own
    return ipywidgets.ToggleButtons(
        options=options, value=value, description=name, style={"description_width": "55px", "button_width": "auto"}
    )
