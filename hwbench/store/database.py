"""The database under the store: its tables, its schema version, and its transactions.

SQLite files run in WAL mode, so readers never wait. Writers take the lock at the beginning of a
transaction (`BEGIN IMMEDIATE`): taking it later fails at once when two of them meet, whatever the
time-out (https://sqlite.org/isolation.html). `synchronous=NORMAL` keeps every committed transaction
when a process is killed; only a power failure can cost the last ones.

In PostgreSQL a reader works on one snapshot (REPEATABLE READ), so that a record and its samples
belong together. A writer sees what others committed (READ COMMITTED), locks the rows it replaces,
and does its work again where two have met.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from hwbench.errors import Argument, SchemaError, StoreLostError, UsageError
from hwbench.optional import DISTRIBUTION, install_command
from hwbench.store.address import default_address, file_of, is_file, parse, shown
from hwbench.store.faults import damage_error, first_line, is_collision, translate_error

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")

STORE_SCHEMA = 1
BUSY_S = 60.0
"""Seconds to wait for the transaction of another process; each takes milliseconds."""
TRIES = 12
"""How often a transaction that met another one is done in all.

The pauses between add up to some seconds.
"""
PATIENCE: Mapping[str, Any] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",
    "application_name": "hwbench",
    "prepare_threshold": None,
}
"""How a PostgreSQL is connected to, where the URL does not say otherwise
(https://www.postgresql.org/docs/current/libpq-connect.html): a host that vanished is noticed within
half a minute, and nothing is prepared on the server, which poolers of connections do not stand."""
FORGOTTEN_S = 300
"""Seconds until the server ends the transaction of a silent client: no lock is held for ever."""

_SILENCE = logging.NullHandler()
"""Keeps what psycopg logs of a broken connection from standing beside our one line."""

_FILES: WeakKeyDictionary[sa.Engine, tuple[int, int] | None] = WeakKeyDictionary()
"""The file behind each engine, as it was when it was opened."""

PAGE_BYTES = 4096
"""A store holds at least one page of SQLite's default size (https://sqlite.org/pragma.html#pragma_page_size)."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of schema 1.

    Samples are batches: one row holds consecutive samples of one session.

    Attributes:
        store: One row, the schema's version.
        measurements: One row per measurement: what lists show, and the record without samples as
            JSON.
        samples: `values_s` little-endian float64, `blocks` little-endian int64 of the same count,
            NULL for warm-up.
        records: Records of other kinds as JSON.
    """

    store: sa.Table
    measurements: sa.Table
    samples: sa.Table
    records: sa.Table


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The tables; their names begin with `hwbench_`, so that a team's database may hold others."""
    from sqlalchemy import (
        BigInteger,
        Boolean,
        Column,
        ForeignKey,
        Integer,
        LargeBinary,
        MetaData,
        Table,
        Text,
    )

    meta = MetaData()
    key = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself in SQLite
    text = Text().with_variant(
        Text(collation="C"), "postgresql"
    )  # the order of SQLite, whatever the server's language
    return Tables(
        Table("hwbench_store", meta, Column("schema", Integer, nullable=False)),
        Table(
            "hwbench_measurements",
            meta,
            Column("id", text, primary_key=True),
            *(
                Column(name, text, nullable=False, index=True)
                for name in ("model", "model_sha256", "device", "started_utc")
            ),
            Column("target", text, nullable=False),
            Column("complete", Boolean, nullable=False),
            Column("record", text, nullable=False),
        ),
        Table(
            "hwbench_samples",
            meta,
            Column("number", key, primary_key=True, autoincrement=True),
            Column(
                "measurement_id",
                text,
                ForeignKey("hwbench_measurements.id"),
                nullable=False,
                index=True,
            ),
            Column("session", Integer, nullable=False),
            Column("count", Integer, nullable=False),
            Column("values_s", LargeBinary, nullable=False),
            Column("blocks", LargeBinary),
        ),
        Table(
            "hwbench_records",
            meta,
            Column("id", text, primary_key=True),
            Column("kind", text, nullable=False, index=True),
            Column("created_utc", text, nullable=False),
            Column("record", text, nullable=False),
        ),
    )


def open_engine(address: str | None = None, *, create: bool = True) -> sa.Engine:
    """Connect to a store.

    Args:
        address: Path of a SQLite file, or URL of one or of a PostgreSQL database; else
            `$HWBENCH_STORE`; else a file in the user's data folder.
        create: Whether to make a store where there is none.

    Raises:
        UsageError: The address is no such URL, is a folder, or cannot be read and written; or there
            is no store.
        StoreUnavailableError: The server cannot be reached.
        SchemaError: What is there is damaged, of another schema or not a store; it is left
            untouched.
    """
    import sqlalchemy as sa

    url = parse(address or default_address())
    path = file_of(url)
    if path is not None:
        _check_file(path, url)
        if not create and not path.exists():
            raise _no_store(url)
    try:
        engine = _engine(url)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise UsageError(
            f"no driver for the store {shown(url)} ({first_line(error)}); give a path, or for"
            f" PostgreSQL: {install_command('lab')}"
        ) from error
    try:
        _ensure_schema(engine, create=create)
        if path is not None:
            _FILES[engine] = _identity(path)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that only reads, on one state of the store.

    Raises:
        HwbenchError: The database cannot be reached or read (`faults.translate_error`).
    """
    import sqlalchemy as sa

    options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with engine.execution_options(
            **({} if is_file(engine.url) else options)
        ).begin() as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise translate_error(engine.url, error) from error


def write(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Do `work` in one transaction, wholly or not at all; where it met another transaction, again.

    Raises:
        StoreLostError: The file of the store was deleted or replaced since it was opened.
        HwbenchError: The database cannot be reached or written, or another process holds it for too
            long; its cause is then the database's error (`faults.translate_error`).
    """
    import sqlalchemy as sa

    level = {} if is_file(engine.url) else {"isolation_level": "READ COMMITTED"}
    writer = engine.execution_options(hwbench_write=True, **level)
    attempt = 1
    while True:
        try:
            with writer.begin() as connection:
                result = work(connection)
        except sa.exc.DBAPIError as error:
            _check_not_lost(engine)
            if attempt == TRIES or not is_collision(error):
                raise translate_error(engine.url, error) from error
        else:
            _check_not_lost(engine)
            return result
        time.sleep(random.uniform(0, 0.002 * 2**attempt))  # noqa: S311 - so that two that met do not meet again
        attempt += 1


def _check_not_lost(engine: sa.Engine) -> None:
    """Notice that the file is no longer the one that was opened.

    SQLite goes on writing to a file that was deleted, which is gone when it is closed.

    Raises:
        StoreLostError: It is another file, or none.
    """
    path, opened = file_of(engine.url), _FILES.get(engine)
    if path is None or opened is None:
        return
    now = _identity(path)
    if now != opened:
        happened = "deleted" if now is None else "replaced by another file"
        raise StoreLostError(
            f"the store {path} was {happened} while it was in use, and what was written to it since"
            " it was opened is lost; measure again"
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, whatever its name; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def digest(engine: sa.Engine, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """SHA-256 of a column in hexadecimal, taken where the data are; NULL of NULL."""
    import sqlalchemy as sa

    if is_file(engine.url):
        return sa.func.hwbench_sha256(column)
    octets = (
        column if isinstance(column.type, sa.LargeBinary) else sa.func.convert_to(column, "UTF8")
    )
    return sa.func.encode(sa.func.sha256(octets), "hex")


def _engine(url: sa.URL) -> sa.Engine:
    """An engine that has not connected yet; its errors do not repeat the data."""
    import sqlalchemy as sa

    if is_file(url):
        waiting = {"timeout": BUSY_S} if file_of(url) is not None else {}
        engine = sa.create_engine(url, connect_args=waiting, hide_parameters=True)
        sa.event.listen(engine, "connect", _on_sqlite_connect)
        sa.event.listen(engine, "begin", _on_sqlite_begin)
    else:
        patience = {name: value for name, value in PATIENCE.items() if name not in url.query}
        engine = sa.create_engine(
            url, connect_args=patience, pool_pre_ping=True, hide_parameters=True
        )
        sa.event.listen(engine, "connect", _on_postgresql_connect)
        logging.getLogger("psycopg").addHandler(_SILENCE)
    return engine


def _no_store(url: sa.URL) -> UsageError:
    return UsageError(
        f"there is no store at {shown(url)}; give the address of one, or measure something first"
    )


def _check_file(path: Path, url: sa.URL) -> None:
    """Look at a file through a read-only connection: nothing changes before it is known as ours.

    Only SQLite may open the file: whoever closes it in this process drops all locks that other
    connections of the process hold on it, and another process then works their log into the file
    (https://sqlite.org/howtocorrupt.html, section 2.2).
    """
    import sqlalchemy as sa

    if path.is_dir():
        raise UsageError(
            f"the store {path} is a folder; give a file in it, such as {path / 'store.db'}"
        )
    if not path.parent.is_dir():
        raise UsageError(
            f"the folder {path.parent} of the store does not exist; create it",
            Argument("store", change="another"),
        )
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(
            f"the store {path} cannot be read: {error.strerror}",
            Argument("store", change="another"),
        ) from error
    if not size_bytes:
        return
    if size_bytes < PAGE_BYTES:  # SQLite itself would write over it
        raise damage_error(url, "not a SQLite file")
    reader = sa.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S
        ),
        poolclass=sa.NullPool,
    )
    try:
        with reader.connect() as connection:
            verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if verdict != "ok":
                raise damage_error(url, str(verdict).splitlines()[-1])
            _version(connection, url)
    except sa.exc.DBAPIError as error:
        raise translate_error(url, error) from error


def _version(connection: sa.Connection, url: sa.URL) -> int | None:
    """The schema of the store, which this version reads and writes.

    None where there is no store yet.
    """
    import sqlalchemy as sa

    store, there = tables().store, sa.inspect(connection)
    if not there.has_table(store.name):
        names = (
            there.get_table_names() if is_file(url) else ()
        )  # a server's database may well have other tables
        if names:
            raise SchemaError(
                f"{shown(url)} is a database of another program (it has {names[0]!r})",
                Argument("store", change="another"),
            )
        return None
    versions = connection.execute(sa.select(store.c.schema)).scalars().all()
    if len(versions) != 1 or not isinstance(versions[0], int) or versions[0] < 1:
        raise damage_error(url, f"its schema is {versions!r}")
    if versions[0] != STORE_SCHEMA:
        newer = versions[0] > STORE_SCHEMA
        way = (
            f"upgrade it (pip install -U {DISTRIBUTION})"
            if newer
            else "use the older hwbench that made it"
        )
        raise SchemaError(
            f"the store {shown(url)} has schema {versions[0]}, this hwbench reads"
            f" {'up to ' if newer else ''}{STORE_SCHEMA}; {way}",
            Argument("store", change="another"),
        )
    return versions[0]


def _ensure_schema(engine: sa.Engine, *, create: bool) -> None:
    """Create the tables where there are none; of several processes that try at once, one does."""
    with reading(engine) as connection:
        if _version(connection, engine.url) is not None:
            return
    if not create:
        raise _no_store(engine.url)
    if is_file(engine.url):
        _switch_to_wal(engine)
    write(engine, _create)


def _create(connection: sa.Connection) -> None:
    import sqlalchemy as sa

    url = connection.engine.url
    if not is_file(url):
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('hwbench_store'))"))
    if _version(connection, url) is None:
        tables().store.metadata.create_all(connection)
        connection.execute(sa.insert(tables().store).values(schema=STORE_SCHEMA))


def _switch_to_wal(engine: sa.Engine) -> None:
    """WAL mode is a property of the file. The switch ignores the busy time-out, hence the loop."""
    import sqlalchemy as sa

    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            with closing(engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode=WAL")
        except (sqlite3.OperationalError, sa.exc.DBAPIError) as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise translate_error(engine.url, error) from error
            time.sleep(0.01)
        else:
            return


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    try:
        _set_up_sqlite(connection)
    except BaseException:
        connection.close()  # SQLAlchemy forgets it, open
        raise


def _set_up_sqlite(connection: Any) -> None:
    connection.isolation_level = (
        None  # the module's own transactions begin too late; see _on_sqlite_begin
    )
    # Text that is no UTF-8 then stands for itself in one damaged record, instead of ending a query.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    for pragma in ("foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()
    connection.create_function("hwbench_sha256", 1, _sha256, deterministic=True)


def _on_sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("hwbench_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _on_postgresql_connect(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SET lock_timeout = '{BUSY_S:.0f}s'; SET idle_in_transaction_session_timeout ="
            f" '{FORGOTTEN_S}s'"
        )
    connection.commit()


def _sha256(value: str | bytes | None) -> str | None:
    return (
        None
        if value is None
        else sha256(value.encode() if isinstance(value, str) else value).hexdigest()
    )
