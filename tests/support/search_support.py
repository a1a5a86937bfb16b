"""A cost made of random grids, whose truth is found by trying everything.

And searches on a table of the simulated device.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.network.prunable import PrunableNetwork
from hwbench.search.base import Candidate, Outcome, Search, Trial
from hwbench.search.blocks import Gain
from hwbench.search.budget import Budget, channel_choices
from hwbench.search.context import SearchContext
from hwbench.search.costs import Latency
from hwbench.search.limit import Limit
from tests.support import table_support

SCOPES = ((), (0,), (0, 1), (1, 2), (0, 3), (2, 3), (1, 3))


class GridCost:
    """Random costs, neither monotone nor products; its whole is the square of the sum plus one."""

    name, unit = "latency", "s"

    def __init__(self, choices, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.choices = choices
        self.grids = {
            groups: random.uniform(0.1, 1, [len(choices[g]) for g in groups])
            for groups in SCOPES
            if max(groups, default=-1) < len(choices)
        }

    def addends(self, choices):
        places = [
            np.searchsorted(known, asked)
            for known, asked in zip(self.choices, choices, strict=True)
        ]
        return {
            groups: grid[np.ix_(*(places[g] for g in groups))] if groups else grid
            for groups, grid in self.grids.items()
        }

    def of(self, widths):
        places = np.stack(
            [
                np.searchsorted(known, column)
                for known, column in zip(self.choices, widths.T, strict=True)
            ]
        )
        return self.whole(
            sum(grid[tuple(places[list(groups)])] for groups, grid in self.grids.items())
        )

    def whole(self, sums):
        return np.asarray(sums) ** 2 + 1

    def everything(self) -> Iterator[tuple[int, ...]]:
        return itertools.product(*(map(int, grid) for grid in self.choices))


CHOICES = (np.array([4, 8, 16]), np.array([8, 16, 24, 32]), np.array([4, 8]), np.array([8, 16, 20]))


SHARE = 0.6
"""Share of the latency of ResNet-20 that searches in tests may keep."""


def budget(share: float = SHARE, step: int = 4) -> Budget:
    """A latency budget for ResNet-20 on the simulated device."""
    structure = table_support.structure()
    cost = Latency(source(step))
    limit = share * float(cost.of(np.array([structure.widths]))[0])
    return Budget(cost, limit, channel_choices(structure.widths, step))


def source(step: int = 4) -> StructureLatency:
    """Latencies of ResNet-20 on the simulated device."""
    table = table_support.built(quiet=True).table
    return StructureLatency(table, table_support.structure(), step)


class Blocks:
    """Every block saves a tenth; the first may save nothing."""

    def gain(self, block: str) -> Gain:
        return Gain(0.1, -0.01 if block == "layer1.0" else 0.05, 0.15)

    def latency_s(self, dropped) -> float:
        return 1 - 0.1 * len(dropped)

    def interval_s(self, dropped) -> tuple[float, float]:
        return 0.9 * self.latency_s(dropped), 1.1 * self.latency_s(dropped)


class ResNet:
    """ResNet-20 as far as a search looks at it: its structure, of which all can be cut."""

    name = "resnet20"

    def __init__(self) -> None:
        self.network = PrunableNetwork(table_support.workload())
        self.structure = self.network.structure
        self.prunable = SimpleNamespace(fixed={})


def context(step: int = 4) -> SearchContext:
    """ResNet-20 and its latencies, as the method of a search is handed them."""
    limit = Limit("latency", share=SHARE)
    return SearchContext(ResNet(), limit=limit, source=source(step), blocks=Blocks(), step=step)


class Width:
    """An objective that likes wide layers, the last ones most.

    It fails where it is told to, and counts.
    """

    name = "width"

    def __init__(self, fails: frozenset[int] = frozenset()) -> None:
        self.fails, self.calls = fails, 0

    def evaluate(self, candidate: Candidate) -> Outcome:
        self.calls += 1
        if candidate.number in self.fails:
            raise RuntimeError("as asked")
        if candidate.task == "score":
            return Outcome(
                None, 1.0, 1, 1, 1, distance=float(len(candidate.dropped[0]) + candidate.number)
            )
        if candidate.widths is None:
            return Outcome(0.5, 1.0, 1, 1, 1)
        widths = np.array(candidate.widths) / 100
        # Each dropped block costs as much as a few channels.
        widths = widths - 0.01 * len(candidate.dropped)
        return Outcome(
            float(np.average(widths, weights=np.arange(1, len(widths) + 1))), 1.0, 10, 10, 10
        )

    def original(self) -> Outcome:
        return Outcome(1.0, 1.0, 10, 10, 10)


def drive(search: Search, objective: Width | None = None, batches: int = 10**6) -> list[Trial]:
    """Propose and observe until the search is finished, or for some batches."""
    objective = objective or Width()
    while not search.finished and batches > 0:
        trials = []
        for candidate in search.propose():
            try:
                trials.append(Trial(candidate, objective.evaluate(candidate)))
            except RuntimeError as error:
                trials.append(Trial(candidate, error=str(error)))
        search.observe(trials)
        batches -= 1
    return search.trials
