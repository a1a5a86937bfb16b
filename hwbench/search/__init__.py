"""Searches for a smaller network: each a seeded state machine that proposes candidates and observes what became of them.

    proposed = search.propose();  search.observe(trials);  search.best()

A search never trains, measures, prints or writes: an `Objective` evaluates its candidates, and
latency is handed in as a `LatencySource`, so that the same search runs on a table, on a live device
or on the simulated one. Its state is its seed and the trials it observed: a search that is given
the same outcomes again proposes the same candidates again, which is how a killed one goes on.

`base` holds the nouns; `costs` and `budget` what a network may cost; `amc` (with `amc_walk`,
`amc_agent`, `amc_env`), `abcpruner` and `practise` are the searches of the papers, `baselines` what
they are held against; `objective` evaluates, with `data`, `training` and `single_weights`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One search.

    Attributes:
        target: `module:Class`, imported when it is asked for.
        summary: One line for people.
        source: Where the method was published.
    """

    target: str
    summary: str
    source: str


SEARCHES: dict[str, Method] = {
    "amc": Method(
        "hwbench.search.amc.search:Amc",
        "reinforcement learning picks every width",
        "He et al., ECCV 2018",
    ),
    "abcpruner": Method(
        "hwbench.search.abcpruner.search:AbcPruner",
        "an artificial bee colony picks every width",
        "Lin et al., IJCAI 2020",
    ),
    "practise": Method(
        "hwbench.search.practise.search:Practise",
        "whole blocks are dropped, with few images",
        "Wang and Wu, CVPR 2023",
    ),
}
EXPLORATIONS = ("nearby", "everywhere")
"""Where AMC's agent explores at first: around uniform pruning, or among all widths, as published.

See `amc_agent`.
"""
