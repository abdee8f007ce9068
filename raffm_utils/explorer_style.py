"""How the budget explorer looks; colours are from the palette of Okabe and Ito."""

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
