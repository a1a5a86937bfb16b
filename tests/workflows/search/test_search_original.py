"""Originals are looked at before anything is spent: how their pictures are normalised, and whether
they are trained at all.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from hwbench.errors import UsageError
from hwbench.network import zoo
from hwbench.network.intake import load_workload
from hwbench.records.measurement import Settings
from hwbench.search.data import Data, Preprocessing, load_data
from hwbench.search.data.digits import Digits, read_labels
from hwbench.search.training import Schedule, accuracy, cross_entropy, tune
from hwbench.workflows.likeness import find_likeness
from hwbench.workflows.search.original import (
    Answers,
    check_answers,
    choose_preprocessing,
    has_fresh_weights,
)
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.run import run_search
from tests.support.tiny_net import example, tiny

WAYS = {
    "like ImageNet's": Preprocessing.of_imagenet(3),
    "to 0..1": Preprocessing(),
    "to -1..1": Preprocessing((0.5,), (0.5,)),
    "to 0..255": Preprocessing(scale=255.0),
    "by their own mean and spread": Preprocessing((0.3053,), (0.3762,)),
}


def small() -> nn.Module:
    """A network that notices how its pictures are normalised."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        ).eval()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a folder of pictures of one's own."""
    folder = tmp_path_factory.mktemp("pictures")
    digits, labels = Digits(), read_labels()
    for number in range(900):
        place = folder / "digits" / str(int(labels[number]))
        place.mkdir(parents=True, exist_ok=True)
        picture: Image.Image = digits(number).convert("L")
        picture.convert("RGB").save(place / f"{number}.png")
    return folder / "digits"


@cache
def trained(way: str, folder: Path) -> nn.Module:
    """Somebody's network, trained on pictures that were normalised in one way."""
    data = load_data(folder, (3, 8, 8), preprocessing=WAYS[way])
    module = small()
    tune(module, data.train, cross_entropy, Schedule(60, rate=0.1))
    return module.eval()


@pytest.mark.parametrize("way", WAYS)
def test_trained_networks_come_out_at_their_true_accuracy(way: str, pictures: Path) -> None:
    module = trained(way, pictures)
    true = accuracy(module, load_data(pictures, (3, 8, 8), preprocessing=WAYS[way]).validation)
    assert true > 0.8
    usual = load_data(pictures, (3, 8, 8))
    data, finding = choose_preprocessing(module, usual, seed=0)
    assert accuracy(module, data.validation) >= true - 0.01
    assert finding is not None
    assert finding.code == "normalisation_guessed"
    assert f"of {len(data.validation)} images" in finding.text
    assert data.train.numbers == usual.train.numbers


def test_a_network_that_guesses_leaves_pictures_as_usual(pictures: Path) -> None:
    usual = load_data(pictures, (3, 8, 8))
    data, finding = choose_preprocessing(small(), usual, seed=0)
    assert data.preprocessing == usual.preprocessing
    assert finding is not None
    assert "as usual for these pictures" in finding.text


def test_images_that_come_as_inputs_are_left_alone() -> None:
    data = load_data("tests.search.data.test_data_loading:Tens", (3, 8, 8))
    assert choose_preprocessing(small(), data, seed=0) == (data, None)


@pytest.mark.parametrize(
    ("right", "images", "chance", "is_guessing"),
    [
        (103, 1000, 0.1, True),
        (90, 1000, 0.1, True),
        (180, 1000, 0.1, True),  # random weights may have such luck
        (250, 1000, 0.1, False),
        (8, 1000, 0.001, False),  # of a thousand classes that is much
        (600, 1000, 0.5, False),
        (3, 4, 0.5, False),  # nothing can be said of four images that are mostly right
        (2, 4, 0.5, True),
        (520, 1000, 0.5, True),
        (0, 10, 0.1, True),
    ],
)
def test_guessing_is_told_from_knowing(
    right: int, images: int, chance: float, is_guessing: bool
) -> None:
    assert Answers(right, images, chance).is_guessing == is_guessing


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", (3, 16, 16))


def test_an_original_at_chance_is_refused_unless_it_is_accepted(digits: Data) -> None:
    with pytest.raises(
        UsageError, match=r"net answers \d+\.\d% of 360 images of digits rightly, and"
    ):
        check_answers(tiny(), digits, "net", 0, accept=False, trained_here=False)
    finding = check_answers(tiny(), digits, "net", 0, accept=True, trained_here=False)
    assert finding is not None
    assert finding.code == "untrained"


def test_the_refusal_says_what_helps(digits: Data) -> None:
    for trained_here, remedy in (
        (False, "give it its weights: pass weights"),
        (True, "train_epochs"),
    ):
        with pytest.raises(UsageError) as raised:
            check_answers(tiny(), digits, "net", 0, accept=False, trained_here=trained_here)
        assert remedy in str(raised.value)
        assert "search all the same: pass accept_untrained=True" in str(raised.value)


@pytest.mark.parametrize("name", ["mobilenet_v1@0.25", "plain20", "resnet20"])
def test_networks_of_the_zoo_are_known_to_be_untrained(name: str) -> None:
    assert has_fresh_weights(zoo.build(name))


def test_a_step_of_training_makes_weights_other_than_fresh(digits: Data) -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)
    )
    normed = small()
    for module in (plain, normed):
        assert has_fresh_weights(module)
        tune(module, digits.train, cross_entropy, Schedule(10, rate=0.1))
        assert not has_fresh_weights(module)
    assert not has_fresh_weights(nn.Linear(2, 2))  # too few to tell


def amc(**more: object) -> Plan:
    return Plan.of("amc", Limit("macs", share=0.6), trials=3, baselines=False, **more)


def test_nothing_is_spent_on_an_original_at_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def spend(*_: object) -> None:
        raise AssertionError("a network was tried")

    monkeypatch.setattr("hwbench.workflows.search.trials.TrialLoop.run", spend)
    with pytest.raises(UsageError, match="guessing would answer 1"):
        run_search(tiny(), amc(data="digits"), example_inputs=example(), save=False)


def test_an_untrained_original_is_said_where_no_image_can_tell() -> None:
    result = run_search(tiny(), amc(), example_inputs=example(), save=False)
    assert [finding.code for finding in result.findings] == ["untrained", "objective_kept_weight"]
    result = run_search(
        "zoo:vgg16@8-8-8-8-8-8-8-8-8-8-8-8-8-8-8", amc(), inputs=("1x3x224x224",), save=False
    )
    assert result.findings[0].code == "untrained"


def test_ones_own_pictures_are_normalised_as_ones_network_expects(
    pictures: Path, tmp_path: Path
) -> None:
    module = trained("to 0..255", pictures)
    whole = accuracy(
        module, load_data(pictures, (3, 8, 8), preprocessing=WAYS["to 0..255"]).validation
    )
    asked = amc(data=str(pictures), tune="none")
    places = {"store": str(tmp_path / "s.db"), "example_inputs": torch.ones(1, 3, 8, 8)}
    guessed = run_search(module, asked, **places)
    assert guessed.original.quality == pytest.approx(whole)
    assert "normalisation_guessed" in {finding.code for finding in guessed.findings}
    # It is another search than the one that took the usual normalisation.
    said = run_search(module, asked.changed(scale=255.0), **places)
    assert said.original.quality == pytest.approx(whole)
    assert "normalisation_guessed" not in {finding.code for finding in said.findings}
    assert [trial.outcome for trial in said.trials] == [trial.outcome for trial in guessed.trials]


def test_comparisons_normalise_pictures_as_the_baseline_expects(pictures: Path) -> None:
    module = trained("to 0..255", pictures)
    true = accuracy(module, load_data(pictures, (3, 8, 8), preprocessing=WAYS["to 0..255"]).test)
    workload = load_workload(module, example_inputs=torch.ones(1, 3, 8, 8))
    likeness = find_likeness(workload, workload, Settings(), data=str(pictures))
    assert likeness.quality is not None
    assert likeness.quality.baseline == pytest.approx(true)
    assert "normalisation_guessed" in {finding.code for finding in likeness.findings}


def test_pictures_without_classes_are_said_to_be_normalised_as_usual(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (16, 16), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
    result = run_search(tiny(), amc(data=str(tmp_path)), example_inputs=example(), save=False)
    (said,) = (one for one in result.findings if one.code == "normalisation_assumed")
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in said.text


def test_the_shape_of_inputs_comes_from_the_images(pictures: Path) -> None:
    result = run_search(trained("to 0..1", pictures), amc(data=str(pictures)), save=False)
    (said,) = (one for one in result.findings if one.code == "input_of_images")
    assert "the input 1x3x8x8 was not given" in said.text


def test_images_that_differ_in_size_tell_no_shape(tmp_path: Path) -> None:
    for number in range(10):
        Image.new("RGB", (16 + number, 16)).save(tmp_path / f"{number}.png")
    with pytest.raises(
        UsageError, match=r"neither do the images of .*, which differ in size"
    ) as raised:
        run_search(small(), amc(data=str(tmp_path)), save=False)
    assert "inputs='1x3x" in str(raised.value)
