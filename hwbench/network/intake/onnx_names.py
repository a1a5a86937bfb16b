"""The names that an ONNX file itself has for its nodes.

Intake renames nodes after torch modules and folds some into others. Runtimes that were given the
file use its own names in what they print, and names of their own for nodes without one. Tensors
keep their names, so they tell which node is which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.network.graph.view import reads

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

NAMELESS = "node_of_"
"""How TensorRT's parser begins the name of a node that has none."""


@dataclass(frozen=True, slots=True)
class _FileNode:
    """One node of a file.

    Attributes:
        names: What it may be called.
        outputs: Tensors that it writes.
        readers: Places of the nodes that read these.
    """

    names: tuple[str, ...]
    outputs: tuple[str, ...]
    readers: tuple[int, ...]


class FileNames:
    """Names of the nodes of a model as it was read, before anything is renamed or folded.

    Args:
        model: The model; it may be changed afterwards.
    """

    def __init__(self, model: ModelProto) -> None:
        readers: dict[str, list[int]] = {}
        for place, node in enumerate(model.graph.node):
            for tensor in dict.fromkeys(reads(node)):
                readers.setdefault(tensor, []).append(place)
        self._nodes = [
            _FileNode(
                tuple(_list_names(node, place)),
                tuple(filter(None, node.output)),
                tuple(reader for tensor in node.output for reader in readers.get(tensor, ())),
            )
            for place, node in enumerate(model.graph.node)
        ]
        self._constants = [tensor.name for tensor in model.graph.initializer]

    def find_tensors(self, model: ModelProto) -> dict[str, str]:
        """Find the tensors that nodes write in the model as it became, by the names in the file.

        A node that was folded into another one writes what that one does. Constants, and what was
        computed from them alone, may be gone: they write nothing, and their tensor is empty.
        """
        written = {tensor for node in model.graph.node for tensor in node.output}
        found: dict[int, str] = {}
        for place in reversed(range(len(self._nodes))):  # readers come after what they read
            node = self._nodes[place]
            kept = [tensor for tensor in node.outputs if tensor in written]
            if kept:
                found[place] = kept[0]
            elif len(node.readers) == 1 and node.readers[0] in found:
                found[place] = found[node.readers[0]]
        left = {tensor.name for tensor in model.graph.initializer}
        tensors = {name: "" for name in self._constants if name not in left}
        for place, node in enumerate(self._nodes):
            for name in node.names:
                tensors[name] = tensors.get(name) or found.get(place, "")
        return tensors


def name_makers(model: ModelProto, tensors: Mapping[str, str]) -> dict[str, str]:
    """Name the nodes of a model that write tensors; those that nothing writes any more left out.

    Args:
        model: The model, every node with a name.
        tensors: From `FileNames.find_tensors`.
    """
    makers = {tensor: node.name for node in model.graph.node for tensor in node.output}
    makers[""] = ""
    return {name: makers[tensor] for name, tensor in tensors.items() if tensor in makers}


def _list_names(node: NodeProto, place: int) -> Iterator[str]:
    """List what a node may be called.

    Without a name, ONNX Runtime calls it after its operator and place, TensorRT's parser after its
    first output.
    """
    if node.name:
        yield node.name
        return
    yield f"{node.op_type}_{place}"
    if node.output:
        yield f"{NAMELESS}{node.output[0]}"
