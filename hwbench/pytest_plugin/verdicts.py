"""What `assert_faster` asks of a comparison, and its messages where the answer is no or unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from shutil import get_terminal_size

from hwbench.errors import Argument, UsageError
from hwbench.records.comparison import Comparison, LayerChange
from hwbench.render.blocks import Block, Column, Line, Table, write_text
from hwbench.render.comparing import likeness_lines, verdict_text
from hwbench.render.units import ends_or_early, interval, percent, plural, seconds, times
from hwbench.render.views import notes, provenance
from hwbench.stats import Ratio, Verdict

TOP_LAYERS = 5
"""How many layers are blamed by name."""
INDENT = 4
"""How many spaces pytest puts before each line of a message."""


@dataclass(frozen=True, slots=True)
class Question:
    """The question whether a candidate is faster than its baseline.

    Attributes:
        at_least: The smallest speed-up that will do; None for any beyond the smallest effect that
            matters.
        accuracy_drop: How much lower the accuracy may be; None where nothing is asked of it.

    Raises:
        UsageError: The speed-up is no positive number, or the drop none from 0 to 1.
    """

    at_least: float | None
    accuracy_drop: float | None = None

    def __post_init__(self) -> None:
        if self.at_least is not None and not 0 < self.at_least < math.inf:
            raise UsageError(
                f"at_least={self.at_least} is no speed-up; expected a positive number such as 1.3"
            )

        if self.accuracy_drop is not None and not 0 <= self.accuracy_drop <= 1:
            raise UsageError(
                f"accuracy_drop={self.accuracy_drop} is no share; expected 0.01 for one percent"
            )

    def require_no_data(self) -> None:
        """Refuse a question about accuracy before anything is measured, as no data was given.

        Raises:
            UsageError: Accuracy is asked for.
        """
        if self.accuracy_drop is not None:
            raise _needs_images()

    def require_evidence(self, comparison: Comparison) -> None:
        """Refuse a question about accuracy where the data had no labels to tell it by.

        Raises:
            UsageError: It had none.
        """
        if self.accuracy_drop is not None and comparison.likeness.accuracy_drop is None:
            raise _needs_images()

    def loses_accuracy(self, comparison: Comparison) -> bool:
        """Whether the candidate's accuracy is lower by more than it may be."""
        drop = comparison.likeness.accuracy_drop
        return self.accuracy_drop is not None and drop is not None and drop > self.accuracy_drop

    def loss_text(self, comparison: Comparison) -> str:
        """Explain that the accuracy is too low."""
        lines = likeness_lines(comparison.likeness)
        limit = percent(self.accuracy_drop)
        text = f"{comparison.candidate.model} loses more than {limit} of accuracy. {lines[0]}"
        blocks: list[Block] = [
            Line(text),
            Line(f"speed: {verdict_text(comparison)}"),
            *notes(comparison.findings),
        ]
        return _write(blocks)

    def answer(self, ratio: Ratio | None, min_effect: float) -> bool | None:
        """Answer the question.

        The gates are those of every verdict (`Ratio.verdict`), moved from a speed-up of 1 to the
        one that is asked for.

        Args:
            ratio: The latency of the candidate over that of the baseline; None where they are
                incomparable, which answers no question with yes.
            min_effect: The smallest relative difference that matters.

        Returns:
            Whether the candidate is as fast as asked; None where the samples do not tell.
        """
        if ratio is None:
            return False
        verdict = _scale_ratio(ratio, self.at_least or 1.0).verdict(min_effect)
        if verdict is Verdict.UNRESOLVED:
            return None
        if verdict is Verdict.SAME:
            # Just what was asked for will do, but without a factor a gain was asked for.
            return self.at_least is not None
        return verdict is Verdict.FASTER

    @property
    def text(self) -> str:
        """What is asked for."""
        return "faster" if self.at_least is None else f"at least {self.at_least:g}x as fast"

    def answer_text(self, answer: bool | None) -> str:
        """Write question and answer for the summary."""
        words = {None: "UNRESOLVED", True: "yes", False: "NO"}
        return f"{self.text}: {words[answer]}"

    def _claim(self, comparison: Comparison, verb: str) -> str:
        """Write what is asked as a claim: `net is at least 1.3x as fast as base`."""
        conjunction = "than" if self.at_least is None else "as"
        candidate, baseline = comparison.candidate.model, comparison.baseline.model
        return f"{candidate} {verb} {self.text} {conjunction} {baseline}"

    def unresolved_text(self, comparison: Comparison) -> str:
        """Explain on one line why the question stays open."""
        verdict_ci = comparison.verdict_ci or (0, math.inf)
        ends = ends_or_early(verdict_ci, interval(verdict_ci, comparison.speedup or 1))
        sessions = plural(comparison.ratio.sessions if comparison.ratio else 0, "session")
        return (
            f"UNRESOLVED: cannot tell from {sessions} whether {self._claim(comparison, 'is')}:"
            f" speed-up {times(comparison.speedup)}, 99.6 % interval: {ends};"
            " raise --hwbench-budget"
        )

    def failure_text(self, comparison: Comparison) -> str:
        """Explain why the answer is no.

        The text has the speed-up with its interval, what is known of the cause, and the layers to
        blame.
        """
        blocks: list[Block] = [
            Line(f"{self._claim(comparison, 'is not')}: {verdict_text(comparison)}"),
            *notes(comparison.findings),
            *self._blame_layers(comparison),
            Line(provenance(comparison.baseline, comparison.candidate)),
        ]
        return _write(blocks)

    def _blame_layers(self, comparison: Comparison) -> list[Block]:
        """Show the layers that take longest beyond their share of what was asked for."""
        goal = self.at_least or 1 + comparison.baseline.settings.min_effect
        excess: list[tuple[float, LayerChange]] = []
        for change in comparison.layers:
            excess_s = (change.candidate_s or 0.0) - (change.baseline_s or 0.0) / goal
            if excess_s > 0:
                excess.append((excess_s, change))
        if not excess:
            reason = "layers were not measured"
            if comparison.layers:
                reason = "all take what was asked for"
            return [Line(f"no layer to blame: {reason}")]
        excess.sort(key=lambda entry: entry[0], reverse=True)
        rows = tuple(
            (
                change.name,
                seconds(change.baseline_s),
                seconds(change.candidate_s),
                seconds(excess_s),
                change.candidate_implementation or "",
            )
            for excess_s, change in excess[:TOP_LAYERS]
        )
        columns = (
            Column("layer to blame", path=True),
            Column("baseline", right=True),
            Column("candidate", right=True),
            Column("too long by", right=True),
            Column("runs as", path=True),
        )
        return [Table(columns, rows)]


def _needs_images() -> UsageError:
    return UsageError("whether accuracy is kept needs labelled images", Argument("data", "images/"))


def _write(blocks: Sequence[Block]) -> str:
    """Write blocks as wide as pytest's messages are."""
    file = StringIO()
    write_text(blocks, file, get_terminal_size().columns - INDENT)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _scale_ratio(ratio: Ratio, at_least: float) -> Ratio:
    """Give the candidate's latency over the one that was asked for, instead of the baseline's."""
    (low, high), (verdict_low, verdict_high) = ratio.ci, ratio.verdict_ci
    same_ci = ratio.same_ci
    return replace(
        ratio,
        ratio=ratio.ratio * at_least,
        ci=(low * at_least, high * at_least),
        verdict_ci=(verdict_low * at_least, verdict_high * at_least),
        same_ci=None if same_ci is None else (same_ci[0] * at_least, same_ci[1] * at_least),
    )
