"""One codec for all that is kept: records as plain JSON types, and back.

Records are dataclasses, and their documents say the same as their fields. Reading is strict, as
documents come from files and other computers: a field that is missing, unknown or of another type
is an error, and nothing is converted in silence.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import fields
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from hwbench.errors import Remedy, SchemaError
from hwbench.records.layer_key import LayerKey

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

_ROWS: set[Any] = set()
_SHOWN_FAULTS = 3
"""Faults that a message names; a document of another kind has one in every field."""


def written_as_row(kind: type[T]) -> type[T]:
    """Class decorator: documents hold the values of the fields as a list, without their names."""
    _ROWS.add(kind)
    return kind


def to_plain(record: Any) -> dict[str, Any]:
    """A record as plain JSON types, in the order of its fields."""
    plain: dict[str, Any] = _converter().unstructure(record)
    return plain


def from_plain(kind: type[T], data: Any, what: str, *remedies: Remedy) -> T:
    """Rebuild a record from `to_plain`'s form.

    Args:
        kind: Class of the record.
        data: What a document holds.
        what: What it should be, for the message.
        remedies: What helps where it is damaged.

    Raises:
        SchemaError: A field is missing, unknown, of another type, or impossible.
    """
    from cattrs import BaseValidationError

    try:
        return _converter().structure(data, kind)
    except (BaseValidationError, SchemaError, AttributeError, TypeError, ValueError) as error:
        raise SchemaError(f"damaged {what}: {_describe_faults(error)}", *remedies) from error


def _describe_faults(error: Exception) -> str:
    """What is wrong and where, for the first few faults."""
    from cattrs import transform_error
    from cattrs.v import format_exception

    def describe(cause: BaseException, expected: type | None) -> str:
        if isinstance(cause, KeyError):
            return format_exception(cause, expected)  # a missing field
        if isinstance(cause, AttributeError):  # the keys of what has none
            return "a list or a single value where named fields belong"
        return str(cause)

    faults = transform_error(error, path="record", format_exception=describe)
    text = "; ".join(faults[:_SHOWN_FAULTS])
    hidden = len(faults) - _SHOWN_FAULTS
    return f"{text}; and {hidden} more" if hidden > 0 else text


@cache
def _converter() -> Converter:
    """Documents hold more than dataclasses: strict types, keys as text, rows as lists, arrays."""
    from cattrs import Converter

    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(str, _strict("text", str))
    converter.register_structure_hook(bool, _strict("true or false", bool))
    converter.register_structure_hook(int, _strict("whole number", int))
    converter.register_structure_hook(float, _strict("number", int, float))
    # Its members are text too, for which the hook of `str` would otherwise be taken.
    converter.register_structure_hook(StrEnum, lambda value, kind: kind(value))
    converter.register_unstructure_hook(StrEnum, lambda member: member.value)
    converter.register_unstructure_hook(LayerKey, str)
    converter.register_structure_hook(LayerKey, _read_layer_key)
    converter.register_unstructure_hook_func(_is_array, _write_array)
    converter.register_structure_hook_func(_is_array, _read_array)
    converter.register_structure_hook_factory(_is_tuple, _tuple_reader)
    converter.register_structure_hook_factory(_is_row, _row_reader)
    converter.register_unstructure_hook_factory(_is_row, _row_writer)
    return converter


def _strict(name: str, *accepted: type) -> Any:
    """A reader that refuses what is not exactly of the type; `true` is a bool and no number."""

    def read(value: Any, _kind: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"{_shorten(value)} is no {name}")
        return value

    return read


def _shorten(value: Any) -> str:
    return repr(value)[:80]


def _read_layer_key(value: Any, _kind: Any) -> LayerKey:
    if not isinstance(value, str):
        raise TypeError(f"{_shorten(value)} is no layer key")
    return LayerKey.parse(value)


def _is_array(kind: Any) -> bool:
    import numpy as np

    return kind is np.ndarray or get_origin(kind) is np.ndarray


def _write_array(array: Any) -> dict[str, Any]:
    """An array as its type, its shape and its bytes in base64."""
    data = b64encode(array.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": data}


def _read_array(value: Any, _kind: Any) -> Any:
    import numpy as np

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "base64"}:
        raise TypeError(f"{_shorten(value)} is no array")
    dtype = np.dtype(str(value["dtype"]))
    if dtype.kind not in "biufc":
        raise TypeError(f"{_shorten(value['dtype'])} is no type of numbers")
    data = b64decode(str(value["base64"]), validate=True)
    # A copy, as what is read from bytes cannot be written to.
    return np.frombuffer(data, dtype).reshape(value["shape"]).copy()


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _tuple_reader(kind: Any, converter: Converter) -> Any:
    """A reader of lists; a text would otherwise become the tuple of its letters."""
    kinds = get_args(kind)
    repeated = len(kinds) == 2 and kinds[1] is Ellipsis

    def read(value: Any, _kind: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{_shorten(value)} is no list")
        if repeated:
            hook = converter.get_structure_hook(kinds[0])
            return tuple([hook(item, kinds[0]) for item in value])
        if len(value) != len(kinds):
            raise ValueError(f"{_shorten(value)} has {len(value)} items, not {len(kinds)}")
        return tuple(map(converter.structure, value, kinds))

    return read


def _is_row(kind: Any) -> bool:
    return kind in _ROWS


def _row_reader(kind: Any, converter: Converter) -> Any:
    hints = get_type_hints(kind)
    kinds = [hints[field.name] for field in fields(kind)]

    def read(value: Any, _kind: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise TypeError(f"{_shorten(value)} is no row of {len(kinds)} values")
        return kind(*map(converter.structure, value, kinds))

    return read


def _row_writer(kind: Any, converter: Converter) -> Any:
    names = [field.name for field in fields(kind)]

    def write(record: Any) -> list[Any]:
        return [converter.unstructure(getattr(record, name)) for name in names]

    return write
