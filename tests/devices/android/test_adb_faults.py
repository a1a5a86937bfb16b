"""Whatever goes wrong on the way: every operation ends in time, with the right result or a typed
error, and leaves nothing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from hwbench.devices.android.adb.client import Adb
from hwbench.errors import DeviceLostError, HwbenchError
from tests.devices.android.pyadbd import PyAdbd, Stream
from tests.devices.android.pyadbd_faults import KINDS, Fault, Faults
from tests.devices.android.pyadbd_support import soon

TIMEOUT_S = 0.3
"""Of an operation with faults; one without takes some milliseconds."""
SEEDS = range(5)
OF_TRANSPORT = [kind for kind in KINDS if kind != "corrupt_put"]  # that one needs a runner


def _run(adb: Adb, folder: Path, data: bytes, timeout_s: float) -> None:
    done = adb.run(
        ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=data, timeout_s=timeout_s, check=False
    )
    assert (done.code, done.stdout, done.stderr) == (3, data, b"err\n")


def _push(adb: Adb, folder: Path, data: bytes, timeout_s: float) -> None:
    remote = folder / "pushed"
    before = remote.read_bytes() if remote.exists() else None
    try:
        adb.push(data, str(remote), timeout_s=timeout_s)
    except HwbenchError:
        assert (remote.read_bytes() if remote.exists() else None) in {before, data}
        raise
    assert remote.read_bytes() == data


def _pull(adb: Adb, folder: Path, data: bytes, timeout_s: float) -> None:
    (folder / "pulled").write_bytes(data)
    assert adb.pull(str(folder / "pulled"), limit_bytes=len(data), timeout_s=timeout_s) == data


def _talk(adb: Adb, folder: Path, data: bytes, timeout_s: float) -> None:
    process = adb.start(["cat"], timeout_s=timeout_s)
    try:
        for word in (data[:100], data):
            process.send(word, timeout_s)
            received = b""
            while len(received) < len(word):
                received += process.receive(timeout_s)
                assert word.startswith(received)
    finally:
        process.close(0.1)


def _connect(adb: Adb, folder: Path, data: bytes, timeout_s: float) -> None:
    adb.close()
    assert adb.run(["echo", "again"], timeout_s=timeout_s).stdout == b"again\n"


OPERATIONS: dict[str, Callable[[Adb, Path, bytes, float], None]] = {
    "run": _run,
    "push": _push,
    "pull": _pull,
    "talk": _talk,
    "connect": _connect,
}


def _plan(kind: str, seed: int) -> list[Fault]:
    """One fault of that kind early on, and sometimes others after it."""
    chance = random.Random(f"{kind} {seed}")
    others = [
        Fault(chance.choice(OF_TRANSPORT), chance.randrange(2, 20), 0.05) for _ in range(seed % 3)
    ]
    return [Fault(kind, 1 + seed, chance.choice((0.05, 1.5 * TIMEOUT_S))), *others]


@pytest.mark.parametrize("kind", OF_TRANSPORT)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_with_faults(
    operation: str, kind: str, adb: Adb, adbd: PyAdbd, tmp_path: Path
) -> None:
    act, happened = OPERATIONS[operation], 0
    for seed in SEEDS:
        data = random.Random(seed).randbytes(300_000 if seed % 2 else 70_000)
        adbd.faults = Faults(_plan(kind, seed), seed)
        started = time.monotonic()
        try:
            act(adb, tmp_path, data, TIMEOUT_S)
        except HwbenchError as error:
            assert "\n" not in str(error)
        assert time.monotonic() - started < 5 * TIMEOUT_S + 2
        happened += len(adbd.faults.happened)
        adbd.faults, adbd.trusted = Faults(), None
        assert soon(lambda: adbd.listening)
        with suppress(
            DeviceLostError
        ):  # the connection may have been lost just after the operation had ended well
            adb.run(["true"], timeout_s=20.0)
        act(adb, tmp_path, data, 20.0)
        assert soon(lambda: not adbd.running())
        assert {path.name for path in tmp_path.iterdir()} <= {"home", "pushed", "pulled"}
    assert happened


@pytest.mark.parametrize("talks", [True, False], ids=["that is talked to", "in silence"])
def test_a_service_whose_number_came_damaged_is_not_left_running(
    talks: bool, adb: Adb, adbd: PyAdbd
) -> None:
    """The phone does not know the number, so closing the stream does not reach the service: only
    hanging up does.
    """
    adb.close()
    adbd.faults = Faults([Fault("wrong_id", 2)], seed=1)  # the first answers the greeting
    process = adb.start(["cat"], timeout_s=TIMEOUT_S)
    assert adbd.faults.happened
    if talks:
        process.send(b"word", TIMEOUT_S)
        with pytest.raises(DeviceLostError):
            process.receive(TIMEOUT_S)
    process.close(0.1)
    assert soon(lambda: not adbd.running())


def test_a_command_that_ends_before_its_input_is_acknowledged_leaves_others_alone(
    adb: Adb, adbd: PyAdbd, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = adb.start(["cat"], timeout_s=TIMEOUT_S)
    take = Stream.take

    def take_and_dawdle(self: Stream, data: bytes) -> None:
        take(
            self, data
        )  # from here on the command may run and end; the packet is acknowledged afterwards
        time.sleep(0.2)

    monkeypatch.setattr(Stream, "take", take_and_dawdle)
    assert adb.run(["true"], timeout_s=20.0).code == 0
    other.send(b"still here", 20.0)
    assert other.receive(20.0) == b"still here"
    other.close(20.0)


def test_the_remains_of_an_interrupted_push_are_removed_without_the_next_one(
    adb: Adb, adbd: PyAdbd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_remove, removed = threading.Event(), threading.Event()
    unlink, script = Path.unlink, adb.script

    def unlink_late(path: Path, missing_ok: bool = False) -> None:
        may_remove.wait(20)
        unlink(path, missing_ok=missing_ok)
        removed.set()

    def script_after_removal(*arguments: str, **options: object) -> object:
        may_remove.set()
        assert removed.wait(20)
        return script(*arguments, **options)

    monkeypatch.setattr(Path, "unlink", unlink_late)
    monkeypatch.setattr(adb, "script", script_after_removal)
    adbd.faults = Faults([Fault("cut", 2)], seed=1)  # the phone has the name by then
    with pytest.raises(DeviceLostError):
        adb.push(b"interrupted", str(tmp_path / "pushed"))
    adb.push(b"whole", str(tmp_path / "pushed"))
    assert (tmp_path / "pushed").read_bytes() == b"whole"
    assert not list(tmp_path.glob("*.part"))
