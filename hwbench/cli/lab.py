"""`hwbench lab`: many devices on many hosts, and one queue."""

from __future__ import annotations

import sys
import time
from io import StringIO
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.delivery import deliver
from hwbench.cli.options import Output, VerboseOption, options

if TYPE_CHECKING:
    from hwbench.lab.client import Lab
    from hwbench.workflows.workplace import Workplace

lab_app = typer.Typer(
    help="Many devices on many hosts, and one queue.",
    epilog="Example: hwbench lab start; then, on each host: hwbench lab join HOST:PORT",
)
REDRAW_S = 1.0
"""Seconds between two redraws of the live view."""

AddressArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="HOST:PORT of the lab, as hwbench lab start says.")
]


@lab_app.callback(invoke_without_command=True)
def _lab(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@lab_app.command(epilog="Example: hwbench lab start --host 192.0.2.7")
@options
def start(
    *,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="This computer's, as the others reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the lab.")] = 6380,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Be the head of a lab until ended: it holds the queue, and measures nothing itself."""
    from hwbench.lab.hosts import serve_head

    serve_head(host, port, _say)
    return 0


@lab_app.command(
    epilog="Example: hwbench lab join 192.0.2.7:6380 --device android:SERIAL --device cpu"
)
@options
def join(
    *,
    address: AddressArgument,
    device: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="To offer; repeatable; else all that are ready."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="This computer's, as the others reach it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the lab calls this computer; else its host name.")
    ] = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Offer this computer's devices to a lab until ended; that is also how they leave it."""
    from hwbench.lab.hosts import serve_host

    serve_host(address, device or (), _say, own=host, name=name)
    return 0


@lab_app.command(epilog="Example: hwbench lab status 192.0.2.7:6380 --live")
@options
def status(
    *,
    address: AddressArgument = "127.0.0.1:6380",
    output: Output,
    live: Annotated[bool, typer.Option("--live", help="Redraw until ended.")] = False,
) -> int:
    """Show the devices of a lab, their health, who holds what, and what waits."""
    from hwbench.lab.client import open_lab
    from hwbench.lab.views import status_view

    with open_lab(address) as lab:
        if live:
            return _live(lab)
        found = lab.status()
    return deliver(output, status_view(found), {"schema": 1, **found})


def _live(lab: Lab) -> int:
    """Redraw the status until interrupted."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from hwbench.lab.views import status_view
    from hwbench.render.blocks import write_text

    console = Console(highlight=False)
    try:
        with Live(console=console, auto_refresh=False, screen=console.is_terminal) as view:
            while True:
                drawn = StringIO()
                write_text(status_view(lab.status()), drawn, console.width)
                view.update(Text(drawn.getvalue(), no_wrap=True), refresh=True)
                time.sleep(REDRAW_S)
    except KeyboardInterrupt:
        return 0


def workplace(lab: str | None) -> Workplace:
    """This computer, or the lab that was named."""
    if lab is None:
        from hwbench.workflows.workplace import ThisComputer

        return ThisComputer()
    from hwbench.lab.work import LabWorkplace

    return LabWorkplace(lab)


def _say(text: str) -> None:
    typer.echo(text)
    sys.stdout.flush()
