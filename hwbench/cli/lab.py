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
    help="Share devices of many computers, with one queue for all who measure.",
    epilog="Example: hwbench lab start; then, on each host: hwbench lab join HOST:PORT",
)
REDRAW_S = 1.0
"""Seconds between two redraws of the live view."""

AddressArgument = Annotated[
    str,
    typer.Argument(
        metavar="ADDRESS",
        help="The address of the lab, HOST:PORT, as hwbench lab start printed it.",
    ),
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
        str,
        typer.Option(
            metavar="ADDRESS", help="The address under which other computers reach this one."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of the lab.")] = 6380,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Run the head of a lab until interrupted. It holds the queue, and measures nothing itself."""
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
        typer.Option(
            metavar="ADDRESS",
            help="A device to offer; all that are ready if not given. Repeatable.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="The address under which other computers reach this one."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="The name of this computer in the lab; its host name if not given."),
    ] = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Offer the devices of this computer to a lab until interrupted."""
    from hwbench.lab.hosts import serve_host

    serve_host(address, device or (), _say, own=host, name=name)
    return 0


@lab_app.command(epilog="Example: hwbench lab status 192.0.2.7:6380 --live")
@options
def status(
    *,
    address: AddressArgument = "127.0.0.1:6380",
    output: Output,
    live: Annotated[
        bool, typer.Option("--live", help="Show the status anew every second, until interrupted.")
    ] = False,
) -> int:
    """Show the devices of a lab, what each of them does, and what waits."""
    from hwbench.lab.client import open_lab
    from hwbench.lab.views import status_view

    with open_lab(address) as lab:
        if live:
            return _live(lab)
        current = lab.status()
    return deliver(output, status_view(current), {"schema": 1, **current})


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
