"""Opening a store of either kind: its schema, and where there is none."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from hwbench.errors import SchemaError, UsageError
from hwbench.store import database, open_store
from hwbench.store.database import STORE_SCHEMA
from tests.store.postgresql import Server
from tests.store.records import change, measurement


def test_newer_schema_is_refused(address: str) -> None:
    with open_store(address) as store:
        change(store, "UPDATE hwbench_store SET schema = 7")
    with pytest.raises(
        SchemaError, match=rf"has schema 7, this hwbench reads up to {STORE_SCHEMA}; upgrade it"
    ):
        open_store(address)


def test_older_schema_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(address).close()
    monkeypatch.setattr(database, "STORE_SCHEMA", STORE_SCHEMA + 1)
    with pytest.raises(
        SchemaError, match=rf"has schema {STORE_SCHEMA}, .* use the older hwbench that made it"
    ):
        open_store(address)


@pytest.mark.parametrize(
    "statement", ["DELETE FROM hwbench_store", "UPDATE hwbench_store SET schema = 0"]
)
def test_impossible_schema_is_damage(address: str, statement: str) -> None:
    with open_store(address) as store:
        change(store, statement)
    with pytest.raises(SchemaError, match="is damaged"):
        open_store(address)


def test_a_lost_table_is_damage(address: str) -> None:
    with open_store(address) as store:
        change(store, "DROP TABLE hwbench_samples")
        with pytest.raises(SchemaError, match="is damaged"):
            store.list()


def test_nothing_is_made_unasked(address: str) -> None:
    with pytest.raises(UsageError, match="there is no store at"):
        open_store(address, create=False)
    open_store(address).close()
    open_store(address, create=False).close()


def test_short_and_other_forms_of_the_url(shared: str, server: Server) -> None:
    with open_store(shared) as store:
        store.save(measurement())
    for scheme in ("postgresql", "postgres", "postgresql+psycopg2", "postgresql+asyncpg"):
        with open_store(f"{scheme}://{shared.partition('://')[2]}") as store:
            assert store.get("0123abc") == measurement()


def test_other_tables_may_live_beside_it(shared: str, server: Server) -> None:
    server.execute("CREATE TABLE bookmarks (url text)", sa.make_url(shared).database or "")
    with open_store(shared) as store:
        store.save(measurement())


def test_a_reader_without_other_rights_can_read(shared: str, server: Server) -> None:
    with open_store(shared) as store:
        store.save(measurement())
    name = sa.make_url(shared).database or ""
    server.execute(f"CREATE ROLE reader_{name} LOGIN PASSWORD 'r'", name)
    server.execute(f"GRANT USAGE ON SCHEMA public TO reader_{name}", name)
    server.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}", name)
    reader = server.url(name).replace("tester:s3cret%2Fw0rd", f"reader_{name}:r")
    with open_store(reader) as store:
        assert store.get("0123abc") == measurement()
        with pytest.raises(
            UsageError, match=r"refuses: permission denied .*see that its user may do that"
        ):
            store.save(measurement(id="other"))


@pytest.mark.database
def test_order_is_that_of_sqlite_whatever_the_language(server: Server) -> None:
    """Most languages order text without its punctuation and capitals; ids and times must not be."""
    with open_store(server.database(locale="en-US")) as store:
        for name in ("b", "B", "a-b", "ab", "a_c"):
            store.save(measurement(id=name, started_utc="2024-01-01T00:00:00+00:00"))
        assert [row.id for row in store.list()] == ["B", "a-b", "a_c", "ab", "b"]
        assert store.get("a-").id == "a-b"
