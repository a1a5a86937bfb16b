"""Residual blocks of an ONNX graph that can be dropped whole, because what comes out has the shape of what goes in.

A block is found by its addition: one operand, the skip, is an ancestor of the other, and everything
between the two depends on the skip alone and is read by nothing outside. An activation behind the
addition that belongs to the same module goes with it, so that dropping a block is what replacing
its module by an identity would be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hwbench.network.graph.fusion import ACTIVATIONS
from hwbench.network.graph.keys import is_weighted
from hwbench.network.graph.view import GraphView


@dataclass(frozen=True, slots=True)
class Block:
    """A droppable residual block.

    Attributes:
        name: Module path shared by its convolutions and linear layers (`layer1.1`).
        layers: Those layers, in graph order.
        nodes: Names of all nodes that go with it.
        input: Tensor it reads.
        output: Tensor it writes; readers get `input` instead once it is dropped.
    """

    name: str
    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    input: str
    output: str


def blocks(view: GraphView) -> tuple[Block, ...]:
    """All droppable blocks, in graph order."""
    found: dict[str, Block] = {}
    for index in view.active:
        block = _block(view, index)
        if block is not None:
            name = block.name if block.name and block.name not in found else view.nodes[index].name
            found[name] = Block(name, block.layers, block.nodes, block.input, block.output)
    return tuple(found.values())


def _block(view: GraphView, index: int) -> Block | None:
    addition = view.nodes[index]
    operands = view.activations(addition)
    if (
        addition.op_type != "Add"
        or len(operands) != 2
        or view.shape(operands[0]) != view.shape(operands[1])
    ):
        return None
    for tail, skip in (operands, operands[::-1]):
        branch = _between(view, skip, tail, index)
        weighted = [view.nodes[i].name for i in sorted(branch) if is_weighted(view, view.nodes[i])]
        if weighted:
            break
    else:
        return None
    name, output, members = _shared_path(weighted), addition.output[0], [*sorted(branch), index]
    if view.is_private(output):
        after = view.nodes[view.readers(output)[0]]
        if after.op_type in ACTIVATIONS and (
            name and after.name.startswith((f"{name}.", f"{name}/"))
        ):
            members.append(view.readers(output)[0])
            output = after.output[0]
    return Block(name, tuple(weighted), tuple(view.nodes[i].name for i in members), skip, output)


def _between(view: GraphView, skip: str, tail: str, addition: int) -> set[int]:
    """Nodes from `skip` to `tail`, if these depend on `skip` alone and nothing outside reads what they write; else none."""
    makers = {name: index for index in view.active for name in view.nodes[index].output}
    ends = {skip}
    source = view.maker(skip)
    if source is not None and source.op_type == "DequantizeLinear":
        ends.add(view.resolve(source.input[0]))
    branch: set[int] = set()
    pending = [tail]
    while pending:
        name = pending.pop()
        if name in ends:
            continue
        if name not in makers:
            return set()
        if makers[name] not in branch:
            branch.add(makers[name])
            pending += view.activations(view.nodes[makers[name]])
    inside = branch | {addition}
    written = [name for index in branch for name in view.nodes[index].output if name]
    closed = all(
        inside.issuperset(view.readers(name)) and name not in view.outputs for name in written
    )
    return branch if closed else set()


def _shared_path(names: Iterable[str]) -> str:
    """Longest module path that holds all of `names`, and is none of them."""
    paths = [name.split(".") for name in names]
    shared = []
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
