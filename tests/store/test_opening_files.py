"""Which file is opened, and what is refused and left as it was."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from hwbench.errors import SchemaError, UsageError
from hwbench.store import database, open_store
from hwbench.store.database import STORE_SCHEMA, tables


def refused(path: Path, error: type[Exception], match: str) -> None:
    """Opening fails, in one line, and changes nothing."""
    before = path.read_bytes() if path.is_file() else None
    for address in (str(path), f"sqlite:///{path}"):
        with pytest.raises(error, match=match) as caught:
            open_store(address)
        assert str(path) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert (path.read_bytes() if path.is_file() else None) == before


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store with so many records that the file has many pages."""
    path = tmp_path / "store.db"
    with open_store(str(path)) as store:
        for number in range(200):
            store.save_record("comparison", {"number": number, "text": "x" * 500})
    return path


def test_environment_and_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("HWBENCH_STORE", raising=False)
    with open_store() as store:
        assert Path(store.url.removeprefix("sqlite:///")).is_relative_to(tmp_path)
    monkeypatch.setenv("HWBENCH_STORE", str(tmp_path / "mine.db"))
    with open_store():
        assert (tmp_path / "mine.db").exists()
    with open_store(str(tmp_path / "given.db")):
        assert (tmp_path / "given.db").exists()


def test_wal_mode_and_schema_are_in_the_file(filled: Path) -> None:
    connection = sqlite3.connect(filled)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT schema FROM hwbench_store").fetchall() == [(STORE_SCHEMA,)]
    connection.close()


def test_names_with_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "a b?c#d%20e'é.db"
    for _ in range(2):
        with open_store(str(path)) as store:
            store.save_record("x", {})
    assert path.exists()


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "store.db").touch()
    with open_store(str(tmp_path / "store.db")) as store:
        assert store.list() == ()


def test_newer_schema_is_refused(filled: Path) -> None:
    connection = sqlite3.connect(filled)
    connection.execute("UPDATE hwbench_store SET schema = 7")
    connection.commit()
    connection.close()
    refused(
        filled, SchemaError, rf"has schema 7, this hwbench reads up to {STORE_SCHEMA}; upgrade it"
    )


def test_the_log_of_a_killed_newer_version_stays_beside_its_file(
    filled: Path, tmp_path: Path
) -> None:
    """Whoever closes a SQLite file last works the log into it.

    Not so before the schema is known.
    """
    writer = sqlite3.connect(filled)
    writer.execute("UPDATE hwbench_store SET schema = 7")
    writer.commit()
    (tmp_path / "killed").mkdir()
    copy = tmp_path / "killed" / "store.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{filled}{suffix}", f"{copy}{suffix}")
    writer.close()
    log = Path(f"{copy}-wal").read_bytes()
    assert log
    refused(copy, SchemaError, "has schema 7")
    assert Path(f"{copy}-wal").read_bytes() == log


@pytest.mark.parametrize(
    "change", ["DELETE FROM hwbench_store", "UPDATE hwbench_store SET schema = 'x'"]
)
def test_impossible_schema_is_damage(filled: Path, change: str) -> None:
    connection = sqlite3.connect(filled)
    connection.execute(change)
    connection.commit()
    connection.close()
    refused(filled, SchemaError, "is damaged")


@pytest.mark.parametrize(
    "content", [b"no database at all, but longer than the header of one" * 50, b"x", b"\0" * 4096]
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    refused(path, SchemaError, "is damaged .* left untouched")


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_truncated_store_is_refused(filled: Path, kept: float) -> None:
    data = filled.read_bytes()
    filled.write_bytes(data[: int(len(data) * kept)])
    refused(filled, SchemaError, "is damaged .* left untouched")


def test_overwritten_page_is_found_before_anything_is_written(filled: Path) -> None:
    data = bytearray(filled.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\x5a" * 4096
    filled.write_bytes(data)
    refused(filled, SchemaError, "is damaged .* left untouched")


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bookmarks.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.commit()
    connection.close()
    refused(path, SchemaError, "database of another program .*'bookmarks'")


def test_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, UsageError, "is a folder; give a file in it")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere of the store does not exist; create it"):
        open_store(str(tmp_path / "nowhere" / "store.db"))


def test_unwritable_place_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"the store /proc/store\.db cannot be used: unable to open database file"
    ):
        open_store("/proc/store.db")


@pytest.mark.parametrize(
    "address",
    [
        "nosuch://host/db",
        "mysql://host/db",
        "://x",
        "sqlite+nosuch:///x.db",
        "postgresql://host:port/db",
    ],
)
def test_unknown_url_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_store(address)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_driver_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r"pip install .*psycopg"):
        open_store("postgresql://host/db")


def test_a_writer_that_never_ends_is_told(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    other = sqlite3.connect(filled, isolation_level=None)
    with open_store(str(filled)) as store:
        other.execute("BEGIN IMMEDIATE")
        assert len(store.records("comparison")) == 200, "readers do not wait"
        with pytest.raises(UsageError, match="another process has held the store"):
            store.save_record("comparison", {})
        other.execute("ROLLBACK")
        store.save_record("comparison", {})
    other.close()


def test_the_tables_exist_in_postgresql_too() -> None:
    for table in tables().store.metadata.sorted_tables:
        statement = str(sa.schema.CreateTable(table).compile(dialect=postgresql.dialect()))
        assert statement.strip().startswith(f"CREATE TABLE {table.name}")


def test_a_store_that_another_process_is_creating_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
    release.start()
    with open_store(str(path)) as store:
        assert not other.in_transaction, "it was opened while the other held it"
        assert store.list() == ()
    release.join()
    other.close()


def test_a_connection_that_cannot_be_set_up_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"no database" * 1000)
    engine = database._engine(sa.make_url(f"sqlite:///{path}"))
    made: list[sqlite3.Connection] = []

    @sa.event.listens_for(engine, "do_connect")
    def connect(*_: object) -> sqlite3.Connection:
        made.append(sqlite3.connect(path))
        return made[-1]

    with pytest.raises(sa.exc.DatabaseError):
        engine.connect()
    (connection,) = made
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
