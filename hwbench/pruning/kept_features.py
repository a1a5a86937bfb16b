"""Which channels of a feature map a pruned network still has, so that both can be compared."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hwbench.pruning.recipe import Recipe
from hwbench.pruning.surgeon import CHANNELS, IN, size_of


def find_kept_features(
    original: nn.Module, recipe: Recipe, layer: str, inputs: tuple[Tensor, ...]
) -> Tensor | None:
    """Find which channels stay of what a module of the original writes.

    Whoever reads the feature map next lost its inputs for those that went, so the answer is
    read off there.

    Args:
        original: The original network.
        recipe: How the pruned one is made from it.
        layer: Path of the module.
        inputs: Inputs of the network.

    Returns:
        The channels that stay, ascending; None if all do.
    """
    positions = recipe.kept_positions(original)
    finished: list[str] = []
    written: list[Tensor] = []

    def note(path: str) -> Any:
        def hook(_part: nn.Module, _inputs: Any, output: Any) -> None:
            finished.append(path)
            if path == layer and isinstance(output, Tensor):
                written.append(output)

        return hook

    network = copy.deepcopy(original).eval()
    for path, part in network.named_modules():
        part.register_forward_hook(note(path))
    with torch.no_grad():
        network(*inputs)
    if not written:
        return None
    channels = written[-1].shape[1 if written[-1].ndim >= 4 else -1]
    for path in finished[finished.index(layer) + 1 :]:
        for side in (CHANNELS, IN):
            kept = positions.get((path, side))
            if kept is None:
                continue
            # A flattened map has several inputs, one after the other, for each channel.
            repeats, rest = divmod(size_of(network, path, side), channels)
            return None if rest else torch.unique(kept // repeats)
        if getattr(network.get_submodule(path), "weight", None) is not None:
            return None
    return None
