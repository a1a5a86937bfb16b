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
from hwbench.cli.options import ModelSource, Output, StoreOption, VerboseOption, options

if TYPE_CHECKING:
    from hwbench.store import DamagedRecord
    from hwbench.workflows.sync_store import Syncing

store_app = typer.Typer(
    help="List, show, export, copy and delete the measurements kept so far, and tag models.",
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
        latencies_s = opened.latencies_s(summary.id for summary in summaries)
    view = views.store_view(url, summaries, latencies_s)
    return deliver(output, view, documents.store_document(url, summaries, latencies_s))


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
    from hwbench.workflows.ceilings import read_ceilings, with_damaged

    with hwbench.open_store(store) as opened:
        measurement = opened.get(record)
        ceilings, damaged = read_ceilings(opened, measurement.device, measurement.settings.threads)
    view = views.profile_view(with_damaged(measurement, damaged), ceilings=ceilings)
    return deliver(output, view, measurement.to_dict())


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


@store_app.command("delete", epilog="Example: hwbench store delete 3f9c1a 81b0d1")
@options
def store_delete(
    records: Annotated[
        list[str],
        typer.Argument(
            metavar="ID", help="Ids of measurements, or the beginnings of them. All or none go."
        ),
    ],
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Delete measurements, with their samples and the comparisons that they were part of.

    A store that they were copied to keeps them, and gives them back when it is synchronised to this
    one.
    """
    from hwbench.render.units import plural

    with hwbench.open_store(store) as opened:
        ids = [opened.get(record).id for record in records]
        deleted, url = opened.delete(ids), opened.url
    typer.echo(f"{plural(deleted, 'measurement')} deleted from {url}")
    return 0


@store_app.command("prune", epilog="Example: hwbench store prune --older 90d --dry-run")
@options
def store_prune(
    *,
    older: Annotated[
        str,
        typer.Option(
            "--older",
            metavar="AGE",
            help="Delete what was measured before that: 90d for ninety days, or a date.",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many measurements would go.")
    ] = False,
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Delete old measurements. Tables, searches and tagged models stay."""
    from hwbench.records.times import EARLIEST, parse_since, parse_utc
    from hwbench.render.units import plural

    limit = parse_since(older)
    with hwbench.open_store(store) as opened:
        ids = [
            summary.id
            for summary in opened.list()
            if EARLIEST < parse_utc(summary.started_utc) < limit
        ]
        url = opened.url
        if dry_run:
            typer.echo(f"{plural(len(ids), 'measurement')} would be deleted from {url}")
            return 0
        deleted = opened.delete(ids)
    typer.echo(f"{plural(deleted, 'measurement')} deleted from {url}")
    return 0


@store_app.command("tag", epilog="Example: hwbench store tag main net.onnx")
@options
def store_tag(
    *,
    source: ModelSource,
    tag: Annotated[
        str, typer.Argument(metavar="TAG", help="The name to keep the model under, such as main.")
    ],
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A file, zoo:NAME or package.module:factory; a copy is kept."
        ),
    ],
    store: StoreOption = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Keep a copy of a model under a name, for hwbench compare --against.

    A tag that exists is moved to the new model.
    """
    from hwbench.render.units import size
    from hwbench.workflows.tags import tag_model

    tagged = tag_model(tag, model, store=store, **source.arguments())
    typer.echo(f"{tag}: {model}, {size(len(tagged.artifact))}, SHA-256 {tagged.sha256[:12]}")
    return 0


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
