"""What a test needs beyond Python and this package's own requirements, each with a marker.

A marker says what a test costs, so that `pytest -m "not torch"` leaves the cost out, and some say
what it cannot do without, so that a computer which lacks it skips the test by name. `conftest.py`
gives the markers whose need can be read off the test; the others stand at the test.
"""

from __future__ import annotations

import ast
import shutil
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

needs_compiler = pytest.mark.compiler
needs_arm_compiler = pytest.mark.arm_compiler

MODULES = {
    "torch": "torch",
    "ray": "ray",
    "tests.lab.ray_support": "ray",
    "tests.devices.android.rig": "rig",
}
"""Module -> the marker of the tests whose file loads it."""
FIXTURES = {"chromium": "browser", "visit": "browser", "shared": "database"}
"""Fixture -> the marker of the tests that use it."""
PARAMETERS = {"postgresql": "database", "arm64": "qemu"}
"""Value of a parameter -> the marker of the tests that get it."""


@cache
def missing(marker: str) -> str | None:
    """What this computer lacks for tests with this marker; None if nothing."""
    if marker == "compiler" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "needs a C compiler: apt-get install gcc"
    if marker == "arm_compiler" and shutil.which("aarch64-linux-gnu-gcc") is None:
        return "needs a compiler for 64-bit Arm: apt-get install gcc-aarch64-linux-gnu"
    return None


def markers_of(item: pytest.Item) -> set[str]:
    """Markers that a test shows by what its file loads, its fixtures, its parameters."""
    loaded = modules_loaded_by(item.path)
    markers = {marker for module, marker in MODULES.items() if module in loaded}
    fixtures = getattr(item, "fixturenames", ())
    markers |= {FIXTURES[name] for name in fixtures if name in FIXTURES}
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = [value for value in parameters if isinstance(value, str)]
    return markers | {PARAMETERS[name] for name in names if name in PARAMETERS}


@cache
def modules_loaded_by(path: Path) -> frozenset[str]:
    """The modules that loading a file loads at once, also through other files of this checkout."""
    loaded: set[str] = set()
    waiting, seen = [path], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in _modules_imported_by(file):
            loaded |= {module, module.partition(".")[0]}
            waiting += _files_of(module)
    return frozenset(loaded)


@cache
def _modules_imported_by(path: Path) -> tuple[str, ...]:
    """The modules that a file imports outside of functions and of `if TYPE_CHECKING`."""
    modules: list[str] = []
    for statement in ast.parse(path.read_text()).body:
        if isinstance(statement, ast.Import):
            modules += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            modules.append(statement.module)
            modules += [f"{statement.module}.{alias.name}" for alias in statement.names]
    return tuple(modules)


@cache
def _files_of(module: str) -> tuple[Path, ...]:
    """The file of one of this checkout's modules and those of the packages around it."""
    parts = module.split(".")
    if parts[0] not in {"hwbench", "runners", "tests"}:
        return ()
    files = [ROOT.joinpath(*parts[:depth]) / "__init__.py" for depth in range(1, len(parts) + 1)]
    files.append(ROOT.joinpath(*parts).with_suffix(".py"))
    return tuple(file for file in files if file.is_file())
