"""What other people's modules and torch raise, and how it is told in one line."""

from __future__ import annotations

import re

FAILURES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip
"""What running or exporting someone's module may raise."""


def reason(error: BaseException) -> str:
    """Say in one line what went wrong: the first line of the error at the bottom of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # colours of terminals
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{type(error).__name__}: {lines[0][:300]}"
