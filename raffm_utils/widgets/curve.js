// The curve: `ground` changes rarely, `over` at every step of a slider. Says what was clicked or asked for by key.
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5, Home: -999, End: 999 };

function render({ model, el }) {
  const [wide, high] = model.get("extent");
  el.innerHTML =
    `<svg class="raffm-curve" viewBox="0 0 ${wide} ${high}" tabindex="0" role="slider" aria-valuemin="0"` +
    ` aria-valuemax="100" font-size="12.5" fill="currentColor" data-lm-suppress-shortcuts="true">` +
    `<g></g><g></g></svg>`;
  const svg = el.firstChild;
  const [ground, over] = svg.children;
  const follow = (name, draw) => {
    const update = () => draw(model.get(name));
    model.on(`change:${name}`, update);
    update();
  };
  follow("ground", (text) => { ground.innerHTML = text; });
  follow("over", (text) => { over.innerHTML = text; });
  follow("label", (text) => svg.setAttribute("aria-label", text));
  follow("said", (text) => svg.setAttribute("aria-valuetext", text));
  follow("share", (share) => svg.setAttribute("aria-valuenow", Math.round(100 * share)));

  let asked = null; // at most one message a frame
  const ask = (event) => {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    if (asked === null) requestAnimationFrame(() => { model.send(asked); asked = null; });
    asked = { x: place.x };
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.focus({ preventScroll: true });
    svg.setPointerCapture(event.pointerId);
    ask(event);
    event.preventDefault();
  });
  svg.addEventListener("pointermove", (event) => { if (event.buttons & 1) ask(event); });
  svg.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    model.send({ steps: KEYS[event.key] });
  });

  // Handles of sliders have no name of their own, and say the position, not the limit: both stand beside them.
  let tries = 100;
  const name = () => {
    const rows = el.closest(".raffm-explorer")?.querySelectorAll(".raffm-limit") ?? [];
    const parts = [...rows].map((row) => [".noUi-handle", "label", ".widget-html-content"].map((part) => row.querySelector(part)));
    if (rows.length && parts.flat().every(Boolean)) {
      for (const [handle, label, share] of parts) {
        share.id ||= `raffm-${Math.random().toString(36).slice(2)}`;
        handle.setAttribute("aria-label", `${label.textContent}, at most`);
        handle.setAttribute("aria-describedby", share.id);
      }
    } else if (tries-- > 0) setTimeout(name, 100);
  };
  name();
}

export default { render };
