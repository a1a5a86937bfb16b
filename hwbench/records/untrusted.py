"""Reading foreign files, which are hostile until they have passed these checks.

Files are read within bounds, pickles are refused, and numbers are checked to be numbers.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from hwbench.errors import OutputParseError, UnsafeModelError, UsageError

MAX_BYTES = 64 << 20
"""Largest file that is read, in bytes.

100 inferences of a network of a thousand nodes fill some 30 MB of ONNX Runtime's profile.
"""
MIN_SECONDS = 1e-24
"""Shortest time above 0 that is believed.

It is far below the step between two floats near a nanosecond, so no clock and no difference of two
readings gives less; squares of its inverse still fit in a float.
"""
MAX_SECONDS = 1e6
"""Longest time that is believed of one inference or layer; a file with more is damaged."""

# The beginning of a pickle of protocol 0, which is text: an import, or an empty list or dict put
# into the memo.
_TEXT_PICKLE = re.compile(rb"\(?[dl]?p?0?\n?c[A-Za-z_][\w.]*\n\w+\n|\([dl]p0\n")
_PICKLE_FREE = (
    "a pickle is a program; write the numbers as JSON or YAML where you trust it, and read that"
)


def require_file(path: Path, expected: str) -> None:
    """Refuse what is no regular file. Opening a pipe would wait for whoever writes into it.

    Args:
        path: What is to be read.
        expected: What belongs there, for the message.

    Raises:
        UsageError: There is nothing, or something else.
        OSError: It cannot be looked at.
        ValueError: The path cannot be one.
    """
    if not path.exists():
        raise UsageError(f"no such file: {str(path)!r}; expected {expected}")
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is not a regular file; expected {expected}")


def read_text(path: Path) -> str:
    """Read the text of a regular file of at most `MAX_BYTES`.

    Raises:
        UsageError: There is no such file, or it is not regular, empty, too large or unreadable.
        UnsafeModelError: The file is a pickle or an archive that may hold one (`.pkl`, `.pt`,
            `.npz`).
        OutputParseError: The file is not text.
    """
    try:
        require_file(path, "a log, profile or latency table to read")
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise UsageError(f"{str(path)!r} has {size} bytes; expected 1 to {MAX_BYTES}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error
    return decode(data, quote(path))


def decode(data: bytes, name: str) -> str:
    """Decode bytes as UTF-8, or as UTF-16 with its mark (which a redirection in PowerShell writes).

    Args:
        data: The bytes of a file.
        name: The name of the file, for messages.

    Raises:
        UnsafeModelError: The file is a pickle or an archive.
        OutputParseError: The file is not text.
    """
    if is_pickle(data):
        raise UnsafeModelError(
            f"{name} is a pickle or an archive that may hold one, and is not opened: {_PICKLE_FREE}"
        )
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise OutputParseError(
            f"{name} is no text ({error.reason} at byte {error.start}); expected a log, JSON or"
            " YAML"
        ) from error
    if "\0" in text:
        raise OutputParseError(
            f"{name} is no text (it holds zero bytes); expected a log, JSON or YAML"
        )
    return text


def is_pickle(data: bytes) -> bool:
    """Tell whether bytes start like a pickle of any protocol, or like a ZIP archive.

    ZIP archives (`.pt`, `.npz`) may hold pickles.
    """
    return data.startswith((b"\x80", b"PK\x03\x04")) or _TEXT_PICKLE.match(data) is not None


def parse_json(text: str, name: str) -> Any:
    """Parse JSON; what Python would accept beyond the standard is refused.

    That is `NaN`, infinities, and a name given twice in one object, of which another reader may
    take the other value.

    Args:
        text: The JSON.
        name: The name of the file, for messages.

    Raises:
        OutputParseError: The text is not valid JSON.
    """
    try:
        return load_json(text)
    except (ValueError, RecursionError) as error:
        raise OutputParseError(
            f"{name} is damaged JSON ({error}); was it written to its end?"
        ) from error


def load_json(text: str) -> Any:
    """As `parse_json`, for callers who word the error themselves.

    Raises:
        ValueError: The text is not valid JSON.
        RecursionError: It is nested too deeply.
    """
    return json.loads(
        text,
        parse_constant=_refuse_constant,
        parse_float=_finite_float,
        object_pairs_hook=_object_of_different_names,
    )


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{quote(text)} is larger than any number here")
    return number


def _object_of_different_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{quote(twice)} is given twice in one object")
    return members


def parse_seconds(value: object, per_second: float, what: str) -> float:
    """Parse a positive duration.

    Args:
        value: A number, or the text of one.
        per_second: How many of its unit make a second, such as 1000 for milliseconds.
        what: What the value is, for messages.

    Returns:
        The duration in seconds.

    Raises:
        OutputParseError: The value is no number, not above 0, or out of bounds (`MIN_SECONDS`,
            `MAX_SECONDS`).
    """
    number = parse_seconds_or_zero(value, per_second, what)
    if number == 0:
        raise OutputParseError(
            f"{what} is {quote(value)}; expected a time above 0, so this file is damaged"
        )
    return number


def parse_seconds_or_zero(value: object, per_second: float, what: str) -> float:
    """Parse a duration that may really be 0 (a transfer that did not happen, a spread).

    Args:
        value: A number, or the text of one.
        per_second: How many of its unit make a second, such as 1000 for milliseconds.
        what: What the value is, for messages.

    Returns:
        The duration in seconds.

    Raises:
        OutputParseError: The value is no number, negative, or out of bounds (`MIN_SECONDS`,
            `MAX_SECONDS`).
    """
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value) / per_second
        except (ValueError, OverflowError):
            number = math.nan
    if number != 0 and not MIN_SECONDS <= number <= MAX_SECONDS:
        raise OutputParseError(
            f"{what} is {quote(value)}; expected a time, so this file is damaged"
        )
    return number


def parse_whole(value: object, what: str, least: int = 1) -> int:
    """Parse a whole number.

    Args:
        value: A number, or the text of one.
        what: What the value is, for messages.
        least: The smallest number accepted.

    Raises:
        OutputParseError: The value is no whole number of at least `least`, or has over 15 digits.
    """
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value.strip()):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number < 10**15:
        raise OutputParseError(
            f"{what} is {quote(value)}; expected a whole number of at least {least}, so this file"
            " is damaged"
        )
    return number


def quote(value: object) -> str:
    """Quote a foreign value for a message: on one line, and of at most 120 characters."""
    if isinstance(value, Path):
        text = repr(str(value))
    elif value is None or isinstance(value, str | int | float):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    if len(text) > 120:
        return f"{text[:116]}..."
    return text


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
