"""Knapsack as hwbench knows it: its options, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwbench.network.widths import DEFAULT_LOWER
from hwbench.search.knapsack.search import LEVELS, TRIALS, Knapsack
from hwbench.search.method import WidthMethod
from hwbench.search.options import WidthOptions, option

if TYPE_CHECKING:
    from hwbench.search.base import Search
    from hwbench.search.budget import Budget
    from hwbench.search.context import SearchContext


@dataclass(frozen=True)
class KnapsackOptions(WidthOptions):
    """Options of the knapsack search, and those of every search over widths.

    Attributes:
        levels: Widths of each group at which its loss of quality is measured, at most.
        lower: Smallest share of a width.
    """

    levels: int = option(
        "Widths of each group at which its loss of quality is measured, at most.",
        default=LEVELS,
        least=1,
    )
    lower: float = option(
        "Smallest share of a width that is kept.", default=DEFAULT_LOWER, is_share=True
    )


class KnapsackMethod(WidthMethod[KnapsackOptions]):
    """Measured sensitivities, and an exact allocation of the budget."""

    summary = "What each group costs in quality is measured, then the budget is allocated exactly."
    details = (
        "Half of the networks it tries tell how much quality is lost where one group of channels is"
        " narrow. The others are the best allocations of the budget for these losses, exact over"
        " the steps of the device's latencies, and corrected by what they turn out to be."
    )
    example = "zoo:plain20 --data digits --device cpu --latency 0.5 --jobs 2 --out pruned"
    options_type: ClassVar[type[KnapsackOptions]] = KnapsackOptions

    @property
    def narrowest(self) -> float:
        """The smallest share of a width that the search may ask the latency of."""
        return self.options.lower

    def search_widths(
        self,
        context: SearchContext,  # noqa: ARG002 - the budget holds all that the search needs
        budget: Budget,
        *,
        seed: int,
        trials: int | None,
    ) -> Search:
        """See `WidthMethod.search_widths`."""
        return Knapsack(budget, seed=seed, trials=trials or TRIALS, levels=self.options.levels)
