"""Bringing ONNX graphs to one form: a network has the same layers whichever way it was saved.

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
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import WorkloadError
from hwbench.network.intake import onnx_constants
from hwbench.network.intake.onnx_computed_weights import compute_weights, normalises_by_batch
from hwbench.network.intake.onnx_files import has_subgraphs
from hwbench.network.weight_files import is_external

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_SCOPES = "pkg.torch.onnx.name_scopes"
_BIASED = {"Conv", "ConvTranspose", "Gemm"}
_LEARNED_INPUTS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "Gather": (0,),
    "LayerNormalization": (1,), "BatchNormalization": (1,), "InstanceNormalization": (1,),
    "GroupNormalization": (1,), "RMSNormalization": (1,), "PRelu": (1,), "LSTM": (1, 2),
    "GRU": (1, 2), "RNN": (1, 2),
}  # fmt: skip
"""Inputs in which operators that are modules of their own have what they have learned."""
_LABELS = {"Flatten": "Reshape"}  # one exporter writes the one, the other the other


def is_in_training(model: ModelProto) -> bool:
    """Tell whether a network computes as it does while it is trained."""
    return any(map(normalises_by_batch, model.graph.node))


def normalise_graph(
    model: ModelProto, name: str, *, exported: bool, fold_norms: bool = True
) -> None:
    """Bring a model to the common form, in place.

    Args:
        model: A model with fixed input shapes. Its nodes are renamed, and its documentation is
            dropped.
        name: The name of the model, for messages.
        exported: Whether hwbench exported the model itself, so that what torch's exporter
            decomposed may be undone (global average pooling).
        fold_norms: Whether batch normalization is folded into convolutions.

    Raises:
        WorkloadError: The model was exported in training mode by hwbench, that is, as it was given.
    """
    graph = model.graph
    # A subgraph reads tensors of its parent by name, so where there is one nothing is moved.
    movable = not has_subgraphs(graph)
    if movable:
        _turn_constants_into_initializers(graph)
        onnx_constants.fold_constants(model)
        compute_weights(model)
    if exported and is_in_training(model):
        raise WorkloadError(
            f"{name} was exported in training mode; call .eval() on the module and export it again"
        )
    if exported:
        _restore_folded_biases(graph)
    _name_nodes(model)
    if movable:
        if fold_norms:
            _fold_batch_norm(graph)
        if exported:
            _restore_global_pool(model)
            _unshare_biases(graph)
        _drop_unused(graph)
    _drop_documentation(model)


def _integer_attribute(node: NodeProto, name: str, default: int) -> int:
    for attribute in node.attribute:
        if attribute.name == name:
            return int(attribute.i)
    return default


def _turn_constants_into_initializers(graph: GraphProto) -> None:
    """Turn Constant nodes, and identities of initializers, into initializers of their own.

    Torch's exporter shares equal initializers through such identities.
    """
    from onnx import TensorProto

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    remaining = []
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
        if source is None or not node.output[0] or node.output[0] in outputs:
            remaining.append(node)
            continue
        copy = TensorProto()
        copy.CopyFrom(source)
        copy.name = node.output[0]
        tensors[copy.name] = copy
        graph.initializer.append(copy)
    del graph.node[:]
    graph.node.extend(remaining)


def _name_nodes(model: ModelProto) -> None:
    """Name every node after the torch module it came from, where that can be told."""
    tensors = {tensor.name for tensor in model.graph.initializer}
    uses: Counter[str] = Counter()
    for node in model.graph.node:
        path = _find_module_path(node, tensors, by_torch=model.producer_name == "pytorch")
        if path is None:
            continue
        if path and any(name in tensors for name in _learned_inputs(node)):
            base = path
        else:
            base = f"{path}/{_LABELS.get(node.op_type, node.op_type)}".lstrip("/")
        uses[base] += 1
        node.name = base if uses[base] == 1 else f"{base}_{uses[base] - 1}"


def _learned_inputs(node: NodeProto) -> list[str]:
    """List the inputs of a node that hold what its module has learned, if they are constant."""
    positions = _LEARNED_INPUTS.get(node.op_type, ())
    return [node.input[position] for position in positions if position < len(node.input)]


def _find_module_path(node: NodeProto, tensors: set[str], *, by_torch: bool) -> str | None:
    """Find the module path of a node; empty for the network itself, None where nothing tells it."""
    for name in node.input if node.op_type == "Gather" else node.input[1:]:
        if name in tensors and name.endswith(".weight"):
            return str(name.removesuffix(".weight"))
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            return _parse_innermost_module(entry.value)
    if by_torch and node.name.startswith("/"):
        return _join_scopes(node.name.split("/")[1:-1])
    return None


def _parse_innermost_module(text: str) -> str | None:
    """Find `features.0` in `"['', 'features', 'features.0', 'relu']"`.

    The last scope is the operator itself, so the one before it is the module.
    """
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(scopes, list) or len(scopes) < 2:
        return None
    return str(scopes[-2])


def _join_scopes(scopes: list[str]) -> str:
    """Join `[features, features.3, conv]` to `features.3.conv`.

    Children of a Sequential repeat their parent's last name.
    """
    path: list[str] = []
    for scope in scopes:
        if path and scope.startswith(f"{path[-1]}."):
            path[-1] = scope
        else:
            path.append(scope)
    return ".".join(path)


def _fold_batch_norm(graph: GraphProto) -> None:
    """Fold every batch normalization that follows a convolution into that convolution.

    At inference the two are one convolution: with scale = gamma / sqrt(var + eps), its weights are
    W' = scale * W and its bias is b' = scale * (b - mean) + beta.
    """
    import onnx

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input) + Counter(
        value.name for value in graph.output
    )
    convs = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    remaining = []
    for node in graph.node:
        conv = None
        if node.op_type == "BatchNormalization":
            conv = convs.get(node.input[0])
        if conv is None or not _can_fold(conv, node, tensors, readers):
            remaining.append(node)
            continue
        gamma, beta, mean, var = (
            onnx.numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input[1:5]
        )
        eps = 1e-5  # ONNX's default
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                eps = attribute.f
        scale = gamma / np.sqrt(var + eps)
        weight_tensor = tensors[conv.input[1]]
        weight = onnx.numpy_helper.to_array(weight_tensor)
        bias: Any = 0.0
        if len(conv.input) > 2 and conv.input[2]:
            bias = onnx.numpy_helper.to_array(tensors[conv.input[2]])
        folded = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
        folded_bias = (scale * (bias - mean) + beta).astype(weight.dtype)
        bias_name = f"{weight_tensor.name.removesuffix('.weight')}.folded_bias"
        weight_tensor.CopyFrom(onnx.numpy_helper.from_array(folded, weight_tensor.name))
        graph.initializer.append(onnx.numpy_helper.from_array(folded_bias, bias_name))
        del conv.input[2:]
        conv.input.append(bias_name)
        conv.output[0] = node.output[0]
    del graph.node[:]
    graph.node.extend(remaining)


def _can_fold(
    conv: NodeProto, norm: NodeProto, tensors: dict[str, TensorProto], readers: Counter[str]
) -> bool:
    """Tell whether nothing else reads what folding changes, and all that it needs is constant."""
    constants = [*conv.input[1:3], *norm.input[1:5]]
    return (
        readers[conv.output[0]] == 1
        and len(norm.output) == 1
        and not _integer_attribute(norm, "training_mode", 0)
        and len(norm.input) == 5
        and all(name in tensors for name in constants if name)
        and not any(is_external(tensors[name]) for name in constants if name)
        and readers[conv.input[1]] == 1
        and tensors[conv.input[1]].data_type == tensors[norm.input[1]].data_type
        and f"{conv.input[1].removesuffix('.weight')}.folded_bias" not in tensors
    )


def _restore_folded_biases(graph: GraphProto) -> None:
    """Give convolutions back the zero biases that torch's exporter dropped.

    The exporter folds batch normalization too, but drops the bias that this makes where it is zero,
    as in untrained networks. What parameters a network has must not depend on their values. Such a
    convolution is recognised by its scope, which is that of the batch normalization it absorbed.
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
        scope = path
        for entry in node.metadata_props:
            if entry.key == _SCOPES:
                scope = _parse_innermost_module(entry.value)
                break
        if scope != path:
            weight = numpy_helper.to_array(tensors[node.input[1]])
            node.input.append(f"{path}.folded_bias")
            graph.initializer.append(
                numpy_helper.from_array(np.zeros(len(weight), weight.dtype), node.input[2])
            )


def _restore_global_pool(model: ModelProto) -> None:
    """Turn means over height and width that keep both into global average pooling.

    That is what they are, and runtimes are faster when they are told so.
    """
    import onnx

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    means = [node for node in graph.node if node.op_type == "ReduceMean"]
    means = [node for node in means if _integer_attribute(node, "keepdims", 1)]
    if not means:
        return
    shapes = onnx_constants.infer_fixed_shapes(model)
    for node in means:
        axes = tensors.get(node.input[1]) if len(node.input) > 1 else None
        if axes is None or len(shapes.get(node.input[0], ())) != 4:
            continue
        if {int(axis) % 4 for axis in onnx.numpy_helper.to_array(axes).ravel()} != {2, 3}:
            continue
        node.op_type = "GlobalAveragePool"
        node.name = node.name.replace("ReduceMean", "GlobalAveragePool")
        del node.input[1:]
        del node.attribute[:]


def _unshare_biases(graph: GraphProto) -> None:
    """Give each layer a bias of its own, whatever its values.

    Exporters let layers share small equal tensors, such as zero biases.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    used: set[str] = set()
    for node in graph.node:
        if node.op_type not in _BIASED or len(node.input) < 3 or node.input[2] not in tensors:
            continue
        if node.input[2] in used:
            own_bias = graph.initializer.add()
            own_bias.CopyFrom(tensors[node.input[2]])
            own_bias.name = f"{node.name}.own_bias"
            node.input[2] = own_bias.name
        used.add(node.input[2])


def _drop_unused(graph: GraphProto) -> None:
    """Drop initializers that nothing reads, and the inputs that old files list for them."""
    used = {value.name for value in graph.output}
    for node in graph.node:
        used.update(node.input)
    unused = {tensor.name for tensor in graph.initializer} - used
    for entries in (graph.initializer, graph.input):
        # One by one and in place, as rebuilding the list would copy every weight.
        for index in reversed(range(len(entries))):
            if entries[index].name in unused:
                del entries[index]


def _drop_documentation(model: ModelProto) -> None:
    """Drop texts and metadata, which would only change the model's identity."""
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    model.graph.ClearField("doc_string")
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
