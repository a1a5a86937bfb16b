"""Reading ONNX files safely into one model, self-contained as far as protobuf allows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import SchemaError, UsageError, WorkloadError
from hwbench.network.intake import onnx_external, onnx_run, onnx_tidy
from hwbench.network.weight_files import has_external, is_external
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, TensorShapeProto, ValueInfoProto


def parse(data: bytes, path: Path) -> ModelProto:
    """Parse an ONNX model and read its external data into it, see `onnx_external.take_in`.

    Args:
        data: The bytes of the model file.
        path: Where the file lies; external data is read from its folder.

    Raises:
        SchemaError: The file is no ONNX model, or damaged.
        UnsafeModelError: The model refers to external data outside its folder.
        WorkloadError: What cannot stay in other files exceeds the 2 GiB that a model can hold.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        if not model.graph.node:
            raise SchemaError(
                f"{path} is no model: neither ONNX with nodes nor a file of torch; expected .onnx,"
                " .pt2 or .pt"
            )
        model.ClearField("training_info")
        onnx_external.take_in(model, path)
        onnx_tidy.tidy_model(model)
        _check(model, path.parent)
        onnx_tidy.inline_functions(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        reason = (str(error).strip() or "it does not parse").splitlines()[0]
        raise SchemaError(
            f"{path} is neither a valid ONNX model nor a file of torch: {reason[:200]}"
        ) from error
    return model


def _check(model: ModelProto, folder: Path) -> None:
    """Check a model by ONNX's rules; what breaks them may still be good for the runtime.

    Args:
        model: The model.
        folder: Where weights lie that are not inside.

    Raises:
        onnx.checker.ValidationError: It is neither.
    """
    import onnx

    try:
        onnx.checker.check_model(_leave_out_weights(model))
    except onnx.checker.ValidationError:
        if not onnx_run.runtime_loads(model, folder):
            raise


def _leave_out_weights(model: ModelProto) -> ModelProto:
    """Turn weights in other files into inputs: the checker would look for them in their files."""
    import onnx

    if not has_external(model):
        return model
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(model)
    graph = skeleton.graph
    declared = {value.name for value in graph.input}
    for index in reversed(range(len(graph.initializer))):
        tensor = graph.initializer[index]
        if not is_external(tensor):
            continue
        if tensor.name not in declared:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        del graph.initializer[index]
    return skeleton


def serialise(model: ModelProto, name: str) -> bytes:
    """Serialise a model, always to the same bytes.

    Raises:
        WorkloadError: The bytes would exceed protobuf's 2 GiB.
    """
    from google.protobuf.message import EncodeError

    try:
        return bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise WorkloadError(
            f"{name} does not fit into one ONNX model of at most {onnx_external.PROTOBUF_LIMIT}"
            " bytes; export it with torch.onnx.export(..., external_data=True) and give the file"
        ) from error


def has_subgraphs(graph: GraphProto) -> bool:
    """Tell whether a node of a graph holds graphs of its own, as control flow does."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                return True
    return False


def input_specs(model: ModelProto, name: str) -> tuple[TensorSpec, ...]:
    """Describe the inputs of a model whose shapes are fixed.

    Args:
        model: The model.
        name: The name of the model, for messages.

    Raises:
        UsageError: A dimension is open.
    """
    return tuple(describe_input(value, name) for value in list_inputs(model))


def describe_input(value: ValueInfoProto, name: str) -> TensorSpec:
    """Describe one input whose shape is fixed.

    Args:
        value: The input.
        name: The name of the model, for messages.

    Raises:
        UsageError: A dimension is open.
        WorkloadError: It holds something else than numbers.
    """
    import onnx

    dims = value.type.tensor_type.shape.dim
    if any(is_open(dim) for dim in dims):
        raise UsageError(f"{name}: input {value.name!r} has open dimensions: {dims_text(value)}")
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    except (KeyError, TypeError, ValueError) as error:
        raise WorkloadError(f"{name}: input {value.name!r} has an unknown element type") from error
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":  # numpy has no such type of its own
        raise WorkloadError(
            f"{name}: input {value.name!r} holds {dtype.name}; only numbers can be fed"
        )
    return TensorSpec(value.name, tuple(dim.dim_value for dim in dims), dtype.name)


def list_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """List the inputs that must be fed; old files list initializers among them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def random_input(spec: TensorSpec, random: np.random.Generator) -> NDArray[Any]:
    """Draw values for one input.

    They are standard normal, or zeros and ones for whole numbers, which are valid as indices too.
    """
    if spec.dtype.startswith("float"):
        values: Any = random.standard_normal(spec.shape)
    else:
        values = random.integers(0, 2, spec.shape)
    return np.asarray(values).astype(spec.dtype)


def is_open(dim: TensorShapeProto.Dimension) -> bool:
    """Tell whether a dimension has no size; one of 0 has."""
    return not dim.HasField("dim_value") or dim.dim_value < 0


def dims_text(value: ValueInfoProto) -> str:
    """Write the dimensions of an input for people: `[batch, 3, ?, ?]`."""
    texts = []
    for dim in value.type.tensor_type.shape.dim:
        if not is_open(dim):
            texts.append(str(dim.dim_value))
        else:
            texts.append(dim.dim_param or "?")
    return f"[{', '.join(texts)}]"
