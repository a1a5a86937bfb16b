"""The store between real processes: two that write, and one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench.errors import SchemaError
from hwbench.store import open_store

PRELUDE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_store import begun, measurement
from hwbench.store import open_store
"""

ENDLESS = """
with open_store(sys.argv[1]) as store:
    store.begin(begun(measurement(id="victim")))
    store.append("victim", 0, [0.5], warm_up=True)
    for number in range(10**9):
        store.append("victim", number // 10, [1.0 + number], [number])
        print(number, flush=True)
"""

WRITER = """
name = sys.argv[2]
print("ready", flush=True)
input()
with open_store(sys.argv[1]) as store:
    store.begin(begun(measurement(id=name)))
    for number in range(50):
        store.append(name, number // 10, [1.0 + number], [number])
    store.finish(store.get(name))
"""


def start(code: str, *argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("rounds", [1, 37])
def test_a_killed_writer_loses_at_most_the_round_in_flight(tmp_path: Path, rounds: int) -> None:
    path = tmp_path / "store.db"
    with start(ENDLESS, str(path)) as writer:
        assert writer.stdout is not None
        for _ in range(rounds):
            assert writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        told = rounds + len(writer.stdout.readlines())
        assert writer.wait() == -signal.SIGKILL
    with open_store(str(path)) as store:
        record = store.get("victim")
        assert not record.complete
        assert record.warmup_s == (0.5,)
        assert told <= len(record.samples_s) <= told + 1
        assert record.samples_s == tuple(1.0 + number for number in range(len(record.samples_s)))
        assert record.block == tuple(range(len(record.samples_s)))
        assert record.session == tuple(number // 10 for number in range(len(record.samples_s)))
        store.append("victim", 9, [2.0], [10**6])
        assert store.get("victim").samples_s[-1] == 2.0


def test_a_damaged_store_of_a_killed_writer_is_left_untouched(tmp_path: Path) -> None:
    """Its write-ahead log must not be worked into the file by whoever looks at it."""
    path = tmp_path / "store.db"
    with start(ENDLESS, str(path)) as writer:
        assert writer.stdout is not None
        for _ in range(20):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        writer.stdout.read()
    log = tmp_path / "store.db-wal"
    assert log.stat().st_size > 0
    path.write_bytes(b"\x5a" * path.stat().st_size)
    before = path.read_bytes(), log.read_bytes()
    with pytest.raises(SchemaError, match="left untouched"):
        open_store(str(path))
    assert (path.read_bytes(), log.read_bytes()) == before


def test_several_processes_create_and_write_at_once(tmp_path: Path) -> None:
    path, names = tmp_path / "store.db", [f"writer{number}" for number in range(4)]
    writers = [start(WRITER, str(path), name) for name in names]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    with open_store(str(path)) as store:
        for name in names:
            record = store.get(name)
            assert record.complete
            assert record.block == tuple(range(50))
