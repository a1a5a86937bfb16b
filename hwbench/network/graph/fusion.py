"""Which nodes of an ONNX graph a runtime executes as one layer.

Fusion is canonical: it follows what inference runtimes have in common (ONNX Runtime's CPU graph
optimiser, TensorRT), not the quirks of one, so that one key serves all devices. A layer is

- a convolution or a linear layer (Conv, ConvTranspose, Gemm, MatMul with constant weights), with
  the zero Pad before it, the batch normalization, constant scale and bias behind it, one residual
  addition, and one activation (Relu, Clip, LeakyRelu, Sigmoid, Tanh, HardSigmoid, HardSwish, and x
  * Sigmoid(x) and x * HardSigmoid(x)), or
- a batch normalization without such a layer before it, with one activation, or
- an operator spelt out in others (`hwbench.network.graph.patterns`), or
- any other single operator that runs at inference.

A tensor vanishes in a fusion only if one node alone reads it and it is no output of the graph. Both
branches of an addition may end in a convolution; then the addition joins the one that is its first
operand, as in ONNX Runtime. In a quantised graph (Q/DQ form) the DequantizeLinear before and the
QuantizeLinear behind an operator belong to its layer, whose precision is `int8`; so does an
activation behind any such operator. Constants, and what is computed from them or from fixed shapes,
are folded by every runtime and are no layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from hwbench.network.graph.keys import CONVOLUTIONS, is_weighted
from hwbench.network.graph.patterns import Spelling, find_spellings
from hwbench.network.graph.view import GraphView, attributes, first_output

if TYPE_CHECKING:
    from onnx import NodeProto

ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}
)
_GATES = {"Sigmoid": "Silu", "HardSigmoid": "HardSwish"}


def fusions(view: GraphView) -> list[Fusion]:
    """The layers of a graph, in the order in which they can run."""
    return _Fuser(view).run()


class Stage(IntEnum):
    """How far a layer is built: what may still join."""

    AFFINE = 0
    RESIDUAL = 1
    ACTIVATED = 2
    CLOSED = 3


@dataclass(slots=True, eq=False)
class Fusion:
    """A layer in the making.

    Attributes:
        main: Index of its main node.
        inputs: Activation tensors it reads.
        tail: Tensor it writes so far.
        stage: What may still join.
        quantised: Whether it reads and computes integers, between DequantizeLinear and
            QuantizeLinear.
        members: Indices of all its nodes that run.
        affine: Those of them that scale and shift the main node's output by constants.
        fused: Attributes of its key: `act`, `add`.
        pads: Spatial pads of the Pad node before it, begins then ends.
        takers: Layers that can take this one (a DequantizeLinear, a Pad) in.
        spelling: The operator that its nodes spell out together; None if they do not.
    """

    main: int
    inputs: list[str]
    tail: str
    stage: Stage
    quantised: bool = False
    members: list[int] = field(default_factory=list)
    affine: list[int] = field(default_factory=list)
    fused: dict[str, str] = field(default_factory=dict)
    pads: tuple[int, ...] = ()
    takers: list[Fusion] = field(default_factory=list)
    spelling: Spelling | None = None

    def take(self, index: int, tail: str, stage: Stage) -> None:
        """Add node `index`, which writes `tail`."""
        self.members.append(index)
        self.tail, self.stage = tail, stage


class _Fuser:
    """One pass over the nodes in graph order.

    Each node joins the layer that wrote one of its inputs, or starts its own.
    """

    def __init__(self, view: GraphView) -> None:
        self.view = view
        self.fusions: list[Fusion] = []
        self._writer: dict[str, Fusion] = {}
        self._spellings = find_spellings(view)
        self._spelled: dict[int, Fusion] = {}  # by main node

    def run(self) -> list[Fusion]:
        for index in self.view.active:
            node = self.view.nodes[index]
            if index in self._spellings:
                fusion = self._spell(index, self._spellings[index])
            else:
                fusion = self._join(index, node) or self._start(index, node)
            self._writer.update((name, fusion) for name in node.output if name)
        return sorted(filter(self._stands, self.fusions), key=lambda fusion: max(fusion.members))

    def _stands(self, fusion: Fusion) -> bool:
        """Whether it is a layer.

        A DequantizeLinear or Pad goes to its reader, if all its readers take it in.
        """
        readers = self.view.readers(fusion.tail)
        if (
            not fusion.takers
            or len(fusion.takers) < len(readers)
            or fusion.tail in self.view.outputs
        ):
            return True
        fusion.takers[0].members += fusion.members
        return False

    def _spell(self, index: int, spelling: Spelling) -> Fusion:
        """Add a node to the layer of the operator that it spells with others."""
        fusion = self._spelled.get(spelling.main)
        if fusion is None:
            fusion = Fusion(spelling.main, [spelling.source], spelling.output, Stage.CLOSED)
            fusion.spelling = spelling
            self._spelled[spelling.main] = fusion
            self.fusions.append(fusion)
        fusion.members.append(index)
        return fusion

    def _open(self, name: str, stage: Stage) -> Fusion | None:
        """The layer that ends in tensor `name`.

        None if the tensor may not vanish, or the layer is further than `stage`.
        """
        fusion = self._writer.get(name)
        if (
            fusion is None
            or fusion.stage > stage
            or fusion.tail != name
            or not self.view.is_private(name)
        ):
            return None
        return fusion

    def _join(self, index: int, node: NodeProto) -> Fusion | None:
        operands = self.view.activations(node)
        if not operands:
            return None
        if node.op_type in ACTIVATIONS:
            return self._join_activation(index, node, operands[0])
        if len(operands) == 2 and node.op_type in {"Add", "Mul"}:
            join = self._join_residual if node.op_type == "Add" else self._join_gate
            return join(index, node.output[0], operands)
        return self._join_affine(index, node, operands[0])

    def _join_affine(self, index: int, node: NodeProto, operand: str) -> Fusion | None:
        """Join constant scales and shifts to a weighted node.

        The QuantizeLinear behind any quantised layer joins it as well.
        """
        quantize = node.op_type == "QuantizeLinear"
        fusion = self._open(operand, Stage.ACTIVATED if quantize else Stage.AFFINE)
        if fusion is None:
            return None
        if quantize and fusion.quantised:
            fusion.take(index, node.output[0], Stage.CLOSED)
            return fusion
        if quantize or not self._is_affine(node, self.view.nodes[fusion.main]):
            return None
        fusion.take(index, node.output[0], Stage.AFFINE)
        fusion.affine.append(index)
        return fusion

    def _join_activation(self, index: int, node: NodeProto, operand: str) -> Fusion | None:
        fusion = self._open(operand, Stage.RESIDUAL)
        name = node.op_type
        if fusion is None and name in _GATES and self._is_gate(node, operand):
            fusion, name = self._writer.get(operand), _GATES[name]
            if fusion is None or fusion.stage > Stage.RESIDUAL or fusion.tail != operand:
                return None
        if fusion is not None:
            fusion.fused["act"] = name
            fusion.take(index, node.output[0], Stage.ACTIVATED)
        return fusion

    def _is_gate(self, node: NodeProto, operand: str) -> bool:
        """Whether `operand` is read by this node and by the product of both alone."""
        readers, products = self.view.readers(operand), self.view.readers(node.output[0])
        if (
            len(readers) != 2
            or operand in self.view.outputs
            or not self.view.is_private(node.output[0])
        ):
            return False
        product = self.view.nodes[products[0]]
        node_attrs = attributes(node)
        hard = (
            abs(node_attrs.get("alpha", 0.2) - 1 / 6) < 1e-4 and node_attrs.get("beta", 0.5) == 0.5
        )
        return (
            products[0] in readers
            and product.op_type == "Mul"
            and (node.op_type == "Sigmoid" or hard)
        )

    def _join_gate(self, index: int, output: str, operands: list[str]) -> Fusion | None:
        for gate, signal in (operands, operands[::-1]):
            fusion = self._open(gate, Stage.ACTIVATED)
            if (
                fusion
                and fusion.fused.get("act") in _GATES.values()
                and self._writer.get(signal) is fusion
            ):
                fusion.take(index, output, Stage.ACTIVATED)
                return fusion
        return None

    def _join_residual(self, index: int, output: str, operands: list[str]) -> Fusion | None:
        for operand, other in (operands, operands[::-1]):
            fusion = self._open(operand, Stage.AFFINE)
            shape = self.view.fixed_shape(output)
            same = self.view.fixed_shape(operand) == self.view.fixed_shape(other) == shape
            if fusion and shape is not None and same and operand != other:
                fusion.fused["add"] = "1"
                fusion.inputs.append(other)
                fusion.take(index, output, Stage.RESIDUAL)
                return fusion
        return None

    def _is_affine(self, node: NodeProto, main: NodeProto) -> bool:
        """Whether the node only scales and shifts the channels of a layer's output by constants."""
        if node.op_type == "BatchNormalization":
            return True
        constants = [name for name in node.input if self.view.is_constant(name)]
        if node.op_type not in {"Add", "Mul"} or len(constants) != 1:
            return False
        shape = self.view.fixed_shape(constants[0])
        whole = self.view.fixed_shape(node.output[0])
        if shape is None or whole is None:
            return False
        axis = 1 if main.op_type in CONVOLUTIONS else len(whole) - 1
        padded = (1,) * (len(whole) - len(shape)) + shape
        return all(size == 1 or place == axis for place, size in enumerate(padded))

    def _start(self, index: int, node: NodeProto) -> Fusion:
        inputs, weighted = self.view.activations(node), is_weighted(self.view, node)
        feeds = [feed for feed in map(self._writer.get, inputs) if feed is not None]
        sources = [feed for feed in feeds if self._op(feed.main) == "DequantizeLinear"]
        quantised = (
            bool(inputs)
            and len(sources) == len(inputs)
            and self._runs_quantised(node, weighted=weighted)
        )
        stage = Stage.CLOSED
        if weighted:
            stage = Stage.AFFINE
        elif quantised or node.op_type == "BatchNormalization":
            stage = Stage.RESIDUAL
        fusion = Fusion(index, inputs, first_output(node), stage, quantised, [index])
        if quantised:
            fusion.inputs = [source.inputs[0] for source in sources]
            for source in dict.fromkeys(sources):
                source.takers.append(fusion)
        elif weighted and feeds and (pads := self._zero_pads(self.view.nodes[feeds[0].main], node)):
            fusion.inputs, fusion.pads = feeds[0].inputs, pads
            feeds[0].takers.append(fusion)
        self.fusions.append(fusion)
        return fusion

    def _op(self, index: int) -> str:
        return str(self.view.nodes[index].op_type)

    def _runs_quantised(self, node: NodeProto, *, weighted: bool) -> bool:
        """Whether a node whose inputs are all dequantised has an integer kernel.

        It has one if its weights, or its output, are quantised.
        """
        if weighted:
            weight = self.view.maker(node.input[1])
            return weight is not None and weight.op_type == "DequantizeLinear"
        tail = first_output(node)
        readers = self.view.readers(tail) if self.view.is_private(tail) else []
        if readers and self._op(readers[0]) in ACTIVATIONS:
            tail = self.view.nodes[readers[0]].output[0]
            readers = self.view.readers(tail) if self.view.is_private(tail) else []
        return bool(readers) and self._op(readers[0]) == "QuantizeLinear"

    def _zero_pads(self, pad: NodeProto, reader: NodeProto) -> tuple[int, ...]:
        """Spatial pads of a Pad node that a convolution can do by itself, begins then ends.

        Empty if it cannot.
        """
        if (
            pad.op_type != "Pad"
            or reader.op_type != "Conv"
            or not self.view.is_private(pad.output[0])
        ):
            return ()
        node_attrs = attributes(pad)
        named = dict(zip(("data", "pads", "value", "axes"), pad.input, strict=False))
        value = (
            self.view.value(named["value"])
            if named.get("value")
            else np.asarray(node_attrs.get("value", 0.0))
        )
        pads = self.view.value(named["pads"]) if "pads" in named else np.asarray(node_attrs["pads"])
        if (
            node_attrs.get("mode", b"constant") != b"constant"
            or value is None
            or value.any()
            or pads is None
            or named.get("axes")
        ):
            return ()
        begins, ends = pads.reshape(2, -1).tolist()
        spatial = (*begins[2:], *ends[2:])
        return spatial if not any((*begins[:2], *ends[:2])) and min(spatial) >= 0 else ()
