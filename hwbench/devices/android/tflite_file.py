"""Files for TensorFlow Lite: a `.tflite` model, and the user's `benchmark_model` program.

They are read and checked, never executed here. A model is a FlatBuffer, read by the field numbers
of TensorFlow Lite's schema, version 3 (tensorflow/lite/schema/schema.fbs, Apache-2.0), as far as a
record needs it: inputs, multiply-accumulates, parameters, precision. Files may be hostile: every
offset is checked, and no more is read than the file could honestly hold.
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
"""Numbers of the schema's `BuiltinOperator`."""
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
"""Names of the schema's `TensorType`."""
_PRECISIONS = {"float16": "fp16", "int8": "int8", "uint8": "int8", "int4": "int8"}
_ELF_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""What `uname -m` says of a processor, by `e_machine` of the ELF specification."""


@dataclass(frozen=True)
class TfliteModel:
    """A `.tflite` file and what it says of itself.

    Attributes:
        name: The path as the user gave it.
        data: The bytes of the file.
        inputs: The inputs of its first subgraph; a dimension that is left open is 1, as the runtime
            takes it.
        precision: The precision of most of its weights: `fp32`, `fp16` or `int8`.
        macs: The multiply-accumulates of its convolutions and linear layers.
        params: The number of elements of their weights and biases.
        sha256: The SHA-256 of the file, hexadecimal.
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
        """The leading dimension of the first input that has any."""
        for spec in self.inputs:
            if spec.shape:
                return spec.shape[0]
        return 1


@dataclass(frozen=True)
class Program:
    """A program for a target.

    Attributes:
        path: Its path on this computer.
        data: The bytes of the file.
        machine: The processor it is for, as `uname -m` says it.
        sha256: The SHA-256 of the file, hexadecimal.
    """

    path: Path
    data: bytes = field(repr=False)
    machine: str
    sha256: str

    def check(self, machine: str) -> None:
        """Refuse to be put on a target with another processor.

        Args:
            machine: The processor of the target, as `uname -m` says it.

        Raises:
            UsageError: The program is for another processor.
        """
        if machine.startswith("armv"):
            machine = "armv7l"  # a 32-bit kernel on newer cores says armv8l
        if self.machine != machine:
            configs = {
                "aarch64": "android_arm64",
                "armv7l": "android_arm",
                "x86_64": "android_x86_64",
            }
            raise UsageError(
                f"{self.path} is a program for {self.machine}; the device is {machine}: give a"
                " benchmark_model built for it (bazel build -c opt"
                f" --config={configs.get(machine, machine)}"
                " tensorflow/lite/tools/benchmark:benchmark_model)"
            )


def read_program(path: Path) -> Program:
    """Read a `benchmark_model` program.

    Raises:
        UsageError: The file cannot be read, or is no ELF program.
    """
    data = _read_bytes(path)
    kind, machine = 0, 0
    is_little_endian_elf = data[:4] == b"\x7fELF" and data[5:6] == b"\x01" and len(data) >= 20
    if is_little_endian_elf:
        kind, machine = struct.unpack_from("<HH", data, 16)
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
        UsageError: The file cannot be read.
        WorkloadError: It is no TensorFlow Lite model, or is damaged.
    """
    data = _read_bytes(path)
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


def _read_bytes(path: Path) -> bytes:
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
    """Reads tables, vectors and scalars of a FlatBuffer.

    A table begins with the distance back to its vtable, which lists, field by field, how far behind
    the beginning of the table the field lies (0 if it is not set). Vectors, texts and other tables
    are reached by offsets, so one may be shared by many: a small hostile file can claim more
    elements than anybody could read, and so what is read in all is bounded.

    Every method raises struct.error or IndexError where the file is damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._elements_left = 4 * len(data)

    def scalar(self, code: str, position: int | None, default: int = 0) -> int:
        """Read the number of `struct` format `code`; `default` for a field that is not set."""
        if position is None:
            return default
        if position < 0:
            raise IndexError(f"offset {position}")
        value: int = struct.unpack_from(f"<{code}", self._data, position)[0]
        return value

    def root(self) -> int:
        """Find the root table."""
        return self.scalar("I", 0)

    def field(self, table: int, number: int) -> int | None:
        """Find the position of a field of a table; None if it is not set."""
        vtable = table - self.scalar("i", table)
        slot = 4 + 2 * number
        # Older files have shorter vtables: fields that came later are not set in them.
        if slot + 2 > self.scalar("H", vtable):
            return None
        offset = self.scalar("H", vtable + slot)
        return table + offset if offset else None

    def vector(self, table: int, number: int) -> tuple[int, int]:
        """Find the position of a vector's elements, and their number; 0 for a field not set."""
        position = self.field(table, number)
        if position is None:
            return 0, 0
        position += self.scalar("I", position)
        return position + 4, self.scalar("I", position)

    def numbers(self, table: int, number: int) -> tuple[int, ...]:
        """Read a vector of 32-bit integers."""
        position, count = self.vector(table, number)
        self._count_elements(count)
        return struct.unpack_from(f"<{count}i", self._data, position)

    def tables(self, table: int, number: int) -> Iterator[int]:
        """Walk over a vector of tables."""
        first, count = self.vector(table, number)
        self._count_elements(count)
        for position in range(first, first + 4 * count, 4):
            yield position + self.scalar("I", position)

    def text(self, table: int, number: int) -> str:
        """Read a text."""
        position, count = self.vector(table, number)
        if position + count > len(self._data):
            raise IndexError(f"text of {count} bytes at {position}")
        self._count_elements(count)
        return self._data[position : position + count].decode()

    def _count_elements(self, count: int) -> None:
        self._elements_left -= count
        if self._elements_left < 0:
            raise IndexError("vectors that hold more than the file")


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    shape: Shape
    dtype: str
    constant: bool


@dataclass(frozen=True, slots=True)
class _Operator:
    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Graph:
    """The first subgraph, which `benchmark_model` runs."""

    def __init__(self, buffer: _Buffer) -> None:
        self._buffer, model = buffer, buffer.root()
        filled = [self._is_filled(table) for table in buffer.tables(model, 4)]
        codes = [self._read_operator_code(table) for table in buffer.tables(model, 1)]
        graph = next(buffer.tables(model, 2), None)
        if graph is None:
            raise IndexError("no graph")
        self.tensors = [self._read_tensor(table, filled) for table in buffer.tables(graph, 0)]
        self.inputs = buffer.numbers(graph, 1)
        self._layers: list[_Operator] = []
        # Half-precision weights reach their layer through DEQUANTIZE: this is where from.
        packed: dict[int, int] = {}
        for table in buffer.tables(graph, 3):
            code = codes[buffer.scalar("I", buffer.field(table, 0))]
            operator = _Operator(code, buffer.numbers(table, 1), buffer.numbers(table, 2))
            if code == _DEQUANTIZE:
                packed[operator.outputs[0]] = operator.inputs[0]
            elif code in {_CONV, _DEPTHWISE, _LINEAR, _TRANSPOSED}:
                self._layers.append(operator)
        weights: set[int] = set()
        for layer in self._layers:
            for index in layer.inputs:
                source = packed.get(index, index)
                # An input that is left out has the index -1.
                if index >= 0 and self.tensors[source].constant:
                    weights.add(source)
        self._weights = [self.tensors[index] for index in weights]

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Describe the inputs."""
        tensors = [self.tensors[index] for index in self.inputs]
        return tuple(TensorSpec(tensor.name, tensor.shape, tensor.dtype) for tensor in tensors)

    def params(self) -> int:
        """Count the elements of all weights and biases."""
        return sum(prod(tensor.shape) for tensor in self._weights)

    def precision(self) -> str:
        """Find the precision of most weights."""
        sizes: Counter[str] = Counter()
        for tensor in self._weights:
            sizes[_PRECISIONS.get(tensor.dtype, "fp32")] += prod(tensor.shape)
        return max(sizes, key=sizes.__getitem__, default="fp32")

    def macs(self) -> int:
        """Count the multiply-accumulates of all layers."""
        return sum(self._count_macs(layer) for layer in self._layers)

    def _count_macs(self, layer: _Operator) -> int:
        """Count the multiply-accumulates of one layer.

        The shapes of weights are (out, height, width, in), those of depthwise convolutions (1,
        height, width, out), and those of linear layers (out, in).
        """
        weights = self.tensors[layer.inputs[1]].shape
        if layer.code == _TRANSPOSED:
            # It reads the shape of the output, weights and activation: each element of the
            # activation meets all weights of its input channel.
            return prod(self.tensors[layer.inputs[2]].shape) * prod(weights[:3])
        output = prod(self.tensors[layer.outputs[0]].shape)
        if layer.code == _DEPTHWISE:
            return output * prod(weights[:3])
        return output * prod(weights[1:])

    def _is_filled(self, table: int) -> bool:
        """Tell whether a buffer holds data, in the FlatBuffer or behind it (models beyond 2 GB)."""
        if self._buffer.vector(table, 0)[1] > 0:
            return True
        return self._buffer.scalar("Q", self._buffer.field(table, 1)) > 1

    def _read_operator_code(self, table: int) -> int:
        """Read the number of an operator.

        Of the two fields that hold it, older files fill the first alone, which cannot count beyond
        127.
        """
        old, new = self._buffer.field(table, 0), self._buffer.field(table, 3)
        return max(self._buffer.scalar("b", old), self._buffer.scalar("i", new))

    def _read_tensor(self, table: int, filled: list[bool]) -> _Tensor:
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
