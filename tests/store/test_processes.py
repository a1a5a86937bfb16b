"""The store between real processes: eight that write, and one that is killed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hwbench.errors import SchemaError
from hwbench.store import open_store
from tests.store.children import append_forever, count, running, together, told, write_much
from tests.store.records import measurement


@pytest.mark.parametrize("rounds", [1, 37])
def test_a_killed_writer_loses_at_most_the_round_in_flight(address: str, rounds: int) -> None:
    with running(append_forever, address) as (writer, pipe):
        for _ in range(rounds):
            pipe.recv()
        writer.kill()
        said = rounds + len(told(pipe))
    with open_store(address) as store:
        record = store.get("victim")
        assert not record.complete
        assert record.warm_up.samples_s == (0.5,)
        assert said <= len(record.series.samples_s) <= said + 1
        assert record.series.samples_s == tuple(
            1.0 + number for number in range(len(record.series.samples_s))
        )
        assert record.series.block == tuple(range(len(record.series.samples_s)))
        assert record.series.session == tuple(
            number // 10 for number in range(len(record.series.samples_s))
        )
        store.append("victim", 9, [2.0], [10**6])
        assert store.get("victim").series.samples_s[-1] == 2.0


def test_a_damaged_store_of_a_killed_writer_is_left_untouched(tmp_path: Path) -> None:
    """Its write-ahead log must not be worked into the file by whoever looks at it."""
    path, log = tmp_path / "store.db", tmp_path / "store.db-wal"
    with open_store(str(path)) as store:  # pages that the log of the writer does not hold
        for number in range(200):
            store.save_record("comparison", {"number": number, "text": "x" * 500})
    with running(append_forever, str(path)) as (writer, pipe):
        for _ in range(20):
            pipe.recv()
        writer.kill()
        told(pipe)
    assert log.stat().st_size > 0
    path.write_bytes(b"\x5a" * path.stat().st_size)
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(SchemaError, match="left untouched"):
        open_store(str(path))
    assert (path.read_bytes(), log.read_bytes()) == before


def test_a_store_opened_twice_keeps_its_locks(tmp_path: Path) -> None:
    """Else another process that leaves believes itself the last one, and takes the log away from
    under this one.
    """
    path, log = tmp_path / "store.db", tmp_path / "store.db-wal"
    with open_store(str(path)) as first:
        first.save_record("comparison", {"number": 1})
        with open_store(str(path)) as second:
            assert len(second.records("comparison")) == 1
        together(write_much, [(str(path), "other", 2)])
        assert log.exists()
        first.save_record("comparison", {"number": 2})
    with open_store(str(path)) as store:
        assert len(store.records("comparison")) == 2
        assert len(store.get("other").series.samples_s) > 0


def test_eight_processes_create_it_at_once(address: str) -> None:
    assert together(count, [(address,)] * 8) == [0] * 8


def test_eight_processes_create_and_write_at_once(address: str) -> None:
    names, rounds = [f"writer{number}" for number in range(8)], 25
    together(write_much, [(address, name, rounds) for name in names])
    with open_store(address) as store:
        for name in names:
            record = store.get(name)
            assert record.complete
            assert record.series.block == tuple(range(rounds))
            assert record.series.samples_s == tuple(1.0 + number for number in range(rounds))
        written = Counter(
            (data["writer"], data["number"]) for data in store.records("numbers").values()
        )
        assert written == Counter((name, number) for name in names for number in range(rounds))
        last = store.get("contested")
        assert last == measurement(id="contested", model=last.model)
        assert len(store.list()) == 9
