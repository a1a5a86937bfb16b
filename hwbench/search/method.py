"""Methods: what a search is to the rest of hwbench, beyond proposing networks.

A method says which options the search has and what it needs, makes the state machine, cuts (and
perhaps trains) the network of a candidate, and says how the result is tuned and what it is held
against. All of a paper's own words and numbers stay behind it: nothing else in hwbench asks which
search it is dealing with.

A search over the widths of a network derives from `WidthMethod` and implements `search_widths`; any
other derives from `Method`. `hwbench.search.SEARCHES`, or the entry points `hwbench.searches` of
other packages, make it known.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

import numpy as np

from hwbench.errors import Argument, UsageError
from hwbench.network.widths import DEFAULT_LOWER, group_step
from hwbench.search.baselines import baselines
from hwbench.search.budget import FINE_STEP, Budget, channel_choices, paying_widths
from hwbench.search.costs import Latency
from hwbench.search.limit import KINDS
from hwbench.search.objective import KeptWeight
from hwbench.search.options import BY_IMAGES, SearchOptions, WidthOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from hwbench.pruning import Importance, Pruned
    from hwbench.records.findings import Finding
    from hwbench.search.base import Candidate, Objective, Outcome, Search
    from hwbench.search.context import SearchContext
    from hwbench.search.costs import Cost, Integers
    from hwbench.search.limit import Limit

OptionsT = TypeVar("OptionsT", bound=SearchOptions)
WidthOptionsT = TypeVar("WidthOptionsT", bound=WidthOptions)
Reward = Callable[["Outcome"], float | None]

USED = 0.95
"""A budget of which even the widest network takes a smaller share is not used up."""


class Method(ABC, Generic[OptionsT]):
    """One search with its options.

    Args:
        name: The name it is registered under.
        options: Its options.

    Attributes:
        summary: What the search does, in one line for people.
        published: Where it was published; empty if it was not.
        details: What the help of its command says below the summary.
        example: Arguments of an example command, after `hwbench search NAME`.
        default_model: The network that the command searches where none is named; None for that of
            all commands.
        options_type: The dataclass of its options.
        budgets: What its budget can be of.
        drops_blocks: Whether its candidates leave out blocks; then it is told what each block
            costs.
        takes_trials: Whether it can end after any number of trials.
        recorded_together: Whether its records and the identity of a search hold the options of all
            such searches, not its own alone. The searches of the first version do, so that those
            that were killed are found again.
        tuning: How its result is tuned where the user does not say.
        tuning_steps: Batches that its result is tuned on where the user does not say; None for the
            usual number of epochs.
    """

    summary: ClassVar[str]
    published: ClassVar[str] = ""
    details: ClassVar[str] = ""
    example: ClassVar[str] = "zoo:mobilenet_v1 --table pixel1 --latency 0.55"
    default_model: ClassVar[str | None] = None
    options_type: ClassVar[type[SearchOptions]] = SearchOptions
    budgets: ClassVar[tuple[str, ...]] = KINDS
    drops_blocks: ClassVar[bool] = False
    takes_trials: ClassVar[bool] = True
    recorded_together: ClassVar[bool] = False
    tuning: ClassVar[str] = "ce"
    tuning_steps: ClassVar[int | None] = None

    def __init__(self, name: str, options: OptionsT) -> None:
        self.name, self.options = name, options

    # What it needs

    def check(self, limit: Limit | None) -> None:
        """Refuse a budget that this search cannot work with.

        Raises:
            UsageError: There is none, or it is of another kind.
        """
        if limit is None:
            raise UsageError(f"the search needs a budget; expected one of {', '.join(KINDS)}")
        if limit.kind not in self.budgets:
            expected = " or ".join(self.budgets)
            raise UsageError(
                f"{self.name} has no budget of {limit.kind}; expected one of {expected}"
            )

    def check_images(self, *, given: bool) -> None:
        """Refuse to search without images what only images tell.

        Args:
            given: Whether there are any.

        Raises:
            UsageError: There are none, and they are needed.
        """

    def wants_latency(self, limit: Limit | None) -> bool:
        """Whether latencies have to be known."""
        return self.drops_blocks or (limit is not None and limit.kind == "latency")

    @property
    def narrowest(self) -> float:
        """The smallest share of a width that the search may ask the latency of."""
        return DEFAULT_LOWER

    @property
    def channel_step(self) -> int | None:
        """The channel step that was asked for; None for that of the device."""
        return None

    # The search

    @abstractmethod
    def original_cost(self, context: SearchContext) -> float:
        """Cost of the unpruned network, in the unit of the budget."""

    @abstractmethod
    def make_search(
        self, context: SearchContext, limit: float, *, seed: int, trials: int | None
    ) -> Search:
        """A new search.

        Args:
            context: The network.
            limit: The most a network may cost; infinite for no limit.
            seed: Seed of all its random choices.
            trials: Networks to try; None for the search's own number.

        Raises:
            UsageError: The limit cannot be reached; the message has the least that can.
        """

    def prepare(
        self,
        context: SearchContext,
        left_s: float | None,
        decide_once: Callable[[Callable[[], int]], int],
    ) -> None:
        """Fit the effort of each trial to the time there is, before the first search is made.

        Args:
            context: The network.
            left_s: Seconds that are left for the search; None for no limit.
            decide_once: Calls a function that decides on a number; a search that was killed and
                goes on is given the number that was decided at first.
        """

    def search_findings(self, search: Search) -> list[Finding]:
        """What to know of a search that was made."""
        del search
        return []

    # Its candidates

    def prune(self, context: SearchContext, candidate: Candidate) -> Pruned:
        """The network of a candidate, trained as far as this search asks for.

        The same network each time, in whatever process.
        """
        if candidate.dropped:
            return context.prunable.without(candidate.dropped)
        return context.prune_widths(candidate.widths or context.structure.widths)

    def distance(self, context: SearchContext, candidate: Candidate) -> float:
        """Distance of the features of a candidate to the original's, for candidates to be scored.

        Raises:
            UsageError: This search has no such candidates.
        """
        del context
        raise UsageError(f"{self.name} proposes no networks to score, but did {candidate.network}")

    def objective_without_labels(self, context: SearchContext) -> Objective:
        """What evaluates candidates where there are no labelled images: the weight they keep."""
        context.add_finding(
            "objective_kept_weight",
            "there are no labelled images, so networks were evaluated by the L1 weight they keep,"
            " not by their accuracy",
        )
        return KeptWeight(context.module, context.prices)

    def reward(self) -> tuple[str, Reward]:
        """What the search maximises: its name, and how it follows from an outcome."""
        return "quality", lambda outcome: outcome.quality

    # Its result

    @property
    def has_baselines(self) -> bool:
        """Whether time is kept back for baselines."""
        return False

    def baselines(self, context: SearchContext, limit: float, *, trials: int) -> list[Search]:
        """Searches that the result is held against.

        Args:
            context: The network.
            limit: The most a network may cost.
            trials: Networks that this search tried.
        """
        del context, limit, trials
        return []

    def while_tuning(
        self, context: SearchContext, module: nn.Module
    ) -> AbstractContextManager[None]:
        """What holds while the result is tuned: a context manager."""
        del context, module
        return nullcontext()


class WidthMethod(Method[WidthOptionsT]):
    """A search over the widths of a network.

    Attributes:
        importance: Which channels stay where the user does not say.
        reconstruct: Whether layers are re-fitted by least squares where the user does not say.
        trial_epochs: Epochs that every candidate is trained for where the user does not say.
    """

    options_type: ClassVar[type[SearchOptions]] = WidthOptions
    importance: ClassVar[str] = "l1"
    reconstruct: ClassVar[bool] = True
    trial_epochs: ClassVar[float] = 0.0

    @abstractmethod
    def search_widths(
        self, context: SearchContext, budget: Budget, *, seed: int, trials: int | None
    ) -> Search:
        """A new search.

        Args:
            context: The network.
            budget: The limit, and the widths to choose from.
            seed: Seed of all its random choices.
            trials: Networks to try; None for the search's own number.
        """

    def check_images(self, *, given: bool) -> None:
        """See `Method.check_images`; some importances of channels are told by images."""
        if self.chosen_importance in BY_IMAGES and not given:
            raise UsageError(
                f"importance {self.chosen_importance!r} is told by images, and none were given",
                Argument("data"),
                Argument("importance", "l1"),
            )

    @property
    def channel_step(self) -> int | None:
        """The channel step that was asked for; None for that of the device."""
        return self.options.step

    def cost(self, context: SearchContext) -> Cost:
        """What is limited."""
        return context.cost()

    def whole(self, context: SearchContext) -> Sequence[int]:
        """Decisions that stand for the unpruned network: its widths."""
        return context.structure.widths

    def grids(self, context: SearchContext) -> list[tuple[Integers, ...]]:
        """Widths to choose from, of every group, ascending.

        Several such grids, the coarsest first: the first on which the limit can be reached is used.
        """
        steps = dict.fromkeys([context.step, min(FINE_STEP, context.step)])
        return [
            context.prunable_choices(
                channel_choices(
                    context.structure.widths, step, self.narrowest, context.structure.units
                )
            )
            for step in steps
        ]

    def budget(self, context: SearchContext, limit: float) -> Budget:
        """A limit over the widths to choose from.

        Raises:
            UsageError: The limit cannot be reached.
        """
        grids = self.paying_grids(context)
        return Budget(self.cost(context), limit, *grids, original=self.original_cost(context))

    def search_budget(self, context: SearchContext, limit: float) -> Budget:
        """What the search itself chooses from, where that is more than widths.

        Raises:
            UsageError: The limit cannot be reached.
        """
        return self.budget(context, limit)

    def paying_grids(self, context: SearchContext) -> list[tuple[Integers, ...]]:
        """The `grids`, of a latency without the widths that do not pay."""
        cost, grids = self.cost(context), self.grids(context)
        if isinstance(cost, Latency) and self.channel_step is None:
            # The last grid also holds widths that do not pay, for limits that nothing else reaches.
            steps = [group_step(context.step, unit) for unit in context.structure.units]
            return [*(paying_widths(cost, grid, steps) for grid in grids), grids[-1]]
        return grids

    def original_cost(self, context: SearchContext) -> float:
        """Cost of the unpruned network, in the unit of the budget."""
        return _cost_of(self.cost(context), self.whole(context))

    def make_search(
        self, context: SearchContext, limit: float, *, seed: int, trials: int | None
    ) -> Search:
        """See `Method.make_search`; `search_widths` makes the search."""
        if not context.structure.groups:
            raise UsageError(f"{context.subject.name} has no group of channels that can be pruned")
        if self.options.importance is not None:
            # That the network cannot be ranked so is said before the first trial, not by all.
            context.rank_channels(self.chosen_importance)
        budget = self.search_budget(context, limit)
        widest = _cost_of(budget.cost, [int(grid[-1]) for grid in budget.choices])
        if widest < USED * limit < math.inf:
            text = (
                "even the widest network to choose from takes only"
                f" {widest / limit:.0%} of the budget"
            )
            context.add_finding("budget_unused", "; ".join([text, *self.wider_networks()]))
        return self.search_widths(context, budget, seed=seed, trials=trials)

    @property
    def chosen_importance(self) -> Importance:
        """Which channels stay: what the user says, else the search's own."""
        return cast("Importance", self.options.importance or self.importance)

    def wider_networks(self) -> list[str]:
        """How this search could be made to choose from wider networks, for people."""
        return []

    def prune(self, context: SearchContext, candidate: Candidate) -> Pruned:
        """See `Method.prune`."""
        options = self.options
        return context.prune_widths(
            candidate.widths or context.structure.widths,
            dropped=candidate.dropped,
            importance=self.chosen_importance,
            reconstruct=self.reconstruct if options.reconstruct is None else options.reconstruct,
            epochs=self.trial_epochs if options.trial_epochs is None else options.trial_epochs,
        )

    @property
    def has_baselines(self) -> bool:
        """Whether time is kept back for baselines."""
        return self.options.baselines

    def baselines(self, context: SearchContext, limit: float, *, trials: int) -> list[Search]:
        """Hand-made policies and as many random networks, of the same widths."""
        if not self.options.baselines or limit == math.inf:
            return []
        return list(baselines(self.budget(context, limit), seed=context.seed, trials=trials))


def _cost_of(cost: Cost, widths: Sequence[int]) -> float:
    """Cost of one network."""
    return float(cost.of(np.array([widths], np.int64))[0])
