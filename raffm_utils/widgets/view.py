"""The HTML of the budget explorer: pure functions of its state."""

from html import escape

from ..plotting import approximately, widths_svg
from .metrics import MACS, PARAMETERS, Metric, limits_text
from .state import ExplorerState

# The box opens by itself, so that the code can be selected; where scripts may run, it is copied as well.
COPY = (
    "if (this.open) { const code = this.querySelector('pre'), said = this.querySelector('small');"
    " getSelection().selectAllChildren(code);"
    " const copied = navigator.clipboard ? navigator.clipboard.writeText(code.textContent) : Promise.reject();"
    " copied.catch(() => { if (!document.execCommand('copy')) throw 0; })"
    ".then(() => { said.textContent = 'copied'; }, () => { said.textContent = 'selected: press Ctrl+C'; }); }"
)


def share_html(state: ExplorerState, metric: Metric) -> str:
    """A limit as a share of the full network's cost, or what is wrong with it; and what the shown submodel costs."""
    full, limit, own = metric.of(state.full_cost), state.limit(metric.key), metric.of(state.cost)
    if wrong := state.wrong.get(metric.key):
        text = f'<span class="raffm-wrong" role="alert">{escape(wrong)}</span>'
    elif limit >= full:
        text = f"no limit (full: {metric.text(full)})"
    else:
        text = f"<b>{limit / full:.1%}</b> of the full {metric.text(full)}"
    return f"{text}<br><small>shown: {metric.text(own)} ({own / full:.1%})</small>"


def count_html(state: ExplorerState) -> str:
    """How many submodels fit, or why none does; and limits in force that have no slider."""
    others = "".join(f"<br><small>Also: {text}</small>" for text in limits_text(state.budget, lower_only=True))
    if not state.count:
        text = f"<b>No submodel fits.</b><br><small>{escape(state.problem)}</small>{others}"
        return f'<div class="raffm-count raffm-problem" role="status">{text}</div>'
    mantissa, exponent = approximately(state.count)
    about = f"about {mantissa} × 10<sup>{exponent}</sup>, " if exponent > 6 else ""
    digits = f"{state.count:,}".replace(",", ",<wbr>")  # long numbers break between their groups
    text = f"<b>{digits}</b><br>submodels fit: {about}{_part(state.count, state.total)}{others}"
    return f'<div class="raffm-count" role="status">{text}</div>'


def _part(count: int, total: int) -> str:
    share = count / total
    if count == total:
        return "all there are"
    if share > 0.9995:
        return "nearly all there are"
    return f"{share:.1%} of all there are" if share > 0.001 else f"one in {total // count:,}"


def widths_html(state: ExplorerState) -> str:
    """The picture of the shown submodel."""
    picture = widths_svg(state.config, state.full, faded=not state.count)
    return f'<div class="raffm-widths">{picture}</div>'


def predicted_html(state: ExplorerState) -> str:
    """The predicted accuracy, where it stands among candidates, and how many blocks are left."""
    lines = []
    if (predicted := state.predicted) is not None:
        lines.append(f"<b>Predicted accuracy {predicted.accuracy:.1%}</b> (90% interval {predicted.between()})")
        if (place := state.chosen.place) > 0:
            lines.append(f"<small>candidate {place + 1} of {state.chosen.of} that may be as good as the best</small>")
        if predicted.note:
            lines.append(f"<small>{escape(predicted.note)}</small>")
    faded = "" if state.count else " raffm-faded"
    return f'<div class="raffm-predicted{faded}">{"<br>".join(lines)}</div>'


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
    return _accuracy_html(state) + _compared_html(state) + _export_html(state)


def _compared_html(state: ExplorerState) -> str:
    """The shown submodel beside the one that is held."""
    if state.held is None:
        return ""
    held = f"the one held ({state.size.text(state.size.of(state.held_cost))})"
    if state.held == state.config:
        return '<div role="status">This submodel is held: change a limit to compare another with it.</div>'
    if (found := state.difference) is not None:
        text = f"<b>{100 * found.difference:+.1f} points</b> against {held}, "
        text += f"95% interval {100 * found.low:+.1f} to {100 * found.high:+.1f} (paired, {found.examples:,} examples)"
    elif state.predicted is not None and state.predictor is not None:
        gain = state.predicted.accuracy - state.predictor.predict(state.held).accuracy
        text = f"{100 * gain:+.1f} points predicted against {held}; "
        text += "evaluate both for the paired difference"
    else:
        text = f"Evaluate this one and {held} for their paired difference."
    return f'<div class="raffm-compared" role="status">{text}</div>'


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
    """All evaluated submodels, as a table; empty when there is none."""
    if not state.history:
        return ""
    names = ("", "Parameters", "MACs", "Accuracy", "95% interval")
    rows = "".join(
        f"<tr><td>{number}</td><td>{PARAMETERS.text(item.parameters)}</td><td>{MACS.text(MACS.of(item.cost))}</td>"
        f"<td>{item.accuracy:.1%}</td><td>{item.between()}</td></tr>"
        for number, item in reversed(list(enumerate(state.history, start=1)))
    )
    heads = "".join(f"<th>{name}</th>" for name in names)
    return f'<div class="raffm-past"><table><tr>{heads}</tr>{rows}</table></div>'
