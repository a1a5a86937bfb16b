"""Cutting channels out of the modules of a torch network, in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMALIZATIONS = (
    nn.modules.batchnorm._BatchNorm,  # noqa: SLF001 - their common bases have no public name
    nn.modules.instancenorm._InstanceNorm,  # noqa: SLF001 - their common bases have no public name
    nn.LayerNorm,
    nn.GroupNorm,
)
IN, OUT, CHANNELS = "in", "out", "channels"
"""Sides of a module along which channels lie.

`in` and `out` are the inputs and outputs of a convolution or linear layer; `channels` is the one
side of a module that hands each channel on by itself (depthwise convolution, normalization, PReLU).
The side of a bare parameter is the number of its dimension, as text."""

_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")
_COUNTS = {
    OUT: ("out_channels", "out_features"),
    IN: ("in_channels", "in_features"),
    CHANNELS: ("num_features", "num_parameters", "num_channels"),
}


@dataclass(frozen=True, slots=True)
class ChannelPlace:
    """Where the channels of a group lie along one side of a module.

    Channel `i` takes `repeat` entries, the first of which is `start + i * stride`.

    Attributes:
        path: The path of the module, or of a bare parameter.
        side: `in`, `out`, `channels`, or the dimension of a bare parameter.
        start: The entry of the group's first channel; not 0 behind a concatenation.
        repeat: The number of entries per channel; not 1 behind a flattened feature map.
        stride: Entries from one channel to the next; 0 stands for as many as `repeat`.
    """

    path: str
    side: str
    start: int
    repeat: int
    stride: int = 0

    def positions(self, channels: Iterable[int]) -> list[int]:
        """List the entries that some channels take.

        Args:
            channels: Indices of channels of the group.
        """
        positions: list[int] = []
        for channel in channels:
            first = self.start + channel * (self.stride or self.repeat)
            positions.extend(range(first, first + self.repeat))
        return positions


def side_dim(layer: nn.Module, side: str) -> int:
    """Find the dimension of a module's weight that lies along `side`."""
    if side == CHANNELS:
        return 0
    # Weights are (outputs, inputs, ..), those of transposed convolutions (inputs, outputs, ..).
    transposed = isinstance(layer, _TRANSPOSED)
    if side == IN:
        return 0 if transposed else 1
    return 1 if transposed else 0


def size_of(module: nn.Module, path: str, side: str) -> int:
    """Count the entries along a side of a module or bare parameter."""
    if side.isdigit():
        owner, _, name = path.rpartition(".")
        bare: Tensor = getattr(module.get_submodule(owner), name)
        return bare.shape[int(side)]
    layer = module.get_submodule(path)
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    if isinstance(layer, NORMALIZATIONS):
        # Normalization without parameters of its own has no weight to look at.
        return int(layer.num_features)  # type: ignore[arg-type]
    return weight_of(layer).shape[side_dim(layer, side)]


def weight_of(layer: nn.Module) -> Tensor:
    """Give the weight of a layer that has one.

    Raises:
        AttributeError: The layer has no weight.
    """
    weight: Tensor = layer.get_parameter("weight")
    return weight


def cut(module: nn.Module, path: str, side: str, kept: Tensor) -> None:
    """Cut one side of a module or bare parameter down to some of its entries, in place.

    Args:
        module: The network.
        path: The path of the module or bare parameter in it.
        side: The side to cut, see `ChannelPlace`.
        kept: The positions of the entries that stay, ascending.
    """
    if side.isdigit():
        owner, _, name = path.rpartition(".")
        holder = module.get_submodule(owner)
        setattr(holder, name, _select_entries(getattr(holder, name), int(side), kept))
        if isinstance(holder, nn.Embedding) and side == "1":
            holder.embedding_dim = len(kept)
        return
    layer = module.get_submodule(path)
    counts = dict.fromkeys(_COUNTS[side], len(kept))
    if isinstance(layer, CONVOLUTIONS):
        counts, kept_biases = _count_channels(layer, side, kept)
    else:
        kept_biases = kept
    names = ("weight",) if side == IN else _PER_CHANNEL
    for name in names:
        tensor = getattr(layer, name, None)
        if tensor is not None and name == "weight":
            layer.weight = _select_entries(tensor, side_dim(layer, side), kept)
        elif tensor is not None:
            setattr(layer, name, _select_entries(tensor, 0, kept_biases))
    # Modules also keep their sizes as numbers, which others (exporters, printing) rely on.
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (len(kept),)
    for name, count in counts.items():
        if hasattr(layer, name):
            setattr(layer, name, count)


def _count_channels(layer: nn.Module, side: str, kept: Tensor) -> tuple[dict[str, int], Tensor]:
    """The numbers of a convolution that is cut, and which of its biases stay.

    A weight holds the inputs of one of its groups; a transposed one the outputs.
    """
    conv: nn.Conv2d = layer  # type: ignore[assignment]
    if side == CHANNELS:
        outputs_per_input = conv.out_channels // conv.in_channels
        if isinstance(layer, _TRANSPOSED):
            places = torch.arange(conv.out_channels).reshape(conv.in_channels, -1)
            inputs, biases = len(kept), places[kept].flatten()
        else:
            inputs, biases = len(kept) // outputs_per_input, kept
        outputs = inputs * outputs_per_input
        return {"in_channels": inputs, "out_channels": outputs, "groups": inputs}, biases
    transposed = isinstance(layer, _TRANSPOSED)
    if side == IN:
        return {"in_channels": len(kept) * (1 if transposed else conv.groups)}, kept
    if not transposed:
        return {"out_channels": len(kept)}, kept
    per_group = conv.out_channels // conv.groups
    biases = (per_group * torch.arange(conv.groups)[:, None] + kept).flatten()
    return {"out_channels": len(kept) * conv.groups}, biases


def _select_entries(tensor: Tensor, dim: int, kept: Tensor) -> Tensor:
    chosen = tensor.detach().index_select(dim, kept.to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(chosen, requires_grad=tensor.requires_grad)
    return chosen


def is_depthwise(layer: nn.Module) -> bool:
    """Tell whether a layer is a convolution of each channel by itself."""
    return (
        isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and layer.groups == layer.in_channels
    )


def is_dense(layer: nn.Module) -> bool:
    """Tell whether a layer is linear, or a convolution in which every output reads every input."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)


def device_of(module: nn.Module) -> torch.device:
    """Find where a module's parameters are; the CPU if it has none."""
    for parameter in module.parameters():
        return parameter.device
    return torch.device("cpu")


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode; on leaving, every part of it gets its own mode back."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
