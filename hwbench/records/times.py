"""Recorded moments, and those that people name."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from hwbench.errors import UsageError

EARLIEST = datetime.min.replace(tzinfo=UTC)
"""The time of a record without one."""
_AGO = re.compile(r"(\d{1,6})d")


def parse_since(text: str) -> datetime:
    """The moment that `7d` or a date means.

    Raises:
        UsageError: It is neither.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            moment = datetime.now(UTC) - timedelta(days=int(ago[1]))
        else:
            moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no date; write 2026-03-01, or 7d for the last seven days"
        ) from error
    return _assume_utc(moment)


def parse_utc(iso: str) -> datetime:
    """A recorded time; the earliest there is for a record without one."""
    try:
        return _assume_utc(datetime.fromisoformat(iso))
    except ValueError:
        return EARLIEST


def _assume_utc(moment: datetime) -> datetime:
    """A time with its zone, which is UTC where it names none."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
