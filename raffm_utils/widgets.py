"""The budget explorer: widgets around an `ExplorerState`, which holds all the logic."""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from .budget import Budget
from .explorer_html import code_html, past_html, result_html, share_html, view_html
from .explorer_sliders import LimitSlider
from .explorer_state import ExplorerState
from .explorer_style import STYLE
from .pictures import widths_svg
from .space import SubmodelConfig
from .supernet import Supernet
from .sweep_file import SweepRow

if TYPE_CHECKING:
    from .data import Split
    from .predictor import AccuracyPredictor

OWN = "own limits"
AT_MOST = "<b>At most</b>"


class BudgetExplorer(ipywidgets.VBox):
    """Limit costs by sliders; see how many submodels fit, draw one, evaluate it, take it away.

    Parameters, MACs, weight and peak activation memory can be limited, and latency when `supernet.latency` is set.
    Without `data` (a `Split`) everything but the evaluation works. A `predictor` adds predicted accuracies, and
    the policy of showing the best of them; `rows` of a sweep are drawn behind what is evaluated. `presets` are the
    budgets of named devices, by default those of the published system settings; `budget` is what the sliders start
    from; `tokens` is the sequence length that the costs of a text model are counted at; what is exported goes into
    the folder `exports`.
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
        rng: np.random.Generator | None = None,
        tokens: int | None = None,
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
            tokens=tokens,
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
        """The submodel that is shown: what `supernet.extract` takes."""
        return self.state.config

    def _do(self, action: Callable[..., object], *values: Any) -> Callable[..., None]:
        """A handler that changes the state and shows it, with no word from the evaluation in between."""

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
