"""Why layers of a network keep all their channels: every such layer is listed with its reason."""

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


class _ExplainedChannels(Channels):
    """Channels followed through the graph that remember what fixed them."""

    def __init__(self, view: GraphView) -> None:
        self.reasons: dict[int, str] = {}
        self._traced_node: NodeProto | None = None
        super().__init__(view)

    def _trace(self, index: int, node: NodeProto) -> None:
        self._traced_node = node
        super()._trace(index, node)

    def _fix(self, layout: Layout) -> None:
        super()._fix(layout)
        node = self._traced_node
        place = "the network's end" if node is None else f"{node.op_type} ({node.name})"
        for maker, _ in layout.spans:
            self.reasons.setdefault(
                maker,
                f"its channels reach {place}, through which channels cannot be followed",
            )

    def _opaque(self, name: str) -> Layout:
        layout = super()._opaque(name)
        node = self.view.maker(name)
        if node is None:
            origin = "are those of the network's input"
        else:
            origin = f"come from {node.op_type} ({node.name})"
        self.reasons[layout.spans[0][0]] = (
            f"its channels meet others that {origin} and must stay as they are"
        )
        return layout

    def reason(self, maker: int) -> str:
        """Explain why the channels that this layer makes are fixed."""
        root = self.root(maker)
        for name in self.view.outputs:
            if name not in self.layouts:
                continue
            for output_maker, _ in self.layouts[name].spans:
                if self.root(output_maker) == root:
                    return "its channels are the network's outputs"
        if maker in self.reasons:
            return self.reasons[maker]
        # The reason may have been noted at another layer whose channels meet this one's.
        for other in sorted(self.reasons):
            if self.root(other) == root:
                return self.reasons[other]
        return "its channels cannot be followed"


def find_kept_layers(model: ModelProto) -> tuple[Kept, ...]:
    """Find the convolutions and linear layers whose outputs are in no group, in graph order.

    Args:
        model: The ONNX graph of the network.
    """
    view = GraphView(model)
    channels = _ExplainedChannels(view)
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
