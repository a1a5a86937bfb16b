"""Foreign files are hostile until shown otherwise: bounded reading, refusal of pickles, numbers that are really numbers."""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from hwbench.errors import OutputParseError, UnsafeModelError, UsageError

MAX_BYTES = 64 << 20
"""Largest file that is read: 100 inferences of a network of a thousand nodes fill some 30 MB of ONNX Runtime's profile."""
MAX_SECONDS = 1e6
"""Longest time that is believed of one inference or layer (eleven days).

Beyond it the file is damaged.
"""

_TEXT_PICKLE = re.compile(rb"\(?[dl]?p?0?\n?c[A-Za-z_][\w.]*\n\w+\n|\([dl]p0\n")
_PICKLE_FREE = (
    "a pickle is a program; write the numbers as JSON or YAML where you trust it, and read that"
)


def read_text(path: Path) -> str:
    """The text of a regular file within bounds.

    Raises:
        UsageError: No such file, not a regular file, empty, too large or unreadable.
        UnsafeModelError: It is a pickle or an archive that holds one (`.pkl`, `.pt`, `.npz`).
        OutputParseError: It is no text.
    """
    try:
        if not path.is_file():
            raise UsageError(
                f"no such file: {str(path)!r}; expected a log, profile or latency table to read"
            )
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise UsageError(f"{str(path)!r} has {size} bytes; expected 1 to {MAX_BYTES}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {str(path)!r} ({error})") from error
    return decode(data, shown(path))


def decode(data: bytes, name: str) -> str:
    """Bytes as text: UTF-8, or UTF-16 with its mark (a redirection in PowerShell).

    Raises:
        UnsafeModelError: It is a pickle or an archive.
        OutputParseError: It is no text.
    """
    if is_pickle(data):
        raise UnsafeModelError(
            f"{name} is a pickle or an archive that may hold one, and is not opened: {_PICKLE_FREE}"
        )
    encoding = (
        "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    )
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
    """Whether bytes start like a pickle of any protocol, or a ZIP archive (`.pt`, `.npz`), which may hold one."""
    return data.startswith((b"\x80", b"PK\x03\x04")) or _TEXT_PICKLE.match(data) is not None


def parse_json(text: str, name: str) -> Any:
    """The JSON in `text`; `NaN` and infinities are no JSON.

    Raises:
        OutputParseError: It is damaged.
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise OutputParseError(
            f"{name} is damaged JSON ({error}); was it written to its end?"
        ) from error


def seconds(value: object, per_second: float, what: str) -> float:
    """A positive duration in seconds from a number, or the text of one, of which `per_second` make a second.

    Raises:
        OutputParseError: It is no number, not above 0, or beyond what is believed.
    """
    number = seconds_or_zero(value, per_second, what)
    if number == 0:
        raise OutputParseError(
            f"{what} is {shown(value)}; expected a time above 0, so this file is damaged"
        )
    return number


def seconds_or_zero(value: object, per_second: float, what: str) -> float:
    """As `seconds`, for a time that may really be 0 (a transfer that did not happen, a spread).

    Raises:
        OutputParseError: It is no number, negative, or beyond what is believed.
    """
    try:
        number = (
            float(value) / per_second
            if isinstance(value, int | float | str) and not isinstance(value, bool)
            else math.nan
        )
    except (ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MAX_SECONDS:
        raise OutputParseError(
            f"{what} is {shown(value)}; expected a time, so this file is damaged"
        )
    return number


def whole(value: object, what: str, least: int = 1) -> int:
    """A whole number of at least `least`, from a number or the text of one.

    Raises:
        OutputParseError: It is something else.
    """
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,15}", value.strip()):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number < 10**15:
        raise OutputParseError(
            f"{what} is {shown(value)}; expected a whole number of at least {least}, so this file"
            " is damaged"
        )
    return number


def shown(value: object) -> str:
    """A foreign value in a message: on one line, and not longer than helps."""
    plain = isinstance(value, str | int | float | Path) or value is None
    text = (
        repr(str(value) if isinstance(value, Path) else value)
        if plain
        else f"a {type(value).__name__}"
    )
    return text if len(text) <= 120 else f"{text[:116]}..."


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")
