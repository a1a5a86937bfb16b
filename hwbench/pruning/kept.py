"""Why layers of a network keep all their channels: said, never silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.network.graph.keys import is_weighted
from hwbench.network.graph.view import GraphView, attributes
from hwbench.network.structure.channels import Channels, Layout

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer that keeps all its channels, or a block that cannot be dropped, and why."""

    name: str
    reason: str


class _Explained(Channels):
    """Channels that remember what fixed them."""

    def __init__(self, view: GraphView) -> None:
        self.why: dict[int, str] = {}
        self._now: NodeProto | None = None
        super().__init__(view)

    def _trace(self, index: int, node: NodeProto) -> None:
        self._now = node
        super()._trace(index, node)

    def _fix(self, layout: Layout) -> None:
        super()._fix(layout)
        for maker, _ in layout.spans:
            self.why.setdefault(
                maker,
                f"its channels reach {_described(self._now)}, through which channels cannot be"
                " followed",
            )

    def _opaque(self, name: str) -> Layout:
        layout = super()._opaque(name)
        node = self.view.maker(name)
        came = (
            f"come from {_described(node)}"
            if node is not None
            else "are those of the network's input"
        )
        self.why[layout.spans[0][0]] = (
            f"its channels meet others that {came} and must stay as they are"
        )
        return layout

    def reason(self, maker: int) -> str:
        root = self.root(maker)
        outputs = {
            self.root(one)
            for name in self.view.outputs
            if name in self.layouts
            for one, _ in self.layouts[name].spans
        }
        if root in outputs:
            return "its channels are the network's outputs"
        found = [self.why[one] for one in sorted(self.why) if self.root(one) == root]
        return self.why.get(maker) or (found[0] if found else "its channels cannot be followed")


def _described(node: NodeProto | None) -> str:
    return "the network's end" if node is None else f"{node.op_type} ({node.name})"


def kept_layers(model: ModelProto) -> tuple[Kept, ...]:
    """Convolutions and linear layers whose output channels no group of the structure holds, in graph order."""
    view = GraphView(model)
    channels = _Explained(view)
    kept = []
    for index in view.active:
        node = view.nodes[index]
        if not is_weighted(view, node) or index in channels.depthwise:
            continue
        if index not in channels.made:
            groups = attributes(node).get("group", 1)
            kept.append(
                Kept(
                    node.name,
                    f"a {node.op_type} of {groups} groups, whose channels cannot be cut one by one",
                )
            )
        elif channels.is_fixed(channels.made[index]):
            kept.append(Kept(node.name, channels.reason(channels.made[index])))
    return tuple(kept)
