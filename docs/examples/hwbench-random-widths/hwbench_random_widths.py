"""Random widths: every width is drawn at random, as far as the budget allows.

Once this package is installed, the search is one of hwbench's:

    hwbench search random-widths zoo:plain20 --device virtual --latency 0.7 --draws 20
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwbench.search.base import Candidate, Search, Trial
from hwbench.search.budget import Budget
from hwbench.search.context import SearchContext
from hwbench.search.method import WidthMethod
from hwbench.search.options import WidthOptions, option


@dataclass(frozen=True)
class RandomWidthsOptions(WidthOptions):
    """Options of this search, beside those of all searches of widths.

    Attributes:
        draws: Number of networks that are drawn where no number of trials is given.
        narrow: Where the draws are concentrated, 1 for nowhere.
    """

    draws: int = option("Number of networks that are drawn.", default=50, least=1)
    narrow: float = option(
        "Exponent of the draws: 1 for even ones, more for narrower networks.",
        default=1.0,
        least=0.1,
    )


class RandomWidthsMethod(WidthMethod[RandomWidthsOptions]):
    """What this search is to hwbench."""

    summary = "Every width is drawn at random, within the budget."
    example = "zoo:plain20 --device virtual --latency 0.7 --draws 20"
    options_type = RandomWidthsOptions

    def search_widths(
        self, context: SearchContext, budget: Budget, *, seed: int, trials: int | None
    ) -> Search:
        """A new search."""
        return RandomWidths(
            budget, seed=seed, draws=trials or self.options.draws, narrow=self.options.narrow
        )


class RandomWidths(Search):
    """All networks are drawn at once, and nothing is learnt of them.

    Args:
        budget: Limit and allowed widths.
        seed: Seed of the draws.
        draws: Number of networks.
        narrow: Exponent of the draws.
    """

    name = "random-widths"

    def __init__(self, budget: Budget, *, seed: int, draws: int, narrow: float) -> None:
        super().__init__()
        self._budget, self._draws, self._narrow = budget, draws, narrow
        self._random = np.random.default_rng(seed)

    @property
    def finished(self) -> bool:
        """Whether all networks were tried."""
        return len(self.trials) >= self._draws

    def _next(self) -> list[Candidate]:
        return [Candidate(self._number(), self._draw()) for _ in range(self._draws)]

    def _learn(self, trials: Sequence[Trial]) -> None:
        """There is nothing to learn."""

    def _draw(self) -> tuple[int, ...]:
        widths: list[int] = []
        for choices in self._budget.choices:
            wish = self._random.uniform() ** self._narrow * choices[-1]
            widths.append(self._budget.bounded(widths, wish))
        return tuple(widths)
