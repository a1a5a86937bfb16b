"""Adaptors of PRACTISE: where they stand, and that they merge exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from hwbench.network import zoo
from hwbench.pruning import Adaptors, Prunable
from hwbench.pruning.adaptors import Adapted, insert, merge
from tests.support.prunable_nets import lively

SIZES = {
    "resnet34@0.125,classes=10": 32,
    "resnet50@0.125,classes=10": 32,
    "mobilenet_v2@0.35,classes=10": 32,
    "resnet20": 16,
}


@cache
def prunable(spec: str) -> Prunable:
    return Prunable(lively(zoo.build(spec)), (images(spec, 1),))


def images(spec: str, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *[SIZES[spec]] * 2, generator=torch.Generator().manual_seed(0))


def disturb(parameters: list[nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)


@pytest.mark.parametrize(
    ("spec", "block", "after", "before"),
    [
        # The stage's earlier blocks end in conv2; later blocks begin with conv1; the next stage has
        # a down-sampling convolution.
        (
            "resnet34@0.125,classes=10",
            "layer2.2",
            ("layer2.0.conv2", "layer2.0.downsample.conv", "layer2.1.conv2"),
            ("layer2.3.conv1", "layer3.0.conv1", "layer3.0.downsample.conv"),
        ),
        (
            "resnet34@0.125,classes=10",
            "layer1.0",
            (),
            ("layer1.1.conv1", "layer1.2.conv1", "layer2.0.conv1", "layer2.0.downsample.conv"),
        ),
        (
            "resnet34@0.125,classes=10",
            "layer4.2",
            ("layer4.0.conv2", "layer4.0.downsample.conv", "layer4.1.conv2"),
            (),
        ),
        (
            "resnet50@0.125,classes=10",
            "layer3.1",
            ("layer3.0.conv3", "layer3.0.downsample.conv"),
            (
                *(f"layer3.{i}.conv1" for i in range(2, 6)),
                "layer4.0.conv1",
                "layer4.0.downsample.conv",
            ),
        ),
        # Widths 8 8 8 | 16 ...: expansions up to and including the first block of another width
        # (features.7).
        (
            "mobilenet_v2@0.35,classes=10",
            "features.5",
            ("features.4.project.conv",),
            ("features.6.expand.conv", "features.7.expand.conv"),
        ),
        # The parameter-free shortcut has no convolution to stand beside.
        ("resnet20", "layer2.1", ("layer2.0.conv2",), ("layer2.2.conv1", "layer3.0.conv1")),
    ],
)
def test_where_adaptors_stand(
    spec: str, block: str, after: tuple[str, ...], before: tuple[str, ...]
) -> None:
    found = prunable(spec).adaptors([block])
    assert (set(found.after), set(found.before)) == (set(after), set(before))


def resnet_rule(block: str, depths: Sequence[int], last: str) -> tuple[set[str], set[str]]:
    """Adaptors go behind what writes into the stage before the block (Wang and Wu 2023, 3.2).

    They also go in front of what reads the stage after it.
    """
    stage, place = int(block[5]), int(block[7:])
    after = {f"layer{stage}.{earlier}.{last}" for earlier in range(place)}
    before = {f"layer{stage}.{later}.conv1" for later in range(place + 1, depths[stage - 1])}
    if place and (stage > 1 or last == "conv3"):
        after.add(f"layer{stage}.0.downsample.conv")
    if stage < len(depths):
        before |= {f"layer{stage + 1}.0.conv1", f"layer{stage + 1}.0.downsample.conv"}
    return after, before


def mobilenet_rule(block: str) -> tuple[set[str], set[str]]:
    """Adaptors go behind the projections of earlier blocks of that width.

    They also go in front of the expansions of later ones, up to the first of another width.
    """
    stages = [
        0,
        1,
        *[2] * 2,
        *[3] * 3,
        *[4] * 4,
        *[5] * 3,
        *[6] * 3,
        7,
    ]  # Sandler et al. 2018, table 2
    place = int(block.removeprefix("features."))
    first, after = stages.index(stages[place]), stages.index(stages[place] + 1)
    return {f"features.{i}.project.conv" for i in range(first, place)}, {
        f"features.{i}.expand.conv" for i in range(place + 1, after + 1)
    }


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("resnet34@0.125,classes=10", lambda block: resnet_rule(block, (3, 4, 6, 3), "conv2")),
        ("resnet50@0.125,classes=10", lambda block: resnet_rule(block, (3, 4, 6, 3), "conv3")),
        ("mobilenet_v2@0.35,classes=10", mobilenet_rule),
    ],
)
def test_adaptors_of_every_block_stand_where_the_paper_puts_them(
    spec: str, rule: Callable[[str], tuple[set[str], set[str]]]
) -> None:
    whole = prunable(spec)
    assert len(whole.structure.blocks) >= 10
    for block in whole.structure.blocks:
        found = whole.adaptors([block.name])
        assert (set(found.after), set(found.before)) == rule(block.name), block.name


def test_dropped_blocks_get_no_adaptors_themselves() -> None:
    found = prunable("resnet34@0.125,classes=10").adaptors(["layer2.1", "layer2.3"])
    assert set(found.after) == {"layer2.0.conv2", "layer2.0.downsample.conv", "layer2.2.conv2"}
    assert set(found.before) == {"layer2.2.conv1", "layer3.0.conv1", "layer3.0.downsample.conv"}


@pytest.mark.parametrize("spec", SIZES)
def test_inserted_they_change_nothing_and_trained_they_merge_exactly(spec: str) -> None:
    whole = prunable(spec)
    for block in whole.structure.blocks[1::4]:
        module = whole.without([block.name]).module.eval()
        plain, names = copy.deepcopy(module), list(module.state_dict())
        parameters = insert(module, whole.adaptors([block.name]))
        with torch.no_grad():
            torch.testing.assert_close(
                module(images(spec)), plain(images(spec)), rtol=1e-5, atol=1e-5
            )
            disturb(parameters)
            trained = module(images(spec))
            merge(module)
            merged = module(images(spec))
        assert float((trained - plain(images(spec))).detach().abs().max()) > 1e-3
        torch.testing.assert_close(
            merged, trained, rtol=1e-5, atol=1e-5 * max(1.0, float(trained.abs().max()))
        )
        assert list(module.state_dict()) == names


@pytest.mark.parametrize(
    "place", [Adaptors(("0",), ()), Adaptors((), ("0",)), Adaptors(("0",), ("0",))]
)
def test_padding_stride_and_bias_merge_exactly(place: Adaptors) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1))
    disturb(insert(module, place))
    x = torch.randn(3, 4, 9, 9)
    with torch.no_grad():
        trained = module(x)
        merge(module)
        torch.testing.assert_close(module(x), trained, rtol=1e-5, atol=1e-5)
    assert type(module[0]) is nn.Conv2d


def test_parameters_are_those_of_the_adaptors_alone() -> None:
    module = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 5, 1))
    parameters = insert(module, Adaptors(("0",), ("1",)))
    assert [tuple(one.shape) for one in parameters] == [(6, 6, 1, 1), (6, 6, 1, 1)]
    assert sum(isinstance(part, Adapted) for part in module) == 2
