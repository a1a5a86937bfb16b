"""Bringing ONNX files that runtimes accept into the form that ONNX prescribes.

ONNX Runtime overlooks much that ONNX's rules forbid or that later versions changed: nodes in any
order, shapes inside the graph that are out of date, constants that old versions wanted among the
inputs. What is mended here changes no result.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import numpy as np

from hwbench.network.graph.counting import MICROSOFT
from hwbench.network.graph.view import reads, subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, SparseTensorProto, TensorProto

_CONSTANTS_ARE_INPUTS = 3
"""Last version of ONNX's format in which every constant is an input that nobody may change."""


def tidy_model(model: ModelProto) -> None:
    """Mend what runtimes overlook, in place, and write local functions out.

    Raises:
        ValueError: A sparse constant contradicts itself.
    """
    _fill_sparse_constants(model.graph)
    _sort_nodes(model.graph)
    if model.ir_version <= _CONSTANTS_ARE_INPUTS:
        _free_constants(model)
    _drop_inferable_shapes(model)


def inline_functions(model: ModelProto) -> None:
    """Put the nodes of the model's own functions where they are called, in place.

    Every runtime does, and only so their layers can be told.
    """
    if not model.functions:
        return
    from onnx.inliner import inline_local_functions

    inlined = inline_local_functions(model)
    used = {""}
    for graph in _iterate_graphs(inlined.graph):
        used.update(node.domain for node in graph.node)
    model.CopyFrom(inlined)
    # Nothing is left of the functions' domains, which no runtime knows.
    kept = [entry for entry in inlined.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _iterate_graphs(graph: GraphProto) -> list[GraphProto]:
    """List a graph and the bodies in it."""
    graphs = [graph]
    for node in graph.node:
        for body in subgraphs(node):
            graphs += _iterate_graphs(body)
    return graphs


def _fill_sparse_constants(graph: GraphProto) -> None:
    """Write out constants that hold only what is not zero."""
    for body in _iterate_graphs(graph):
        for sparse in body.sparse_initializer:
            body.initializer.append(_fill_sparse(sparse))
        del body.sparse_initializer[:]
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor") and node.op_type == "Constant":
                    dense = _fill_sparse(attribute.sparse_tensor)
                    attribute.Clear()
                    attribute.name = "value"
                    attribute.type = attribute.TENSOR
                    attribute.t.CopyFrom(dense)


def _fill_sparse(sparse: SparseTensorProto) -> TensorProto:
    from onnx import numpy_helper

    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.ndim == 1:
            dense.reshape(-1)[indices] = values
        else:
            dense[tuple(indices.T)] = values
    except IndexError as error:
        raise ValueError(
            f"sparse constant {sparse.values.name!r} has a value outside its shape"
        ) from error
    return numpy_helper.from_array(dense, sparse.values.name)


def _sort_nodes(graph: GraphProto) -> None:
    """Put the nodes of a graph and its bodies into an order in which they can run.

    Those of a circle stay as they are: a runtime refuses it.
    """
    for body in _iterate_graphs(graph):
        makers: dict[str, int] = {}
        for index, node in enumerate(body.node):
            makers.update((name, index) for name in node.output if name)
        before: dict[int, set[int]] = {}
        for index, node in enumerate(body.node):
            before[index] = {makers[name] for name in reads(node) if name in makers}
        if all(max(earlier, default=-1) < index for index, earlier in before.items()):
            continue
        sorter = TopologicalSorter(before)
        try:
            sorter.prepare()
        except CycleError:
            continue
        order: list[int] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order += ready
            sorter.done(*ready)
        nodes = [body.node[index] for index in order]
        copies = [type(node)() for node in nodes]
        for copy, node in zip(copies, nodes, strict=True):
            copy.CopyFrom(node)
        del body.node[:]
        body.node.extend(copies)


def _free_constants(model: ModelProto) -> None:
    """Raise an old version of the format to one in which constants are no inputs."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in constants:
            del graph.input[index]
    model.ir_version = _CONSTANTS_ARE_INPUTS + 1


def _drop_inferable_shapes(model: ModelProto) -> None:
    """Drop shapes inside the graph, which may be out of date: they are inferred anew.

    Those behind operators that neither ONNX nor its runtime knows are all there is to know.
    """
    foreign = set()
    for node in model.graph.node:
        known = node.domain in {"", "ai.onnx", "ai.onnx.ml"} or node.domain.startswith(MICROSOFT)
        if not known:
            foreign.update(node.output)
    graph = model.graph
    kept = [value for value in graph.value_info if value.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    inputs = {value.name for value in graph.input}
    for value in graph.output:
        if value.name not in foreign | inputs and value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    for node in graph.node:
        for body in subgraphs(node):
            for inner in _iterate_graphs(body):
                del inner.value_info[:]
