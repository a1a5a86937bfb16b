"""The device lock between real processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwbench.devices.shared.lock import DeviceLock, wait_for_devices
from hwbench.errors import DeviceUnavailableError, UsageError

HOLDER = """
import sys
from hwbench.devices.shared.lock import DeviceLock
with DeviceLock(sys.argv[1]):
    print("held", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(cache: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_busy_names_the_holder(holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(DeviceUnavailableError, match=rf"cpu is in use by process {holder.pid};"),
        DeviceLock("cpu"),
    ):
        pass


def test_another_device_is_free(holder: subprocess.Popen[str]) -> None:
    with DeviceLock("android:SERIAL"):
        pass


def test_killed_holder_frees_it(holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    with DeviceLock("cpu", wait_s=10):
        assert holder.wait(10) == -signal.SIGKILL


def test_waits_until_it_is_free(holder: subprocess.Popen[str]) -> None:
    start = time.monotonic()
    with (
        pytest.raises(DeviceUnavailableError, match=r"after waiting 0\.2 s"),
        DeviceLock("cpu", wait_s=0.2),
    ):
        pass
    assert time.monotonic() - start >= 0.2
    holder.communicate("\n")
    with DeviceLock("cpu"):
        pass


def test_excludes_a_second_lock_of_the_same_process() -> None:
    lock = DeviceLock("cpu")
    with lock:
        with (
            pytest.raises(DeviceUnavailableError, match=f"process {os.getpid()};"),
            DeviceLock("cpu"),
        ):
            pass
        with pytest.raises(UsageError, match="already held"):
            lock.acquire()
    lock.release()
    with lock:
        pass


def test_a_child_that_inherited_the_file_does_not_keep_it() -> None:
    with DeviceLock("cpu") as lock:
        assert lock._file is not None
        argv = [sys.executable, "-c", "input()"]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=[lock._file])
    try:
        with DeviceLock("cpu"):
            assert child.poll() is None
    finally:
        child.communicate(b"\n")


def test_released_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), DeviceLock("cpu"):
        _ = 1 / 0
    with DeviceLock("cpu"):
        pass


def test_address_with_slashes_stays_in_the_folder(cache: Path) -> None:
    with DeviceLock("android:../../x y") as lock:
        assert lock.path.parent == cache / "hwbench" / "locks"
        assert lock.path.exists()


def test_unwritable_folder_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    with (
        pytest.raises(UsageError, match=r"cannot create the lock file .*XDG_CACHE_HOME"),
        DeviceLock("cpu"),
    ):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("all of it")
    lock = DeviceLock("cpu")
    lock.path.parent.mkdir(parents=True)
    lock.path.symlink_to(precious)
    with pytest.raises(UsageError, match="lock file"):
        lock.acquire()
    assert precious.read_text() == "all of it"


def test_within_the_block_that_waits_a_device_is_waited_for(
    holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        wait_for_devices(0.2),
        pytest.raises(DeviceUnavailableError, match=r"after waiting 0\.2 s"),
        DeviceLock("cpu"),
    ):
        pass
    (message,) = caplog.messages
    assert message == (
        f"device cpu is in use by process {holder.pid}; waiting since 0 s, for at most 0.2 s"
    )
    timer = threading.Timer(0.3, lambda: holder.communicate("\n"))
    timer.start()
    with wait_for_devices(30), DeviceLock("cpu"):
        pass
    timer.join()


def test_nobody_waits_for_himself() -> None:
    with (
        wait_for_devices(30),
        DeviceLock("cpu"),
        pytest.raises(DeviceUnavailableError, match=rf"by process {os.getpid()};"),
        DeviceLock("cpu"),
    ):
        pass


@pytest.mark.parametrize("wait_s", [-1.0, math.nan, math.inf])
def test_what_is_no_time_to_wait(wait_s: float) -> None:
    with pytest.raises(UsageError, match="no time to wait"), wait_for_devices(wait_s):
        pass
