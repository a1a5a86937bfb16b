"""PRACTISE's adaptors: 1x1 convolutions next to a dropped block that recover what it did.

The method is that of Wang and Wu, CVPR 2023, section 3.2. Adaptors have no bias, start as
identities, and are trained alone, while everything else is frozen and in eval mode. As they are
linear they merge exactly into the convolutions next to them: behind one, `W' = P W` over its
outputs and `b' = P b`; in front of one, `W' = W P` over its inputs, padding included, as zeros stay
zeros.

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
from hwbench.network.structure.channels import Channels, Layout

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True, slots=True)
class Adaptors:
    """Where adaptors go.

    Attributes:
        after: The paths of the convolutions that get an adaptor behind them.
        before: The paths of the convolutions that get one in front of them.
    """

    after: tuple[str, ...]
    before: tuple[str, ...]


class Adapted(nn.Module):
    """A convolution with an adaptor in front of it, behind it, or both."""

    def __init__(self, conv: nn.Conv2d, *, before: bool, after: bool) -> None:
        super().__init__()
        self.before = _make_identity(conv.in_channels, conv.weight) if before else None
        self.conv = conv
        self.after = _make_identity(conv.out_channels, conv.weight) if after else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the adaptor in front, the convolution and the adaptor behind.

        Args:
            x: Shape (images, input channels, height, width).
        """
        if self.before is not None:
            x = self.before(x)
        x = self.conv(x)
        if self.after is not None:
            x = self.after(x)
        return x

    def merge(self) -> nn.Conv2d:
        """Merge the adaptors into the convolution, in place, so that it computes the same alone.

        Returns:
            The convolution.
        """
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
    """Put adaptors into `module`, in place; it computes the same as before.

    Args:
        module: The network.
        places: Where the adaptors go.

    Returns:
        The weights of the adaptors, to be trained.
    """
    parameters: list[nn.Parameter] = []
    for path in dict.fromkeys((*places.after, *places.before)):
        conv: nn.Conv2d = module.get_submodule(path)  # type: ignore[assignment]
        adapted = Adapted(conv, before=path in places.before, after=path in places.after)
        adapted.train(conv.training)
        module.set_submodule(path, adapted, strict=True)
        if adapted.before is not None:
            parameters.append(adapted.before.get_parameter("weight"))
        if adapted.after is not None:
            parameters.append(adapted.after.get_parameter("weight"))
    return parameters


def merge(module: nn.Module) -> None:
    """Merge all adaptors of `module` into their convolutions, in place; outputs stay the same."""
    for path, part in list(module.named_modules()):
        if isinstance(part, Adapted):
            module.set_submodule(path, part.merge(), strict=True)


def adaptor_places(
    model: ModelProto, structure: Structure, module: nn.Module
) -> dict[str, Adaptors]:
    """Find where adaptors go for each block of a structure.

    Args:
        model: The ONNX graph of the network.
        structure: The structure of `model`.
        module: The network the graph was exported from.

    Returns:
        The places of the adaptors, by name of the block.
    """
    view = GraphView(model)
    channels = Channels(view)
    dense = set()
    for path, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and part.groups == 1:
            dense.add(path)
    places = {}
    for block in structure.blocks:
        places[block.name] = _adaptors_around(view, channels, block, dense)
    return places


def _adaptors_around(
    view: GraphView, channels: Channels, block: Block, dense: set[str]
) -> Adaptors:
    """Find the convolutions before and behind a block that share its stream of channels.

    Channels that are added up are of one class in `channels`, so the stream is the set of classes
    that the block reads: a convolution writes into it, or reads it, if its own are the same.
    """
    inside = set(block.nodes)
    first = min(index for index in view.active if view.nodes[index].name in inside)
    stream = _classes(channels, channels.layouts[view.resolve(block.input)])
    after, before = [], []
    for index in view.active:
        node = view.nodes[index]
        if node.op_type not in CONVOLUTIONS or node.name in inside or node.name not in dense:
            continue
        if index < first:
            writes = index in channels.made and _classes(channels, channels.made[index]) == stream
            if writes and not _is_activated(view, node.output[0]):
                after.append(node.name)
        elif _classes(channels, channels.layouts[view.resolve(node.input[0])]) == stream:
            before.append(node.name)
    return Adaptors(tuple(after), tuple(before))


def _classes(channels: Channels, layout: Layout) -> set[int]:
    return set(channels.classes[layout.atoms].tolist())


def _is_activated(view: GraphView, tensor: str) -> bool:
    """Tell whether an activation reads a convolution's output before it joins the stream."""
    return any(view.nodes[reader].op_type in ACTIVATIONS for reader in view.readers(tensor))


def _make_identity(channels: int, like: Tensor) -> nn.Conv2d:
    """Make a 1x1 convolution without bias that hands its input on unchanged.

    Args:
        channels: Its number of input and of output channels.
        like: A tensor of the type and on the device that its weight gets.
    """
    conv = nn.Conv2d(channels, channels, 1, bias=False).to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        nn.init.eye_(conv.weight.view(channels, channels))
    return conv


def _matrix(adaptor: nn.Conv2d) -> Tensor:
    return adaptor.weight.detach().double()[:, :, 0, 0]
