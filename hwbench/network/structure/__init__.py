"""What can be pruned in a network, and which layers any pruned version of it has.

Both are computed from the ONNX graph alone.
A *group* is a set of layers whose output channels must shrink together; a *structure* is one width
per group. The layers of a structure are known without building it: `Structure.keys` for one,
`Structure.layer_widths` for a hundred thousand at once. Which channels belong together is worked
out in `hwbench.network.structure.channels`; what cannot be followed there is fixed at its width, as
are the network's inputs and outputs. A concatenation is followed: its reader's channels then come
from several groups. So is a split: its channels may then be of several groups, too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from operator import index as as_integer
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import UnsupportedLayerError, UsageError
from hwbench.network.graph import Layer, layers
from hwbench.network.graph.keys import is_weighted
from hwbench.network.graph.view import GraphView
from hwbench.network.structure.blocks import Block, blocks
from hwbench.network.structure.channels import Channels, Layout
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

FIXED = -1
SEVERAL = -2


@dataclass(frozen=True, slots=True)
class Group:
    """Layers whose output channels shrink together.

    Attributes:
        name: Module path of the first producer, with the first channel in brackets where other
            groups hold those before it (`cv1.conv[16]`).
        width: Original number of channels.
        producers: Convolutions, linear layers and embeddings that make the channels.
        followers: Depth-wise convolutions that hand them on.
        consumers: Convolutions and linear layers that read them, depth-wise ones apart.
        unit: Entries of its producers' outputs that one channel stands for, at least; more than 1
            where equal parts lose the same (a grouped convolution of 32 groups: 32).
    """

    name: str
    width: int
    producers: tuple[str, ...]
    followers: tuple[str, ...]
    consumers: tuple[str, ...]
    unit: int = 1


@dataclass(frozen=True, slots=True)
class Dimension:
    """Size of one channel dimension: `fixed + sum(scale * width[group])`.

    Attributes:
        axis: The dimension.
        fixed: Entries that no group decides on.
        terms: Pairs of group and scale, the entries that each channel of the group takes.
    """

    axis: int
    fixed: int
    terms: tuple[tuple[int, int], ...]

    def size(self, widths: Sequence[int]) -> int:
        """Its size in one structure."""
        return self.fixed + sum(scale * widths[group] for group, scale in self.terms)

    def renumbered(self, numbers: Sequence[int]) -> Dimension:
        """The same dimension where each group has another number."""
        return replace(self, terms=tuple((numbers[group], scale) for group, scale in self.terms))

    @property
    def group(self) -> int:
        """The one group it depends on; `FIXED` for none, `SEVERAL` behind a concatenation."""
        groups = {group for group, _ in self.terms}
        if not groups:
            return FIXED
        return groups.pop() if len(groups) == 1 else SEVERAL


@dataclass(frozen=True, slots=True)
class Slot:
    """Place of one layer in every structure of a network.

    Attributes:
        layer: The layer in the original network.
        inputs: Channel dimension of each activation it reads.
        output: Channel dimension of the one it writes.
        depthwise: Whether its `group` attribute equals its input channels.
        size_arguments: Attributes of its key that name numbers of channels, each a list of sizes.
    """

    layer: Layer
    inputs: tuple[Dimension, ...]
    output: Dimension
    depthwise: bool
    size_arguments: tuple[tuple[str, tuple[Dimension, ...]], ...] = ()

    def key(self, widths: Sequence[int]) -> LayerKey:
        """Identity of the layer in the structure `widths`."""
        key = self.layer.key
        inputs = tuple(
            _resize(shape, dim, widths) for shape, dim in zip(key.inputs, self.inputs, strict=True)
        )
        output = _resize(key.output, self.output, widths)
        attrs = dict(key.attrs)
        if self.depthwise:
            attrs["group"] = str(self.inputs[0].size(widths))
        for name, sizes in self.size_arguments:
            if name in attrs:
                # Shapes of constants are spelled as shapes, other numbers as lists.
                mark = "x" if "x" in attrs[name] else "."
                attrs[name] = mark.join(str(size.size(widths)) for size in sizes)
        return replace(key, inputs=inputs, output=output, attrs=tuple(attrs.items()))

    def renumbered(self, numbers: Sequence[int]) -> Slot:
        """The same place where each group has another number."""
        arguments = []
        for name, sizes in self.size_arguments:
            arguments.append((name, tuple(size.renumbered(numbers) for size in sizes)))
        return replace(
            self,
            inputs=tuple(dimension.renumbered(numbers) for dimension in self.inputs),
            output=self.output.renumbered(numbers),
            size_arguments=tuple(arguments),
        )

    @property
    def groups(self) -> tuple[int, ...]:
        """Groups whose widths change the layer, ascending."""
        groups: set[int] = set()
        for dimension in (*self.inputs, self.output):
            groups.update(group for group, _ in dimension.terms)
        return tuple(sorted(groups))


@dataclass(frozen=True)
class Structure:
    """Prunable groups, droppable blocks and layers of one network.

    Attributes:
        groups: In the order of their first producers.
        blocks: Residual blocks that can be dropped, in graph order.
        slots: One per layer, in execution order.
    """

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    slots: tuple[Slot, ...]

    @classmethod
    def from_model(cls, model: ModelProto) -> Structure:
        """Work out the structure of a loaded model.

        Raises:
            UnsupportedLayerError: A tensor's shape is not fixed.
        """
        return cls.from_channels(Channels(GraphView(model)))

    @classmethod
    def from_channels(cls, channels: Channels) -> Structure:
        """The structure of a graph whose channels were followed already.

        Raises:
            UnsupportedLayerError: A tensor's shape is not fixed.
        """
        view = channels.view
        depthwise = {view.nodes[index].name for index in channels.depthwise}
        size_arguments = {}
        for index in channels.size_arguments:
            name = view.nodes[index].name
            size_arguments[name] = _describe_size_arguments(channels, index)
        for index, layout in channels.tables.items():
            rows = view.shape(view.nodes[index].input[0])[0]
            table = (Dimension(0, rows, ()), channel_dimension(channels, layout))
            size_arguments[view.nodes[index].name] = (("data", table),)
        slots = []
        for layer in layers(view):
            inputs = tuple(
                channel_dimension(channels, channels.layouts[name]) for name in layer.inputs
            )
            output = channel_dimension(channels, channels.layouts[layer.output])
            slots.append(
                Slot(
                    layer,
                    inputs,
                    output,
                    layer.name in depthwise,
                    size_arguments.get(layer.name, ()),
                )
            )
        return cls(list_groups(channels), blocks(view), tuple(slots))

    @cached_property
    def architecture(self) -> str:
        """SHA-256 of the keys of the unpruned layers.

        Networks that differ in their weights alone share it.
        """
        text = "\n".join(str(slot.layer.key) for slot in self.slots)
        return sha256(text.encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Module paths of the layers, in execution order."""
        return tuple(slot.layer.name for slot in self.slots)

    @property
    def widths(self) -> tuple[int, ...]:
        """The original widths."""
        return tuple(group.width for group in self.groups)

    @property
    def units(self) -> tuple[int, ...]:
        """Entries that one channel of each group stands for, see `Group`."""
        return tuple(group.unit for group in self.groups)

    def resolve(self, widths: Sequence[int]) -> tuple[int, ...]:
        """Check one structure.

        Raises:
            UsageError: Another number of widths than groups, or one that is no whole number from 1
                to the original.
        """
        if len(widths) != len(self.groups):
            raise UsageError(
                f"{len(widths)} widths given, expected {len(self.groups)}: one per prunable group"
            )
        resolved = []
        for group, width in zip(self.groups, widths, strict=True):
            try:
                resolved.append(as_integer(width))
            except TypeError as error:
                raise UsageError(
                    f"width {width!r} of group {group.name} is no whole number"
                ) from error
            if not 1 <= resolved[-1] <= group.width:
                raise UsageError(
                    f"width {width} of group {group.name} is out of range, expected 1 to"
                    f" {group.width}"
                )
        return tuple(resolved)

    def keys(self, widths: Sequence[int], dropped: Iterable[str] = ()) -> tuple[LayerKey, ...]:
        """The layers of one structure, in execution order: those of `PrunableGraph.with_widths`.

        Args:
            widths: One per group.
            dropped: Names of blocks whose layers are left out. The others are taken to stay as they
                are, which is so in most networks; `PrunableNetwork.keys_without` looks.

        Raises:
            UsageError: As `resolve`, or a name is no droppable block.
        """
        resolved = self.resolve(widths)
        gone = self.nodes_of(dropped)
        return tuple(slot.key(resolved) for slot in self.slots if slot.layer.name not in gone)

    def nodes_of(self, blocks: Iterable[str]) -> set[str]:
        """Names of the nodes, and so of the layers, that go with blocks.

        Raises:
            UsageError: A name is no droppable block.
        """
        nodes = {block.name: block.nodes for block in self.blocks}
        gone: set[str] = set()
        for name in blocks:
            if name not in nodes:
                raise UsageError(
                    f"{name!r} is no block that can be left out; those are"
                    f" {', '.join(nodes) or 'none'}"
                )
            gone.update(nodes[name])
        return gone

    def widths_of(self, keys: Sequence[LayerKey]) -> tuple[int, ...] | None:
        """The structure that has the layers `keys`, in execution order; None if there is none."""
        if len(keys) != len(self.slots):
            return None
        # Read each width off a layer whose output depends on that group alone, then check them all.
        widths = list(self.widths)
        for slot, key in zip(self.slots, keys, strict=True):
            dimension = slot.output
            if len(dimension.terms) == 1 and dimension.axis < len(key.output):
                ((group, scale),) = dimension.terms
                widths[group] = (key.output[dimension.axis] - dimension.fixed) // scale
        for width, most in zip(widths, self.widths, strict=True):
            if not 1 <= width <= most:
                return None
        return tuple(widths) if self.keys(widths) == tuple(keys) else None

    def with_groups_of(self, original: Structure) -> Structure:
        """The same layers, their widths told by the groups of another form of the network.

        Groups go by the layers that make their channels, and, where one layer makes those of
        several, by their order.

        Args:
            original: The network in the form whose groups are to be used, as it was before it was
                converted.

        Raises:
            UnsupportedLayerError: The two have other groups.
        """
        places: defaultdict[tuple[frozenset[str], int], list[int]] = defaultdict(list)
        for place, group in enumerate(original.groups):
            places[frozenset(group.producers), group.width].append(place)
        numbers = []
        for group in self.groups:
            candidates = places[frozenset(group.producers), group.width]
            if not candidates:
                raise UnsupportedLayerError(
                    f"after its conversion the channels of {group.name} belong together with others"
                    " than before, so widths of the two cannot be told apart; search on another"
                    " device"
                )
            numbers.append(candidates.pop(0))
        if len(numbers) != len(original.groups):
            missing = [original.groups[place].name for rest in places.values() for place in rest]
            raise UnsupportedLayerError(
                f"after its conversion the channels of {', '.join(missing)} cannot be pruned any"
                " more; search on another device"
            )
        slots = tuple(slot.renumbered(numbers) for slot in self.slots)
        return Structure(original.groups, original.blocks, slots)

    @cached_property
    def in_group(self) -> NDArray[np.int64]:
        """Group that sets the channels of each layer's first input, shape (layers,).

        `FIXED` where none does, `SEVERAL` where several do.
        """
        return np.array([_ends(slot)[0].group for slot in self.slots], np.int64)

    @cached_property
    def out_group(self) -> NDArray[np.int64]:
        """Group that sets each layer's output channels, shape (layers,); `FIXED` or `SEVERAL`."""
        return np.array([slot.output.group for slot in self.slots], np.int64)

    def layer_widths(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input and output channels of every layer in many structures at once.

        A flattened map counts its positions: VGG-16's first linear layer reads 49 channels per
        width.

        Args:
            widths: Shape (n, groups).

        Returns:
            Shape (n, layers, 2): channels of the first input, channels of the output.

        Raises:
            UsageError: The array has another shape, is not of integers, or holds a width out of
                range.
        """
        wide = np.asarray(widths)
        expected = np.array(self.widths, np.int64)
        if (
            wide.ndim != 2
            or wide.shape[1] != len(expected)
            or not np.issubdtype(wide.dtype, np.integer)
        ):
            raise UsageError(
                f"widths are {wide.dtype} of shape {wide.shape}, expected integers of shape (n,"
                f" {len(expected)})"
            )
        outside = np.argwhere((wide < 1) | (wide > expected))
        if len(outside):
            row, group = outside[0]
            self.resolve(wide[row].tolist())
        # Nearly every channel count is scale * width + fixed of one group, so one indexing answers
        # all of them; a further column of zeros stands for "no group" (index -1).
        group, scale, fixed, further_terms = self._affine
        padded = np.concatenate([wide, np.zeros((len(wide), 1), np.int64)], axis=1)
        sizes = padded[:, group] * scale + fixed
        for place, further_group, factor in further_terms:
            sizes[:, place] += factor * wide[:, further_group]
        return sizes.reshape(len(wide), len(self.slots), 2)

    @cached_property
    def _affine(
        self,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], list[tuple[int, int, int]]]:
        """Every channel count as an affine function of widths.

        Returns:
            By place (first input of layer 0, output of layer 0, first input of layer 1, ...) the
            first group (-1 for none), its scale and what is fixed; and (place, group, scale) of all
            further terms.
        """
        first_terms, fixed, further_terms = [], [], []
        dimensions = [dimension for slot in self.slots for dimension in _ends(slot)]
        for place, dimension in enumerate(dimensions):
            first_terms.append(dimension.terms[0] if dimension.terms else (FIXED, 0))
            fixed.append(dimension.fixed)
            for further_group, factor in dimension.terms[1:]:
                further_terms.append((place, further_group, factor))
        group, scale = np.array(first_terms, np.int64).reshape(-1, 2).T
        return group, scale, np.array(fixed, np.int64), further_terms


def _ends(slot: Slot) -> tuple[Dimension, Dimension]:
    """Channels of the first input and of the output; of the output twice where nothing is read."""
    return (slot.inputs[0] if slot.inputs else slot.output), slot.output


def _resize(shape: Shape, dimension: Dimension, widths: Sequence[int]) -> Shape:
    if not dimension.terms:
        return shape
    return (*shape[: dimension.axis], dimension.size(widths), *shape[dimension.axis + 1 :])


def channel_dimension(channels: Channels, layout: Layout) -> Dimension:
    """Size of the channel dimension of a tensor, as a sum over groups."""
    groups, counts = np.unique(channels.groups[layout.atoms], return_counts=True)
    fixed, terms = 0, []
    for group, count in zip(groups.tolist(), counts.tolist(), strict=True):
        if group < 0:
            fixed = count * layout.repeat
        else:
            terms.append((group, count * layout.repeat // channels.widths[group]))
    return Dimension(layout.axis, fixed, tuple(terms))


def _describe_size_arguments(
    channels: Channels, index: int
) -> tuple[tuple[str, tuple[Dimension, ...]], ...]:
    """The arguments of a node that are numbers of channels, as sizes."""
    arguments = []
    for name, numbers in channels.size_arguments[index].items():
        sizes = []
        for number in numbers:
            if isinstance(number, int):
                sizes.append(Dimension(0, number, ()))
            else:
                sizes.append(channel_dimension(channels, number))
        arguments.append((name, tuple(sizes)))
    return tuple(arguments)


def list_groups(channels: Channels) -> tuple[Group, ...]:
    """The prunable groups, each with the layers that make, hand on and read its channels."""
    view = channels.view
    count = len(channels.widths)
    names = [""] * count
    units = [0] * count
    producers: list[list[str]] = [[] for _ in range(count)]
    followers: list[list[str]] = [[] for _ in range(count)]
    consumers: list[list[str]] = [[] for _ in range(count)]
    for index in view.active:
        node = view.nodes[index]
        if is_weighted(view, node):
            readers = followers if index in channels.depthwise else consumers
            for group in channels.groups_in(channels.layouts[view.resolve(node.input[0])]):
                readers[group].append(node.name)
        made = channels.made.get(index) or channels.tables.get(index)
        if made is None:
            continue
        for group, unit in channel_dimension(channels, made).terms:
            if not names[group]:
                first = int(np.argmax(channels.groups[made.atoms] == group))
                names[group] = f"{node.name}[{first}]" if first else node.name
            units[group] = min(units[group] or unit, unit)
            producers[group].append(node.name)
    return tuple(
        Group(
            names[place],
            channels.widths[place],
            tuple(producers[place]),
            tuple(followers[place]),
            tuple(consumers[place]),
            units[place],
        )
        for place in range(count)
    )
