"""The adb connection against Google's own adbd, with authorisation, as far as the Python adbd could
be wrong about it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.android.adb.keys import load_keys
from hwbench.errors import (
    DeviceCommandError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
)
from tests.devices.android.pyadbd_support import soon
from tests.devices.android.rig import Rig, phone

pytestmark = pytest.mark.usefixtures("alone")
HOME = "/data/local/tmp"


@pytest.fixture
def rig(alone: None) -> Iterator[Rig]:
    with phone("amd64", trusted=[load_keys()[0].public().decode()]) as running:
        yield running


@pytest.fixture
def google(rig: Rig) -> Iterator[Adb]:
    with connect(rig.address) as adb:
        yield adb


def _running(adb: Adb, word: str) -> bool:
    return word in adb.run(["ps", "-A", "-o", "ARGS"]).text.splitlines()


def test_commands(google: Adb) -> None:
    stdin = os.urandom(3 << 20)
    done = google.run(["sh", "-c", "cat; echo err >&2; exit 7"], stdin=stdin, check=False)
    assert (done.code, done.stdout, done.stderr) == (7, stdin, b"err\n")
    assert google.run(["sh", "-c", "kill -9 $$"], check=False).code == 128 + 9
    # A command that reads nothing ends all the same. Where it ends while adbd writes to it, adbd
    # drops what it has not read of its output yet: both go through one socket.
    unread = google.run(["sh", "-c", "echo done; sleep 1"], stdin=bytes(3 << 20))
    assert unread.text == "done\n"
    hostile = "'; $(id) `id`\n\\"
    assert google.script('printf %s "$1"', hostile).text == hostile
    assert (
        google.run(["sh", "-c", 'pwd; echo "$A"'], env={"A": "$B"}, cwd=HOME).text
        == f"{HOME}\n$B\n"
    )


def test_a_silent_command_that_takes_too_long_is_ended(google: Adb) -> None:
    started = time.monotonic()
    with pytest.raises(DeviceTimeoutError):
        google.run(["sleep", "4321"], timeout_s=0.5)
    assert time.monotonic() - started < 60, "it was waited for"
    assert soon(lambda: not _running(google, "sleep 4321"))


def test_conversations(google: Adb, rig: Rig) -> None:
    process = google.start(["cat"])
    for word in (b"one", os.urandom(300_000)):
        process.send(word, 5)
        received = b""
        while len(received) < len(word):
            received += process.receive(5)
        assert received == word
    assert process.close(2) == "exit status 0; no message"
    process = google.start(["sleep", "4322"])
    assert _running(google, "sleep 4322")
    assert process.close(0.1) == "ended by force; no message"
    assert soon(lambda: not _running(google, "sleep 4322"))
    process = google.start(["sleep", "4323"])
    google.close()
    assert soon(lambda: not _running(google, "sleep 4323"))
    with pytest.raises(DeviceLostError):
        process.receive(1)


@pytest.mark.parametrize("size", [0, 1, 65537, 20_000_003])
def test_files(google: Adb, size: int) -> None:
    data, remote = os.urandom(size), f"{HOME}/new folder/file"
    google.push(data, remote, mode=0o700)
    assert google.pull(remote, limit_bytes=size) == data
    found = google.stat(remote)
    assert found is not None
    assert (found.size_bytes, found.mode) == (size, 0o100700)
    assert google.run(["ls", f"{HOME}/new folder"]).text == "file\n"


def test_refusals(google: Adb) -> None:
    with pytest.raises(DeviceCommandError, match=r"refuses /proc/no/file\.\w+\.part: .*failed"):
        google.push(bytes(5 << 20), "/proc/no/file")
    with pytest.raises(DeviceCommandError, match="No such file"):
        google.pull("/nothing", limit_bytes=1)
    assert google.stat("/nothing") is None
    assert google.run(["echo", "still here"]).text == "still here\n"


def test_a_phone_that_dies_and_comes_back(google: Adb, rig: Rig) -> None:
    process = google.start(["sleep", "60"])
    rig.kill()
    with pytest.raises(DeviceLostError):
        process.receive(5)
    with pytest.raises(DeviceLostError):
        google.run(["true"])
    rig.start()
    assert google.run(["echo", "back"]).text == "back\n"


def test_the_dialog() -> None:
    load_keys()
    with (
        phone("amd64", dialog="ignore") as rig,
        pytest.raises(DeviceUnavailableError, match="confirm the dialog"),
    ):
        connect(rig.address, timeout_s=2)
    with phone("amd64", dialog="allow") as rig, connect(rig.address) as adb:
        assert adb.run(["echo", "in"]).text == "in\n"
