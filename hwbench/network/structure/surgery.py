"""Smaller versions of an ONNX graph, without the framework it came from.

They have other widths, or whole blocks are left out. They have the layers, and so the latency, of
the pruned network; its accuracy is another matter, as the first channels are kept, not the best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import UsageError
from hwbench.network.graph.shapes import infer_shapes
from hwbench.network.graph.view import GraphView, reads
from hwbench.network.structure import Structure
from hwbench.network.structure.channels import Channels, Layout

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Integers = NDArray[np.int64]


class PrunableGraph:
    """A graph from which smaller versions are cut, as often as wanted.

    Which channels belong together is worked out once, when it is made.

    Attributes:
        model: The original, which stays as it is.
        structure: What can be pruned in it.
        channels: Which of its channels belong together.

    Args:
        model: From `hwbench.network.graph.load`.

    Raises:
        UnsupportedLayerError: A tensor's shape is not fixed.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.channels = Channels(GraphView(model))
        self.structure = Structure.from_channels(self.channels)

    def with_widths(self, widths: Sequence[int]) -> ModelProto:
        """The model with each prunable group cut to its first `widths[group]` channels.

        Args:
            widths: One per group of `structure`.

        Returns:
            A loaded model whose layers have exactly the keys `structure.keys(widths)`.

        Raises:
            UsageError: As `Structure.resolve`.
        """
        return self.smaller(widths, ())

    def without_blocks(self, names: Iterable[str]) -> ModelProto:
        """The model with the named blocks replaced by identities.

        Args:
            names: Of blocks of `structure`.

        Raises:
            UsageError: A name is no droppable block.
        """
        return self.smaller(self.structure.widths, names)

    def smaller(self, widths: Sequence[int], dropped: Iterable[str]) -> ModelProto:
        """The model with other widths, as `with_widths`, and without blocks, as `without_blocks`.

        Args:
            widths: One per group of `structure`.
            dropped: Names of the blocks that are replaced by identities.

        Raises:
            UsageError: As `Structure.resolve`, or a name is no droppable block.
        """
        resolved = self.structure.resolve(widths)
        removed_nodes, replacements = self._blocks_to_remove(dropped)
        # A constant follows the channels along several axes (a convolution's weight those it reads
        # and those it makes), so all cuts of one tensor are gathered before any is made.
        cuts: defaultdict[str, dict[int, Integers]] = defaultdict(dict)
        for cut in self.channels.cuts:
            cuts[cut.tensor][cut.layout.axis] = self.channels.kept_entries(cut.layout, resolved)
        weights = [
            _cut_tensor(tensor, cuts.get(tensor.name, {}))
            for tensor in self.model.graph.initializer
        ]
        nodes: list[NodeProto] = list(self.model.graph.node)
        shapes: list[TensorProto] = []
        if resolved != self.structure.widths:
            nodes, shapes = self._nodes(resolved)
        if removed_nodes:
            nodes = _rewire(nodes, self.model.graph, removed_nodes, replacements)
        return _rebuild(self.model, nodes, [*weights, *shapes])

    def _blocks_to_remove(self, names: Iterable[str]) -> tuple[set[str], dict[str, str]]:
        """Nodes that go with blocks, and what is read instead of the blocks' outputs."""
        blocks = {block.name: block for block in self.structure.blocks}
        removed_nodes: set[str] = set()
        replacements: dict[str, str] = {}
        for name in names:
            if name not in blocks:
                known = ", ".join(blocks) or "none"
                raise UsageError(
                    f"{name!r} is no droppable block of this network; droppable: {known}"
                )
            block = blocks[name]
            removed_nodes.update(block.nodes)
            replacements[block.output] = block.input
        return removed_nodes, replacements

    def _nodes(self, widths: tuple[int, ...]) -> tuple[list[NodeProto], list[TensorProto]]:
        """The nodes of the cut graph, and the constants that some of them need.

        Some nodes hold channel counts of their own: depth-wise convolutions in `group`, reshapes
        and the like in the shape they make, slices and splits in where they cut.
        """
        view, channels = self.channels.view, self.channels
        nodes: list[NodeProto] = []
        constants: list[TensorProto] = []
        for index, node in enumerate(view.nodes):
            layout = channels.layouts.get(view.resolve(node.output[0]))
            if index in channels.depthwise:
                kept = channels.kept_entries(channels.depthwise[index], widths)
                nodes.append(_with_group(node, len(kept)))
            elif node.op_type == "Reshape" and layout is not None:
                shape = list(view.shape(node.output[0]))
                shape[layout.axis] = len(channels.kept_entries(layout, widths))
                nodes.append(_with_numbers(node, "shape", shape, constants))
            else:
                nodes.append(self._tell(index, node, widths, constants))
        return nodes, constants

    def _tell(
        self, index: int, node: NodeProto, widths: tuple[int, ...], constants: list[TensorProto]
    ) -> NodeProto:
        """The node, told the numbers of channels that are left."""
        for name, numbers in self.channels.size_arguments.get(index, {}).items():
            sizes = [
                number if isinstance(number, int) else self._size(number, widths)
                for number in numbers
            ]
            node = _with_numbers(node, name, sizes, constants)
        return node

    def _size(self, layout: Layout, widths: tuple[int, ...]) -> int:
        return len(self.channels.kept_entries(layout, widths))


def _rewire(
    nodes: Iterable[NodeProto], graph: GraphProto, removed: set[str], replacements: dict[str, str]
) -> list[NodeProto]:
    """Nodes without those `removed`, each reading the replacements of its inputs.

    Graph outputs keep their names: one that is replaced is written by an Identity.
    """
    from onnx import NodeProto
    from onnx.helper import make_node

    def source(name: str) -> str:
        # Blocks that follow each other are replaced in a chain.
        while name in replacements:
            name = replacements[name]
        return name

    rewired = []
    for node in nodes:
        if node.name not in removed:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [source(name) for name in node.input]
            rewired.append(copy)
    ends = [value.name for value in graph.output if value.name in replacements]
    return rewired + [
        make_node("Identity", [source(name)], [name], name=f"{name}/Identity") for name in ends
    ]


def _with_group(node: NodeProto, group: int) -> NodeProto:
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.name == "group":
            attribute.i = group
    return copy


_POSITIONS = {
    "Reshape": {"shape": 1},
    "Expand": {"shape": 1},
    "Resize": {"sizes": 3},
    "Slice": {"starts": 1, "ends": 2},
    "Split": {"split": 1},
}
"""By operator, where it is told numbers of channels."""


def _with_numbers(
    node: NodeProto, name: str, numbers: Sequence[int], constants: list[TensorProto]
) -> NodeProto:
    """A node that is told other numbers.

    They are a constant of its own, which is added to `constants`; or an attribute where it has one,
    as in older operator sets.
    """
    from onnx import NodeProto, numpy_helper
    from onnx.helper import make_attribute

    copy = NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.name == name:
            attribute.CopyFrom(make_attribute(name, list(numbers)))
            return copy
    position = _POSITIONS[node.op_type][name]
    copy.input[position] = f"{node.output[0]} {name}"
    constants.append(numpy_helper.from_array(np.asarray(numbers, np.int64), copy.input[position]))
    return copy


def _cut_tensor(tensor: TensorProto, kept: dict[int, Integers]) -> TensorProto:
    """A constant of which only the entries `kept` along each axis stay."""
    from onnx import numpy_helper

    if all(len(indices) == tensor.dims[axis] for axis, indices in kept.items()):
        return tensor
    value: NDArray[Any] = numpy_helper.to_array(tensor)
    for axis, indices in kept.items():
        value = np.take(value, indices, axis)
    return numpy_helper.from_array(np.ascontiguousarray(value), tensor.name)


def _rebuild(
    model: ModelProto, nodes: Sequence[NodeProto], weights: Iterable[TensorProto]
) -> ModelProto:
    """A loaded model of those nodes and weights that the outputs of `model` still need."""
    import onnx

    # Nodes are in the order of execution: backwards, all readers of a tensor come before its maker.
    needed = {value.name for value in model.graph.output}
    used_nodes = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            used_nodes.append(node)
            needed.update(reads(node))
    constants = {tensor.name for tensor in model.graph.initializer}
    smaller = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    smaller.graph.name = model.graph.name
    smaller.graph.node.extend(reversed(used_nodes))
    smaller.graph.input.extend(value for value in model.graph.input if value.name not in constants)
    smaller.graph.output.extend(model.graph.output)
    smaller.graph.initializer.extend(tensor for tensor in weights if tensor.name in needed)
    infer_shapes(smaller)
    return smaller
