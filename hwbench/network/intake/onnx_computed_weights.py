"""Weights that a network computes from constants by normalising them, computed once.

Weight-standardised convolutions (Qiao et al. 2019, arXiv 1903.10520), as in NFNet, pass their
weights through batch normalization in training mode. In a graph that looks like a network being
trained, and runtimes refuse it, but nothing in it depends on the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwbench.network.graph.view import DRAWN
from hwbench.network.intake.failures import FAILURES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, TensorProto

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def normalises_by_batch(node: NodeProto) -> bool:
    """Tell whether a node is batch normalization in training mode."""
    if node.op_type != "BatchNormalization":
        return False
    return any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)


def compute_weights(model: ModelProto) -> None:
    """Replace weights that are normalised at every inference by what they come to, in place.

    Args:
        model: A model without subgraphs, its constants in initializers.
    """
    from onnx import numpy_helper

    if not any(map(normalises_by_batch, model.graph.node)):
        return
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output if name}
    computed: set[str] = set()
    for node in graph.node:
        name = node.input[1] if node.op_type in _WEIGHTED and len(node.input) > 1 else ""
        chain = _find_chain(name, makers, constants)
        if name in computed or not any(map(normalises_by_batch, chain)):
            continue
        try:
            value = _evaluate(model, chain, constants, name)
        except MemoryError:
            raise
        except FAILURES:  # it stays a network in training, which is said later
            continue
        graph.initializer.append(numpy_helper.from_array(value, name))
        computed.add(name)
    if computed:
        _drop_makers(model, computed)


def _find_chain(
    name: str, makers: Mapping[str, NodeProto], constants: Mapping[str, TensorProto]
) -> list[NodeProto]:
    """The nodes that compute a tensor from constants, last ones first; none where it is not so."""
    chain: dict[int, NodeProto] = {}
    pending = [name]
    while pending:
        wanted = pending.pop()
        if not wanted or wanted in constants:
            continue
        maker = makers.get(wanted)
        if maker is None or maker.op_type in DRAWN:
            return []  # an input of the network, or other values at every inference
        if id(maker) not in chain:
            chain[id(maker)] = maker
            pending += maker.input
    return list(chain.values())


def _evaluate(
    model: ModelProto,
    chain: list[NodeProto],
    constants: Mapping[str, TensorProto],
    name: str,
) -> NDArray[Any]:
    """What a chain of nodes computes."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    members = set(map(id, chain))
    nodes = [node for node in model.graph.node if id(node) in members]
    read = {each for node in nodes for each in node.input}
    graph = helper.make_graph(
        nodes,
        "weight",
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        [tensor for each, tensor in constants.items() if each in read],
    )
    part = helper.make_model(graph, opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    results: Any = ReferenceEvaluator(part).run(None, {})
    value: NDArray[Any] = results[0]
    return value


def _drop_makers(model: ModelProto, computed: set[str]) -> None:
    """Drop the nodes that made these tensors, and those that were needed for them alone."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    remaining = []
    # Nodes are in the order of execution: backwards, all readers of a tensor come before its maker.
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output) or not computed.isdisjoint(node.output):
            continue
        remaining.append(node)
        needed.update(filter(None, node.input))
    kept = list(reversed(remaining))
    del graph.node[:]
    graph.node.extend(kept)
