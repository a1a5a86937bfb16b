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
NORMALIZATIONS = (
    nn.modules.batchnorm._BatchNorm,  # noqa: SLF001 - their common bases have no public name
    nn.modules.instancenorm._InstanceNorm,  # noqa: SLF001 - their common bases have no public name
    nn.LayerNorm,
)
IN, OUT, CHANNELS = "in", "out", "channels"
"""Sides of a module: inputs or outputs of a convolution or linear layer.

Channels of one that hands them on one by one. The side of a bare parameter is its dimension, as
text."""

_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")
_COUNTS = {
    OUT: ("out_channels", "out_features"),
    IN: ("in_channels", "in_features"),
    CHANNELS: ("in_channels", "out_channels", "groups", "num_features", "num_parameters"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the channels of a group lie along one side of a module: channel `i` takes `repeat` entries from `start + i * repeat`.

    Attributes:
        path: Of the module, or of a bare parameter.
        side: `in`, `out`, `channels`, or the dimension of a bare parameter.
        start: Entry of the group's first channel; not 0 behind a concatenation.
        repeat: Entries per channel; not 1 behind a flattened map.
    """

    path: str
    side: str
    start: int
    repeat: int

    def positions(self, channels: Iterable[int]) -> list[int]:
        """Entries of some channels."""
        return [
            self.start + channel * self.repeat + entry
            for channel in channels
            for entry in range(self.repeat)
        ]


def side_dim(layer: nn.Module, side: str) -> int:
    """Dimension of a module's weight that `side` is."""
    if side == CHANNELS:
        return 0
    return int((side == IN) != bool(getattr(layer, "transposed", False)))


def size_of(module: nn.Module, path: str, side: str) -> int:
    """Number of entries along a side."""
    if side.isdigit():
        return module.get_parameter(path).shape[int(side)]
    layer = module.get_submodule(path)
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[-1]
    if side == CHANNELS and not hasattr(layer, "groups"):
        return int(getattr(layer, "num_features", 0) or layer.num_parameters)  # type: ignore[arg-type]
    return weight_of(layer).shape[side_dim(layer, side)]


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer that has one."""
    weight: Tensor = layer.get_parameter("weight")
    return weight


def cut(module: nn.Module, path: str, side: str, kept: Tensor) -> None:
    """Keep the entries `kept` of one side of a module or bare parameter."""
    if side.isdigit():
        owner, _, name = path.rpartition(".")
        holder = module.get_submodule(owner)
        setattr(holder, name, _selected(getattr(holder, name), int(side), kept))
        return
    layer = module.get_submodule(path)
    names = ("weight",) if side == IN else _PER_CHANNEL
    for name in names:
        tensor = getattr(layer, name, None)
        if tensor is not None:
            dim = side_dim(layer, side) if name == "weight" else 0
            setattr(layer, name, _selected(tensor, dim, kept))
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (len(kept),)
    for name in _COUNTS[side]:
        if hasattr(layer, name):
            setattr(layer, name, len(kept))


def _selected(tensor: Tensor, dim: int, kept: Tensor) -> Tensor:
    chosen = tensor.detach().index_select(dim, kept.to(tensor.device))
    return (
        nn.Parameter(chosen, requires_grad=tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else chosen
    )


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution of each channel by itself."""
    return (
        isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and layer.groups == layer.in_channels
    )


def is_dense(layer: nn.Module) -> bool:
    """Whether a layer is linear, or a convolution in which every output reads every input."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are; the CPU if it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A network in eval mode for a while; the mode of each of its parts comes back."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
