"""The budget explorer: sliders and buttons around an `ExplorerState`, which holds all the logic."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np

from .budget import Budget
from .explorer_html import (
    NAMES,
    STYLE,
    UNITS,
    cost_html,
    count_html,
    past_html,
    result_html,
    share_html,
)
from .explorer_state import LIMITED, ExplorerState
from .pictures import widths_svg
from .space import SubmodelConfig
from .supernet import Supernet

if TYPE_CHECKING:
    from .data import Split

SLIDER_STEPS = 250
BELOW_SMALLEST = 0.9  # where the sliders begin, so that it can be seen what happens when nothing fits


class BudgetExplorer(ipywidgets.VBox):
    """Limit parameters and MACs by sliders; see how many submodels fit, draw one, evaluate it.

    Without `data` (a `Split`) everything but the evaluation works. `budget` is what the sliders start from;
    `tokens` is the sequence length that the MACs of a text model are counted at; what is exported goes into
    the folder `exports`.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: "Split | None" = None,
        *,
        budget: Budget | None = None,
        rng: np.random.Generator | None = None,
        tokens: int | None = None,
        exports: str | Path = "exports",
    ) -> None:
        self.state = ExplorerState(supernet, data, budget=budget, rng=rng, tokens=tokens, exports=exports)
        self.sliders = {metric: _slider(self.state, metric) for metric in LIMITED}
        self.shares = {metric: ipywidgets.HTML() for metric in LIMITED}
        self.view = ipywidgets.HTML()
        self.draw_button = ipywidgets.Button(description="Draw another", icon="refresh")
        self.evaluate_button = ipywidgets.Button(description="Evaluate", icon="play", button_style="primary")
        self.export_button = ipywidgets.Button(description="Export", icon="download")
        self.progress = ipywidgets.IntProgress(layout={"width": "150px", "display": "none"})
        self.result = ipywidgets.HTML()
        self.past = ipywidgets.HTML()
        for metric, slider in self.sliders.items():
            self.state.set_limit(metric, round(slider.value * 1e6))
            slider.observe(lambda change, metric=metric: self._limit(metric, change["new"]), names="value")
        self.draw_button.on_click(lambda _: self._draw())
        self.evaluate_button.on_click(lambda _: self._evaluate())
        self.export_button.on_click(lambda _: self._export())
        rows = [_row(self.sliders[metric], self.shares[metric]) for metric in LIMITED]
        actions = _row(*self._buttons(), self.progress)
        super().__init__([ipywidgets.HTML(STYLE), *rows, self.view, actions, self.result, self.past])
        self.add_class("raffm-explorer")
        self._show()

    @property
    def config(self) -> SubmodelConfig:
        """The submodel that is shown: what `supernet.extract` takes."""
        return self.state.config

    def _limit(self, metric: str, millions: float) -> None:
        self.state.set_limit(metric, round(millions * 1e6))
        self._show()

    def _draw(self) -> None:
        self.state.draw()
        self._show()

    def _evaluate(self) -> None:
        self._allow(False)
        self.progress.value, self.progress.layout.display = 0, ""
        self.result.value = "evaluating …"
        self.state.evaluate(self._advance)
        self.progress.layout.display = "none"
        self.past.value = past_html(self.state)
        self._show()

    def _export(self) -> None:
        self._allow(False)
        self.result.value = "exporting …"
        self.state.export()
        self._show()

    def _buttons(self) -> tuple[Any, ...]:
        return self.draw_button, self.evaluate_button, self.export_button

    def _allow(self, allowed: bool) -> None:
        for button in self._buttons():
            button.disabled = not allowed

    def _advance(self, done: int, total: int) -> None:
        self.progress.max, self.progress.value = total, done

    def _show(self) -> None:
        state = self.state
        for metric, label in self.shares.items():
            label.value = share_html(state, metric)
        picture = widths_svg(state.config, state.full, faded=not state.count)
        self.view.value = count_html(state) + picture + cost_html(state)
        self._allow(bool(state.count))
        self.result.value = result_html(state)


def _row(*children: Any) -> Any:
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def _slider(state: ExplorerState, metric: str) -> Any:
    low, high = getattr(state.smallest_cost, metric) / 1e6, getattr(state.full_cost, metric) / 1e6
    low *= BELOW_SMALLEST
    rough = (high - low) / SLIDER_STEPS
    digits = -math.floor(math.log10(rough))
    step = next(size for size in (10, 5, 2, 1) if size * 10.0**-digits <= rough) * 10.0**-digits
    first, last = math.floor(low / step), math.ceil(high / step)
    wanted = state.limit(metric) / 1e6
    # the browser only knows values on its steps: begin on one, at or below what is wanted
    place = last if wanted >= high else max(first, math.floor(wanted / step))
    return ipywidgets.FloatSlider(
        value=round(place * step, digits),
        min=round(first * step, digits),
        max=round(last * step, digits),
        step=step,
        readout_format=f",.{max(0, digits)}f",
        description=f"{NAMES[metric]}, at most ({UNITS[metric]})",
        style={"description_width": "190px"},
        layout={"width": "540px", "max_width": "100%"},
    )
