"""Images for studies of accuracy: printed digits in many fonts, turned, moved, blurred and noisy.

Scikit-learn's 1,797 digits leave 360 to steer a search by and as many to report, where one image is
0.3 points, so differences of a point drown. These are drawn from fonts that come with Matplotlib,
as many as one likes, each independent of the others.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

CLASSES = "0123456789"
FONTS = (
    "DejaVuSans*",
    "DejaVuSerif*",
    "STIXGeneral*",
    "cmb10",
    "cmr10",
    "cmss10",
    "cmtt10",
    "cmti10",
)
TRAIN, TEST = 6000, 3000
"""Of the former, a search keeps 1,500 to go by."""
SIDE, FINE = 16, 4
"""Pixels of an image, and how much finer it is drawn."""
TURN_DEGREES, NOISE = 25.0, 0.2
SEED = 2026


@cache
def glyphs() -> tuple[TensorDataset, TensorDataset]:
    """Images (3, 16, 16) and classes, to train on and to test with; the same each time."""
    random = np.random.default_rng(SEED)
    return _drawn(TRAIN, random), _drawn(TEST, random)


def _drawn(count: int, random: np.random.Generator) -> TensorDataset:
    classes = random.integers(len(CLASSES), size=count)
    images = torch.tensor(
        np.stack([_image(CLASSES[one], random) for one in classes]), dtype=torch.float32
    )
    scaled = (images - images.mean()) / images.std()
    return TensorDataset(scaled[:, None].expand(-1, 3, -1, -1).contiguous(), torch.tensor(classes))


def _image(
    character: str, random: np.random.Generator
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """One character on an even ground."""
    from PIL import Image, ImageDraw

    side = SIDE * FINE
    canvas = Image.new("L", (side, side))
    names = _fonts()
    font = _font(names[random.integers(len(names))], int(random.uniform(0.6, 0.95) * side))
    place = tuple(side / 2 + random.uniform(-0.1, 0.1, 2) * side)
    ImageDraw.Draw(canvas).text(place, character, fill=255, font=font, anchor="mm")
    turned = canvas.rotate(random.uniform(-TURN_DEGREES, TURN_DEGREES), Image.Resampling.BILINEAR)
    small = np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BOX), np.float64) / 255
    return small * random.uniform(0.5, 1.0) + random.normal(0, NOISE, small.shape)


@cache
def _fonts() -> list[str]:
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts/ttf"
    return sorted(
        str(path)
        for name in FONTS
        for path in folder.glob(f"{name}.ttf")
        if "Display" not in path.name
    )


@cache
def _font(path: str, points: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(path, points)
