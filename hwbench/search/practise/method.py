"""PRACTISE as hwbench knows it: its options, its state machine, and how a block is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from hwbench.errors import MeasurementError, UsageError
from hwbench.records.findings import Finding
from hwbench.search.base import Candidate
from hwbench.search.method import Method
from hwbench.search.objective import NetworkQuality
from hwbench.search.options import SearchOptions, option
from hwbench.search.practise.search import Practise

if TYPE_CHECKING:
    from torch import nn

    from hwbench.search.base import Objective, Search
    from hwbench.search.context import SearchContext
    from hwbench.search.limit import Limit

ADAPTOR_STEPS = 1000
"""Iterations for the score of one block (Wang and Wu 2023: 1,000 to 2,000)."""
TUNING_STEPS = 2000
"""Iterations for the resulting network (Wang and Wu 2023, section 4)."""
SCORING_SHARE = 0.5
"""Share of the time left that the scores of all blocks may take, where time is limited."""
POWER_IMAGES = 64
"""Images on which the mean square of the original's features is taken."""


@dataclass(frozen=True)
class PractiseOptions(SearchOptions):
    """Options of PRACTISE.

    Attributes:
        adaptor_steps: Iterations for the score of one block, at most.
    """

    adaptor_steps: int = option(
        "Training iterations for the score of one block.", default=ADAPTOR_STEPS, least=1
    )


class PractiseMethod(Method[PractiseOptions]):
    """PRACTISE: practical network acceleration with tiny sets of images."""

    summary = "Whole blocks are dropped, with few images or none (PRACTISE, Wang and Wu 2023)."
    published = "Wang and Wu, CVPR 2023"
    example = "zoo:resnet20 --data digits --images 500 --device cpu --latency 0.8"
    default_model = "zoo:resnet20"
    options_type: ClassVar[type[PractiseOptions]] = PractiseOptions
    budgets = ("latency",)
    drops_blocks = True
    recorded_together = True
    takes_trials = False  # all blocks need a score before one can be chosen
    tuning = "features"
    tuning_steps = TUNING_STEPS

    def __init__(self, name: str, options: PractiseOptions) -> None:
        super().__init__(name, options)
        self._adaptor_steps = options.adaptor_steps

    def check(self, limit: Limit | None) -> None:
        """See `Method.check`."""
        if limit is not None and limit.kind not in self.budgets:
            raise UsageError(
                f"practise drops blocks for latency, and has no budget of {limit.kind}"
            )
        super().check(limit)

    def original_cost(self, context: SearchContext) -> float:
        """Seconds of the network with all its blocks."""
        return context.block_latency().latency_s(())

    def make_search(
        self,
        context: SearchContext,
        limit: float,
        *,
        seed: int,  # noqa: ARG002 - nothing is random
        trials: int | None,  # noqa: ARG002 - all blocks are scored
    ) -> Search:
        """See `Method.make_search`."""
        blocks = [block.name for block in context.structure.blocks]
        return Practise(blocks, context.block_latency(), limit)

    def search_findings(self, search: Search) -> list[Finding]:
        """Blocks that are never dropped."""
        if not isinstance(search, Practise) or not search.spared:
            return []
        blocks = ", ".join(search.spared)
        text = f"never dropped, as the interval of what they save reaches 0: {blocks}"
        return [Finding("blocks_spared", text)]

    def prepare(
        self,
        context: SearchContext,
        left_s: float | None,
        decide_once: Callable[[Callable[[], int]], int],
    ) -> None:
        """Take as many iterations for the score of each block as the time left allows.

        How long one iteration takes depends on the moment, so the number is decided once: a search
        that goes on after it was killed must score all blocks alike.
        """
        from hwbench.search import training

        blocks = context.structure.blocks
        if left_s is None or not blocks:
            return
        limit_s = SCORING_SHARE * left_s / len(blocks)
        asked = self.options.adaptor_steps
        first = Candidate(0, dropped=(blocks[0].name,), task="score")

        def count_steps() -> int:
            return training.fitting_steps(
                limit_s, asked, lambda steps: self._distance(context, first, steps)
            )

        self._adaptor_steps = decide_once(count_steps)
        if self._adaptor_steps < asked:
            text = (
                f"{self._adaptor_steps} iterations for the score of each block, not {asked}, to"
                " save time; allow the search more time for all of them"
            )
            context.findings.append(Finding("fewer_steps", text))

    def distance(self, context: SearchContext, candidate: Candidate) -> float:
        """Recoverability of a block, see `_distance`."""
        return self._distance(context, candidate, self._adaptor_steps)

    def _distance(self, context: SearchContext, candidate: Candidate, steps: int) -> float:
        """Least distance of the features without a block that adaptors were seen to reach.

        Training can only be worth something where it ends below the adaptors' start, which are
        identities; so the untrained distance is an upper bound, and diverging training cannot make
        a block look indispensable.
        """
        from hwbench.pruning.adaptors import insert
        from hwbench.search import training

        module = context.prunable.without(candidate.dropped).module
        places = context.prunable.adaptors(candidate.dropped)
        images, loss = context.training_images(), context.feature_distance()
        untrained = training.distance(module, images, loss)
        weights = insert(module, places)
        if not weights:
            return untrained
        schedule = training.Schedule(steps, seed=context.seed)
        try:
            training.train_stably(module, images, loss, schedule, weights)
        except MeasurementError:
            return untrained
        return min(untrained, training.distance(module, images, loss))

    def objective_without_labels(self, context: SearchContext) -> Objective:
        """Evaluates networks by the original's features that they keep."""
        context.add_finding(
            "objective_features",
            "there are no labelled images, so networks were evaluated by how much of the"
            " original's features they keep, not by their accuracy",
        )
        return NetworkQuality(
            context.prices,
            context.module,
            partial(self.prune, context),
            partial(kept_features, context),
            name="kept features",
            distance=partial(self.distance, context),
        )


def kept_features(context: SearchContext, module: nn.Module) -> float:
    """Share of the features' mean square that the distance to the original's leaves, at least 0."""
    from hwbench.search import training

    images, loss = context.training_images(), context.feature_distance()
    original = training.features(
        loss.teacher, loss.layer, images.sample(POWER_IMAGES, context.seed)
    )
    power = float(original.square().mean())
    if not power > 0:
        return 0.0
    return max(0.0, 1 - training.distance(module, images, loss) / power)
