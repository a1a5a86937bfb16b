"""Which channels stay: every measure finds the channel that was made to matter by it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwbench.errors import UsageError
from hwbench.pruning import Importance, Prunable
from hwbench.search.options import IMPORTANCES
from hwbench.search.training import logits_of
from tests.pruning.test_pruning_models import NETS, TOKENS, example, prunable
from tests.support.prunable_nets import lively

BY_L1, BY_L2, BY_SCALE, BY_VALUE, BY_LOSS = range(5)
"""The channel of `planted` that each measure takes for the most important one."""
PLANTED = {
    "l1": BY_L1,
    "l2": BY_L2,
    "batch-norm": BY_SCALE,
    "activations": BY_VALUE,
    "taylor": BY_LOSS,
}


def planted() -> nn.Module:
    module = nn.Sequential(
        nn.Conv2d(5, 5, 1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    with torch.no_grad():
        module[0].weight.copy_(torch.eye(5)[:, :, None, None])
        norm, reader = module[1], module[3]
        norm.weight.fill_(0.5)
        reader.weight.fill_(0.01)
        # Read most, but never more than 0.
        norm.bias[[BY_L1, BY_L2]] = -10.0
        reader.weight[:, BY_L1] = 2.0
        reader.weight[:, BY_L2] = torch.tensor([5.0, 0.0, 0.0, 0.0])[:, None, None]
        norm.weight[BY_SCALE] = 3.0
        # Always large, but all classes read it alike, so that it does not change the answer.
        norm.bias[BY_VALUE] = 50.0
        reader.weight[:, BY_LOSS] = torch.tensor([0.3, -0.3, 0.3, -0.3])[:, None, None]
    return module


def batches(shape: tuple[int, ...] = (5, 4, 4), classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(count, *shape, generator=generator),
            torch.randint(classes, (count,), generator=generator),
        )
        for count in (6, 3)
    ]


def cross_entropy(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits_of(module(images)).flatten(1), labels)


def kept_by(whole: Prunable, importance: Importance, widths: list[int]) -> tuple[int, ...]:
    scores = whole.score_channels(importance, batches(), cross_entropy)
    return whole.slim(widths, importance=scores).recipe.groups[0].kept


def test_searches_offer_what_pruning_offers() -> None:
    assert get_args(Importance) == IMPORTANCES


@pytest.mark.parametrize("importance", PLANTED)
def test_every_measure_keeps_the_channel_that_was_planted_for_it(importance: Importance) -> None:
    whole = Prunable(planted(), (torch.randn(1, 5, 4, 4),))
    assert kept_by(whole, importance, [1]) == (PLANTED[importance],)


def test_what_is_told_by_images_leaves_the_network_as_it_was() -> None:
    whole = Prunable(planted().train(), (torch.randn(1, 5, 4, 4),))
    before = copy.deepcopy(whole.module.state_dict())
    for importance in ("activations", "taylor"):
        first = whole.score_channels(importance, batches(), cross_entropy)
        again = whole.score_channels(importance, batches(), cross_entropy)
        assert all(torch.equal(first[name], again[name]) for name in first)
    assert whole.module.training
    assert all(parameter.grad is None for parameter in whole.module.parameters())
    assert all(
        torch.equal(before[name], value) for name, value in whole.module.state_dict().items()
    )
    assert not any(part._forward_pre_hooks for part in whole.module.modules())


@pytest.mark.parametrize("name", [name for name in NETS if name != "bert"])
@pytest.mark.parametrize("importance", ["activations", "taylor"])
def test_images_tell_of_every_kind_of_network(name: str, importance: Importance) -> None:
    whole = prunable(name)
    if name in TOKENS:
        examples = [(example(name).repeat(2, 1), torch.arange(2))]
    else:
        examples = batches(tuple(example(name).shape[1:]), classes=2)
    if name == "encoder":  # a fused kernel reads the weights, and no layer is called
        with pytest.raises(UsageError, match="choose another importance"):
            whole.score_channels(importance, examples, cross_entropy)
        return
    scores = whole.score_channels(importance, examples, cross_entropy)
    cuttable = [group for group in whole.structure.groups if group.name not in whole.fixed]
    assert cuttable
    for group in cuttable:
        assert scores[group.name].shape == (group.width,)
        assert bool(scores[group.name].isfinite().all())


class Hidden(nn.Module):
    """Its layers never run: their weights alone are used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.first.weight).relu()
        return functional.conv2d(x, self.last.weight).mean((2, 3))


def test_channels_that_cannot_be_observed_are_said() -> None:
    whole = Prunable(Hidden().eval(), (torch.randn(1, 3, 4, 4),))
    assert not whole.fixed
    with pytest.raises(UsageError, match="can be observed while the network runs"):
        whole.score_channels("activations", batches((3, 4, 4)))


def test_taylor_is_the_change_of_the_loss_when_all_readers_of_a_channel_read_less() -> None:
    whole = prunable("stack")
    images, labels = torch.randn(1, 3, 16, 16), torch.tensor([1])
    scores = whole.score_channels("taylor", [(images, labels)], cross_entropy)
    group, coupled = next(
        (group, whole._coupled[group.name])
        for group in whole.structure.groups
        if len(whole._coupled[group.name].places) > 4
    )
    slopes = [
        _slope(whole.module, coupled.places, channel, images, labels)
        for channel in range(group.width)
    ]
    expected = torch.tensor(slopes, dtype=torch.float64).abs()
    torch.testing.assert_close(scores[group.name], expected / expected.mean(), rtol=1e-3, atol=1e-4)


def _slope(module, places, channel: int, images: Tensor, labels: Tensor) -> float:
    """By how much the loss changes with a factor on all that reads a channel."""
    gate = torch.ones((), requires_grad=True)

    def scale(_layer: nn.Module, inputs: tuple[Tensor, ...], entries: list[int]) -> Tensor:
        factor = torch.ones(inputs[0].shape[1]).index_fill(0, torch.tensor(entries), 0.0)
        shape = (-1, *[1] * (inputs[0].ndim - 2))
        return inputs[0] * (factor + (1 - factor) * gate).reshape(shape)

    handles = []
    for place in places:
        if place.side == "in":
            entries = place.positions([channel])
            layer = module.get_submodule(place.path)
            handles.append(
                layer.register_forward_pre_hook(
                    lambda part, inputs, entries=entries: scale(part, inputs, entries)
                )
            )
    loss = cross_entropy(module.eval(), images, labels)
    for handle in handles:
        handle.remove()
    return float(torch.autograd.grad(loss, gate)[0])


@pytest.mark.parametrize(
    ("importance", "examples", "loss", "said"),
    [
        ("activations", [], None, "none were given"),
        ("taylor", [], cross_entropy, "none were given"),
        ("taylor", batches(), None, "goes by the loss"),
        ("random", (), None, "have no scores"),
    ],
)
def test_what_is_missing_is_said(importance, examples: Iterator, loss, said: str) -> None:
    whole = Prunable(planted(), (torch.randn(1, 5, 4, 4),))
    with pytest.raises(UsageError, match=said):
        whole.score_channels(importance, examples, loss)


def test_a_network_without_batch_normalization_is_refused_by_the_name_of_the_group() -> None:
    module = lively(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)))
    whole = Prunable(module, (torch.randn(1, 3, 4, 4),))
    with pytest.raises(UsageError, match=r"channels of 0 pass no batch normalization"):
        whole.slim([4], importance="batch-norm")
