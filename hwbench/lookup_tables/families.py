"""Layer families: keys that differ in nothing but their channel counts.

All keys of a family share one latency surface over (cin, cout).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import Shape

EACH = "each"
"""Stands for channel counts in attributes of a family: the `group` of depthwise convolutions, the
equal parts of a `split`, the bounds of a slice of channels."""
_COUNTS = frozenset({"group", "split", "starts", "ends"})


@dataclass(frozen=True, order=True, slots=True)
class Family:
    """All that a layer key says but its channel counts.

    Attributes:
        pattern: A key whose channel counts are 0 (and whose group is `each` where it is depthwise).
    """

    pattern: LayerKey

    @property
    def kind(self) -> str:
        """Operator, depthwise convolutions apart: what shares a channel step on one device."""
        depthwise = self.pattern.attr("group") == EACH
        return f"{'Depthwise' if depthwise else ''}{self.pattern.op}@{self.pattern.precision}"

    def key(self, cin: int, cout: int) -> LayerKey:
        """The key of this family with the given channel counts.

        Whatever else it reads has as many as it writes.
        """
        pattern = self.pattern
        inputs = tuple(
            _fill_channels(shape, cout if index else cin)
            for index, shape in enumerate(pattern.inputs)
        )
        attrs = tuple(
            (name, value.replace(EACH, str(cin if name == "group" else cout)))
            if name in _COUNTS
            else (name, value)
            for name, value in pattern.attrs
        )
        return replace(
            pattern, inputs=inputs, output=_fill_channels(pattern.output, cout), attrs=attrs
        )

    def __str__(self) -> str:
        return re.sub(r"x0(?=[x+\]-])", "xC", str(self.pattern))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key lies: its family, and the channels it reads (of its first input) and writes."""

    family: Family
    cin: int
    cout: int


@lru_cache(maxsize=1 << 16)
def place_of(key: LayerKey) -> Place:
    """Family and channel counts of a key.

    Channels are axis 1 of maps and rows, and the last axis of sequences (rank 3) and of linear
    layers. A layer that reads nothing, or has no such axis, is a family of its own.
    """
    output, cout = _take_channels(key.op, key.output)
    inputs, counts = (
        zip(*(_take_channels(key.op, shape) for shape in key.inputs), strict=True)
        if key.inputs
        else ((), ())
    )
    cin = counts[0] if counts else cout
    attrs = key.attrs
    if key.attr("group", "1") == str(cin) and cin > 1:
        attrs = tuple((dict(attrs) | {"group": EACH}).items())
    if key.op == "Slice" and key.attr("axes") == str(
        len(key.output) - 1 if len(key.output) == 3 else 1
    ):
        attrs = tuple((dict(attrs) | {"starts": EACH, "ends": EACH}).items())
    parts = key.attr("split", "").split(".")
    if key.op == "Split" and set(parts) == {str(cout)}:
        attrs = tuple((dict(attrs) | {"split": ".".join([EACH] * len(parts))}).items())
    return Place(Family(replace(key, inputs=inputs, output=output, attrs=attrs)), cin, cout)


def _take_channels(op: str, shape: Shape) -> tuple[Shape, int]:
    """A shape with its channel count set to 0, and the count; 1 where there is no channel axis."""
    if len(shape) < 2:
        return shape, 1
    axis = len(shape) - 1 if op == "Linear" or len(shape) == 3 else 1
    return (*shape[:axis], 0, *shape[axis + 1 :]), shape[axis]


def _fill_channels(shape: Shape, channels: int) -> Shape:
    return tuple(size or channels for size in shape)
