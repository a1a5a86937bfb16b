"""What the original of a search is worth before anything is spent on smaller ones.

A network of random weights ranks smaller ones at random, and a trained one does so too where its
pictures are normalised otherwise than in its training. Neither fails by itself, so both are looked
for first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import Argument, UsageError
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.search.data import Data, Images, Preprocessing

MOST_IMAGES, FEWEST_IMAGES = 1000, 256
"""Images that an original is tried on: fewer where they are large."""
PIXELS = MOST_IMAGES * 32 * 32
"""Pixels of a channel in all of them."""
SIGNIFICANT = 0.01
"""Chance of as many right answers by guessing, from which on they count as guessed."""
NEARLY = 0.1
"""Share of the way from chance to all that random weights may come to be right by luck.

What they make of an image depends on it, and so do classes; with many classes, twice the chance is
less.
"""
FRESH_WEIGHTS = 512
"""Weights of a layer by which the uniform distribution they were drawn from is known again."""
FRESH_REACH = 0.9
"""The largest of so many reaches this share of the distribution's bound, but for a chance of
0.9^512."""
ROUNDING = 1 + 1e-5
"""Room for the rounding of such a bound."""


@dataclass(frozen=True)
class Answers:
    """How many images a network answers rightly.

    Attributes:
        right: Number of right answers.
        images: Number of images.
        chance: Share that guessing the largest class would answer rightly.
    """

    right: int
    images: int
    chance: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.images

    @property
    def is_guessing(self) -> bool:
        """Whether guessing, or a network of random weights, does as well.

        Few images cannot tell; then a network counts as guessing only where it is also nearer to
        that than to being right.
        """
        from scipy.stats import binomtest

        if self.accuracy >= (1 + self.chance) / 2:
            return False
        if self.accuracy < min(2 * self.chance, self.chance + NEARLY * (1 - self.chance)):
            return True
        by_chance = binomtest(self.right, self.images, self.chance, alternative="greater")
        return float(by_chance.pvalue) > SIGNIFICANT


def choose_preprocessing(module: nn.Module, data: Data, seed: int) -> tuple[Data, Finding | None]:
    """Find the normalisation of pictures that a trained network expects.

    The usual ones are tried on images held out from training, and the one by which the network
    answers most of them rightly is taken; that of the source where none is better, or where the
    network answers no better than by guessing.

    Args:
        module: The network.
        data: Labelled images, preprocessed in the usual way of their source.
        seed: Seed of the images that are drawn.

    Returns:
        The images, preprocessed as the network expects, and what to know of it; None where the
        images come as inputs.
    """
    from hwbench.search.data import Preprocessing, in_memory

    if data.preprocessing is None:
        return data, None
    drawn = _draw(data.preprocessed(Preprocessing()).validation, seed)
    pixels = drawn.first(len(drawn))
    labels = None if drawn.labels is None else drawn.labels[list(drawn.numbers)]
    usual = data.preprocessing
    tried: list[tuple[Preprocessing, str, Answers]] = []
    for preprocessing, name in _usual_ways(data, seed).items():
        images = in_memory(preprocessing.apply(pixels), labels)
        tried.append((preprocessing, name, count_answers(module, images)))
    # The first of equals stays first: the usual way of the source.
    tried.sort(key=lambda way: -way[2].right)
    best, name, answers = tried[0]
    if answers.is_guessing:
        best, name = usual, "as usual for these pictures"
    others = ", ".join(f"{way[1]} {way[2].accuracy:.1%}" for way in tried[1:])
    text = (
        f"pictures are normalised {name} ({_describe(best)}), as nothing was said about it: of"
        f" {answers.images} images the original so answers {answers.accuracy:.1%} rightly; {others}"
    )
    return data.preprocessed(best), Finding("normalisation_guessed", text)


def describe_assumed(data: Data) -> Finding:
    """Say how pictures are normalised where nothing tells how they should be."""
    preprocessing = data.preprocessing
    how = "not at all" if preprocessing is None else _describe(preprocessing)
    text = (
        f"pictures of {data.name} are normalised as usual for them ({how}), as nothing was said"
        " about it and accuracy cannot tell; where the network was trained otherwise, say so"
    )
    return Finding("normalisation_assumed", text)


def _describe(preprocessing: Preprocessing) -> str:
    """A normalisation for people."""
    if preprocessing.transform is not None:
        return preprocessing.transform
    mean, std = (
        " ".join(f"{value:.4g}" for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return f"mean {mean}, std {std}, scale {preprocessing.scale:g}"


def count_answers(module: nn.Module, images: Images) -> Answers:
    """Have a network answer labelled images."""
    import torch

    from hwbench.search.training import accuracy

    labels = images.labels
    if labels is None:
        raise UsageError("the images have no labels")
    right = round(accuracy(module, images) * len(images))
    largest = int(torch.bincount(labels[list(images.numbers)]).max())
    return Answers(right, len(images), largest / len(images))


def check_answers(
    module: nn.Module, data: Data, name: str, seed: int, *, accept: bool, trained_here: bool
) -> Finding | None:
    """Refuse a network that answers labelled images no better than guessing does.

    Args:
        module: The network.
        data: Labelled images, preprocessed as the network expects.
        name: Name of the network.
        seed: Seed of the images that are drawn.
        accept: Whether to accept it all the same.
        trained_here: Whether the network was trained by this search.

    Returns:
        What to know of such a network where it is accepted; None for others.

    Raises:
        UsageError: It does no better than guessing, and was not to be accepted.
    """
    answers = count_answers(module, _draw(data.validation, seed))
    if not answers.is_guessing:
        return None
    text = (
        f"{name} answers {answers.accuracy:.1%} of {answers.images} images of {data.name} rightly,"
        f" and guessing would answer {answers.chance:.1%}"
    )
    if accept:
        return Finding("untrained", f"{text}: what smaller networks are worth is left to chance")
    if trained_here:
        remedies = [Argument("train_epochs", change="more", purpose="train it longer")]
    else:
        text += (
            ": it is untrained, or it was trained with its classes in another order or its pictures"
            " normalised otherwise"
        )
        remedies = [Argument("weights", purpose="give it its weights")]
    go_on = Argument("accept_untrained", value=True, purpose="search all the same")
    raise UsageError(text, *remedies, go_on)


def describe_fresh_weights(name: str) -> Finding:
    """Say that a network was never trained, where no image can tell."""
    return Finding(
        "untrained",
        f"the weights of {name} are random, so they do not tell which channels matter; the search"
        " then ranks networks by chance",
    )


def has_fresh_weights(module: nn.Module) -> bool:
    """Whether the weights of a network are as torch draws them.

    Batch normalization has seen no image then. Without it, all weights lie within the bound of
    the uniform distribution that torch draws those of a layer from, and come close to it, which
    training ends.
    """
    from torch import nn

    norms: list[Tensor] = []
    layers: list[Tensor] = []
    for part in module.modules():
        mean, var = getattr(part, "running_mean", None), getattr(part, "running_var", None)
        if mean is not None and var is not None:
            norms += [mean, var - 1]
        if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            layers.append(part.weight.detach())
    if norms:
        return not any(bool(statistics.any()) for statistics in norms)
    large = [weight for weight in layers if weight.numel() >= FRESH_WEIGHTS]
    return bool(large) and all(map(_is_fresh, large))


def _is_fresh(weight: Tensor) -> bool:
    """Whether the weights of a layer look drawn by torch (`nn.init.kaiming_uniform_`, a=sqrt 5)."""
    bound = 1 / math.sqrt(weight[0].numel())
    return FRESH_REACH * bound <= float(weight.abs().max()) <= ROUNDING * bound


def _draw(images: Images, seed: int) -> Images:
    """As many images as it takes to know a network, evenly over the classes."""
    shape = images.first(1).shape
    # Ids of tokens have no channels before their positions.
    positions = math.prod(shape[2:] or shape[1:])
    count = max(FEWEST_IMAGES, min(MOST_IMAGES, PIXELS // positions))
    return images.few(min(count, len(images)), seed)


def _usual_ways(data: Data, seed: int) -> dict[Preprocessing, str]:
    """Normalisations that networks are trained with, each with its name; that of the source first.

    Two that are the same are one.
    """
    from hwbench.search.data import Preprocessing
    from hwbench.search.data.preprocessing import mean_and_spread

    plain = data.preprocessed(Preprocessing()).train
    pixels = plain.sample(len(_draw(plain, seed)), seed)
    ways = {
        Preprocessing.of_imagenet(pixels.shape[1]): "like ImageNet's",
        Preprocessing(): "to 0..1",
        Preprocessing((0.5,), (0.5,)): "to -1..1",
        Preprocessing(scale=255.0): "to 0..255",
        mean_and_spread(pixels): "by their own mean and spread",
    }
    usual = data.preprocessing or Preprocessing()
    return {usual: ways.pop(usual, "by the mean and spread of all")} | ways
