"""The ground a search stands on: where latencies come from, what a candidate is worth, and the budget."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hwbench.errors import MeasurementError, UsageError
from hwbench.records.findings import Finding
from hwbench.records.prediction import LatencySource
from hwbench.search import costs
from hwbench.search.abcpruner.search import AbcPruner, code_choices
from hwbench.search.amc.walk import channel_geometry, weight_geometry
from hwbench.search.base import Candidate
from hwbench.search.baselines import baselines
from hwbench.search.budget import FINE_STEP, Budget, channel_choices
from hwbench.search.costs import WHOLE, Cost, Integers, Latency
from hwbench.search.objective import Judged, KeptWeight, Prices, weights_cost
from hwbench.search.practise.search import BlockLatency, Practise
from hwbench.workflows.search.plan import TUNE_EPOCHS, TUNE_STEPS

if TYPE_CHECKING:
    from torch import nn

    from hwbench.pruning import CalibrationStatistics, Pruned
    from hwbench.search.base import Objective, Search
    from hwbench.search.data import Data, Images
    from hwbench.search.training import FeatureDistance, Loss, Schedule
    from hwbench.workflows.search.plan import Plan
    from hwbench.workflows.search.subject import Subject

BATCH = 64
CALIBRATION_IMAGES, CALIBRATION_BATCH = 300, 50
"""Training images that layers are re-fitted on (AMC's code: 60 batches of 50; the positions sampled of each matter more)."""
SYNTHETIC_IMAGES = 256
"""Smooth noise where there are no images at all."""
RATES = 3
"""Learning rates that training tries, each a tenth of the one before."""
STEPS_TRIED, FEWEST_STEPS = 5, 10
"""Steps of training that tell how long one takes, and those that are taken however little time is left."""
USED = 0.95
"""Of a budget, which is spare where the widest network takes less."""
WEIGHT_SHARES = 50
"""Choices of the kept share of one layer's single weights."""


@dataclass
class Ground:
    """All that a search needs but its own state.

    Attributes:
        subject: The network.
        plan: What was asked for.
        source: Of latencies; None for a budget that needs none.
        blocks: What dropping blocks saves, for PRACTISE.
        step: Channel step.
        findings: What to know of the result.
    """

    subject: Subject
    plan: Plan
    source: LatencySource | None
    blocks: BlockLatency | None
    step: int
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prices = Prices(self.subject.structure, self.source, self.blocks)
        self.train = None if self.subject.data is None else self._few(self.subject.data)
        self._calibration: CalibrationStatistics | None = None
        self._adaptor_steps = self.plan.adaptor_steps

    def _few(self, data: Data) -> Data:
        if self.plan.images is None:
            return data
        return replace(data, train=data.train.few(self.plan.images, self.plan.seed))

    def cost(self) -> Cost:
        """What the budget is of."""
        structure, kind = (
            self.subject.structure,
            self.plan.limit.kind if self.plan.limit else "macs",
        )
        if kind == "latency":
            if self.source is None:
                raise UsageError("a latency budget needs a --table or a --device")
            return Latency(self.source)
        if self.plan.single_weights:
            return weights_cost(structure)
        return {"macs": costs.macs, "params": costs.params, "size": costs.size}[kind](structure)

    def original(self) -> float:
        """Cost of the original."""
        if self.plan.method == "practise":
            return self._practise_latency().latency_s(())
        import numpy as np

        cost = self.cost()
        whole = (
            [WHOLE] * len(weight_geometry(self.subject.structure))
            if self.plan.single_weights
            else self.subject.structure.widths
        )
        return float(cost.of(np.array([whole], np.int64))[0])

    def search(self, limit: float, *, seed: int, trials: int | None) -> Search:
        """A new search within that limit.

        Raises:
            UsageError: The limit cannot be reached.
        """
        plan, structure = self.plan, self.subject.structure
        if plan.method == "practise":
            return Practise(
                [block.name for block in structure.blocks], self._practise_latency(), limit
            )
        if not structure.groups:
            raise UsageError(f"{self.subject.name} has no group of channels that can be pruned")
        budget = self.budget(limit)
        self._check_use(budget)
        if plan.method == "abcpruner":
            cycles = (
                plan.cycles
                if trials is None
                else max(1, math.ceil((trials - plan.sources) / (2 * plan.sources + 1)))
            )
            return AbcPruner(
                budget, seed=seed, sources=plan.sources, cycles=cycles, limit=plan.patience
            )
        from hwbench.search.amc.search import EPISODES, Amc

        geometry = (weight_geometry if plan.single_weights else channel_geometry)(structure)
        return Amc(
            budget,
            geometry,
            seed=seed,
            episodes=trials or EPISODES,
            reward=plan.reward,
            single_weights=plan.single_weights,
            explore=plan.explore,
        )

    def _check_use(self, budget: Budget) -> None:
        """Say so where not even the widest network of the grid uses the budget up."""
        import numpy as np

        widest = float(
            budget.cost.of(np.array([[grid[-1] for grid in budget.choices]], np.int64))[0]
        )
        if widest < USED * budget.limit < math.inf and not any(
            one.code == "budget_unused" for one in self.findings
        ):
            text = (
                f"even the widest network to choose from takes only {widest / budget.limit:.0%} of"
                " the budget"
            )
            advice = (
                "; give a larger --alpha"
                if self.plan.method == "abcpruner" and self.plan.alpha < 1
                else ""
            )
            self.findings.append(Finding("budget_unused", text + advice))

    def baselines(self, limit: float, *, trials: int) -> list[Search]:
        """Hand-made policies and as many random networks, of the same widths.

        None for searches of other things than widths.
        """
        if (
            not self.plan.baselines
            or self.plan.method == "practise"
            or self.plan.single_weights
            or limit == math.inf
        ):
            return []
        return list(baselines(self.budget(limit), seed=self.plan.seed, trials=trials))

    def budget(self, limit: float) -> Budget:
        """The limit, over the widths that the method chooses from."""
        grids = self._codes() if self.plan.method == "abcpruner" else self._grids()
        return Budget(self.cost(), limit, *grids, original=self.original())

    def _grids(self) -> list[tuple[Integers, ...]]:
        import numpy as np

        structure, plan = self.subject.structure, self.plan
        if plan.single_weights:
            shares = np.unique(
                np.linspace(WHOLE / WEIGHT_SHARES, WHOLE, WEIGHT_SHARES).round().astype(np.int64)
            )
            return [tuple(shares for _ in weight_geometry(structure))]
        steps = dict.fromkeys([self.step, min(FINE_STEP, self.step)])
        return [self._fixed(channel_choices(structure.widths, step, plan.lower)) for step in steps]

    def _codes(self) -> list[tuple[Integers, ...]]:
        steps = dict.fromkeys([self.step, min(FINE_STEP, self.step), 1])
        return [
            self._fixed(code_choices(self.subject.structure.widths, step, self.plan.alpha))
            for step in steps
        ]

    def _fixed(self, choices: tuple[Integers, ...]) -> tuple[Integers, ...]:
        """Groups that torch cannot cut keep their width."""
        import numpy as np

        prunable = self.subject.prunable
        return tuple(
            np.array([group.width]) if group.name in prunable.fixed else grid
            for group, grid in zip(prunable.structure.groups, choices, strict=True)
        )

    def _practise_latency(self) -> BlockLatency:
        if self.blocks is None:
            raise UsageError(
                "practise needs to know what blocks cost; give a --table or a --device"
            )
        return self.blocks

    def objective(self) -> Objective:
        """Who judges candidates: images if there are any, else the weight they keep."""
        plan, prunable = self.plan, self.subject.prunable
        if plan.evaluate is not None:
            from hwbench.search.data import imported

            return Judged(
                self.prices,
                prunable.module,
                self.prune,
                imported(plan.evaluate),
                name=plan.evaluate,
                distance=self._distance,
            )
        if self.train is not None and self.train.classes:
            return Judged(
                self.prices, prunable.module, self.prune, self.accuracy, distance=self._distance
            )
        if plan.method == "practise":
            text = (
                "there are no labelled images, so networks were judged by how much of the"
                " original's features they keep"
            )
            self.findings.append(
                Finding("objective_features", f"{text}; give --data to judge them by accuracy")
            )
            return Judged(
                self.prices,
                prunable.module,
                self.prune,
                self._kept_features,
                name="kept features",
                distance=self._distance,
            )
        text = (
            "there are no images, so networks were judged by the L1 weight they keep, not by"
            " accuracy; give --data for that"
        )
        self.findings.append(Finding("objective_kept_weight", text))
        return KeptWeight(prunable.module, self.prices)

    def accuracy(self, module: nn.Module) -> float:
        """Accuracy on images held out from training."""
        from hwbench.search.training import accuracy

        if self.train is None:
            raise UsageError("accuracy needs images; give --data")
        return accuracy(module, self.train.validation)

    def prune(self, candidate: Candidate) -> Pruned:
        """The network of a candidate, trained as far as the method asks for; the same each time."""
        from hwbench.pruning import Pruned
        from hwbench.search.amc.single_weights import weighted_layers, without_smallest
        from hwbench.search.training import Schedule, cross_entropy, tune

        plan, prunable = self.plan, self.subject.prunable
        if candidate.dropped:
            return prunable.without(candidate.dropped)
        if candidate.shares is not None:
            layers = weighted_layers(self.subject.structure)
            return Pruned(
                without_smallest(prunable.module, layers, candidate.shares), prunable.recipe({})
            )
        colony = plan.method == "abcpruner"
        refit = not colony if plan.reconstruct is None else plan.reconstruct
        pruned = prunable.slim(
            candidate.widths or self.subject.structure.widths,
            importance=plan.importance or ("random" if colony else "l1"),  # type: ignore[arg-type]
            seed=plan.seed,
            calibration=self._images() if refit and self.train is not None else None,
        )
        epochs = (2.0 if colony else 0.0) if plan.trial_epochs is None else plan.trial_epochs
        if epochs and self.train is not None and self.train.classes:
            steps = math.ceil(epochs * len(self.train.train) / BATCH)
            tune(
                pruned.module,
                self.train.train,
                cross_entropy,
                Schedule(steps, batch=BATCH, seed=plan.seed),
            )
        return pruned

    def _images(self) -> CalibrationStatistics | None:
        """What layers are re-fitted on: features of the unpruned network, gathered once."""
        import torch

        if self._calibration is None and self.train is not None:
            batches = torch.split(self.train.train.first(CALIBRATION_IMAGES), CALIBRATION_BATCH)
            self._calibration = self.subject.prunable.calibrate(batches, seed=self.plan.seed)
        return self._calibration

    def tuned(self, pruned: Pruned, say: Callable[[str], None], left_s: float | None = None) -> str:
        """Train the result in place: by features on whatever images there are, else on labelled ones.

        Args:
            pruned: The result.
            say: Told what is done.
            left_s: Seconds left for PRACTISE's steps, which are many; None for as long as they
                take.

        Returns:
            How, one of `TUNINGS`.
        """
        from hwbench.search.amc.single_weights import weighted_layers, zeros_kept
        from hwbench.search.training import Distillation, Schedule, cross_entropy

        plan, module = self.plan, self.subject.prunable.module
        kind = plan.tune or ("features" if plan.method == "practise" else "ce")
        if kind == "none" or (
            kind != "features" and (self.train is None or not self.train.classes)
        ):
            return "none"
        losses: dict[str, Callable[[], Loss]] = {
            "ce": lambda: cross_entropy,
            "kd": lambda: Distillation(module, temperature=plan.temperature),
            "features": self._feature_distance,
        }
        images, loss = self._small_set(), losses[kind]()
        steps = self._steps(images, loss, left_s)
        if not steps:
            return "none"
        say("tuning the result")
        layers = weighted_layers(self.subject.structure) if plan.single_weights else ()
        with zeros_kept(pruned.module, layers):
            try:
                train_calmly(
                    pruned.module, images, loss, Schedule(steps, batch=BATCH, seed=plan.seed)
                )
            except MeasurementError as error:
                self.findings.append(Finding("not_tuned", f"the result was left as it is: {error}"))
                return "none"
        return kind

    def _steps(self, images: Images, loss: Loss, left_s: float | None) -> int:
        """Batches that the result is tuned on."""
        from hwbench.search.training import Schedule

        plan = self.plan
        if plan.tune_steps is not None:
            return plan.tune_steps
        if plan.method == "practise" and plan.tune_epochs is None:
            if left_s is None:
                return TUNE_STEPS
            network = copy.deepcopy(self.subject.prunable.module)
            return fitting_steps(
                left_s,
                TUNE_STEPS,
                lambda steps: train_calmly(network, images, loss, Schedule(steps)),
            )
        return (TUNE_EPOCHS if plan.tune_epochs is None else plan.tune_epochs) * math.ceil(
            len(images) / BATCH
        )

    def _feature_distance(self) -> FeatureDistance:
        from hwbench.search.training import FeatureDistance, feature_layer

        module = self.subject.prunable.module
        return FeatureDistance(module, feature_layer(module, self.subject.example[0]))

    def _small_set(self) -> Images:
        from hwbench.search.data import synthetic

        if self.train is not None:
            return self.train.train
        shape = self.subject.workload.inputs[0].shape[1:]
        return synthetic(self.plan.images or SYNTHETIC_IMAGES, shape, seed=self.plan.seed)

    def limit_scoring(self, keep: Callable[[Callable[[], int]], int], limit_s: float) -> None:
        """Take as many iterations for the score of each block as fit into `limit_s` seconds.

        `keep` remembers how many.
        """
        blocks = self.subject.structure.blocks
        if not blocks:
            return
        first = Candidate(0, dropped=(blocks[0].name,), task="score")

        def found() -> int:
            return fitting_steps(
                limit_s / len(blocks),
                self.plan.adaptor_steps,
                lambda steps: self._distance(first, steps),
            )

        self._adaptor_steps = keep(found)
        if self._adaptor_steps < self.plan.adaptor_steps:
            text = (
                f"{self._adaptor_steps} iterations for the score of each block, not"
                f" {self.plan.adaptor_steps}, to save time"
            )
            self.findings.append(Finding("fewer_steps", f"{text}; give a longer --budget for all"))

    def _distance(self, candidate: Candidate, steps: int | None = None) -> float:
        """PRACTISE's recoverability: the least distance of the features without a block that adaptors were seen to reach."""
        from hwbench.pruning.adaptors import adaptor_places, insert
        from hwbench.search.training import Schedule, distance

        pruned = self.subject.prunable.without(candidate.dropped).module
        places = adaptor_places(
            self.subject.network.graph.model, self.subject.structure, self.subject.prunable.module
        )[candidate.dropped[0]]
        images, loss = self._small_set(), self._feature_distance()
        untrained = distance(pruned, images, loss)
        weights = insert(pruned, places)
        if not weights:
            return untrained
        try:
            train_calmly(
                pruned,
                images,
                loss,
                Schedule(steps or self._adaptor_steps, seed=self.plan.seed),
                weights,
            )
        except MeasurementError:
            return untrained  # that of adaptors which stay identities
        return min(untrained, distance(pruned, images, loss))

    def _kept_features(self, module: nn.Module) -> float:
        """Share of the features' mean square that the distance to the original's leaves, at least 0."""
        from hwbench.search.training import distance, features

        loss, images = self._feature_distance(), self._small_set()
        power = float(features(loss.teacher, loss.layer, images.first(64)).square().mean())
        return max(0.0, 1 - distance(module, images, loss) / power) if power > 0 else 0.0


def fitting_steps(limit_s: float, most: int, train: Callable[[int], object]) -> int:
    """Steps of training that fit into a time, by what a few of them take: `FEWEST_STEPS` at least, `most` at most.

    Args:
        limit_s: Seconds.
        most: Steps.
        train: Trains for so many steps, on trial.
    """

    def seconds(steps: int) -> float:
        begun = time.perf_counter()
        train(steps)
        return time.perf_counter() - begun

    once_s = seconds(1)
    each_s = max(seconds(1 + STEPS_TRIED) - once_s, 1e-6) / STEPS_TRIED
    return min(most, max(FEWEST_STEPS, int((limit_s - once_s) / each_s)))


def train_calmly(
    module: nn.Module,
    images: Images,
    loss: Loss,
    schedule: Schedule,
    parameters: Sequence[nn.Parameter] | None = None,
) -> None:
    """Train a network in place.

    Where that diverges, begin again with a tenth of the rate, twice at most.

    Raises:
        MeasurementError: It diverged at every rate; the network is as it was.
    """
    from hwbench.search.training import tune

    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    for retry in range(RATES):
        try:
            tune(
                module,
                images,
                loss,
                replace(schedule, rate=schedule.rate / 10**retry),
                parameters=parameters,
            )
        except MeasurementError:
            module.load_state_dict(before)
            if retry == RATES - 1:
                raise
        else:
            return
