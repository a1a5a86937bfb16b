"""Names, shapes and element types of the tensors that go into a network."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]
CHANNELS_FIRST = (0, 3, 1, 2)
"""Where the axes of an image with its channels last stand in one with its channels first."""


def channels_first(shape: Shape) -> Shape:
    """The shape of an image with its channels last as keys have it; others stay as they are."""
    return tuple(shape[axis] for axis in CHANNELS_FIRST) if len(shape) == 4 else shape


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, fixed shape and element type (numpy name, e.g. `float32`) of one model input."""

    name: str
    shape: Shape
    dtype: str = "float32"
