"""What other people's modules and torch raise, and how it is told in one line."""

from __future__ import annotations

import re

FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What running or exporting someone's module may raise."""

_IN_SCRIPT = "operation failed in the TorchScript interpreter"
_NAMED = re.compile(r"[A-Za-z_.]+(?:Error|Exception): ")
_LONGEST = 300


def reason(error: BaseException) -> str:
    """Say in one line what went wrong, by the error at the bottom of a chain.

    That is the first line of it, and the next where the first only announces it. TorchScript says
    where in its code something failed first, and what at the end.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours of terminals
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if _IN_SCRIPT in lines[0]:
        last = lines[-1][:_LONGEST]
        return last if _NAMED.match(last) else f"{type(error).__name__}: {last}"
    said = lines[0]
    if said.endswith(":") and len(lines) > 1:
        said += f" {lines[1]}"
    return f"{type(error).__name__}: {said[:_LONGEST]}"
