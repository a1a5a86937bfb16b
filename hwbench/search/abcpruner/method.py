"""ABCPruner as hwbench knows it: its options, the widths its codes stand for, its state machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hwbench.search.abcpruner.search import (
    ALPHA,
    CYCLES,
    LIMIT,
    SOURCES,
    TENTHS,
    AbcPruner,
    code_choices,
)
from hwbench.search.budget import FINE_STEP
from hwbench.search.method import WidthMethod
from hwbench.search.options import WidthOptions, option

if TYPE_CHECKING:
    from hwbench.search.base import Search
    from hwbench.search.budget import Budget
    from hwbench.search.context import SearchContext
    from hwbench.search.costs import Integers

TRIAL_EPOCHS = 2.0
"""As published."""


@dataclass(frozen=True)
class AbcPrunerOptions(WidthOptions):
    """Options of ABCPruner, and those of every search over widths.

    Attributes:
        alpha: Largest share of a width.
        sources: Food sources: structures that the colony keeps and improves.
        cycles: Rounds of employed bees, onlookers and scout.
        patience: Failures to improve a source after which it is given up.
    """

    alpha: float = option(
        "Largest share of a width that is kept.", default=ALPHA, least=0.1, most=1.0
    )
    sources: int = option(
        "Food sources: structures that the colony keeps and improves.", default=SOURCES, least=2
    )
    cycles: int = option(
        "Rounds in which the bees visit the food sources.", default=CYCLES, least=1
    )
    patience: int = option(
        "Failed attempts to improve a food source after which it is given up.",
        default=LIMIT,
        least=1,
    )
    trial_epochs: float | None = option(
        "Epochs that each network is trained for before it is evaluated.",
        default=None,
        least=0.0,
        command_default=TRIAL_EPOCHS,
    )


class AbcPrunerMethod(WidthMethod[AbcPrunerOptions]):
    """ABCPruner: channel pruning by automatic structure search."""

    summary = (
        "An artificial bee colony picks every width (ABCPruner, Lin et al. 2020), within the"
        " budget."
    )
    published = "Lin et al., IJCAI 2020"
    example = "zoo:plain20 --data digits --device cpu --latency 0.5 --jobs 4"
    options_type: ClassVar[type[AbcPrunerOptions]] = AbcPrunerOptions
    recorded_together = True
    # The paper's candidates inherit filters at random and are then trained, so that neither the
    # norm of filters nor a re-fit of the layers has a say in what a structure is worth.
    importance = "random"
    reconstruct = False
    trial_epochs = TRIAL_EPOCHS

    @property
    def narrowest(self) -> float:
        """The smallest share of a width that the search may ask the latency of: one code."""
        return 1 / TENTHS

    def grids(self, context: SearchContext) -> list[tuple[Integers, ...]]:
        """Widths that the codes stand for."""
        structure, alpha = context.structure, self.options.alpha
        steps = dict.fromkeys([context.step, min(FINE_STEP, context.step), 1])
        return [
            context.prunable_choices(code_choices(structure.widths, step, alpha, structure.units))
            for step in steps
        ]

    def search_widths(
        self,
        context: SearchContext,  # noqa: ARG002 - the budget holds all that the colony needs
        budget: Budget,
        *,
        seed: int,
        trials: int | None,
    ) -> Search:
        """See `WidthMethod.search_widths`; whole cycles, enough for the trials asked for."""
        options = self.options
        cycles = options.cycles
        if trials is not None:
            # All sources are visited once at first, then twice in each cycle, and one by a scout.
            each = 2 * options.sources + 1
            cycles = max(1, math.ceil((trials - options.sources) / each))
        return AbcPruner(
            budget, seed=seed, sources=options.sources, cycles=cycles, limit=options.patience
        )

    def wider_networks(self) -> list[str]:
        """How the colony could be made to choose from wider networks."""
        return ["a larger alpha allows wider ones"] if self.options.alpha < 1 else []
