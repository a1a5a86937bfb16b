"""Classes that stand in the script that saved a model, taken from it without running the script.

A module that a script saved whole is of the class `__main__.Net`, which only that script has. What
the class needs is found in its source: the imports, classes, functions and values whose names it
uses, and those that they use in turn. Nothing else of the script is executed, so that neither its
training nor its reading of arguments begins.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from hwbench.errors import UsageError
from hwbench.network.intake.failures import FAILURES, reason

_MAX_BYTES = 4_000_000
_MAX_FILES = 200


def load_names(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """Execute what a script needs to define some names, and give what they stand for.

    Args:
        path: The script.
        names: The names; those that the script does not define are left out.

    Raises:
        UsageError: There is no such script, it does not parse, or what it needs does not load.
    """
    tree = _parse(path)
    if tree is None:
        raise UsageError(f"{path} cannot be read as a Python script; name the file with the class")
    statements = _select_statements(tree, set(names))
    module = ModuleType(f"hwbench_script_{path.stem}")
    module.__file__ = str(path)
    # Decorators such as dataclass, and TorchScript, look the module and its source up.
    sys.modules[module.__name__] = module
    linecache.checkcache(str(path))
    folder = str(path.resolve().parent)
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        code = compile(ast.Module(statements, type_ignores=[]), str(path), "exec")
        exec(code, vars(module))  # noqa: S102 - a script that the user has named
    except (*FAILURES, SystemExit) as error:
        raise UsageError(
            f"{path}: what {', '.join(sorted(names))} needs there does not load: {reason(error)}"
        ) from error
    finally:
        if is_new:
            sys.path.remove(folder)
    return {name: getattr(module, name) for name in names if hasattr(module, name)}


def _parse(path: Path) -> ast.Module | None:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _select_statements(tree: ast.Module, names: set[str]) -> list[ast.stmt]:
    """Select the statements that define names, and what those statements use in turn."""
    bound = [(statement, set(_bound_names(statement))) for statement in tree.body]
    wanted = set(names)
    chosen: set[int] = set()
    changed = True
    while changed:
        changed = False
        for index, (statement, binds) in enumerate(bound):
            if index not in chosen and ("*" in binds or binds & wanted):
                chosen.add(index)
                wanted |= _used_names(statement)
                changed = True
    return [bound[index][0] for index in sorted(chosen)]


def _bound_names(statement: ast.AST) -> Iterator[str]:
    """Walk over the names that a statement of a script gives a meaning."""
    parts: list[Any] = []
    match statement:
        case ast.Import() | ast.ImportFrom():
            if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
                yield "*"  # it changes how all others are read
            for alias in statement.names:
                yield alias.asname or alias.name.partition(".")[0]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield statement.name
        case ast.Assign():
            yield from _assigned_names(statement.targets)
        case ast.AnnAssign() | ast.AugAssign():
            yield from _assigned_names([statement.target])
        case ast.Try():
            parts = [*statement.body, *statement.orelse]
            for handler in statement.handlers:
                parts += handler.body
        case ast.If():
            if "__name__" not in _used_names(statement.test):
                parts = [*statement.body, *statement.orelse]
    for part in parts:
        yield from _bound_names(part)


def _assigned_names(targets: Iterable[ast.expr]) -> Iterator[str]:
    """Walk over the names in targets: `Net.forward = f` changes what the name Net stands for."""
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name):
                yield node.id


def _used_names(statement: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def find_scripts(folders: Iterable[Path]) -> Iterator[tuple[Path, ast.Module]]:
    """Find the Python files of some folders and parse them; none is run.

    Args:
        folders: The folders; what lies deeper is not looked at.
    """
    seen: set[Path] = set()
    for folder in folders:
        try:
            paths = sorted(folder.glob("*.py"))
        except OSError:
            continue
        for path in paths[:_MAX_FILES]:
            resolved = path.resolve()
            if resolved not in seen:
                seen.add(resolved)
                tree = _parse(path)
                if tree is not None:
                    yield path, tree


def find_script_with(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """Find the script that defines all of some classes, where there is just one."""
    wanted = set(names)
    matches = []
    for path, tree in find_scripts(folders):
        defined = {name for statement in tree.body for name in _bound_names(statement)}
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        if wanted <= defined and wanted & classes:
            matches.append(path)
    return matches[0] if len(matches) == 1 else None


def find_factory_for(parts: Iterable[str], folders: Iterable[Path]) -> str:
    """Find the class beside a file of weights that has its layers: `net:Net`, empty if none.

    It must set an attribute for nearly every part in its `__init__`, and take no arguments.

    Args:
        parts: The first parts of the names of the weights (`conv1`, `layer1`, `fc`).
        folders: Where scripts are looked for.
    """
    wanted = set(parts)
    matches = []
    for path, tree in find_scripts(folders):
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and path.stem.isidentifier():
                attributes, is_callable = _constructor_facts(node)
                lacking = wanted - attributes
                if is_callable and len(lacking) <= len(wanted) // 4:
                    others = len(attributes - wanted)
                    matches.append((len(lacking), others, f"{path.stem}:{node.name}"))
    return min(matches)[2] if matches else ""


def _constructor_facts(node: ast.ClassDef) -> tuple[set[str], bool]:
    """Find the attributes that a class sets when it is made, and whether it needs no arguments."""
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            own = method.args.args[0].arg if method.args.args else "self"
            attributes = set()
            for part in ast.walk(method):
                if (
                    isinstance(part, ast.Attribute)
                    and isinstance(part.ctx, ast.Store)
                    and isinstance(part.value, ast.Name)
                    and part.value.id == own
                ):
                    attributes.add(part.attr)
            required = len(method.args.args) - 1 - len(method.args.defaults)
            keywords = [default for default in method.args.kw_defaults if default is None]
            return attributes, required <= 0 and not keywords
    return set(), False
