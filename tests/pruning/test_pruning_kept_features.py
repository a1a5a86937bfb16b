"""Feature maps of a pruned network are compared with the channels of the original that it kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwbench.network import zoo
from hwbench.pruning import Prunable
from hwbench.pruning.kept_features import find_kept_features
from hwbench.search.training import FeatureDistance, feature_layer
from tests.support.prunable_nets import Efficient, lively


def flat() -> nn.Module:
    """Features that a linear layer reads flattened, four inputs for each channel."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1)),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).eval()


NETWORKS = {
    "flat": flat,
    "plain20": lambda: lively(zoo.build("plain20")),
    "mobilenet_v1": lambda: lively(zoo.build("mobilenet_v1@0.25,classes=10")),
    "resnet20": lambda: lively(zoo.build("resnet20")),
    "efficient": lambda: lively(Efficient()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_a_network_of_which_channels_went_can_be_compared(name: str) -> None:
    module = NETWORKS[name]()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    prunable = Prunable(module, (x[:1],))
    layer = feature_layer(module, x)
    widths = [group.width // 2 for group in prunable.structure.groups]
    for group_number, group in enumerate(prunable.structure.groups):
        if group.name in prunable.fixed:
            widths[group_number] = group.width
    pruned = prunable.slim(widths)
    channels = find_kept_features(prunable.module, pruned.recipe, layer, (x[:1],))
    loss = FeatureDistance(prunable.module, layer, channels)
    assert loss(pruned.module, x, torch.zeros(2)).item() > 0
    kept = {tuple(group.kept) for group in pruned.recipe.groups}
    assert channels is None or tuple(channels.tolist()) in kept
    # Of the whole network nothing is left out, and it is at no distance from itself.
    whole = prunable.slim(prunable.structure.widths)
    assert find_kept_features(prunable.module, whole.recipe, layer, (x[:1],)) is None


def test_channels_are_those_that_stayed() -> None:
    """With all that is before them whole, kept features are the very ones of the original."""
    module = flat()
    x = torch.randn(2, 3, 16, 16)
    prunable = Prunable(module, (x[:1],))
    pruned = prunable.slim([12, 8])
    channels = find_kept_features(prunable.module, pruned.recipe, "0", (x[:1],))
    assert channels is not None
    assert tuple(channels.tolist()) == pruned.recipe.groups[0].kept
    loss = FeatureDistance(prunable.module, "0", channels)
    assert loss(pruned.module, x, torch.zeros(2)).item() < 1e-10
