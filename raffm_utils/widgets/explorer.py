"""The budget explorer as a widget; colours are from the palette of Okabe and Ito."""

import threading
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from ..evaluation import SweepRow
from ..space import Budget, Rng, SubmodelConfig
from ..supernet import Supernet
from .curve_widget import CurveWidget
from .limits import LimitSlider
from .state import ExplorerState
from .still import still_png, summary
from .view import code_html, count_html, past_html, predicted_html, result_html, widths_html

if TYPE_CHECKING:
    from ..data import Split
    from ..search import AccuracyPredictor


STYLE = f"<style>{(Path(__file__).parent / 'panel.css').read_text(encoding='utf-8')}</style>"
OWN = "own limits"


class BudgetExplorer(ipywidgets.VBox):
    """Limit costs with sliders, or on the curve; see what accuracy costs, evaluate a submodel, export it.

    Parameters, MACs, weight and peak activation memory can be limited, and latency when `supernet.latency` is set.
    Without `data` (a `Split`) everything but the evaluation works. A `predictor` adds predicted accuracies, the curve
    of the best of them, and the option to show these; `rows` of a sweep are drawn behind. `presets` are
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
        self._turn = threading.RLock()  # the evaluation reports from a thread of its own
        self.limits = {metric.key: LimitSlider(state, metric) for metric in state.metrics}
        self.sliders = {key: limit.widget for key, limit in self.limits.items()}
        self.fields = {key: limit.field for key, limit in self.limits.items()}
        self.shares = {key: limit.share for key, limit in self.limits.items()}
        self.preset = _choice("Device", [OWN, *state.presets], OWN)
        self.lift_button = _button("Lift all limits", "times", self._do(state.lift))
        self.policy = _choice("Show", state.policies, state.policy)
        self.count, self.widths, self.predicted = (ipywidgets.HTML() for _ in range(3))
        self.curve = CurveWidget(
            state,
            lambda size: self._do(state.choose_size, size)(),
            lambda steps: self._do(state.move, steps)(),
        )
        self.draw_button = _button("Draw another", "refresh", self._do(state.draw))
        self.evaluate_button = _button("Evaluate", "play", self._evaluate, "primary")
        self.cancel_button = _button("Cancel", "stop", self._do(state.cancel))
        self.hold_button = _button("Hold", "thumb-tack", self._do(state.hold))
        self.export_button = _button("Export", "download", self._export)
        self.code = ipywidgets.HTML()
        self.code.add_class("raffm-code-row")
        self.progress = ipywidgets.IntProgress(layout={"width": "150px", "display": "none"})
        self.result = ipywidgets.HTML()
        self.past = ipywidgets.HTML(past_html(state))
        self.thread: threading.Thread | None = None
        for key, slider in self.sliders.items():
            slider.observe(lambda _, key=key: self._limit(key), names="value")
        self.preset.observe(self._take_preset, names="value")
        self.policy.observe(lambda change: self._do(state.set_policy, change["new"])(), names="value")
        for key, field in self.fields.items():
            field.observe(lambda _, key=key: self._typed(key), names="value")
        super().__init__([ipywidgets.HTML(STYLE), self.preset, self._board(), self.past])
        self.add_class("raffm-explorer")
        self._show()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        found: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return {**found, "text/plain": "Sliders: run this cell to move them."}

    def _ipython_display_(self, **kwargs: Any) -> None:
        """The panel, and below it a picture as it is when the cell runs; its style hides one of them.

        In one output they would be a choice, and viewers choose the panel even where they have no way to show it.
        """
        from IPython.display import display

        display(self._repr_mimebundle_(**kwargs), raw=True)
        text, picture = "\n".join(summary(self.state)), b64encode(still_png(self.state)).decode()
        display({"image/png": picture, "text/plain": text}, raw=True, metadata={"image/png": {"alt": text}})

    def _board(self) -> Any:
        """Controls to the left, the curve to the right; in a narrow place below each other."""
        rows = [limit.row for limit in self.limits.values()]
        below = ipywidgets.HBox([self.lift_button], layout={"justify_content": "flex-end"})
        controls = ipywidgets.VBox([self.count, self.policy, *rows, below, self.widths])
        buttons = (self.draw_button, self.evaluate_button, self.cancel_button, self.hold_button, self.export_button)
        actions, outcome = _row(*buttons, self.code), _row(self.progress, self.result)
        plane = ipywidgets.VBox([self.curve, self.predicted, actions, outcome])
        board = ipywidgets.GridBox([controls, plane])
        board.add_class("raffm-board")
        return board

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
        if change["new"] != (self.state.preset or OWN):  # else a hand moved a limit of the device
            self._do(self.state.set_preset, None if change["new"] == OWN else change["new"])()

    def _limit(self, key: str) -> None:
        # the browser answers every value that is set with the step it stands on: no one has moved anything then
        if self.limits[key].moved():
            self._do(self.state.set_limit, key, self.limits[key].limit())()

    def _typed(self, key: str) -> None:
        if self.fields[key].value != self.limits[key].typed():
            self._do(self.state.type_limit, key, self.fields[key].value)()

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

    def _advance(self, done: int, total: int) -> None:
        with self._turn:
            self.progress.value, self.progress.max = done, total
            self.result.value = result_html(self.state)

    def _export(self, *_: object) -> None:
        self.result.value = "exporting …"
        self._do(self.state.export)()

    def _show(self) -> None:
        state, busy = self.state, self.state.measurement is not None
        for limit in self.limits.values():
            limit.show()
        self.preset.value = state.preset or OWN
        self.curve.show()
        self.count.value, self.predicted.value = count_html(state), predicted_html(state)
        self.widths.value, self.code.value = widths_html(state), code_html(state)
        self.hold_button.description = "Let go" if state.held == state.config else "Hold"
        self.draw_button.disabled = not state.can_draw
        self.evaluate_button.disabled = not state.count or busy
        self.cancel_button.disabled = not busy
        self.export_button.disabled = not state.count
        self.progress.layout.display = "" if busy else "none"
        self.result.value, self.past.value = result_html(state), past_html(state)


def _row(*children: Any) -> Any:
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def _button(text: str, icon: str, action: Callable[..., None], style: str = "") -> Any:
    button = ipywidgets.Button(description=text, icon=icon, button_style=style)
    button.on_click(action)
    return button


def _choice(name: str, options: Sequence[str], value: str) -> Any:
    # no drop-down list: JupyterLab takes the arrow keys and letters that one is worked by for commands of its own
    return ipywidgets.ToggleButtons(
        options=options, value=value, description=name, style={"description_width": "initial", "button_width": "auto"}
    )
