"""PRACTISE's adaptors (Wang and Wu, CVPR 2023, section 3.2): 1x1 convolutions beside a dropped block that recover what it did.

They have no bias, start as identities, and are trained alone, everything else frozen and in eval
mode. As they are linear they merge exactly into the convolutions they stand beside: behind one, `W'
= P W` over its outputs and `b' = P b`; in front of one, `W' = W P` over its inputs, padding
included, as zeros stay zeros.

They stand in the stream of channels that the dropped block read and wrote: behind the convolutions
before the block that write into the stream as they are (the last one of every earlier block, and
the down-sampling one), and in front of the convolutions behind the block that read it (the first
one of every later block, of the next stage's first block and its down-sampling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hwbench.network.graph.fusion import ACTIVATIONS
from hwbench.network.graph.keys import CONVOLUTIONS
from hwbench.network.graph.view import GraphView
from hwbench.network.structure import Structure
from hwbench.network.structure.blocks import Block
from hwbench.network.structure.channels import Channels

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Adaptors:
    """Paths of the convolutions that get an adaptor behind them, and of those that get one in front."""

    after: tuple[str, ...]
    before: tuple[str, ...]


class Adapted(nn.Module):
    """A convolution with an adaptor in front of it, behind it, or both."""

    def __init__(self, conv: nn.Conv2d, *, before: bool, after: bool) -> None:
        super().__init__()
        self.before = _identity(conv.in_channels, conv.weight) if before else None
        self.conv = conv
        self.after = _identity(conv.out_channels, conv.weight) if after else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to what the convolution makes of it."""
        x = x if self.before is None else self.before(x)
        x = self.conv(x)
        return x if self.after is None else self.after(x)

    def merged(self) -> nn.Conv2d:
        """The convolution, changed in place so that it computes the same alone."""
        weight, bias = self.conv.weight.detach().double(), self.conv.bias
        if self.before is not None:
            weight = torch.einsum("oixy,ij->ojxy", weight, _matrix(self.before))
        if self.after is not None:
            weight = torch.einsum("po,oixy->pixy", _matrix(self.after), weight)
        with torch.no_grad():
            self.conv.weight.copy_(weight)
            if self.after is not None and bias is not None:
                bias.copy_(_matrix(self.after) @ bias.double())
        return self.conv


def insert(module: nn.Module, places: Adaptors) -> list[nn.Parameter]:
    """Put adaptors into `module`, in place; it computes what it did.

    Returns:
        Their weights, to be trained.
    """
    parameters: list[nn.Parameter] = []
    for path in dict.fromkeys((*places.after, *places.before)):
        conv: nn.Conv2d = module.get_submodule(path)  # type: ignore[assignment]
        adapted = Adapted(conv, before=path in places.before, after=path in places.after)
        adapted.train(conv.training)
        module.set_submodule(path, adapted, strict=True)
        parameters += [
            one.get_parameter("weight")
            for one in (adapted.before, adapted.after)
            if one is not None
        ]
    return parameters


def merge(module: nn.Module) -> None:
    """Merge all adaptors of `module` into their convolutions, in place; it computes what it did."""
    for path, part in list(module.named_modules()):
        if isinstance(part, Adapted):
            module.set_submodule(path, part.merged(), strict=True)


def adaptor_places(
    model: ModelProto, structure: Structure, module: nn.Module
) -> dict[str, Adaptors]:
    """Where adaptors go for each block of a structure, by its name.

    Args:
        model: The graph of the structure.
        structure: Of `model`.
        module: The network the graph was exported from.
    """
    view = GraphView(model)
    channels = Channels(view)
    dense = {
        path
        for path, part in module.named_modules()
        if isinstance(part, nn.Conv2d) and part.groups == 1
    }
    return {block.name: _around(view, channels, block, dense) for block in structure.blocks}


def _around(view: GraphView, channels: Channels, block: Block, dense: set[str]) -> Adaptors:
    inside = set(block.nodes)
    first = min(index for index in view.active if view.nodes[index].name in inside)
    stream = _roots(channels, view.resolve(block.input))
    after, before = [], []
    for index in view.active:
        node = view.nodes[index]
        if node.op_type not in CONVOLUTIONS or node.name in inside or node.name not in dense:
            continue
        if (
            index < first
            and index in channels.made
            and {channels.root(channels.made[index])} == stream
        ):
            if _is_linear(view, node.output[0]):
                after.append(node.name)
        elif index > first and _roots(channels, view.resolve(node.input[0])) == stream:
            before.append(node.name)
    return Adaptors(tuple(after), tuple(before))


def _roots(channels: Channels, tensor: str) -> set[int]:
    return {channels.root(maker) for maker, _ in channels.layouts[tensor].spans}


def _is_linear(view: GraphView, tensor: str) -> bool:
    """Whether a convolution's output joins the stream without an activation in between."""
    return not any(view.nodes[reader].op_type in ACTIVATIONS for reader in view.readers(tensor))


def _identity(channels: int, like: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1, bias=False).to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        nn.init.eye_(conv.weight.view(channels, channels))
    return conv


def _matrix(adaptor: nn.Conv2d) -> Tensor:
    return adaptor.weight.detach().double()[:, :, 0, 0]
