"""The budget of a search as people write it: `0.5`, `50%`, `12ms`, `285M`, `4MB`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwbench.errors import UsageError

KINDS = ("latency", "macs", "params", "size")
"""What a budget can be of."""

_UNITS = {
    "latency": {"s": 1.0, "ms": 1e-3, "us": 1e-6},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "size": {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9},
}
_EXAMPLES = {"latency": "12ms", "macs": "285M", "params": "2M", "size": "4MB"}
_LIMIT = re.compile(r"(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*(?P<unit>%|[a-zA-Z]*)")


@dataclass(frozen=True, slots=True)
class Limit:
    """The most a network may cost: a share of the original's cost, or an amount.

    Attributes:
        kind: One of `KINDS`.
        share: Share of the original's cost, in (0, 1]; None for an amount.
        amount: Seconds, multiply-accumulates, parameters or bytes; None for a share.
    """

    kind: str
    share: float | None = None
    amount: float | None = None

    @classmethod
    def parse(cls, kind: str, text: str | float) -> Limit:
        """Read `0.5` or `50%` (of the original), `12ms`, `285M`, `4MB`.

        Raises:
            UsageError: The text is none of these.
        """
        match = _LIMIT.fullmatch(str(text).strip())
        expected = f"expected a share of the original (0.5, 50%) or an amount ({_EXAMPLES[kind]})"
        if match is None:
            raise UsageError(f"{kind} budget {text!r} cannot be read; {expected}")
        number, unit = float(match["number"]), match["unit"].lower()
        if unit == "%" or (not unit and number <= 1):
            share = number / 100 if unit == "%" else number
            if not 0 < share <= 1:
                raise UsageError(
                    f"{kind} budget {text!r} is no share above 0 and up to 1; {expected}"
                )
            return cls(kind, share=share)
        units = _UNITS[kind]
        if unit not in units or not number > 0:
            known = ", ".join(filter(None, units))
            raise UsageError(f"{kind} budget {text!r} has no unit of {kind} ({known}); {expected}")
        return cls(kind, amount=number * units[unit])

    def __str__(self) -> str:
        """As people write it: `0.5`, `12ms`, `285M`, `4MB`."""
        if self.amount is None:
            return f"{self.share:.10g}"
        units = {size: unit for unit, size in _UNITS[self.kind].items()}
        fitting = [size for size in units if size <= self.amount]
        size = max(fitting, default=min(units))
        unit = units[size] if self.kind == "latency" else units[size].upper()
        return f"{self.amount / size:.10g}{unit}"

    def of(self, original: float) -> float:
        """The amount, for an original that costs `original`."""
        if self.amount is not None:
            return self.amount
        return (self.share or 1.0) * original
