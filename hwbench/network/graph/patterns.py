"""Operators that exporters spell out in simpler ones, and that runtimes put together again.

A GELU of torch becomes five nodes (Div, Erf, Add, Mul, Mul), a layer normalization of older
exporters nine. Runtimes recognise them and run one kernel, so each is one layer here, with the key
of the operator that it spells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hwbench.network.graph.view import GraphView

if TYPE_CHECKING:
    from onnx import NodeProto

_TOLERANCE = 1e-3
"""Relative tolerance of constants: exporters round them differently, in half precision most."""
_EPSILON = 1e-5
"""Epsilon of a layer normalization by default."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """One operator spelt out in others.

    Attributes:
        op: The operator.
        main: Index of the node that the layer is named after.
        members: Indices of all its nodes.
        source: The one activation it reads.
        output: The tensor it writes.
        attributes: Attributes of its key.
    """

    op: str
    main: int
    members: frozenset[int]
    source: str
    output: str
    attributes: dict[str, str] = field(default_factory=dict)


def find_spellings(view: GraphView) -> dict[int, Spelling]:
    """Find the operators that a graph spells out.

    Returns:
        For the index of every node of one, the operator. No other node reads a tensor inside it.
    """
    finder = _Finder(view)
    recipes = {
        "Erf": finder.match_gelu,
        "Tanh": finder.match_tanh_gelu,
        "Sqrt": finder.match_layer_norm,
    }
    found: dict[int, Spelling] = {}
    for index in view.active:
        match = recipes.get(view.nodes[index].op_type)
        if match is None or view.nodes[index].domain:
            continue
        try:
            spelling = match(index)
        except _MismatchError:
            continue
        if finder.is_closed(spelling) and not spelling.members & found.keys():
            found.update((member, spelling) for member in spelling.members)
    return found


class _MismatchError(Exception):
    """The nodes spell another thing."""


@dataclass(frozen=True, slots=True)
class _Product:
    """A product of a number and tensors, over any tree of Mul, Div and Pow.

    Attributes:
        number: The number.
        tensors: The tensors, sorted; each as often as it is a factor.
        members: Indices of the nodes.
    """

    number: float
    tensors: tuple[str, ...]
    members: frozenset[int]

    def is_about(self, number: float, tensors: Iterable[str]) -> bool:
        """Whether it is the product of these, up to rounding."""
        same = self.tensors == tuple(sorted(tensors))
        return same and math.isclose(self.number, number, rel_tol=_TOLERANCE)


class _Finder:
    """Reads spellings off a graph, each from the node that is rare elsewhere."""

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self.indices = {id(view.nodes[index]): index for index in view.active}

    def is_closed(self, spelling: Spelling) -> bool:
        """Whether nothing outside reads or shows a tensor inside."""
        for member in spelling.members:
            for name in self.view.nodes[member].output:
                outside = set(self.view.readers(name)) - spelling.members
                if name != spelling.output and (outside or name in self.view.outputs):
                    return False
        return True

    def match_gelu(self, erf: int) -> Spelling:
        """GELU: `x / 2 * (1 + erf(x / sqrt(2)))`, its factors in any order."""
        inner = self._multiply_out(self._read(erf))
        self._require(len(inner.tensors) == 1)
        (source,) = inner.tensors
        self._require(inner.is_about(1 / math.sqrt(2), [source]))
        return self._finish_gelu(erf, source, inner.members, {})

    def match_tanh_gelu(self, tanh: int) -> Spelling:
        """GELU by tanh: `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))`."""
        inner = self._multiply_out(self._read(tanh))
        self._require(len(inner.tensors) == 1)
        total = self._expect_writer(inner.tensors[0], "Add")
        self._require(inner.is_about(math.sqrt(2 / math.pi), inner.tensors))
        operands = self.view.activations(self.view.nodes[total])
        self._require(len(operands) == 2)
        for source, term in (operands, operands[::-1]):
            cubic = self._multiply_out(term)
            if cubic.is_about(0.044715, [source] * 3):
                members = inner.members | cubic.members | {total}
                return self._finish_gelu(tanh, source, members, {"approximate": "tanh"})
        raise _MismatchError

    def _finish_gelu(
        self, main: int, source: str, members: frozenset[int], attributes: dict[str, str]
    ) -> Spelling:
        """Match `x / 2 * (1 + f)`, where node `main` writes f."""
        plus = self._expect_reader(main, "Add")
        (_, one) = self._split_sum(plus)
        self._require(math.isclose(one, 1, rel_tol=_TOLERANCE))
        factor = self.view.nodes[plus].output[0]
        last = plus
        for _ in range(2):
            last = self._expect_reader(last, "Mul")
            output = self.view.nodes[last].output[0]
            product = self._multiply_out(output)
            if product.is_about(0.5, [source, factor]):
                inside = members | product.members | {main, plus}
                return Spelling("Gelu", main, inside, source, output, attributes)
        raise _MismatchError

    def match_layer_norm(self, root: int) -> Spelling:
        """Layer normalization: `(x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + eps) * g + b`."""
        nodes = self.view.nodes
        plus = self._expect_writer(self._read(root), "Add")
        variance, epsilon = self._split_sum(plus)
        quotient = self._expect_reader(root, "Div")
        centred, *divisors = self.view.activations(nodes[quotient])
        self._require(divisors == [nodes[root].output[0]])
        mean_square = self._expect_writer(variance, "ReduceMean")
        square = self._multiply_out(self._read(mean_square))
        self._require(square.is_about(1, [centred] * 2))
        difference = self._expect_writer(centred, "Sub")
        source, *means = self.view.activations(nodes[difference])
        self._require(len(means) == 1)
        mean = self._expect_writer(means[0], "ReduceMean")
        axis = self._trailing_axis(mean)
        self._require(self._read(mean) == source and axis == self._trailing_axis(mean_square))
        scaled = self._expect_reader(quotient, "Mul")
        shifted = self._expect_reader(scaled, "Add")
        for index in (scaled, shifted):
            self._require(len(self.view.activations(nodes[index])) == 1)
        attributes = {"axis": str(axis)}
        if not math.isclose(epsilon, _EPSILON, rel_tol=_TOLERANCE):
            attributes["epsilon"] = f"{epsilon:.7g}"
        members = {mean, difference, mean_square, plus, root, quotient, scaled, shifted}
        output = nodes[shifted].output[0]
        inside = frozenset(members | square.members)
        return Spelling("LayerNormalization", scaled, inside, source, output, attributes)

    def _require(self, holds: bool) -> None:
        if not holds:
            raise _MismatchError

    def _read(self, index: int) -> str:
        """The activation that a node reads first."""
        operands = self.view.activations(self.view.nodes[index])
        self._require(bool(operands))
        return operands[0]

    def _expect_writer(self, name: str, op: str) -> int:
        node = self.view.maker(name)
        index = None if node is None else self.indices.get(id(node))
        if node is None or index is None or node.op_type != op:
            raise _MismatchError
        return index

    def _expect_reader(self, index: int, op: str) -> int:
        """The one node that reads what a node writes."""
        readers = self.view.readers(self.view.nodes[index].output[0])
        self._require(len(readers) == 1 and self.view.nodes[readers[0]].op_type == op)
        return readers[0]

    def _number(self, node: NodeProto) -> float:
        """The one number that a node takes as a constant."""
        for name in node.input:
            value = self.view.value(name) if self.view.is_constant(name) else None
            if value is not None and value.size == 1:
                return float(value.reshape(()))
        raise _MismatchError

    def _split_sum(self, index: int) -> tuple[str, float]:
        """The tensor and the number that an Add adds."""
        node = self.view.nodes[index]
        operands = self.view.activations(node)
        self._require(len(operands) == 1)
        return operands[0], self._number(node)

    def _multiply_out(self, name: str) -> _Product:
        """Write a tensor as a product of numbers and tensors that are no such products.

        A tensor that several nodes read is not taken apart, but for the first one.
        """
        number, tensors, members = 1.0, list[str](), set[int]()
        waiting = [name]
        while waiting:
            tensor = waiting.pop()
            node = self.view.maker(tensor)
            factors = None
            may_open = tensor == name or self.view.is_private(tensor)
            if node is not None and may_open and id(node) in self.indices:
                factors = self._split_product(node)
            if node is None or factors is None:
                tensors.append(tensor)
                continue
            members.add(self.indices[id(node)])
            number *= factors[0]
            waiting += factors[1]
        return _Product(number, tuple(sorted(tensors)), frozenset(members))

    def _split_product(self, node: NodeProto) -> tuple[float, list[str]] | None:
        """The number and the tensors that a node multiplies; None if it does something else."""
        operands = self.view.activations(node)
        if node.op_type == "Mul" and len(operands) == 2:
            return 1.0, operands
        if len(operands) != 1 or node.op_type not in {"Mul", "Div", "Pow"}:
            return None
        try:
            number = self._number(node)
        except _MismatchError:
            return None
        is_first = node.op_type != "Mul" and not self.view.is_constant(node.input[0])
        product = None
        if node.op_type == "Mul":
            product = number, operands
        elif node.op_type == "Div" and is_first and number:
            product = 1 / number, operands
        elif node.op_type == "Pow" and is_first and number in {2, 3}:
            product = 1.0, operands * int(number)
        return product

    def _trailing_axis(self, index: int) -> int:
        """First of the last axes that a ReduceMean averages over and keeps."""
        node = self.view.nodes[index]
        axes = self.view.value(node.input[1]) if len(node.input) > 1 else None
        for attribute in node.attribute:
            if attribute.name == "axes":
                axes = np.asarray(attribute.ints)
            self._require(attribute.name != "keepdims" or attribute.i == 1)
        shape = self.view.fixed_shape(node.input[0])
        if axes is None or not shape:
            raise _MismatchError
        rank = len(shape)
        places = sorted(int(axis) % rank for axis in axes.ravel())
        self._require(bool(places) and places == list(range(places[0], rank)))
        return places[0]
