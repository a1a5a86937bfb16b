"""`hwbench search`: a smaller network within a budget.

There is one command for every search that is registered. `search_commands` makes them when somebody
asks for one: other packages add searches, and no other command is to wait for them, or to fail with
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

DEFAULT_SEARCH = "knapsack"
"""The search of a network that is named in place of a search."""


class SearchGroup(TyperGroup):
    """The commands of all registered searches, made when somebody asks for them."""

    default_command = DEFAULT_SEARCH
    _made: dict[str, Any]

    @property  # type: ignore[override]
    def commands(self) -> dict[str, Any]:
        """Commands by the name of their search."""
        from hwbench.cli.search_commands import make_command
        from hwbench.search import searches

        if not self._made:
            self._made = {name: make_command(name) for name in searches()}
        return self._made

    @commands.setter
    def commands(self, commands: dict[str, Any]) -> None:
        self._made = dict(commands)

    def resolve_command(self, context: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command of the search that is named first; where a network is, the default one."""
        if args and args[0] not in self.commands and _names_a_network(args[0]):
            args = [DEFAULT_SEARCH, *args]
        return super().resolve_command(context, args)

    def list_commands(self, context: Any) -> list[str]:
        """Names of the searches, those of hwbench first."""
        del context
        return list(self.commands)


def _names_a_network(text: str) -> bool:
    """Whether an argument is written as networks are, `zoo:NAME`, `module:factory` or a path."""
    return any(mark in text for mark in ":./\\") or Path(text).exists()


search_app = typer.Typer(
    cls=SearchGroup,
    help="Find a smaller network that keeps to a budget, and measure what it gains.",
    epilog="Example: hwbench search zoo:mobilenet_v1 --table pixel1 --latency 0.55"
    " (without the name of a search: knapsack)",
)


@search_app.callback(invoke_without_command=True)
def _show_searches(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
