"""Pruning the networks of the papers gives the network that the ONNX structure describes."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwbench.network import zoo
from hwbench.network.graph import layers, load
from hwbench.network.intake import load_workload
from hwbench.network.structure.surgery import PrunableGraph
from hwbench.pruning import Prunable, Pruned
from hwbench.pruning.recipe import Recipe
from hwbench.pruning.surgeon import IN
from hwbench.records.layer_key import LayerKey
from tests.support.onnx_nets import run
from tests.support.prunable_nets import lively

SPECS = {
    "mobilenet_v1@0.25,classes=10": 32,
    "mobilenet_v2@0.35,classes=10": 32,
    "plain20": 16,
    "resnet18@0.125,classes=10": 32,
    "resnet20": 16,
    "resnet34@0.125,classes=10": 32,
    "resnet50@0.125,classes=10": 32,
    "resnet56": 16,
    "vgg16@8-8-8-8-12-12-12-16-16-16-16-16-16-64-64,classes=10": 224,
}
WITH_BLOCKS = [spec for spec in SPECS if spec.startswith(("mobilenet_v2", "resnet"))]


def images(spec: str, count: int = 1) -> Tensor:
    return torch.randn(
        count, 3, SPECS[spec], SPECS[spec], generator=torch.Generator().manual_seed(1)
    )


@cache
def prunable(spec: str) -> Prunable:
    return Prunable(lively(zoo.build(spec)), (images(spec),), name=spec)


def keys_of(module: nn.Module, x: Tensor) -> tuple[LayerKey, ...]:
    return tuple(layer.key for layer in layers(load(load_workload(module, example_inputs=x).onnx)))


def silenced(prunable: Prunable, pruned: Pruned) -> nn.Module:
    """The original, its layers blind to the channels that were removed."""
    module = copy.deepcopy(prunable.module)
    with torch.no_grad():
        for (path, side), kept in pruned.recipe.kept_positions(module).items():
            if side == IN:
                weight = module.get_submodule(path).weight
                blind = torch.ones(weight.shape[1], dtype=torch.bool)
                blind[kept] = False
                weight[:, blind] = 0
    return module


@pytest.mark.parametrize("spec", SPECS)
def test_pruned_to_random_widths_it_has_the_layers_of_the_structure(spec: str) -> None:
    rng = np.random.default_rng(len(spec))
    whole = prunable(spec)
    widths = [int(rng.integers(1, width + 1)) for width in whole.structure.widths]
    pruned = whole.slim(widths, importance="random", seed=3)
    assert whole.fixed == {}
    assert keys_of(pruned.module, images(spec)) == whole.structure.keys(widths)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("importance", ["l1", "l2", "random"])
def test_cutting_channels_computes_what_being_blind_to_them_does(
    spec: str, importance: str
) -> None:
    rng = np.random.default_rng(len(spec))
    whole = prunable(spec)
    widths = [int(rng.integers(1 + width // 2, width + 1)) for width in whole.structure.widths]
    pruned = whole.slim(widths, importance=importance, seed=5)
    with torch.no_grad():
        got, expected, original = (
            net(images(spec)) for net in (pruned.module, silenced(whole, pruned), whole.module)
        )
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert float((got - original).abs().max()) > 1e-3 * float(original.abs().max())


@pytest.mark.parametrize("spec", SPECS)
def test_full_widths_change_nothing(spec: str) -> None:
    whole = prunable(spec)
    same = whole.slim(whole.structure.widths)
    with torch.no_grad():
        torch.testing.assert_close(
            same.module(images(spec)), whole.module(images(spec)), rtol=0, atol=0
        )
    assert same.recipe.groups == ()


@pytest.mark.parametrize("spec", WITH_BLOCKS)
def test_dropping_blocks_is_exact_and_leaves_their_layers_out(spec: str) -> None:
    whole = prunable(spec)
    model = load(load_workload(whole.module, example_inputs=images(spec)).onnx)
    rng = np.random.default_rng(0)
    names = [block.name for block in whole.structure.blocks]
    some = [name for name in names if rng.random() < 0.5] or names[:1]
    for dropped in (some, names):
        smaller, graph = whole.without(dropped).module, PrunableGraph(model).without_blocks(dropped)
        assert keys_of(smaller, images(spec)) == tuple(layer.key for layer in layers(graph))
        with torch.no_grad():
            got = smaller(
                torch.from_numpy(
                    np.random.default_rng(0).random((1, 3, *[SPECS[spec]] * 2), np.float32)
                )
            ).numpy()
        assert not any(
            name.startswith(tuple(f"{one}." for one in dropped)) for name in smaller.state_dict()
        )
        np.testing.assert_allclose(
            got, run(graph, seed=0), rtol=1e-3, atol=1e-4 * np.abs(got).max()
        )


@pytest.mark.parametrize("spec", WITH_BLOCKS)
def test_blocks_and_channels_go_together(spec: str) -> None:
    whole = prunable(spec)
    rng = np.random.default_rng(len(spec))
    widths = [int(rng.integers(1 + width // 2, width + 1)) for width in whole.structure.widths]
    dropped = [block.name for block in whole.structure.blocks][::2]
    both = whole.slim(widths, without=dropped)
    assert keys_of(both.module, images(spec)) == whole.structure.keys(widths, dropped)
    # Channels first, then blocks: the blocks of the slimmer network are the same modules.
    expected = whole.slim(widths).module
    again = Prunable(expected, (images(spec),), name=spec).without(dropped)
    with torch.no_grad():
        torch.testing.assert_close(both.module(images(spec)), again.module(images(spec)))
    assert Recipe.from_json(both.recipe.to_json()) == both.recipe


def test_calibration_corrects_what_is_left_without_a_block() -> None:
    whole = prunable("resnet20")
    widths = [3 * width // 4 for width in whole.structure.widths]
    batch = images("resnet20", 32)
    calibrated = whole.slim(widths, without=["layer2.1"], calibration=[batch])
    plain = whole.slim(widths, without=["layer2.1"])
    assert calibrated.recipe.refitted
    assert not any(name.startswith("layer2.1.") for name in calibrated.module.state_dict())
    with torch.no_grad():
        original = whole.module(batch)
        errors = [
            float((pruned.module(batch) - original).square().mean())
            for pruned in (calibrated, plain)
        ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("spec", "block"),
    [("resnet18@0.125,classes=10", "layer3.1"), ("mobilenet_v2@0.35,classes=10", "features.6")],
)
def test_dropping_a_block_is_replacing_its_module_by_an_identity(spec: str, block: str) -> None:
    whole = prunable(spec)
    expected = copy.deepcopy(whole.module)
    expected.set_submodule(block, nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(
            whole.without([block]).module(images(spec)), expected(images(spec)), rtol=0, atol=0
        )


@pytest.mark.parametrize("spec", ["mobilenet_v1@0.25,classes=10", "resnet18@0.125,classes=10"])
def test_pruned_network_learns(spec: str) -> None:
    whole = prunable(spec)
    module = whole.slim([max(1, width // 2) for width in whole.structure.widths]).module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.01)
    labels = torch.arange(8) % 10
    losses = []
    for _ in range(24):
        loss = nn.functional.cross_entropy(module(images(spec, 8)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # Single steps are noisy: batch normalization sees eight images.
    assert np.mean(losses[-6:]) < losses[0]


def test_residual_layers_keep_the_same_channels_and_depthwise_layers_follow() -> None:
    whole = prunable("mobilenet_v2@0.35,classes=10")
    pruned = whole.slim([max(1, width // 2) for width in whole.structure.widths])
    kept = pruned.recipe.kept_positions(whole.module)
    stage = [kept[f"features.{i}.project.conv", "out"].tolist() for i in (4, 5, 6)]
    assert stage[0] == stage[1] == stage[2] == kept["features.5.expand.conv", "in"].tolist()
    assert pruned.module.features[5].depthwise.conv.groups == len(
        kept["features.5.expand.conv", "out"]
    )


def test_the_original_is_left_alone() -> None:
    module = lively(zoo.build("resnet20"))
    before = copy.deepcopy(module.state_dict())
    whole = Prunable(module.train(), (images("resnet20"),))
    whole.slim([2] * len(whole.structure.groups))
    whole.without([whole.structure.blocks[0].name])
    assert module.training
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
