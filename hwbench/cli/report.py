"""`hwbench report`: everything in a store as one HTML page."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hwbench.cli.options import StoreOption, VerboseOption, writable


def report_command(
    *,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="Show only what was measured since then: 2026-03-01, or 7d for the last seven days.",
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
        return 0
    made.save(target)
    held = made.contents
    counts = (
        (held.measurements, "measurement"),
        (held.comparisons, "comparison"),
        (held.tables, "lookup table"),
    )
    told = [plural(len(records), noun) for records, noun in counts if records]
    told += (
        [f"{len(held.searches)} search{'es' if len(held.searches) > 1 else ''}"]
        if held.searches
        else []
    )
    typer.echo(
        f"{target}: {', '.join(told)}; {size(len(made.html.encode()))}, opens in any browser"
    )
    return 0
