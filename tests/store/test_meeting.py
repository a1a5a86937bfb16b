"""Transactions that meet in the server: one waits, or does its work again.

A reader sees one state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from hwbench.errors import StoreUnavailableError
from hwbench.store import Parcel, Store, open_store
from hwbench.store.database import open_engine, reading, write
from tests.store.postgresql import Server
from tests.store.records import begun, measurement

PATIENCE_S = 60


def name_of(address: str) -> str:
    return sa.make_url(address).database or ""


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reader_sees_one_state(address: str) -> None:
    """A measurement is its row and its samples.

    Another process may replace both between the two statements.
    """
    with open_store(address) as store, open_store(address) as other:
        store.save(measurement())
        query = sa.text("SELECT model FROM hwbench_measurements")
        with reading(store._engine) as connection:
            before = connection.execute(query).scalar()
            other.save(measurement(model="other"))
            assert connection.execute(query).scalar() == before
        assert store.get("0123abc").model == "other"


def test_one_id_inserted_twice_is_replaced(shared: str, server: Server) -> None:
    with open_store(shared) as store, ThreadPoolExecutor() as pool:
        row = "('0123abc', 'first', '5', 'cpu', '2024', 'x', true, '{}')"
        with server.connect(name_of(shared)) as other:
            other.execute("BEGIN")
            other.execute(
                "INSERT INTO hwbench_measurements (id, model, model_sha256, device, started_utc,"
                f" target, complete, record) VALUES {row}"
            )
            saving = pool.submit(store.save, measurement(model="second"))
            wait_for(
                lambda: server.execute("SELECT 1 FROM pg_locks WHERE NOT granted", name_of(shared))
            )
            other.execute("COMMIT")
            saving.result(PATIENCE_S)
        assert store.get("0123abc") == measurement(model="second")


def test_a_deadlock_is_done_again(shared: str) -> None:
    """Two lock the same rows in opposite order: the server ends one, which comes second."""
    with open_store(shared) as store:
        for record_id in ("a", "b"):
            store.save(measurement(id=record_id, model="0"))
    first, second, meeting = open_engine(shared), open_engine(shared), threading.Barrier(2)
    tries: list[str] = []

    def work(connection: sa.Connection, order: str) -> None:
        tries.append(order)
        for place, record_id in enumerate(order):
            values = {"id": record_id}
            connection.execute(
                sa.text("UPDATE hwbench_measurements SET model = model || 'x' WHERE id = :id"),
                values,
            )
            if place == 0 and len(tries) <= 2:
                meeting.wait(PATIENCE_S)

    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(write, first, lambda connection: work(connection, "ab")),
            pool.submit(write, second, lambda connection: work(connection, "ba")),
        ]
        for one in both:
            one.result(PATIENCE_S)
    assert len(tries) >= 3
    with first.connect() as connection:
        assert connection.execute(
            sa.text("SELECT model FROM hwbench_measurements")
        ).scalars().all() == ["0xx", "0xx"]
    first.dispose()
    second.dispose()


def test_samples_are_not_added_beside_a_replacement(shared: str, server: Server) -> None:
    """`append` waits for whoever is replacing the measurement, so that no batch is lost between the
    two.
    """
    with open_store(shared) as store, ThreadPoolExecutor() as pool:
        store.begin(begun(measurement()))
        with server.connect(name_of(shared)) as other:
            other.execute("BEGIN")
            other.execute("SELECT 1 FROM hwbench_measurements WHERE id = '0123abc' FOR UPDATE")
            adding = pool.submit(store.append, "0123abc", 0, [0.5], [0])
            wait_for(
                lambda: server.execute("SELECT 1 FROM pg_locks WHERE NOT granted", name_of(shared))
            )
            assert not adding.done()
            other.execute("COMMIT")
        adding.result(PATIENCE_S)
        assert store.get("0123abc").series.samples_s == (0.5,)


def test_a_lock_that_is_never_given_back_is_told(shared: str, server: Server) -> None:
    separator = "&" if "?" in shared else "?"
    with open_store(f"{shared}{separator}application_name=impatient") as store:
        store.save(measurement())
        _shorten_patience(store)
        with server.connect(name_of(shared)) as other:
            other.execute("BEGIN")
            other.execute("SELECT 1 FROM hwbench_measurements FOR UPDATE")
            with pytest.raises(
                StoreUnavailableError, match="is away: canceling statement due to lock timeout"
            ):
                store.save(measurement(model="other"))
        assert store.get("0123abc") == measurement()


def _shorten_patience(store: Store) -> None:
    def shorter(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '50ms'")

    sa.event.listen(store._engine, "begin", shorter)


def test_one_of_two_transfers_at_once_is_refused_or_finds_it_known(
    shared: str, server: Server
) -> None:
    """Between looking and inserting another process may bring a measurement with the same id: it is
    compared, not replaced.
    """
    with open_store(shared) as store, ThreadPoolExecutor() as pool:
        with server.connect(name_of(shared)) as other:
            other.execute("BEGIN")
            other.execute("LOCK TABLE hwbench_measurements IN SHARE MODE")
            offered = [measurement(model=model) for model in ("one", "two", "two")]
            taking = [
                pool.submit(store.take, [Parcel(("measurement", one.id), one, one.started_utc)])
                for one in offered
            ]
            wait_for(
                lambda: (
                    server.execute(
                        "SELECT count(*) FROM pg_locks WHERE NOT granted", name_of(shared)
                    )
                    == [(3,)]
                )
            )
            other.execute("COMMIT")
        fates = [one.result(PATIENCE_S)[0].fate.value for one in taking]
        winner = store.get("0123abc")
    expected = (
        ["new", "refused", "refused"] if winner.model == "one" else ["refused", "known", "new"]
    )
    assert sorted(fates) == sorted(expected)
    assert winner in offered
