"""Training and fine-tuning: by labels, by the original's answers, by its features."""

from __future__ import annotations

import copy
import io
import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from hwbench.errors import MeasurementError, UsageError
from hwbench.network import zoo
from hwbench.pruning import Prunable
from hwbench.pruning.adaptors import insert
from hwbench.search.data import Images, in_memory, load_data, synthetic
from hwbench.search.training import (
    Distillation,
    FeatureDistance,
    Schedule,
    Training,
    accuracy,
    cross_entropy,
    distance,
    feature_layer,
    features,
    logits_of,
    tune,
)
from tests.support.prunable_nets import Bert, Efficient, Vision, lively


@cache
def digits() -> tuple[Images, Images]:
    data = load_data("digits", (3, 8, 8))
    return data.train, data.validation


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3),
        )
        return nn.Sequential(features, nn.ReLU(), nn.Flatten(), nn.Linear(24 * 4, 10))


@cache
def trained() -> nn.Module:
    module = small()
    tune(module, digits()[0], cross_entropy, Schedule(120, rate=0.1))
    return module.eval()


def test_labels_teach_a_network_the_digits() -> None:
    assert accuracy(small(), digits()[1]) < 0.3
    assert accuracy(trained(), digits()[1]) > 0.93


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state() -> None:
    state = torch.get_rng_state()
    first, second, other = small(), small(), small()
    for module, seed in ((first, 1), (second, 1), (other, 2)):
        tune(module, digits()[0], cross_entropy, Schedule(4, shift=1, mirror=True, seed=seed))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first[3].weight, other[3].weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_sees_every_step_and_losses_come_back() -> None:
    told: list[tuple[int, float]] = []
    losses = tune(
        small(),
        digits()[0],
        cross_entropy,
        Schedule(30, rate=0.1),
        progress=lambda step, loss: told.append((step, loss)),
    )
    assert told == list(enumerate(losses, 1))
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_distillation_is_hintons_formula() -> None:
    torch.manual_seed(0)
    teacher, student, x, labels = (
        nn.Linear(5, 3),
        nn.Linear(5, 3),
        torch.randn(6, 5),
        torch.tensor([0, 1, 2, 0, 1, 2]),
    )
    p, q = torch.softmax(teacher(x) / 3, 1), torch.softmax(student(x) / 3, 1)
    soft = (p * (p / q).log()).sum(1).mean() * 9
    hard = -torch.log_softmax(student(x), 1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(
        Distillation(teacher, temperature=3, share=0.7)(student, x, labels), 0.7 * soft + 0.3 * hard
    )
    torch.testing.assert_close(
        Distillation(teacher, temperature=3, share=1)(student, x, torch.full((6,), -1)), soft
    )


def test_distillation_alone_recovers_a_pruned_network_without_labels() -> None:
    images = in_memory(digits()[0].first(300))
    whole = Prunable(trained(), (images.first(1),))
    pruned = whole.slim([5, 8]).module
    before = accuracy(pruned, digits()[1])
    tune(pruned, images, Distillation(trained(), share=1), Schedule(60, rate=0.05))
    assert accuracy(pruned, digits()[1]) > before + 0.05


def test_features_recover_a_pruned_network_without_labels() -> None:
    whole = Prunable(trained(), (digits()[0].first(1),))
    pruned = whole.slim([8, 24]).module
    loss = FeatureDistance(trained(), "0")
    far, before = distance(pruned, digits()[1], loss), accuracy(pruned, digits()[1])
    tune(pruned, in_memory(digits()[0].first(300)), loss, Schedule(80, rate=0.05))
    assert distance(pruned, digits()[1], loss) < 0.5 * far
    assert accuracy(pruned, digits()[1]) > max(0.85, before)


def test_synthetic_images_will_do_for_features() -> None:
    whole = Prunable(trained(), (digits()[0].first(1),))
    pruned, loss = whole.slim([12, 24]).module, FeatureDistance(trained(), "0")
    far = distance(pruned, digits()[1], loss)
    tune(pruned, synthetic(128, (3, 8, 8)), loss, Schedule(40, rate=0.02))
    assert distance(pruned, digits()[1], loss) < far


def test_adaptors_learn_alone_everything_else_frozen() -> None:
    module = lively(zoo.build("resnet20"))
    x = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = Prunable(module, (x[:1],))
    smaller = whole.without(["layer2.1"]).module
    parameters = insert(smaller, whole.adaptors(["layer2.1"]))
    layer = feature_layer(module, x[:1])
    before, loss, images = (
        copy.deepcopy(smaller.state_dict()),
        FeatureDistance(module, layer),
        in_memory(x),
    )
    far = distance(smaller, images, loss)
    tune(smaller, images, loss, Schedule(15, rate=0.001, batch=32), parameters=parameters)
    assert distance(smaller, images, loss) < 0.9 * far
    changed = {
        name for name, value in smaller.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {
        "layer2.0.conv2.after.weight",
        "layer2.2.conv1.before.weight",
        "layer3.0.conv1.before.weight",
    }
    assert all(parameter.requires_grad for parameter in smaller.parameters())
    assert not smaller.training


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("resnet20", "layer3"),
        ("mobilenet_v1@0.25,classes=10", "features"),
        ("plain20", "features"),
        (Efficient(), "features"),
        (Vision(), "layernorm"),
        (Vision(token=True), "layernorm"),
    ],
)
def test_features_are_what_global_pooling_reads(module: str | nn.Module, layer: str) -> None:
    net = zoo.build(module) if isinstance(module, str) else module
    x = torch.randn(2, 3, 16, 16)
    assert feature_layer(net, x) == layer
    assert features(net.eval(), layer, x).shape[0] == 2
    assert not any(part._forward_hooks for part in net.modules())


def test_tokens_have_features_too_and_flat_networks_have_none() -> None:
    assert feature_layer(Bert(), torch.zeros(1, 4, dtype=torch.long)) == "dense2"
    with pytest.raises(UsageError, match="no module that writes a feature map"):
        feature_layer(nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 3))


def test_logits_are_found_in_what_classifiers_return() -> None:
    logits = torch.randn(2, 3)

    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    for output in (
        logits,
        (logits, None),
        {"loss": 1, "logits": logits},
        {"out": logits},
        Output(logits),
    ):
        assert logits_of(output) is logits
    with pytest.raises(UsageError, match="must return logits; this one returned a str"):
        logits_of("no")


def test_rate_falls_at_the_milestones() -> None:
    schedule = Schedule(10, rate=1.0)
    assert [round(schedule.rate_at(step), 4) for step in range(10)] == [
        1,
        1,
        1,
        1,
        0.1,
        0.1,
        0.1,
        0.1,
        0.01,
        0.01,
    ]


def test_rate_falls_along_a_cosine() -> None:
    rates = [Schedule(8, rate=1.0, curve="cosine").rate_at(step) for step in range(8)]
    assert rates[0] == 1
    assert rates[4] == pytest.approx(0.5)
    assert all(first > second for first, second in pairwise(rates))
    assert rates[-1] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def halved(image: Tensor) -> Tensor:
    return image / 2


class Scaled:
    """A transform as torchvision's: made with arguments, then called."""

    def __init__(self, factor: float, *, plus: float = 0.0) -> None:
        self.factor, self.plus = factor, plus

    def __call__(self, image: Tensor) -> Tensor:
        return self.factor * image + self.plus


class Seen:
    """A loss that keeps what it is given."""

    needs_labels = False

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        self.images.append(images)
        return module(images).sum()


@pytest.mark.parametrize(
    ("augment", "expected"),
    [(f"{__name__}:halved", 0.5), (f"{__name__}:Scaled(3, plus=1)", 4.0), (None, 1.0)],
)
def test_images_are_augmented_by_functions_and_transforms(
    augment: str | None, expected: float
) -> None:
    seen = Seen()
    tune(small(), in_memory(torch.ones(4, 3, 8, 8)), seen, Schedule(1, augment=augment))
    assert set(seen.images[0].flatten().tolist()) == {expected}


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (f"{__name__}:Scaled", "nothing that an image can be given to"),
        (f"{__name__}:Scaled(1, 2, 3)", "cannot be called"),
        (f"{__name__}:nowhere", "cannot be imported"),
        ("no factory", "names nothing"),
    ],
)
def test_what_does_not_augment_is_refused(augment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tune(small(), digits()[0], cross_entropy, Schedule(1, augment=augment))


def dropping() -> nn.Module:
    module = small()
    module[2] = nn.Sequential(nn.Flatten(), nn.Dropout(0.3))
    return module


@pytest.mark.parametrize("steps", [1, 7, 17, 23])
def test_a_training_that_is_kept_goes_on_to_the_same_weights(steps: int) -> None:
    schedule = Schedule(30, rate=0.05, batch=60, shift=1, mirror=True, seed=3, curve="cosine")
    images = digits()[0].few(1000, 0)  # an epoch is 17 steps, the last of them smaller
    whole, first, second = dropping(), dropping(), dropping()
    losses = tune(whole, images, cross_entropy, schedule)
    begun = Training(first, images, cross_entropy, schedule)
    begun.advance(steps)
    written = io.BytesIO()
    torch.save(begun.state(), written)
    written.seek(0)
    going_on = Training(second, images, cross_entropy, schedule)
    going_on.restore(torch.load(written, weights_only=True))
    torch.rand(5)  # the global generator does not matter
    while not going_on.is_finished:
        going_on.advance(4)
    assert begun.losses + going_on.losses == losses
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_augmentation_moves_and_mirrors_images() -> None:
    from hwbench.search.training import _augmented

    image = torch.zeros(64, 1, 7, 7)
    image[:, :, 3, 2] = 1
    moved = _augmented(image, Schedule(1, shift=2, mirror=True), torch.Generator().manual_seed(0))
    assert moved.shape == image.shape
    places = {tuple(one.nonzero()[0][1:].tolist()) for one in moved}
    assert {row for row, _ in places} == {1, 2, 3, 4, 5}
    assert {column for _, column in places} == {0, 1, 2, 3, 4, 5, 6}


def test_what_cannot_be_trained_is_refused() -> None:
    unlabelled = in_memory(torch.randn(4, 3, 8, 8))
    with pytest.raises(UsageError, match="without labels"):
        tune(small(), unlabelled, cross_entropy, Schedule(1))
    with pytest.raises(UsageError, match="accuracy needs labelled images"):
        accuracy(small(), unlabelled)
    with pytest.raises(UsageError, match="temperature above 0"):
        Distillation(small(), temperature=0)
    with pytest.raises(MeasurementError, match="training diverged at step"):
        tune(small(), digits()[0], cross_entropy, Schedule(60, rate=1e6))
