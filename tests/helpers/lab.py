"""JupyterLab of our own, and a headless browser that looks at it."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ERROR = ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type*='stderr']"
IDLE = "Python 3 (ipykernel) | Idle"
STARTING_MS = 300_000  # a kernel on a busy machine
# Settings of JupyterLab that keep the page still: no news, and no cell taken out of the page when scrolled away.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
DARK: Mapping[str, Mapping[str, Any]] = {"apputils-extension/themes": {"theme": "JupyterLab Dark"}}


def find_browser(playwright: Any) -> str | None:
    """Where a browser is: of the system, or else that of playwright; None if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None) or playwright.chromium.executable_path
    return found if Path(found).exists() else None


@contextmanager
def browser_of(playwright: Any) -> Iterator[Any]:
    """A headless browser."""
    path = find_browser(playwright)
    if path is None:
        raise FileNotFoundError(f"no browser: none of {', '.join(BROWSERS)}, and playwright has not installed its own")
    found = playwright.chromium.launch(executable_path=path, headless=True, args=["--no-sandbox", "--disable-gpu"])
    try:
        yield found
    finally:
        found.close()


def write_notebook(path: Path, code: str) -> None:
    """A notebook with one cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(notebook, path)


@contextmanager
def lab_in(notebooks: Path, settings: Mapping[str, Mapping[str, Any]] = SETTINGS) -> Iterator[str]:
    """The address of a notebook in a JupyterLab of our own, with a place for its name; it keeps its files beside."""
    folder = notebooks.parent
    for name, content in settings.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    token, port, log = secrets.token_hex(24), _free_port(), folder / "lab.log"
    environment = {
        **os.environ,
        "JUPYTER_TOKEN": token,  # not on the command line, where other users could read it
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "jupyter", "lab", str(notebooks), "--no-browser"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_for_server(f"http://127.0.0.1:{port}", token, process, log)
            yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def open_notebook(window: Any, address: str, ready: str, width: int = 1280, height: int = 900) -> Any:
    """The notebook, run from top to bottom, until what `ready` selects is there."""
    page = window.new_page()
    page.set_viewport_size({"width": width, "height": height})
    page.set_default_timeout(90_000)
    page.goto(address)
    page.get_by_text(IDLE).wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.locator(f"{ready}, {ERROR}").first.wait_for(timeout=STARTING_MS)
    assert page.locator(ERROR).count() == 0, page.locator(ERROR).first.inner_text()
    page.get_by_text(IDLE).wait_for()
    return page


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_server(url: str, token: str, process: subprocess.Popen[bytes], log: Path) -> None:
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
    raise TimeoutError(f"JupyterLab did not answer in 90 s:\n{log.read_text(errors='replace')[-3000:]}")
