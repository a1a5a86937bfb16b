"""`hwbench store`: what was measured, here or in the store that a team shares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import hwbench
from hwbench.cli.delivery import deliver, report
from hwbench.cli.options import Output, StoreOption, VerboseOption, options

if TYPE_CHECKING:
    from hwbench.store import DamagedRecord
    from hwbench.workflows.sync_store import Syncing

store_app = typer.Typer(
    help="List, show, export and copy the measurements kept so far.",
    epilog="Example: hwbench store list",
)

BAR = 20
"""Width of the bar in characters."""


@store_app.callback(invoke_without_command=True)
def _store(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@store_app.command("list", epilog="Example: hwbench store list --model zoo:resnet18 --limit 5")
@options
def store_list(
    output: Output,
    store: StoreOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="List only measurements of this model (name or SHA-256)."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="List only measurements on this device.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The number of measurements to list.")] = 20,
) -> int:
    """List measurements, newest first."""
    from hwbench.render import documents, views

    with hwbench.open_store(store) as opened:
        summaries, url = opened.list(model, device, limit), opened.url
    return deliver(
        output, views.store_view(url, summaries), documents.store_document(url, summaries)
    )


@store_app.command("show", epilog="Example: hwbench store show 3f9c1a --json -")
@options
def store_show(
    output: Output,
    record: Annotated[
        str, typer.Argument(metavar="ID", help="Id of the measurement, or the beginning of it.")
    ],
    store: StoreOption = None,
) -> int:
    """Show one measurement. Its JSON is the whole record."""
    from hwbench.render import views

    with hwbench.open_store(store) as opened:
        measurement = opened.get(record)
    return deliver(output, views.profile_view(measurement), measurement.to_dict())


@store_app.command("export", epilog="Example: hwbench store export measurements.jsonl")
@options
def store_export(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="The file to write, one JSON object a line; - for standard output."
        ),
    ] = "-",
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Write all records as JSON lines, with all samples."""
    with hwbench.open_store(store) as opened:
        damaged: list[DamagedRecord] = []
        lines = opened.export(sys.stdout if target == "-" else Path(target), damaged)
    if target != "-":
        typer.echo(f"{lines} records written to {target}")
    return report([str(record) for record in damaged], 2)


@store_app.command(
    "sync", epilog="Example: hwbench store sync --to postgresql+psycopg://team@host/hwbench"
)
@options
def store_sync(
    output: Output,
    target: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="URL", help="The store to copy records to; $HWBENCH_STORE if not given."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="The store to copy them from; that of this computer if not given.",
        ),
    ] = None,
) -> int:
    """Copy the records of one store into another, such as those of this computer into the team's.

    Only new records are copied, so the command can be repeated at any time. Exit codes: 0 if all
    went well, 2 if records were left out because they are damaged or differ from the one there.
    """
    from hwbench.render import syncing
    from hwbench.workflows.sync_store import sync_store

    with _progress() as progress:
        done = sync_store(target, source, callback=progress)
    deliver(output, syncing.synced_view(done), syncing.synced_document(done))
    return report(syncing.refusals(done), 2)


@contextmanager
def _progress() -> Iterator[Callable[[Syncing], None] | None]:
    """A line on standard error that says how far a transfer is, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from hwbench.render.units import bar

    with Live(
        console=Console(stderr=True, highlight=False), auto_refresh=False, transient=True
    ) as live:

        def draw(now: Syncing) -> None:
            done = bar(now.done / now.total, BAR).ljust(BAR)
            live.update(
                Text(
                    f"{now.done:,} of {now.total:,} records |{done}| {now.new:,} new", no_wrap=True
                ),
                refresh=True,
            )

        yield draw
