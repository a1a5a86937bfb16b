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
    str, typer.Argument(metavar="ADDRESS", help="Address of the device, such as android:SERIAL.")
]


@devices_app.callback(invoke_without_command=True)
@options
def devices(*, context: typer.Context, output: Output) -> int:
    """List the devices that can be measured on from here, and what is missing for the others."""
    if context.invoked_subcommand is not None:
        return 0
    from hwbench.render import documents, views

    listed = hwbench.list_devices()
    proof_hint = "to prove a driver on a device of yours: hwbench selftest --device ADDRESS"
    view = views.devices_view(listed, proof_hint=proof_hint)
    return deliver(output, view, documents.devices_document(listed))


@devices_app.command(epilog="Example: hwbench devices setup android:SERIAL")
@options
def setup(
    *,
    address: AddressArgument,
    aar: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=(
                "The runtime built for Android: onnxruntime-android-VERSION.aar, or for"
                " runtime=litert litert-VERSION.aar; needs --ndk too."
            ),
        ),
    ] = None,
    ndk: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The folder of Android's NDK, which compiles hwbench's runner for it.",
        ),
    ] = None,
    verbose: VerboseOption = False,  # noqa: ARG001 - main looks for it
) -> int:
    """Copy everything to a device that measurements need there.

    The first measurement would do it otherwise.
    """
    from hwbench.cli.progress import show_measuring
    from hwbench.workflows.devices import setup_device

    with show_measuring(address, Keeping(no_save=True)):
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
    """Remove everything that hwbench ever put on a device, and restore its settings."""
    from hwbench.workflows.devices import clean_device

    clean_device(address)
    typer.echo(f"{address} is clean")
    return 0
