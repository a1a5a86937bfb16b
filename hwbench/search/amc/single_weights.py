"""Fine-grained pruning (AMC's Algorithm 1): the smallest weights of each layer become zero.

That saves bytes but no time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from hwbench.network.structure import Structure


EXACT = 1e-6
"""Of a weight: what floating point may take from a share that is a whole number of weights.

Other shares round down, to keep to the size."""


def weighted_layers(structure: Structure) -> tuple[str, ...]:
    """The layers that decisions are about, in execution order."""
    return tuple(slot.layer.name for slot in structure.slots if slot.layer.macs)


def without_smallest(
    module: nn.Module, layers: Sequence[str], shares: Sequence[float]
) -> nn.Module:
    """A copy of a network in which only the largest weights of each layer are not zero.

    Args:
        module: The network.
        layers: Paths of its layers.
        shares: Share of the weights of each that stays, those largest by absolute value.
    """
    pruned = copy.deepcopy(module)
    for layer, share in zip(layers, shares, strict=True):
        weight = pruned.get_submodule(layer).weight
        flat = weight.detach().flatten()  # type: ignore[operator]
        gone = len(flat) - math.floor(share * len(flat) + EXACT)
        with torch.no_grad():
            flat[flat.abs().argsort(stable=True)[:gone]] = 0
            weight.copy_(flat.view_as(weight))  # type: ignore[operator,arg-type]
    return pruned


@contextmanager
def zeros_kept(module: nn.Module, layers: Sequence[str]) -> Iterator[None]:
    """Let the zeros among the weights of these layers stay zero while the network is trained."""
    handles = []
    for layer in layers:
        weight = module.get_submodule(layer).weight
        kept = (weight.detach() != 0).to(weight.dtype)  # type: ignore[operator,arg-type]
        handles.append(weight.register_hook(kept.mul))  # type: ignore[operator]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
