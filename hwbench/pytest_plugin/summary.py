"""The section at the end of a run: every measurement and comparison with its interval, and the records it is kept as.

Lines travel as user properties of the test's report: so they come home from the workers of xdist,
and into JUnit files.
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


class Summary:
    """Gathers the lines of all tests and writes them in the order in which the tests began to end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lines: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the lines of a test; each of its reports has all lines so far."""
        lines = [str(value) for name, value in report.user_properties if name == PROPERTY]
        if lines:
            self._lines[report.nodeid] = lines

    @pytest.hookimpl(
        tryfirst=True
    )  # pytest-benchmark leaves this hook by an exception where it saw a regression
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
        store = self._options.store
        write(
            "samples and layers: hwbench store show"
            f" RECORD{f' --store {quote(store)}' if store else ''}"
        )


def measured(record: Measurement, *, saved: bool) -> str:
    """The line of one measurement."""
    from hwbench.render.units import interval_s, printable, seconds

    shown = (
        f"{seconds(record.median_s)} (95 % interval"
        f" {interval_s(record.median_ci_s, record.median_s)})"
    )
    return printable(f"{record.model}: {shown}; {_kept(record) if saved else 'not kept'}")


def compared(comparison: Comparison, answer: str = "") -> str:
    """The line of one comparison; with the answer to what was asked of it, if anything was."""
    from hwbench.render.comparing import verdict_text
    from hwbench.render.units import printable

    baseline, candidate = comparison.baseline, comparison.candidate
    found = f"{comparison.verdict.value}, {verdict_text(comparison)}"
    parts = (
        f"{candidate.model} against {baseline.model}: {found}",
        answer,
        _kept(baseline, candidate),
    )
    return printable("; ".join(filter(None, parts)))


def _kept(*records: Measurement) -> str:
    from hwbench.render.views import SHORT_ID

    return (
        f"record{'s' if len(records) > 1 else ''}"
        f" {' and '.join(record.id[:SHORT_ID] for record in records)}"
    )
