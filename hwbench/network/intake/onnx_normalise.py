"""ONNX graphs brought to one form, so that a network gives the same layers whichever way it was saved.

Batch normalization is folded into the convolution before it (every runtime does that itself; here
it happens before layers are named and quantised), constants become initializers, and nodes are
named after torch modules: `features.3.conv` for what holds weights, `features.3.act/Relu` for the
rest. Names come from the weight (`features.3.conv.weight`), which survives fusion, else from the
scope torch's exporters write down (`pkg.torch.onnx.name_scopes`, or the node name
`/features/features.3/conv/Conv`).
"""

from __future__ import annotations

import ast
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import WorkloadError
from hwbench.network.intake import onnx_constants

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_SCOPES = "pkg.torch.onnx.name_scopes"
_HOLDS_WEIGHTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_LABELS = {"Flatten": "Reshape"}  # one exporter writes the one, the other the other


def tidy(model: ModelProto, name: str, *, exported: bool) -> None:
    """Bring `model` to the common form, in place.

    Args:
        model: Its input shapes are fixed. Its nodes are renamed, its documentation is dropped.
        name: For messages.
        exported: hwbench exported it itself, so what torch's exporter decomposed may be undone
            (global average pooling).

    Raises:
        WorkloadError: It was exported in training mode.
    """
    graph = model.graph
    for node in graph.node:
        if node.op_type == "BatchNormalization" and _integer(node, "training_mode", 0):
            raise WorkloadError(
                f"{name} was exported in training mode; call .eval() on the module and export it"
                " again"
            )
    plain = not any(
        attribute.HasField("g") or attribute.graphs
        for node in graph.node
        for attribute in node.attribute
    )
    if (
        plain
    ):  # a subgraph reads tensors of its parent by name, so where there is one nothing is moved
        _constants_to_initializers(graph)
        onnx_constants.fold(model)
    if exported:
        _restore_folded_biases(graph)
    _name(model)
    if plain:
        _fold_batch_norm(graph)
        if exported:
            _restore_global_pool(model)
            _unshare_biases(graph)
        _drop_unused(graph)
    _drop_documentation(model)


def _integer(node: NodeProto, attribute: str, default: int) -> int:
    return next((int(found.i) for found in node.attribute if found.name == attribute), default)


def _constants_to_initializers(graph: GraphProto) -> None:
    """Constant nodes, and identities of initializers (the exporter shares equal ones), become initializers of their own."""
    from onnx import TensorProto

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        source: TensorProto | None = None
        if (
            node.op_type == "Constant"
            and len(node.attribute) == 1
            and node.attribute[0].name == "value"
        ):
            source = node.attribute[0].t
        elif node.op_type == "Identity":
            source = tensors.get(node.input[0])
        if source is None or node.output[0] in outputs:
            kept.append(node)
            continue
        copy = TensorProto()
        copy.CopyFrom(source)
        copy.name = node.output[0]
        tensors[copy.name] = copy
        graph.initializer.append(copy)
    del graph.node[:]
    graph.node.extend(kept)


def _name(model: ModelProto) -> None:
    tensors = {tensor.name for tensor in model.graph.initializer}
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        path = _path(node, tensors, by_torch=model.producer_name == "pytorch")
        if path is None:
            continue
        bears = node.op_type in _HOLDS_WEIGHTS and any(name in tensors for name in node.input[:2])
        base = (
            path
            if bears and path
            else f"{path}/{_LABELS.get(node.op_type, node.op_type)}".lstrip("/")
        )
        taken[base] += 1
        node.name = base if taken[base] == 1 else f"{base}_{taken[base] - 1}"


def _path(node: NodeProto, tensors: set[str], *, by_torch: bool) -> str | None:
    """Module path of a node; empty for the network itself, None where nothing tells it."""
    for name in node.input[1:]:
        if name in tensors and name.endswith(".weight"):
            return str(name.removesuffix(".weight"))
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return _innermost(entry.value)
    if by_torch and node.name.startswith("/"):
        return _joined(node.name.split("/")[1:-1])
    return None


def _innermost(text: str) -> str | None:
    """`"['', 'features', 'features.0', 'relu']"` to `features.0`: the last scope is the operator itself."""
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else None


def _joined(scopes: list[str]) -> str:
    """`[features, features.3, conv]` to `features.3.conv`: children of a Sequential repeat their parent's last name."""
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path[-1] = scope
        else:
            path.append(scope)
    return ".".join(path)


def _fold_batch_norm(graph: GraphProto) -> None:
    """Convolution then batch normalization, at inference: one convolution with scaled weights and a bias.

    With scale = gamma / sqrt(var + eps): W' = scale * W, b' = scale * (b - mean) + beta.
    """
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input) + Counter(
        value.name for value in graph.output
    )
    convs = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    kept = []
    for node in graph.node:
        conv = convs.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if conv is None or not _foldable(conv, node, tensors, readers):
            kept.append(node)
            continue
        gamma, beta, mean, var = (
            onnx.numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input[1:5]
        )
        eps = next((found.f for found in node.attribute if found.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(var + eps)
        old = tensors[conv.input[1]]
        weight = onnx.numpy_helper.to_array(old)
        bias = (
            onnx.numpy_helper.to_array(tensors[conv.input[2]])
            if len(conv.input) > 2 and conv.input[2]
            else 0.0
        )
        folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        old.CopyFrom(onnx.numpy_helper.from_array(folded.astype(weight.dtype), old.name))
        name = f"{old.name.removesuffix('.weight')}.folded_bias"
        graph.initializer.append(
            onnx.numpy_helper.from_array((scale * (bias - mean) + beta).astype(weight.dtype), name)
        )
        del conv.input[2:]
        conv.input.append(name)
        conv.output[0] = node.output[0]
    del graph.node[:]
    graph.node.extend(kept)


def _foldable(
    conv: NodeProto, norm: NodeProto, tensors: dict[str, TensorProto], readers: Counter[str]
) -> bool:
    constants = [*conv.input[1:3], *norm.input[1:5]]
    return (
        readers[conv.output[0]] == 1
        and len(norm.output) == 1
        and len(norm.input) == 5
        and all(name in tensors for name in constants if name)
        and readers[conv.input[1]] == 1
        and tensors[conv.input[1]].data_type == tensors[norm.input[1]].data_type
        and f"{conv.input[1].removesuffix('.weight')}.folded_bias" not in tensors
    )


def _restore_folded_biases(graph: GraphProto) -> None:
    """Torch's exporter folds batch norm too, but drops the bias that this makes where it is zero, as in untrained networks.

    A network's parameters do not depend on their values. Such a convolution bears the scope of the
    batch norm it absorbed.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if (
            node.op_type != "Conv"
            or len(node.input) != 2
            or not node.input[1].endswith(".weight")
            or node.input[1] not in tensors
        ):
            continue
        path = node.input[1].removesuffix(".weight")
        scope = next(
            (_innermost(entry.value) for entry in node.metadata_props if entry.key == _SCOPES), path
        )
        if scope != path:
            weight = numpy_helper.to_array(tensors[node.input[1]])
            node.input.append(f"{path}.folded_bias")
            graph.initializer.append(
                numpy_helper.from_array(np.zeros(len(weight), weight.dtype), node.input[2])
            )


def _restore_global_pool(model: ModelProto) -> None:
    """A mean over height and width that keeps both is global average pooling, and runtimes are faster when told so."""
    import onnx

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    means = [
        node
        for node in graph.node
        if node.op_type == "ReduceMean" and _integer(node, "keepdims", 1)
    ]
    shapes = onnx_constants.fixed_shapes(model) if means else {}
    for node in means:
        axes = tensors.get(node.input[1]) if len(node.input) > 1 else None
        if axes is None or len(shapes.get(node.input[0], ())) != 4:
            continue
        if {int(axis) % 4 for axis in onnx.numpy_helper.to_array(axes).ravel()} != {2, 3}:
            continue
        node.op_type, node.name = (
            "GlobalAveragePool",
            node.name.replace("ReduceMean", "GlobalAveragePool"),
        )
        del node.input[1:]
        del node.attribute[:]


def _unshare_biases(graph: GraphProto) -> None:
    """Exporters let layers share small equal tensors, such as zero biases.

    Here each layer has its own, whatever its values.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    seen: set[str] = set()
    for node in graph.node:
        if (
            node.op_type not in _HOLDS_WEIGHTS
            or len(node.input) < 3
            or node.input[2] not in tensors
        ):
            continue
        if node.input[2] in seen:
            own = graph.initializer.add()
            own.CopyFrom(tensors[node.input[2]])
            own.name = f"{node.name}.own_bias"
            node.input[2] = own.name
        seen.add(node.input[2])


def _drop_unused(graph: GraphProto) -> None:
    """Initializers that nothing reads any more, and the inputs that old files list for them."""
    used = {name for node in graph.node for name in node.input} | {
        value.name for value in graph.output
    }
    unused = {tensor.name for tensor in graph.initializer} - used
    for items in (graph.initializer, graph.input):
        for index in reversed(
            range(len(items))
        ):  # in place: rebuilding the list would copy every weight
            if items[index].name in unused:
                del items[index]


def _drop_documentation(model: ModelProto) -> None:
    """Texts and metadata would only change the model's identity."""
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    model.graph.ClearField("doc_string")
    for item in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
