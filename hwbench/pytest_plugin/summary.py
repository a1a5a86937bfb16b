"""The section at the end of a run: every measurement and comparison with its interval.

Each line also names the records it is kept as. Lines travel as user properties of the test's
report, so that they come home from the workers of xdist, and into JUnit files.
"""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hwbench.pytest_plugin.options import Options
    from hwbench.records.comparison import Comparison
    from hwbench.records.measurement import Measurement

PROPERTY = "hwbench"
QUESTION = "hwbench_question"
"""The property that says of each comparison whether it was resolved: `resolved`, `UNRESOLVED`."""


class RunSummary:
    """Gathers the lines of all tests, and writes them in the order in which the tests ended.

    Args:
        options: The options of the run.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lines: dict[str, list[str]] = {}
        self._questions: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the lines of a test; each of its reports has all lines so far."""
        lines = [str(value) for name, value in report.user_properties if name == PROPERTY]
        if lines:
            self._lines[report.nodeid] = lines
        questions = [str(value) for name, value in report.user_properties if name == QUESTION]
        if questions:
            self._questions[report.nodeid] = questions

    # First, as pytest-benchmark leaves this hook by an exception where it saw a regression.
    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Write the section, if anything was measured."""
        if not self._lines:
            return
        write = terminalreporter.write_line
        terminalreporter.ensure_newline()
        terminalreporter.section(f"hwbench on {self._options.device}", sep="-")
        for test, lines in self._lines.items():
            write(test)
            for line in lines:
                write(f"  {line}")
        if getattr(config.option, "numprocesses", None) and self._options.driver == "cpu":
            write(
                "other tests ran beside these on the same CPU (-n): expect wider intervals; for a"
                " gate, leave out -n"
            )
        open_text = self._describe_open_questions()
        if open_text:
            write(open_text, yellow=True, bold=True)
        command = "hwbench store show RECORD"
        if self._options.store:
            command += f" --store {quote(self._options.store)}"
        write(f"samples and layers: {command}")

    def _describe_open_questions(self) -> str:
        """How many comparisons noise left open, and what becomes of such tests; empty for none."""
        questions = [question for asked in self._questions.values() for question in asked]
        unresolved = questions.count(question_text(resolved=False))
        if not unresolved:
            return ""
        count = f"{unresolved} of {len(questions)} comparisons UNRESOLVED"
        if self._options.unresolved == "fail":
            return f"{count}: raise --hwbench-budget"
        return (
            f"{count}: noise left them open, and they let nothing fail (--hwbench-unresolved fail"
            " makes assert_faster fail; a larger --hwbench-budget helps)"
        )


def question_text(*, resolved: bool) -> str:
    """The value of the property `QUESTION`."""
    return "resolved" if resolved else "UNRESOLVED"


def measurement_line(record: Measurement, *, saved: bool) -> str:
    """Write the line of one measurement.

    Args:
        record: The measurement.
        saved: Whether it is in the store.
    """
    from hwbench.render.units import confidence_s, printable, seconds

    median = seconds(record.median_s)
    confidence = confidence_s(record.median_ci_s, record.median_s)
    place = _records_text(record) if saved else "not kept"
    return printable(f"{record.model}: {median} ({confidence}); {place}")


def comparison_line(comparison: Comparison, answer: str = "") -> str:
    """Write the line of one comparison.

    Args:
        comparison: The comparison.
        answer: The answer to what a test asked of it; empty if nothing was asked.
    """
    from hwbench.render.comparing import verdict_text
    from hwbench.render.units import printable

    baseline, candidate = comparison.baseline, comparison.candidate
    verdict = f"{comparison.verdict.value}, {verdict_text(comparison)}"
    parts = [f"{candidate.model} against {baseline.model}: {verdict}"]
    if answer:
        parts.append(answer)
    parts.append(_records_text(baseline, candidate))
    return printable("; ".join(parts))


def _records_text(*records: Measurement) -> str:
    """Name records by their short ids."""
    from hwbench.render.views import SHORT_ID

    word = "records" if len(records) > 1 else "record"
    return f"{word} {' and '.join(record.id[:SHORT_ID] for record in records)}"
