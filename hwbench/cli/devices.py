"""`hwbench devices`: what can be measured on, and making a target ready or clean again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import hwbench
from hwbench.cli.delivery import deliver
from hwbench.cli.options import Keeping, Output, VerboseOption, options

devices_app = typer.Typer(epilog="Example: hwbench devices")

AddressArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="Of the device, such as android:SERIAL.")
]


@devices_app.callback(invoke_without_command=True)
@options
def devices(*, context: typer.Context, output: Output) -> int:
    """List what can be measured on from here, and what is missing for the rest."""
    if context.invoked_subcommand is not None:
        return 0
    from hwbench.render import documents, views

    found = hwbench.list_devices()
    return deliver(output, views.devices_view(found), documents.devices_document(found))


@devices_app.command(epilog="Example: hwbench devices setup android:SERIAL")
@options
def setup(
    *,
    address: AddressArgument,
    aar: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="onnxruntime-android-VERSION.aar: Android's own build, with --ndk."
        ),
    ] = None,
    ndk: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Android's NDK, which compiles the runner for it."),
    ] = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Put ahead of time on a device what a measurement needs there.

    Otherwise the first measurement does.
    """
    from hwbench.cli.progress import Progress
    from hwbench.workflows.devices import setup_device

    with Progress(address, Keeping(no_save=True)):
        setup_device(
            address, {name: path for name, path in (("aar", aar), ("ndk", ndk)) if path is not None}
        )
    typer.echo(f"{address} is set up")
    return 0


@devices_app.command(epilog="Example: hwbench devices clean android:SERIAL")
@options
def clean(
    *,
    address: AddressArgument,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Restore a device's settings and remove everything that hwbench ever put there."""
    from hwbench.workflows.devices import clean_device

    clean_device(address)
    typer.echo(f"{address} is clean")
    return 0
