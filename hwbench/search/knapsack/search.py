"""Knapsack: how much quality each group costs is measured, then the budget is allocated exactly.

1. The hand-made policies of `baselines` within the budget, and the unpruned network.
2. *Sensitivities*: networks in which one group alone is narrow, at a few widths each. All of them
   are proposed at once. Where whole blocks may be dropped, networks without one block are among
   them: what PRACTISE scores blocks by (Wang and Wu 2023), but by the quality that is left.
3. *Allocation*: the losses that were measured, and the costs of the table, make a knapsack problem,
   whose optimum is found exactly (`allocation`). It is proposed together with the optima for losses
   that may be true as well (`sensitivity`): each uses the budget up, and trades the time of one
   group for that of another. What they turn out to be updates the losses, and so on until all
   trials are used.

Single steps of this are known: layer-wise sensitivities (Li et al. 2017, arXiv 1608.08710), latency
budgets over lookup tables (NetAdapt, Yang et al. 2018, arXiv 1804.03230), knapsack formulations of
pruning (Aflalo et al. 2020, arXiv 2002.08258; HALP, Shen et al. 2022, arXiv 2110.10811), sampling
from a posterior (Thompson 1933).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import UsageError
from hwbench.search.base import Candidate, Search, Trial
from hwbench.search.baselines import POLICIES, Policy
from hwbench.search.block_choices import BlockChoices
from hwbench.search.budget import Budget
from hwbench.search.knapsack.allocation import NODES, Allocator
from hwbench.search.knapsack.sensitivity import Knots, LossModel

if TYPE_CHECKING:
    from hwbench.search.costs import Addends

TRIALS = 150
"""Networks that are tried where no number is given."""
LEVELS = 4
"""Widths of each group whose loss is measured, at most."""
SENSITIVITIES = 0.5
"""Share of the trials that sensitivities may take."""
BATCH = 8
"""Networks that are allocated at once."""
ATTEMPTS = 4
"""Samples that are drawn for each network of a batch, in case its optimum was tried already."""
SENSITIVITY, BLOCK_SENSITIVITY = "sensitivity", "sensitivity of a block"
"""Notes of networks with one narrow group, and without one block."""
TEMPERATURE = 0.5
"""Share of its standard deviation by which a sample strays from the mean, at first."""
SAMPLE_NODES = 200
"""Partial networks that branch and bound looks at for a sample, which need not be proved best."""


class Knapsack(Search):
    """Sensitivities, then exact allocations.

    Args:
        budget: Limit and widths; behind these the decisions on blocks, where any may be dropped.
        seed: Seed of all random choices.
        trials: Networks to try.
        levels: Widths of each group whose loss is measured, at most; fewer where they would take
            more than half of the trials.
        blocks: The blocks that may be dropped; none if not given.

    Raises:
        UsageError: There is nothing to prune, or the cost is no sum over layers.
    """

    name = "knapsack"

    def __init__(
        self,
        budget: Budget,
        *,
        seed: int = 0,
        trials: int = TRIALS,
        levels: int = LEVELS,
        blocks: BlockChoices | None = None,
    ) -> None:
        super().__init__()
        if not budget.choices:
            raise UsageError("the network has no group of channels that can be pruned")
        self.budget = budget
        self._blocks = blocks or BlockChoices.none(len(budget.choices))
        self._trials_wanted = trials
        self._random = np.random.default_rng(seed)
        self._allocator = Allocator(budget)
        self._whole = tuple(int(grid[-1]) for grid in budget.choices)
        self._knots = _spread_knots(budget, trials, levels)
        self._phase = "policies"
        self._quality: dict[tuple[int, ...], float | None] = {}
        self._following: dict[tuple[int, ...], str] = {}
        self._exhausted = False

    @property
    def finished(self) -> bool:
        """Whether all trials were used, or no network is left that was not tried."""
        return self._exhausted or len(self.trials) >= self._trials_wanted

    def eligible(self, trial: Trial) -> bool:
        """Whether a trial may be the result: sensitivities are of networks beyond the budget."""
        decisions = self._decisions(trial.candidate)
        return super().eligible(trial) and decisions is not None and self.budget.fits(decisions)

    def _next(self) -> list[Candidate]:
        if self._phase == "policies":
            networks = self._policies()
        elif self._phase == "sensitivities":
            networks = self._sensitivities()
        else:
            networks = self._following
        left = self._trials_wanted - len(self.trials)
        candidates = []
        for decisions, note in list(networks.items())[:left]:
            widths, dropped = self._blocks.split(decisions)
            candidates.append(Candidate(self._number(), widths, dropped, note=note))
        return candidates

    def _learn(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            decisions = self._decisions(trial.candidate)
            if decisions is not None:
                outcome = trial.outcome
                self._quality[decisions] = None if outcome is None else outcome.quality
        if self._phase == "policies":
            self._phase = "sensitivities"
            if self._sensitivities():
                return
        self._phase = "allocation"
        # What is proposed next is decided now, so that the search knows whether it is finished.
        self._following = self._allocate_batch()
        self._exhausted = not self._following

    def _policies(self) -> dict[tuple[int, ...], str]:
        """The unpruned network, which losses are counted from, and the hand-made policies."""
        networks: dict[tuple[int, ...], str] = {}
        budget = self._budget_with_all_blocks()
        if budget is not None:
            for policy in POLICIES:
                decisions = Policy(budget, policy).propose()[0].widths
                if decisions is not None and budget.fits(decisions):
                    networks.setdefault(decisions, policy)
        networks.setdefault(self._whole, "unpruned")
        return networks

    def _budget_with_all_blocks(self) -> Budget | None:
        """The same budget where no block is dropped; None where only that reaches it."""
        if not self._blocks.names:
            return self.budget
        choices = self._blocks.keep_all(self.budget.choices)
        try:
            return Budget(self.budget.cost, self.budget.limit, choices)
        except UsageError:
            return None

    def _sensitivities(self) -> dict[tuple[int, ...], str]:
        """Networks in which one group is narrow, or one block dropped, and all else whole."""
        networks: dict[tuple[int, ...], str] = {}
        for group, place in self._knots.pairs:
            narrowed = self._narrowed(group, place)
            if narrowed not in self._quality:
                is_block = group >= self._blocks.groups
                networks[narrowed] = BLOCK_SENSITIVITY if is_block else SENSITIVITY
        # Of more groups than there are trials for, some stand for the others.
        most = max(1, int(SENSITIVITIES * self._trials_wanted))
        if len(networks) <= most:
            return networks
        chosen = np.linspace(0, len(networks) - 1, most).round().astype(int)
        measured = list(networks)
        return {measured[index]: networks[measured[index]] for index in chosen.tolist()}

    def _allocate_batch(self) -> dict[tuple[int, ...], str]:
        """Optima for the losses that are expected, and for samples of what they may be."""
        model = self._model()
        networks: dict[tuple[int, ...], str] = {}
        best = self._allocate(model.expected(), NODES)
        if best not in self._quality:
            networks[best] = "allocation"
        for attempt in range(ATTEMPTS * BATCH):
            if len(networks) >= BATCH:
                break
            # Where samples give networks that were tried already, the next ones stray further.
            losses = model.sample(self._random, TEMPERATURE * (1 + attempt / BATCH))
            sample = self._allocate(losses, SAMPLE_NODES)
            if sample not in self._quality:
                networks.setdefault(sample, "sampled allocation")
        return networks

    def _allocate(self, losses: Addends, nodes: int) -> tuple[int, ...]:
        """The best network for these losses; groups that lose nothing take what is left over."""
        allocated = self._allocator.allocate(losses, nodes=nodes).widths
        order = self._random.permutation(self._blocks.groups).tolist()
        # A dropped block stays dropped: what it would take is left over rarely, and was not wanted.
        return self.budget.fill(self._blocks.settle(allocated, self._whole), order)

    def _model(self) -> LossModel:
        """What is known of losses by now."""
        reference = self._quality.get(self._whole)
        if reference is None:
            known = [quality for quality in self._quality.values() if quality is not None]
            reference = max(known, default=1.0)
        measured: dict[tuple[int, int], float] = {}
        for group, place in self._knots.pairs:
            quality = self._quality.get(self._narrowed(group, place))
            if quality is not None:
                measured[group, place] = reference - quality
        model = LossModel(self._knots, measured, self._blocks)
        networks: list[tuple[int, ...]] = []
        losses: list[float] = []
        for widths, quality in self._quality.items():
            if quality is not None and self.budget.fits(widths):
                networks.append(widths)
                losses.append(reference - quality)
        model.learn(networks, losses)
        return model

    def _narrowed(self, group: int, place: int) -> tuple[int, ...]:
        """Decisions of the network in which one group alone is narrow, or one block dropped."""
        widths = list(self._whole)
        widths[group] = int(self.budget.choices[group][place])
        return tuple(widths)

    def _decisions(self, candidate: Candidate) -> tuple[int, ...] | None:
        """The decisions that a candidate stands for; None for those of other searches."""
        if candidate.widths is None:
            return None
        return self._blocks.join(candidate.widths, candidate.dropped)


def _spread_knots(budget: Budget, trials: int, levels: int) -> Knots:
    """As many widths of each group as the trials allow, one at least."""
    most = SENSITIVITIES * trials
    for count in range(levels, 1, -1):
        knots = Knots.spread(budget.choices, count)
        if len(knots.pairs) <= most:
            return knots
    return Knots.spread(budget.choices, 1)
