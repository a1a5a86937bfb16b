"""Writing `.tflite` files of a few operators: what a profiler's own cost is learnt from.

Fields are those of TensorFlow Lite's schema, version 3 (tensorflow/lite/schema/schema.fbs,
Apache-2.0). Images are channels last, weights of convolutions (out, height, width, in).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.network.tflite import describe
from hwbench.network.tflite.graph import IDENTIFIER, TYPES
from hwbench.network.tflite.operators import NAMES
from hwbench.network.workload import Workload

if TYPE_CHECKING:
    from flatbuffers import Builder  # type: ignore[import-untyped]

VERSION = 3
"""Version of the schema."""
SAME = 0
"""Padding that keeps the size at a stride of 1, by the schema's `Padding`; 1 pads nothing."""
OPTIONS = {
    "CONV_2D": (1, "biibii"),
    "DEPTHWISE_CONV_2D": (2, "biiibii"),
    "AVERAGE_POOL_2D": (5, "biiiib"),
    "MAX_POOL_2D": (5, "biiiib"),
    "FULLY_CONNECTED": (8, "b"),
    "SOFTMAX": (9, "f"),
    "CONCATENATION": (10, "ib"),
    "ADD": (11, "b"),
    "RESHAPE": (17, ""),
    "MUL": (21, "b"),
    "PAD": (22, ""),
    "MEAN": (27, "b"),
    "STRIDED_SLICE": (32, "iiiii"),
    "SPLIT": (35, "i"),
    "SLICE": (48, ""),
    "TRANSPOSE_CONV": (49, "biib"),
    "SPLIT_V": (79, "i"),
}
"""Options of operators: their number in the schema's union, and the types of their fields."""
_ALIGNMENT = 16
"""Bytes that the values of constants are aligned to, so that kernels may read them in place."""


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written.

    Attributes:
        name: Its name.
        shape: Its sizes.
        dtype: Type of its elements, by numpy's name.
        data: Its values, if it is a constant.
        scales: Scales of a quantised tensor, one or one for each output channel; its zero points
            are 0.
        axis: Dimension that the scales are of, where there are several.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: bytes = field(default=b"", repr=False)
    scales: tuple[float, ...] = ()
    axis: int = 0


@dataclass(frozen=True)
class NewOperator:
    """An operator to be written.

    Attributes:
        kind: Its name, `CONV_2D`.
        inputs: Numbers of the tensors it reads; -1 for one that is left out.
        outputs: Numbers of the tensors it writes.
        options: Values of its options in the order of the schema's fields.
        version: Its version, which says what it can do (int8 needs 2 or 3).
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[Any, ...] = ()
    version: int = 1


def write_model(
    tensors: Sequence[NewTensor],
    operators: Sequence[NewOperator],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> bytes:
    """Write a model of one graph.

    Args:
        tensors: All tensors.
        operators: All operators, in the order of execution.
        inputs: Numbers of the tensors that go in.
        outputs: Numbers of the tensors that come out.
    """
    from flatbuffers import Builder

    build = Builder(1024)
    buffers = [_table(build, {})]  # the first buffer is empty by agreement
    written = []
    for tensor in tensors:
        place = 0
        if tensor.data:
            place = len(buffers)
            buffers.append(_table(build, {0: write_bytes(build, tensor.data)}))
        written.append(_write_tensor(build, tensor, place))
    kinds = list(dict.fromkeys((operator.kind, operator.version) for operator in operators))
    codes = [_write_code(build, *kind) for kind in kinds]
    ran = [_write_operator(build, operator, kinds) for operator in operators]
    graph = _table(
        build,
        {
            0: _offsets(build, written),
            1: _numbers(build, inputs),
            2: _numbers(build, outputs),
            3: _offsets(build, ran),
        },
    )
    fields = {
        1: _offsets(build, codes),
        2: _offsets(build, [graph]),
        4: _offsets(build, buffers),
    }
    root = _table(build, fields, numbers={0: ("I", VERSION)})
    build.Finish(root, file_identifier=IDENTIFIER)
    return bytes(build.Output())


def write_convolutions(name: str, channels: Sequence[int], side: int, kernel: int = 3) -> Workload:
    """Make a network of convolutions in a row with random weights.

    Args:
        name: Name of the workload; layers are called n0, n1 and so on.
        channels: Channels of the input, then of the output of each convolution.
        side: Height and width of all maps.
        kernel: Height and width of the windows.
    """
    random = np.random.default_rng(0)
    tensors = [NewTensor("input", (1, side, side, channels[0]))]
    operators = []
    last = 0
    for number, (before, after) in enumerate(pairwise(channels)):
        shape = (after, kernel, kernel, before)
        values = random.uniform(-1, 1, shape).astype(np.float32) / (kernel * before)
        bias = np.zeros(after, np.float32)
        first = len(tensors)
        tensors += [
            NewTensor(f"w{number}", shape, data=values.tobytes()),
            NewTensor(f"b{number}", (after,), data=bias.tobytes()),
            NewTensor(f"n{number}", (1, side, side, after)),
        ]
        operators.append(
            NewOperator("CONV_2D", (last, first, first + 1), (first + 2,), (SAME, 1, 1, 0, 1, 1))
        )
        last = first + 2
    return describe(write_model(tensors, operators, (0,), (last,)), name)


def _write_tensor(build: Builder, tensor: NewTensor, place: int) -> int:
    fields = {0: _numbers(build, tensor.shape), 3: build.CreateString(tensor.name)}
    if tensor.scales:
        scales = build.CreateNumpyVector(np.asarray(tensor.scales, np.float32))
        zeros = build.CreateNumpyVector(np.zeros(len(tensor.scales), np.int64))
        fields[4] = _table(build, {2: scales, 3: zeros}, numbers={6: ("i", tensor.axis)})
    kind = next(number for number, name in TYPES.items() if name == tensor.dtype)
    return _table(build, fields, numbers={1: ("b", kind), 2: ("I", place)})


def _write_code(build: Builder, kind: str, version: int) -> int:
    code = NAMES.index(kind)
    return _table(build, {}, numbers={0: ("b", min(code, 127)), 2: ("i", version), 3: ("i", code)})


def _write_operator(build: Builder, operator: NewOperator, kinds: Sequence[tuple[str, int]]) -> int:
    union, types = OPTIONS.get(operator.kind, (0, ""))
    fields = {1: _numbers(build, operator.inputs), 2: _numbers(build, operator.outputs)}
    numbers = {0: ("I", kinds.index((operator.kind, operator.version)))}
    if union:
        values = zip(types, operator.options, strict=True)
        fields[4] = _table(build, {}, numbers=dict(enumerate(values)))
        numbers[3] = ("B", union)
    return _table(build, fields, numbers=numbers)


def _table(
    build: Builder, offsets: dict[int, int], numbers: dict[int, tuple[str, Any]] | None = None
) -> int:
    """Write a table: what it points to, and its numbers with their types in `struct`."""
    put = {
        "b": build.PrependInt8Slot,
        "B": build.PrependUint8Slot,
        "f": build.PrependFloat32Slot,
        "i": build.PrependInt32Slot,
        "I": build.PrependUint32Slot,
    }
    numbers = numbers or {}
    build.StartObject(max([*offsets, *numbers], default=0) + 1)
    for slot, offset in offsets.items():
        build.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, (kind, value) in numbers.items():
        put[kind](slot, value, None)
    return int(build.EndObject())


def _offsets(build: Builder, offsets: Sequence[int]) -> int:
    build.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        build.PrependUOffsetTRelative(offset)
    return int(build.EndVector())


def _numbers(build: Builder, numbers: Sequence[int]) -> int:
    return int(build.CreateNumpyVector(np.asarray(numbers, np.int32)))


def write_bytes(build: Builder, data: bytes) -> int:
    """Write the values of a constant, aligned as kernels need them; gives where they lie."""
    build.StartVector(1, len(data), _ALIGNMENT)
    build.head = build.head - len(data)
    build.Bytes[build.head : build.head + len(data)] = data
    return int(build.EndVector())
