"""Searches for a smaller network: seeded state machines that propose networks and observe.

    proposed = search.propose();  search.observe(trials);  search.best()

A search never trains, measures, prints or writes: an `Objective` evaluates its candidates, and
latency is handed in as a `LatencySource`, so that the same search runs on a table, on a live device
or on the simulated one. Its state is its seed and the trials it observed: a search that is given
the same outcomes again proposes the same candidates again, which is how a killed one goes on.

`base` holds the nouns; `method` says what a search is to the rest of hwbench, `options` how its
options are described, `context` what it is handed; `costs`, `limit` and `budget` what a network may
cost, `block_choices` blocks as decisions beside widths; `baselines` what searches are held against;
`objective` evaluates, with `data`, `training` and `tuning`.
`knapsack` is hwbench's own search; `amc`, `abcpruner` and `practise` hold one published search
each.

A new search is one folder, and one line in `SEARCHES` or an entry point of the group
`hwbench.searches` in another package.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from hwbench.errors import UsageError
from hwbench.optional import load_library

if TYPE_CHECKING:
    from hwbench.search.method import Method

GROUP = "hwbench.searches"
"""Entry points by which other packages add searches: `name = "module:Method"`."""

SEARCHES: dict[str, str] = {
    "knapsack": "hwbench.search.knapsack.method:KnapsackMethod",
    "amc": "hwbench.search.amc.method:AmcMethod",
    "abcpruner": "hwbench.search.abcpruner.method:AbcPrunerMethod",
    "practise": "hwbench.search.practise.method:PractiseMethod",
}
"""The searches that come with hwbench, each as `module:Method`, imported when it is asked for."""


def searches() -> dict[str, str]:
    """All searches, as in `SEARCHES`: those that come with hwbench, and those of other packages."""
    others = {point.name: point.value for point in entry_points(group=GROUP)}
    return SEARCHES | {name: others[name] for name in sorted(others) if name not in SEARCHES}


def load_method(name: str) -> type[Method[Any]]:
    """The method of the search that is registered under a name.

    Raises:
        UsageError: There is none, or it cannot be imported.
    """
    known = searches()
    if name not in known:
        raise UsageError(f"unknown search {name!r}; expected one of {', '.join(known)}")
    module, _, attribute = known[name].partition(":")
    try:
        method: type[Method[Any]] = getattr(load_library(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"search {name!r} cannot be loaded: {error}") from error
    return method
