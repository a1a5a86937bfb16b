"""The server goes away while something is written: an error that says so, nothing half-written, and
nothing lost.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import typer.main

from hwbench import store as store_module
from hwbench.cli.commands import app
from hwbench.cli.hints import error_line
from hwbench.devices.virtual.device import Virtual
from hwbench.devices.virtual.noise import White
from hwbench.errors import HwbenchError, SchemaError, StoreLostError, StoreUnavailableError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.sessions import measure
from hwbench.records.measurement import Settings
from hwbench.store import Store, open_store
from hwbench.store.database import write
from hwbench.workflows.profile import profile
from hwbench.workflows.recording import recording
from hwbench.workflows.sync_store import sync_store
from tests.store.postgresql import Server
from tests.store.records import begun, measurement
from tests.support.models import told


def name_of(address: str) -> str:
    return sa.make_url(address).database or ""


def cut(server: Server, address: str) -> None:
    """End every session of a database."""
    server.execute(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname ="
        f" '{name_of(address)}'",
        "postgres",
    )


def test_a_session_cut_inside_a_transaction_leaves_nothing(shared: str, server: Server) -> None:
    def work(connection: sa.Connection) -> None:
        statement = sa.text("INSERT INTO hwbench_records VALUES (:id, 'kind', '2024', '{}')")
        connection.execute(statement, {"id": "first"})
        cut(server, shared)
        connection.execute(statement, {"id": "second"})

    with open_store(shared) as store:
        with pytest.raises(StoreUnavailableError, match=r"is away: .*; see that its server runs"):
            write(store._engine, work)
        assert store.records("kind") == {}


def test_a_session_cut_between_two_transactions_is_not_noticed(
    shared: str, server: Server, local: str
) -> None:
    with open_store(shared) as store:
        store.begin(begun(measurement()))
        for number in range(3):
            cut(server, shared)
            store.append("0123abc", 0, [1.0 + number], [number])
        assert store.get("0123abc").series.samples_s == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_measurement_goes_on_in_the_local_store(
    shared: str, server: Server, local: str, how: signal.Signals
) -> None:
    record = measurement()
    record = replace(record, series=replace(record.series, session=(0, 0, 1, 1)))
    with open_store(shared) as store:
        store.begin(begun(record))
        store.append(record.id, 0, record.warm_up.samples_s, warm_up=True)
        store.append(record.id, 0, record.series.samples_s[:2], record.series.block[:2])
        server.stop(how)
        with pytest.raises(StoreUnavailableError, match="is away") as caught:
            store.append(record.id, 1, record.series.samples_s[2:], record.series.block[2:])
        assert caught.value.__notes__ == [f"what was measured is kept in {local}"]
        line = error_line(caught.value, typer.main.get_command(app), ("profile",))
        assert f"when the shared store is back: hwbench store sync --from {local} --to" in line
        assert len("".join(caught.value.__notes__).splitlines()) == 1
    with open_store(local) as rescued:
        expected = replace(record, warm_up=replace(record.warm_up, session=(0, 0)), complete=False)
        assert rescued.get(record.id) == expected
    server.start()
    with open_store(shared) as store:
        assert store.get(record.id).series.samples_s == record.series.samples_s[:2]
        assert sync_store(shared).updated == 1
        assert store.get(record.id) == expected
        assert (sync_store(shared).updated, sync_store(shared).known) == (0, 1)


def test_whole_records_are_kept_too(shared: str, server: Server, local: str) -> None:
    with open_store(shared) as store:
        store.begin(begun(measurement()))
        server.stop()
        with pytest.raises(StoreUnavailableError):
            store.finish(measurement())
        with pytest.raises(StoreUnavailableError):
            store.save_record("lookup", {"pair": (1, 2)})
    server.start()
    done = sync_store(shared)
    assert (done.new, done.updated, done.refused) == ({"lookup": 1}, 1, [])
    with open_store(shared) as store:
        assert store.get("0123abc") == measurement()
        assert list(store.records("lookup").values()) == [{"pair": [1, 2]}]


def test_a_withdrawn_session_is_kept_as_warm_up(shared: str, server: Server, local: str) -> None:
    with open_store(shared) as store:
        store.begin(begun(measurement()))
        store.append("0123abc", 0, [0.5], [0])
        store.withdraw("0123abc", 0)
        server.stop()
        with pytest.raises(StoreUnavailableError):
            store.append("0123abc", 1, [0.25], [1])
    server.start()
    sync_store(shared)
    with open_store(shared) as store:
        found = store.get("0123abc")
    assert (found.warm_up.samples_s, found.series.samples_s) == ((0.5,), (0.25,))


def test_a_lost_answer_doubles_nothing(
    shared: str, local: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server committed, but the connection broke before it could say so."""

    def unheard(engine: sa.Engine, work: object) -> None:
        write(engine, work)  # type: ignore[arg-type]
        cause = sa.exc.OperationalError("COMMIT", None, OSError("connection reset"))
        raise StoreUnavailableError("the store is away") from cause

    with open_store(shared) as store:
        store.begin(begun(measurement()))
        monkeypatch.setattr(store_module, "write", unheard)
        for doing in (
            lambda: store.append("0123abc", 0, [0.5], [0]),
            lambda: store.save_record("kind", {"number": 1}),
            lambda: store.save(measurement(id="whole")),
        ):
            with pytest.raises(StoreUnavailableError):
                doing()
        monkeypatch.undo()
        monkeypatch.setenv("HWBENCH_STORE", local)
        done = sync_store(shared)
        assert (done.new.total(), done.updated, done.known, done.refused) == (0, 0, 3, [])
        assert store.get("0123abc").series.samples_s == (0.5,)
        assert len(store.records("kind")) == 1


def test_where_the_local_store_fails_as_well_both_are_told(
    shared: str, server: Server, local: str
) -> None:
    Path(local).write_text("no store")
    with open_store(shared) as store:
        server.stop()
        with pytest.raises(StoreUnavailableError) as caught:
            store.save(measurement())
    server.start()
    assert (
        f"the local store did not take it either: the store {local} is damaged"
        in caught.value.__notes__[0]
    )


def test_a_faulty_call_is_not_kept(shared: str, local: str) -> None:
    with open_store(shared) as store:
        for doing in (
            lambda: store.append("nobody", 0, [0.1], [0]),
            lambda: store.save_record("kind", {"number": float("nan")}),
        ):
            with pytest.raises(HwbenchError) as caught:
                doing()
            assert not hasattr(caught.value, "__notes__")
        with pytest.raises(SchemaError):
            store.save(measurement(model=None))
    with open_store(local) as untouched:
        assert untouched.keys() == []


class Given(MeasuringCallback):
    """Remembers what the device gave, and stops the server in the midst of it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.samples_s: list[float] = []

    def sampled(
        self,
        record: int,
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int],
        *,
        warm_up: bool,
    ) -> None:
        """Comes after the samples are in the store."""
        self.samples_s += () if warm_up else samples_s
        if len(self.samples_s) > 100:
            self.server.stop(signal.SIGQUIT)


def test_a_measurement_under_way(shared: str, server: Server, local: str) -> None:
    """Through the workflow's own callback: what the device gave is in the shared store, or in the
    local one.
    """
    given, net = Given(server), told("a")
    device = Virtual(noise=(White(),), latencies_s={net.sha256: 0.01})
    with (
        pytest.raises(StoreUnavailableError),
        device,
        recording(shared, save=True, callback=given) as recorder,
    ):
        measure(device, net, Settings(layers=False, budget_s=10), recorder)
    server.start()
    sync_store(shared)
    with open_store(shared) as store:
        found = store.get(store.list()[0].id)
    assert not found.complete
    assert len(found.series.samples_s) > len(given.samples_s) > 100, (
        "the batch that met the stopped server is there too"
    )
    assert found.series.samples_s[: len(given.samples_s)] == tuple(given.samples_s)


@pytest.mark.parametrize("happened", ["deleted", "replaced", "moved and made anew"])
@pytest.mark.parametrize("late", [False, True])
def test_a_file_that_is_lost_while_measuring_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, happened: str, *, late: bool
) -> None:
    path, calls = tmp_path / "store.db", []
    moment = "finish" if late else "append"
    real = getattr(Store, moment)

    def lose(self: Store, *arguments: object, **named: object) -> object:
        calls.append(None)
        if len(calls) == 1:
            if happened == "replaced":
                (tmp_path / "other.db").write_bytes(path.read_bytes())
                (tmp_path / "other.db").replace(path)
            elif happened == "deleted":
                for file in tmp_path.glob("store.db*"):
                    file.unlink()
            else:
                path.rename(tmp_path / "away.db")
                with open_store(str(path)):
                    pass
        return real(self, *arguments, **named)

    monkeypatch.setattr(Store, moment, lose)
    with pytest.raises(StoreLostError, match=r"was (deleted|replaced by another file)") as caught:
        profile(
            "zoo:resnet20@0.25", device="virtual", settings=Settings(budget_s=1.0), store=str(path)
        )
    assert caught.value.exit_code == 3
    assert any("is not kept" in note for note in caught.value.__notes__)
