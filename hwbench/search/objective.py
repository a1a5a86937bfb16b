"""Objectives: what a candidate is worth, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import Argument, LookupTableError, UsageError
from hwbench.search import costs
from hwbench.search.base import Candidate, Outcome
from hwbench.search.costs import WHOLE, Floats, KeptWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.network.structure import Structure
    from hwbench.pruning import Pruned
    from hwbench.records.layer_key import LayerKey
    from hwbench.records.prediction import LatencySource
    from hwbench.search.blocks import BlockLatency


ELEMENT_BYTES = 4
"""Bytes of a single weight: networks are pruned in single precision."""
TINY = 1e-300
"""Least sum that shares are taken of: the weights of a layer may all be zero."""


class Prices:
    """Costs of any candidate of one network.

    Args:
        structure: Structure of the network.
        source: Tells latencies of widths; None where none is known.
        blocks: Tells latencies without blocks; None where none is known.
    """

    def __init__(
        self,
        structure: Structure,
        source: LatencySource | None = None,
        blocks: BlockLatency | None = None,
    ) -> None:
        self.structure, self._source, self._blocks = structure, source, blocks
        counted = [costs.macs(structure), costs.params(structure), costs.size(structure)]
        self._weights = np.stack([cost.weights for cost in counted], axis=1)
        self._biases = np.stack([cost.biases for cost in counted], axis=1)
        self._left = counted[0].left
        self._kept = [weights_cost(structure, kind) for kind in ("params", "size")]

    def outcome(
        self, candidate: Candidate, quality: float | None, distance: float | None = None
    ) -> Outcome:
        """The candidate's outcome, of that quality.

        Raises:
            UsageError: Its widths are impossible, or it leaves out a block that is none.
            MissingEntryError: The table does not know a layer of it.
        """
        widths = np.array([candidate.widths or self.structure.widths], np.int64)
        area, outputs = (left[0] for left in self._left(self.structure.layer_widths(widths)))
        if candidate.dropped:
            nodes = self.structure.nodes_of(candidate.dropped)
            gone = [place for place, name in enumerate(self.structure.names) if name in nodes]
            area[gone] = outputs[gone] = 0
        macs, params, size_bytes = (area @ self._weights + outputs @ self._biases).tolist()
        if candidate.shares is not None:
            # What is zero is not counted, as in a sparse file; it is multiplied all the same.
            shares = np.array([candidate.shares]) * WHOLE
            params, size_bytes = (float(kept.of(shares)[0]) for kept in self._kept)
        latency_s = self._latency_s(candidate, widths)
        return Outcome(quality, latency_s, round(macs), round(params), round(size_bytes), distance)

    def interval_s(self, candidate: Candidate) -> tuple[float, float] | None:
        """The 95 % interval of the candidate's predicted latency, seconds; None without one."""
        try:
            if candidate.widths is None and (candidate.dropped or self._source is None):
                return None if self._blocks is None else self._blocks.interval_s(candidate.dropped)
            if self._source is None:
                return None
            return self._source.predict(self._keys(candidate)).ci_s
        except LookupTableError:  # it is too uncertain for an interval
            return None

    def _latency_s(self, candidate: Candidate, widths: costs.Integers) -> float | None:
        """Seconds of a candidate; None where nothing tells them."""
        if candidate.dropped and candidate.widths is None:
            return None if self._blocks is None else self._blocks.latency_s(candidate.dropped)
        if self._source is not None and candidate.dropped:
            return self._source.predict(self._keys(candidate)).latency_s
        if self._source is not None:
            return float(self._source.predict_widths(widths)[0])
        if self._blocks is not None and candidate.widths is None:
            return self._blocks.latency_s(())
        return None

    def _keys(self, candidate: Candidate) -> tuple[LayerKey, ...]:
        """The layers of a candidate of any widths, with or without all blocks."""
        widths = candidate.widths or self.structure.widths
        return self.structure.keys(widths, candidate.dropped)


def weights_cost(structure: Structure, kind: str = "size") -> KeptWeights:
    """Cost of a network whose single weights are pruned, one decision per layer with weights.

    Args:
        structure: The network.
        kind: `size` in bytes, or `params`: the number of parameters that are not zero.
    """
    counted = costs.params(structure)
    prunable = np.array([bool(slot.layer.macs) for slot in structure.slots])
    return KeptWeights(
        counted.weights[prunable],
        counted.biases.sum() + counted.weights[~prunable].sum(),
        None if kind == "params" else ELEMENT_BYTES,
    )


class KeptWeight:
    """Evaluates widths by the share of the weights, by absolute value, that they keep.

    That is what pruning goes by where there are no images to test with.

    The channels of a group are ordered by the sum of |W| over all that makes and reads them, the
    heaviest kept first. Of each layer the shares of its kept outputs and of its kept inputs are
    multiplied, and all layers count alike.

    Args:
        module: The network.
        prices: Its costs.

    Raises:
        UsageError: A layer of the structure is no module with weights.
    """

    name = "kept L1 weight"

    def __init__(self, module: nn.Module, prices: Prices) -> None:
        self.prices = prices
        structure = prices.structure
        weights = {
            slot.layer.name: _absolute(module, slot.layer.name)
            for slot in structure.slots
            if slot.layer.macs
        }
        # Each layer has two sides, its outputs and its inputs, in rows one after the other. A row
        # holds the share of the side's weight that is kept at each number of channels, so that a
        # candidate is evaluated by looking its widths up.
        sides: list[tuple[Floats, int]] = []
        self._layers: list[str] = []
        layers = zip(structure.slots, structure.out_group, structure.in_group, strict=True)
        for slot, out_group, in_group in layers:
            if slot.layer.macs and not slot.depthwise:
                weight = weights[slot.layer.name]
                sides += [(weight.sum(axis=1), int(out_group)), (weight.sum(axis=0), int(in_group))]
                self._layers.append(slot.layer.name)
        order = [_order(weights, structure, index) for index in range(len(structure.groups))]
        longest = max(structure.widths, default=0) + 1
        self._kept = np.ones((len(sides), longest))
        self._group = np.array([max(group, 0) for _, group in sides], np.int64)
        for row, (sums, group) in enumerate(sides):
            if group < 0 or len(sums) % structure.widths[group]:
                continue  # channels that are never pruned, or lie behind a concatenation
            channels = sums.reshape(structure.widths[group], -1).sum(axis=1)[order[group]]
            shares = np.cumsum(channels) / max(channels.sum(), TINY)
            self._kept[row, 1 : len(channels) + 1] = shares
            self._kept[row, 0] = 0.0
        self._rows = np.arange(len(sides))

    def evaluate(self, candidate: Candidate) -> Outcome:
        """Kept weight and costs.

        Raises:
            UsageError: The candidate has no widths: it leaves out single weights, or only blocks,
                about which this says nothing.
        """
        if candidate.widths is None:
            raise UsageError(
                "the weight that is kept tells networks of other widths apart; those without"
                " widths of their own need images",
                Argument("data"),
            )
        kept = self._kept[self._rows, np.asarray(candidate.widths)[self._group]]
        shares = kept.reshape(-1, 2).prod(axis=1)
        if candidate.dropped:
            gone = self.prices.structure.nodes_of(candidate.dropped)
            shares[[name in gone for name in self._layers]] = 0.0
        return self.prices.outcome(candidate, float(shares.mean()))

    def original(self) -> Outcome:
        """All the weight."""
        return self.prices.outcome(Candidate(0), 1.0)


def _absolute(module: nn.Module, name: str) -> Floats:
    """|W| of a layer summed over its kernel, shape (outputs, inputs)."""
    from torch import Tensor, nn

    paths = dict(module.named_modules())
    # Where one module is used more than once, its layers are called conv, conv_1, conv_2, ..
    layer = paths.get(name) or paths.get(name.rpartition("_")[0])
    weight = getattr(layer, "weight", None)
    around = paths.get(name.rpartition(".")[0])
    if isinstance(layer, nn.MultiheadAttention):
        # Every head of queries, keys and values has the same channels: those of one stand together.
        weight = layer.in_proj_weight
        if weight is not None:
            per_head = weight.reshape(-1, layer.head_dim, weight.shape[1])
            weight = per_head.transpose(0, 1).flatten(0, 1)
    elif isinstance(around, nn.MultiheadAttention) and isinstance(weight, Tensor):
        weight = weight.reshape(len(weight), -1, around.head_dim).transpose(1, 2).flatten(1, 2)
    elif isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(layer, nn.Linear):
        weight = _outputs_first(layer, weight)
    if not isinstance(weight, Tensor):
        raise UsageError(
            f"the network has no layer with weights called {name!r}, so it cannot be pruned"
        )
    magnitudes = weight.detach().abs()
    if magnitudes.ndim > 2:
        magnitudes = magnitudes.flatten(2).sum(dim=2)
    return np.asarray(magnitudes.double().cpu().numpy())


def _outputs_first(layer: nn.Module | None, weight: Tensor) -> Tensor:
    """The weight of a linear layer of another kind, whose outputs may come last, as in GPT-2."""
    import torch

    if layer is None:
        return weight
    with torch.no_grad():
        one_each = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        try:
            made = layer(one_each) - layer(torch.zeros_like(one_each))
        except RuntimeError:  # it reads as many channels as the weight has columns
            return weight
    last = made.shape == weight.shape and torch.allclose(made, weight, atol=1e-5)
    return weight.T if last else weight


def _order(weights: Mapping[str, Floats], structure: Structure, group: int) -> costs.Integers:
    """The channels of a group, the heaviest first."""
    width = structure.widths[group]
    total = np.zeros(width)
    for names, axis in (
        (structure.groups[group].producers, 1),
        (structure.groups[group].consumers, 0),
    ):
        for name in names:
            if name not in weights:
                continue  # an embedding, whose rows are looked up
            sums = weights[name].sum(axis=axis)
            if len(sums) % width == 0:  # not behind a concatenation
                total += sums.reshape(width, -1).sum(axis=1)
    return np.argsort(-total, kind="stable")


class NetworkQuality:
    """Evaluates the pruned network itself: its accuracy, or what a function of the user's says.

    Args:
        prices: Costs of candidates.
        original: The unpruned network.
        prune: Makes the pruned network of a candidate, trained as far as the search asks for; the
            same for the same candidate.
        quality: Gives the quality of a network, in [0, 1].
        name: What that quality is.
        distance: Gives the distance of a candidate's features to those of the original; None where
            no search asks for it.
    """

    def __init__(
        self,
        prices: Prices,
        original: nn.Module,
        prune: Callable[[Candidate], Pruned],
        quality: Callable[[nn.Module], float],
        *,
        name: str = "accuracy",
        distance: Callable[[Candidate], float] | None = None,
    ) -> None:
        self.prices, self.prune, self.name = prices, prune, name
        self._original, self._quality, self._distance = original, quality, distance

    def evaluate(self, candidate: Candidate) -> Outcome:
        """Prune, evaluate, and tell the costs.

        Raises:
            UsageError: The quality is no number in [0, 1].
        """
        if candidate.task == "score" and self._distance is not None:
            return self.prices.outcome(candidate, None, self._distance(candidate))
        quality = float(self._quality(self.prune(candidate).module))
        if not 0 <= quality <= 1:
            raise UsageError(
                f"the {self.name} of candidate {candidate.number} is {quality}; expected a number"
                " from 0 to 1"
            )
        return self.prices.outcome(candidate, quality)

    def original(self) -> Outcome:
        """The unpruned network, evaluated likewise."""
        return self.prices.outcome(Candidate(0), float(self._quality(self._original)))
