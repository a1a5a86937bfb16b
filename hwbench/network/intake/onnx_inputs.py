"""Fixing the shapes of a model's inputs, and proposing those that its file leaves open."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from hwbench.errors import Argument, HwbenchError, UsageError, WorkloadError
from hwbench.network import graph
from hwbench.network.intake import onnx_bounds, onnx_run
from hwbench.network.intake.onnx_files import (
    describe_input,
    dims_text,
    input_specs,
    is_open,
    list_inputs,
    random_input,
)
from hwbench.network.weight_files import has_external
from hwbench.records.tensors import Shape, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

SIDES = ((224, 224), (640, 640), (48, 320), (64, 64), (32, 32), (512, 512))
"""Heights and widths of pictures that networks are commonly made for; lines of text are low."""
LENGTHS = (128, 512, 1024, 4096, 16000, 64)
"""Lengths of sequences and sounds, which are tried together with the sides."""
LOOK_S = 4.0
"""Seconds after which no further sizes are tried."""
LARGE_BYTES, LARGE_MACS = 512 << 20, 5_000_000_000
"""A network that needs more for an inference is not run to find out whether sizes fit."""
_LENGTH_WORDS = ("seq", "len", "tok", "time", "word", "sample", "frame")


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
    inputs = list_inputs(model)
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
    for value in inputs:
        _set_symbols(value, size_by_symbol)
    if any(map(_is_open_input, inputs)):
        raise _ask_for_sizes(model, inputs, name, is_first=not shapes)
    fixed = tuple(describe_input(value, name) for value in inputs)
    if batch is not None and (not fixed or fixed[0].shape[:1] != (batch,)):
        first = dims_text(inputs[0]) if inputs else "none"
        raise UsageError(
            f"{name} is fixed to its first input {first}; a batch of {batch} needs a model exported"
            " with that batch"
        )
    if had_open_dims:
        _drop_shapes(model)
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


def _set_symbols(value: ValueInfoProto, size_by_symbol: Mapping[str, int]) -> None:
    """Set the open dimensions of one input that have a name, where its size is known."""
    for dim in value.type.tensor_type.shape.dim:
        if is_open(dim) and dim.dim_param in size_by_symbol:
            dim.dim_value = size_by_symbol[dim.dim_param]


def _is_open_input(value: ValueInfoProto) -> bool:
    return any(is_open(dim) for dim in value.type.tensor_type.shape.dim)


def blame_sizes(
    model: ModelProto,
    asked: tuple[Sequence[TensorSpec], int | None, str, Mapping[str, int]],
    reason: str,
) -> None:
    """Say which sizes a model takes where it does not run with those that were asked for.

    Args:
        model: The model as its file holds it.
        asked: What `fix_inputs` was given beside it.
        reason: What became of it.

    Raises:
        UsageError: It has open dimensions, and runs with other sizes of them.
    """
    import onnx

    inputs = list_inputs(model)
    if not any(map(_is_open_input, inputs)):
        return
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    if _runs(fixed, {spec.name: spec.shape for spec in fix_inputs(fixed, *asked)}):
        return
    shapes, fits = _propose_shapes(model, inputs)
    if fits:
        texts = _name_shapes(inputs, shapes)
        raise UsageError(
            f"{asked[2]} does not run with the sizes given for its open dimensions ({reason})",
            Argument("inputs", texts[0] if len(texts) == 1 else texts, purpose="it runs with"),
        )


def _ask_for_sizes(
    model: ModelProto, inputs: Sequence[ValueInfoProto], name: str, *, is_first: bool
) -> UsageError:
    """Ask for the sizes of all open dimensions, with some that the network takes.

    Args:
        model: The model.
        inputs: Its inputs, some of them open.
        name: The name of the model, for messages.
        is_first: Whether no shape was given so far; a list of all would take the place of those.
    """
    shapes, _ = _propose_shapes(model, inputs)
    value = next(filter(_is_open_input, inputs))
    texts = _name_shapes(inputs, shapes)
    whole = texts if is_first and len(texts) > 1 else texts[0]
    return UsageError(
        f"{name}: input {value.name!r} has open dimensions: {dims_text(value)}",
        Argument("inputs", whole, purpose="fix all of them"),
        *_other_remedies(inputs, shapes),
    )


def _name_shapes(inputs: Sequence[ValueInfoProto], shapes: Mapping[str, Shape]) -> tuple[str, ...]:
    """Write shapes of open inputs as options take them; those that follow from others are left."""
    texts = []
    known: set[str] = set()
    for value in inputs:
        open_dims = [dim for dim in value.type.tensor_type.shape.dim if is_open(dim)]
        symbols = {dim.dim_param for dim in open_dims}
        if symbols - known or not all(map(_is_symbol, symbols)):
            texts.append(f"{value.name}={'x'.join(map(str, shapes[value.name]))}")
            known |= set(filter(_is_symbol, symbols))
    return tuple(texts)


def _propose_shapes(
    model: ModelProto, inputs: Sequence[ValueInfoProto]
) -> tuple[dict[str, Shape], bool]:
    """Propose a shape for every input, usual sizes for its open dimensions.

    Returns:
        The first shapes with which the network runs, by name, else the most usual ones; and whether
        it runs with them.
    """
    begun_s = time.monotonic()
    tried: list[dict[str, Shape]] = []
    for shapes in _usual_shapes(inputs):
        if shapes in tried:
            continue
        if tried and time.monotonic() - begun_s > LOOK_S:
            break
        tried.append(shapes)
        if _runs(model, shapes):
            return shapes, True
    return tried[0], False


def _usual_shapes(inputs: Sequence[ValueInfoProto]) -> Iterator[dict[str, Shape]]:
    """Give usual shapes of all inputs; dimensions of one name have one size in all of them.

    Dimensions of which nothing says what they are have the size 1 first, then a usual length.
    """
    for others in ((1,) * len(LENGTHS), LENGTHS):
        for sides, length, other in zip(SIDES, LENGTHS, others, strict=True):
            size_by_symbol: dict[str, int] = {}
            shapes: dict[str, Shape] = {}
            for value in inputs:
                sizes = []
                for index, dim in enumerate(value.type.tensor_type.shape.dim):
                    size = dim.dim_value
                    if is_open(dim):
                        size = _usual_size(value, index, sides, length, other)
                    if is_open(dim) and _is_symbol(dim.dim_param):
                        size = size_by_symbol.setdefault(dim.dim_param, size)
                    sizes.append(size)
                shapes[value.name] = tuple(sizes)
            yield shapes


def _usual_size(
    value: ValueInfoProto, index: int, sides: tuple[int, int], length: int, other: int
) -> int:
    """Choose the size of one open dimension by its name and its place."""
    dims = value.type.tensor_type.shape.dim
    word = dims[index].dim_param.lower()
    channels_last = len(dims) == 4 and not is_open(dims[3]) and is_open(dims[1])
    first_side = 1 if channels_last else 2
    size = other
    if "batch" in word or (index == 0 and len(dims) > 1):
        size = 1
    elif any(part in word for part in _LENGTH_WORDS):
        size = length
    elif len(dims) == 4 and first_side <= index < first_side + 2:
        size = sides[index - first_side]
    elif len(dims) == 2:
        size = length
    return size


def _runs(model: ModelProto, shapes: Mapping[str, Shape]) -> bool:
    """Tell whether a model runs with shapes of its inputs, as far as that is soon found out."""
    import onnx

    if has_external(model):
        return True  # over 2 GiB of weights, which takes too long to find out
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    had_open_dims = False
    for value in list_inputs(fixed):
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
            had_open_dims |= is_open(dim)
            dim.dim_value = size
    if had_open_dims:
        _drop_shapes(fixed)
    try:
        loaded = graph.load(fixed.SerializeToString())
        onnx_bounds.check_windows(loaded, "")
        macs, size_bytes = graph.count(loaded).macs or 0, onnx_bounds.count_bytes(loaded)
        specs = input_specs(loaded, "")
    except HwbenchError:
        return False
    if macs > LARGE_MACS or size_bytes > LARGE_BYTES:
        return True
    random = np.random.default_rng(0)
    return onnx_run.runs(fixed, {spec.name: random_input(spec, random) for spec in specs})


def _drop_shapes(model: ModelProto) -> None:
    """Drop the shapes inside a model, in place, which were those of open inputs."""
    del model.graph.value_info[:]
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()


def _other_remedies(
    inputs: Sequence[ValueInfoProto], shapes: Mapping[str, Shape]
) -> list[Argument]:
    """Name what fixes all open dimensions without their shapes: a batch, or a size by name."""
    batches = 0
    size_by_symbol: dict[str, int] = {}
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        for index, (dim, size) in enumerate(zip(dims, shapes[value.name], strict=True)):
            if not is_open(dim):
                continue
            if index == 0:
                batches += 1
            elif _is_symbol(dim.dim_param):
                size_by_symbol[dim.dim_param] = size
            else:
                return []
    if not size_by_symbol:
        return [Argument("batch", 1, purpose="fix the first")]
    if len(size_by_symbol) > 1:
        return []
    ((symbol, size),) = size_by_symbol.items()
    also = {"batch": 1} if batches else {}
    return [Argument("dims", f"{symbol}={size}", purpose="fix it by name", also=also)]
