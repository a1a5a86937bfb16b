"""What a failure of the database means to the user, in one line and without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hwbench.errors import (
    Argument,
    Call,
    HwbenchError,
    SchemaError,
    StoreUnavailableError,
    UsageError,
)
from hwbench.store.address import is_file, shown

if TYPE_CHECKING:
    import sqlalchemy as sa

DAMAGED = {"42P01", "42703", "XX001", "XX002"}
"""States of a PostgreSQL without our tables or columns, or with broken pages
(https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
COLLIDED = {"23505", "40001", "40P01"}
"""Two transactions met: one id inserted twice, no serial order, a deadlock.

Nothing was written; doing it again is right.
"""
AWAY = {"25P03", "55P03", "57P01", "57P02", "57P03", "57P05"}
"""The server ended the session or did not begin it, or another session held a lock for too long.

So do all of classes 08 (the connection) and 53 (no memory, disk or connections left)."""


def is_collision(error: Exception) -> bool:
    """Whether the transaction may succeed if it is done again."""
    return _state(error) in COLLIDED


def translate_error(url: sa.URL, error: Exception) -> HwbenchError:
    """The error to raise for one of the database."""
    reason = first_line(getattr(error, "orig", None) or error)
    return _of_file(url, reason) if is_file(url) else _of_server(url, error, reason)


def damage_error(url: sa.URL, reason: str) -> SchemaError:
    """What is there cannot be believed."""
    return SchemaError(
        f"the store {shown(url)} is damaged ({reason}) and was left untouched; move it away",
        Argument("store", change="another"),
    )


def first_line(error: object) -> str:
    """The first line of what an error says, or its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _of_file(url: sa.URL, reason: str) -> HwbenchError:
    if any(
        sign in reason
        for sign in ("malformed", "not a database", "no such table", "no such column")
    ):
        return damage_error(url, reason)
    if "locked" in reason:
        return UsageError(
            f"another process has held the store {shown(url)} for too long; end it",
            Argument("store", change="another"),
        )
    return UsageError(
        f"the store {shown(url)} cannot be used: {reason}; check that it can be written",
        Argument("store", change="another"),
    )


def _of_server(url: sa.URL, error: Exception, reason: str) -> HwbenchError:
    import sqlalchemy as sa

    state = _state(error)
    if state in DAMAGED:
        return damage_error(url, reason)
    lost = getattr(error, "connection_invalidated", False) or (
        state is None and isinstance(error, sa.exc.OperationalError)
    )
    if lost or (state is not None and (state in AWAY or state[:2] in {"08", "53"})):
        return StoreUnavailableError(
            f"the store {shown(url)} is away: {reason}; see that its server runs and the URL is"
            " right, or measure into a file",
            Call("sync_store", purpose="push it later"),
        )
    return UsageError(
        f"the store {shown(url)} refuses: {reason}; see that its user may do that",
        Argument("store", change="another"),
    )


def _state(error: Exception) -> str | None:
    """SQLSTATE of a PostgreSQL error.

    None where the connection failed before the server could tell.
    """
    cause: Any = getattr(error, "orig", None) or error
    state = getattr(cause, "sqlstate", None)
    return state if isinstance(state, str) else None
