"""`hwbench report`: everything in a store as one HTML page."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hwbench.cli.delivery import report
from hwbench.cli.options import StoreOption, VerboseOption, writable


def report_command(
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help=(
                "Show only what was measured since then: 2026-03-01, or 7d for the last seven days."
            ),
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The page to write; - for standard output.",
            callback=writable,
        ),
    ] = "report.html",
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Write what a store holds as one HTML page: models, comparisons, tables and searches."""
    from hwbench.render.units import plural, size
    from hwbench.report import make_report

    made = make_report(since=since, store=store)
    if target == "-":
        sys.stdout.write(made.html)
        return report([str(record) for record in made.damaged], 2)
    made.save(target)
    contents = made.contents
    parts = []
    for records, noun in (
        (contents.measurements, "measurement"),
        (contents.comparisons, "comparison"),
        (contents.tables, "lookup table"),
    ):
        if records:
            parts.append(plural(len(records), noun))
    if contents.searches:
        parts.append(f"{len(contents.searches)} search{'es' if len(contents.searches) > 1 else ''}")
    page_size = size(len(made.html.encode()))
    typer.echo(f"{target}: {', '.join(parts)}; {page_size}, opens in any browser")
    return report([str(record) for record in made.damaged], 2)
