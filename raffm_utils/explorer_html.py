"""What the budget explorer shows of its state, as HTML: pure functions from state to text."""

import base64
import io
from html import escape

from .explorer_state import Evaluated, ExplorerState
from .plotting import approximately, plot_intervals

NAMES = {"parameters": "Parameters", "macs": "MACs", "weight_bytes": "Weights"}
UNITS = {"parameters": "M", "macs": "M", "weight_bytes": "MB"}
STYLE = """<style>
.raffm-explorer { --jp-widgets-font-size: 15px; width: 100%; max-width: 860px; container-type: inline-size; }
.raffm-explorer .widget-html, .raffm-explorer .widget-html-content { min-width: 0; max-width: 100%; }
.raffm-explorer .widget-html-content { font-size: 15px; line-height: 1.4; width: 100%; }
.raffm-explorer .noUi-handle { background: #0072B2; border-color: #0072B2; }
.raffm-explorer .noUi-handle:focus, .raffm-explorer button:focus-visible { outline: 3px solid #D55E00; }
.raffm-explorer .noUi-handle:focus { outline-offset: 2px; }
.raffm-explorer button i { margin-right: 8px !important; }
.raffm-count { min-height: 5em; overflow-wrap: anywhere; }
.raffm-count b { font-size: 20px; }
.raffm-problem small { font-size: 14px; }
.raffm-problem { border-left: 5px solid #D55E00; padding: 2px 10px; overflow-wrap: anywhere; }
.raffm-explorer table { border-collapse: collapse; margin: 6px 0; }
.raffm-explorer th, .raffm-explorer td { padding: 2px 14px 2px 0; text-align: right; }
.raffm-explorer td { white-space: nowrap; }
.raffm-explorer th:first-child { text-align: left; }
.raffm-faded { opacity: 0.35; }
.raffm-past { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.raffm-past div { max-width: 100%; max-height: 300px; overflow: auto; }
.raffm-past img { width: 380px; max-width: 100%; }
@container (max-width: 520px) {
  .widget-slider { flex-wrap: wrap; height: auto; }
  .widget-slider .widget-label { flex-basis: 100%; text-align: left; }
  th, td { padding-right: 8px !important; white-space: normal !important; }
  svg { font-size: 20px; }
  .raffm-count b { font-size: 17px; }
}
</style>"""


def share_html(state: ExplorerState, metric: str) -> str:
    """A limit as a share of the full network's cost."""
    full, limit = getattr(state.full_cost, metric), state.limit(metric)
    if limit >= full:
        return f"no limit (full: {full / 1e6:,.2f} M)"
    return f"<b>{limit / full:.1%}</b> of the full {full / 1e6:,.2f} M"


def count_html(state: ExplorerState) -> str:
    """How many submodels fit; or why none does."""
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


def cost_html(state: ExplorerState) -> str:
    """What the shown submodel costs, absolutely and as a share of the full network."""
    heads, values, shares = [], [], []
    for metric, name in NAMES.items():
        value, full = getattr(state.cost, metric), getattr(state.full_cost, metric)
        heads.append(f"<th>{name}</th>")
        values.append(f"<td>{value / 1e6:,.2f}&nbsp;{UNITS[metric]}</td>")
        shares.append(f"<td>{value / full:.1%}</td>")
    rows = (("", heads), ("this submodel", values), ("of the full network", shares))
    body = "".join(f"<tr><th>{name}</th>{''.join(cells)}</tr>" for name, cells in rows)
    return f'<table class="{"" if state.count else "raffm-faded"}">{body}</table>'


def result_html(state: ExplorerState) -> str:
    """The accuracy of the shown submodel, or why there is none; and where it was exported to."""
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
    assert state.data is not None
    return (
        f'<div role="status"><b>Accuracy {item.accuracy:.1%}</b> (95% interval {_interval(item)}), '
        f"{item.examples:,} examples of {escape(state.data.name)} {escape(state.data.split)}</div>"
    )


def _interval(item: Evaluated) -> str:
    return f"{item.low:.1%} to {item.high:.1%}"


def past_html(state: ExplorerState) -> str:
    """All evaluated submodels, as a table and as a picture."""
    if not state.history:
        return ""
    from matplotlib.figure import Figure

    names = ("", "Parameters", "MACs", "Accuracy", "95% interval")
    rows = "".join(
        f"<tr><td>{number}</td><td>{item.parameters / 1e6:,.2f}&nbsp;M</td>"
        f"<td>{(item.macs or 0) / 1e6:,.2f}&nbsp;M</td>"
        f"<td>{item.accuracy:.1%}</td><td>{_interval(item)}</td></tr>"
        for number, item in reversed(list(enumerate(state.history, start=1)))
    )
    table = f"<table><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>{rows}</table>"
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")  # unknown to pyplot: no cell shows it twice
    ax = plot_intervals(state.history, figure.subplots())
    ax.grid(True, linestyle="--", linewidth=0.6)
    ax.set_xlabel("Model Parameters (Million)")
    ax.set_ylabel("Accuracy (%)")
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=160)
    image = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<div class="raffm-past"><div>{table}</div>'
        f'<img alt="Accuracy against parameters of the evaluated submodels" '
        f'src="data:image/png;base64,{image}"></div>'
    )
