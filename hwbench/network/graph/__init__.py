"""ONNX graph -> ordered layers after fusion, their keys, multiply-accumulates and parameters.

What counts as one layer is said in `hwbench.network.graph.fusion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import WorkloadError
from hwbench.network.graph.fusion import Fusion, fusions
from hwbench.network.graph.keys import CONVOLUTIONS, is_weighted, key_of, precision
from hwbench.network.graph.shapes import infer_shapes
from hwbench.network.graph.view import GraphView
from hwbench.records.layer_key import LayerKey

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer after fusion.

    Attributes:
        name: Name of its main node: the module path where the graph came from torch.
        op: Operator of its key.
        key: Identity.
        nodes: Names of all original nodes it covers, in graph order.
        inputs: Activation tensors it reads.
        output: Tensor it writes (the first, where there are several).
        macs: Multiply-accumulates per inference, whole batch; 0 unless a convolution or linear
            layer.
        params: Elements of its weights and biases.
    """

    name: str
    op: str
    key: LayerKey
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    macs: int
    params: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Cost of one inference: multiply-accumulates for the whole batch, and parameters."""

    macs: int
    params: int


def load(data: bytes) -> ModelProto:
    """Parse, check and shape-infer a self-contained ONNX model, and name its nodes (`name_nodes`).

    Raises:
        WorkloadError: The bytes are no valid ONNX model, or keep weights in other files.
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
    """Give every node of the graph a unique name, in place; unique names that exist stay.

    A node without one is called after its weight (`features.0` for `features.0.weight`), else after
    its output tensor and operator (`relu_3/Relu`).

    Returns:
        The same model.
    """
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")}
    kept: set[str] = set()
    nameless = []
    for node in model.graph.node:
        if node.name and node.name not in kept:
            kept.add(node.name)
        else:
            nameless.append(node)
    for node in nameless:
        stems = [name.removesuffix(".weight") for name in node.input if name in weights]
        outputs = [name for name in node.output if name]
        base = node.name or (
            stems[0] if stems else f"{outputs[0] if outputs else 'node'}/{node.op_type}"
        )
        names = (base if turn == 0 else f"{base}_{turn}" for turn in range(len(kept) + 1))
        node.name = next(name for name in names if name not in kept)
        kept.add(node.name)
    return model


def layers(model: ModelProto | GraphView) -> tuple[Layer, ...]:
    """The layers of a loaded model, in execution order.

    Args:
        model: From `load`, or the view of such a model.

    Raises:
        UnsupportedLayerError: A tensor's shape is not fixed.
    """
    view = model if isinstance(model, GraphView) else GraphView(model)
    return tuple(_layer(view, fusion) for fusion in fusions(view))


def count(model: ModelProto) -> Counts:
    """Multiply-accumulates and parameters of a loaded model.

    Multiply-accumulates are those of convolutions and of linear layers with constant weights, for
    the whole batch; biases, normalization, activations, pooling and products of two activations are
    not counted. Parameters are the elements of floating-point constants (or their quantised form)
    that layers use, batch normalization folded into the convolution before it; shared ones count
    once; scales and zero points of a quantised graph do not.
    """
    view = GraphView(model)
    macs = 0
    parameters: dict[str, int] = {}  # by constant, so that shared ones count once
    for fusion in fusions(view):
        if is_weighted(view, view.nodes[fusion.main]):
            macs += _key(view, fusion).macs
        parameters |= _parameters(view, fusion)
    return Counts(macs, sum(parameters.values()))


def zero_share(model: ModelProto) -> float:
    """Share of exact zeros among the weights of all convolutions and linear layers, 0 to 1.

    0 for a model without any.
    """
    view = GraphView(model)
    names = {
        view.origin(node.input[1])
        for node in (view.nodes[index] for index in view.active)
        if is_weighted(view, node)
    }
    weights = [value for value in map(view.value, names) if value is not None]
    total = sum(weight.size for weight in weights)
    return (
        sum(int(weight.size - np.count_nonzero(weight)) for weight in weights) / total
        if total
        else 0.0
    )


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
    from onnx import TensorProto

    node = view.nodes[fusion.main]
    if node.op_type in {"Resize", "Clip", "QuantizeLinear", "DequantizeLinear"}:
        return {}
    learned = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    sources = [node]
    if fusion.spelling is not None:
        sources = [view.nodes[index] for index in sorted(fusion.members)]
    names = [
        name
        for source in sources
        for name in source.input
        if name and view.is_constant(name) and view.element_type(name) in learned
    ]
    if node.op_type == "BatchNormalization":
        names = names[:2]
    parameters = {view.origin(name): view.elements(name) for name in names if view.shape(name)}
    shifts = [view.nodes[index] for index in fusion.affine if view.nodes[index].op_type != "Mul"]
    if shifts and len(node.input) < 3:
        parameters[f"{node.output[0]} bias"] = view.shape(node.output[0])[
            1 if node.op_type in CONVOLUTIONS else -1
        ]
    return parameters
