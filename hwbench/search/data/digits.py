"""Scikit-learn's handwritten digits: 1,797 of 8x8 pixels. They come with the library."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hwbench.optional import import_optional
from hwbench.search.data.preprocessing import WHITE, Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

SHAPE = (1, 8, 8)
CLASSES = tuple(map(str, range(10)))
LEVELS = 16
"""The value of a white pixel."""


class Digits:
    """The digits as pictures."""

    def __call__(self, number: int) -> Image:
        """One digit."""
        from PIL import Image

        return Image.fromarray((_load()[0][number] * (WHITE / LEVELS)).astype(np.float32))


def read_labels() -> Tensor:
    """Which digits they are."""
    return torch.tensor(_load()[1])


def usual_preprocessing(height: int, width: int) -> Preprocessing:
    """Zero mean and unit spread of all digits, scaled to this size."""
    small = torch.tensor(_load()[0], dtype=torch.float32)[:, None] / LEVELS
    large = functional.interpolate(
        small, size=(height, width), mode="bilinear", align_corners=False
    )
    return Preprocessing((float(large.mean()),), (float(large.std()),))


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 8, 8), 0 to 16, and classes (n,)."""
    digits = import_optional("sklearn.datasets", "search", "the digits").load_digits()
    return digits.images, digits.target
