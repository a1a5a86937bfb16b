"""Reading images from whatever holds them, and dividing them for training, steering and testing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwbench.errors import UsageError
from hwbench.search.data import digits, factory, fashion_mnist, folder
from hwbench.search.data.images import Data, Images
from hwbench.search.data.preprocessing import PictureReader, Preprocessing

HELD_OUT = 0.2
"""Share of images held out for validation, and again for testing where no test set is given."""
FEWEST = 10
"""Images that three sets can be made of."""


def load_data(
    spec: str | Path,
    shape: Sequence[int] = (3, 32, 32),
    *,
    images: int | None = None,
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
    dtype: torch.dtype = torch.float32,
    vocabulary: int | None = None,
) -> Data:
    """Read images, or other inputs that a factory makes, such as ids of tokens.

    Args:
        spec: A folder (one sub-folder per class, or `train` and `test` or `val` with those; images
            right in it have no labels), `fashion-mnist` or `fashion-mnist:FOLDER`, `digits`, or
            `package.module:factory` that makes a torch dataset of (image tensor, class) pairs or a
            pair of them for training and testing.
        shape: What the network takes, without the batch: channels, height and width of images, to
            which pictures are brought; what a factory makes must be so.
        images: Number of images to train on; all by default.
        seed: Seed of the splits.
        preprocessing: How inputs are made of pictures; None for the usual way of the source: like
            ImageNet's for folders, else with zero mean and unit spread.
        dtype: Element type that the network takes.
        vocabulary: How many ids the network knows, where it takes ids; None where nothing tells.

    Raises:
        UsageError: There are no such images, or of another shape.
        SchemaError: A file of them is damaged.
    """
    name = str(spec)
    if len(shape) == 3 and dtype.is_floating_point:
        size = (int(shape[0]), int(shape[1]), int(shape[2]))
        if size[0] not in {1, 3}:
            raise UsageError(f"the network takes {size[0]} channels; images have 1 or 3")
        if preprocessing is not None:
            preprocessing.check_channels(size[0])
        found = _read(name, size, preprocessing)
    else:
        found = _read_inputs(name, tuple(map(int, shape)), preprocessing, dtype, vocabulary)
    known, test = found.known, found.test
    if test is None:
        known, test = known.split(HELD_OUT, seed)
    train, validation = known.split(HELD_OUT / (1 - HELD_OUT), seed + 1)
    if min(map(len, (train, validation, test))) == 0:
        raise UsageError(
            f"{name} has too few images ({len(known)}) to hold some out for validation; give at"
            f" least {FEWEST}"
        )
    if images is not None:
        train = train.few(images, seed)
    classes = 0 if known.labels is None else int(known.labels.max()) + 1
    return Data(name, train, validation, test, classes, found.names, found.preprocessing)


def _read_inputs(
    name: str,
    shape: factory.Shape,
    preprocessing: Preprocessing | None,
    dtype: torch.dtype,
    vocabulary: int | None,
) -> _Found:
    """Read inputs that are no images, which a factory alone makes; see `load_data`."""
    if name == "digits" or _is_fashion_mnist(name) or Path(name).is_dir():
        raise UsageError(
            f"{name} holds pictures, but the network takes {'x'.join(map(str, shape))} of"
            f" {str(dtype).removeprefix('torch.')}; give package.module:factory of a dataset that"
            " makes such inputs"
        )
    return _read_factory(_check_factory(name), shape, preprocessing, dtype, vocabulary)


def find_picture_shape(spec: str | Path) -> tuple[int, int, int] | None:
    """Channels, height and width of the images as they are.

    Args:
        spec: See `load_data`.

    Returns:
        The shape; None where the pictures of a folder differ in size.

    Raises:
        UsageError: There are no such images.
    """
    name = str(spec)
    if name == "digits":
        return digits.SHAPE
    if _is_fashion_mnist(name):
        return fashion_mnist.SHAPE
    if Path(name).is_dir():
        return folder.read_folder(Path(name))[0].common_shape()
    dataset, _ = factory.make_datasets(_check_factory(name))
    shape = factory.find_shape(dataset, name)
    return None if len(shape) != 3 else (shape[0], shape[1], shape[2])


@dataclass(frozen=True)
class _Found:
    """What a source holds.

    Attributes:
        known: Images to train on and to hold out from.
        test: Images to test with; None where the source does not divide them.
        names: Names of the classes.
        preprocessing: How inputs are made of pictures; None where there are no pictures.
    """

    known: Images
    test: Images | None
    names: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None


def _read(name: str, size: tuple[int, int, int], preprocessing: Preprocessing | None) -> _Found:
    """Read the source of this name; see `load_data`."""
    if name == "digits":
        labels = digits.read_labels()
        usual = preprocessing or digits.usual_preprocessing(size[1], size[2])
        reader = PictureReader(digits.Digits(), size, usual, margin=False)
        return _Found(_all_of(reader, labels, len(labels)), None, digits.CLASSES, usual)
    if _is_fashion_mnist(name):
        return _read_fashion_mnist(name, size, preprocessing)
    if Path(name).is_dir():
        return _read_folder(name, size, preprocessing)
    return _read_factory(_check_factory(name), size, preprocessing)


def _read_fashion_mnist(
    name: str, size: tuple[int, int, int], preprocessing: Preprocessing | None
) -> _Found:
    place = fashion_mnist.find_folder(name)
    names = (fashion_mnist.TRAIN, fashion_mnist.TEST)
    parts = [fashion_mnist.FashionPictures(place, part) for part in names]
    usual = preprocessing or fashion_mnist.usual_preprocessing(parts[0])
    known, test = (
        _all_of(PictureReader(part, size, usual, margin=False), part.labels, len(part.labels))
        for part in parts
    )
    return _Found(known, test, fashion_mnist.CLASSES, usual)


def _read_folder(
    name: str, size: tuple[int, int, int], preprocessing: Preprocessing | None
) -> _Found:
    usual = preprocessing or Preprocessing.of_imagenet(size[0])
    train, test = folder.read_folder(Path(name))

    def images_of(pictures: folder.FolderPictures) -> Images:
        reader = PictureReader(pictures, size, usual)
        return _all_of(reader, pictures.labels, len(pictures.paths))

    return _Found(images_of(train), None if test is None else images_of(test), train.names, usual)


def _read_factory(
    name: str,
    size: factory.Shape,
    preprocessing: Preprocessing | None,
    dtype: torch.dtype = torch.float32,
    vocabulary: int | None = None,
) -> _Found:
    if preprocessing is not None:
        raise UsageError(
            f"{name} makes inputs of its pictures itself; normalise them there, and leave out mean,"
            " std, scale and transform"
        )
    known, test = factory.make_datasets(name)
    for dataset in (known,) if test is None else (known, test):
        shape = factory.find_shape(dataset, name)
        if shape != size:
            wanted, given = ("x".join(map(str, one)) for one in (size, shape))
            what = "images" if dtype.is_floating_point else "inputs"
            raise UsageError(
                f"the {what} of {name} are {given}, but the network takes {wanted}; change that in"
                " the factory"
            )

    def inputs_of(dataset: Any) -> Images:
        reader = factory.DatasetReader(dataset, dtype, vocabulary)
        return _all_of(reader, factory.read_labels(dataset), len(dataset))

    return _Found(inputs_of(known), None if test is None else inputs_of(test))


def _all_of(read: Callable[[int], Tensor], labels: Tensor | None, count: int) -> Images:
    return Images(read, labels, tuple(range(count)))


def _is_fashion_mnist(name: str) -> bool:
    return name.partition(":")[0] == fashion_mnist.NAME


def _check_factory(name: str) -> str:
    """The name itself, if it can be that of a factory.

    Raises:
        UsageError: It cannot.
    """
    if ":" not in name:
        raise UsageError(
            f"no images at {name!r}; expected a folder, fashion-mnist, digits, or"
            " package.module:factory"
        )
    return name
