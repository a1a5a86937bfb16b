"""What a search is held against: hand-made policies of the same cost, and as many random structures (He et al. 2018, table 3)."""

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
POLICIES = ("uniform", "shallow", "deep")


class Policy(Search):
    """One structure that follows a simple rule: the largest of its kind that keeps to the budget.

    `uniform` keeps the same share of every group; `shallow` prunes the first groups most, `deep` the last, the share changing
    linearly with depth.

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
        columns = []
        for group, choices in enumerate(self._budget.choices):
            nearest = np.abs(shares[:, group, None] * choices[-1] - choices).argmin(axis=1)
            columns.append(choices[nearest])
        return np.stack(columns, axis=1)


class RandomSearch(Search):
    """Structures whose every width is drawn at random, bounded as AMC's actions are: what its agent starts from.

    Args:
        budget: Limit and widths.
        seed: Of the draws.
        trials: How many.
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
        decided: list[int] = []
        for choices in self._budget.choices:
            wish = self._random.uniform(0, 1) * choices[-1]
            decided.append(self._budget.bounded(decided, wish))
        return [Candidate(self._number(), tuple(decided), note=self.name)]

    def _learn(self, trials: Sequence[Trial]) -> None:
        """Nothing is learnt."""


def baselines(budget: Budget, *, seed: int, trials: int) -> Sequence[Search]:
    """All of them."""
    return [*(Policy(budget, policy) for policy in POLICIES), RandomSearch(budget, seed=seed, trials=trials)]
