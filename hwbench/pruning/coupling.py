"""Where the channels of a structure's groups lie in torch.

The network is exported once more, a copy of it with random weights and with its normalization left
unfolded, and its channels are followed as those of every graph are
(`hwbench.network.structure.channels`). So tables, searches and torch go by one account of what
belongs together. What is cut in that graph are constants; each is found again among the parameters
of the network, by its name, or where an exporter has transposed or reshaped it, by its values.
Whether torch then computes what the cut graph does is tried out (`hwbench.pruning.probing`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwbench.errors import UsageError, WorkloadError
from hwbench.network.graph import load
from hwbench.network.graph.keys import is_weighted
from hwbench.network.intake.torch_onnx import export_module
from hwbench.network.structure import Group, Structure
from hwbench.network.structure.channels import Channels, Layout
from hwbench.network.structure.surgery import PrunableGraph
from hwbench.pruning.recipe import GroupCut, shared_parameters
from hwbench.pruning.surgeon import (
    CHANNELS,
    CONVOLUTIONS,
    IN,
    NORMALIZATIONS,
    OUT,
    ChannelPlace,
    is_depthwise,
    side_dim,
)

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Coupled:
    """One group of a structure in torch.

    Attributes:
        group: The group.
        places: Where its channels lie; empty if it cannot be cut.
        numbers: What else follows from how many they are, see `GroupCut`.
        problem: Why it cannot be cut; empty if it can.
    """

    group: Group
    places: tuple[ChannelPlace, ...]
    problem: str = ""
    numbers: tuple[str, ...] = ()

    def cut(self, kept: Iterable[int]) -> GroupCut:
        """What is cut where some of its channels stay.

        Args:
            kept: Their indices, ascending.
        """
        return GroupCut(self.group.name, self.group.width, tuple(kept), self.places, self.numbers)


@dataclass(frozen=True)
class Coupling:
    """All groups of a structure in torch.

    Attributes:
        groups: In the structure's order.
        derived: Layers that compute their weights from parameters at every inference, as
            weight-standardised convolutions do: once inputs are cut, theirs are others than the
            graph's.
    """

    groups: tuple[Coupled, ...]
    derived: tuple[str, ...] = ()


def couple(module: nn.Module, example_inputs: tuple[Tensor, ...], structure: Structure) -> Coupling:
    """Find where the channels of every group lie.

    Args:
        module: The network; it is left as it is.
        example_inputs: One tensor per argument.
        structure: The structure of the network's ONNX graph.

    Raises:
        UsageError: The network cannot be exported with random weights.
    """
    own = _with_random_weights(module)
    name = type(module).__name__
    try:
        exported = export_module(own, example_inputs, name, fold_norms=False)
    except WorkloadError as error:
        raise UsageError(f"{name} cannot be traced for pruning: {error}") from error
    graph = PrunableGraph(load(exported.onnx))
    finder = _Finder(own, graph)
    by_name = {group.name: place for place, group in enumerate(graph.structure.groups)}
    coupled = []
    for group in structure.groups:
        place = by_name.get(group.name)
        if place is None or graph.structure.groups[place] != group:
            problem = "with its normalization unfolded, the graph of the network has no such group"
            coupled.append(Coupled(group, (), problem))
        else:
            coupled.append(finder.find(group, place))
    return Coupling(tuple(coupled), tuple(finder.derived))


def _with_random_weights(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers all differ, so that each is known by its values."""
    own = copy.deepcopy(module).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*own.parameters(), *own.buffers()):
            if tensor.is_floating_point():
                # Positive, as variances are.
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return own


@dataclass(slots=True)
class _Side:
    """What lies along one side of a module or parameter.

    Attributes:
        atoms: The channel of every entry, shape (entries,); see `Channels`.
        problem: Why it cannot be cut; empty if it can.
    """

    atoms: NDArray[np.int64]
    problem: str = ""


@dataclass
class _Finder:
    """Finds the constants of a graph among the parameters of the network it was exported from."""

    module: nn.Module
    graph: PrunableGraph
    derived: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.channels: Channels = self.graph.channels
        self._tensors: dict[str, Values] = {}
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            if tensor.is_floating_point():
                self._tensors[name] = tensor.detach().float().numpy()
        self._shared = shared_parameters(self.module)
        self._readers: dict[str, str] = {}
        view = self.channels.view
        for index in view.active:
            node = view.nodes[index]
            if is_weighted(view, node):
                self._readers.setdefault(view.origin(node.input[1]), node.name)
        self._sides: dict[tuple[str, str], _Side] = {}
        self._lost: list[tuple[Layout, str]] = []
        for cut in self.channels.cuts:
            if not cut.layout.is_fixed:
                self._place(cut.tensor, cut.layout)

    def find(self, group: Group, number: int) -> Coupled:
        """Where the channels of one group of the graph lie."""
        for layout, problem in self._lost:
            if (self.channels.groups[layout.atoms] == number).any():
                return Coupled(group, (), problem)
        places: list[ChannelPlace] = []
        for (path, name), side in self._sides.items():
            entries = np.flatnonzero(self.channels.groups[side.atoms] == number)
            if not len(entries):
                continue
            problem = side.problem
            ranks = self.channels.ranks[side.atoms[entries]]
            found = None if problem else _lay_out(path, name, entries, ranks, group.width)
            if found is None:
                problem = problem or f"its {group.width} channels do not lie evenly in {path}"
                return Coupled(group, (), problem)
            places += found
        return Coupled(group, tuple(places))

    def _place(self, constant: str, layout: Layout) -> None:
        """Note the side of a module or parameter that a cut constant is."""
        name, dim = constant, layout.axis
        value = self.channels.view.value(constant)
        tensor = self._tensors.get(name)
        if value is None:
            return
        if tensor is None or tensor.shape != value.shape:
            match = self._find_values(value, layout.axis)
            if match is None:
                self._place_derived(constant, layout)
                return
            name, dim = match
        for same in self._shared.get(name, (name,)):
            path, _, attribute = same.rpartition(".")
            side = _side_of(self.module.get_submodule(path), attribute, dim)
            if side is None:
                self._add(same, str(dim), layout)
            elif side:
                self._add(path, side, layout)

    def _add(self, path: str, side: str, layout: Layout) -> None:
        entries = layout.entries
        before = self._sides.setdefault((path, side), _Side(entries))
        if (
            len(before.atoms) != len(entries)
            or (self.channels.classes[before.atoms] != self.channels.classes[entries]).any()
        ):
            before.problem = f"{path} is used more than once, for channels of its own each time"

    def _find_values(self, value: Values, axis: int) -> tuple[str, int] | None:
        """The parameter that has the values of a constant, and its dimension that is `axis`."""
        if not value.size:
            return None
        # Sorting is slow for large networks, so that what tells most tensors apart comes first.
        least, most = value.min(initial=np.inf), value.max(initial=-np.inf)
        rows: Values | None = None
        for name, tensor in self._tensors.items():
            if tensor.size != value.size or (tensor.min(), tensor.max()) != (least, most):
                continue
            if rows is None:
                rows = _sorted_rows(value, axis)
            for dim, size in enumerate(tensor.shape):
                if size == value.shape[axis] and np.array_equal(_sorted_rows(tensor, dim), rows):
                    return name, dim
        return self._find_table(value, axis)

    def _find_table(self, value: Values, axis: int) -> tuple[str, int] | None:
        """The parameter some rows of which are a constant, and its dimension that is `axis`.

        Exporters look up in advance what is known, such as embeddings of positions.
        """
        width = value.shape[axis]
        rows = np.moveaxis(value, axis, -1).reshape(-1, width)
        for name, tensor in self._tensors.items():
            if tensor.ndim == 2 and tensor.shape[1] == width and len(tensor) >= len(rows):
                known = {row.tobytes() for row in tensor}
                if all(row.tobytes() in known for row in rows):
                    return name, 1
        return None

    def _place_derived(self, constant: str, layout: Layout) -> None:
        """Note the weight of a layer that computes it from parameters.

        Other constants that are no parameters come out of the code of the network, which makes them
        anew from what is left.
        """
        path = self._readers.get(constant)
        if path is None:
            return
        layer = dict(self.module.named_modules()).get(path)
        value = self.channels.view.value(constant)
        weight = self._tensors.get(f"{path}.weight")
        if (
            not isinstance(layer, (*CONVOLUTIONS, nn.Linear))
            or weight is None
            or value is None
            or weight.shape != value.shape
        ):
            self._lost.append((layout, f"the weight of {path} is no parameter of the network"))
            return
        if path not in self.derived:
            self.derived.append(path)
        side = _side_of(layer, "weight", layout.axis)
        if not side:
            return
        self._add(path, side, layout)
        if side == IN:
            return
        # What the weight is computed from besides: a gain per channel, a running mean.
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            one_per_channel = tensor.ndim and tensor.numel() == len(tensor) == layout.size
            if "." not in name and name not in {"weight", "bias"} and one_per_channel:
                self._add(f"{path}.{name}", "0", layout)


def _side_of(layer: nn.Module, attribute: str, dim: int) -> str | None:
    """The side of a module that a dimension of one of its parameters lies along.

    Returns:
        None where the module is none of those that are cut by sides; empty for a bias, which is cut
        together with the weight.
    """
    if isinstance(layer, (*NORMALIZATIONS, nn.PReLU)):
        return CHANNELS
    if not isinstance(layer, (*CONVOLUTIONS, nn.Linear)) or attribute not in {"weight", "bias"}:
        return None
    if attribute == "bias":
        return ""
    if is_depthwise(layer):
        return CHANNELS
    return OUT if dim == side_dim(layer, OUT) else IN


def _sorted_rows(value: Values, axis: int) -> Values:
    """The values of each entry along an axis, in order of size: known wherever they were put."""
    rows = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
    ordered: Values = np.sort(rows, axis=1)
    return ordered


def _lay_out(
    path: str,
    side: str,
    entries: NDArray[np.int64],
    ranks: NDArray[np.int64],
    width: int,
) -> list[ChannelPlace] | None:
    """The places of channels along a side: runs of entries that recur at even distances.

    Args:
        path: Of the module or parameter.
        side: The side.
        entries: The entries of the group's channels, ascending.
        ranks: The channel that each of them is.
        width: The number of channels.

    Returns:
        None where they are uneven.
    """
    order = np.lexsort((entries, ranks))
    # One row per channel, its entries ascending.
    table = entries[order].reshape(width, -1)
    places = []
    column = 0
    while column < table.shape[1]:
        start = int(table[0, column])
        stride = int(table[1, column]) - start if width > 1 else 0
        expected = start + stride * np.arange(width)
        if (table[:, column] != expected).any():
            return None
        repeat = 1
        while (
            column + repeat < table.shape[1]
            and (table[:, column + repeat] == expected + repeat).all()
        ):
            repeat += 1
        places.append(ChannelPlace(path, side, start, repeat, stride))
        column += repeat
    return places
