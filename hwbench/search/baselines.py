"""What a search is held against: hand-made policies and random structures of the same cost.

So do He et al. (2018, table 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import UsageError
from hwbench.search.base import Candidate, Search, Trial

if TYPE_CHECKING:
    from hwbench.search.budget import Budget
    from hwbench.search.costs import Floats

STRENGTHS = 1000
"""How finely the strength of a policy is tuned to the budget."""
BATCH = 32
"""Random structures proposed at once."""
GOLDEN = 0.6180339887498949
"""Its multiples, less their whole parts, spread evenly over 0 to 1, however many (Weyl 1916)."""
POLICIES = ("uniform", "shallow", "deep")


class Policy(Search):
    """One structure that follows a simple rule: the largest of its kind that keeps to the budget.

    `uniform` keeps the same share of every group; `shallow` prunes the first groups most, `deep`
    the last, the share changing linearly with depth.

    Args:
        budget: Limit and widths.
        policy: One of `POLICIES`.

    Raises:
        UsageError: There is no such policy.
    """

    def __init__(self, budget: Budget, policy: str) -> None:
        super().__init__()
        if policy not in POLICIES:
            raise UsageError(f"unknown policy {policy!r}; expected one of {', '.join(POLICIES)}")
        self.name = self._policy = policy
        self._budget = budget

    @property
    def finished(self) -> bool:
        """Whether its one structure was observed."""
        return bool(self.trials)

    def _next(self) -> list[Candidate]:
        return [Candidate(self._number(), self._widths(), note=self._policy)]

    def _learn(self, trials: Sequence[Trial]) -> None:
        """Nothing is learnt."""

    def _widths(self) -> tuple[int, ...]:
        groups = len(self._budget.choices)
        depth = np.linspace(0, 1, groups) if groups > 1 else np.zeros(1)
        strength = np.linspace(0, 1, STRENGTHS)[:, None]
        if self._policy == "uniform":
            shares = np.repeat(1 - strength, groups, axis=1)
        else:  # a ramp that moves through the network until all groups are at their lower bound
            far = depth if self._policy == "shallow" else 1 - depth
            shares = np.clip(1 + far - 2 * strength, 0, 1)
        rows = np.unique(self._snapped(shares), axis=0)
        costs = self._budget.cost.of(rows)
        fitting = np.flatnonzero(costs <= self._budget.limit)
        if not len(fitting):
            return self._budget.least[1]
        return tuple(rows[fitting[np.argmax(costs[fitting])]].tolist())

    def _snapped(self, shares: Floats) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """Shares on the grid.

        Groups round up at shares of their own, so that they grow one by one and the budget is used
        up.
        """
        columns = []
        for group, choices in enumerate(self._budget.choices):
            wanted = shares[:, group] * choices[-1]
            lower = np.clip(np.searchsorted(choices, wanted, side="right") - 1, 0, None)
            upper = np.minimum(lower + 1, len(choices) - 1)
            way = (wanted - choices[lower]) / np.maximum(choices[upper] - choices[lower], 1)
            columns.append(choices[np.where(way > (group + 1) * GOLDEN % 1, upper, lower)])
        return np.stack(columns, axis=1)


def uniform(budget: Budget) -> tuple[int, ...]:
    """Widths of the uniform policy."""
    widths = Policy(budget, "uniform").propose()[0].widths
    return widths or ()


class RandomSearch(Search):
    """Structures whose every width is drawn at random, bounded as AMC's actions are, and filled up.

    Args:
        budget: Limit and widths.
        seed: Seed of the draws.
        trials: Number of structures.
    """

    name = "random"

    def __init__(self, budget: Budget, *, seed: int = 0, trials: int) -> None:
        super().__init__()
        self._budget, self._count = budget, trials
        self._random = np.random.default_rng(seed)

    @property
    def finished(self) -> bool:
        """Whether all were observed."""
        return len(self.trials) >= self._count

    def _next(self) -> list[Candidate]:
        left = self._count - len(self.trials)
        return [
            Candidate(self._number(), self._widths(), note=self.name)
            for _ in range(min(BATCH, left))
        ]

    def _learn(self, trials: Sequence[Trial]) -> None:
        """Nothing is learnt."""

    def _widths(self) -> tuple[int, ...]:
        decided: list[int] = []
        for choices in self._budget.choices:
            decided.append(self._budget.bounded(decided, self._random.uniform(0, 1) * choices[-1]))
        # Bounded draws stay below the budget; compared with searches that use it up, they would
        # lose for that alone.
        order = self._random.permutation(len(decided)).tolist()
        return self._budget.fill(decided, order)


def baselines(budget: Budget, *, seed: int, trials: int) -> Sequence[Search]:
    """All baselines of a search.

    Args:
        budget: Limit and widths.
        seed: Seed of the random structures.
        trials: Number of random structures.
    """
    return [
        *(Policy(budget, policy) for policy in POLICIES),
        RandomSearch(budget, seed=seed, trials=trials),
    ]
