"""The HTML of the budget explorer: pure functions of its state."""

import base64
import io
from html import escape

from ..plotting import VERMILION, approximately, plot_accuracy_vs_parameters, plot_intervals
from .state import MACS, PARAMETERS, ExplorerState, Metric

# The box opens by itself, so that the code can be selected; where scripts may run, it is copied as well.
COPY = (
    "if (this.open) { const code = this.querySelector('pre'), said = this.querySelector('small');"
    " getSelection().selectAllChildren(code);"
    " const copied = navigator.clipboard ? navigator.clipboard.writeText(code.textContent) : Promise.reject();"
    " copied.catch(() => { if (!document.execCommand('copy')) throw 0; })"
    ".then(() => { said.textContent = 'copied'; }, () => { said.textContent = 'selected: press Ctrl+C'; }); }"
)


def share_html(state: ExplorerState, metric: Metric) -> str:
    """A limit as a share of the full network's cost."""
    full, limit = metric.of(state.full_cost), state.limit(metric.key)
    if limit >= full:
        return f"no limit (full: {metric.text(full)})"
    return f"<b>{limit / full:.1%}</b> of the full {metric.text(full)}"


def view_html(state: ExplorerState, picture: str) -> str:
    """Everything that follows the sliders, in one piece: separate updates would flicker."""
    return _count_html(state) + picture + _cost_html(state) + _predicted_html(state)


def _count_html(state: ExplorerState) -> str:
    if not state.count:
        text = f"<b>No submodel fits.</b><br><small>{escape(state.problem.removeprefix('no submodel fits: '))}</small>"
        return f'<div class="raffm-count raffm-problem" role="status">{text}</div>'
    mantissa, exponent = approximately(state.count)
    about = f"about {mantissa} × 10<sup>{exponent}</sup>, " if exponent > 6 else ""
    digits = f"{state.count:,}".replace(",", ",<wbr>")  # long numbers break between their groups
    text = f"<b>{digits}</b><br>submodels fit: {about}{_part(state.count, state.total)}"
    return f'<div class="raffm-count" role="status">{text}</div>'


def _part(count: int, total: int) -> str:
    share = count / total
    if count == total:
        return "all there are"
    if share > 0.9995:
        return "nearly all there are"
    return f"{share:.1%} of all there are" if share > 0.001 else f"one in {total // count:,}"


def _cost_html(state: ExplorerState) -> str:
    rows = "".join(
        f"<tr><th>{metric.name}</th><td>{metric.text(metric.of(state.cost))}</td>"
        f"<td>{metric.of(state.cost) / metric.of(state.full_cost):.1%}</td></tr>"
        for metric in state.metrics
    )
    head = "<tr><th></th><th>this submodel</th><th>of the full network</th></tr>"
    return f'<table class="{"" if state.count else "raffm-faded"}">{head}{rows}{_blocks_row(state)}</table>'


def _blocks_row(state: ExplorerState) -> str:
    """How many blocks are present, where some may be left out."""
    if not any(0 in choices for choices in (*state.supernet.space.attention, *state.supernet.space.ffn)):
        return ""
    present, full = (
        config.totals.attention_blocks + config.totals.ffn_blocks for config in (state.config, state.supernet.full)
    )
    return f"<tr><th>Blocks</th><td>{present} of {full}</td><td>{present / full:.1%}</td></tr>"


def _predicted_html(state: ExplorerState) -> str:
    if (predicted := state.predicted) is None:
        return ""
    note = f"<br><small>{escape(predicted.note)}</small>" if predicted.note else ""
    interval = f"(90% interval {predicted.between()})"
    faded = "" if state.count else " raffm-faded"
    return (
        f'<div class="raffm-predicted{faded}"><b>Predicted accuracy {predicted.accuracy:.1%}</b> {interval}{note}</div>'
    )


def result_html(state: ExplorerState) -> str:
    """The accuracy of the shown submodel, or why there is none, and its export folder."""
    return f'<div class="raffm-result">{_result_html(state)}</div>'


def _result_html(state: ExplorerState) -> str:
    if (running := state.measurement) is not None:
        which = "this submodel" if running.config == state.config else "a submodel shown before"
        size = f"{PARAMETERS.text(running.cost.parameters)} parameters"
        doing = "Cancelling the evaluation of" if running.cancelled else "Evaluating"
        return f"{doing} {which} ({size}): {running.done:,} of {running.total:,} examples"
    if state.failure:
        return f'<div class="raffm-problem" role="alert">{escape(state.failure)}</div>'
    if not state.count:
        return "Widen a limit to draw and evaluate."
    return _accuracy_html(state) + _export_html(state)


def _export_html(state: ExplorerState) -> str:
    if state.exported is None:
        return ""
    path = escape(state.exported.as_posix())
    return f'<div role="status">Exported to <code>{path}</code>: load_submodel reads it back.</div>'


def _accuracy_html(state: ExplorerState) -> str:
    if (item := state.evaluated) is None:
        return "This submodel has not been evaluated yet." if state.data is not None else ""
    return (
        f'<div role="status"><b>Accuracy {item.accuracy:.1%}</b> (95% interval {item.between()}), '
        f"{item.examples:,} examples of {escape(item.dataset)} {escape(item.split)}</div>"
    )


def code_html(state: ExplorerState) -> str:
    """Python code that recreates the shown submodel, with a button that opens and copies it."""
    return (
        f'<details class="raffm-code" ontoggle="{escape(COPY)}"><summary>Copy as code</summary>'
        f'<small role="status"></small><pre tabindex="0">{escape(state.code)}</pre></details>'
    )


def past_html(state: ExplorerState) -> str:
    """All evaluated submodels, as a table, and as points among the stored rows; empty when there is neither."""
    if not state.history and not state.rows:
        return ""
    return f'<div class="raffm-past"><div>{_past_table(state)}</div>{_past_picture(state)}</div>'


def _past_table(state: ExplorerState) -> str:
    if not state.history:
        return ""
    names = ("", "Parameters", "MACs", "Accuracy", "95% interval")
    rows = "".join(
        f"<tr><td>{number}</td><td>{PARAMETERS.text(item.parameters)}</td><td>{MACS.text(MACS.of(item.cost))}</td>"
        f"<td>{item.accuracy:.1%}</td><td>{item.between()}</td></tr>"
        for number, item in reversed(list(enumerate(state.history, start=1)))
    )
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{rows}</table>"


def _past_picture(state: ExplorerState) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 6.0), layout="constrained")  # unknown to pyplot: no cell shows it twice
    ax = plot_accuracy_vs_parameters(state.rows, figure.subplots(), title="", live=state.history)
    if state.history:
        plot_intervals(state.history[-1:], ax, label="the latest of them", colour=VERMILION, marker="D")
        ax.legend(loc="best", fontsize=10, framealpha=0.95)
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=125)
    image = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img alt="Accuracy against parameters of {len(state.rows)} stored and {len(state.history)} evaluated '
        f'submodels" src="data:image/png;base64,{image}">'
    )
