"""Defects of the libraries that the adb transport must not have: each test fails when its cure is
taken away.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hwbench.devices.android.adb import direct
from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.android.adb.direct import TcpPipe
from hwbench.errors import (
    DeviceCommandError,
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
)
from tests.devices.android.pyadbd import PyAdbd
from tests.devices.android.pyadbd_faults import Fault, Faults
from tests.devices.android.pyadbd_support import soon

pytestmark = pytest.mark.usefixtures("alone")


@contextlib.contextmanager
def peer(act: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where the first who connects is treated so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as connected:
                act(connected)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(10)


def test_a_send_that_the_network_takes_in_parts_is_whole() -> None:
    data, received = bytes(range(256)) * 8_000, bytearray()

    def slowly(connected: socket.socket) -> None:
        time.sleep(0.1)
        while more := connected.recv(100_000):
            received.extend(more)

    with peer(slowly) as port:
        pipe = TcpPipe("127.0.0.1", port, time.monotonic() + 5)
        pipe._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        pipe.write(data, time.monotonic() + 10)
        pipe.close()
    assert received == data


def _fastest_answer_s(adb: Adb, nodelay: int) -> float:
    adb._link._pipe._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, nodelay)  # type: ignore[attr-defined]
    process, times_s = adb.start(["cat"]), []
    for _ in range(10):
        started = time.monotonic()
        process.send(b"word\n", 1)
        assert process.receive(1) == b"word\n"
        times_s.append(time.monotonic() - started)
    process.close(1)
    return min(times_s)


def test_small_packets_do_not_wait_for_each_other(adb: Adb) -> None:
    assert adb._link._pipe._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # type: ignore[attr-defined]
    assert _fastest_answer_s(adb, 1) < 0.02 < _fastest_answer_s(adb, 0)


def _say_goodbye(connected: socket.socket) -> None:
    """End the stream in this direction, and take what still comes in the other."""
    connected.shutdown(socket.SHUT_WR)
    while connected.recv(1000):
        pass


def test_a_phone_that_hangs_up_is_noticed_at_once_and_without_work() -> None:
    with peer(_say_goodbye) as port:
        started, worked_s = time.monotonic(), time.process_time()
        with pytest.raises(DeviceLostError):
            connect(f"127.0.0.1:{port}", timeout_s=5)
        assert time.monotonic() - started < 4, "it was not noticed"
        assert time.process_time() - worked_s < 0.5


def test_a_phone_that_says_nothing_costs_no_work() -> None:
    with peer(lambda connected: time.sleep(1.5)) as port:
        worked_s = time.process_time()
        with pytest.raises(DeviceTimeoutError):
            connect(f"127.0.0.1:{port}", timeout_s=1)
        assert time.process_time() - worked_s < 0.5


def test_a_command_may_be_silent_for_longer_than_ten_seconds(adb: Adb) -> None:
    assert adb.run(["sh", "-c", "sleep 10.5; echo awake"]).text == "awake\n"


def test_a_refused_push_of_many_packets_says_why(adb: Adb) -> None:
    started = time.monotonic()
    with pytest.raises(
        DeviceCommandError, match=r"refuses /proc/no/file.*: couldn't create file: No such file"
    ):
        adb.push(bytes(8 << 20), "/proc/no/file")
    assert time.monotonic() - started < 5


def test_an_abandoned_command_ends(adb: Adb, adbd: PyAdbd) -> None:
    process = adb.start(["sleep", "60"])
    assert soon(adbd.running)
    process.close(0)
    assert soon(lambda: not adbd.running())
    assert adb.run(["echo", "the connection lives on"]).code == 0
    assert len(adbd.connections) == 1


def test_a_late_answer_is_not_taken_for_the_next_one(adb: Adb, adbd: PyAdbd) -> None:
    adbd.faults, before = Faults([Fault("delay", 2, seconds=0.5)]), adb._link
    with pytest.raises(DeviceTimeoutError):
        adb.run(["echo", "late"], timeout_s=0.2)
    assert adb.run(["echo", "next"]).text == "next\n"
    assert before.closed
    time.sleep(0.5)
    assert adb.run(["echo", "last"]).text == "last\n"


@pytest.mark.parametrize("size", [100, 1 << 20])
def test_a_bit_that_tips_over_on_the_way_is_noticed(
    adb: Adb, adbd: PyAdbd, tmp_path: Path, size: int
) -> None:
    (tmp_path / "file").write_bytes(bytes(size))
    for seed in range(10):
        adbd.faults = Faults([Fault("corrupt", 3 + seed % 2)], seed)
        try:
            assert adb.pull(str(tmp_path / "file"), limit_bytes=size, timeout_s=2) == bytes(size)
        except DeviceError:
            continue


def test_a_pushed_file_that_arrives_damaged_is_not_installed(
    adb: Adb, adbd: PyAdbd, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    adb.push(b"old", str(remote))
    adbd.faults = Faults([Fault("corrupt_push", 1)])
    with pytest.raises(DeviceCommandError, match="what arrived has the sum"):
        adb.push(bytes(1 << 20), str(remote))
    assert remote.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["remote"]


def test_memory_is_bounded_when_nobody_reads(adb: Adb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "QUEUE_BYTES", 1 << 20)
    flood = adb.start(["cat", "/dev/zero"])
    for _ in range(30):
        adb.run(["true"])
    assert flood._stream._queued_bytes < 3 << 20  # type: ignore[attr-defined]
    flood.close()


def test_a_service_that_is_refused(adb: Adb, adbd: PyAdbd) -> None:
    adbd.faults = Faults([Fault("refuse", 1)])
    with pytest.raises(DeviceUnavailableError, match="refuses the service 'shell,v2,raw'"):
        adb.run(["true"])
    assert adb.run(["echo", "next"]).text == "next\n"
