"""Folders of pictures: one sub-folder per class, perhaps divided into training and test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hwbench.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
SIZES_READ = 200
"""Pictures whose sizes are looked at to find out whether all have the same."""
_TRAIN, _TEST = ("train", "training"), ("test", "val", "valid", "validation")
_GREY = frozenset({"1", "L", "I", "I;16", "F"})
"""Modes of pictures without colours."""


@dataclass(frozen=True)
class FolderPictures:
    """Pictures of a folder.

    Attributes:
        paths: Their files.
        labels: Their classes; None for pictures without.
        names: Names of the classes, in order.
    """

    paths: tuple[Path, ...]
    labels: Tensor | None
    names: tuple[str, ...]

    def __call__(self, number: int) -> Image:
        """One picture.

        Raises:
            UsageError: The file cannot be read.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.paths[number]) as file:
                file.load()
                return file
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise UsageError(
                f"{self.paths[number]} is no image that can be read ({type(error).__name__});"
                " remove it"
            ) from error

    def common_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the pictures; None where they differ in size."""
        step = max(1, len(self.paths) // SIZES_READ)
        pictures = [self(number) for number in range(0, len(self.paths), step)]
        sizes = {picture.size for picture in pictures}
        if len(sizes) > 1:
            return None
        width, height = sizes.pop()
        is_grey = all(picture.mode in _GREY for picture in pictures)
        return 1 if is_grey else 3, height, width


def read_folder(folder: Path) -> tuple[FolderPictures, FolderPictures | None]:
    """Find the pictures of a folder.

    Args:
        folder: One sub-folder per class, or `train` and `test` or `val` with those; pictures right
            in it have no labels.

    Returns:
        The pictures to train on and those to test with; None where the folder does not divide them.

    Raises:
        UsageError: There are none.
    """
    inner = {entry.name.lower(): entry for entry in folder.iterdir() if entry.is_dir()}
    train = next((inner[name] for name in _TRAIN if name in inner), None)
    test = next((inner[name] for name in _TEST if name in inner), None)
    if train is None:
        return _find_pictures(folder, None), None
    names = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
    return _find_pictures(train, names), None if test is None else _find_pictures(test, names)


def _find_pictures(folder: Path, names: list[str] | None) -> FolderPictures:
    """Pictures of one folder.

    Args:
        folder: One sub-folder per class, or pictures without labels.
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
        of_class = list(_pictures_in(folder / name))
        paths += of_class
        labels += [label] * len(of_class)
    if paths:
        return FolderPictures(tuple(paths), torch.tensor(labels), tuple(classes))
    paths = list(_pictures_in(folder))
    if not paths:
        raise UsageError(
            f"no images in {folder}; expected one sub-folder per class, with"
            f" {', '.join(sorted(SUFFIXES))}"
        )
    return FolderPictures(tuple(paths), None, ())


def _pictures_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if entry.suffix.lower() in SUFFIXES and entry.is_file():
                yield entry
