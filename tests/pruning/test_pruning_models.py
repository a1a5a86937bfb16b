"""Pruning classifiers that are not the zoo's, in the manner of torchvision and transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwbench.errors import UsageError
from hwbench.network import graph
from hwbench.network.graph import layers
from hwbench.network.intake import load_workload
from hwbench.network.structure.surgery import PrunableGraph
from hwbench.pruning import Prunable
from hwbench.pruning.probing import run_graph
from hwbench.pruning.surgeon import IN
from hwbench.records.layer_key import LayerKey
from tests.support import prunable_nets as nets

NETS: dict[str, Callable[[], nn.Module]] = {
    "efficient": nets.Efficient,
    "dense": nets.Dense,
    "grouped": nets.Grouped,
    "vision": nets.Vision,
    "vision with a class token": lambda: nets.Vision(token=True),
    "encoder": nets.VisionEncoder,
    "bert": nets.Bert,
    "tied": nets.Tied,
    "numbered": nets.Numbered,
    "norm-free": nets.NormFree,
    "stack": nets.Stack,
    "shared": nets.Shared,
    "hardcoded": nets.Hardcoded,
    "transposed": nets.Transposed,
    "signal": nets.Signal,
}
STATISTICS = {
    "vision",
    "vision with a class token",
    "encoder",
    "bert",
    "tied",
    "numbered",
    "norm-free",
}
TOKENS = {"bert", "tied"}
# Layer normalization sees the pruned channels, and attention divides by the root of their number,
# so that cutting is not the same as being blind to them.


def example(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if name in TOKENS:
        return torch.randint(0, 30, (1, 7), generator=generator)
    return torch.randn(1, *((2, 20) if name == "signal" else (3, 16, 16)), generator=generator)


@cache
def prunable(name: str) -> Prunable:
    torch.manual_seed(0)
    return Prunable(nets.lively(NETS[name]()), (example(name),), name=name)


def random_widths(whole: Prunable, seed: int = 0) -> list[int]:
    rng = np.random.default_rng(seed)
    groups = whole.structure.groups
    return [
        group.width if group.name in whole.fixed else int(rng.integers(1, group.width + 1))
        for group in groups
    ]


def keys_of(module: nn.Module, x: Tensor) -> tuple[LayerKey, ...]:
    return tuple(
        layer.key for layer in layers(graph.load(load_workload(module, example_inputs=x).onnx))
    )


def answer(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        output: Any = module(x)
    return output["logits"] if isinstance(output, dict) else output


@pytest.mark.parametrize("name", NETS)
def test_pruned_network_has_the_layers_of_the_structure(name: str) -> None:
    whole = prunable(name)
    widths = random_widths(whole)
    pruned = whole.slim(widths, importance="random")
    assert keys_of(pruned.module, example(name)) == whole.structure.keys(widths)


@pytest.mark.parametrize("name", sorted(set(NETS) - STATISTICS))
def test_cutting_channels_computes_what_being_blind_to_them_does(name: str) -> None:
    whole = prunable(name)
    pruned = whole.slim(random_widths(whole, 1), importance="random", seed=1)
    blind = copy.deepcopy(whole.module)
    for (path, side), kept in pruned.recipe.kept_positions(blind).items():
        if side == IN:
            layer = blind.get_submodule(path)
            weight = (
                layer.weight.data.movedim(0, 1)
                if not getattr(layer, "transposed", False)
                else layer.weight.data
            )
            unseen = torch.ones(len(weight), dtype=torch.bool)
            unseen[kept] = False
            weight[unseen] = 0
    torch.testing.assert_close(
        answer(pruned.module, example(name)), answer(blind, example(name)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("efficient", ["features.1.block", "features.3.block"]),
        ("vision", ["layer.0.attention", "layer.0", "layer.1.attention", "layer.1"]),
        ("encoder", ["layers.0", "layers.0.mlp", "layers.1", "layers.1.mlp"]),
        ("bert", ["attention", "Add_2"]),
        ("stack", ["blocks.0", "blocks.1", "blocks.2"]),
    ],
)
def test_blocks_written_into_a_forward_are_dropped_exactly(name: str, blocks: list[str]) -> None:
    whole = prunable(name)
    assert [block.name for block in whole.structure.blocks] == blocks
    model = graph.load(load_workload(whole.module, example_inputs=example(name)).onnx)
    for dropped in (blocks[:1], blocks[1:], blocks):
        smaller = whole.without(dropped).module
        assert keys_of(smaller, example(name)) == tuple(
            layer.key for layer in layers(PrunableGraph(model).without_blocks(dropped))
        )


def test_a_dropped_branch_adds_nothing() -> None:
    whole = prunable("vision")
    x = example("vision")
    smaller = whole.without(["layer.0.attention", "layer.0"])
    expected = copy.deepcopy(whole.module)
    del expected.layer[0]
    torch.testing.assert_close(answer(smaller.module, x), answer(expected, x), rtol=0, atol=0)


def test_layers_that_cannot_be_pruned_are_kept_and_said() -> None:
    reasons = {kept.name: kept.reason for kept in prunable("vision with a class token").kept}
    assert list(reasons) == ["classifier"]
    assert "network's outputs" in reasons["classifier"]


def first_channels(whole: Prunable, share: float) -> list[int]:
    """Widths with a share of every group that can be cut."""
    return [
        group.width if group.name in whole.fixed else max(1, int(share * group.width))
        for group in whole.structure.groups
    ]


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("vision", "projection"),
        ("vision with a class token", "projection"),
        ("encoder", "conv_proj"),
        ("bert", "word_embeddings"),
        ("tied", "table"),
        ("numbered", "stem"),
    ],
)
def test_the_residual_stream_is_a_group_like_any_other(name: str, stream: str) -> None:
    whole = prunable(name)
    assert not whole.fixed
    group = next(one for one in whole.structure.groups if one.name.startswith(stream))
    assert group.width == 16
    widths = [12 if one is group else one.width for one in whole.structure.groups]
    kept = {group.name: range(12)}
    pruned = whole.recipe(kept).apply(whole.module)
    model = graph.load(load_workload(whole.module, example_inputs=example(name)).onnx)
    (expected, *_) = run_graph(PrunableGraph(model).with_widths(widths), (example(name),))
    torch.testing.assert_close(
        answer(pruned, example(name)), torch.tensor(expected), rtol=1e-4, atol=1e-4
    )


def test_parameters_that_are_shared_stay_so() -> None:
    whole = prunable("tied")
    pruned = whole.slim(first_channels(whole, 0.75)).module
    assert pruned.head.weight is pruned.table.weight
    assert pruned.table.weight.shape == (30, 12)
    assert pruned.table.embedding_dim == 12


def test_numbers_that_follow_from_widths_are_changed_with_them() -> None:
    whole = prunable("numbered")
    attention = whole.slim(first_channels(whole, 0.5)).module.attention
    assert (attention.heads, attention.head_dim, attention.inner) == (4, 2, 8)
    assert (whole.module.attention.head_dim, whole.module.attention.inner) == (4, 16)
    whole.slim(first_channels(whole, 0.5)).module(example("numbered"))


def test_heads_that_would_be_divided_otherwise_are_found() -> None:
    """A third less of three heads of 12 channels runs as two heads: nothing but values tells."""
    torch.manual_seed(0)
    whole = Prunable(nets.lively(nets.Regrouped()), (example("vision"),))
    assert list(whole.fixed) == ["attention.qkv"]
    assert "computes something else than its graph" in whole.fixed["attention.qkv"]


def test_weights_that_are_computed_are_cut_but_not_fitted() -> None:
    whole = prunable("norm-free")
    groups = {group.name: group.width for group in whole.structure.groups}
    assert (groups, whole.fixed) == ({"stem": 8, "one": 12}, {})
    images = torch.randn(20, 3, 16, 16)
    assert set(whole.calibrate([images]).moments) == {"head"}
    pruned = whole.slim([6, 9], calibration=[images]).module
    assert pruned.one.gain.shape == (9, 1, 1, 1)
    assert pruned(images).shape == (20, 5)


def test_groups_of_a_convolution_lose_the_same_channels() -> None:
    whole = prunable("grouped")
    groups = {group.name: (group.width, group.unit) for group in whole.structure.groups}
    assert groups == {"conv1": (4, 3), "conv2": (4, 3), "conv3": (10, 1)}
    conv = whole.slim([2, 1, 10]).module.conv2
    assert (conv.in_channels, conv.out_channels, conv.groups) == (6, 3, 3)
    assert conv.weight.shape == (3, 2, 3, 3)


def test_a_module_used_twice_is_cut_once() -> None:
    whole = prunable("shared")
    assert [group.name for group in whole.structure.groups] == ["stem", "last"]
    assert whole.slim([5, 6]).module.twice.weight.shape == (5, 5, 3, 3)


def test_a_group_that_torch_cannot_cut_stays_and_is_said() -> None:
    whole = prunable("hardcoded")
    assert set(whole.fixed) == {"stem"}
    assert {kept.name for kept in whole.kept} == {"stem", "head"}
    assert "the network does not run" in whole.fixed["stem"]
    widths = [group.width - (group.name == "stem") for group in whole.structure.groups]
    with pytest.raises(UsageError, match="group stem must keep its 4 channels"):
        whole.slim(widths)


def test_every_layer_is_in_a_group_or_kept() -> None:
    for name in NETS:
        whole = prunable(name)
        said = {kept.name for kept in whole.kept}
        in_groups = {
            layer
            for group in whole.structure.groups
            if group.name not in whole.fixed
            for layer in group.producers
        }
        weighted = {
            path for path, part in whole.module.named_modules() if nets.is_dense_layer(part)
        }
        assert weighted <= said | in_groups, name
        assert not said & in_groups


def test_the_structure_of_the_same_network_is_taken_and_of_another_refused() -> None:
    known = prunable("efficient").structure
    assert (
        Prunable(nets.lively(nets.Efficient()), (example("efficient"),), structure=known).structure
        == known
    )
    with pytest.raises(UsageError, match="is not that of Efficient"):
        Prunable(
            nets.lively(nets.Efficient()),
            (example("efficient"),),
            structure=prunable("dense").structure,
        )


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([1], "1 widths given"),
        ([0, 1, 1, 1], "out of range"),
        ([99, 1, 1, 1], "out of range"),
        ([1.5, 1, 1, 1], "no whole number"),
    ],
)
def test_wrong_widths_are_refused(widths: list[Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prunable("dense").slim(widths)


def test_unknown_importance_and_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="importance 'l3'"):
        prunable("dense").slim(prunable("dense").structure.widths, importance="l3")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"droppable: blocks\.0, blocks\.1, blocks\.2"):
        prunable("stack").without(["blocks.9"])


def test_importance_keeps_the_channels_that_are_read_most() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with torch.no_grad():
        module[2].weight[:, :, 0, 0] = torch.tensor([[3.0, 0.0, 2.0, 1.0], [0.0, 0.1, 2.0, 1.5]])
    whole = Prunable(module, (torch.randn(1, 3, 4, 4),))
    assert whole.slim([1], importance="l1").recipe.groups[0].kept == (2,)
    assert whole.slim([1], importance="l2").recipe.groups[0].kept == (0,)
    drawn = {
        whole.slim([2], importance="random", seed=seed).recipe.groups[0].kept for seed in range(20)
    }
    assert len(drawn) > 3
    assert (
        whole.slim([2], importance="random", seed=7).recipe
        == whole.slim([2], importance="random", seed=7).recipe
    )
