"""A pruned network in a folder runs by itself, comes back trainable, and its recipe repeats it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwbench import pruning
from hwbench.errors import SchemaError, UsageError, WorkloadError
from hwbench.network import zoo
from hwbench.network.graph import layers, load
from hwbench.pruning import Prunable, Pruned, Recipe
from tests.support.onnx_nets import run
from tests.support.prunable_nets import Vision, lively


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole(images: Tensor) -> Prunable:
    return Prunable(lively(zoo.build("resnet20")), (images[:1],), name="zoo:resnet20")


@pytest.fixture(scope="module")
def slim(whole: Prunable, images: Tensor) -> Pruned:
    return whole.slim([width // 2 for width in whole.structure.widths], calibration=[images])


@pytest.fixture(scope="module")
def saved(slim: Pruned, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned") / "out"
    pruning.save(slim, folder, images)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def answer(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module.eval()(x)


def test_saved_network_runs_alone_and_comes_back(slim: Pruned, images: Tensor, saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "network.onnx",
        "network.pt2",
        "recipe.json",
        "state_dict.pt",
    ]
    program = torch.export.load(saved / "network.pt2").module()
    torch.testing.assert_close(
        program(images[:1]), answer(slim.module, images[:1]), rtol=1e-4, atol=1e-5
    )
    weights = torch.load(saved / "state_dict.pt", weights_only=True)
    torch.testing.assert_close(weights, dict(slim.module.state_dict()), rtol=0, atol=0)
    back = pruning.load(saved, zoo.build("resnet20", seed=99))
    torch.testing.assert_close(back.module.state_dict(), slim.module.state_dict(), rtol=0, atol=0)
    assert back.recipe == slim.recipe
    assert all(parameter.requires_grad for parameter in back.module.parameters())


def test_both_files_are_the_same_network(whole: Prunable, slim: Pruned, saved: Path) -> None:
    graph = load((saved / "network.onnx").read_bytes())
    keys = tuple(layer.key for layer in layers(graph))
    assert keys == whole.structure.keys([width // 2 for width in whole.structure.widths])
    x = torch.from_numpy(np.random.default_rng(0).random((1, 3, 16, 16), np.float32))
    program = torch.export.load(saved / "network.pt2").module()
    torch.testing.assert_close(
        program(x).detach(), torch.from_numpy(run(graph, seed=0)), rtol=1e-4, atol=1e-4
    )


def test_dropped_blocks_and_branches_are_saved_too(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = lively(Vision())
    whole = Prunable(module, (images[:1],))
    smaller = whole.without(["layer.0.attention", "layer.1"])
    pruning.save(smaller, tmp_path, images)
    program = torch.export.load(tmp_path / "network.pt2").module()
    expected = answer(smaller.module, images[:1])["logits"]
    torch.testing.assert_close(program(images[:1])["logits"], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        answer(pruning.load(tmp_path, Vision()).module, images[:1])["logits"], expected
    )


def test_recipe_repeats_the_network_exactly(whole: Prunable, images: Tensor) -> None:
    made = whole.slim([width // 3 for width in whole.structure.widths], importance="random", seed=4)
    again = Recipe.from_json(made.recipe.to_json())
    assert again == made.recipe
    repeated = again.apply(zoo_original())
    torch.testing.assert_close(repeated.state_dict(), made.module.state_dict(), rtol=0, atol=0)


def zoo_original() -> nn.Module:
    return lively(zoo.build("resnet20"))


def test_recipe_says_what_was_removed_from_which_original(whole: Prunable, slim: Pruned) -> None:
    raw = json.loads(slim.recipe.to_json())
    assert raw["original"] == "zoo:resnet20"
    assert raw["sha256"] == pruning.fingerprint(zoo_original())
    assert [group["name"] for group in raw["groups"]] == [
        group.name for group in whole.structure.groups
    ]
    assert all(len(group["kept"]) == group["width"] // 2 for group in raw["groups"])
    assert whole.without(["layer3.2"]).recipe.dropped["layer3.2"][0].path == "layer3.2"


def test_recipe_refuses_other_weights_and_other_networks(slim: Pruned) -> None:
    with pytest.raises(UsageError, match="weights differ from those of zoo:resnet20"):
        slim.recipe.apply(zoo.build("resnet20", seed=1))
    slim.recipe.apply(zoo.build("resnet20", seed=1), other_weights=True)
    with pytest.raises(UsageError, match="not the architecture of zoo:resnet20"):
        slim.recipe.apply(zoo.build("plain20"), other_weights=True)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"schema": 2}', '{"schema": 9}', '{"schema": 2, "groups": 3, "dropped": {}}'],
)
def test_damaged_recipes_are_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="not a recipe"):
        Recipe.from_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"kept": []},
        {"width": 0},
        {"kept": [0, 10_000], "width": 1},
        {"kept": [0, -10_000]},
        {"kept": [-1]},
        {"kept": [2, 1]},
        {"numbers": ["training"]},
        {"numbers": ["conv1.kernel_size"]},
        {"numbers": ["__class__"]},
        {"numbers": ["nowhere.size"]},
        {"places": [{"path": "nowhere", "side": "out", "start": 0, "repeat": 1}]},
    ],
)
def test_recipes_that_are_changed_by_hand_are_refused(slim: Pruned, change: dict[str, Any]) -> None:
    raw = json.loads(slim.recipe.to_json())
    known = raw["groups"][0]
    raw["groups"][0] = known | {
        name: [known["places"][0] | place for place in value] if name == "places" else value
        for name, value in change.items()
    }
    with pytest.raises((SchemaError, UsageError)):
        Recipe.from_json(json.dumps(raw)).apply(zoo_original())


def test_damaged_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no recipe\.json"):
        pruning.load(tmp_path, zoo_original())
    program = (folder / "network.pt2").read_bytes()
    (folder / "network.pt2").write_bytes(program[: len(program) // 2])
    with pytest.raises(SchemaError):
        pruning.load(folder, zoo_original())


def test_weights_of_another_network_are_refused(whole: Prunable, folder: Path) -> None:
    other = whole.slim([1] * len(whole.structure.groups))
    (folder / "recipe.json").write_text(other.recipe.to_json())
    with pytest.raises(UsageError, match="do not fit the pruned zoo:resnet20"):
        pruning.load(folder, zoo_original())


def test_a_network_that_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    class Restless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    recipe = Recipe("restless", "")
    with pytest.raises(WorkloadError, match="Restless cannot be exported"):
        pruning.save(Pruned(Restless(), recipe), tmp_path, torch.ones(1, 3))
