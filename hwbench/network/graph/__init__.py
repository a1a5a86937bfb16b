"""ONNX graph -> ordered layers after fusion, their keys, multiply-accumulates and parameters.

What counts as one layer is said in `hwbench.network.graph.fusion`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import UnsupportedLayerError, WorkloadError
from hwbench.network.graph.counting import (
    PRECISIONS,
    Place,
    Scope,
    Tally,
    count_node,
    learned_parameters,
)
from hwbench.network.graph.counting import Counts as Counts
from hwbench.network.graph.counting import find_precision as find_node_precision
from hwbench.network.graph.fusion import Fusion, fusions
from hwbench.network.graph.keys import CONVOLUTIONS, QUANTIZERS, is_weighted, key_of, precision
from hwbench.network.graph.shapes import infer_shapes
from hwbench.network.graph.view import GraphView, first_output, subgraphs
from hwbench.network.weight_files import read_values
from hwbench.records.layer_key import LayerKey

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto


@dataclass(frozen=True, slots=True)
class PartialLayer:
    """One layer after fusion, which may have no key.

    Attributes:
        name: Name of its main node: the module path where the graph came from torch.
        op: Operator of its key, or of its main node.
        key: Identity; None where the shapes of its tensors are not known, or it reads or writes
            something else than tensors.
        nodes: Names of all original nodes it covers, in graph order.
        inputs: Activation tensors it reads.
        output: Tensor it writes (the first, where there are several).
        macs: Multiply-accumulates per inference, whole batch; 0 unless a convolution or linear
            layer.
        params: Elements of its weights and biases.
    """

    name: str
    op: str
    key: LayerKey | None
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    macs: int
    params: int


@dataclass(frozen=True, slots=True)
class Layer(PartialLayer):
    """One layer after fusion; see `PartialLayer`."""

    key: LayerKey


def load(data: bytes) -> ModelProto:
    """Parse, check and shape-infer an ONNX model, and name its nodes (`name_nodes`).

    Weights may be in other files if their checksums are here, as intake leaves them.

    Raises:
        WorkloadError: The bytes are no valid ONNX model, or keep other weights in other files.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        if not model.graph.node:
            raise WorkloadError(
                f"{len(data)} bytes hold no ONNX graph with nodes; expected a serialised ModelProto"
            )
        infer_shapes(model)
    except (
        DecodeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        ValueError,
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WorkloadError(
            f"not a valid ONNX model of {len(data)} bytes: {reason}; export it again"
        ) from error
    return name_nodes(model)


def name_nodes(model: ModelProto) -> ModelProto:
    """Give every node a unique name, in place; unique names that exist stay.

    A node without one is called after its weight (`features.0` for `features.0.weight`), else after
    its output tensor and operator (`relu_3/Relu`). Nodes in bodies of control flow come after those
    of the graph.

    Returns:
        The same model.
    """
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")}
    kept: set[str] = set()
    nameless = []
    for node in iterate_nodes(model.graph):
        if node.name and node.name not in kept:
            kept.add(node.name)
        else:
            nameless.append(node)
    for node in nameless:
        stems = [name.removesuffix(".weight") for name in node.input if name in weights]
        base = node.name or (
            stems[0] if stems else f"{first_output(node) or 'node'}/{node.op_type}"
        )
        names = (base if turn == 0 else f"{base}_{turn}" for turn in range(len(kept) + 1))
        node.name = next(name for name in names if name not in kept)
        kept.add(node.name)
    return model


def iterate_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Iterate over the nodes of a graph, then over those of the bodies that they hold."""
    yield from graph.node
    for node in graph.node:
        for body in subgraphs(node):
            yield from iterate_nodes(body)


def layers(model: ModelProto | GraphView) -> tuple[Layer, ...]:
    """The layers of a loaded model, in execution order.

    Args:
        model: From `load`, or the view of such a model.

    Raises:
        UnsupportedLayerError: A tensor's shape is not fixed.
    """
    view = model if isinstance(model, GraphView) else GraphView(model)
    return tuple(_layer(view, fusion) for fusion in fusions(view))


def all_layers(model: ModelProto | GraphView) -> tuple[PartialLayer, ...]:
    """The layers of a loaded model, in execution order, also those that have no key.

    Args:
        model: From `load`, or the view of such a model.
    """
    view = model if isinstance(model, GraphView) else GraphView(model)
    found: list[PartialLayer] = []
    for fusion in fusions(view):
        try:
            found.append(_layer(view, fusion))
        except UnsupportedLayerError:
            node = view.nodes[fusion.main]
            names = _names(view, fusion)
            found.append(
                PartialLayer(
                    node.name, node.op_type, None, names, tuple(fusion.inputs), fusion.tail, 0, 0
                )
            )
    return tuple(found)


def made_by(model: ModelProto, parts: Iterable[Layer]) -> dict[str, Layer]:
    """For every activation tensor of a model, inside a fusion too, the layer that writes it.

    A driver whose runtime keeps the names of tensors joins its rows by them.

    Args:
        model: The loaded model.
        parts: Its `layers`.
    """
    owner = {node: layer for layer in parts for node in layer.nodes}
    view = GraphView(model)
    made: dict[str, Layer] = {}
    for node in view.nodes:
        for name in filter(None, node.output):
            maker = view.maker(name)
            if maker is not None and maker.name in owner:
                made[name] = owner[maker.name]
    return made


def count(model: ModelProto, executions: Mapping[str, int] | None = None) -> Counts:
    """Multiply-accumulates and parameters of a loaded model.

    What is counted says `hwbench.network.graph.counting`. Parameters are the elements of
    floating-point constants (or their quantised form) that layers use, batch normalization folded
    into the convolution before it; shared ones count once; scales and zero points of a quantised
    graph do not.

    Args:
        model: The model.
        executions: How often each node ran in one inference, by name, where that was seen; it says
            how often the bodies of loops run.
    """
    view = GraphView(model)
    tally = Tally()  # parameters by constant, so that shared ones count once
    for fusion in fusions(view):
        for index in sorted(fusion.members):
            count_node(tally, view.nodes[index], view, executions)
        tally.parameters |= _parameters(view, fusion)
    return Counts(
        tally.total_macs,
        sum(tally.parameters.values()),
        tuple(tally.uncounted),
        tuple(tally.branches),
    )


def find_precision(model: ModelProto) -> str:
    """Find the precision that a loaded model computes in: that of most of its weights.

    Weights are those of matrix products, convolutions and recurrent layers. Of a model without any
    it is the type of its inputs, `fp32` if they hold no floats.
    """
    view = GraphView(model)
    elements: Counter[str] = Counter()
    for index in view.active:
        _add_precisions(elements, view.nodes[index], view)
    if elements:
        return elements.most_common(1)[0][0]
    operators = {view.nodes[index].op_type for index in view.active}
    if not operators.isdisjoint(QUANTIZERS):
        return "int8"
    for value in model.graph.input:
        name = PRECISIONS.get(view.element_type(value.name), "")
        if name.startswith(("fp", "bf")):
            return name
    return "fp32"


def _add_precisions(elements: Counter[str], node: NodeProto, place: Place) -> None:
    """Add the weights of a node and its bodies to the elements of each precision."""
    found = find_node_precision(node, place)
    if found is not None:
        elements[found[0]] += found[1]
    for body in subgraphs(node):
        scope = Scope(body, place, "")
        for inner in body.node:
            _add_precisions(elements, inner, scope)


def zero_share(model: ModelProto, weights_folder: Path | None = None) -> float:
    """Share of exact zeros among the weights of all convolutions and linear layers, 0 to 1.

    0 for a model without any.

    Args:
        model: The model.
        weights_folder: Where weights lie that are not inside; None leaves them out.
    """
    view = GraphView(model)
    names = {
        view.origin(node.input[1])
        for node in (view.nodes[index] for index in view.active)
        if is_weighted(view, node)
    }
    total, zeros = 0, 0
    for name in sorted(names):
        for values in _iterate_values(view, name, weights_folder):
            total += values.size
            zeros += values.size - int(np.count_nonzero(values))
    return zeros / total if total else 0.0


def _iterate_values(
    view: GraphView, name: str, weights_folder: Path | None
) -> Iterator[NDArray[Any]]:
    """Give the values of a constant, some at a time where they lie in another file."""
    value = view.value(name)
    if value is not None:
        yield value
        return
    tensor = view.initializers.get(view.resolve(name))
    if tensor is not None and weights_folder is not None:
        yield from read_values(tensor, weights_folder)


def _layer(view: GraphView, fusion: Fusion) -> Layer:
    node = view.nodes[fusion.main]
    key = _key(view, fusion)
    parameters = sum(_parameters(view, fusion).values())
    return Layer(
        node.name,
        key.op,
        key,
        _names(view, fusion),
        tuple(fusion.inputs),
        fusion.tail,
        key.macs if is_weighted(view, node) else 0,
        parameters,
    )


def _key(view: GraphView, fusion: Fusion) -> LayerKey:
    node = view.nodes[fusion.main]
    shapes = ([view.shape(name) for name in fusion.inputs], view.shape(fusion.tail))
    precision_name = "int8" if fusion.quantised else precision(view, fusion.tail)
    if fusion.spelling is not None:
        attributes = tuple(fusion.spelling.attributes.items())
        return LayerKey(fusion.spelling.op, tuple(shapes[0]), shapes[1], attributes, precision_name)
    return key_of(view, node, shapes, fusion.fused, pads=fusion.pads, precision_name=precision_name)


def _names(view: GraphView, fusion: Fusion) -> tuple[str, ...]:
    """Names of the nodes of a layer, the DequantizeLinear of its constants included."""
    nodes = [view.nodes[index] for index in sorted(fusion.members)]
    constants = [
        name
        for node in nodes
        if fusion.quantised
        for name in node.input
        if name and view.is_constant(name)
    ]
    makers = [
        maker.name
        for maker in map(view.maker, constants)
        if maker and maker.op_type == "DequantizeLinear"
    ]
    return (*dict.fromkeys(makers), *(node.name for node in nodes))


def _parameters(view: GraphView, fusion: Fusion) -> dict[str, int]:
    """Elements by constant of what a layer has learned.

    Normalization behind a weighted node folds into one bias.
    """
    node = view.nodes[fusion.main]
    sources = [node]
    if fusion.spelling is not None:
        sources = [view.nodes[index] for index in sorted(fusion.members)]
    parameters: dict[str, int] = {}
    for source in sources:
        parameters |= learned_parameters(source, view)
    shifts = [view.nodes[index] for index in fusion.affine if view.nodes[index].op_type != "Mul"]
    shape = view.fixed_shape(node.output[0])
    if shifts and len(node.input) < 3 and shape:
        parameters[f"{node.output[0]} bias"] = shape[1 if node.op_type in CONVOLUTIONS else -1]
    return parameters
