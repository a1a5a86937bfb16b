"""Reading ONNX files safely into one self-contained model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import SchemaError, UnsafeModelError, UsageError, WorkloadError
from hwbench.network.intake import neighbours, onnx_run, onnx_tidy
from hwbench.network.intake.archives import MAX_BYTES
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, TensorProto, TensorShapeProto, ValueInfoProto

_PROTOBUF_LIMIT = 2**31 - 1  # bytes of one serialised message


def parse(data: bytes, path: Path) -> ModelProto:
    """Parse an ONNX model and read its external data into it.

    Args:
        data: The bytes of the model file.
        path: Where the file lies; external data is read from its folder.

    Raises:
        SchemaError: The file is no ONNX model, or damaged.
        UnsafeModelError: The model refers to external data outside its folder.
        WorkloadError: The weights exceed the 2 GiB that a self-contained model can hold.
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
        _embed_external_data(model, path)
        onnx_tidy.tidy_model(model)
        _check(model)
        onnx_tidy.inline_functions(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        reason = (str(error).strip() or "it does not parse").splitlines()[0]
        raise SchemaError(
            f"{path} is neither a valid ONNX model nor a file of torch: {reason[:200]}"
        ) from error
    return model


def _check(model: ModelProto) -> None:
    """Check a model by ONNX's rules; what breaks them may still be good for the runtime.

    Raises:
        onnx.checker.ValidationError: It is neither.
    """
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        if not onnx_run.runtime_loads(model):
            raise


def serialise(model: ModelProto, name: str) -> bytes:
    """Serialise a self-contained model, always to the same bytes.

    Raises:
        WorkloadError: The bytes would exceed protobuf's 2 GiB.
    """
    from google.protobuf.message import EncodeError

    try:
        return bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise WorkloadError(
            f"{name} does not fit into one ONNX model of at most {_PROTOBUF_LIMIT} bytes"
        ) from error


def has_subgraphs(graph: GraphProto) -> bool:
    """Tell whether a node of a graph holds graphs of its own, as control flow does."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                return True
    return False


def _iterate_messages(message: Any) -> Iterator[Any]:
    """Walk over every protobuf message inside `message`, itself first.

    It goes by what protobuf has stored rather than by ONNX's fields, so that no tensor can hide in
    a subgraph, a function, or a field that a later version of ONNX adds.

    Raises:
        ValueError: A text is not UTF-8; protobuf hands such a one on as bytes.
    """
    yield message
    for field, value in message.ListFields():
        entries = value if hasattr(value, "extend") else (value,)  # repeated, or one
        if field.message_type is not None:
            for entry in entries:
                yield from _iterate_messages(entry)
        elif field.type == field.TYPE_STRING and any(isinstance(entry, bytes) for entry in entries):
            raise ValueError(f"{field.name} is not text")


def _embed_external_data(model: ModelProto, path: Path) -> None:
    """Read the data of every tensor that keeps it in another file into the model, in place."""
    from onnx import TensorProto

    total = 0
    # The list is made first, as the loop changes what is walked over.
    for tensor in list(_iterate_messages(model)):
        if not isinstance(tensor, TensorProto):
            continue
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        tensor.raw_data = _read_external_data(tensor, path)
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
        total += len(tensor.raw_data)
        if total > _PROTOBUF_LIMIT:
            raise WorkloadError(
                f"{path} keeps over {_PROTOBUF_LIMIT} bytes of weights; one self-contained ONNX"
                " model cannot hold them; measure it in half precision (saved so), or in parts"
            )


def _read_external_data(tensor: TensorProto, path: Path) -> bytes:
    """Read the external data of one tensor, which the file itself locates: nothing is trusted.

    Args:
        tensor: A tensor that names a file, an offset and a length.
        path: The path of the model.
    """
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if not neighbours.is_inside(location):
        raise UnsafeModelError(
            f"{path}: tensor {tensor.name!r} keeps its data at {location!r}; expected a file in the"
            " model's folder"
        )
    target = neighbours.find_neighbour(path.parent, location)
    if target is None:
        raise UnsafeModelError(
            f"{path}: tensor {tensor.name!r} needs {location!r}, which is no regular file in the"
            " model's folder"
        )
    size = target.stat().st_size
    offset_text, length_text = fields.get("offset", "0"), fields.get("length", "")
    for text in (offset_text, length_text):
        if text and (not text.isdecimal() or len(text) > 18):
            raise SchemaError(
                f"{path}: tensor {tensor.name!r} lies at offset {offset_text[:40]!r}, length"
                f" {length_text[:40]!r}; expected whole numbers"
            )
    offset = int(offset_text or 0)
    length = int(length_text) if length_text else size - offset
    if not 0 <= offset <= offset + length <= min(size, MAX_BYTES):
        raise SchemaError(
            f"{path}: tensor {tensor.name!r} needs bytes {offset} to {offset + length} of"
            f" {location!r}, which has {size}"
        )
    with target.open("rb") as file:
        file.seek(offset)
        return bytes(file.read(length))


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
