"""Where a store is: its URL, with and without password, and the local store beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.errors import Argument, UsageError
from hwbench.user_folders import home_folder

if TYPE_CHECKING:
    import sqlalchemy as sa

VARIABLE = "HWBENCH_STORE"
EXAMPLES = "examples: store.db, postgresql+psycopg://team@host/hwbench"


def default_address() -> str:
    """`$HWBENCH_STORE`, else a file in the user's data folder.

    Raises:
        UsageError: The data folder cannot be created.
    """
    return os.environ.get(VARIABLE) or _in_data_folder()


def local_address() -> str:
    """This computer's store: `$HWBENCH_STORE` if a SQLite file, else one in the data folder.

    Raises:
        UsageError: The data folder cannot be created, or `$HWBENCH_STORE` is no address of a store.
    """
    address = default_address()
    return address if is_file(parse(address)) else _in_data_folder()


def parse(address: str) -> sa.URL:
    """The URL of a path or URL; PostgreSQL is always reached through psycopg 3.

    Raises:
        UsageError: It is no such URL. The message does not repeat it, as it may hold a password.
    """
    import sqlalchemy as sa

    if "://" not in address:
        try:
            path = Path(address).expanduser().absolute()
        except RuntimeError as error:  # of pathlib, for ~ without a home
            raise UsageError(
                f"the store {address} cannot be found: {error}; set HOME",
                Argument("store", change="another"),
            ) from error
        except FileNotFoundError as error:
            raise UsageError(
                f"the store {address} cannot be found, because the current folder is gone; go to"
                " one that exists, or give the store's whole path"
            ) from error
        return sa.URL.create("sqlite", database=str(path))
    scheme = address.partition("://")[0]
    try:
        url = sa.make_url(address)
    except (sa.exc.ArgumentError, ValueError):  # their text may hold the password, or a part of it
        raise UsageError(f"{scheme}://... is no database URL; {EXAMPLES}") from None
    if "@" in (url.host or ""):
        raise UsageError(
            f"{scheme}://... has more than one @; write one in a password as %40, or leave it to"
            " ~/.pgpass"
        )
    if scheme.partition("+")[0] in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        raise UsageError(
            f"a store is a SQLite file or a PostgreSQL database, not {scheme}://...; {EXAMPLES}"
        )
    return url


def is_file(url: sa.URL) -> bool:
    """Whether it is SQLite, of this computer alone."""
    return url.get_backend_name() == "sqlite"


def file_of(url: sa.URL) -> Path | None:
    """The file of a SQLite store; None for another, or one in memory."""
    return (
        Path(url.database) if is_file(url) and url.database not in {None, "", ":memory:"} else None
    )


def without_secrets(url: sa.URL) -> str:
    """A URL for people and records: the password is hidden, or left out if a parameter."""
    names = [name for name in url.query if _is_secret(name)]
    return url.difference_update_query(names).render_as_string(hide_password=True)


def shown(url: sa.URL) -> str:
    """How messages name a store: the path of a file, or the URL without secrets."""
    return str(url.database) if is_file(url) else without_secrets(url)


def redacted(address: str) -> str:
    """What the user gave as address, fit to be repeated."""
    if "://" not in address:
        return address
    try:
        return without_secrets(parse(address))
    except UsageError:
        return f"{address.partition('://')[0]}://..."


def _is_secret(name: str) -> bool:
    return "password" in name or "secret" in name


def _in_data_folder() -> str:
    folder = home_folder("user_data_path", f"set {VARIABLE}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot create the data folder {folder}: {error.strerror}; set {VARIABLE}",
            Argument("store", change="another"),
        ) from error
    return str(folder / "store.db")
