"""The notebooks run from top to bottom, hide no error in a widget, and keep a readable form."""

import ast
import hashlib
import json
import re
import statistics
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from conftest import write_text_checkpoint
from nbclient import NotebookClient
from nbformat import NotebookNode

from raffm_utils import Supernet, load_split, sweep
from raffm_utils.space import spread_over_widths

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# Values for the cell tagged `parameters` that make a run short. Only what that cell assigns is overridden.
FAST: dict[str, Any] = {
    "EVALUATION_EXAMPLES": 64,
    "LIVE_SUBMODELS": 2,
    "CANDIDATES": 2,
    "RANDOM_SUBMODELS": 2,
    "VALIDATION_EXAMPLES": 64,
    "LATENCY_SECONDS": 2,
    "SHOWN": 3,
}
CELL_TIMEOUT_S = 900
MAX_CELL_LINES = 20
MAX_MEDIAN_CELL_LINES = 8
MAX_CODE_CELLS_IN_A_ROW = 2

pytestmark = pytest.mark.timeout(1800)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lines_of_code(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def parameter_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]


def override_parameters(notebook: NotebookNode, values: dict[str, Any]) -> dict[str, Any]:
    """Append assignments to the parameters cell for those values it already assigns; return them."""
    (cell,) = parameter_cells(notebook)
    assigned: set[str] = set()
    for statement in ast.parse(cell.source).body:
        if isinstance(statement, ast.Assign):
            assigned |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assigned.add(statement.target.id)
    used = {name: value for name, value in values.items() if name in assigned}
    cell.source = "\n".join([cell.source, *(f"{name} = {value!r}" for name, value in used.items())])
    return used


def all_outputs(notebook: NotebookNode) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every output with where it is: below a cell, or kept in the state of an Output widget."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            yield f"cell {number}", output
    for widgets in notebook.metadata.get("widgets", {}).values():
        for identity, model in widgets.get("state", {}).items():
            for output in model.get("state", {}).get("outputs", None) or []:
                yield f"Output widget {identity}", output


def errors_in(notebook: NotebookNode) -> list[str]:
    found = []
    for place, output in all_outputs(notebook):
        text = output.get("text", "")
        text = text if isinstance(text, str) else "".join(text)
        if output["output_type"] == "error":
            found.append(f"{place}: {output.get('ename')}: {output.get('evalue')}")
        elif output["output_type"] == "stream" and output.get("name") == "stderr" and "Traceback" in text:
            found.append(f"{place}: {text.strip().splitlines()[-1]}")
    return found


def execute(notebook: NotebookNode, folder: Path = FOLDER) -> None:
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources=resources).execute()


def fingerprint(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.notebook
@each_notebook
def test_runs_without_errors(path: Path):
    notebook = read(path)
    override_parameters(notebook, FAST)
    figures = fingerprint(ROOT / "figures")
    execute(notebook)
    assert errors_in(notebook) == []
    assert fingerprint(ROOT / "figures") == figures, "executing the notebook changed files under figures/"


@pytest.fixture(scope="module")
def text_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project around a tiny untrained text checkpoint, with the stored sweeps that notebooks read."""
    project = tmp_path_factory.mktemp("project")
    (project / "notebooks").mkdir()
    folder = write_text_checkpoint(project / "tiny", "bert")
    space = json.loads((folder / "elastic_space.json").read_text())
    (folder / "elastic_space.json").write_text(json.dumps({**space, "provenance": {"dataset": "movie_reviews"}}))
    supernet = Supernet.from_pretrained(folder, tokens=16)
    configs = spread_over_widths(supernet.space, 60, np.random.default_rng(0))
    for split, name in (("test", "tiny"), ("validation", "tiny-validation")):
        data = load_split("movie_reviews", split, limit=32, processor=supernet.processor)
        sweep(supernet, configs, data, project / "figures" / "data" / f"{name}.jsonl", progress=False)
    return project


@pytest.mark.notebook
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem[:2] <= "06"], ids=lambda path: path.stem)
def test_runs_for_a_text_checkpoint_by_its_parameters_alone(path: Path, text_project: Path):
    notebook = read(path)
    values = {**FAST, "CHECKPOINT": str(text_project / "tiny"), "TOKENS": 16}
    assert "CHECKPOINT" in override_parameters(notebook, values)
    execute(notebook, text_project / "notebooks")
    assert errors_in(notebook) == []


@each_notebook
def test_is_stored_as_it_ran(path: Path):
    notebook = read(path)
    assert errors_in(notebook) == []
    assert [cell.execution_count for cell in code_cells(notebook)] == [
        number + 1 for number in range(len(code_cells(notebook)))
    ], "not run once from top to bottom: make notebooks"
    assert any(cell.outputs for cell in code_cells(notebook)), "stored without outputs: make notebooks"


@each_notebook
def test_outputs_name_no_place_on_the_authors_machine(path: Path):
    for place, output in all_outputs(read(path)):
        texts = [output.get("text", ""), *output.get("data", {}).values()]
        for text in texts:
            text = "".join(text) if isinstance(text, list) else str(text)
            assert str(ROOT) + "/" not in text, place
            assert not re.search(r"(?<![\w.+/])/(home|root|Users|tmp)/\w+/", text), place


@each_notebook
def test_kernel_is_the_one_every_environment_has(path: Path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_has_one_parameters_cell(path: Path):
    assert len(parameter_cells(read(path))) == 1


@each_notebook
def test_cells_are_short_and_define_nothing(path: Path):
    cells = code_cells(read(path))
    for cell in cells:
        assert lines_of_code(cell) <= MAX_CELL_LINES, cell.source
        assert not re.search(r"^\s*(async\s+)?def ", cell.source, flags=re.MULTILINE), cell.source
    assert statistics.median(map(lines_of_code, cells)) <= MAX_MEDIAN_CELL_LINES


@each_notebook
def test_is_a_narrative(path: Path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert cells[-1].cell_type == "markdown"
    runs = [(kind, len(list(group))) for kind, group in groupby(cells, key=lambda cell: cell.cell_type)]
    assert max(length for kind, length in runs if kind == "code") <= MAX_CODE_CELLS_IN_A_ROW


# --- the checks above find what they are there to find ---


@pytest.mark.notebook
def test_error_hidden_in_a_widget_is_found(tmp_path: Path):
    source = "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    raise ValueError('hidden')\nout"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    execute(notebook, tmp_path)
    assert len(errors_in(notebook)) == 1
    assert "ValueError: hidden" in errors_in(notebook)[0]


@pytest.mark.notebook
def test_error_hidden_in_interact_is_found(tmp_path: Path):
    source = "from ipywidgets import interact\ninteract(lambda x: 1 / x, x=[0, 1])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    execute(notebook, tmp_path)
    assert "ZeroDivisionError" in errors_in(notebook)[0]


def test_traceback_on_stderr_is_found():
    text = "Traceback (most recent call last):\nKeyError: 1\n"
    output = nbformat.v4.new_output("stream", name="stderr", text=text)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])
    assert errors_in(notebook) == ["cell 0: KeyError: 1"]


def test_only_assigned_parameters_are_overridden():
    cell = nbformat.v4.new_code_cell("EXAMPLES = 2000\nSEED: int = 0", metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    assert override_parameters(notebook, {"EXAMPLES": 64, "OTHER": 1}) == {"EXAMPLES": 64}
    assert cell.source == "EXAMPLES = 2000\nSEED: int = 0\nEXAMPLES = 64"
