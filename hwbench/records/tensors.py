"""Names, shapes and element types of the tensors that go into a network."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, fixed shape and element type (numpy name, e.g. `float32`) of one model input."""

    name: str
    shape: Shape
    dtype: str = "float32"
