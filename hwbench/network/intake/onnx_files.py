"""ONNX files read safely into one self-contained model, and their inputs fixed to definite shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import SchemaError, UnsafeModelError, UsageError, WorkloadError
from hwbench.network.intake.archives import MAX_BYTES
from hwbench.records.tensors import Shape, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, TensorProto, ValueInfoProto

_PROTOBUF_LIMIT = 2**31 - 1  # bytes of one serialised message


def parse(data: bytes, path: Path) -> ModelProto:
    """Parse an ONNX model read from `path`, with its external data taken in.

    Raises:
        SchemaError: Not an ONNX model, or damaged.
        UnsafeModelError: External data outside the model's folder.
        WorkloadError: More than the 2 GiB a self-contained model can hold.
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
        _take_in(model, path)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        reason = (str(error).strip() or "it does not parse").splitlines()[0]
        raise SchemaError(
            f"{path} is neither a valid ONNX model nor a file of torch: {reason[:200]}"
        ) from error
    return model


def serialise(model: ModelProto, name: str) -> bytes:
    """The bytes of a self-contained model.

    Raises:
        WorkloadError: They would exceed protobuf's 2 GiB.
    """
    from google.protobuf.message import EncodeError

    try:
        return bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise WorkloadError(
            f"{name} does not fit into one ONNX model of at most {_PROTOBUF_LIMIT} bytes"
        ) from error


def _messages(message: Any) -> Iterator[Any]:
    """Every protobuf message inside `message`, itself first: no tensor can hide from it in a subgraph or a function.

    Raises:
        ValueError: A text is not UTF-8; protobuf hands such a one on as bytes.
    """
    yield message
    for field, value in message.ListFields():
        items = value if hasattr(value, "extend") else (value,)  # repeated, or one
        if field.message_type is not None:
            for item in items:
                yield from _messages(item)
        elif field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in items):
            raise ValueError(f"{field.name} is not text")


def _take_in(model: ModelProto, path: Path) -> None:
    from onnx import TensorProto

    total = 0
    for tensor in [found for found in _messages(model) if isinstance(found, TensorProto)]:
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            continue
        tensor.raw_data = _external(tensor, path)
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
        total += len(tensor.raw_data)
        if total > _PROTOBUF_LIMIT:
            raise WorkloadError(
                f"{path} keeps over {_PROTOBUF_LIMIT} bytes of weights; one self-contained ONNX"
                " model cannot hold them"
            )


def _external(tensor: TensorProto, path: Path) -> bytes:
    facts = {entry.key: entry.value for entry in tensor.external_data}
    location = facts.get("location", "")
    if (
        not location
        or location.startswith("/")
        or re.search(r"[\\\x00:]", location)
        or ".." in location.split("/")
    ):
        raise UnsafeModelError(
            f"{path}: tensor {tensor.name!r} keeps its data at {location!r}; expected a file in the"
            " model's folder"
        )
    folder = path.parent.resolve()
    target = folder / location
    if target.resolve() != target or not target.is_file():
        raise UnsafeModelError(
            f"{path}: tensor {tensor.name!r} needs {location!r}, which is no regular file in the"
            " model's folder"
        )
    size, texts = target.stat().st_size, (facts.get("offset", "0"), facts.get("length", ""))
    if not all(text.isdecimal() or not text for text in texts) or any(
        len(text) > 18 for text in texts
    ):
        raise SchemaError(
            f"{path}: tensor {tensor.name!r} lies at offset {texts[0][:40]!r}, length"
            f" {texts[1][:40]!r}; expected whole numbers"
        )
    offset = int(texts[0] or 0)
    length = int(texts[1]) if texts[1] else size - offset
    if not 0 <= offset <= offset + length <= min(size, MAX_BYTES):
        raise SchemaError(
            f"{path}: tensor {tensor.name!r} needs bytes {offset} to {offset + length} of"
            f" {location!r}, which has {size}"
        )
    with target.open("rb") as file:
        file.seek(offset)
        return bytes(file.read(length))


def fix_inputs(
    model: ModelProto, given: Sequence[TensorSpec], batch: int | None, name: str
) -> tuple[TensorSpec, ...]:
    """Give every input of `model` a fixed shape, in place.

    Where one was open, the shapes inside are to be inferred anew.

    Args:
        model: Changed in place.
        given: Shapes by name, or nameless in the order of the inputs.
        batch: Leading dimension of every input where the model leaves it open.
        name: Of the model, for messages.

    Returns:
        The inputs, in order.

    Raises:
        UsageError: A dimension stays open, or one that the model fixes is asked to differ.
        WorkloadError: An input is no tensor of numbers.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    wanted = _assign(given, [value.name for value in inputs], name)
    were_open = any(
        dim.dim_value < 1 for value in inputs for dim in value.type.tensor_type.shape.dim
    )
    symbols: dict[str, int] = {}
    for value in inputs:
        _ask(value, wanted.get(value.name), batch, symbols, name)
    fixed = tuple(_fix(value, symbols, name) for value in inputs)
    if batch is not None and (not fixed or fixed[0].shape[:1] != (batch,)):
        found = dims_text(inputs[0]) if inputs else "none"
        raise UsageError(
            f"{name} is fixed to its first input {found}; --batch {batch} needs a model exported"
            " with that batch"
        )
    if were_open:
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    return fixed


def input_specs(model: ModelProto, name: str) -> tuple[TensorSpec, ...]:
    """The inputs of a model whose shapes are fixed.

    Raises:
        UsageError: A dimension is open.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        _fix(value, {}, name) for value in model.graph.input if value.name not in constants
    )


def _assign(given: Sequence[TensorSpec], names: Sequence[str], name: str) -> dict[str, Shape]:
    unnamed = [known for known in names if known not in {spec.name for spec in given}]
    wanted: dict[str, Shape] = {}
    for spec in given:
        if (spec.name and spec.name not in names) or not (spec.name or unnamed):
            raise UsageError(
                f"{name} has the inputs {', '.join(names)}; --input {spec.name}{spec.shape} fits"
                " none of them"
            )
        wanted[spec.name or unnamed.pop(0)] = spec.shape
    return wanted


def _ask(
    value: ValueInfoProto,
    shape: Shape | None,
    batch: int | None,
    symbols: dict[str, int],
    name: str,
) -> None:
    """Put the asked sizes into the open dimensions of one input.

    Those with a name go to `symbols`.
    """
    if not value.type.HasField("tensor_type"):
        raise WorkloadError(f"{name}: input {value.name!r} is no tensor; only tensors can be fed")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        if shape is None:
            raise UsageError(
                f"{name}: input {value.name!r} has no shape; give it with --input"
                f" {value.name}=1x3x224x224"
            )
        tensor.shape.SetInParent()
        for _ in shape:
            tensor.shape.dim.add()
    if shape is not None and len(shape) != len(tensor.shape.dim):
        raise UsageError(
            f"{name}: input {value.name!r} has the dimensions {dims_text(value)}, not those of"
            f" {shape}"
        )
    for dim, size in zip(tensor.shape.dim, (batch,) if shape is None else shape, strict=False):
        if dim.dim_value > 0:
            if shape is not None and size != dim.dim_value:
                raise UsageError(
                    f"{name}: input {value.name!r} is fixed to {dims_text(value)}; {shape} needs an"
                    " export with that shape"
                )
        elif size is not None and dim.dim_param:
            if symbols.setdefault(dim.dim_param, size) != size:
                raise UsageError(
                    f"{name}: dimension {dim.dim_param!r} is asked to be {symbols[dim.dim_param]}"
                    f" and {size}"
                )
        elif size is not None:
            dim.dim_value = size


def _fix(value: ValueInfoProto, symbols: Mapping[str, int], name: str) -> TensorSpec:
    import onnx

    dims = value.type.tensor_type.shape.dim
    for dim in dims:
        if dim.dim_value < 1 and dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]
    if any(dim.dim_value < 1 for dim in dims):
        how = f"--input {value.name}=1x3x224x224 (all dimensions) or --batch N (the first)"
        raise UsageError(
            f"{name}: input {value.name!r} has open dimensions: {dims_text(value)}; fix them with"
            f" {how}"
        )
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    except (KeyError, TypeError, ValueError) as error:
        raise WorkloadError(f"{name}: input {value.name!r} has an unknown element type") from error
    if dtype.kind not in "fiub" and dtype.name != "bfloat16":  # numpy has no such type of its own
        raise WorkloadError(
            f"{name}: input {value.name!r} holds {dtype.name}; only numbers can be fed"
        )
    return TensorSpec(value.name, tuple(dim.dim_value for dim in dims), dtype.name)


def random_input(spec: TensorSpec, random: np.random.Generator) -> NDArray[Any]:
    """Values for one input: standard normal, or zeros and ones for whole numbers, which are valid as indices too."""
    whole = not spec.dtype.startswith("float")
    values = random.integers(0, 2, spec.shape) if whole else random.standard_normal(spec.shape)
    return np.asarray(values).astype(spec.dtype)


def dims_text(value: ValueInfoProto) -> str:
    """Dimensions of an input for people: `[batch, 3, ?, ?]`."""
    dims = value.type.tensor_type.shape.dim
    return f"[{', '.join(str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or '?' for dim in dims)}]"
