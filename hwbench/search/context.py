"""What the method of a search is handed: the network, its images, its latencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import Argument, UsageError
from hwbench.network.widths import DEFAULT_STEP
from hwbench.records.findings import Finding
from hwbench.search import costs
from hwbench.search.budget import known_widths
from hwbench.search.objective import Prices
from hwbench.search.options import BY_IMAGES
from hwbench.search.training_settings import TrainingSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.network.prunable import PrunableNetwork
    from hwbench.network.structure import Structure
    from hwbench.network.workload import Workload
    from hwbench.pruning import (
        CalibrationStatistics,
        ChannelScores,
        Importance,
        Prunable,
        Pruned,
    )
    from hwbench.records.prediction import LatencySource
    from hwbench.search.blocks import BlockLatency
    from hwbench.search.costs import Integers, LayerCost
    from hwbench.search.data import Data, Images
    from hwbench.search.limit import Limit
    from hwbench.search.training import FeatureDistance

BATCH = 64
"""Images per batch wherever a search trains a network."""
CALIBRATION_IMAGES, CALIBRATION_BATCH = 300, 50
"""Training images that layers are re-fitted on.

AMC's code takes 60 batches of 50; the positions that are sampled of each image matter more.
"""
LEAST_VOCABULARY = 2
"""Ids that any network knows: 0 and 1."""
SYNTHETIC_IMAGES = 256
"""Images of smooth noise that stand in where there are no images at all."""


@dataclass(frozen=True)
class Subject:
    """The network that is searched, with its images.

    Attributes:
        name: As the user gave it.
        prunable: The network.
        workload: The same network as ONNX; its latency is the original's.
        network: That workload, taken apart.
        example: Inputs of batch 1.
        data: All images; None without.
        trained: Whether the original was trained here.
        findings: What to know of the network and its images.
        source: What loads the original again (`model`, `arch` and `main` of `load_module`), as far
            as it came from anywhere.
        facts: What shapes the quality of networks beside the plan and the network, for the identity
            of the search.
        vocabulary: How many ids the network knows; None where it takes no ids or nothing tells.
    """

    name: str
    prunable: Prunable
    workload: Workload
    network: PrunableNetwork
    example: tuple[Tensor, ...]
    data: Data | None
    trained: bool
    findings: tuple[Finding, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    vocabulary: int | None = None

    @property
    def structure(self) -> Structure:
        """What can be pruned."""
        return self.prunable.structure


@dataclass
class SearchContext:
    """All that a method needs to search one network.

    Attributes:
        subject: The network.
        limit: The budget as the user wrote it; None for a search that needs none.
        source: Tells latencies of any widths; None where the budget needs none.
        blocks: Tells what dropping blocks saves; None where nobody asked.
        step: Channel step of the grid of widths.
        seed: Seed of everything random.
        images: Number of training images to use; None for all.
        evaluate: `module:function` that evaluates a network in place of its accuracy.
        trial_with: How candidates are trained, as far as not as usual.
        findings: What to know of the result; a method adds to it.
    """

    subject: Subject
    limit: Limit | None = None
    source: LatencySource | None = None
    blocks: BlockLatency | None = None
    step: int = DEFAULT_STEP
    seed: int = 0
    images: int | None = None
    evaluate: str | None = None
    trial_with: TrainingSettings = field(default_factory=TrainingSettings)
    findings: list[Finding] = field(default_factory=list)
    _scores: dict[str, ChannelScores] = field(default_factory=dict, init=False, repr=False)

    def add_finding(self, code: str, text: str) -> None:
        """Note a finding, unless there is one of this code already."""
        if all(finding.code != code for finding in self.findings):
            self.findings.append(Finding(code, text))

    # The network

    @property
    def structure(self) -> Structure:
        """Groups of channels, layers and blocks of the network."""
        return self.subject.structure

    @property
    def prunable(self) -> Prunable:
        """The network, to cut smaller ones from."""
        return self.subject.prunable

    @property
    def module(self) -> nn.Module:
        """The unpruned network."""
        return self.subject.prunable.module

    # What networks cost

    @cached_property
    def prices(self) -> Prices:
        """Costs of any candidate."""
        return Prices(self.structure, self.source, self.blocks)

    def cost(self) -> LayerCost:
        """The cost that is limited, as a function of widths; MACs where nothing is.

        Raises:
            UsageError: It is latency, and nothing tells latencies.
        """
        kind = "macs" if self.limit is None else self.limit.kind
        if kind == "latency":
            if self.source is None:
                raise UsageError(
                    "a latency budget needs a lookup table or a device",
                    Argument("table"),
                    Argument("device"),
                )
            return costs.Latency(self.source)
        counted = {"macs": costs.macs, "params": costs.params, "size": costs.size}
        return counted[kind](self.structure)

    def block_latency(self) -> BlockLatency:
        """What dropping blocks saves.

        Raises:
            UsageError: Nothing tells it.
        """
        if self.blocks is None:
            raise UsageError("what blocks cost is not known", Argument("table"), Argument("device"))
        return self.blocks

    @cached_property
    def separable_blocks(self) -> tuple[str, ...]:
        """Blocks that can be dropped while all other layers stay what they are.

        Where latencies are told, that is looked at: without a block, the layer before it may be
        fused with another one, and then no sum over layers tells what the network takes.
        """
        structure, network = self.structure, self.subject.network
        names = [block.name for block in structure.blocks]
        if self.source is None:
            return tuple(names)
        whole = structure.widths
        return tuple(
            name for name in names if network.keys_without([name]) == structure.keys(whole, [name])
        )

    def prunable_choices(self, choices: Sequence[Integers]) -> tuple[Integers, ...]:
        """Allowed widths of every group, where groups that cannot be cut keep their width.

        Where latencies are told, but something else is limited, only widths with a latency are
        allowed (a limit on latency sees to that itself).
        """
        allowed = []
        for group, widths in zip(self.structure.groups, choices, strict=True):
            fixed = group.name in self.prunable.fixed
            allowed.append(np.array([group.width]) if fixed else widths)
        if self.source is None or (self.limit is not None and self.limit.kind == "latency"):
            return tuple(allowed)
        return known_widths(costs.Latency(self.source), tuple(allowed))

    # Images

    @cached_property
    def data(self) -> Data | None:
        """Images, the training ones cut down to as many as were asked for; None without."""
        data = self.subject.data
        if data is None or self.images is None:
            return data
        return replace(data, train=data.train.few(self.images, self.seed))

    @property
    def has_labels(self) -> bool:
        """Whether there are images with labels."""
        return self.data is not None and self.data.classes > 0

    def training_images(self) -> Images:
        """Images to learn from: those given, or smooth noise without labels."""
        if self.data is not None:
            return self.data.train
        return self.draw_images(self.images or SYNTHETIC_IMAGES, self.seed)

    def draw_images(self, count: int, seed: int) -> Images:
        """Inputs without labels where there are none: smooth noise, or random ids of tokens.

        Args:
            count: How many.
            seed: Seed of the draw.

        Raises:
            UsageError: The network takes other inputs.
        """
        from hwbench.search.data import random_ids, synthetic

        example = self.subject.example[0]
        shape = tuple(example.shape[1:])
        if not example.dtype.is_floating_point:
            vocabulary = self.subject.vocabulary or LEAST_VOCABULARY
            return random_ids(count, shape, vocabulary, example.dtype, seed=seed)
        if len(shape) != 3:
            raise UsageError(
                f"the network takes inputs of {'x'.join(map(str, shape))}, and nothing like them"
                " can be drawn: they are neither images nor ids",
                Argument("data"),
            )
        return synthetic(count, shape, seed=seed)

    def accuracy(self, module: nn.Module) -> float:
        """Accuracy of a network on images held out from training.

        Raises:
            UsageError: There are no images with labels.
        """
        from hwbench.search.training import accuracy

        if self.data is None:
            raise UsageError(
                "accuracy needs labelled images, and none were given", Argument("data")
            )
        return accuracy(module, self.data.validation)

    def feature_distance(self, pruned: Pruned | None = None) -> FeatureDistance:
        """The loss that tells how far the features of a network are from the original's.

        Args:
            pruned: The network, if its features may have lost channels.
        """
        from hwbench.pruning.kept_features import find_kept_features
        from hwbench.search.training import FeatureDistance, feature_layer

        layer = feature_layer(self.module, self.subject.example[0])
        channels = None
        if pruned is not None:
            channels = find_kept_features(self.module, pruned.recipe, layer, self.subject.example)
        return FeatureDistance(self.module, layer, channels)

    # Smaller networks

    def prune_widths(
        self,
        widths: Sequence[int],
        *,
        dropped: Sequence[str] = (),
        importance: Importance = "l1",
        reconstruct: bool = True,
        epochs: float = 0.0,
    ) -> Pruned:
        """The network cut to these widths; the same network each time.

        Args:
            widths: One per group.
            dropped: Names of blocks that are left out.
            importance: Which channels stay.
            reconstruct: Whether layers that lost inputs are re-fitted to the training images by
                least squares, where there are any.
            epochs: Epochs of training by labels after that, where there are any.
        """
        from hwbench.search.training import Schedule, cross_entropy, tune

        calibration = self.calibration if reconstruct else None
        pruned = self.prunable.slim(
            widths,
            importance=self.rank_channels(importance),
            seed=self.seed,
            calibration=calibration,
            without=dropped,
        )
        if epochs and self.data is not None and self.has_labels:
            usual = Schedule(0, batch=BATCH, seed=self.seed)
            schedule = usual.adjusted(self.trial_with).lasting_about(epochs, len(self.data.train))
            tune(pruned.module, self.data.train, cross_entropy, schedule)
        return pruned

    def rank_channels(self, importance: Importance) -> Importance | ChannelScores:
        """What decides which channels stay; what images tell of them is found out once.

        Args:
            importance: Which channels stay.

        Raises:
            UsageError: There are no images, or no labels, where they tell it, or the network has
                nothing that does.
        """
        from hwbench.search.training import cross_entropy

        if importance == "random":
            return importance
        if importance in self._scores:
            return self._scores[importance]
        examples: Iterable[tuple[Tensor, Tensor]] = ()
        if importance in BY_IMAGES:
            examples = self._images_to_rank_by(importance)
        loss = cross_entropy if importance == "taylor" else None
        self._scores[importance] = self.prunable.score_channels(importance, examples, loss)
        return self._scores[importance]

    def _images_to_rank_by(self, importance: str) -> Iterable[tuple[Tensor, Tensor]]:
        """Batches of few training images, as evenly over the classes as they can be."""
        if self.data is None or (importance == "taylor" and not self.has_labels):
            labelled = "labelled images" if importance == "taylor" else "images"
            raise UsageError(
                f"importance {importance!r} is told by {labelled}, and none were given",
                Argument("data"),
                Argument("importance", "l1"),
            )
        train = self.data.train
        return train.few(min(CALIBRATION_IMAGES, len(train)), self.seed).batches(CALIBRATION_BATCH)

    @cached_property
    def calibration(self) -> CalibrationStatistics | None:
        """Features of the unpruned network that layers are re-fitted to; None without images."""
        import torch

        if self.data is None:
            return None
        images = self.data.train.sample(CALIBRATION_IMAGES, self.seed)
        batches = torch.split(images, CALIBRATION_BATCH)
        return self.prunable.calibrate(batches, seed=self.seed)
