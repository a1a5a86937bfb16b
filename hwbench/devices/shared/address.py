"""The grammar of addresses: `DRIVER[:PLACE][,OPTION=VALUE]...`, read in one place for all drivers.

PLACE is whatever names one target among several (a serial number, the index of a GPU); it is the
first part if that has no `=` in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwbench.errors import UsageError


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a driver's address.

    Attributes:
        values: What may follow the `=`, for messages: `gpu|request`, `N`.
        read: Turns the text behind the `=` into the option's value; a ValueError says what was
            expected.
    """

    values: str
    read: Callable[[str], Any]


def choice(*values: str) -> Option:
    """Make an option that has one of these values."""

    def read(text: str) -> str:
        if text not in values:
            raise ValueError(f"one of {', '.join(values)}")
        return text

    return Option("|".join(values), read)


def whole_number(least: int, most: int | None = None) -> Option:
    """Make an option that is a whole number.

    Args:
        least: Smallest value.
        most: Largest value; None for no bound.
    """
    expected = f"a whole number of at least {least}"
    if most is not None:
        expected = f"a whole number from {least} to {most}"

    def read(text: str) -> int:
        value = int(text) if text.removeprefix("-").isdecimal() else None
        if value is None or value < least or (most is not None and value > most):
            raise ValueError(expected)
        return value

    return Option("N" if most is None else f"{least}..{most}", read)


def read_address(
    driver: str, text: str, options: Mapping[str, Option], *, has_place: bool = True
) -> tuple[str, dict[str, Any]]:
    """Read what follows a driver's name and the colon.

    Args:
        driver: The driver's name, for messages.
        text: What follows; may be empty.
        options: Options that the driver has, by name.
        has_place: Whether the driver has several targets, so that the first part may name one.

    Returns:
        (the place, empty if none is named; the values of the options that are there, by name).

    Raises:
        UsageError: An option is unknown, given twice, or has an impossible value.
    """
    if text and not options and not has_place:
        raise UsageError(f"device {driver!r} takes no address, got '{driver}:{text}'")
    parts = text.split(",") if text else []
    place = ""
    if has_place and parts and "=" not in parts[0]:
        place = parts.pop(0)
    known = "; ".join(f"{name}={option.values}" for name, option in options.items())
    values: dict[str, Any] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in options or name in values:
            raise UsageError(
                f"unknown option {part!r} in '{driver}:{text}': it is no option of this device, or"
                f" is there twice; known: {known}"
            )
        try:
            values[name] = options[name].read(value)
        except ValueError as error:
            raise UsageError(
                f"option {part!r} in '{driver}:{text}' is to be {error}; known: {known}"
            ) from error
    return place, values
