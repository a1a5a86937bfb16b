"""Files for TensorFlow Lite: a `.tflite` model, and the user's `benchmark_model` program.

Read and checked, never executed here.

A model is a FlatBuffer, read by field numbers of TensorFlow Lite's schema, version 3
(tensorflow/lite/schema/schema.fbs, Apache-2.0), as far as a record needs it: inputs,
multiply-accumulates, parameters, precision. Files may be hostile: every offset is checked, and no
more is read than the file could honestly hold.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from pathlib import Path

from hwbench.errors import UsageError, WorkloadError
from hwbench.records.tensors import Shape, TensorSpec

MAX_BYTES = (1 << 31) - 1
"""Largest FlatBuffer (its offsets are 32 bits, signed)."""
_IDENTIFIER = b"TFL3"
_CONV, _DEPTHWISE, _DEQUANTIZE, _LINEAR, _TRANSPOSED = 3, 4, 6, 9, 67
"""Numbers of `BuiltinOperator`."""
_TYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    5: "string",
    6: "bool",
    7: "int16",
    8: "complex64",
    9: "int8",
    10: "float64",
    15: "uint32",
    16: "uint16",
    17: "int4",
    18: "bfloat16",
}
"""Names of `TensorType`."""
_PRECISIONS = {"float16": "fp16", "int8": "int8", "uint8": "int8", "int4": "int8"}
_ELF_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""`e_machine` of the ELF specification -> what `uname -m` says of such a processor."""


@dataclass(frozen=True)
class TfliteModel:
    """A `.tflite` file and what it says of itself.

    Attributes:
        name: How the user called it.
        data: Its bytes.
        inputs: Inputs of its first subgraph; a dimension that is left open is 1, as the runtime
            takes it.
        precision: Of most of its weights: `fp32`, `fp16` or `int8`.
        macs: Multiply-accumulates of convolutions and linear layers.
        params: Elements of their weights and biases.
        sha256: Its identity, hexadecimal.
    """

    name: str
    data: bytes = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    precision: str
    macs: int
    params: int
    sha256: str

    @property
    def batch(self) -> int:
        """Leading dimension of the first input."""
        return next((spec.shape[0] for spec in self.inputs if spec.shape), 1)


@dataclass(frozen=True)
class Program:
    """A program for a target.

    Attributes:
        path: Where it is here.
        data: Its bytes.
        machine: The processor it is for, as `uname -m` says it.
        sha256: Its identity, hexadecimal.
    """

    path: Path
    data: bytes = field(repr=False)
    machine: str
    sha256: str

    def check(self, machine: str) -> None:
        """Refuse to be put on a target with another processor.

        Raises:
            UsageError: It is for another one.
        """
        machine = (
            "armv7l" if machine.startswith("armv") else machine
        )  # a 32-bit kernel on newer cores says armv8l
        if self.machine != machine:
            built = {
                "aarch64": "android_arm64",
                "armv7l": "android_arm",
                "x86_64": "android_x86_64",
            }.get(machine, machine)
            raise UsageError(
                f"{self.path} is a program for {self.machine}; the device is {machine}: give a"
                f" benchmark_model built for it (bazel build -c opt --config={built}"
                " tensorflow/lite/tools/benchmark:benchmark_model)"
            )


def read_program(path: Path) -> Program:
    """Read a `benchmark_model`.

    Raises:
        UsageError: It cannot be read, or is no ELF program.
    """
    data = _read(path)
    little = data[:4] == b"\x7fELF" and data[5:6] == b"\x01" and len(data) >= 20
    kind, machine = struct.unpack_from("<HH", data, 16) if little else (0, 0)
    if kind not in {2, 3}:  # ET_EXEC, ET_DYN
        raise UsageError(
            f"{path} is no program of Android or Linux (no ELF executable); give the"
            " benchmark_model that was built for the phone"
        )
    return Program(
        path, data, _ELF_MACHINES.get(machine, f"ELF machine {machine}"), sha256(data).hexdigest()
    )


def read_model(path: Path) -> TfliteModel:
    """Read a `.tflite` file.

    Raises:
        UsageError: It cannot be read.
        WorkloadError: It is no TensorFlow Lite model, or is damaged.
    """
    data = _read(path)
    if data[4:8] != _IDENTIFIER:
        raise WorkloadError(
            f"{path} is no TensorFlow Lite model (its bytes 4 to 7 are {data[4:8]!r}, not"
            f" {_IDENTIFIER!r})"
        )
    try:
        graph = _Graph(_Buffer(data))
        return TfliteModel(
            str(path),
            data,
            graph.input_specs(),
            graph.precision(),
            graph.macs(),
            graph.params(),
            sha256(data).hexdigest(),
        )
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise WorkloadError(
            f"{path} is a damaged TensorFlow Lite model ({error}); convert or download it again"
        ) from error


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise UsageError(f"no such file: {str(path)!r}")
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(
                f"{str(path)!r} has {path.stat().st_size} bytes; expected at most {MAX_BYTES}"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error


class _Buffer:
    """Tables, vectors and scalars of a FlatBuffer.

    Raises struct.error or IndexError where it is damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = 4 * len(
            data
        )  # vectors may be shared, but not so often that reading them takes forever

    def scalar(self, code: str, at: int | None, default: int = 0) -> int:
        """The number of `struct` format `code` there; `default` for a field that is not set."""
        if at is None:
            return default
        if at < 0:
            raise IndexError(f"offset {at}")
        value: int = struct.unpack_from(f"<{code}", self._data, at)[0]
        return value

    def root(self) -> int:
        return self.scalar("I", 0)

    def field(self, table: int, number: int) -> int | None:
        """Where field `number` of a table is; None if it is not set."""
        vtable = table - self.scalar("i", table)
        slot = 4 + 2 * number
        offset = self.scalar("H", vtable + slot) if slot + 2 <= self.scalar("H", vtable) else 0
        return table + offset if offset else None

    def vector(self, table: int, number: int) -> tuple[int, int]:
        """Where the elements of a vector are, and how many; none for a field that is not set."""
        at = self.field(table, number)
        if at is None:
            return 0, 0
        at += self.scalar("I", at)
        return at + 4, self.scalar("I", at)

    def numbers(self, table: int, number: int) -> tuple[int, ...]:
        """A vector of 32-bit integers."""
        at, count = self.vector(table, number)
        self._spend(count)
        return struct.unpack_from(f"<{count}i", self._data, at)

    def tables(self, table: int, number: int) -> Iterator[int]:
        """A vector of tables."""
        at, count = self.vector(table, number)
        self._spend(count)
        for position in range(at, at + 4 * count, 4):
            yield position + self.scalar("I", position)

    def text(self, table: int, number: int) -> str:
        at, count = self.vector(table, number)
        if at + count > len(self._data):
            raise IndexError(f"text of {count} bytes at {at}")
        self._spend(count)
        return self._data[at : at + count].decode()

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise IndexError("vectors that hold more than the file")


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: Shape
    dtype: str
    constant: bool


class _Graph:
    """The first subgraph, which `benchmark_model` runs."""

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer, model = buffer, buffer.root()
        filled = [self._is_filled(table) for table in buffer.tables(model, 4)]
        codes = [self._code(table) for table in buffer.tables(model, 1)]
        graph = next(buffer.tables(model, 2), None)
        if graph is None:
            raise IndexError("no graph")
        self.tensors = [self._tensor(table, filled) for table in buffer.tables(graph, 0)]
        self.inputs = buffer.numbers(graph, 1)
        self.operators = [
            (
                codes[buffer.scalar("I", buffer.field(table, 0))],
                buffer.numbers(table, 1),
                buffer.numbers(table, 2),
            )
            for table in buffer.tables(graph, 3)
        ]
        # half-precision weights reach their layer through DEQUANTIZE
        unpacked = {
            outputs[0]: inputs[0] for code, inputs, outputs in self.operators if code == _DEQUANTIZE
        }
        layers = [
            layer
            for layer in self.operators
            if layer[0] in {_CONV, _DEPTHWISE, _LINEAR, _TRANSPOSED}
        ]
        read = {
            unpacked.get(index, index) for _, inputs, _ in layers for index in inputs if index >= 0
        }
        self._layers, self._weights = (
            layers,
            [self.tensors[index] for index in read if self.tensors[index].constant],
        )

    def input_specs(self) -> tuple[TensorSpec, ...]:
        found = (self.tensors[index] for index in self.inputs)
        return tuple(TensorSpec(tensor.name, tensor.shape, tensor.dtype) for tensor in found)

    def params(self) -> int:
        return sum(prod(tensor.shape) for tensor in self._weights)

    def precision(self) -> str:
        sizes: Counter[str] = Counter()
        for tensor in self._weights:
            sizes[_PRECISIONS.get(tensor.dtype, "fp32")] += prod(tensor.shape)
        return max(sizes, key=sizes.__getitem__, default="fp32")

    def macs(self) -> int:
        return sum(self._macs(*layer) for layer in self._layers)

    def _macs(self, code: int, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
        """Of one layer.

        Weights are (out, height, width, in), depth-wise (1, height, width, out), linear (out, in).
        """
        weights, output = self.tensors[inputs[1]].shape, prod(self.tensors[outputs[0]].shape)
        if (
            code == _TRANSPOSED
        ):  # reads (shape of the output, weights, activation): each element meets all but `in`
            return prod(self.tensors[inputs[2]].shape) * prod(weights[:3])
        return output * (prod(weights[:3]) if code == _DEPTHWISE else prod(weights[1:]))

    def _is_filled(self, table: int) -> bool:
        """Whether a buffer holds data: within the FlatBuffer, or behind it (models beyond 2 GB)."""
        return (
            self._buffer.vector(table, 0)[1] > 0
            or self._buffer.scalar("Q", self._buffer.field(table, 1)) > 1
        )

    def _code(self, table: int) -> int:
        """Of the two fields that hold it, older files fill the first alone, which cannot count beyond 127."""
        old, new = self._buffer.field(table, 0), self._buffer.field(table, 3)
        return max(self._buffer.scalar("b", old), self._buffer.scalar("i", new))

    def _tensor(self, table: int, filled: list[bool]) -> _Tensor:
        buffer = self._buffer
        index = buffer.scalar("I", buffer.field(table, 2))
        kind = buffer.scalar("b", buffer.field(table, 1))
        shape = tuple(max(1, size) for size in buffer.numbers(table, 0))
        return _Tensor(
            buffer.text(table, 3),
            shape,
            _TYPES.get(kind, f"type {kind}"),
            filled[index] if filled else False,
        )
