"""`hwbench cache`: what is kept to save time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hwbench.cli.options import VerboseOption, options

if TYPE_CHECKING:
    from hwbench.workflows.cache import CachePart

cache_app = typer.Typer(
    help="Show or remove what is kept to save time: exported models, runners, files for phones.",
    epilog="Example: hwbench cache clean",
)


@cache_app.callback(invoke_without_command=True)
def _cache(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@cache_app.command("show", epilog="Example: hwbench cache show")
@options
def cache_show(verbose: VerboseOption = False) -> int:  # noqa: ARG001 - main looks for it
    """Show where the cache is and what its parts take."""
    from hwbench.workflows.cache import list_cache

    folder, parts = list_cache()
    return _show(folder, parts, "in")


@cache_app.command("clean", epilog="Example: hwbench cache clean")
@options
def cache_clean(verbose: VerboseOption = False) -> int:  # noqa: ARG001 - main looks for it
    """Remove the cache. What is needed again is made again; measurements are not in it.

    After an uninstall of hwbench, its cache and its store are all that is left on a computer.
    """
    from hwbench.workflows.cache import clean_cache

    folder, parts = clean_cache()
    return _show(folder, parts, "removed from")


def _show(folder: Path, parts: tuple[CachePart, ...], where: str) -> int:
    from hwbench.render.units import printable, size

    for part in parts:
        typer.echo(f"{size(part.size_bytes):>9}  {printable(part.path.name)}")
    total = size(sum(part.size_bytes for part in parts))
    typer.echo(f"{total:>9}  {where} {printable(str(folder))}")
    return 0
