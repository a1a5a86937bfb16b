"""A network that exists as numbers only, whose best version within a budget can be computed.

Groups lie in a chain. Latencies are in steps of 16 channels, for pairs of neighbours; what a
network loses is a sum over groups, each a power of what is cut, and over pairs of neighbours, which
make each other's cuts worse or better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwbench.errors import MeasurementError
from hwbench.search.budget import Budget
from hwbench.search.costs import Addends, Floats, Integers
from hwbench.search.knapsack.allocation import Allocator

GROUPS = 15
POINTS = 6
"""Percentage points that a group of sensitivity 1 loses where all of it is cut."""


class SyntheticNetwork:
    """One such network, drawn at random; it is its own cost."""

    name, unit = "latency", "s"

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.widths = random.choice([16, 24, 32, 48, 64, 96, 128], GROUPS)
        choices = []
        for width in self.widths:
            step = 4 if width < 32 else 8
            choices.append(np.unique(np.append(np.arange(step, width, step), width)))
        self.choices = tuple(choices)
        self._sensitivity = random.gamma(1.0, 1.0, GROUPS)
        self._power = random.uniform(1, 3, GROUPS)
        self._interaction = random.normal(0, 0.6, GROUPS - 1)
        self._area = np.sort(random.uniform(0.2, 1, GROUPS + 1))[::-1]

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Latencies of the layers, by the groups at their two ends."""
        ends = [np.array([3]), *choices, np.array([10])]
        addends: dict[tuple[int, ...], Floats] = {}
        for layer, area in enumerate(self._area):
            inputs, outputs = ends[layer], ends[layer + 1]
            steps = np.outer(np.ceil(inputs / 16) * 16, np.ceil(outputs / 16) * 16)
            grid = area * (steps + 10 * np.add.outer(inputs, outputs) + 300)
            if layer == 0:
                addends[0,] = grid[0]
            elif layer == GROUPS:
                addends[GROUPS - 1,] = grid[:, 0]
            else:
                addends[layer - 1, layer] = grid
        return addends

    def whole(self, sums: Floats) -> Floats:
        """The sums themselves."""
        return sums

    def of(self, widths: Integers) -> Floats:
        """Latencies, shape (n,)."""
        return _sums(self.addends(self.choices), self._places(widths))

    def budget(self, share: float) -> Budget:
        """A limit at a share of the whole network's latency."""
        limit = share * float(self.of(np.array([self.widths]))[0])
        return Budget(self, limit, self.choices)

    def losses(self) -> Addends:
        """What is lost, in percentage points."""
        cuts = [1 - grid / grid[-1] for grid in self.choices]
        losses: dict[tuple[int, ...], Floats] = {}
        for group, cut in enumerate(cuts):
            losses[group,] = POINTS * self._sensitivity[group] * cut ** self._power[group]
        for group, interaction in enumerate(self._interaction):
            losses[group, group + 1] = POINTS * interaction * np.outer(cuts[group], cuts[group + 1])
        return losses

    def quality(self, widths: Sequence[int]) -> float:
        """What a network is worth, from 0 to 1; the whole one 0.94."""
        loss = float(_sums(self.losses(), self._places(np.array([widths])))[0])
        return min(max(0.94 - loss / 100, 0.0), 1.0)

    def best_quality(self, budget: Budget) -> float:
        """The quality of the best network within a budget, which is proved to be the best."""
        allocation = Allocator(budget).allocate(self.losses(), nodes=20_000)
        if not allocation.is_proved:
            raise MeasurementError("the best network was not found for certain; look at more nodes")
        return self.quality(allocation.widths)

    def _places(self, widths: Integers) -> list[Integers]:
        places = []
        for grid, column in zip(self.choices, np.asarray(widths).T, strict=True):
            places.append(np.searchsorted(grid, column))
        return places


def _sums(addends: Addends, places: Sequence[Integers]) -> Floats:
    """The sums of addends, shape (n,)."""
    total = np.zeros(len(places[0]))
    for groups, grid in addends.items():
        total += grid[tuple(places[group] for group in groups)]
    return total
