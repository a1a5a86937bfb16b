"""General optimisers as searches over widths: Optuna's TPE and CMA-ES.

Both wish for a network without regard to its cost. What they wish for is shrunk to the budget and
filled up to it, and they are told what became of that. Both begin at uniform pruning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwbench.search.base import Candidate, Search, Trial
from hwbench.search.baselines import uniform
from hwbench.search.budget import Budget
from hwbench.search.costs import Floats

SPREAD = 0.2
"""Standard deviation of CMA-ES at first, in shares of a width."""


class Repairing(Search):
    """A search whose wishes are brought to the budget.

    Args:
        budget: Limit and widths.
        seed: Seed of all random choices.
        trials: Networks to try.
    """

    def __init__(self, budget: Budget, *, seed: int, trials: int) -> None:
        super().__init__()
        self._budget, self._wanted = budget, trials
        self._random = np.random.default_rng(seed)

    @property
    def finished(self) -> bool:
        """Whether all networks were tried."""
        return len(self.trials) >= self._wanted

    def _candidate(self, places: Sequence[int]) -> Candidate:
        """The network at these places among the choices, shrunk and filled up to the budget."""
        widths = self._budget.repair(self._budget.widths_at(places))
        order = self._random.permutation(len(widths)).tolist()
        return Candidate(self._number(), self._budget.fill(widths, order))

    def _uniform_places(self) -> list[int]:
        """Places of uniform pruning."""
        pairs = zip(self._budget.choices, uniform(self._budget), strict=True)
        return [int(np.searchsorted(grid, width)) for grid, width in pairs]


class Tpe(Repairing):
    """Tree-structured Parzen estimators (Bergstra et al. 2011), as Optuna has them by default."""

    name = "tpe"

    def __init__(self, budget: Budget, *, seed: int, trials: int) -> None:
        import optuna

        super().__init__(budget, seed=seed, trials=trials)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=seed)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        places = enumerate(self._uniform_places())
        self._study.enqueue_trial({f"group{group}": place for group, place in places})
        self._asked: Any = None

    def _next(self) -> list[Candidate]:
        self._asked = self._study.ask()
        places = []
        for group, grid in enumerate(self._budget.choices):
            places.append(self._asked.suggest_int(f"group{group}", 0, len(grid) - 1))
        return [self._candidate(places)]

    def _learn(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._study.tell(
                self._asked, 0.0 if trial.outcome is None else self.rank(trial.outcome)
            )


class CmaEs(Repairing):
    """CMA-ES (Hansen 2016, arXiv 1604.00772), as the package cma has it by default."""

    name = "cma-es"

    def __init__(self, budget: Budget, *, seed: int, trials: int) -> None:
        import cma

        super().__init__(budget, seed=seed, trials=trials)
        self._last = np.array([len(grid) - 1 for grid in budget.choices], np.int64)
        start = np.array(self._uniform_places()) / np.maximum(self._last, 1)
        options = {"bounds": [0, 1], "seed": seed + 1, "verbose": -9}  # a seed of 0 is none
        self._strategy = cma.CMAEvolutionStrategy(start, SPREAD, options)
        self._asked: list[Floats] = []

    def _next(self) -> list[Candidate]:
        self._asked = self._strategy.ask()
        return [self._candidate(self._places(shares)) for shares in self._asked]

    def _learn(self, trials: Sequence[Trial]) -> None:
        # A quality lies between 0 and 1, so no network is worse than one that failed.
        self._strategy.tell(
            self._asked,
            [1.0 if trial.outcome is None else 1 - self.rank(trial.outcome) for trial in trials],
        )

    def _places(self, shares: Floats) -> list[int]:
        """The places nearest to shares of the way from the narrowest width to the whole one."""
        return [int(place) for place in np.rint(np.asarray(shares) * self._last)]
