"""Networks that Python code builds: `package.module:factory`, with literal arguments or without."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import UsageError
from hwbench.network.intake.failures import FAILURES, reason

if TYPE_CHECKING:
    from torch import nn

_TEXT = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<call>[A-Za-z_].*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_MAX_LENGTH = 4096
_NOT_LITERAL = (
    SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError
)  # fmt: skip
EXPECTED = (
    "expected package.module:factory, or with literal arguments"
    " 'timm:create_model(\"resnet18\", num_classes=10)'"
)


@dataclass(frozen=True, slots=True)
class Factory:
    """What is to be imported and called.

    Attributes:
        module: The module to import.
        attribute: What to take from it, with dots.
        arguments: Positional arguments of the call, or None to call it without any if it can be
            called.
        keywords: Keyword arguments of the call.
    """

    module: str
    attribute: str
    arguments: tuple[Any, ...] | None = None
    keywords: tuple[tuple[str, Any], ...] = ()


def is_factory(text: str) -> bool:
    """Tell whether a text has the form of a factory; its arguments may still be wrong."""
    match = _TEXT.fullmatch(text)
    if match is None or match["module"] == "zoo":
        return False
    call = match["call"]
    return _NAME.fullmatch(call) is not None or ("(" in call and call.rstrip().endswith(")"))


def parse_factory(text: str) -> Factory:
    """Parse `package.module:factory` or `package.module:factory(LITERALS)`; nothing is run.

    Raises:
        UsageError: The text is of another form, or an argument is no literal.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None or len(text) > _MAX_LENGTH:
        raise UsageError(f"{text[:80]!r} names nothing that builds a network; {EXPECTED}")
    module, call = match["module"], match["call"]
    if _NAME.fullmatch(call):
        return Factory(module, call)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in texts
            node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or not _NAME.fullmatch(ast.unparse(node.func)):
            raise ValueError("it is no call of a name")
        arguments = tuple(ast.literal_eval(argument) for argument in node.args)
        keywords = []
        for keyword in node.keywords:
            if keyword.arg is None:
                raise ValueError("** is no literal")
            keywords.append((keyword.arg, ast.literal_eval(keyword.value)))
    except _NOT_LITERAL as error:
        cause = str(error).partition(" (")[0].partition(" at 0x")[0] or type(error).__name__
        raise UsageError(
            f"{text[:80]!r} cannot be read as a call with literal arguments"
            f" ({' '.join(cause.split())[:120]}); {EXPECTED}"
        ) from error
    return Factory(module, ast.unparse(node.func), arguments, tuple(keywords))


def call_factory(text: str) -> nn.Module:
    """Import what a factory names and call it; a module that stands there is taken as it is.

    Args:
        text: See `parse_factory`. The current folder is searched last.

    Raises:
        UsageError: The module cannot be imported, or no nn.Module comes of it.
    """
    import torch

    factory = parse_factory(text)
    current = str(Path.cwd())
    is_new = current not in sys.path
    if is_new:
        sys.path.append(current)
    try:
        built: Any = _import(factory, text)
        try:
            for part in factory.attribute.split("."):
                built = getattr(built, part)
            if factory.arguments is not None:
                built = built(*factory.arguments, **dict(factory.keywords))
            elif callable(built) and not isinstance(built, torch.nn.Module):
                built = built()
        except (*FAILURES, SystemExit) as error:
            raise UsageError(
                f"{text}: {factory.attribute} of {factory.module} cannot be called to build a"
                f" network: {reason(error)}; {EXPECTED}"
            ) from error
    finally:
        if is_new:
            sys.path.remove(current)
    if isinstance(built, type) and issubclass(built, torch.nn.Module):
        raise UsageError(f"{text} made a class; give the call that makes a network of it")
    if not isinstance(built, torch.nn.Module):
        raise UsageError(f"{text} made a {type(built).__name__}; expected a torch.nn.Module")
    return built


def _import(factory: Factory, text: str) -> Any:
    try:
        return import_module(factory.module)
    except (*FAILURES, SystemExit) as error:
        raise UsageError(
            f"{text} imports the module {factory.module}, which does not load: {reason(error)};"
            f" {EXPECTED}"
        ) from error
