"""What `assert_faster` asks of a comparison, and what it says where the answer is no, or unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from io import StringIO
from shutil import get_terminal_size

from hwbench.errors import UsageError
from hwbench.records.comparison import Comparison, LayerChange
from hwbench.render.blocks import Block, Column, Line, Table, write_text
from hwbench.render.comparing import verdict_text
from hwbench.render.units import interval, plural, seconds, times
from hwbench.render.views import notes, provenance
from hwbench.stats import Ratio, Verdict

TOP_LAYERS = 5
"""Layers that are blamed by name."""
INDENT = 4
"""Columns that pytest puts before each line of a message."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a candidate is faster than its baseline.

    Attributes:
        at_least: Smallest speed-up; None for any that is beyond the smallest effect that matters.

    Raises:
        UsageError: The speed-up is no positive number.
    """

    at_least: float | None

    def __post_init__(self) -> None:
        if self.at_least is not None and not 0 < self.at_least < math.inf:
            raise UsageError(
                f"at_least={self.at_least} is no speed-up; expected a positive number such as 1.3"
            )

    def answer(self, ratio: Ratio | None, min_effect: float) -> bool | None:
        """True or false where the samples tell, else None.

        The gates are those of every verdict (`Ratio.verdict`), moved from a speed-up of 1 to the
        one that is asked for.

        Args:
            ratio: Candidate over baseline; None where they are incomparable, which holds for
                nothing.
            min_effect: Smallest relative difference that matters.
        """
        if ratio is None:
            return False
        verdict = _against(ratio, self.at_least or 1.0).verdict(min_effect)
        if verdict is Verdict.UNRESOLVED:
            return None
        return verdict is Verdict.FASTER or (verdict is Verdict.SAME and self.at_least is not None)

    @property
    def text(self) -> str:
        """What was asked for."""
        return "faster" if self.at_least is None else f"at least {self.at_least:g}x as fast"

    def told(self, answer: bool | None) -> str:
        """The answer, for the summary."""
        return f"{self.text}: {'UNRESOLVED' if answer is None else 'yes' if answer else 'NO'}"

    def open_text(self, found: Comparison) -> str:
        """Why the question stays open, on one line."""
        models = (
            f"{found.candidate.model} is {self.text} {'than' if self.at_least is None else 'as'}"
            f" {found.baseline.model}"
        )
        shown = (
            f"speed-up {times(found.speedup)}, 99 % interval"
            f" {interval(found.verdict_ci or (0, math.inf), found.speedup or 1)}"
        )
        sessions = plural(found.ratio.sessions if found.ratio else 0, "session")
        return (
            f"UNRESOLVED: cannot tell from {sessions} whether {models}: {shown}; raise"
            " --hwbench-budget"
        )

    def complaint(self, found: Comparison) -> str:
        """Why the answer is no: the speed-up with its interval, what is known of the cause, and the layers to blame."""
        headline = (
            f"{found.candidate.model} is not {self.text}"
            f" {'than' if self.at_least is None else 'as'} {found.baseline.model}"
        )
        view: list[Block] = [
            Line(f"{headline}: {verdict_text(found)}"),
            *notes(found.findings),
            *self._blame(found),
        ]
        file = StringIO()
        write_text(
            [*view, Line(provenance(found.baseline, found.candidate))],
            file,
            get_terminal_size().columns - INDENT,
        )
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def _blame(self, found: Comparison) -> list[Block]:
        """Layers by how much longer they take than their share of what was asked for."""
        goal = self.at_least or 1 + found.baseline.settings.min_effect

        def excess_s(change: LayerChange) -> float:
            return (change.candidate_s or 0.0) - (change.baseline_s or 0.0) / goal

        worst = sorted((c for c in found.layers if excess_s(c) > 0), key=excess_s, reverse=True)[
            :TOP_LAYERS
        ]
        if not worst:
            return [
                Line(
                    "no layer to blame: "
                    + (
                        "all take what was asked for"
                        if found.layers
                        else "layers were not measured"
                    )
                )
            ]
        rows = tuple(
            (
                c.name,
                seconds(c.baseline_s),
                seconds(c.candidate_s),
                seconds(excess_s(c)),
                c.candidate_implementation or "",
            )
            for c in worst
        )
        columns = (
            Column("layer to blame", path=True),
            Column("baseline", right=True),
            Column("candidate", right=True),
            Column("too long by", right=True),
            Column("runs as", path=True),
        )
        return [Table(columns, rows)]


def _against(ratio: Ratio, at_least: float) -> Ratio:
    """Candidate over what was asked for, instead of over the baseline."""
    (low, high), (verdict_low, verdict_high) = ratio.ci, ratio.verdict_ci
    return replace(
        ratio,
        ratio=ratio.ratio * at_least,
        ci=(low * at_least, high * at_least),
        verdict_ci=(verdict_low * at_least, verdict_high * at_least),
    )
