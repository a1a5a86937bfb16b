"""Fashion-MNIST: 70,000 grey pictures of clothes, 28x28, in ten classes, under the MIT licence.

It was made by Xiao, Rasul and Vollgraf (2017, arXiv 1708.07747). Debian's package
`dataset-fashion-mnist` brings them. Any other folder with four files of the same
names and form, such as MNIST's, is read as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwbench.errors import Argument, SchemaError, UsageError
from hwbench.search.data.idx import read_idx
from hwbench.search.data.preprocessing import WHITE, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "fashion-mnist"
FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""
PACKAGE = "dataset-fashion-mnist"
SIDE = 28
SHAPE = (1, SIDE, SIDE)
CLASSES = (
    "t-shirt or top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
TRAIN, TEST = "train", "t10k"
"""How the names of the files of the two parts begin."""


@dataclass(frozen=True, slots=True)
class FashionPictures:
    """The pictures of one part.

    Only the folder goes to other processes with it, which read the files themselves.

    Attributes:
        folder: Where the files lie.
        part: `train` or `t10k`.
    """

    folder: Path
    part: str

    def __call__(self, number: int) -> Image:
        """One picture."""
        from PIL import Image

        return Image.fromarray(self.pixels[number])

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All pixels (n, 28, 28)."""
        return _read_part(self.folder, self.part)[0]

    @property
    def labels(self) -> Tensor:
        """All classes (n,), int64."""
        return torch.from_numpy(_read_part(self.folder, self.part)[1].astype(np.int64))


def find_folder(spec: str) -> Path:
    """The folder that is meant by `fashion-mnist` or `fashion-mnist:FOLDER`.

    Raises:
        UsageError: There is none.
    """
    _, _, named = spec.partition(":")
    folder = Path(named).expanduser() if named else FOLDER
    if folder.is_dir():
        return folder
    if named:
        raise UsageError(
            f"there is no folder {folder}; expected the files of Fashion-MNIST there, as Debian's"
            f" package {PACKAGE} brings them"
        )
    raise UsageError(
        f"Fashion-MNIST is not in {FOLDER}; install Debian's package with: apt-get install"
        f" {PACKAGE}",
        Argument("data", f"{NAME}:FOLDER", purpose="with its four files in a folder of yours"),
    )


def usual_preprocessing(pictures: FashionPictures) -> Preprocessing:
    """Zero mean and unit spread of all pixels."""
    pixels = pictures.pixels
    return Preprocessing((float(pixels.mean() / WHITE),), (float(pixels.std() / WHITE),))


@cache
def _read_part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels and classes of one part, checked against each other.

    Raises:
        UsageError: A file is missing or cannot be read.
        SchemaError: One is damaged, or they do not belong together.
    """
    images_file = _find_file(folder, f"{part}-images-idx3-ubyte")
    labels_file = _find_file(folder, f"{part}-labels-idx1-ubyte")
    try:
        pixels, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror or error}") from error
    if pixels.shape[1:] != (SIDE, SIDE):
        raise SchemaError(
            f"the pictures of {images_file} are {pixels.shape[1]}x{pixels.shape[2]}; expected"
            f" {SIDE}x{SIDE}"
        )
    if len(labels) != len(pixels) or labels.max() >= len(CLASSES):
        raise SchemaError(
            f"{labels_file} holds {len(labels)} classes up to {labels.max()} for {len(pixels)}"
            f" pictures; expected one for each, below {len(CLASSES)}"
        )
    return pixels, labels


def _find_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise UsageError(
        f"{folder} holds no {name}, gzipped or not; expected the files of Debian's package"
        f" {PACKAGE}"
    )
