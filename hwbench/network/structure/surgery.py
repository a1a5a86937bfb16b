"""Smaller versions of an ONNX graph, without the framework it came from: other widths, or whole blocks left out.

They have the layers, and so the latency, of the pruned network; its accuracy is another matter, as
the first channels are kept, not the best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UsageError
from hwbench.network.graph.shapes import infer_shapes
from hwbench.network.graph.view import GraphView, reads
from hwbench.network.structure import Structure, group_numbers
from hwbench.network.structure.channels import Channels, Span

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def with_widths(model: ModelProto, widths: Sequence[int]) -> ModelProto:
    """The model with each prunable group cut to its first `widths[group]` channels.

    Args:
        model: A loaded model, nodes named; it is left as it is.
        widths: One per group of `Structure.from_model(model)`.

    Returns:
        A loaded model whose layers have exactly the keys `Structure.keys(widths)`.

    Raises:
        UsageError: As `Structure.resolve`.
    """
    resolved = Structure.from_model(model).resolve(widths)
    view = GraphView(model)
    channels = Channels(view)
    number = group_numbers(channels)

    def width(maker: int) -> int:
        group = number.get(channels.root(maker))
        return channels.width(maker) if group is None else resolved[group]

    def kept(spans: tuple[Span, ...]) -> NDArray[np.int64]:
        parts, start = [], 0
        for maker, repeat in spans:
            parts.append(start + np.arange(width(maker) * repeat))
            start += channels.width(maker) * repeat
        return np.concatenate(parts)

    cuts: defaultdict[str, dict[int, NDArray[np.int64]]] = defaultdict(dict)
    for cut in channels.cuts:
        cuts[cut.tensor][cut.axis] = kept(cut.spans)
    nodes: list[NodeProto] = []
    shapes: list[TensorProto] = []
    for index, node in enumerate(view.nodes):
        layout = channels.layouts.get(view.resolve(node.output[0]))
        if index in channels.depthwise:
            nodes.append(_with_group(node, len(kept(channels.depthwise[index].spans))))
        elif node.op_type == "Reshape" and layout is not None:
            shape = list(view.shape(node.output[0]))
            shape[layout.axis] = len(kept(layout.spans))
            nodes.append(_with_shape(node, shape, shapes))
        else:
            nodes.append(node)
    weights = [_cut(tensor, cuts.get(tensor.name, {})) for tensor in model.graph.initializer]
    return _rebuilt(model, nodes, [*weights, *shapes])


def without_blocks(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """The model with the named blocks replaced by identities.

    Args:
        model: A loaded model, nodes named; it is left as it is.
        names: Of blocks of `Structure.from_model(model)`.

    Raises:
        UsageError: A name is no droppable block.
    """
    blocks = {block.name: block for block in Structure.from_model(model).blocks}
    chosen = list(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in blocks]
    if unknown:
        known = ", ".join(blocks) or "none"
        raise UsageError(
            f"{unknown[0]!r} is no droppable block of this network; droppable: {known}"
        )
    gone = {node for name in chosen for node in blocks[name].nodes}
    instead = {blocks[name].output: blocks[name].input for name in chosen}
    return _rebuilt(model, _rewired(model.graph, gone, instead), model.graph.initializer)


def _rewired(graph: GraphProto, gone: set[str], instead: dict[str, str]) -> list[NodeProto]:
    """Nodes without those `gone`, each reading what stands `instead` of its inputs.

    Graph outputs keep their names.
    """
    from onnx import NodeProto
    from onnx.helper import make_node

    def source(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    nodes = []
    for node in graph.node:
        if node.name not in gone:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [source(name) for name in node.input]
            nodes.append(copy)
    ends = [value.name for value in graph.output if value.name in instead]
    return nodes + [
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


def _with_shape(node: NodeProto, shape: Sequence[int], constants: list[TensorProto]) -> NodeProto:
    """A Reshape to a constant shape of its own, which is added to `constants`."""
    from onnx import NodeProto, numpy_helper

    copy = NodeProto()
    copy.CopyFrom(node)
    copy.input[1] = f"{node.output[0]} shape"
    constants.append(numpy_helper.from_array(np.asarray(shape, np.int64), copy.input[1]))
    return copy


def _cut(tensor: TensorProto, kept: dict[int, NDArray[np.int64]]) -> TensorProto:
    from onnx import numpy_helper

    if all(len(indices) == tensor.dims[axis] for axis, indices in kept.items()):
        return tensor
    value: NDArray[Any] = numpy_helper.to_array(tensor)
    for axis, indices in kept.items():
        value = np.take(value, indices, axis)
    return numpy_helper.from_array(np.ascontiguousarray(value), tensor.name)


def _rebuilt(
    model: ModelProto, nodes: Sequence[NodeProto], weights: Iterable[TensorProto]
) -> ModelProto:
    """A loaded model of those nodes and weights that the outputs of `model` still need."""
    import onnx

    needed = {value.name for value in model.graph.output}
    live = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            live.append(node)
            needed.update(reads(node))
    made = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    constants = {tensor.name for tensor in model.graph.initializer}
    made.graph.name = model.graph.name
    made.graph.node.extend(reversed(live))
    made.graph.input.extend(value for value in model.graph.input if value.name not in constants)
    made.graph.output.extend(model.graph.output)
    made.graph.initializer.extend(tensor for tensor in weights if tensor.name in needed)
    infer_shapes(made)
    return made
