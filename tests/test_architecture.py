"""The house: who may import whom, what importing costs, and what the library never does."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

import hwbench
from hwbench.search import SEARCHES

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "onnx", "onnxruntime", "pandas", "matplotlib", "scipy", "sqlalchemy")
FLAT_DEVICE_FILES = 6


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom inside the package, imports for types included."""
    return grimp.build_graph("hwbench", exclude_type_checking_imports=False, cache_dir=None)


def test_layers_are_kept():
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_no_circle_of_files(graph):
    """Take away, again and again, what imports nothing that is left: only circles remain."""
    left = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while leaves := {module for module, imported in left.items() if not imported & left.keys()}:
        left = {module: imported for module, imported in left.items() if module not in leaves}
    # What imports a circle remains too; taken away from the other end, the circles stand alone.
    while True:
        wanted = set().union(*left.values())
        if left.keys() <= wanted:
            break
        left = {module: imported for module, imported in left.items() if module in wanted}
    circles = {module: sorted(imported & left.keys()) for module, imported in left.items()}
    assert circles == {}


def test_private_modules_stay_inside_their_folder(graph):
    strays = []
    for module in graph.modules:
        folder, _, name = module.rpartition(".")
        if not name.startswith("_") or name.startswith("__"):
            continue
        importers = graph.find_modules_that_directly_import(module)
        outside = {name for name in importers if not f"{name}.".startswith(f"{folder}.")}
        strays += [f"{importer} imports {module}" for importer in sorted(outside)]
    assert strays == []


def test_a_driver_lies_in_the_folder_of_its_family():
    files = [path.name for path in (ROOT / "hwbench/devices").glob("*.py")]
    assert len(files) <= FLAT_DEVICE_FILES, files


def _compares_with(node: ast.AST, name: str) -> bool:
    """Whether a comparison, or a case of a `match`, holds a name."""
    if not isinstance(node, (ast.Compare, ast.match_case)):
        return False
    asked = node.pattern if isinstance(node, ast.match_case) else node
    constants = [part.value for part in ast.walk(asked) if isinstance(part, ast.Constant)]
    return name in constants


@pytest.mark.parametrize("name", SEARCHES)
def test_nothing_outside_a_search_asks_for_its_name(name):
    folder = ROOT / "hwbench/search" / name
    branches = []
    for path in sorted((ROOT / "hwbench").rglob("*.py")):
        if not path.is_relative_to(folder):
            nodes = ast.walk(ast.parse(path.read_text()))
            branches += [str(path) for node in nodes if _compares_with(node, name)]
    assert branches == []


@pytest.mark.parametrize(
    "statement", ["import hwbench", "import hwbench.cli", "import hwbench.devices"]
)
def test_importing_loads_nothing_heavy(statement):
    code = f"{statement}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_public_names_resolve():
    for name in hwbench.__all__:
        assert getattr(hwbench, name).__doc__
    with pytest.raises(AttributeError):
        hwbench.no_such_name  # noqa: B018


def test_version_is_said_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == hwbench.__version__
