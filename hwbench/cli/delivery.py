"""What every command ends with: a view or JSON, lines on standard error, an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.cli.options import Output, OutputFormat
from hwbench.errors import UsageError

if TYPE_CHECKING:
    from hwbench.records.comparison import Comparison
    from hwbench.render.blocks import View
    from hwbench.render.documents import Document


def deliver(output: Output, view: View, document: Document) -> int:
    """Write the view to standard output, or JSON instead, and JSON to a file if asked.

    Returns the exit code of a success.
    """
    from hwbench.render.blocks import write_markdown, write_text

    write_json(output, document)
    if not output.for_machines:
        write = write_markdown if output.layout is OutputFormat.md else write_text
        write(view, sys.stdout)
    return 0


def write_json(output: Output, document: Document) -> None:
    """Write JSON where it was asked for, if it was: to standard output, to a file, or to both."""
    from hwbench.render.documents import to_json

    if output.for_machines:
        sys.stdout.write(to_json(document))
    if output.json is not None and output.json != "-":
        write_file(output.json, to_json(document), "the JSON")


def write_file(target: str, text: str, what: str) -> None:
    """Write a text to a file, or to standard output for `-`.

    Args:
        target: The file.
        text: Its content.
        what: What it is, for the message: "the CSV".

    Raises:
        UsageError: It cannot be written.
    """
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {what} to {target}: {error.strerror or error}; give another file"
        ) from error


def report(lines: Sequence[str], code: int) -> int:
    """Write lines to standard error; the exit code is `code` if there are any, else 0."""
    from hwbench.render.units import printable

    for line in lines:
        sys.stderr.write(f"hwbench: {printable(line)}\n")
    return code if lines else 0


def report_verdict(outcome: Comparison, broken_rules: Sequence[str]) -> int:
    """Exit code of a comparison, with a line on standard error for every code but 0."""
    from hwbench.render.comparing import rests_on_impossible, verdict_text

    verdict = outcome.verdict.value
    headline = f"{verdict}: {verdict_text(outcome)}"
    if verdict == "INCOMPARABLE":
        return report([f"{headline}; {outcome.findings[0].text}"], 2)
    if broken_rules:
        return report(broken_rules, 1)
    if outcome.baseline.group_id != outcome.candidate.group_id:
        sides = f"{outcome.baseline.model} {outcome.candidate.model}"
        return report([f"{headline}; measure them together: hwbench compare {sides}"], 5)
    match verdict:
        case "SLOWER":
            return report([headline], 1)
        case "UNRESOLVED":
            advice = "raise --budget"
            if rests_on_impossible(outcome):
                advice = "see the finding impossible"
            return report([f"{headline}; {advice}"], 5)
        case _:
            return 0
