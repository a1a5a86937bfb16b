"""Knapsack as hwbench knows it: its options, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwbench.errors import UsageError
from hwbench.network.widths import DEFAULT_LOWER
from hwbench.search.block_choices import BlockChoices, BlockCost, find_boundable
from hwbench.search.budget import Budget, known_widths
from hwbench.search.knapsack.search import LEVELS, TRIALS, Knapsack
from hwbench.search.method import WidthMethod
from hwbench.search.options import WidthOptions, option

if TYPE_CHECKING:
    from hwbench.search.base import Search
    from hwbench.search.context import SearchContext


@dataclass(frozen=True)
class KnapsackOptions(WidthOptions):
    """Options of the knapsack search, and those of every search over widths.

    Attributes:
        levels: Widths of each group at which its loss of quality is measured, at most.
        lower: Smallest share of a width.
        blocks: Whether residual blocks may be dropped as well.
    """

    levels: int = option(
        "Widths of each group at which its loss of quality is measured, at most.",
        default=LEVELS,
        least=1,
    )
    lower: float = option(
        "Smallest share of a width that is kept.", default=DEFAULT_LOWER, is_share=True
    )
    blocks: bool = option("Drop residual blocks as well, where that loses less.", default=False)


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
        context: SearchContext,
        budget: Budget,
        *,
        seed: int,
        trials: int | None,
    ) -> Search:
        """See `WidthMethod.search_widths`."""
        return Knapsack(
            budget,
            seed=seed,
            trials=trials or TRIALS,
            levels=self.options.levels,
            blocks=self._blocks(context),
        )

    def search_budget(self, context: SearchContext, limit: float) -> Budget:
        """See `WidthMethod.search_budget`: where blocks may be dropped, decisions on these too."""
        blocks = self._blocks(context)
        if not blocks.names:
            return self.budget(context, limit)
        cost = context.cost()
        grids = [known_widths(cost, grid) for grid in self.paying_grids(context)]
        everything = tuple(np.unique(np.concatenate(widths)) for widths in zip(*grids, strict=True))
        return Budget(
            BlockCost(cost, blocks, blocks.extend(everything)),
            limit,
            *(blocks.extend(grid) for grid in grids),
            original=self.original_cost(context),
        )

    def baselines(self, context: SearchContext, limit: float, *, trials: int) -> list[Search]:
        """See `WidthMethod.baselines`; there are none where only dropped blocks keep to a limit."""
        try:
            return super().baselines(context, limit, trials=trials)
        except UsageError:
            if not self._blocks(context).names:
                raise
            context.add_finding(
                "no_baselines",
                "no widths alone keep to the limit, so there are no baselines to hold the result"
                " against",
            )
            return []

    def _blocks(self, context: SearchContext) -> BlockChoices:
        """The blocks that may be dropped."""
        structure = context.structure
        if not self.options.blocks:
            return BlockChoices.none(len(structure.groups))
        widest = self.grids(context)[-1]
        names = find_boundable(structure, context.separable_blocks, widest)
        spared = [block.name for block in structure.blocks if block.name not in names]
        if not structure.blocks:
            context.add_finding("no_blocks", "the network has no block that can be dropped")
        elif spared:
            text = (
                "never dropped, as no sum over layers tells what the network costs without them:"
                f" {', '.join(spared)}"
            )
            context.add_finding("blocks_spared", text)
        return BlockChoices.of(structure, names)
