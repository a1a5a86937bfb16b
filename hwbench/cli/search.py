"""`hwbench search`: a smaller network within a budget.

There is one command for every search that is registered. `search_commands` makes them when somebody
asks for one: other packages add searches, and no other command is to wait for them, or to fail with
them.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class SearchGroup(TyperGroup):
    """The commands of all registered searches, made when somebody asks for them."""

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

    def list_commands(self, context: Any) -> list[str]:
        """Names of the searches, those of hwbench first."""
        del context
        return list(self.commands)


search_app = typer.Typer(
    cls=SearchGroup,
    help="Find a smaller network that keeps to a budget, and measure what it gains.",
    epilog="Example: hwbench search amc zoo:mobilenet_v1 --table pixel1 --latency 0.55",
)


@search_app.callback(invoke_without_command=True)
def _show_searches(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
