"""The budget explorer in JupyterLab, driven by keyboard and mouse in a headless browser.

Every control is tried in a notebook that shows all of them, written by this test, in a wide and in a narrow window;
the sliders in notebook 02 as well.

`RAFFM_TEST_CHECKPOINT` names the checkpoint, `RAFFM_SCREENSHOTS` a folder to keep the screenshots in.
"""

import os
import re
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers.lab import ERROR, browser_of, find_browser, lab_in, open_notebook, write_notebook

from raffm_utils.supernet import bundled

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1200)]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

TESTS = Path(__file__).resolve().parents[1]
NOTEBOOK = TESTS.parent / "notebooks" / "02_sample_submodels.ipynb"
SENTENCES = TESTS.parent / "notebooks" / "09_sentences.ipynb"
PANEL = "panel.ipynb"
EXAMPLES = 256
LONGEST_DELAY_MS = 150  # the median; more on a machine that is busy with other things
WIDTHS = (1280, 800)
METRICS = ("parameters", "macs", "latency", "weights", "activations")
OWN_LIMITS = "own limits"

# Notes when input arrives and when the explorer has next been drawn, and where the picture stands in every frame.
STOPWATCH = """
() => {
  const root = document.querySelector('.raffm-explorer');
  window.delays = []; window.places = new Set(); let start = null;
  const began = () => { start = performance.now(); };
  for (const kind of ['keydown', 'pointermove', 'mousemove']) document.addEventListener(kind, began, true);
  new MutationObserver((records) => {
    if (start === null || !root.querySelector('.raffm-count')) return;
    if (!records.some((record) => record.target.nodeName === 'g' && record.addedNodes.length)) return;
    const since = start; start = null;
    requestAnimationFrame(() => window.delays.push(performance.now() - since));
  }).observe(root, { childList: true, subtree: true });
  const look = () => {
    const svg = root.querySelector('.raffm-widths svg'), top = root.getBoundingClientRect().top;
    window.places.add(svg ? Math.round(svg.getBoundingClientRect().top - top) : 'gone');
    requestAnimationFrame(look);
  };
  look();
}
"""

# What has the focus: its text, or else its class; the text of the curve is long.
NAME_OF_ACTIVE = """() => {
  const active = document.activeElement, own = active.getAttribute('class') ?? '';
  return own.includes('raffm-curve') ? own : (active.textContent || own).trim();
}"""

# The whole panel. Latency and the rows of the sweep are made up: what is tried here are the controls.
PANEL_CODE = """
import sys

import numpy as np

sys.path.insert(0, {tests!r})
from helpers.explorer import FlatLatency, made_predictor, made_rows

from raffm_utils import BudgetExplorer, Supernet, load_split

supernet = Supernet.from_pretrained({checkpoint!r}, tokens=32)
supernet.latency = FlatLatency()
rows = made_rows(supernet, 150)
data = load_split(supernet.spec.provenance["dataset"], "test", limit={examples}, processor=supernet.processor)
predictor = made_predictor(supernet)
BudgetExplorer(supernet, data, predictor=predictor, rows=rows)
"""


def find_checkpoint() -> str:
    images = (name for name in bundled() if name.startswith("vit-small-fashion"))
    name = os.environ.get("RAFFM_TEST_CHECKPOINT") or next(images, None)
    if name is None:
        pytest.skip("no bundled image checkpoint, and RAFFM_TEST_CHECKPOINT is not set")
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def write_emptied(path: Path, folder: Path, parameters: str) -> None:
    """A copy of a notebook without outputs, with other parameters."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += f"\n{parameters}"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, folder / path.name)


def prepare_notebooks(folder: Path) -> None:
    folder.mkdir()
    (folder.parent / "figures").symlink_to(TESTS.parent / "figures")
    write_emptied(NOTEBOOK, folder, f"CHECKPOINT = {find_checkpoint()!r}\nEVALUATION_EXAMPLES = {EXAMPLES}")
    write_emptied(SENTENCES, folder, "EVALUATION_EXAMPLES = 64\nSHOWN = 3")
    code = PANEL_CODE.format(tests=str(TESTS), checkpoint=find_checkpoint(), examples=EXAMPLES)
    write_notebook(folder / PANEL, code)


@pytest.fixture(scope="module")
def notebook_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the copy of the notebook runs."""
    return tmp_path_factory.mktemp("lab") / "notebooks"


@pytest.fixture(scope="module")
def lab(notebook_folder: Path) -> Iterator[str]:
    """The address of a notebook in a JupyterLab of our own, with a place for its name."""
    prepare_notebooks(notebook_folder)
    with lab_in(notebook_folder) as address:
        yield address


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    """A browser window that may use the clipboard."""
    with playwright.sync_playwright() as engine:
        if find_browser(engine) is None:
            pytest.skip("no browser on this machine, and playwright has not installed its own")
        with browser_of(engine) as browser:
            yield browser.new_context(permissions=["clipboard-read", "clipboard-write"])


def run_notebook(window: Any, address: str) -> Any:
    """The notebook, run from top to bottom, with the explorer in view."""
    page = open_notebook(window, address, ".raffm-count b")
    page.locator(".raffm-explorer").scroll_into_view_if_needed()
    page.evaluate(STOPWATCH)
    return page


@pytest.fixture(scope="module")
def panel_page(window: Any, lab: str) -> Any:
    return run_notebook(window, lab.format(PANEL))


@pytest.fixture(scope="module", params=WIDTHS)
def page(panel_page: Any, request: pytest.FixtureRequest) -> Any:
    """The whole panel in a window of each width."""
    panel_page.set_viewport_size({"width": request.param, "height": 900})
    panel_page.locator(".raffm-explorer").evaluate("node => node.scrollIntoView({block: 'start'})")
    panel_page.wait_for_timeout(300)
    return panel_page


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("RAFFM_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def count_of(page: Any) -> str:
    return page.locator(".raffm-count b").inner_text()


def picture_of(page: Any) -> str:
    return page.locator(".raffm-widths svg").inner_html()


def curve_of(page: Any) -> str:
    """What of the curve follows the sliders."""
    return page.locator(".raffm-curve > g").nth(1).inner_html()


def slider_of(page: Any, index: int) -> tuple[Any, Any]:
    """The handle of a slider, and the field beside it."""
    row = page.locator(".raffm-limit").nth(index)
    return row.locator(".noUi-handle"), row.locator("input")


def type_limit(page: Any, index: int, text: str) -> None:
    _, field = slider_of(page, index)
    field.fill(text)
    field.press("Enter")


def chosen(page: Any, name: str) -> str:
    group = page.locator(".raffm-explorer .widget-toggle-buttons", has_text=name)
    return group.locator(".mod-active").inner_text().strip()


def choose(page: Any, option: str) -> None:
    page.locator(".raffm-explorer .widget-toggle-button", has_text=option).click()


def button_of(page: Any, name: str) -> Any:
    return page.locator(".raffm-explorer").get_by_role("button", name=name)


def take_off_limits(page: Any, policy: str = "random") -> None:
    """No limits; and a policy by which, unlike the best predicted, a new limit nearly always shows another submodel."""
    choose(page, policy)
    button_of(page, "Lift all limits").click()
    page.wait_for_function(
        "number => (document.querySelector('.raffm-explorer').innerText.match(/no limit/g) ?? []).length === number"
        " && /(: |[0-9], )all there are/.test(document.querySelector('.raffm-count').innerText)",
        arg=page.locator(".raffm-explorer .widget-hslider").count(),
    )


def limit_alone(page: Any, index: int) -> Any:
    """Limit one cost to where every step of its slider matters; returns the handle."""
    take_off_limits(page)
    handle, _ = slider_of(page, index)
    count = count_of(page)
    type_limit(page, index, "55%")
    wait_until_changed(page, count)
    page.wait_for_timeout(500)
    return handle


def show_another(page: Any) -> None:
    """A submodel that was not shown before, in a window of any width."""
    take_off_limits(page)
    share = 50 + page.viewport_size["width"] // 100
    count = count_of(page)
    type_limit(page, 0, f"{share}%")
    wait_until_changed(page, count)
    while True:
        picture = picture_of(page)
        button_of(page, "Draw another").click()
        wait_for_new_picture(page, picture)
        page.wait_for_timeout(200)
        if page.get_by_text("has not been evaluated yet").count():
            return


def wait_until_changed(page: Any, old: str) -> None:
    page.wait_for_function("old => document.querySelector('.raffm-count b').innerText !== old", arg=old)


def wait_for_new_picture(page: Any, old: str) -> None:
    page.wait_for_function("old => document.querySelector('.raffm-widths svg').innerHTML !== old", arg=old)


def report(name: str, milliseconds: list[float]) -> None:
    middle = statistics.median(milliseconds)
    print(f"\n{name}: median {middle:.0f} ms, slowest {max(milliseconds):.0f} ms of {len(milliseconds)}")
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert middle < LONGEST_DELAY_MS * busy, f"the machine has {busy:.1f} times what it can do"


def settled(page: Any) -> str:
    """What the curve says, once it has said so for a second."""
    said = ""
    while said != (said := page.locator(".raffm-curve").get_attribute("aria-valuetext")):
        page.wait_for_timeout(1000)
    return said


def shoot(page: Any, screenshots: Path, name: str) -> None:
    page.locator(".raffm-explorer").evaluate("node => node.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(500)
    size = page.viewport_size
    page.screenshot(path=screenshots / f"{name}_{size['width']}.png")
    page.set_viewport_size({**size, "height": 2000})  # all of it, which no screen shows at once
    page.locator(".raffm-explorer").screenshot(path=screenshots / f"{name}_{size['width']}_whole.png")
    page.set_viewport_size(size)
    page.wait_for_timeout(300)


def test_panel_shows_count_picture_and_prediction(page, screenshots):
    assert int(count_of(page).replace(",", "")) > 1
    assert "layer" in picture_of(page)
    text = page.locator(".raffm-explorer").inner_text()
    for words in ("Parameters", "MACs", "Latency", "Weight memory", "Peak acti", "Predicted accuracy", "90%"):
        assert words in text
    assert "stored sweep" in page.locator(".raffm-curve").text_content()
    assert "predicted" in curve_of(page)
    shoot(page, screenshots, "1_start")


@pytest.mark.parametrize("index", range(len(METRICS)), ids=METRICS)
def test_arrow_keys_move_a_slider(page, index):
    limit_alone(page, index)
    handle, field = slider_of(page, index)
    handle.focus()
    page.evaluate("window.delays = []")
    count, picture, curve, amount = count_of(page), picture_of(page), curve_of(page), field.input_value()
    for _ in range(10):
        place = handle.bounding_box()["x"]
        page.keyboard.press("ArrowLeft")
        assert handle.bounding_box()["x"] < place
        page.wait_for_timeout(150)
    for _ in range(100):  # peak activations take few values: a few steps may leave out none of them
        if count_of(page) != count and picture_of(page) != picture:
            break
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(100)
    wait_until_changed(page, count)
    wait_for_new_picture(page, picture)
    assert curve_of(page) != curve
    assert field.input_value() != amount
    assert chosen(page, "Device") == OWN_LIMITS
    report(f"{page.viewport_size['width']} px, {METRICS[index]}: key to picture", page.evaluate("window.delays"))


@pytest.mark.parametrize("index", range(len(METRICS)), ids=METRICS)
def test_dragging_redraws_all_the_way_without_flicker(page, index, screenshots):
    handle = limit_alone(page, index)
    handle.focus()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate("window.delays = []; window.places.clear()")
    seen, pictures, curves = set(), set(), set()
    for step in range(1, 21):
        page.mouse.move(x - 4 * step, y)
        page.wait_for_timeout(60)
        seen.add(count_of(page))
        pictures.add(picture_of(page))
        curves.add(curve_of(page))
    assert len(seen) > 3, "the count did not follow while the slider was held"
    assert len(pictures) > 3, "the picture did not follow while the slider was held"
    assert len(curves) > 3, "the curve did not follow while the slider was held"
    page.mouse.up()
    assert len(page.evaluate("[...window.places]")) == 1, "the picture moved, or was gone"
    report(f"{page.viewport_size['width']} px, {METRICS[index]}: drag to picture", page.evaluate("window.delays"))
    if index == 0:
        shoot(page, screenshots, "2_dragged")


def test_dragging_is_quick_while_the_best_predicted_is_shown(page):
    take_off_limits(page, "best predicted")
    handle, _ = slider_of(page, 1)
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate("window.delays = []")
    for step in range(1, 31):
        page.mouse.move(x - 4 * step, y)
        page.wait_for_timeout(60)
    page.mouse.up()
    report(f"{page.viewport_size['width']} px, best predicted: drag to picture", page.evaluate("window.delays"))


def test_number_out_of_range_is_explained_in_place(page, screenshots):
    take_off_limits(page)
    old = count_of(page)
    type_limit(page, 0, "0")
    wait_until_changed(page, old)
    assert "No submodel fits" in page.locator(".raffm-problem").inner_text()
    least = page.locator(".raffm-wrong").inner_text()
    assert least.startswith("at least ")
    assert "opacity: 0.3" in page.locator(".raffm-widths svg").get_attribute("style").replace(":0", ": 0")
    playwright.expect(button_of(page, "Evaluate")).to_be_disabled()
    shoot(page, screenshots, "3_nothing_fits")
    type_limit(page, 0, least.removeprefix("at least "))
    page.locator(".raffm-problem").wait_for(state="detached")
    playwright.expect(button_of(page, "Evaluate")).to_be_enabled()
    type_limit(page, 0, "1000000000")
    page.get_by_text("all there are").wait_for()


def test_a_comma_is_a_decimal_point_and_nonsense_is_said(page):
    take_off_limits(page)
    count = count_of(page)
    type_limit(page, 0, "62,5 %")
    wait_until_changed(page, count)
    assert "62.5% of the full" in page.locator(".raffm-limit").first.inner_text()
    _, field = slider_of(page, 0)
    amount = field.input_value()
    type_limit(page, 0, "much")
    page.locator(".raffm-wrong", has_text="is not a number").wait_for()
    assert field.input_value() == amount


def test_the_curve_chooses_a_budget_by_mouse_and_by_key(page, screenshots):
    take_off_limits(page, "best predicted")
    curve, (handle, field) = page.locator(".raffm-curve"), slider_of(page, 0)
    curve.scroll_into_view_if_needed()
    box, place = curve.bounding_box(), handle.bounding_box()["x"]
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.wait_for_function("() => document.querySelector('.raffm-limit input').value !== ''")
    assert handle.bounding_box()["x"] < place
    page.locator(".raffm-curve .raffm-out").wait_for()
    amounts, said = [], settled(page)
    for key in ("ArrowLeft", "ArrowLeft", "ArrowRight", "Home", None):
        amounts.append(float(field.input_value().replace(",", "")))
        if key is not None:
            page.keyboard.press(key)
            page.wait_for_function(
                "old => document.querySelector('.raffm-curve').getAttribute('aria-valuetext') !== old", arg=said
            )
            said = settled(page)
    assert amounts[0] > amounts[1] > amounts[2] < amounts[3]
    assert amounts[4] <= min(amounts)
    assert curve.evaluate("node => node === document.activeElement"), "the notebook took the key"
    page.keyboard.press("End")
    page.wait_for_function("() => document.querySelector('.raffm-limit input').value === ''")
    shoot(page, screenshots, "2_curve")


def test_two_are_compared(page, screenshots):
    show_another(page)
    for times in range(2):
        button_of(page, "Evaluate").click()
        page.get_by_text("95% interval", exact=False).first.wait_for()
        page.locator(".raffm-result b", has_text="Accuracy").wait_for()
        if not times:
            button_of(page, "Hold").click()
            show_another(page)
    page.locator(".raffm-compared", has_text="paired").wait_for()
    shoot(page, screenshots, "6_compared")
    button_of(page, "Hold").click()
    button_of(page, "Let go").click()
    page.locator(".raffm-compared").wait_for(state="detached")


def test_a_layer_says_its_widths(page):
    layer = page.locator(".raffm-layer").nth(1)
    said = layer.locator(".raffm-said")
    assert not said.is_visible()
    layer.focus()
    assert said.is_visible()
    assert said.text_content() == layer.get_attribute("aria-label")
    assert said.text_content().startswith("layer 1: attention ")


def test_all_controls_have_names(page):
    for role in ("slider", "textbox", "button"):
        controls = page.locator(".raffm-explorer").get_by_role(role)
        assert controls.count() > 3
        named = page.locator(".raffm-explorer").get_by_role(role, name=re.compile(r"\w"))
        assert named.count() == controls.count(), role


def test_sliders_curve_prediction_and_evaluate_are_in_one_view(page):
    size = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 720})
    page.locator(".raffm-explorer").evaluate("node => node.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(300)
    shown = page.locator(".jp-WindowedPanel-outer").first.bounding_box()
    bottom = shown["y"] + shown["height"]
    for part in (".raffm-limit >> nth=-1", ".raffm-curve", ".raffm-widths", ".raffm-predicted", ".raffm-result"):
        box = page.locator(f".raffm-explorer {part}").bounding_box()
        assert shown["y"] - 1 <= box["y"] < box["y"] + box["height"] <= bottom + 1, part
    page.set_viewport_size(size)


def test_a_device_sets_its_limits(page):
    take_off_limits(page)
    count = count_of(page)
    page.locator(".raffm-explorer .widget-toggle-button", has_text="Jetson AGX Orin").focus()
    page.keyboard.press("Enter")
    wait_until_changed(page, count)
    page.wait_for_timeout(1000)  # whatever the sliders answer must not undo it
    assert chosen(page, "Device") == "Jetson AGX Orin"
    assert "85.0% of the full" in page.locator(".raffm-explorer").inner_text()
    type_limit(page, 1, "0%")
    page.locator(".raffm-problem").wait_for()
    assert chosen(page, "Device") == OWN_LIMITS
    assert "85.0% of the full" in page.locator(".raffm-explorer").inner_text()


def test_policies_and_draw_another(page):
    take_off_limits(page)
    count = count_of(page)
    choose(page, "Dell XPS 15")
    wait_until_changed(page, count)
    count = count_of(page)
    for policy in ("best predicted", "random", "largest that fits", "best predicted"):
        picture = picture_of(page)
        page.locator(".raffm-explorer .widget-toggle-button", has_text=policy).focus()
        page.keyboard.press("Enter")
        wait_for_new_picture(page, picture)
        assert chosen(page, "Show") == policy
        if policy == "largest that fits":
            page.wait_for_timeout(300)
            playwright.expect(button_of(page, "Draw another")).to_be_disabled()
        else:
            picture = picture_of(page)
            button_of(page, "Draw another").click()
            wait_for_new_picture(page, picture)
        assert count_of(page) == count


def test_evaluate_can_be_cancelled_and_sliders_are_heard_meanwhile(page, screenshots):
    show_another(page)
    rows = page.locator(".raffm-past tr").count()
    playwright.expect(button_of(page, "Cancel")).to_be_disabled()
    button_of(page, "Evaluate").click()
    page.get_by_text(f"of {EXAMPLES} examples").wait_for()
    playwright.expect(button_of(page, "Evaluate")).to_be_disabled()
    count = count_of(page)
    handle, _ = slider_of(page, 0)
    handle.focus()
    page.keyboard.press("PageDown")
    wait_until_changed(page, count)
    page.get_by_text("Evaluating a submodel shown before").wait_for()
    page.screenshot(path=screenshots / f"4_evaluating_{page.viewport_size['width']}.png")
    button_of(page, "Cancel").focus()
    page.keyboard.press("Enter")
    page.get_by_text("the evaluation was cancelled").wait_for()
    assert page.locator(".raffm-past tr").count() == rows
    playwright.expect(button_of(page, "Cancel")).to_be_disabled()
    playwright.expect(button_of(page, "Evaluate")).to_be_enabled()


def test_evaluate_shows_accuracy_with_interval_among_the_rows(page, screenshots):
    for _ in range(2):
        show_another(page)
        rows = max(1, page.locator(".raffm-past tr").count())
        curve = curve_of(page)
        button_of(page, "Evaluate").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("n => document.querySelectorAll('.raffm-past tr').length === n", arg=rows + 1)
        assert curve_of(page) != curve
        assert "measured" in curve_of(page)
    text = page.locator(".raffm-explorer").inner_text()
    assert "Accuracy" in text
    assert "95% interval" in text
    assert f"{EXAMPLES} examples of" in text
    shoot(page, screenshots, "5_evaluated")


def test_copy_as_code(page, screenshots):
    show_another(page)
    page.evaluate("navigator.clipboard.writeText('nothing yet')")
    page.locator(".raffm-code summary").focus()
    page.keyboard.press("Enter")
    page.locator(".raffm-code small", has_text="copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator(".raffm-code pre").text_content()
    assert "Supernet.from_pretrained(" in copied
    assert "supernet.extract(SubmodelConfig(" in copied
    compile(copied, "copied", "exec")
    shoot(page, screenshots, "6_code")
    button_of(page, "Draw another").click()
    page.wait_for_function("old => document.querySelector('.raffm-code pre').textContent !== old", arg=copied)
    page.locator(".raffm-code summary").click()
    page.locator(".raffm-code small", has_text="copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") != copied


def test_export_writes_a_folder(page, screenshots, notebook_folder):
    show_another(page)
    button_of(page, "Export").click()
    page.get_by_text("Exported to").wait_for()
    shown = page.locator(".raffm-result code").inner_text()
    assert {"README.md", "config.json", "model.safetensors", "submodel.json"} <= {
        path.name for path in (notebook_folder / shown).iterdir()
    }
    shoot(page, screenshots, "7_exported")


def test_nothing_runs_over_the_edge(page):
    wide, room = page.locator(".raffm-explorer").evaluate("node => [node.scrollWidth, node.clientWidth]")
    assert wide <= room + 1
    assert page.locator(ERROR).count() == 0


def test_every_control_is_reached_by_the_tab_key(page):
    page.locator(".raffm-explorer .widget-toggle-button").first.focus()
    reached = []
    for _ in range(60):
        reached.append(page.evaluate(NAME_OF_ACTIVE))
        if "Copy as code" in reached[-1]:
            break
        page.keyboard.press("Tab")
    names = " ".join(reached)
    assert sum("noUi-handle" in name for name in reached) == len(METRICS)
    for name in (OWN_LIMITS, "Raspberry Pi 4", "V100", "best predicted", "random", "largest that fits"):
        assert name in names
    for name in ("Lift all limits", "raffm-curve", "Draw another", "Evaluate", "Hold", "Export", "Copy as code"):
        assert name in names


def choose_theme(page: Any, name: str) -> None:
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Theme").first.hover()
    page.locator(".lm-Menu-item", has_text=name).first.click()
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)


# How light the text of the curve and the paper around its labels are, from 0 to 1.
LIGHTNESS = """() => {
  const light = (text) => Math.max(...text.match(/[0-9.]+/g).slice(0, 3).map(Number)) / 255;
  const label = document.querySelector('.raffm-shown text'), style = getComputedStyle(label);
  return [light(style.fill), light(style.stroke)];
}"""


def test_curve_follows_the_theme(page, screenshots):
    take_off_limits(page)
    text, paper = page.evaluate(LIGHTNESS)
    assert text < 0.4 < 0.9 < paper
    choose_theme(page, "JupyterLab Dark")
    try:
        page.wait_for_timeout(500)
        text, paper = page.evaluate(LIGHTNESS)
        assert paper < 0.3 < 0.8 < text
        shoot(page, screenshots, "7_dark")
    finally:
        choose_theme(page, "JupyterLab Light")


def test_a_notebook_that_was_not_run_shows_a_picture_of_its_explorer(window, lab, notebook_folder):
    shutil.copy(NOTEBOOK, notebook_folder / "stored.ipynb")
    page = window.new_page()
    page.goto(lab.format("stored.ipynb"))
    above = ".jp-OutputArea-child:is(:has(.raffm-explorer), :has-text('Sliders: run this cell'))"
    page.locator(f"{above} + .jp-OutputArea-child img").wait_for(timeout=90_000)
    assert page.get_by_text("Error displaying").count() == 0
    page.close()


def test_notebook_02_shows_its_explorer(window, lab, screenshots):
    page = run_notebook(window, lab.format(NOTEBOOK.name))
    handle = limit_alone(page, 0)
    picture = picture_of(page)
    choose(page, "largest that fits")
    wait_for_new_picture(page, picture)
    count, picture = count_of(page), picture_of(page)
    handle.focus()
    page.keyboard.press("ArrowLeft")
    wait_until_changed(page, count)
    wait_for_new_picture(page, picture)
    assert "Predicted accuracy" in page.locator(".raffm-explorer").inner_text(), "by the stored sweep"
    shoot(page, screenshots, "8_notebook_02")
    still = page.locator(".jp-OutputArea-child:has(.raffm-explorer) + .jp-OutputArea-child img")
    assert (still.count(), still.is_visible()) == (1, False), "the panel is there in its place"
    assert page.locator(ERROR).count() == 0


def test_notebook_09_answers_a_sentence_while_it_is_typed(window, lab, screenshots):
    page = open_notebook(window, lab.format(SENTENCES.name), ".widget-text input")
    box = page.locator(".widget-text input")
    answers = page.locator(".widget-vbox .raffm-answers")
    box.scroll_into_view_if_needed()
    box.fill("")
    page.get_by_text("Type a sentence.").wait_for()
    box.press_sequentially("a wonderful film", delay=30)
    answers.get_by_text("a wonderful film").wait_for()
    assert answers.locator("tr").last.inner_text().count("positive") == 3
    box.fill("a dreadful, boring mess")
    answers.get_by_text("a dreadful, boring mess").wait_for()
    assert answers.locator("tr").last.inner_text().count("negative") == 3
    box.fill("漢字" * 300 + " good")
    answers.get_by_text("unknown").or_(answers.get_by_text("cut to")).or_(
        answers.get_by_text("sign by sign")
    ).wait_for()
    box.fill("a wonderful film")
    answers.get_by_text("a wonderful film").wait_for()
    wide, room = page.locator(".widget-vbox").first.evaluate("node => [node.scrollWidth, node.clientWidth]")
    assert wide <= room + 1
    page.screenshot(path=screenshots / "9_notebook_09.png")
    assert page.locator(ERROR).count() == 0
