"""Narrower variants of a network, and the size of the file of one."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from hwbench.network.prunable import PrunableNetwork
from hwbench.network.workload import Workload

if TYPE_CHECKING:
    from torch import nn

INPUT = "1x{channels}x{side}x{side}"


def narrowed(workload: Workload, change: Callable[[int], int]) -> Workload:
    """The network with every width that can be pruned changed; the first channels are kept."""
    network = PrunableNetwork(workload)
    return network.version([change(width) for width in network.structure.widths])


def exported(module: nn.Module, channels: int, side: int) -> Workload:
    """The workload of a torch network that takes one image."""
    from hwbench.network.intake import load_workload

    return load_workload(module, inputs=(INPUT.format(channels=channels, side=side),))


def zipped_bytes(workload: Workload) -> int:
    """Size of the model's file after zlib, as zip and gzip do it, at its usual level."""
    return len(zlib.compress(workload.onnx))
