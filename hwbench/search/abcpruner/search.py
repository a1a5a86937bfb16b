"""ABCPruner (Lin et al., IJCAI 2020, arXiv 2001.08565): a bee colony searches the widths.

A food source is a structure, written as one *code* g per group: its width is g tenths of the
original. Three kinds of bees visit sources in turn: *employed* ones try a neighbour of each,
*onlookers* neighbours of those drawn by fitness, a *scout* replaces the source that failed to
improve most often. A neighbour moves two random codes (one, where there is one) towards or away
from another source, x + r (x - x_k) with r uniform in (-1, 1) (Karaboga 2005); it replaces its
source if it is fitter.

The published search has no cost; here every structure is repaired to the budget before it is
proposed. Not taken over from github.com/lmbxmu/ABCPruner: a last code that never changes, two
mutated codes that may be one, a scout that never draws the top code, truncation, which favours
small codes, and widths of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import UsageError
from hwbench.network.widths import group_step
from hwbench.search.base import Candidate, Search, Trial
from hwbench.search.budget import FINE_STEP, WIDE_ENOUGH

if TYPE_CHECKING:
    from hwbench.search.budget import Budget
    from hwbench.search.costs import Integers

SOURCES, CYCLES, LIMIT = 10, 10, 5
"""As in the authors' code; the paper reports 3, 2 and 2."""
ALPHA = 0.7
"""Largest share of a width (recommended by the paper)."""
TENTHS = 10
"""A code counts tenths of a width."""


def code_choices(
    widths: Sequence[int],
    step: int,
    alpha: float = ALPHA,
    units: Sequence[int] | None = None,
) -> tuple[Integers, ...]:
    """The widths that codes 1 to 10 * alpha stand for, of every group.

    They are the multiples of the step nearest to each tenth, at least one channel.

    Args:
        widths: The original ones.
        step: Channel step of the device; 1 for the published search. Groups less than four steps
            wide are cut by 4 channels instead, and those less than 16 wide by single ones.
        alpha: Largest share of a width.
        units: Channels that each of a group's stands for; None for one.

    Raises:
        UsageError: `alpha` allows no code, or is more than 1.
    """
    codes = np.arange(1, math.floor(TENTHS * alpha + 1e-9) + 1)
    if not len(codes) or alpha > 1:
        raise UsageError(f"alpha {alpha:g} leaves no widths to choose from; expected 0.1 to 1")
    choices = []
    for width, unit in zip(widths, units or [1] * len(widths), strict=True):
        own_step = 1
        if width * unit >= WIDE_ENOUGH * step:
            own_step = group_step(step, unit)
        elif width * unit >= WIDE_ENOUGH * FINE_STEP:
            own_step = group_step(min(FINE_STEP, step), unit)
        # Halves round up: truncation, as in the authors' code, would favour narrow networks.
        rounded = np.floor(codes * width / TENTHS / own_step + 0.5).astype(np.int64) * own_step
        choices.append(np.unique(np.clip(rounded, min(own_step, width), width)))
    return tuple(choices)


class AbcPruner(Search):
    """The colony.

    Args:
        budget: Limit on the cost of every proposed structure, and the widths that codes stand for
            (`code_choices`).
        seed: Seed of all random choices.
        sources: Number of food sources.
        cycles: Number of rounds of employed bees, onlookers and scout.
        limit: Number of failures after which a source is given up.

    Raises:
        UsageError: The colony is too small to have neighbours, or has nothing to prune.
    """

    name = "abcpruner"

    def __init__(
        self,
        budget: Budget,
        *,
        seed: int = 0,
        sources: int = SOURCES,
        cycles: int = CYCLES,
        limit: int = LIMIT,
    ) -> None:
        super().__init__()
        if sources < 2 or cycles < 1 or limit < 1:
            raise UsageError(
                f"{sources} sources, {cycles} cycles, limit {limit}: expected at least 2, 1 and 1"
            )
        if not budget.choices:
            raise UsageError("the network has no group of channels that can be pruned")
        self.budget = budget
        self._random = np.random.default_rng(seed)
        self._sources, self._limit = sources, limit
        # Of each food source: the places of its widths in the choices, its fitness, and how often
        # bees failed to improve it.
        self._food: list[Integers] = []
        self._fitness: list[float] = []
        self._failures: list[int] = []
        self._phases = ["sources", *["employed", "onlookers", "scout"] * cycles]
        # The source that each open candidate would replace, and the candidate's own places.
        self._bees: list[tuple[int, Integers]] = []

    @property
    def finished(self) -> bool:
        """Whether all cycles are over."""
        return not self._phases

    def _next(self) -> list[Candidate]:
        phase = self._phases[0]
        if phase == "sources":
            bees = [(index, self._draw_anywhere()) for index in range(self._sources)]
        elif phase == "scout":
            bees = [(int(np.argmax(self._failures)), self._draw_anywhere())]
        elif phase == "employed":
            bees = [(index, self._draw_neighbour(index)) for index in range(self._sources)]
        else:
            visited = self._random.choice(self._sources, self._sources, p=self._odds())
            bees = [(int(index), self._draw_neighbour(int(index))) for index in visited]
        self._bees = bees
        return [
            Candidate(self._number(), self.budget.widths_at(places), note=phase)
            for _, places in bees
        ]

    def _learn(self, trials: Sequence[Trial]) -> None:
        phase = self._phases.pop(0)
        for (index, places), trial in zip(self._bees, trials, strict=True):
            fitness = 0.0 if trial.outcome is None else self.rank(trial.outcome)
            if phase == "sources":
                self._food.append(places)
                self._fitness.append(fitness)
                self._failures.append(0)
            elif phase == "scout" or fitness > self._fitness[index]:
                self._food[index], self._fitness[index], self._failures[index] = places, fitness, 0
            else:
                self._failures[index] += 1
        if self._phases[:1] == ["scout"] and max(self._failures) < self._limit:
            self._phases.pop(0)  # no source is exhausted

    def _odds(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Chance of each source to be visited by an onlooker.

        As in the authors' code it is proportional to 0.9 fitness / greatest fitness + 0.1.
        """
        fitness = np.array(self._fitness)
        weights = 0.9 * fitness / max(fitness.max(), 1e-12) + 0.1
        return np.asarray(weights / weights.sum())

    def _draw_anywhere(self) -> Integers:
        """Places drawn evenly from all choices, repaired to the budget."""
        drawn = [self._random.integers(len(grid)) for grid in self.budget.choices]
        return self._repair(np.array(drawn, np.int64))

    def _draw_neighbour(self, index: int) -> Integers:
        """Places of a neighbour of a source, x + r (x - x_k) in two groups, repaired."""
        here = self._food[index]
        others = [source for source in range(self._sources) if source != index]
        other = self._food[int(self._random.choice(others))]
        moved = self._random.choice(len(here), min(2, len(here)), replace=False)
        there = here.astype(np.float64)
        there[moved] += self._random.uniform(-1, 1, len(moved)) * (here - other)[moved]
        last = np.array([len(grid) - 1 for grid in self.budget.choices])
        return self._repair(np.clip(np.floor(there + 0.5), 0, last).astype(np.int64))

    def _repair(self, places: Integers) -> Integers:
        """Places of the structure shrunk to the budget, see `Budget.repair`."""
        return self._places(self.budget.repair(self.budget.widths_at(places)))

    def _places(self, widths: Sequence[int]) -> Integers:
        """Places of widths in the choices."""
        places = []
        for grid, width in zip(self.budget.choices, widths, strict=True):
            places.append(int(np.searchsorted(grid, width)))
        return np.array(places)
