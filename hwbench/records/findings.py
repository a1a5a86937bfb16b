"""Finding: a reason to distrust a number, or a fact that explains it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason to distrust a number, or a fact that explains it, as data.

    Attributes:
        code: Stable name in snake_case (`drift`, `macs_without_gain`); tools select by it.
        text: One sentence for people, with the values that led to it.
    """

    code: str
    text: str
