"""`hwbench export`: a measurement for other tools."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

import hwbench
from hwbench.cli.delivery import write_file
from hwbench.cli.options import StoreOption, VerboseOption, options, writable


class ExportFormat(StrEnum):
    """What a measurement can be exported to."""

    csv = "csv"
    chrome_trace = "chrome-trace"


@options
def export_command(
    *,
    record: Annotated[
        str, typer.Argument(metavar="ID", help="Id of the measurement, or the beginning of it.")
    ],
    target: Annotated[
        ExportFormat,
        typer.Option(
            "--to",
            help="csv: every sample in a line. chrome-trace: the layers, for chrome://tracing or"
            " ui.perfetto.dev.",
        ),
    ] = ExportFormat.csv,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The file to write; - for standard output.",
            callback=writable,
        ),
    ] = "-",
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Write a stored measurement in the format of other tools.

    The whole store as JSON lines: hwbench store export.
    """
    from hwbench.render.exports import EXPORTS

    with hwbench.open_store(store) as opened:
        text = EXPORTS[target.value](opened.get(record))
    write_file(out, text, "the export")
    if out != "-":
        typer.echo(f"written to {out}")
    return 0
