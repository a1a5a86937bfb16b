"""Inputs as people give them: shapes as text or tuples, with element types and ranges of values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hwbench.errors import UsageError
from hwbench.records.tensors import Shape, TensorSpec

DTYPES = (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
    "uint16", "uint32", "uint64", "bool",
)  # fmt: skip
"""Element types that an input may be asked to have."""

Inputs: TypeAlias = str | Sequence[Any] | Mapping[str, Any]
"""One input or several: texts, tuples of sizes, or a mapping of names to either."""

_EXPECTED = (
    "expected 1x3x224x224, NAME=1x128:int64 or NAME=1x128:int64[0,30522], every dimension at"
    " least 1"
)
_SIZES = re.compile(r"[0-9]+(?:x[0-9]+)*|scalar")
_NUMBER = r"\s*[-+]?[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?\s*"
_KIND = re.compile(rf"(?P<dtype>[a-z]+[0-9]*)(?:\[(?P<low>{_NUMBER}),(?P<high>{_NUMBER})\])?")
_MAX_ENTRIES = 1 << 40


@dataclass(frozen=True, slots=True)
class InputRequest:
    """An input as it was asked for.

    Attributes:
        name: The name of the input; empty for the next one in order.
        shape: Its sizes.
        dtype: Its element type; empty for that which the model says, else float32.
        low: The smallest of its values; None to leave the values to hwbench.
        high: The end of its values, itself left out as in Python's ranges.
    """

    name: str
    shape: Shape
    dtype: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def spec(self) -> TensorSpec:
        """The input without its values."""
        return TensorSpec(self.name, self.shape, self.dtype or "float32")

    def __str__(self) -> str:
        text = "x".join(map(str, self.shape)) or "scalar"
        if self.dtype:
            text += f":{self.dtype}"
        if self.low is not None and self.high is not None:
            text += f"[{self.low:g},{self.high:g}]"
        return f"{self.name}={text}" if self.name else text


def parse_input(text: str) -> InputRequest:
    """Parse an input: `[NAME=]SHAPE[:TYPE[LOW,HIGH]]`, such as `ids=1x128:int64[0,30522]`.

    The range says which values are drawn: from LOW up to HIGH, which is left out. An input without
    dimensions has the shape `scalar`.

    Raises:
        UsageError: The text is not of that form.
    """
    shown = repr(text[:80])
    name, _, rest = text.strip().rpartition("=")
    sizes, colon, kind = rest.partition(":")
    match = _KIND.fullmatch(kind)
    if not _SIZES.fullmatch(sizes) or (colon and match is None):
        raise UsageError(f"input {shown} is no shape; {_EXPECTED}")
    shape: Shape = ()
    if sizes != "scalar":
        if any(len(size) > 12 for size in sizes.split("x")):
            raise UsageError(f"input {shown} has a dimension too large; {_EXPECTED}")
        shape = tuple(int(size) for size in sizes.split("x"))
    _check_shape(shape, shown)
    if match is None:
        return InputRequest(name, shape)
    dtype = match["dtype"]
    if dtype not in DTYPES:
        raise UsageError(
            f"input {shown}: there is no type {dtype!r}; expected one of {', '.join(DTYPES)}"
        )
    if match["low"] is None:
        return InputRequest(name, shape, dtype)
    low, high = float(match["low"]), float(match["high"])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"input {shown}: the range {match['low']} to {match['high']} holds no value; expected"
            " the first number to be smaller"
        )
    return InputRequest(name, shape, dtype, low, high)


def _check_shape(shape: Shape, shown: str) -> None:
    if min(shape, default=1) < 1:
        raise UsageError(f"input {shown} has a dimension of 0; {_EXPECTED}")
    if math.prod(shape) > _MAX_ENTRIES or len(shape) > 32:
        raise UsageError(f"input {shown} is larger than any memory")


def parse_inputs(inputs: Any) -> tuple[InputRequest, ...]:
    """Parse inputs, however they are given.

    Args:
        inputs: A text (see `parse_input`), a tuple of sizes, a sequence of either, or a mapping of
            names to either.

    Raises:
        UsageError: One of them is no shape.
    """
    if inputs is None:
        return ()
    if isinstance(inputs, Mapping):
        requests = []
        for name, value in inputs.items():
            requests.append(_parse_one(value, str(name)))
        return tuple(requests)
    is_sizes = isinstance(inputs, Sequence) and not isinstance(inputs, str) and _is_shape(inputs)
    if isinstance(inputs, str | InputRequest | TensorSpec) or (is_sizes and len(inputs) > 0):
        inputs = [inputs]
    if not isinstance(inputs, Sequence) or isinstance(inputs, bytes):
        raise UsageError(
            f"inputs are a {type(inputs).__name__}; expected shapes such as ['1x3x224x224'],"
            " [(1, 3, 224, 224)] or {'ids': '1x128:int64'}"
        )
    return tuple(_parse_one(value, "") for value in inputs)


def _is_shape(value: Any) -> bool:
    """Tell whether a value is a sequence of whole numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return False
    return all(isinstance(size, int) and not isinstance(size, bool) for size in value)


def _parse_one(value: Any, name: str) -> InputRequest:
    if isinstance(value, InputRequest):
        return value
    if isinstance(value, TensorSpec):
        return InputRequest(value.name, value.shape, value.dtype)
    if isinstance(value, str):
        return parse_input(f"{name}={value}" if name else value)
    if _is_shape(value):
        shape = tuple(map(int, value))
        _check_shape(shape, repr(value)[:80])
        return InputRequest(name, shape)
    raise UsageError(f"input {repr(value)[:80]} is no shape; {_EXPECTED}")


def parse_dims(dims: Any) -> dict[str, int]:
    """Parse sizes of named dimensions: `seq=128`.

    Args:
        dims: Texts, or a mapping of names to sizes.

    Raises:
        UsageError: One of them is of another form, or a name is given two sizes.
    """
    pairs: list[tuple[str, Any]] = []
    if isinstance(dims, Mapping):
        pairs = [(str(name), size) for name, size in dims.items()]
    else:
        texts = [dims] if isinstance(dims, str) else dims or ()
        if not isinstance(texts, Sequence):
            raise UsageError(
                f"dimensions are a {type(dims).__name__}; expected ['seq=128'] or {{'seq': 128}}"
            )
        for text in texts:
            name, _, size_text = str(text).rpartition("=")
            pairs.append((name.strip(), size_text.strip()))
    sizes: dict[str, int] = {}
    for name, given in pairs:
        size = _read_size(given)
        if not name or size is None:
            raise UsageError(
                f"dimension {f'{name}={given}'[:80]!r} is not NAME=SIZE; expected seq=128, the size"
                " at least 1"
            )
        if sizes.setdefault(name, size) != size:
            raise UsageError(f"dimension {name!r} is asked to be {sizes[name]} and {size}")
    return sizes


def _read_size(given: Any) -> int | None:
    """Read a size from a number or a text; None if it is none."""
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,12}", given):
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given < _MAX_ENTRIES:
        return given
    return None
