"""Images that networks learn from and are evaluated by.

`load_data` takes an image folder, a factory of torch datasets, or `digits`, and gives three sets
that share no image: to train on, to steer a search by (held out from training), and to report in
the end. Images are read when they are asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hwbench.errors import UsageError
from hwbench.optional import import_optional

HELD_OUT = 0.2
"""Share of images held out for validation, and again for testing where no test set is given."""
MOST_HELD_OUT = 5000
"""AMC holds 5,000 of CIFAR-10's training images out (He et al. 2018, section 4.1).

More do not make a search wiser.
"""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, by which torchvision's networks expect images to be scaled."""
SMALL = 64
"""Networks whose inputs are at most so many pixels wide take whole images, without a margin."""
MARGIN = 8 / 7
"""Size that larger images are scaled to, of the wanted one, before the middle is cut out."""
SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_TRAIN, _TEST = ("train", "training"), ("test", "val", "valid", "validation")


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
        order = (
            range(len(self))
            if generator is None
            else torch.randperm(len(self), generator=generator).tolist()
        )
        numbers = [self.numbers[place] for place in order]
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            labels = torch.full((len(chosen),), -1) if self.labels is None else self.labels[chosen]
            yield torch.stack([self.read(number) for number in chosen]), labels

    def first(self, count: int) -> Tensor:
        """The first images of the set, as one batch."""
        return torch.stack([self.read(number) for number in self.numbers[:count]])

    def sample(self, most: int, seed: int) -> Tensor:
        """At most so many images, as evenly over the classes as they can be, as one batch.

        The first ones would not do: images of a folder come class by class.
        """
        drawn = self._drawn(min(most, len(self)), seed)
        return torch.stack([self.read(number) for number in drawn])

    def split(self, share: float, seed: int) -> tuple[Images, Images]:
        """Two sets, the second with a share of every class, at most `MOST_HELD_OUT` images."""
        count = min(round(share * len(self)), MOST_HELD_OUT)
        held = set(self._drawn(count, seed))
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
        return replace(self, numbers=tuple(self._drawn(count, seed)))

    def _drawn(self, count: int, seed: int) -> list[int]:
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
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: int


def load_data(
    spec: str | Path,
    shape: Sequence[int] = (3, 32, 32),
    *,
    images: int | None = None,
    seed: int = 0,
) -> Data:
    """Read images.

    Args:
        spec: A folder (one sub-folder per class, or `train` and `test` or `val` with those; images
            right in it have no labels), `package.module:factory` that makes a torch dataset of
            (image tensor, class) pairs or a pair of them for training and testing, or `digits`.
        shape: Channels, height and width that the network takes; folders and `digits` are brought
            to it, a factory's must be so.
        images: Number of images to train on; all by default.
        seed: Seed of the splits.

    Raises:
        UsageError: There are no such images, or of another shape.
    """
    name = str(spec)
    size = (int(shape[0]), int(shape[1]), int(shape[2]))
    if size[0] not in {1, 3}:
        raise UsageError(f"the network takes {size[0]} channels; images have 1 or 3")
    if name == "digits":
        known, test = _digits(size), None
    elif Path(spec).is_dir():
        known, test = _folder(Path(spec), size)
    elif ":" in name:
        known, test = _factory(name, size)
    else:
        raise UsageError(
            f"no images at {name!r}; expected a folder, package.module:factory, or digits"
        )
    if test is None:
        known, test = known.split(HELD_OUT, seed)
    train, validation = known.split(HELD_OUT / (1 - HELD_OUT), seed + 1)
    if min(map(len, (train, validation, test))) == 0:
        raise UsageError(
            f"{name} has too few images ({len(known)}) to hold some out for validation; give at"
            " least 10"
        )
    classes = 0 if known.labels is None else int(known.labels.max()) + 1
    return Data(
        name, train if images is None else train.few(images, seed), validation, test, classes
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


def in_memory(images: Tensor, labels: Tensor | None = None) -> Images:
    """Images (n, c, h, w) and classes (n,) as a set."""
    return Images(
        images.__getitem__, None if labels is None else labels.long(), tuple(range(len(images)))
    )


def imported(text: str) -> Any:
    """What `package.module:name` is; the current folder is searched last.

    Raises:
        UsageError: It does not import.
    """
    where, _, attribute = text.partition(":")
    here = str(Path.cwd())
    is_new = here not in sys.path
    if is_new:
        sys.path.append(here)
    try:
        found = import_module(where)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise UsageError(
            f"{text} cannot be imported: {error}; expected package.module:name"
        ) from error
    finally:
        if is_new:
            sys.path.remove(here)
    return found


def _digits(size: tuple[int, int, int]) -> Images:
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels, scaled up.

    They come with the library, nothing is fetched.
    """
    digits = import_optional("sklearn.datasets", "search", "the digits").load_digits()
    small = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    large = functional.interpolate(small, size=size[1:], mode="bilinear", align_corners=False)
    scaled = (large - large.mean()) / large.std()
    return in_memory(scaled.expand(-1, size[0], -1, -1), torch.tensor(digits.target))


def _folder(folder: Path, size: tuple[int, int, int]) -> tuple[Images, Images | None]:
    inner = {entry.name.lower(): entry for entry in folder.iterdir() if entry.is_dir()}
    train = next((inner[name] for name in _TRAIN if name in inner), None)
    test = next((inner[name] for name in _TEST if name in inner), None)
    if train is None:
        return _files(folder, size, None), None
    names = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
    return _files(train, size, names), None if test is None else _files(test, size, names)


def _files(folder: Path, size: tuple[int, int, int], names: list[str] | None) -> Images:
    """Images of a folder.

    Args:
        folder: One sub-folder per class, or images without labels.
        size: Channels, height and width to bring them to.
        names: Classes, in order; None for the sub-folders, sorted.

    Raises:
        UsageError: There are none.
    """
    classes = names
    if classes is None:
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        of_class = list(_images_in(folder / name))
        paths += of_class
        labels += [label] * len(of_class)
    if not paths:  # no sub-folders with images: those that lie in the folder itself have no labels
        paths = list(_images_in(folder))
    if not paths:
        raise UsageError(
            f"no images in {folder}; expected one sub-folder per class, with"
            f" {', '.join(sorted(SUFFIXES))}"
        )
    classes_of = torch.tensor(labels) if labels else None
    return Images(_File(tuple(paths), size), classes_of, tuple(range(len(paths))))


def _images_in(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        return ()
    return sorted(
        entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()
    )


class _File:
    """Reads images from files.

    The short side is scaled to `MARGIN` of the wanted size and the middle cut out, as ImageNet's
    are; for networks of small images the whole image is scaled.
    """

    def __init__(self, paths: tuple[Path, ...], size: tuple[int, int, int]) -> None:
        self.paths, self.size = paths, size

    def __call__(self, number: int) -> Tensor:
        from PIL import Image, UnidentifiedImageError

        channels, height, width = self.size
        try:
            with Image.open(self.paths[number]) as file:
                picture = file.convert("L" if channels == 1 else "RGB")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise UsageError(
                f"{self.paths[number]} is no image that can be read ({type(error).__name__});"
                " remove it"
            ) from error
        across = (width, height)
        if max(height, width) > SMALL:
            factor = MARGIN * max(height / picture.height, width / picture.width)
            across = (round(picture.width * factor), round(picture.height * factor))
        scaled = picture.resize(across, Image.Resampling.BILINEAR)
        left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
        cut = scaled.crop((left, top, left + width, top + height))
        raw = torch.frombuffer(bytearray(cut.tobytes()), dtype=torch.uint8).reshape(
            height, width, channels
        )
        mean, spread = (torch.tensor(values)[:channels, None, None] for values in (MEAN, SPREAD))
        return (raw.movedim(2, 0).float() / 255 - mean) / spread


def _factory(text: str, size: tuple[int, int, int]) -> tuple[Images, Images | None]:
    made = imported(text)()
    parts = (
        made
        if isinstance(made, (tuple, list)) and len(made) == 2 and hasattr(made[0], "__getitem__")
        else (made,)
    )
    sets = [_from_dataset(part, text, size) for part in parts]
    return sets[0], sets[1] if len(sets) == 2 else None


def _from_dataset(dataset: Any, text: str, size: tuple[int, int, int]) -> Images:
    try:
        count, (image, _) = len(dataset), dataset[0]
        shape = tuple(image.shape)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise UsageError(
            f"{text} made a {type(dataset).__name__}; expected a dataset of (image tensor, class)"
            f" pairs ({error})"
        ) from error
    if shape != size:
        wanted, given = ("x".join(map(str, one)) for one in (size, shape))
        raise UsageError(
            f"the images of {text} are {given}, but the network takes {wanted}; scale them in the"
            " factory"
        )
    targets = getattr(dataset, "targets", None)
    classes = targets if targets is not None else [dataset[number][1] for number in range(count)]
    return Images(
        _Entry(dataset), torch.as_tensor([int(one) for one in classes]), tuple(range(count))
    )


class _Entry:
    """Reads images of a torch dataset."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, number: int) -> Tensor:
        image: Tensor = self.dataset[number][0]
        return image.float()
