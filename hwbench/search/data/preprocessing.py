"""How the pictures of a source become inputs of a network: scaled, cut, normalised.

Networks are trained on pixels in some scale, less some mean, over some spread, and a network that
is given others fails without an error. `Preprocessing` says which they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from hwbench.errors import SchemaError, UsageError
from hwbench.search.data.factory import imported

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = 255
"""The value of a white pixel in a file."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels, by which torchvision's networks expect images to be normalised."""
SMALL = 64
"""Networks whose inputs are at most so many pixels wide take whole pictures, without a margin."""
MARGIN = 8 / 7
"""Size that larger pictures are scaled to, of the wanted one, before the middle is cut out."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What becomes of the pixels of a picture: `(scale * pixel / 255 - mean) / std`.

    Attributes:
        mean: What is taken off, one number for all channels or one for each.
        std: What that is divided by, likewise.
        scale: The value of a white pixel before the mean is taken off.
        transform: `module:function` that makes an input (c, h, w) of a picture (PIL) in place of
            scaling, cutting and all of the above; None for none.

    Raises:
        UsageError: A number is impossible.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0
    transform: str | None = None

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in {1, 3} or not all(map(math.isfinite, values)):
                raise UsageError(
                    f"{name} is {values}; expected one finite number, or three, for red, green and"
                    " blue"
                )
        if not all(value > 0 for value in self.std):
            raise UsageError(f"std is {self.std}; expected numbers above 0")
        if not 0 < self.scale < math.inf:
            raise UsageError(f"scale is {self.scale}; expected a number above 0, such as 1 or 255")

    @classmethod
    def of_imagenet(cls, channels: int) -> Self:
        """That of torchvision's networks, for images of this many channels."""
        return cls(MEAN[:channels], SPREAD[:channels])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read back what `to_dict` made.

        Raises:
            SchemaError: It is something else.
        """
        try:
            transform = data.get("transform")
            return cls(
                tuple(map(float, data["mean"])),
                tuple(map(float, data["std"])),
                float(data["scale"]),
                None if transform is None else str(transform),
            )
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise SchemaError(f"no preprocessing of pictures: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def apply(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (.., c, h, w) from 0 to 1."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels * self.scale - mean) / std

    def check_channels(self, channels: int) -> None:
        """Refuse to normalise images of other channels.

        Raises:
            UsageError: There are more numbers than channels.
        """
        if max(len(self.mean), len(self.std)) > channels:
            raise UsageError(
                f"three numbers of mean or std were given, but the network takes {channels} channel"
            )


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Reads pictures as inputs of a network, by number.

    The short side is scaled to `MARGIN` of the wanted size and the middle cut out, as ImageNet's
    are; of pictures without a margin, and for networks of small images, the whole is scaled.

    Attributes:
        pictures: Gives a picture by number: coloured, grey, or of floating-point pixels from 0 to
            255.
        size: Channels, height and width that the network takes.
        preprocessing: What becomes of the pixels.
        margin: Whether the pictures have a margin that can be cut off.
    """

    pictures: Callable[[int], Image]
    size: tuple[int, int, int]
    preprocessing: Preprocessing
    margin: bool = True

    def __call__(self, number: int) -> Tensor:
        """The input (c, h, w), float32.

        Raises:
            UsageError: The picture cannot be read, or the transform makes no such input of it.
        """
        picture = self.pictures(number)
        if self.preprocessing.transform is not None:
            return _transform(picture, self.preprocessing.transform, self.size)
        return self.preprocessing.apply(self._pixels(picture))

    def _pixels(self, picture: Image) -> Tensor:
        """The pixels (c, h, w) of a picture, scaled and cut, from 0 to 1."""
        from PIL.Image import Resampling

        channels, height, width = self.size
        if picture.mode != "F":
            picture = picture.convert("L" if channels == 1 else "RGB")
        across = (width, height)
        if self.margin and max(height, width) > SMALL:
            factor = MARGIN * max(height / picture.height, width / picture.width)
            across = (round(picture.width * factor), round(picture.height * factor))
        scaled = picture.resize(across, Resampling.BILINEAR)
        left, top = (scaled.width - width) // 2, (scaled.height - height) // 2
        cut = scaled.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(cut, np.float32).reshape(height, width, -1))
        return pixels.movedim(2, 0).expand(channels, -1, -1) / WHITE


def mean_and_spread(pixels: Tensor) -> Preprocessing:
    """The normalisation that gives these pixels (n, c, h, w) zero mean and unit spread."""
    mean, spread = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3)).clamp_min(1 / WHITE)
    return Preprocessing(tuple(mean.tolist()), tuple(spread.tolist()))


def _transform(picture: Image, name: str, size: Sequence[int]) -> Tensor:
    """What the user's function makes of a picture."""
    made = _find_transform(name)(picture.convert("L" if size[0] == 1 else "RGB"))
    if not isinstance(made, Tensor) or tuple(made.shape) != tuple(size):
        given = "x".join(map(str, made.shape)) if isinstance(made, Tensor) else type(made).__name__
        raise UsageError(
            f"{name} made a {given} of a picture, but the network takes a tensor of"
            f" {'x'.join(map(str, size))}"
        )
    return made.float()


@cache
def _find_transform(name: str) -> Callable[[Any], Any]:
    found = imported(name)
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}; expected a function of a picture")
    transform: Callable[[Any], Any] = found
    return transform
