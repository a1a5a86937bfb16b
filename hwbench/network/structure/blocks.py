"""Residual blocks of an ONNX graph that can be dropped whole.

What comes out of them has the shape of what goes in.

A block is found by its addition: one operand, the skip, is an ancestor of the other, and everything
between the two depends on the skip alone and is read by nothing outside. An activation behind the
addition that belongs to the same module goes with it, so that dropping a block is what replacing
its module by an identity would be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

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
    blocks_by_name: dict[str, Block] = {}
    for index in view.active:
        block = _find_block(view, index)
        if block is None:
            continue
        # A block that shares no module path, or whose path is taken, is called by its addition.
        if not block.name or block.name in blocks_by_name:
            block = replace(block, name=view.nodes[index].name)
        blocks_by_name[block.name] = block
    return tuple(blocks_by_name.values())


def _find_block(view: GraphView, index: int) -> Block | None:
    """The block that ends in the addition `index`; None if the node is none, or ends no block."""
    addition = view.nodes[index]
    operands = view.activations(addition)
    if addition.op_type != "Add" or len(operands) != 2:
        return None
    if view.shape(operands[0]) != view.shape(operands[1]):
        return None
    # Which operand is the skip and which the branch is not told by their order.
    for tail, skip in (operands, operands[::-1]):
        branch = _branch_between(view, skip, tail, index)
        layers = [view.nodes[i].name for i in sorted(branch) if is_weighted(view, view.nodes[i])]
        if layers:
            return _block_of(view, index, skip, branch, layers)
    return None


def _block_of(
    view: GraphView, addition: int, skip: str, branch: set[int], layers: list[str]
) -> Block:
    """The block of a branch and its addition, and of the activation behind if it is the block's."""
    name = _shared_path(layers)
    output = view.nodes[addition].output[0]
    members = [*sorted(branch), addition]
    if name and view.is_private(output):
        reader = view.readers(output)[0]
        behind = view.nodes[reader]
        if behind.op_type in ACTIVATIONS and behind.name.startswith((f"{name}.", f"{name}/")):
            members.append(reader)
            output = behind.output[0]
    nodes = tuple(view.nodes[i].name for i in members)
    return Block(name, tuple(layers), nodes, skip, output)


def _branch_between(view: GraphView, skip: str, tail: str, addition: int) -> set[int]:
    """Nodes that lead from `skip` to `tail`.

    None of them where dropping them would change something else: they must depend on `skip` alone,
    and nothing outside may read what they write.
    """
    makers = {name: index for index in view.active for name in view.nodes[index].output}
    ends = {skip}
    source = view.maker(skip)
    if source is not None and source.op_type == "DequantizeLinear":
        # In a quantised graph both paths dequantise the same tensor, each by a node of its own.
        ends.add(view.resolve(source.input[0]))
    branch: set[int] = set()
    pending = [tail]
    while pending:
        name = pending.pop()
        if name in ends:
            continue
        if name not in makers:
            return set()  # reaches an input of the network without passing the skip
        index = makers[name]
        if index not in branch:
            branch.add(index)
            pending += view.activations(view.nodes[index])
    inside = branch | {addition}
    for index in branch:
        for name in filter(None, view.nodes[index].output):
            if name in view.outputs or not inside.issuperset(view.readers(name)):
                return set()
    return branch


def _shared_path(names: Iterable[str]) -> str:
    """Longest module path that holds all of `names`, and is none of them."""
    paths = [name.split(".") for name in names]
    shared = []
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
