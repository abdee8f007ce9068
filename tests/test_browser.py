"""The sliders of notebook 02 in JupyterLab, driven by keyboard and mouse in a headless browser.

`RAFFM_TEST_CHECKPOINT` names the checkpoint, `RAFFM_SCREENSHOTS` a folder to keep the screenshots in.
"""

import json
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from raffm_utils.checkpoints import bundled

pytestmark = [pytest.mark.browser, pytest.mark.slow]
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "02_sample_submodels.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type*='stderr']"
EXAMPLES = 128
SLOWEST_UPDATE_S = 2.0  # what a busy machine may take; the figures that count are printed
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 800, "height": 900}

# Settings of JupyterLab that keep the page still: no news, and no cell taken out of the page when scrolled away.
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}

# Notes when input arrives and when the explorer has next been drawn.
STOPWATCH = """
() => {
  const root = document.querySelector('.raffm-explorer');
  window.delays = []; let start = null;
  const began = () => { start = performance.now(); };
  for (const kind of ['keydown', 'pointermove', 'mousemove']) document.addEventListener(kind, began, true);
  new MutationObserver((records) => {
    if (start === null || !root.querySelector('.raffm-count')) return;
    if (!records.some((record) => [...record.addedNodes].some((node) => node.nodeName === 'svg'))) return;
    const since = start; start = null;
    requestAnimationFrame(() => window.delays.push(performance.now() - since));
  }).observe(root, { childList: true, subtree: true });
}
"""


def find_browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        with playwright.sync_playwright() as engine:
            found = engine.chromium.executable_path
    if not Path(found).exists():
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}, and playwright has not installed its own")
    return found


def find_checkpoint() -> str:
    name = os.environ.get("RAFFM_TEST_CHECKPOINT") or next(iter(bundled()), None)
    if name is None:
        pytest.skip("no bundled checkpoint, and RAFFM_TEST_CHECKPOINT is not set")
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def prepare_notebook(folder: Path) -> Path:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += f"\nCHECKPOINT = {find_checkpoint()!r}\nEVALUATION_EXAMPLES = {EXAMPLES}"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    folder.mkdir()
    nbformat.write(notebook, folder / NOTEBOOK.name)
    return folder / NOTEBOOK.name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_server(url: str, token: str, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(f"{url}/api/status", headers={"Authorization": f"token {token}"})
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, f"JupyterLab ended:\n{log.read_text(errors='replace')[-3000:]}"
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            time.sleep(0.3)
        else:
            return
    pytest.fail(f"JupyterLab did not answer in 90 s:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="module")
def notebook_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the copy of the notebook runs."""
    return tmp_path_factory.mktemp("lab") / "notebooks"


@pytest.fixture(scope="module")
def lab(notebook_folder: Path) -> Iterator[str]:
    """The address of a JupyterLab of our own, opened on a copy of the notebook."""
    folder, notebook = notebook_folder.parent, prepare_notebook(notebook_folder)
    for name, content in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    token, port, log = secrets.token_hex(24), free_port(), folder / "lab.log"
    environment = {
        **os.environ,
        "JUPYTER_TOKEN": token,  # not on the command line, where other users could read it
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "jupyter", "lab", str(notebook.parent), "--no-browser"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            wait_for_server(f"http://127.0.0.1:{port}", token, process, log)
            yield f"http://127.0.0.1:{port}/lab/tree/{notebook.name}?token={token}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[Any]:
    """The notebook, run from top to bottom, with the explorer in view."""
    executable = find_browser()
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=executable, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=WIDE)
        page.set_default_timeout(90_000)
        page.goto(lab)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.locator(f".raffm-count b, {ERROR}").first.wait_for()
        assert page.locator(ERROR).count() == 0, page.locator(ERROR).first.inner_text()
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.locator(".raffm-explorer").scroll_into_view_if_needed()
        page.evaluate(STOPWATCH)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("RAFFM_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def count_of(page: Any) -> str:
    return page.locator(".raffm-count b").inner_text()


def picture_of(page: Any) -> str:
    return page.locator(".raffm-explorer svg").inner_html()


def slider_of(page: Any, index: int) -> tuple[Any, Any]:
    slider = page.locator(".raffm-explorer .widget-hslider").nth(index)
    return slider.locator(".noUi-handle"), slider.locator(".widget-readout")


def type_limit(page: Any, index: int, text: str) -> None:
    _, readout = slider_of(page, index)
    readout.fill(text)
    readout.press("Enter")


def limit_alone(page: Any, index: int, share: float = 0.7) -> tuple[Any, Any]:
    """Set one slider to a share of its end and take the limit off the other, so that every step of the one matters."""
    handle, readout = slider_of(page, index)
    type_limit(page, 1 - index, "1000000000")
    type_limit(page, index, str(share * float(handle.get_attribute("aria-valuemax"))))
    page.wait_for_timeout(500)
    return handle, readout


def wait_until_changed(page: Any, old: str) -> None:
    page.wait_for_function("old => document.querySelector('.raffm-count b').innerText !== old", arg=old)


def report(name: str, milliseconds: list[float]) -> None:
    middle = statistics.median(milliseconds)
    print(f"\n{name}: median {middle:.0f} ms, slowest {max(milliseconds):.0f} ms of {len(milliseconds)}")
    assert middle < 1000 * SLOWEST_UPDATE_S


def shoot(page: Any, screenshots: Path, name: str) -> None:
    for viewport in (NARROW, WIDE):
        page.set_viewport_size(viewport)
        page.locator(".raffm-explorer").evaluate("node => node.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(500)
        page.screenshot(path=screenshots / f"{name}_{viewport['width']}.png")


def test_explorer_shows_count_and_picture(page, screenshots):
    assert int(count_of(page).replace(",", "")) > 1
    assert "layer" in picture_of(page)
    shoot(page, screenshots, "1_start")


@pytest.mark.parametrize("index", [0, 1], ids=["parameters", "macs"])
def test_arrow_keys_move_a_slider(page, index):
    handle, readout = limit_alone(page, index, 0.5)  # few fit there: the draw has to change as well
    page.evaluate("window.delays = []")
    handle.focus()
    picture = picture_of(page)
    for _ in range(15):
        count, text = count_of(page), readout.inner_text()
        page.keyboard.press("ArrowLeft")
        wait_until_changed(page, count)
        assert readout.inner_text() != text
    assert picture_of(page) != picture
    report(f"key press to picture, slider {index}", page.evaluate("window.delays"))


def test_dragging_redraws_all_the_way(page, screenshots):
    handle, _ = limit_alone(page, 0)
    page.evaluate("window.delays = []")
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    seen = set()
    for step in range(1, 31):
        page.mouse.move(x - 2 * step, y)
        page.wait_for_timeout(60)
        seen.add(count_of(page))
    assert len(seen) > 10, "the count did not follow while the slider was held"
    page.mouse.up()
    report("drag to picture", page.evaluate("window.delays"))
    shoot(page, screenshots, "2_dragged")


def test_number_out_of_range_is_explained_in_place(page, screenshots):
    old = count_of(page)
    type_limit(page, 0, "0")
    wait_until_changed(page, old)
    message = page.locator(".raffm-problem").inner_text()
    assert "No submodel fits" in message
    assert "raise it to" in message
    assert "this space reaches" in message
    assert "opacity: 0.3" in page.locator(".raffm-explorer svg").get_attribute("style").replace(":0", ": 0")
    assert page.get_by_role("button", name="Evaluate").is_disabled()
    shoot(page, screenshots, "3_nothing_fits")
    type_limit(page, 0, "1000000000")
    page.locator(".raffm-problem").wait_for(state="detached")
    assert page.get_by_role("button", name="Evaluate").is_enabled()


def test_draw_another(page):
    count, picture = count_of(page), picture_of(page)
    page.get_by_role("button", name="Draw another").click()
    page.wait_for_function("old => document.querySelector('.raffm-explorer svg').innerHTML !== old", arg=picture)
    assert count_of(page) == count


def test_evaluate_shows_accuracy_with_interval(page, screenshots):
    for number in (1, 2):
        page.get_by_role("button", name="Evaluate").focus()
        page.keyboard.press("Enter")
        page.locator(".raffm-explorer img").wait_for()
        page.wait_for_function(
            "rows => document.querySelectorAll('.raffm-explorer table tr').length === rows", arg=4 + number
        )
        if number == 1:
            page.get_by_role("button", name="Draw another").click()
            page.get_by_text("has not been evaluated yet").wait_for()
    page.get_by_text(f"{EXAMPLES} examples").wait_for()  # the table comes a moment before
    text = page.locator(".raffm-explorer").inner_text()
    assert "Accuracy" in text
    assert "95% interval" in text
    assert f"{EXAMPLES} examples" in text
    shoot(page, screenshots, "4_evaluated")


def test_export_writes_a_folder(page, screenshots, notebook_folder):
    page.get_by_role("button", name="Export").click()
    page.get_by_text("Exported to").wait_for()
    shown = page.locator(".raffm-explorer code").inner_text()
    assert {"README.md", "config.json", "model.safetensors", "submodel.json"} <= {
        path.name for path in (notebook_folder / shown).iterdir()
    }
    shoot(page, screenshots, "5_exported")


def test_sliders_still_work_after_an_evaluation(page):
    count = count_of(page)
    handle, _ = slider_of(page, 1)
    handle.focus()
    page.keyboard.press("ArrowLeft")
    wait_until_changed(page, count)


def test_nothing_runs_over_the_edge(page):
    for viewport in (NARROW, WIDE):
        page.set_viewport_size(viewport)
        page.wait_for_timeout(300)
        wide, room = page.locator(".raffm-explorer").evaluate("node => [node.scrollWidth, node.clientWidth]")
        assert wide <= room + 1
    assert page.locator(ERROR).count() == 0
