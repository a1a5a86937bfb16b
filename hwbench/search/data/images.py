"""Sets of images, with labels or without, and how they are split and drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hwbench.errors import UsageError
from hwbench.search.data.preprocessing import PictureReader, Preprocessing

MOST_HELD_OUT = 5000
"""AMC holds 5,000 of CIFAR-10's training images out (He et al. 2018, section 4.1).

More do not make a search wiser.
"""


@dataclass(frozen=True)
class Images:
    """A set of images, labelled or not.

    Attributes:
        read: Image (c, h, w), float32, by number.
        labels: Classes (n,), int64; None for images without.
        numbers: Which of them are in this set; `labels` go with the numbers, not with places in the
            set.
    """

    read: Callable[[int], Tensor]
    labels: Tensor | None
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in batches.

        Args:
            size: Images per batch; the last may have fewer.
            generator: Shuffles them; None for their order.

        Yields:
            Images (n, c, h, w) and labels (n,), -1 where there are none.
        """
        numbers = list(self.numbers) if generator is None else self.shuffled(generator)
        for start in range(0, len(numbers), size):
            yield self.batch(numbers[start : start + size])

    def shuffled(self, generator: torch.Generator) -> list[int]:
        """The numbers of all images, in an order drawn at random."""
        order = torch.randperm(len(self), generator=generator).tolist()
        return [self.numbers[place] for place in order]

    def batch(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) of these numbers, and their labels (n,), -1 where there are none."""
        chosen = list(numbers)
        labels = torch.full((len(chosen),), -1) if self.labels is None else self.labels[chosen]
        return torch.stack([self.read(number) for number in chosen]), labels

    def first(self, count: int) -> Tensor:
        """The first images of the set, as one batch."""
        return torch.stack([self.read(number) for number in self.numbers[:count]])

    def sample(self, most: int, seed: int) -> Tensor:
        """At most so many images, as evenly over the classes as they can be, as one batch.

        The first ones would not do: images of a folder come class by class.
        """
        drawn = self._draw_numbers(min(most, len(self)), seed)
        return torch.stack([self.read(number) for number in drawn])

    def split(self, share: float, seed: int) -> tuple[Images, Images]:
        """Two sets, the second with a share of every class, at most `MOST_HELD_OUT` images."""
        count = min(round(share * len(self)), MOST_HELD_OUT)
        held = set(self._draw_numbers(count, seed))
        rest = tuple(number for number in self.numbers if number not in held)
        return replace(self, numbers=rest), replace(
            self, numbers=tuple(number for number in self.numbers if number in held)
        )

    def few(self, count: int, seed: int) -> Images:
        """`count` images, as evenly over the classes as they can be.

        Raises:
            UsageError: There are not as many, or none are asked for.
        """
        if not 1 <= count <= len(self):
            raise UsageError(
                f"{count} images asked for, expected 1 to {len(self)}: as many as the training"
                " set has"
            )
        return replace(self, numbers=tuple(self._draw_numbers(count, seed)))

    def _draw_numbers(self, count: int, seed: int) -> list[int]:
        """Numbers drawn at random, every class getting its share.

        Fewer classes than `count` leave none out.
        """
        generator = torch.Generator().manual_seed(seed)
        shuffled = [
            self.numbers[place] for place in torch.randperm(len(self), generator=generator).tolist()
        ]
        seen: dict[int, int] = {}
        ranks = []
        sizes = self._class_sizes()
        for number in shuffled:
            label = self._label(number)
            seen[label] = seen.get(label, 0) + 1
            ranks.append(((seen[label] - 0.5) / sizes[label], number))
        order = sorted(range(len(shuffled)), key=lambda place: ranks[place][0])
        return [ranks[place][1] for place in order[:count]]

    def _label(self, number: int) -> int:
        return -1 if self.labels is None else int(self.labels[number])

    def _class_sizes(self) -> dict[int, int]:
        sizes: dict[int, int] = {}
        for number in self.numbers:
            label = self._label(number)
            sizes[label] = sizes.get(label, 0) + 1
        return sizes


@dataclass(frozen=True)
class Data:
    """What a search learns from and is evaluated by; no image is in two sets.

    Attributes:
        name: As it was asked for.
        train: To train and tune on; only so many where few images were asked for.
        validation: Held out from training, to steer the search.
        test: For the numbers that are reported.
        classes: Number of classes; 0 for images without labels.
        names: Names of the classes, in order; empty where they have none.
        preprocessing: How inputs are made of pictures; None for images that come as inputs.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: int
    names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None

    def preprocessed(self, preprocessing: Preprocessing) -> Data:
        """The same sets, with inputs made of the pictures in another way.

        Raises:
            UsageError: The images come as inputs, and there are no pictures.
        """

        def changed(images: Images) -> Images:
            if not isinstance(images.read, PictureReader):
                raise UsageError(f"{self.name} makes inputs itself; change how it does that there")
            return replace(images, read=replace(images.read, preprocessing=preprocessing))

        return replace(
            self,
            train=changed(self.train),
            validation=changed(self.validation),
            test=changed(self.test),
            preprocessing=preprocessing,
        )


def synthetic(count: int, shape: Sequence[int] = (3, 32, 32), *, seed: int = 0) -> Images:
    """Images of smooth noise without labels, for tuning by features where there are no images.

    They have zero mean and unit spread.

    The spectrum falls as 1/f, as that of natural images does (Field 1987).
    """
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    noise = torch.fft.rfft2(torch.randn(count, channels, height, width, generator=generator))
    radius = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width)[None] ** 2).sqrt()
    radius[0, 0] = 1 / max(height, width)
    smooth = torch.fft.irfft2(noise / radius, s=(height, width))
    return in_memory(smooth / smooth.std(dim=(2, 3), keepdim=True).clamp_min(1e-6))


def random_ids(
    count: int, shape: Sequence[int], vocabulary: int, dtype: torch.dtype, *, seed: int = 0
) -> Images:
    """Ids of tokens drawn at random, all alike, where there are no texts at all.

    Args:
        count: Number of inputs.
        shape: Of each.
        vocabulary: How many ids there are.
        dtype: Element type that the network takes.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    return in_memory(torch.randint(vocabulary, (count, *shape), generator=generator).to(dtype))


def in_memory(images: Tensor, labels: Tensor | None = None) -> Images:
    """Images (n, c, h, w) and classes (n,) as a set."""
    return Images(
        images.__getitem__, None if labels is None else labels.long(), tuple(range(len(images)))
    )
