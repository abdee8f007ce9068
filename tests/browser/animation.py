"""Make figures/panel.gif, the moving picture of the explorer: a slider is dragged, the curve used, two are compared.

make animation
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parent
sys.path.insert(0, str(TESTS))

from helpers.lab import SETTINGS, browser_of, lab_in, open_notebook, write_notebook  # noqa: E402

CODE = """
from pathlib import Path

from raffm_utils import AccuracyPredictor, BudgetExplorer, Supernet, load_split, read_sweep

supernet = Supernet.from_pretrained({checkpoint!r}, tokens=32)
rows = read_sweep(Path({rows!r}))
data = load_split(supernet.spec.dataset, "validation", limit=500, processor=supernet.processor)
predictor = AccuracyPredictor.fit(rows, supernet.space)
BudgetExplorer(supernet, data, predictor=predictor, rows=rows)
"""
COLOURS = 128
LARGEST = 2_000_000  # bytes
SIZE = {"width": 1400, "height": 900}
EVERY_MS, PAUSE_MS = 110, 1500


def frames_of(page: Any) -> Iterator[tuple[Any, int]]:
    """What is seen, and for how many milliseconds."""
    from PIL import Image

    panel = page.locator(".raffm-explorer")

    def seen(milliseconds: int) -> tuple[Any, int]:
        page.wait_for_timeout(250)
        return Image.open(io.BytesIO(panel.screenshot())).convert("RGB"), milliseconds

    def click(name: str) -> None:
        panel.get_by_role("button", name=name).click()

    def evaluate() -> None:
        click("Evaluate")
        panel.locator(".raffm-result b", has_text="Accuracy").wait_for(timeout=600_000)

    yield seen(PAUSE_MS)
    handle = panel.locator(".noUi-handle").first
    box = handle.bounding_box()
    across, up = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    way = panel.locator(".raffm-limit .widget-slider").first.bounding_box()["width"]
    page.mouse.move(across, up)
    page.mouse.down()
    for step in range(1, 25):
        page.mouse.move(across - way * 0.75 * step / 24, up)
        yield seen(EVERY_MS)
    page.mouse.up()
    evaluate()
    click("Hold")
    yield seen(PAUSE_MS)
    panel.locator(".raffm-curve").focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
        yield seen(2 * EVERY_MS)
    evaluate()
    yield seen(2 * PAUSE_MS)


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description="Make the moving picture of the explorer.")
    parser.add_argument("--checkpoint", default="vit-small-fashion-mnist-large-budget")
    parser.add_argument("--rows", help="a validation sweep of it (default: the one in figures/data)")
    parser.add_argument("--output", default=str(REPOSITORY / "figures" / "panel.gif"))
    given = parser.parse_args()
    rows = given.rows or str(REPOSITORY / "figures" / "data" / f"{given.checkpoint}-validation.jsonl")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright, browser_of(playwright) as browser:
        notebooks = Path(folder) / "notebooks"
        notebooks.mkdir()
        write_notebook(notebooks / "panel.ipynb", CODE.format(checkpoint=given.checkpoint, rows=rows))
        with lab_in(notebooks, SETTINGS) as address:
            page = open_notebook(browser, address.format("panel.ipynb"), ".raffm-count b", **SIZE)
            page.locator(".raffm-curve circle").first.wait_for()
            frames, durations = zip(*frames_of(page), strict=True)
    save(frames, durations, Path(given.output))


def save(frames: Any, durations: Any, path: Path) -> None:
    """Write a GIF: all frames as large as the largest, with one palette, so that what stands still costs nothing."""
    from PIL import Image

    wide, high = (max(size) for size in zip(*(frame.size for frame in frames), strict=True))
    whole = []
    for frame in frames:
        whole.append(Image.new("RGB", (wide, high), "white"))
        whole[-1].paste(frame)
    palette = whole[-1].quantize(COLOURS, Image.Quantize.MAXCOVERAGE)  # rare colours as well
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in whole]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=list(durations), loop=0, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {len(flat)} frames of {wide} x {high}, {size / 1e6:.2f} MB")
    if size > LARGEST:
        raise SystemExit(f"{path} takes {size:,} bytes, more than {LARGEST:,}: take fewer colours or frames")


if __name__ == "__main__":
    main()
