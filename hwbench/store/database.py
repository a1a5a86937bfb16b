"""The database under the store: its address, its tables, its schema version, and its transactions.

SQLite files run in WAL mode, so readers never wait. Writers take the lock at the beginning of a transaction (`BEGIN
IMMEDIATE`): taking it later fails at once when two of them meet, whatever the time-out (https://sqlite.org/isolation.html).
`synchronous=NORMAL` keeps every committed transaction when a process is killed; only a power failure can cost the last ones.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import SchemaError, UsageError

if TYPE_CHECKING:
    import sqlalchemy as sa

STORE_SCHEMA = 1
BUSY_S = 60.0
"""Seconds to wait for the transaction of another process; each takes milliseconds."""

SQLITE_MAGIC = b"SQLite format 3\0"
"""How every SQLite file begins (https://sqlite.org/fileformat.html)."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of schema 1. Samples are batches: one row holds consecutive samples of one session.

    Attributes:
        store: One row, the schema's version.
        measurements: One row per measurement: what lists show, and the record without samples as JSON.
        samples: `values_s` little-endian float64, `blocks` little-endian int64 of the same count, NULL for warm-up.
        records: Records of other kinds as JSON.
    """

    store: sa.Table
    measurements: sa.Table
    samples: sa.Table
    records: sa.Table


@lru_cache(maxsize=1)
def tables() -> Tables:
    """The tables; their names begin with `hwbench_`, so that a team's database may hold others."""
    from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, LargeBinary, MetaData, Table, Text

    meta = MetaData()
    key = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts up by itself in SQLite
    return Tables(
        Table("hwbench_store", meta, Column("schema", Integer, nullable=False)),
        Table(
            "hwbench_measurements",
            meta,
            Column("id", Text, primary_key=True),
            *(Column(name, Text, nullable=False, index=True) for name in ("model", "model_sha256", "device", "started_utc")),
            Column("target", Text, nullable=False),
            Column("complete", Boolean, nullable=False),
            Column("record", Text, nullable=False),
        ),
        Table(
            "hwbench_samples",
            meta,
            Column("number", key, primary_key=True, autoincrement=True),
            Column("measurement_id", Text, ForeignKey("hwbench_measurements.id"), nullable=False, index=True),
            Column("session", Integer, nullable=False),
            Column("count", Integer, nullable=False),
            Column("values_s", LargeBinary, nullable=False),
            Column("blocks", LargeBinary),
        ),
        Table(
            "hwbench_records",
            meta,
            Column("id", Text, primary_key=True),
            Column("kind", Text, nullable=False, index=True),
            Column("created_utc", Text, nullable=False),
            Column("record", Text, nullable=False),
        ),
    )


def open_engine(address: str | None = None) -> sa.Engine:
    """Connect to a store, creating it where there is none.

    Args:
        address: SQLAlchemy URL or path of a SQLite file; else `$HWBENCH_STORE`; else a file in the user's data folder.

    Raises:
        UsageError: The address is no such URL, is a folder, or cannot be read and written.
        SchemaError: What is there is damaged, of a newer schema or not a store; it is left untouched.
    """
    import sqlalchemy as sa

    url = _url(address or os.environ.get("HWBENCH_STORE") or _default())
    path = Path(url.database) if url.get_backend_name() == "sqlite" and url.database not in {None, "", ":memory:"} else None
    try:
        engine = sa.create_engine(url, connect_args={} if path is None else {"timeout": BUSY_S})
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        remedy = "pip install 'hwbench[lab]' brings PostgreSQL's; or give a path"
        raise UsageError(f"no driver for the store {_shown(url)} ({_line(error)}); {remedy}") from error
    if path is not None:
        _check_file(path, url)
    if url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)
    try:
        _ensure_schema(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def transaction(engine: sa.Engine, *, write: bool = False) -> Iterator[sa.Connection]:
    """One transaction, rolled back if its block fails.

    Raises:
        UsageError: The database cannot be reached, read or written, or another process holds it for too long.
        SchemaError: It is damaged.
    """
    import sqlalchemy as sa

    try:
        with engine.execution_options(hwbench_write=write).begin() as connection:
            yield connection
    except sa.exc.DBAPIError as error:
        raise _translated(engine.url, error) from error


def _default() -> str:
    import platformdirs

    folder = platformdirs.user_data_path("hwbench")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot create the data folder {folder}: {error.strerror}; give --store or HWBENCH_STORE") from error
    return str(folder / "store.db")


def _url(address: str) -> sa.URL:
    import sqlalchemy as sa

    if "://" not in address:
        return sa.URL.create("sqlite", database=str(Path(address).expanduser().absolute()))
    try:
        url = sa.make_url(address)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UsageError(f"{address.partition('://')[0]}://... is no database URL; example: sqlite:////data/store.db") from error
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _check_file(path: Path, url: sa.URL) -> None:
    """Look at an existing file through a read-only connection, so that nothing in it changes before it is known to be ours."""
    import sqlalchemy as sa

    if path.is_dir():
        raise UsageError(f"the store {path} is a folder; give a file in it, such as {path / 'store.db'}")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} of the store does not exist; create it or give another --store")
    try:
        with path.open("rb") as file:
            head = file.read(len(SQLITE_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"the store {path} cannot be read: {error.strerror}; give another --store") from error
    if not head:
        return
    if head != SQLITE_MAGIC:  # SQLite itself would write over a file shorter than a page
        raise _damaged(url, "not a SQLite file")
    reader = sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S),
        poolclass=sa.NullPool,
    )  # fmt: skip
    try:
        with reader.connect() as connection:
            verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
            if verdict != "ok":
                raise _damaged(url, str(verdict).splitlines()[-1])
            _version(connection, url)
    except sa.exc.DBAPIError as error:
        raise _translated(url, error) from error


def _version(connection: sa.Connection, url: sa.URL) -> int | None:
    """The schema of the store, which this version reads; None where there is no store yet."""
    import sqlalchemy as sa

    store = tables().store
    names = sa.inspect(connection).get_table_names()
    if store.name not in names:
        if names and url.get_backend_name() == "sqlite":
            raise SchemaError(f"{_shown(url)} is a database of another program (it has {names[0]!r}); give another --store")
        return None
    versions = connection.execute(sa.select(store.c.schema)).scalars().all()
    if len(versions) != 1 or not isinstance(versions[0], int) or versions[0] < 1:
        raise _damaged(url, f"its schema is {versions!r}")
    if versions[0] > STORE_SCHEMA:
        raise SchemaError(
            f"the store {_shown(url)} has schema {versions[0]}, this hwbench reads up to {STORE_SCHEMA}; "
            "upgrade it (pip install -U hwbench) or give another --store"
        )
    return versions[0]


def _ensure_schema(engine: sa.Engine) -> None:
    """Create the tables where there are none; of several processes that try at once, one does."""
    import sqlalchemy as sa

    with transaction(engine) as connection:
        if _version(connection, engine.url) is not None:
            return
    if engine.dialect.name == "sqlite":
        _switch_to_wal(engine)
    with transaction(engine, write=True) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('hwbench_store'))"))
        if _version(connection, engine.url) is None:
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
                raise _translated(engine.url, error) from error
            time.sleep(0.01)
        else:
            return


def _on_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the module's own transactions begin too late; see _on_begin
    for pragma in ("foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _on_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("hwbench_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _translated(url: sa.URL, error: Exception) -> SchemaError | UsageError:
    """What a failure of the database means to the user."""
    reason = _line(getattr(error, "orig", None) or error)
    if any(sign in reason for sign in ("malformed", "not a database", "no such table", "no such column", 'relation "hwbench_')):
        return _damaged(url, reason)
    if "locked" in reason:
        return UsageError(f"another process has held the store {_shown(url)} for {BUSY_S:.0f} s; end it or give another --store")
    return UsageError(f"the store {_shown(url)} cannot be used: {reason}; check that it can be written, or give another --store")


def _damaged(url: sa.URL, reason: str) -> SchemaError:
    return SchemaError(
        f"the store {_shown(url)} is damaged ({reason}) and was left untouched; move it away or give another --store"
    )


def _shown(url: sa.URL) -> str:
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
