"""Why layers of a network keep all their channels: every such layer is listed with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.network.graph.keys import is_weighted
from hwbench.network.graph.view import GraphView
from hwbench.network.structure.channels import Channels

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer that keeps all its channels, or a block that cannot be dropped, and why."""

    name: str
    reason: str


def find_kept_layers(model: ModelProto) -> tuple[Kept, ...]:
    """Find the convolutions and linear layers whose outputs are in no group, in graph order.

    Args:
        model: The ONNX graph of the network.
    """
    view = GraphView(model)
    channels = Channels(view)
    kept = []
    for index in view.active:
        node = view.nodes[index]
        if not is_weighted(view, node) or index in channels.depthwise:
            continue
        if index not in channels.made:
            kept.append(Kept(node.name, f"channels cannot be followed into this {node.op_type}"))
            continue
        made = channels.made[index]
        if (channels.groups[made.atoms] >= 0).any():
            continue
        first = int(channels.classes[made.atoms[0]])
        kept.append(Kept(node.name, channels.reasons[first]))
    return tuple(kept)
