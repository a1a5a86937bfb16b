"""Reading ONNX files safely into one self-contained model, and fixing the shapes of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.errors import Argument, SchemaError, UnsafeModelError, UsageError, WorkloadError
from hwbench.network.intake import neighbours, onnx_run, onnx_tidy
from hwbench.network.intake.archives import MAX_BYTES
from hwbench.records.tensors import Shape, TensorSpec

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


def fix_inputs(
    model: ModelProto,
    shapes: Sequence[TensorSpec],
    batch: int | None,
    name: str,
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> tuple[TensorSpec, ...]:
    """Give every input of `model` a fixed shape, in place.

    Where a dimension was open, the shapes inside the model are dropped, to be inferred anew.

    Args:
        model: The model; it is changed.
        shapes: The shapes asked for, by name, or nameless in the order of the inputs.
        batch: The leading dimension of every input where the model leaves it open; None if it is
            not asked for.
        name: The name of the model, for messages.
        sizes: The sizes of open dimensions by name.

    Returns:
        The inputs, in order.

    Raises:
        UsageError: A dimension stays open, or one that the model fixes is asked to differ.
        WorkloadError: An input is no tensor of numbers.
    """
    inputs = _list_inputs(model)
    shape_by_input = _assign_shapes(shapes, [value.name for value in inputs], name)
    had_open_dims = False
    for value in inputs:
        if any(is_open(dim) for dim in value.type.tensor_type.shape.dim):
            had_open_dims = True
    # Dimensions of one name are the same size in all inputs, and only one input may have been given
    # a shape: so all are asked first, and fixed when the sizes of all names are known.
    size_by_symbol = dict(sizes)
    _check_symbols(inputs, sizes, name)
    for value in inputs:
        _request_shape(value, shape_by_input.get(value.name), batch, size_by_symbol, name)
    fixed = tuple(_fix_shape(value, size_by_symbol, name) for value in inputs)
    if batch is not None and (not fixed or fixed[0].shape[:1] != (batch,)):
        first = dims_text(inputs[0]) if inputs else "none"
        raise UsageError(
            f"{name} is fixed to its first input {first}; a batch of {batch} needs a model exported"
            " with that batch"
        )
    if had_open_dims:
        del model.graph.value_info[:]
        for value in model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    return fixed


def _check_symbols(inputs: Sequence[ValueInfoProto], sizes: Mapping[str, int], name: str) -> None:
    """Refuse sizes of dimensions that no input has."""
    symbols: dict[str, None] = {}
    for value in inputs:
        for dim in value.type.tensor_type.shape.dim:
            if is_open(dim) and _is_symbol(dim.dim_param):
                symbols[dim.dim_param] = None
    for symbol in sizes:
        if symbol not in symbols:
            raise UsageError(
                f"{name} has no open dimension {symbol!r}; its open dimensions are"
                f" {', '.join(symbols) or 'none with a name'}"
            )


def _is_symbol(dim_param: str) -> bool:
    """Tell whether an open dimension has a name; exporters write `?` for one that has none."""
    return dim_param not in {"", "?"}


def input_specs(model: ModelProto, name: str) -> tuple[TensorSpec, ...]:
    """Describe the inputs of a model whose shapes are fixed.

    Args:
        model: The model.
        name: The name of the model, for messages.

    Raises:
        UsageError: A dimension is open.
    """
    return tuple(_fix_shape(value, {}, name) for value in _list_inputs(model))


def _list_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """List the inputs that must be fed; old files list initializers among them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _assign_shapes(
    shapes: Sequence[TensorSpec], names: Sequence[str], model_name: str
) -> dict[str, Shape]:
    """Assign shapes to inputs: by name, and the nameless ones to the other inputs in order."""
    assigned_by_name = {spec.name for spec in shapes}
    others = [name for name in names if name not in assigned_by_name]
    assigned: dict[str, Shape] = {}
    for spec in shapes:
        name = spec.name
        if not name and others:
            name = others.pop(0)
        if name not in names:
            raise UsageError(
                f"{model_name} has the inputs {', '.join(names)};"
                f" the shape {spec.name}{spec.shape} fits none of them"
            )
        assigned[name] = spec.shape
    return assigned


def _request_shape(
    value: ValueInfoProto,
    shape: Shape | None,
    batch: int | None,
    size_by_symbol: dict[str, int],
    name: str,
) -> None:
    """Put the sizes asked for into the open dimensions of one input.

    Args:
        value: The input; dimensions without a name are set.
        shape: The shape asked for, or None.
        batch: The leading dimension asked for where there is no shape, or None.
        size_by_symbol: The sizes of dimensions that have a name; those found are added.
        name: The name of the model, for messages.
    """
    if not value.type.HasField("tensor_type"):
        raise WorkloadError(f"{name}: input {value.name!r} is no tensor; only tensors can be fed")
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        if shape is None:
            raise UsageError(
                f"{name}: input {value.name!r} has no shape",
                Argument("inputs", f"{value.name}=1x3x224x224", purpose="give it"),
            )
        tensor.shape.SetInParent()
        for _ in shape:
            tensor.shape.dim.add()
    if shape is not None and len(shape) != len(tensor.shape.dim):
        raise UsageError(
            f"{name}: input {value.name!r} has the dimensions {dims_text(value)}, not those of"
            f" {shape}"
        )
    sizes: Sequence[int | None] = (batch,) if shape is None else shape
    for dim, size in zip(tensor.shape.dim, sizes, strict=False):
        if not is_open(dim):
            # A batch that does not fit is refused by `fix_inputs`, which sees all inputs.
            if shape is not None and size != dim.dim_value:
                raise UsageError(
                    f"{name}: input {value.name!r} is fixed to {dims_text(value)}; {shape} needs an"
                    " export with that shape"
                )
        elif size is not None and _is_symbol(dim.dim_param):
            earlier = size_by_symbol.setdefault(dim.dim_param, size)
            if earlier != size:
                raise UsageError(
                    f"{name}: dimension {dim.dim_param!r} is asked to be {earlier} and {size}"
                )
        elif size is not None:
            dim.dim_value = size


def _fix_shape(value: ValueInfoProto, size_by_symbol: Mapping[str, int], name: str) -> TensorSpec:
    """Set the named dimensions of one input, and describe it once none is open."""
    import onnx

    dims = value.type.tensor_type.shape.dim
    for dim in dims:
        if is_open(dim) and dim.dim_param in size_by_symbol:
            dim.dim_value = size_by_symbol[dim.dim_param]
    if any(is_open(dim) for dim in dims):
        raise UsageError(
            f"{name}: input {value.name!r} has open dimensions: {dims_text(value)}",
            Argument("inputs", f"{value.name}={_example_shape(value)}", purpose="fix all of them"),
            *_other_remedies(value),
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


def _example_shape(value: ValueInfoProto) -> str:
    """Write a shape with the fixed dimensions of an input, and usual sizes for the open ones."""
    dims = value.type.tensor_type.shape.dim
    sizes = []
    for index, dim in enumerate(dims):
        word = dim.dim_param.lower()
        size = 1
        if not is_open(dim):
            size = dim.dim_value
        elif index > 0 and any(part in word for part in ("seq", "len", "tok", "time", "word")):
            size = 128
        elif len(dims) == 4 and index >= 2:
            size = 224
        sizes.append(size)
    return "x".join(map(str, sizes))


def _other_remedies(value: ValueInfoProto) -> list[Argument]:
    """Name what fixes the open dimensions of an input without the others: a batch, or sizes."""
    dims = value.type.tensor_type.shape.dim
    open_dims = [index for index, dim in enumerate(dims) if is_open(dim)]
    if open_dims == [0]:
        return [Argument("batch", 1, purpose="fix the first")]
    symbol = dims[open_dims[-1]].dim_param
    if not _is_symbol(symbol):
        return []
    size = _example_shape(value).split("x")[open_dims[-1]]
    also = {"batch": 1} if open_dims[0] == 0 and len(open_dims) == 2 else {}
    if len(open_dims) - len(also) > 1:
        return []
    return [Argument("dims", f"{symbol}={size}", purpose="fix it by name", also=also)]


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
