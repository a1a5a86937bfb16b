"""Narrower versions of a `.tflite` file, without the framework or the converter it came from.

What belongs together is found by `hwbench.network.tflite.channels`. A version keeps the operators
of the file and their options: its tensors are narrower, the constants are cut with them, and so are
the shapes and bounds that reshapes, slices and the like are told. It has the layers, and so the
latency, of the pruned network; its accuracy is another matter, as the first channels are kept, not
the best.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import UnsupportedLayerError, WorkloadError
from hwbench.network.graph import Layer
from hwbench.network.structure import (
    Dimension,
    Group,
    Slot,
    Structure,
    channel_dimension,
    list_groups,
)
from hwbench.network.structure.channels import Layout
from hwbench.network.tflite.channels import Constant, TfliteChannels, strided_bounds
from hwbench.network.tflite.graph import IDENTIFIER, Operator, TfliteGraph
from hwbench.network.tflite.layers import layers
from hwbench.network.tflite.writing import write_bytes
from hwbench.optional import import_optional
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import Shape

if TYPE_CHECKING:
    from flatbuffers import Builder  # type: ignore[import-untyped]

Integers = NDArray[np.int64]
Numbers = dict[tuple[int, int], list[int | Layout]]
"""By operator and position of its input, numbers that it is told: as they are, or the size of a
layout."""
_DTYPES = {
    "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8", "int8": "<i1",
    "uint8": "<u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4",
    "int64": "<i8", "bool": "?",
}  # fmt: skip
"""Types of constants that can be cut, by numpy's code; others are packed or no numbers."""
_DAMAGE = (
    struct.error,
    IndexError,
    KeyError,
    ValueError,
    TypeError,
    OverflowError,
    ZeroDivisionError,
)
"""What a file raises whose parts contradict each other."""


class PrunableTflite:
    """A `.tflite` file from which narrower versions are cut, as often as wanted.

    Attributes:
        graph: What is in the file.
        channels: Which of its channels belong together.
        structure: What can be pruned in it; no blocks, as none is left out of such a file.

    Args:
        data: The bytes of the file.
        name: What the user calls it, for messages.

    Raises:
        UsageError: ai-edge-litert, which has the schema of such files, is not installed.
        UnsupportedLayerError: A constant is kept in a form that cannot be cut, or a layer cannot be
            told by sizes.
        WorkloadError: It is no TensorFlow Lite model, is damaged, or has several graphs.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.graph = TfliteGraph(data, name)
        self._data, self._name = data, name
        try:
            self.channels = TfliteChannels(self.graph)
            self._numbers = _list_numbers(self.channels)
            self._check_file()
            groups = list_groups(self.channels.channels)
            self.structure = Structure(groups, (), self._make_slots(groups))
        except _DAMAGE as error:
            raise self._call_damaged(error) from error

    def with_widths(self, widths: Sequence[int]) -> bytes:
        """The file with each prunable group cut to its first `widths[group]` channels.

        Args:
            widths: One per group of `structure`.

        Returns:
            A file whose layers have exactly the keys `structure.keys(widths)`.

        Raises:
            UsageError: As `Structure.resolve`.
        """
        resolved = self.structure.resolve(widths)
        if resolved == self.structure.widths:
            return self._data
        return _Cutting(self._read_model(), self.channels, self._numbers, resolved).write()

    def _read_model(self) -> Any:
        """Read the file by the classes of the schema."""
        schema = _load_schema()
        try:
            return schema.ModelT.InitFromObj(schema.Model.GetRootAs(self._data, 0))
        except (*_DAMAGE, AttributeError) as error:
            raise self._call_damaged(error) from error

    def _call_damaged(self, error: Exception) -> WorkloadError:
        return WorkloadError(
            f"{self._name} is a damaged TensorFlow Lite model ({type(error).__name__}: {error});"
            " convert or download it again"
        )

    def _check_file(self) -> None:
        """Refuse what cannot be written anew in other sizes."""
        model = self._read_model()
        if len(model.subgraphs) != 1:
            raise WorkloadError(
                f"{self._name} has {len(model.subgraphs)} graphs, expected 1: what they share"
                " cannot be pruned; convert it with one signature"
            )
        for cut in self.channels.cuts:
            constant = self.graph.tensors[cut.constant.tensor]
            written = model.subgraphs[0].tensors[cut.constant.tensor]
            code = _DTYPES.get(constant.dtype)
            problem = ""
            if code is None:
                problem = f"of type {constant.dtype}"
            elif written.sparsity is not None:
                problem = "sparse"
            elif written.quantization is not None and written.quantization.details is not None:
                problem = "quantised in blocks"
            elif constant.shape[cut.axis] != cut.layout.size:
                problem = f"of {constant.shape[cut.axis]} channels where {cut.layout.size} are read"
            elif constant.bytes != prod(constant.shape) * np.dtype(code).itemsize:
                problem = "not kept inside the file in one piece"
            if problem:
                raise UnsupportedLayerError(
                    f"the constant {constant.name!r} of {self._name} is {problem}, and so cannot be"
                    " cut to other widths; convert the model without that"
                )

    def _make_slots(self, groups: Sequence[Group]) -> tuple[Slot, ...]:
        """Find how the key of every layer follows the widths.

        A key may name a tensor's sizes in another order than the tensor has them, or merged, so
        each group is made wider by one channel in turn, on paper, to see which sizes follow.
        """
        widths = tuple(group.width for group in groups)
        originals = []
        for layer in layers(self.graph):
            if not isinstance(layer, Layer):
                raise UnsupportedLayerError(
                    f"{layer.name} ({layer.op}) of {self._name} works on something else than"
                    " tensors, so no table knows it; measure the model instead"
                )
            originals.append(layer)
        changes: list[list[tuple[int, LayerKey]]] = [[] for _ in originals]
        for group, width in enumerate(widths):
            wider = (*widths[:group], width + 1, *widths[group + 1 :])
            for place, layer in enumerate(layers(self._resized(wider))):
                if layer.key is not None and layer.key != originals[place].key:
                    changes[place].append((group, layer.key))
        return tuple(
            _make_slot(layer, keys, widths) for layer, keys in zip(originals, changes, strict=True)
        )

    def _resized(self, widths: Sequence[int]) -> TfliteGraph:
        """The graph with other widths, larger ones too; its constants have no values."""
        channels = self.channels.channels
        shapes: dict[int, Shape] = {}

        def resize(tensor: int, axis: int, layout: Layout) -> None:
            shape = list(shapes.get(tensor, self.graph.tensors[tensor].shape))
            shape[axis] = channel_dimension(channels, layout).size(widths)
            shapes[tensor] = tuple(shape)

        for tensor, layout in self.channels.layouts.items():
            resize(tensor, layout.axis, layout)
        for cut in self.channels.cuts:
            for tensor in (cut.constant.tensor, *_unpacked(self.graph, cut.constant.tensor)):
                resize(tensor, cut.axis, cut.layout)
        numbers = {}
        for place, entries in self._numbers.items():
            numbers[place] = tuple(
                entry if isinstance(entry, int) else channel_dimension(channels, entry).size(widths)
                for entry in entries
            )
        return self.graph.resized(shapes, numbers)


class _Cutting:
    """One version in the making.

    Args:
        model: The model, as the schema's classes hold it; it is changed.
        channels: Which of its channels belong together.
        numbers: What its operators are told of sizes.
        widths: One per group.
    """

    def __init__(
        self, model: Any, channels: TfliteChannels, numbers: Numbers, widths: tuple[int, ...]
    ) -> None:
        self._model, self._widths = model, widths
        self._tensors: list[Any] = model.subgraphs[0].tensors
        self._operators: list[Any] = model.subgraphs[0].operators
        self._source, self._channels, self._numbers = channels, channels.channels, numbers
        self._graph = channels.graph
        self._uses = Counter(
            index for operator in self._graph.operators for index in operator.inputs
        )

    def write(self) -> bytes:
        """Cut everything, and write the file."""
        from flatbuffers import Builder

        for number, layout in self._source.layouts.items():
            self._cut_tensor(self._tensors[number], {layout.axis: self._list_kept(layout)})
        self._cut_constants()
        for (reader, position), entries in self._numbers.items():
            values = [
                entry if isinstance(entry, int) else len(self._list_kept(entry))
                for entry in entries
            ]
            self._tell(reader, position, values)
        for operator in self._graph.operators:
            if operator.kind == "RESHAPE":
                self._tell_reshape(operator)
        self._drop_unused_buffers()
        self._model.buffers = [_AlignedBuffer(buffer) for buffer in self._model.buffers]
        build = Builder(1 << 20)
        build.Finish(self._model.Pack(build), file_identifier=IDENTIFIER)
        return bytes(build.Output())

    def _list_kept(self, layout: Layout) -> Integers:
        return self._channels.kept_entries(layout, self._widths)

    def _cut_constants(self) -> None:
        # A constant follows channels along several axes, so all its cuts are gathered first.
        kept: defaultdict[Constant, dict[int, Integers]] = defaultdict(dict)
        for cut in self._source.cuts:
            kept[cut.constant][cut.axis] = self._list_kept(cut.layout)
        for constant, entries in kept.items():
            tensor = self._own_tensor(constant.tensor, constant.operator, constant.position)
            found = self._graph.tensors[constant.tensor]
            data = self._model.buffers[tensor.buffer].data
            values = data.view(_DTYPES[found.dtype]).reshape(found.shape)
            for axis, indices in entries.items():
                values = np.take(values, indices, axis)
            self._cut_tensor(tensor, entries)
            self._set_values(tensor, values)
            for number in _unpacked(self._graph, constant.tensor):
                self._cut_tensor(self._tensors[number], entries)

    def _own_tensor(self, number: int, operator: int, position: int) -> Any:
        """The tensor that an operator reads, or a copy where others read it, too.

        Without an operator it is the tensor itself, for all who read it.
        """
        if operator < 0 or (self._uses[number] == 1 and number not in self._graph.outputs):
            return self._tensors[number]
        tensor = copy(self._tensors[number])
        inputs = np.array(self._operators[operator].inputs, np.int32)
        inputs[position] = len(self._tensors)
        self._operators[operator].inputs = inputs
        self._tensors.append(tensor)
        return tensor

    def _cut_tensor(self, tensor: Any, kept: Mapping[int, Integers]) -> None:
        """Give a tensor its new sizes, and those of its quantisation."""
        shape = np.array(tensor.shape, np.int32)
        cut = {axis: entries for axis, entries in kept.items() if len(entries) != shape[axis]}
        if not cut:
            return
        for axis, entries in cut.items():
            shape[axis] = len(entries)
        tensor.shape = shape
        if tensor.shapeSignature is not None:
            signature = np.array(tensor.shapeSignature, np.int32)
            for axis, entries in cut.items():
                signature[axis] = len(entries)
            tensor.shapeSignature = signature
        if tensor.quantization is not None:
            tensor.quantization = _cut_quantization(tensor.quantization, cut)

    def _set_values(self, tensor: Any, values: NDArray[Any]) -> None:
        """Give a constant values of its own, as a buffer may be shared."""
        buffer = copy(self._model.buffers[tensor.buffer])
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        tensor.buffer = len(self._model.buffers)
        self._model.buffers.append(buffer)

    def _tell(self, operator: int, position: int, numbers: Sequence[int]) -> None:
        """Tell an operator the sizes that are left."""
        number = self._graph.operators[operator].inputs[position]
        if self._graph.integers(number) == tuple(numbers):
            return
        tensor = self._own_tensor(number, operator, position)
        code = _DTYPES[self._graph.tensors[number].dtype]
        self._set_values(tensor, np.array(numbers, np.dtype(code)))

    def _tell_reshape(self, operator: Operator) -> None:
        """Tell a reshape the shape that it makes where its options hold it, too."""
        options = self._operators[operator.index].builtinOptions
        told = getattr(options, "newShape", None)
        shape = self._tensors[operator.outputs[0]].shape
        if told is None or len(told) != len(shape):
            return
        sizes = np.array(shape, np.int32)
        options.newShape = np.where(np.asarray(told) < 0, np.asarray(told), sizes).astype(np.int32)

    def _drop_unused_buffers(self) -> None:
        """Empty the buffers that nothing reads any more; their numbers stay."""
        used = {0} | {tensor.buffer for tensor in self._tensors}
        used.update(entry.buffer for entry in self._model.metadata or ())
        used.update(self._model.metadataBuffer if self._model.metadataBuffer is not None else ())
        for number, buffer in enumerate(self._model.buffers):
            if number not in used:
                buffer.data = None


@dataclass(frozen=True)
class _AlignedBuffer:
    """A buffer that is written so that kernels may read its values in place.

    Attributes:
        buffer: The buffer, as the schema's class holds it.
    """

    buffer: Any

    def Pack(self, build: Builder) -> int:  # noqa: N802 - the schema's classes call it so
        """Write it."""
        schema = _load_schema()
        place = None
        if self.buffer.data is not None:
            place = write_bytes(build, self.buffer.data.tobytes())
        schema.BufferStart(build)
        if place is not None:
            schema.BufferAddData(build, place)
        return int(schema.BufferEnd(build))


def _load_schema() -> Any:
    """Load the classes of the schema, which come with LiteRT.

    Raises:
        UsageError: They are not installed.
    """
    return import_optional(
        "ai_edge_litert.schema_py_generated", "litert", "other widths of tflite files"
    )


def _cut_quantization(quantization: Any, kept: Mapping[int, Integers]) -> Any:
    """Keep the scales and zero points of the channels that stay, where each has its own."""
    entries = kept.get(quantization.quantizedDimension)
    if entries is None or quantization.scale is None or len(quantization.scale) < 2:
        return quantization
    cut = copy(quantization)
    for field in ("scale", "zeroPoint", "min", "max"):
        values = getattr(quantization, field)
        if values is not None and len(values) > 1:
            setattr(cut, field, np.ascontiguousarray(np.asarray(values)[entries]))
    return cut


def _unpacked(graph: TfliteGraph, source: int) -> list[int]:
    """List the tensors that a constant becomes when it is brought into another form."""
    return [
        operator.outputs[0]
        for operator in graph.operators
        if graph.unpacks(operator) and graph.source(operator.outputs[0]) == source
    ]


def _list_numbers(channels: TfliteChannels) -> Numbers:
    """List what operators are told of sizes that follow channels."""
    numbers: Numbers = {}
    graph = channels.graph
    for operator in graph.operators:
        if operator.kind == "RESHAPE" and len(operator.inputs) > 1:
            _note_shape(numbers, channels, operator, 1)
        elif operator.kind == "TRANSPOSE_CONV":
            _note_shape(numbers, channels, operator, 0)
        elif operator.kind == "SLICE":
            _note_shape(numbers, channels, operator, 2)
            begins = graph.integers(operator.inputs[1])
            if begins is not None:
                _note_bounds(numbers, channels, operator, 1, begins)
        elif operator.kind == "STRIDED_SLICE":
            bounds = strided_bounds(graph, operator)
            for position, values in enumerate(bounds or (), 1):
                _note_bounds(numbers, channels, operator, position, values)
        elif operator.kind == "SPLIT_V":
            _note_parts(numbers, channels, operator)
    return numbers


def _note_shape(
    numbers: Numbers, channels: TfliteChannels, operator: Operator, position: int
) -> None:
    """Note that an operator is told the shape that it makes; -1 stays, which leaves it open."""
    told = channels.graph.integers(operator.inputs[position])
    layout = channels.layouts.get(operator.outputs[0])
    if told is None or layout is None or layout.is_fixed or told[layout.axis] < 0:
        return
    entries: list[int | Layout] = list(told)
    entries[layout.axis] = layout
    numbers[operator.index, position] = entries


def _note_bounds(
    numbers: Numbers,
    channels: TfliteChannels,
    operator: Operator,
    position: int,
    bounds: Sequence[int],
) -> None:
    """Note that an operator is told where to begin, or end, in the tensor it reads."""
    layout = channels.layouts.get(operator.inputs[0])
    if layout is None or layout.is_fixed:
        return
    entries: list[int | Layout] = list(bounds)
    entries[layout.axis] = Layout(layout.axis, layout.entries[: bounds[layout.axis]])
    numbers[operator.index, position] = entries


def _note_parts(numbers: Numbers, channels: TfliteChannels, operator: Operator) -> None:
    """Note that a SPLIT_V along the channels is told how many of them each part has."""
    told, axis = (channels.graph.integers(operator.inputs[place]) for place in (1, 2))
    source = channels.layouts.get(operator.inputs[0])
    if told is None or axis is None or source is None or source.is_fixed:
        return
    if axis[0] % len(channels.graph.tensors[operator.inputs[0]].shape) != source.axis:
        return
    entries: list[int | Layout] = []
    for size, output in zip(told, operator.outputs, strict=True):
        entries.append(size if size < 0 else channels.layouts[output])
    numbers[operator.index, 1] = entries


def _make_slot(
    layer: Layer, changes: Sequence[tuple[int, LayerKey]], widths: tuple[int, ...]
) -> Slot:
    """Make the slot of a layer.

    Args:
        layer: The layer in the original network.
        changes: Its key where one group is a channel wider, for each group that changes it.
        widths: The original widths.

    Raises:
        UnsupportedLayerError: Its key does not follow the widths by sizes along one axis each.
    """
    key = layer.key
    for _, other in changes:
        same_form = (
            other.op == key.op
            and [len(shape) for shape in other.inputs] == [len(shape) for shape in key.inputs]
            and len(other.output) == len(key.output)
            and [name for name, _ in other.attrs] == [name for name, _ in key.attrs]
        )
        if not same_form:
            raise UnsupportedLayerError(
                f"{layer.name} ({key}) is another kind of layer where it is wider ({other}), so it"
                " cannot be pruned by table; measure the model instead"
            )
    inputs = tuple(
        _find_dimension(
            layer, shape, [(group, other.inputs[place]) for group, other in changes], widths
        )
        for place, shape in enumerate(key.inputs)
    )
    output = _find_dimension(
        layer, key.output, [(group, other.output) for group, other in changes], widths
    )
    depthwise, arguments = False, []
    for name, text in key.attrs:
        texts = [(group, dict(other.attrs)[name]) for group, other in changes]
        if all(other == text for _, other in texts):
            continue
        if name == "group":
            depthwise = True
        else:
            arguments.append((name, _find_sizes(layer, text, texts, widths)))
    return Slot(layer, inputs, output, depthwise, tuple(arguments))


def _find_dimension(
    layer: Layer, shape: Shape, wider: Sequence[tuple[int, Shape]], widths: tuple[int, ...]
) -> Dimension:
    """Find the axis of a shape that follows widths, and how."""
    terms: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for group, other in wider:
        for axis, (size, then) in enumerate(zip(shape, other, strict=True)):
            if then != size:
                terms[axis].append((group, then - size))
    if len(terms) > 1:
        raise UnsupportedLayerError(
            f"{layer.name} ({layer.key}) follows widths along several axes of one tensor, so it"
            " cannot be pruned by table; measure the model instead"
        )
    for axis, found in terms.items():
        return _make_dimension(axis, shape[axis], found, widths)
    axis = min(1, max(len(shape) - 1, 0))
    return Dimension(axis, shape[axis] if shape else 1, ())


def _find_sizes(
    layer: Layer, text: str, wider: Sequence[tuple[int, str]], widths: tuple[int, ...]
) -> tuple[Dimension, ...]:
    """Find how the sizes in an attribute of a key follow widths."""
    try:
        sizes = [int(part) for part in text.split(".")]
        others = [(group, [int(part) for part in other.split(".")]) for group, other in wider]
    except ValueError as error:
        raise UnsupportedLayerError(
            f"{layer.name} ({layer.key}) has an attribute {text!r} that is no list of sizes and"
            " changes with the widths; measure the model instead"
        ) from error
    found = []
    for place, size in enumerate(sizes):
        terms = [(group, other[place] - size) for group, other in others if other[place] != size]
        found.append(_make_dimension(0, size, terms, widths))
    return tuple(found)


def _make_dimension(
    axis: int, size: int, terms: Sequence[tuple[int, int]], widths: tuple[int, ...]
) -> Dimension:
    fixed = size - sum(scale * widths[group] for group, scale in terms)
    return Dimension(axis, fixed, tuple(terms))
