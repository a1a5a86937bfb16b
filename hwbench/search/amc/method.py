"""AMC as hwbench knows it: its options, its widths or single weights, its state machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hwbench.errors import UsageError
from hwbench.search.amc.options import REWARDS, AmcOptions
from hwbench.search.costs import WHOLE
from hwbench.search.method import Reward, WidthMethod
from hwbench.search.objective import weights_cost

if TYPE_CHECKING:
    from torch import nn

    from hwbench.pruning import Pruned
    from hwbench.search.base import Candidate, Search
    from hwbench.search.budget import Budget
    from hwbench.search.context import SearchContext
    from hwbench.search.costs import Cost, Integers
    from hwbench.search.limit import Limit

WEIGHT_SHARES = 50
"""Choices of the share of one layer's single weights that is kept, from none to all."""
SPARSE_KINDS = ("params", "size")
"""What a budget can be of where single weights are pruned."""
SPARSE_REWARDS = ("error", "params")
"""Rewards that know whether single weights are zero, or need not know."""


class AmcMethod(WidthMethod[AmcOptions]):
    """AMC: AutoML for Model Compression."""

    summary = "Reinforcement learning picks every width (AMC, He et al. 2018)."
    details = (
        "The result is held against uniform, shallow and deep pruning and against random networks"
        " of the same cost. The first quarter of its networks, which explore, can be evaluated at"
        " once; each of the others depends on the one before it."
    )
    published = "He et al., ECCV 2018"
    example = "zoo:plain20 --data digits --device cpu --latency 0.6 --out pruned"
    options_type: ClassVar[type[AmcOptions]] = AmcOptions
    recorded_together = True

    def check(self, limit: Limit | None) -> None:
        """See `Method.check`; with a reward that knows the cost no budget is needed."""
        if limit is not None or self.options.reward == REWARDS[0]:
            super().check(limit)
        if not self.options.single_weights:
            return
        if self.options.importance is not None:
            raise UsageError(
                "single weights are pruned by their size, and an importance of channels was given;"
                " leave out one of them"
            )
        if limit is not None and limit.kind not in SPARSE_KINDS:
            raise UsageError(
                "single weights are pruned for a budget of parameters or size only: no ordinary"
                f" runtime gets faster by it, and {limit.kind} was given"
            )
        if self.options.reward not in SPARSE_REWARDS:
            raise UsageError(
                f"single weights that are zero do not change {self.options.reward}; expected the"
                f" reward {' or '.join(SPARSE_REWARDS)}"
            )

    def wants_latency(self, limit: Limit | None) -> bool:
        """See `Method.wants_latency`."""
        return self.options.reward == "latency" or super().wants_latency(limit)

    @property
    def narrowest(self) -> float:
        """The smallest share of a width that the search may ask the latency of."""
        return self.options.lower

    def cost(self, context: SearchContext) -> Cost:
        """What is limited."""
        if self.options.single_weights:
            kind = "params" if context.limit is None else context.limit.kind
            return weights_cost(context.structure, kind)
        return context.cost()

    def whole(self, context: SearchContext) -> Sequence[int]:
        """Decisions that stand for the unpruned network: its widths, or all its single weights."""
        if self.options.single_weights:
            return [WHOLE] * len(self._geometry(context))
        return super().whole(context)

    def grids(self, context: SearchContext) -> list[tuple[Integers, ...]]:
        """Widths to choose from, or shares of the single weights of each layer."""
        if not self.options.single_weights:
            return super().grids(context)
        least = math.ceil(self.options.lower * WHOLE)
        shares = np.linspace(WHOLE / WEIGHT_SHARES, WHOLE, WEIGHT_SHARES).round().astype(np.int64)
        choices = np.unique(np.append(shares[shares > least], least))
        return [tuple(choices for _ in self._geometry(context))]

    def search_widths(
        self, context: SearchContext, budget: Budget, *, seed: int, trials: int | None
    ) -> Search:
        """See `WidthMethod.search_widths`."""
        from hwbench.search.amc.search import EPISODES, Amc

        return Amc(
            budget,
            self._geometry(context),
            seed=seed,
            episodes=trials or EPISODES,
            reward=self.options.reward,
            single_weights=self.options.single_weights,
            explore=self.options.explore,
        )

    def prune(self, context: SearchContext, candidate: Candidate) -> Pruned:
        """See `Method.prune`."""
        from hwbench.pruning import Pruned
        from hwbench.search.amc.single_weights import weighted_layers, without_smallest

        if candidate.shares is None:
            return super().prune(context, candidate)
        layers = weighted_layers(context.structure)
        module = without_smallest(context.module, layers, candidate.shares)
        return Pruned(module, context.prunable.recipe({}))

    def reward(self) -> tuple[str, Reward]:
        """See `Method.reward`."""
        from hwbench.search.amc.search import REWARD_FUNCTIONS

        name = self.options.reward
        if name == REWARDS[0]:
            return super().reward()
        return f"reward ({name})", REWARD_FUNCTIONS[name]

    def baselines(self, context: SearchContext, limit: float, *, trials: int) -> list[Search]:
        """See `Method.baselines`; there are none for single weights."""
        if self.options.single_weights:
            return []
        return super().baselines(context, limit, trials=trials)

    def while_tuning(
        self, context: SearchContext, module: nn.Module
    ) -> AbstractContextManager[None]:
        """Single weights that were set to zero stay zero."""
        from hwbench.search.amc.single_weights import weighted_layers, zeros_kept

        layers = weighted_layers(context.structure) if self.options.single_weights else ()
        return zeros_kept(module, layers)

    def _geometry(
        self, context: SearchContext
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """What the agent is told of each decision, shape (decisions, 6)."""
        from hwbench.search.amc.walk import channel_geometry, weight_geometry

        if self.options.single_weights:
            return weight_geometry(context.structure)
        return channel_geometry(context.structure)
