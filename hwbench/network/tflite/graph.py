"""The graph in a `.tflite` file: tensors, operators with their options, constants.

A model is a FlatBuffer, read by the field numbers of TensorFlow Lite's schema, version 3
(tensorflow/lite/schema/schema.fbs, Apache-2.0).
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from math import prod

from hwbench.errors import WorkloadError
from hwbench.network.tflite.flatbuffer import FlatBuffer
from hwbench.network.tflite.operators import operator_name
from hwbench.records.tensors import Shape, TensorSpec

IDENTIFIER = b"TFL3"
TYPES = {
    0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool",
    7: "int16", 8: "complex64", 9: "int8", 10: "float64", 12: "uint64", 13: "resource",
    14: "variant", 15: "uint32", 16: "uint16", 17: "int4", 18: "bfloat16",
}  # fmt: skip
"""Names of the schema's `TensorType`."""
_INTEGERS = {"int32": "i", "int64": "q", "bool": "?", "int16": "h"}
"""Types of constants that say what an operator does, by their code in `struct`."""
PRECISIONS = {"float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"} | {
    "int4": "int8",
    "int16": "int16",
}
"""Precisions by the type of weights or activations; others are fp32."""
WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
UNPACKERS = frozenset({"DEQUANTIZE", "DENSIFY"})
"""Operators through which weights that are kept in another form reach their layer."""
UNCOUNTED = frozenset(
    {"BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN", "CALL", "CONV_3D"}
    | {"CONV_3D_TRANSPOSE", "CUSTOM", "DELEGATE", "IF", "LSTM", "RFFT2D", "RNN", "SVDF"}
    | {"UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "WHILE"}
)
"""Operators whose multiply-accumulates are not counted here."""
ACTIVATIONS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH"}
"""Activations that operators have fused in, by the schema's `ActivationFunctionType`."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the graph.

    Attributes:
        name: Its name; may be empty.
        shape: Its sizes; one that is left open is 1, as the runtime takes it.
        dtype: Type of its elements, by numpy's name.
        constant: Whether the file holds its values.
        position: Where in the file the values lie; 0 if they do not lie inside the FlatBuffer.
        bytes: How many bytes they have there.
    """

    name: str
    shape: Shape
    dtype: str
    constant: bool
    position: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the graph.

    Attributes:
        index: Its place among the operators, which the runtime's profile names it by.
        kind: Its name, `CONV_2D`; that of a custom one is `CUSTOM`.
        inputs: Numbers of the tensors it reads; -1 for one that is left out.
        outputs: Numbers of the tensors it writes.
        options: Position of the table of its options; None if it has none.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: int | None

    @property
    def name(self) -> str:
        """A name that no other operator of the graph has."""
        return f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class Window:
    """Window of a convolution or pooling, height first.

    Attributes:
        same: Whether the map is padded so that a stride of 1 would keep its size.
        strides: Its steps.
        kernel: Its sizes; empty where the weights tell them.
        dilations: Distance of the elements it reads.
        activation: What is applied to the result, `RELU`; empty if nothing is.
    """

    same: bool
    strides: tuple[int, int]
    kernel: tuple[int, ...]
    dilations: tuple[int, int]
    activation: str


class TfliteGraph:
    """The graph of a model that runtimes run where nothing else is asked for.

    It is that of its first signature, or the first one where there is none.

    Attributes:
        tensors: All tensors, by their numbers.
        operators: All operators, in the order of execution.
        inputs: Numbers of the tensors that go in.
        outputs: Numbers of the tensors that come out.
        whole_numbers: Constants of whole numbers that were read already, by their numbers.

    Args:
        data: The bytes of the file.
        name: What the user calls it, for messages.

    Raises:
        WorkloadError: It is no TensorFlow Lite model, or is damaged.
    """

    def __init__(self, data: bytes, name: str) -> None:
        if data[4:8] != IDENTIFIER:
            raise WorkloadError(
                f"{name} is no TensorFlow Lite model (its bytes 4 to 7 are {data[4:8]!r}, not"
                f" {IDENTIFIER!r})"
            )
        self._buffer = FlatBuffer(data)
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self.inputs: tuple[int, ...] = ()
        self.outputs: tuple[int, ...] = ()
        self._unpacked: dict[int, int] = {}
        self.whole_numbers: dict[int, tuple[int, ...] | None] = {}
        try:
            self._read()
            self._check_operators()
        except (struct.error, IndexError, UnicodeDecodeError) as error:
            raise WorkloadError(
                f"{name} is a damaged TensorFlow Lite model ({error}); convert or download it again"
            ) from error

    def is_constant(self, tensor: int) -> bool:
        """Whether the values of a tensor are in the file, in another form maybe."""
        return self.tensors[self.source(tensor)].constant

    def source(self, tensor: int) -> int:
        """Find the tensor that a constant is kept in, behind its conversion."""
        while tensor in self._unpacked:
            tensor = self._unpacked[tensor]
        return tensor

    def unpacks(self, operator: Operator) -> bool:
        """Whether an operator only brings constants into the form that another reads."""
        return bool(operator.outputs) and operator.outputs[0] in self._unpacked

    def activations(self, operator: Operator) -> list[int]:
        """List the tensors that an operator reads and that are no constants."""
        return [index for index in operator.inputs if index >= 0 and not self.is_constant(index)]

    def weights(self, operator: Operator) -> list[int]:
        """List the tensors of weights and biases of an operator, as the file keeps them."""
        if operator.kind not in WEIGHTED:
            return []
        sources = [self.source(index) for index in operator.inputs if index >= 0]
        if operator.kind == "TRANSPOSE_CONV":
            sources = sources[1:]  # the first input is the shape of the output
        return [source for source in sources if self.tensors[source].constant]

    def integers(self, tensor: int) -> tuple[int, ...] | None:
        """Read a constant of a few whole numbers; None for any other tensor."""
        if tensor not in self.whole_numbers:
            self.whole_numbers[tensor] = self._read_integers(tensor)
        return self.whole_numbers[tensor]

    def _read_integers(self, tensor: int) -> tuple[int, ...] | None:
        found = self.tensors[tensor]
        code = _INTEGERS.get(found.dtype)
        count = prod(found.shape)
        if code is None or not found.constant or not found.position or count > 16:
            return None
        if found.bytes != count * struct.calcsize(f"<{code}"):
            return None
        return self._buffer.read_many(code, found.position, count)

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Describe the inputs."""
        tensors = [self.tensors[index] for index in self.inputs]
        return tuple(TensorSpec(tensor.name, tensor.shape, tensor.dtype) for tensor in tensors)

    def params(self) -> int:
        """Count the elements of all weights and biases; shared ones count once."""
        used = {index for operator in self.operators for index in self.weights(operator)}
        return sum(prod(self.tensors[index].shape) for index in used)

    def precision(self) -> str:
        """Find the precision of most weights; without any it is that of the first input."""
        sizes: Counter[str] = Counter()
        for index in {index for operator in self.operators for index in self.weights(operator)}:
            tensor = self.tensors[index]
            sizes[PRECISIONS.get(tensor.dtype, "fp32")] += prod(tensor.shape)
        if sizes:
            return max(sizes, key=sizes.__getitem__)
        first = self.tensors[self.inputs[0]].dtype if self.inputs else ""
        return PRECISIONS.get(first, "fp32")

    def count_macs(self, operator: Operator) -> int:
        """Count the multiply-accumulates of one operator.

        The shapes of weights are (out, height, width, in), those of depthwise convolutions (1,
        height, width, out), and those of linear layers (out, in).
        """
        if operator.kind == "BATCH_MATMUL":
            left = self.tensors[operator.inputs[0]].shape
            inner = left[-2] if self.flag(operator, 0) else left[-1]
            return prod(self.tensors[operator.outputs[0]].shape) * inner
        if operator.kind not in WEIGHTED:
            return 0
        weights = self.tensors[operator.inputs[1]].shape
        if operator.kind == "TRANSPOSE_CONV":
            # It reads the shape of the output, weights and activation: each element of the
            # activation meets all weights of its input channel.
            return prod(self.tensors[operator.inputs[2]].shape) * prod(weights[:3])
        output = prod(self.tensors[operator.outputs[0]].shape)
        if operator.kind == "DEPTHWISE_CONV_2D":
            return output * prod(weights[:3])
        return output * prod(weights[1:])

    def uncounted(self) -> list[Operator]:
        """List the operators whose multiply-accumulates are not known."""
        return [operator for operator in self.operators if operator.kind in UNCOUNTED]

    def window(self, operator: Operator) -> Window:
        """Read the window of a convolution or pooling."""
        options = operator.options
        kernel: tuple[int, ...] = ()
        dilations = (1, 1)
        activation = 3
        if operator.kind in {"AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"}:
            kernel = (self._option(options, 4), self._option(options, 3))
            activation = 5
        elif operator.kind == "CONV_2D":
            dilations = (self._option(options, 5, "i", 1), self._option(options, 4, "i", 1))
        elif operator.kind == "DEPTHWISE_CONV_2D":
            dilations = (self._option(options, 6, "i", 1), self._option(options, 5, "i", 1))
            activation = 4
        return Window(
            self._option(options, 0, "b") == 0,
            (self._option(options, 2), self._option(options, 1)),
            kernel,
            dilations,
            ACTIVATIONS.get(self._option(options, activation, "b"), ""),
        )

    def fused_activation(self, operator: Operator) -> str:
        """Find the activation that an operator applies to its result; empty if it has none."""
        if operator.kind in {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}:
            return self.window(operator).activation
        if operator.kind in {"AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"}:
            return self.window(operator).activation
        if operator.kind in {"ADD", "SUB", "MUL", "DIV", "FULLY_CONNECTED"}:
            return ACTIVATIONS.get(self._option(operator.options, 0, "b"), "")
        if operator.kind == "CONCATENATION":
            return ACTIVATIONS.get(self._option(operator.options, 1, "b"), "")
        return ""

    def axis(self, operator: Operator) -> int:
        """Read the axis of a concatenation."""
        return self._option(operator.options, 0)

    def flag(self, operator: Operator, number: int) -> bool:
        """Read a flag among the options of an operator."""
        return bool(self._option(operator.options, number, "b"))

    def option(self, operator: Operator, number: int) -> int:
        """Read a whole number among the options of an operator; 0 where it is not set."""
        return self._option(operator.options, number)

    def resized(
        self,
        shapes: Mapping[int, Shape],
        numbers: Mapping[tuple[int, int], tuple[int, ...]],
    ) -> TfliteGraph:
        """The same graph with tensors of other sizes.

        Args:
            shapes: Other shapes by the number of a tensor.
            numbers: Other constants of whole numbers, by the operator that reads them and which of
                its inputs they are.
        """
        other = copy(self)
        other.tensors = [
            replace(tensor, shape=shapes.get(index, tensor.shape))
            for index, tensor in enumerate(self.tensors)
        ]
        other.operators = list(self.operators)
        other.whole_numbers = dict(self.whole_numbers)
        for (index, position), values in numbers.items():
            operator = other.operators[index]
            # Several operators may share a constant, so each is given one of its own.
            inputs = list(operator.inputs)
            constant = self.tensors[inputs[position]]
            inputs[position] = len(other.tensors)
            other.whole_numbers[len(other.tensors)] = values
            other.tensors.append(constant)
            other.operators[index] = replace(operator, inputs=tuple(inputs))
        return other

    def _option(self, options: int | None, number: int, code: str = "i", default: int = 0) -> int:
        if options is None:
            return default
        return self._buffer.scalar(code, self._buffer.field(options, number), default)

    def _read(self) -> None:
        buffer = self._buffer
        model = buffer.root()
        places = [self._find_values(table) for table in buffer.tables(model, 4)]
        codes = [self._read_operator_code(table) for table in buffer.tables(model, 1)]
        graphs = list(buffer.tables(model, 2))
        signature = next(buffer.tables(model, 7), None)
        number = 0
        if signature is not None:
            number = buffer.scalar("I", buffer.field(signature, 4))
        graph = graphs[number]
        self.tensors = [self._read_tensor(table, places) for table in buffer.tables(graph, 0)]
        self.inputs = buffer.numbers(graph, 1)
        self.outputs = buffer.numbers(graph, 2)
        if signature is not None:
            # Whoever runs the model by its signature hands the inputs over in this order.
            maps = buffer.tables(signature, 0)
            named = tuple(buffer.scalar("I", buffer.field(table, 1)) for table in maps)
            if sorted(named) == sorted(self.inputs):
                self.inputs = named
        for index, table in enumerate(buffer.tables(graph, 3)):
            code = codes[buffer.scalar("I", buffer.field(table, 0))]
            operator = Operator(
                index,
                operator_name(code),
                buffer.numbers(table, 1),
                buffer.numbers(table, 2),
                buffer.child(table, 4),
            )
            self.operators.append(operator)
            if operator.kind in UNPACKERS and self.is_constant(operator.inputs[0]):
                written = operator.outputs[0]
                # A constant is never written, and nothing twice: so no chain ends in itself.
                if not self.is_constant(written):
                    self._unpacked[written] = operator.inputs[0]

    def _check_operators(self) -> None:
        """Look at all that is asked for later, so that a damaged file is refused at once."""
        for operator in self.operators:
            for tensor in (*operator.inputs, *operator.outputs):
                if not -1 <= tensor < len(self.tensors):
                    raise IndexError(f"tensor {tensor} of {operator.name}")
            self.count_macs(operator)
            self.fused_activation(operator)
        for tensor in (*self.inputs, *self.outputs):
            if not 0 <= tensor < len(self.tensors):
                raise IndexError(f"tensor {tensor} of the graph")

    def _find_values(self, table: int) -> tuple[bool, int, int]:
        """Find the data of a buffer, in the FlatBuffer or behind it (models beyond 2 GB)."""
        position, count = self._buffer.vector(table, 0)
        if count > 0:
            return True, position, count
        return self._buffer.scalar("Q", self._buffer.field(table, 1)) > 1, 0, 0

    def _read_operator_code(self, table: int) -> int:
        """Read the number of an operator.

        Of the two fields that hold it, older files fill the first alone, which cannot count beyond
        127.
        """
        old, new = self._buffer.field(table, 0), self._buffer.field(table, 3)
        return max(self._buffer.scalar("b", old), self._buffer.scalar("i", new))

    def _read_tensor(self, table: int, places: list[tuple[bool, int, int]]) -> Tensor:
        buffer = self._buffer
        index = buffer.scalar("I", buffer.field(table, 2))
        kind = buffer.scalar("b", buffer.field(table, 1))
        shape = tuple(max(1, size) for size in buffer.numbers(table, 0))
        constant, position, count = places[index] if places else (False, 0, 0)
        return Tensor(
            buffer.text(table, 3),
            shape,
            TYPES.get(kind, f"type {kind}"),
            constant,
            position,
            count,
        )
