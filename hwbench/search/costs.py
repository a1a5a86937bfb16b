"""What a pruned network costs: latency, multiply-accumulates, parameters or bytes.

A layer depends on the widths of few groups, mostly two. So the cost of a structure is a sum of
*addends*, one per set of groups, each a dense grid over the allowed widths of those groups; for a
latency a monotone function of that sum. The budget rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import UsageError

if TYPE_CHECKING:
    from hwbench.network.structure import Slot, Structure
    from hwbench.records.prediction import LatencySource

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Addends = Mapping[tuple[int, ...], Floats]
"""By the groups they depend on, ascending: cost over the product of the groups' choices.

Inf where it is not known.
"""
LayerAddends = Mapping[int, tuple[tuple[int, ...], Floats]]
"""By layers, those that cost nothing apart: the groups one depends on, and its cost as a grid."""

LARGEST_GRID = 2**22
"""Points of one grid, 32 MB: layers behind a concatenation of many groups would need more."""


class Cost(Protocol):
    """One kind of cost of the pruned versions of a network."""

    name: str
    """`latency`, `MACs`, `parameters`, `size`."""
    unit: str
    """`s`, `bytes`, or nothing."""

    def of(self, widths: Integers) -> Floats:
        """Costs, shape (n,), of structures of shape (n, groups)."""
        ...

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """The cost as grids over the allowed widths of each group."""
        ...

    def whole(self, sums: Floats) -> Floats:
        """Costs of structures whose addends sum to `sums`."""
        ...


class LayerCost(Cost, Protocol):
    """A cost that is also known layer by layer, so that layers can be left out."""

    @property
    def absent(self) -> float:
        """What stands in the sum for a layer that is left out; 0 unless layers cost as such."""
        ...

    def layer_addends(self, choices: Sequence[Integers]) -> LayerAddends:
        """What single layers add, over the allowed widths of each group."""
        ...


@runtime_checkable
class Additive(Protocol):
    """A `LatencySource` that is a sum over layers: a lookup table for one network.

    A live device is none.
    """

    @property
    def scopes(self) -> Sequence[tuple[int, ...]]:
        """The groups that each layer depends on."""
        ...

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """As `Cost.addends`, seconds."""
        ...

    def layer_addends(self, choices: Sequence[Integers]) -> LayerAddends:
        """As `LayerCost.layer_addends`, seconds."""
        ...

    @property
    def absent_s(self) -> float:
        """As `LayerCost.absent`, seconds."""
        ...

    def whole_s(self, sums_s: Floats) -> Floats:
        """As `Cost.whole`, seconds."""
        ...


class Latency:
    """Seconds of one inference.

    Args:
        source: Where latencies come from; `addends` need one that is `Additive`.
    """

    name, unit = "latency", "s"

    def __init__(self, source: LatencySource) -> None:
        self.source = source

    def of(self, widths: Integers) -> Floats:
        """Seconds, shape (n,)."""
        return self.source.predict_widths(widths)

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Seconds that layers add.

        Raises:
            UsageError: The source answers whole networks only.
        """
        additive = self._additive
        for groups in additive.scopes:
            check_size(groups, choices)
        return additive.addends(choices)

    def layer_addends(self, choices: Sequence[Integers]) -> LayerAddends:
        """Seconds that single layers add.

        Raises:
            UsageError: The source answers whole networks only.
        """
        additive = self._additive
        for groups in additive.scopes:
            check_size(groups, choices)
        return additive.layer_addends(choices)

    @property
    def absent(self) -> float:
        """What stands in the sum for a layer that is left out, seconds."""
        return self._additive.absent_s

    def whole(self, sums: Floats) -> Floats:
        """Seconds of networks whose layers sum to `sums`."""
        return self._additive.whole_s(sums)

    @property
    def _additive(self) -> Additive:
        if not isinstance(self.source, Additive):
            raise UsageError(
                "a live device answers whole networks only, and the bound on single decisions needs"
                " a lookup table"
            )
        return self.source


class Counted:
    """Costs that follow from the shapes of layers alone.

    Args:
        structure: Of the network.
        weights: Cost of all weights (and multiply-accumulates) of each layer, shape (layers,).
        biases: Cost of what each layer has once per output channel, shape (layers,).
        name: What it is.
        unit: In what.
    """

    def __init__(
        self, structure: Structure, weights: Floats, biases: Floats, name: str, unit: str
    ) -> None:
        self.structure, self.name, self.unit = structure, name, unit
        self.weights, self.biases = weights, biases
        self._full = structure.layer_widths(np.array([structure.widths], np.int64))[0].astype(
            np.float64
        )
        self._depthwise = np.array(
            [slot.depthwise or _slides_over_channels(slot) for slot in structure.slots], bool
        )

    def of(self, widths: Integers) -> Floats:
        """Costs, shape (n,)."""
        area, outputs = self.left(self.structure.layer_widths(np.asarray(widths)))
        costs: Floats = area @ self.weights + outputs @ self.biases
        return costs

    def left(self, channels: Integers) -> tuple[Floats, Floats]:
        """Share of the weights, and of the output channels, that is left of each layer.

        Args:
            channels: Input and output channels of the layers, shape (n, layers, 2).
        """
        shares = channels / self._full
        outputs = shares[..., 1]
        return outputs * np.where(self._depthwise, 1.0, shares[..., 0]), outputs

    @property
    def absent(self) -> float:
        """A layer that is left out costs nothing."""
        return 0.0

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Costs of layers, gathered by the groups they depend on."""
        return gather(self.layer_addends(choices))

    def layer_addends(self, choices: Sequence[Integers]) -> LayerAddends:
        """Costs of single layers."""
        addends = {}
        for index, slot in enumerate(self.structure.slots):
            if not self.weights[index] and not self.biases[index]:
                continue
            groups = slot.groups
            rows = on_grid(groups, choices, self.structure.widths)
            area, outputs = self.left(self.structure.layer_widths(rows))
            costs = area[:, index] * self.weights[index] + outputs[:, index] * self.biases[index]
            addends[index] = groups, costs.reshape([len(choices[group]) for group in groups])
        return addends

    def whole(self, sums: Floats) -> Floats:
        """The sums themselves."""
        return sums


def gather(layers: LayerAddends) -> Addends:
    """What layers add, the sum of those that depend on the same groups."""
    addends: dict[tuple[int, ...], Floats] = {}
    for groups, grid in layers.values():
        addends[groups] = addends.get(groups, 0.0) + grid
    return addends


def macs(structure: Structure) -> Counted:
    """Multiply-accumulates of convolutions and linear layers."""
    found = np.array([slot.layer.macs for slot in structure.slots], np.float64)
    return Counted(structure, found, np.zeros_like(found), "MACs", "")


def params(structure: Structure) -> Counted:
    """Weights and biases."""
    biases = np.array([_biases(slot) for slot in structure.slots], np.float64)
    every = np.array([slot.layer.params for slot in structure.slots], np.float64)
    return Counted(structure, every - biases, biases, "parameters", "")


def size(structure: Structure) -> Counted:
    """Bytes of weights and biases as they are stored, densely."""
    counted = params(structure)
    width = np.array(
        [_ELEMENT_BYTES.get(slot.layer.key.precision, 4) for slot in structure.slots], np.float64
    )
    return Counted(structure, counted.weights * width, counted.biases * width, "size", "bytes")


class KeptWeights:
    """The parameters that are not zero, or their bytes: what a sparse file format would store.

    A decision is one layer with weights; its width counts kept weights in thousandths.

    Args:
        weights: Weights of each layer, shape (layers,).
        rest: Parameters that are never pruned (biases).
        element_bytes: Bytes of one of them; None to count parameters.
    """

    def __init__(
        self, weights: Sequence[float] | Floats, rest: float, element_bytes: int | None = 4
    ) -> None:
        self.name, self.unit = ("parameters", "") if element_bytes is None else ("size", "bytes")
        each = element_bytes or 1
        self._weights = np.array(weights, np.float64) * each / WHOLE
        self._rest = float(rest * each)

    def of(self, widths: Integers) -> Floats:
        """Bytes or parameters, shape (n,)."""
        found: Floats = np.asarray(widths) @ self._weights + self._rest
        return found

    def addends(self, choices: Sequence[Integers]) -> Addends:
        """Those of each layer, and those of the rest."""
        return {(): np.array(self._rest)} | {
            (i,): one * self._weights[i] for i, one in enumerate(choices)
        }

    def whole(self, sums: Floats) -> Floats:
        """The sums themselves."""
        return sums


WHOLE = 1000
"""Width of a decision about single weights: all of them."""
_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def _slides_over_channels(slot: Slot) -> bool:
    """Whether a convolution reads a few neighbouring channels for each that it makes."""
    return "Conv" in slot.layer.key.op and slot.output.axis > 1 and bool(slot.output.terms)


def _biases(slot: Slot) -> int:
    """Parameters that a layer has once per output channel: its biases.

    All of a layer that multiplies nothing.
    """
    key = slot.layer.key
    if not slot.layer.macs:
        return slot.layer.params
    axis = 1 if "Conv" in key.op else -1
    cin, cout = key.inputs[0][axis], key.output[axis]
    kernel = math.prod(map(int, key.attr("kernel", "1").split("x")))
    return (
        cout
        if slot.layer.params - cout * cin // int(key.attr("group", "1")) * kernel == cout
        else 0
    )


def on_grid(
    groups: tuple[int, ...], choices: Sequence[Integers], widths: Sequence[int]
) -> Integers:
    """Structures with every combination of the choices of some groups, the other groups unpruned.

    Args:
        groups: Those groups.
        choices: Allowed widths of all groups.
        widths: Widths of the unpruned network.

    Returns:
        Widths, shape (product of the numbers of choices, all groups).

    Raises:
        UsageError: They are too many.
    """
    points = check_size(groups, choices)
    axes = np.meshgrid(*(choices[group] for group in groups), indexing="ij")
    rows = np.tile(np.array(widths, np.int64), (points, 1))
    for group, axis in zip(groups, axes, strict=True):
        rows[:, group] = axis.ravel()
    return rows


def check_size(groups: Sequence[int], choices: Sequence[Integers]) -> int:
    """Number of combinations of the groups' choices.

    Raises:
        UsageError: They are more than a grid can hold.
    """
    points = math.prod(len(choices[group]) for group in groups)
    if points > LARGEST_GRID:
        raise UsageError(
            f"{len(groups)} groups meet in one layer, {points:.1e} combinations of widths where"
            f" AMC's bound holds at most {LARGEST_GRID:.1e}; search with abcpruner"
        )
    return points
