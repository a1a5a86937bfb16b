"""The house: layers, sizes, what importing costs, and what the library never does."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hwbench"
FILES = sorted(
    [*PACKAGE.rglob("*.py"), *(ROOT / "runners").rglob("*.py"), *(ROOT / "runners").rglob("*.c")]
)
HEAVY = ("torch", "onnx", "onnxruntime", "pandas", "matplotlib", "scipy", "sqlalchemy")


def test_layers_are_kept():
    found = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    if path.suffix == ".py":
        functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        long = [
            f.name
            for f in functions
            if (f.end_lineno or 0) - f.lineno + 1 - _docstring_lines(f) > 60
        ]
        assert not long


def _docstring_lines(function: ast.FunctionDef) -> int:
    first = function.body[0]
    is_docstring = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0


@pytest.mark.parametrize(
    "statement", ["import hwbench", "import hwbench.cli", "import hwbench.devices"]
)
def test_importing_loads_nothing_heavy(statement):
    code = f"{statement}; import sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_public_names_resolve():
    import hwbench

    assert len(hwbench.__all__) <= 15
    for name in hwbench.__all__:
        assert getattr(hwbench, name).__doc__
    with pytest.raises(AttributeError):
        hwbench.no_such_name  # noqa: B018


def test_version_is_said_once():
    import tomllib

    import hwbench

    assert (
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        == hwbench.__version__
    )
