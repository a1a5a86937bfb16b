"""Rules of `--fail-on`: a field, a comparison sign and a number.

Such as `speedup<1.3` and `agreement<99%`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench.errors import UsageError

_RULE = re.compile(
    r"\s*(?P<field>\w+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<percent>%?)\s*"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Fail where `field sign limit` holds.

    Attributes:
        field: Name of a number in the command's JSON.
        sign: `<`, `<=`, `>` or `>=`.
        limit: In the field's unit: seconds where it ends in `_s`.
    """

    field: str
    sign: str
    limit: float

    def hit(self, values: Mapping[str, float | None]) -> bool:
        """Whether the rule holds.

        A value that is not known hits it, since a gate must not open without evidence.
        """
        value = values[self.field]
        if value is None:
            return True
        match self.sign:
            case "<":
                return value < self.limit
            case "<=":
                return value <= self.limit
            case ">":
                return value > self.limit
            case _:
                return value >= self.limit

    def __str__(self) -> str:
        return f"{self.field}{self.sign}{self.limit:g}"


def parse_rule(text: str, known: Sequence[str]) -> Rule:
    """Read one rule.

    Args:
        text: As the user wrote it.
        known: Fields the command offers.

    Raises:
        UsageError: It is no rule, or its field is unknown.
    """
    match = _RULE.fullmatch(text)
    if match is None or math.isinf(float(match["limit"])):
        raise UsageError(
            f"--fail-on {text!r} is not FIELD<NUMBER (or <=, >, >=); fields: {', '.join(known)}"
        )
    if match["field"] not in known:
        raise UsageError(f"--fail-on {text!r} names an unknown field; known: {', '.join(known)}")
    scale = 100 if match["percent"] else 1
    return Rule(match["field"], match["sign"], float(match["limit"]) / scale)


def hits(rules: Sequence[Rule], values: Mapping[str, float | None]) -> list[str]:
    """What to say of each rule that was hit."""
    return [
        f"{rule.field} is {_text(values[rule.field])}, which --fail-on {rule} forbids"
        for rule in rules
        if rule.hit(values)
    ]


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
