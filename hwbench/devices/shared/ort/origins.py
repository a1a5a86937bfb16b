"""Which layers of the network each node of the executed graph works for.

ONNX Runtime fuses, splits, converts, renames and reorders nodes, so neither positions nor names
alone say what a node computes. What survives every rewriting is the flow of data: tensors that the
runtime kept have their names, weights have theirs, and whatever lies between such fixed points in
the network lies between them in the executed graph as well. So nodes are claimed in four steps:

1. *Anchors*: a node claims the source nodes that have its name, that read its weights, or that
   write a tensor it writes (a node in the blocked layout is *named* after that tensor). If its own
   operator is not among them, it claims what leads back to it: a convolution that took a scale in
   writes the scaled tensor.
2. *Cuts*: nodes without an anchor, tied together by tensors that the runtime invented, share the
   source nodes that nobody claimed and that lie between those their inputs come from and those
   their readers claim.
   An addition or activation behind a node is claimed by it, if it reads the other operand.
3. *Absorption*: source nodes that are still unclaimed and lead into a claimed one were fused into
   the node that claimed it, or dropped. Only a transpose that the runtime moved through other nodes
   is claimed by the node that was moved, and a node that does the same to the same tensors as
   another one shares its claimant.
4. *Helpers*: a node that claims nothing (a reshape around a product, a part of an operator that the
   runtime replaced by its definition) works for the layer that alone reads what it writes. One that
   several layers read is an inserted conversion, or unknown, and is said so.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hwbench.devices.shared.joining import layers_served
from hwbench.devices.shared.ort.executed_graph import ExecutedNode
from hwbench.network.graph import PartialLayer
from hwbench.network.graph.fusion import ACTIVATIONS
from hwbench.network.graph.view import DRAWN, GraphView, reads

REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
CONVERSIONS = REORDERS | {
    "Cast",
    "DequantizeLinear",
    "Flatten",
    "Identity",
    "QuantizeLinear",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
"""Operators that the runtime inserts to bring tensors into the form that others need."""
_LAYOUTS = REORDERS | {"Cast", "Transpose"}
"""Those that cost enough to have rows of their own."""
_SUFFIX = re.compile(r"(_token_\d+|/duplicated|/\w+Fusion/?)+$")
"""What the runtime adds to the name of a node that it copied, quantised or fused."""
_WITH_CONSTANTS = frozenset({"Add", "Div", "Mul", "Sub"})
"""Operators that vanish with their constants: into weights, or because they add 0."""
_FEW = 64
"""Elements up to which constants are compared by value."""
_DECORATION = re.compile(r"^InsertedPrecisionFreeCast_|(_bn)?_nchwc$")
"""What it adds to the name of a tensor that it keeps in another precision, and to that of a tensor
to name the node that writes it in the blocked layout."""


def strip_decoration(name: str) -> str:
    """Take off the name of an executed node what the runtime added to that of a node or tensor."""
    return _DECORATION.sub("", _SUFFIX.sub("", name.removeprefix("fused ")))


@dataclass(frozen=True, slots=True)
class NodeOrigin:
    """What one executed node works for.

    Attributes:
        node: The node.
        serves: Names of the layers whose work it does; none if the runtime inserted it, or if
            nothing tells what it does.
        near: The layer it stands at if it serves none; `input` before the first layer.
        principal: Whether it does the layers' own work, and does not only convert for them.
        known: False if nothing tells what it does.
    """

    node: ExecutedNode
    serves: tuple[str, ...]
    near: str
    principal: bool
    known: bool = True


def find_origins(
    executed: Sequence[ExecutedNode], view: GraphView, layers: Sequence[PartialLayer]
) -> tuple[NodeOrigin, ...]:
    """Find the layers that each executed node works for.

    Args:
        executed: Nodes of the graph that the runtime executes, in order.
        view: The network.
        layers: Its layers.

    Returns:
        One entry per executed node, in order.
    """
    return _Search(executed, view, layers).run()


class _Search:
    """One search for the origins of all executed nodes. Nodes are numbers in both graphs."""

    def __init__(
        self, executed: Sequence[ExecutedNode], view: GraphView, layers: Sequence[PartialLayer]
    ) -> None:
        self.executed, self.view, self.layers = executed, view, layers
        self.sources: dict[int, list[str]] = {}  # activations that a source node reads
        self.makers: dict[str, int] = {}  # source node that writes a tensor
        for index in view.active:
            node = view.nodes[index]
            tensors = [view.resolve(name) for name in reads(node) if not view.is_constant(name)]
            self.sources[index] = list(dict.fromkeys(tensors))
            self.makers.update((name, index) for name in node.output if name)
        for node in view.nodes:
            for name in node.output:  # what an Identity writes is what it reads
                if name and view.resolve(name) in self.makers:
                    self.makers.setdefault(name, self.makers[view.resolve(name)])
        self.by_name = {view.nodes[index].name: index for index in view.active}
        self.by_weight = self._index_weights()
        self.claims: list[set[int]] = [set() for _ in executed]
        # Source nodes that lead into what a node claims, and that nobody claims.
        self.absorbed: list[set[int]] = [set() for _ in executed]
        self.owners: dict[int, int] = {}  # executed node that claimed a source node first
        self.writers: dict[str, int] = {}  # executed node that writes a tensor
        self.readers: defaultdict[str, list[int]] = defaultdict(list)
        for number, executed_node in enumerate(executed):
            self.writers.update((name, number) for name in executed_node.outputs if name)
            for name in executed_node.inputs:
                self.readers[name].append(number)

    def run(self) -> tuple[NodeOrigin, ...]:
        self._claim_by_names()
        self._claim_by_tensors()
        self._claim_own_operators()
        for group in self._group_unanchored():
            self._claim_between(group)
        self._claim_fused_behind()
        self._claim_repetitions()
        for number, claimed in enumerate(self.claims):
            self.absorbed[number] = self._reach_backward(claimed)
        self._claim_moved()
        return self._make_origins()

    def _index_weights(self) -> dict[str, int]:
        """For every initializer that one source node alone reads, that node."""
        readers: dict[str, list[int]] = {}
        for index in self.view.active:
            for name in self.view.nodes[index].input:
                if name in self.view.initializers:
                    readers.setdefault(name, []).append(index)
        return {name: indices[0] for name, indices in readers.items() if len(indices) == 1}

    def _claim(self, number: int, index: int) -> None:
        self.claims[number].add(index)
        self.owners.setdefault(index, number)

    def _claim_by_names(self) -> None:
        """Claim source nodes by the names of nodes and weights."""
        for number, node in enumerate(self.executed):
            if node.op in REORDERS:
                continue
            index = self.by_name.get(node.name)
            if index is None:
                index = self.by_name.get(_SUFFIX.sub("", node.name))
            if node.op not in CONVERSIONS:
                if index is not None:
                    self._claim(number, index)
                    continue
                for name in node.inputs:
                    # The runtime lets several nodes share equal constants.
                    if name in self.by_weight and len(self.readers[name]) == 1:
                        self._claim(number, self.by_weight[name])
            elif index is not None and self.view.nodes[index].op_type == node.op:
                self._claim(number, index)

    def _claim_by_tensors(self) -> None:
        """Claim source nodes by the tensors that they write.

        A conversion may write the tensor of a node that has an owner already: the owner computes
        it, and the conversion only brings it into its old form.
        """
        for number, node in enumerate(self.executed):
            if node.op in REORDERS:
                continue
            for name in (*node.outputs, node.name):
                index = self.makers.get(name, self.makers.get(_DECORATION.sub("", name)))
                if index is None:
                    continue
                taken = self.owners.get(index, number) != number
                if not taken or node.op not in CONVERSIONS:
                    self._claim(number, index)

    def _claim_own_operators(self) -> None:
        """Let nodes claim the unclaimed source nodes that lead back to their own operator."""
        for number, node in enumerate(self.executed):
            claimed = self.claims[number]
            if not claimed or node.op in CONVERSIONS:
                continue
            if any(self._is_same_operator(node, index) for index in claimed):
                continue
            for path in self._list_paths_back(claimed):
                if self._is_same_operator(node, path[-1]):
                    for index in path:
                        self._claim(number, index)
                    break

    def _is_same_operator(self, node: ExecutedNode, index: int) -> bool:
        """Whether an executed node runs the operator of a source node, fused or not.

        The runtime's operators end in the name of the original (`FusedConv`, `QLinearConv`).
        """
        op = self.view.nodes[index].op_type
        return node.op.endswith(op) or (op == "MatMul" and node.op.endswith("Gemm"))

    def _list_paths_back(self, ends: Iterable[int]) -> Iterator[list[int]]:
        """Paths from some nodes back through unclaimed source nodes, the shortest first."""
        waiting: list[list[int]] = [[index] for index in sorted(ends)]
        seen: set[int] = set()
        while waiting:
            path = waiting.pop(0)
            for name in self.sources[path[-1]]:
                index = self.makers.get(name)
                if index is not None and index not in seen and index not in self.owners:
                    seen.add(index)
                    waiting.append([*path, index])
                    yield waiting[-1]

    def _group_unanchored(self) -> list[list[int]]:
        """Group nodes without a claim that are tied together by invented tensors."""
        groups: list[list[int]] = []
        seen: set[int] = set()
        for start in range(len(self.executed)):
            if start in seen or self.claims[start]:
                continue
            group, waiting = [], [start]
            seen.add(start)
            while waiting:
                number = waiting.pop()
                group.append(number)
                node = self.executed[number]
                neighbours = [self.writers.get(name) for name in node.inputs]
                for name in node.outputs:
                    neighbours += self.readers[name]
                for other in neighbours:
                    if other is not None and other not in seen and not self.claims[other]:
                        seen.add(other)
                        waiting.append(other)
            groups.append(sorted(group))
        return groups

    def _claim_between(self, group: Sequence[int]) -> None:
        """Give a group of nodes without anchors the unclaimed source nodes in its place."""
        starts, ends = self._find_place(group)
        between = sorted(self._reach_forward(starts) & self._reach_backward(ends))
        if not between:
            return
        left = list(between)
        idle = []
        for number in group:
            op = self.executed[number].op
            same = [index for index in left if self.view.nodes[index].op_type == op]
            if same:
                self._claim(number, same[0])
                left.remove(same[0])
            elif op not in CONVERSIONS:
                idle.append(number)
        for number in idle:
            for index in left or between:
                self._claim(number, index)

    def _find_place(self, group: Sequence[int]) -> tuple[set[str], set[int]]:
        """Find what a group of executed nodes lies between.

        Returns:
            (source tensors that it reads or that come from what it reads, source nodes that its
            readers claim).
        """
        starts: set[str] = set()
        ends: set[int] = set()
        for number in group:
            node = self.executed[number]
            for name in node.inputs:
                writer = self.writers.get(name)
                if name in self.makers or name in self.view.inputs:
                    starts.add(self.view.resolve(name))
                elif writer is not None and writer not in group:
                    for index in self.claims[writer]:
                        starts.update(self.view.nodes[index].output)
            for name in node.outputs:
                for reader in self.readers[name]:
                    ends.update(self.claims[reader])
        return starts, ends

    def _reach_forward(self, starts: Iterable[str]) -> set[int]:
        """Unclaimed source nodes that read some tensors, directly or through each other."""
        reached: set[int] = set()
        waiting = list(starts)
        while waiting:
            for index in self.view.readers(waiting.pop()):
                if index not in reached and index not in self.owners:
                    reached.add(index)
                    waiting += [name for name in self.view.nodes[index].output if name]
        return reached

    def _reach_backward(self, ends: Iterable[int]) -> set[int]:
        """Unclaimed source nodes that some nodes read, directly or through each other."""
        reached: set[int] = set()
        waiting = list(ends)
        while waiting:
            for name in self.sources[waiting.pop()]:
                index = self.makers.get(name)
                if index is not None and index not in reached and index not in self.owners:
                    reached.add(index)
                    waiting.append(index)
        return reached

    def _claim_fused_behind(self) -> None:
        """Let nodes claim unclaimed additions and activations that were fused behind them.

        A convolution that took an addition in reads one more tensor than the source nodes it
        claims: the other operand.
        """
        for number, node in enumerate(self.executed):
            if not self.claims[number] or node.op in CONVERSIONS:
                continue
            waiting = sorted(self.claims[number])
            while waiting:
                for name in self.view.nodes[waiting.pop()].output:
                    path = self._list_up_to_reader(name)
                    if path and self._is_fused_behind(path, number):
                        for index in path:
                            self._claim(number, index)
                        waiting.append(path[-1])

    def _list_up_to_reader(self, tensor: str) -> list[int]:
        """The one source node that reads a tensor, after those that vanish in front of it.

        Returns:
            The nodes in order; none if several read the tensor, or one that is claimed.
        """
        path: list[int] = []
        while True:
            readers = self.view.readers(tensor)
            if len(readers) != 1 or readers[0] in self.owners:
                return []
            node = self.view.nodes[readers[0]]
            path.append(readers[0])
            if node.op_type not in _WITH_CONSTANTS or len(self.sources[readers[0]]) > 1:
                return path
            tensor = node.output[0]

    def _is_fused_behind(self, path: Sequence[int], number: int) -> bool:
        """Whether an executed node can compute the last of some source nodes behind its own."""
        index = path[-1]
        claimed = self.claims[number].union(path[:-1])
        outside = self._find_outside_inputs([index], claimed)
        if not outside:
            return self.view.nodes[index].op_type in ACTIVATIONS
        node = self.executed[number]
        read = [name for name in node.inputs if name in self.writers or name in self.view.inputs]
        if len(read) < len(self._find_outside_inputs(claimed, claimed)) + len(outside):
            return False
        suppliers = self._find_suppliers(number)
        return all(
            name in read or self.owners.get(self.makers.get(name, -1)) in suppliers
            for name in outside
        )

    def _find_outside_inputs(self, indices: Iterable[int], inside: Set[int]) -> set[str]:
        """Activations that source nodes read and that none of some others writes."""
        names = {name for index in indices for name in self.sources[index]}
        return {name for name in names if self.makers.get(name) not in inside}

    def _find_suppliers(self, number: int) -> set[int]:
        """Executed nodes whose tensors one reads, also through others that claim nothing."""
        found: set[int] = set()
        waiting = list(self.executed[number].inputs)
        while waiting:
            writer = self.writers.get(waiting.pop())
            if writer is None or writer in found:
                continue
            found.add(writer)
            if not self.claims[writer]:
                waiting += self.executed[writer].inputs
        return found

    def _claim_repetitions(self) -> None:
        """Let a node that computes a tensor claim the source nodes that compute it once more."""
        alike: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        same: dict[str, str] = {}  # tensors, with the first one that is equal by construction
        for index in self.view.active:
            node = self.view.nodes[index]
            if node.op_type in DRAWN:
                continue
            inputs = [self._describe_input(name, same) for name in node.input]
            details = [
                attribute.SerializeToString(deterministic=True) for attribute in node.attribute
            ]
            identity = (node.domain, node.op_type, *inputs, *sorted(details))
            alike[identity].append(index)
            original = self.view.nodes[alike[identity][0]]
            if original is not node:
                same.update(zip(node.output, original.output, strict=False))
        for indices in alike.values():
            claimants = [self.owners[index] for index in indices if index in self.owners]
            for index in indices:
                if claimants and index not in self.owners:
                    self._claim(claimants[0], index)

    def _describe_input(self, name: str, same: Mapping[str, str]) -> Any:
        """Describe an input of a source node by its tensor, or by its value if it is constant."""
        value = self.view.value(name) if name and self.view.is_constant(name) else None
        if value is not None and value.size <= _FEW:
            return value.dtype.str, value.shape, value.tobytes()
        name = self.view.resolve(name)
        return same.get(name, name)

    def _claim_moved(self) -> None:
        """Let transposes claim the source transposes that a node beside them absorbed.

        The runtime moves them through other nodes, and makes one for each output of a split.
        """
        for number, node in enumerate(self.executed):
            if node.op != "Transpose" or self.claims[number]:
                continue
            moved: set[int] = set()
            for neighbour in self._find_claimants_beside(number):
                for index in self.absorbed[neighbour]:
                    if self.view.nodes[index].op_type == node.op:
                        moved.add(index)
            self.claims[number] = moved

    def _find_claimants_beside(self, start: int) -> set[int]:
        """Executed nodes that claim something, beside one or beyond others that claim nothing."""
        found: set[int] = set()
        seen = {start}
        waiting = [start]
        while waiting:
            node = self.executed[waiting.pop()]
            neighbours = [self.writers.get(name) for name in node.inputs]
            for name in node.outputs:
                neighbours += self.readers[name]
            for other in neighbours:
                if other is None or other in seen:
                    continue
                seen.add(other)
                if self.claims[other]:
                    found.add(other)
                else:
                    waiting.append(other)
        return found

    def _make_origins(self) -> tuple[NodeOrigin, ...]:
        names = [view_node.name for view_node in self.view.nodes]
        served = [
            layers_served([names[index] for index in sorted(claimed)], self.layers)
            for claimed in self.claims
        ]
        main_nodes = {layer.name for layer in self.layers}
        principal = [
            any(names[index] in main_nodes for index in claimed) for claimed in self.claims
        ]
        # From the end, so that a chain of helpers ends up with its last reader.
        for number in reversed(range(len(self.executed))):
            node = self.executed[number]
            if not served[number] and node.op not in _LAYOUTS:
                served[number] = self._find_single_layer(node, served)
        origins = []
        for number, node in enumerate(self.executed):
            known = bool(served[number]) or node.op in CONVERSIONS
            near = ""
            if not served[number]:
                near = self._find_neighbour(node, served)
            origins.append(NodeOrigin(node, served[number], near, principal[number], known))
        return tuple(origins)

    def _find_single_layer(
        self, node: ExecutedNode, served: Sequence[tuple[str, ...]]
    ) -> tuple[str, ...]:
        """Find the one layer that a helper works for; none if several read what it writes.

        One that writes a tensor of the network works for the layer that made it.
        """
        for name in node.outputs:
            owner = self.owners.get(self.makers.get(name, -1))
            if owner is not None:
                return served[owner]
        found: set[tuple[str, ...]] = set()
        for name in node.outputs:
            found.update(served[reader] for reader in self.readers[name])
        if len(found) == 1:
            return found.pop()
        return ()

    def _find_neighbour(self, node: ExecutedNode, served: Sequence[tuple[str, ...]]) -> str:
        """Find the first layer that an inserted node reads, also through other inserted nodes."""
        waiting = list(node.inputs)
        seen: set[int] = set()
        while waiting:
            writer = self.writers.get(waiting.pop(0))
            if writer is None or writer in seen:
                continue
            seen.add(writer)
            if served[writer]:
                return served[writer][0]
            waiting += self.executed[writer].inputs
        return "input"
