"""The Python adbd is a phone to Google's adb clients, and hwbench works through their server."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hwbench.devices.android.adb.client import Adb, connect, list_phones
from hwbench.errors import DeviceLostError, DeviceTimeoutError, DeviceUnavailableError, UsageError
from tests.devices.android.pyadbd import PyAdbd
from tests.devices.android.pyadbd_clients import AdbServer
from tests.devices.android.pyadbd_support import soon


def test_a_client_lists_it_and_runs_commands(server: AdbServer, adbd: PyAdbd) -> None:
    server.connect(adbd.address)
    assert b"model:Py_Phone" in server("devices", "-l").stdout
    done = server("-s", adbd.address, "shell", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert server("-s", adbd.address, "shell", "cat", stdin=b"input").stdout == b"input"
    assert server("-s", adbd.address, "exec-out", "printf '\\000\\n'").stdout == b"\0\n"
    assert server("-s", adbd.address, "shell", "-tt", "tty").stdout.startswith(b"/dev/pts/")


def test_a_client_moves_files(server: AdbServer, adbd: PyAdbd, tmp_path: Path) -> None:
    server.connect(adbd.address)
    local, remote, back = (tmp_path / name for name in ("local", "remote", "back"))
    local.write_bytes(os.urandom(20_000_003))
    local.chmod(0o700)
    assert server("-s", adbd.address, "push", str(local), str(remote)).returncode == 0
    assert remote.read_bytes() == local.read_bytes()
    assert remote.stat().st_mode & 0o777 == 0o777
    assert server("-s", adbd.address, "pull", str(remote), str(back)).returncode == 0
    assert back.read_bytes() == local.read_bytes()
    missing = server("-s", adbd.address, "pull", "/nothing", str(back))
    assert missing.returncode
    assert b"/nothing" in missing.stdout + missing.stderr
    listing = server("-s", adbd.address, "ls", str(tmp_path)).stdout.decode()
    assert {line.split()[-1] for line in listing.splitlines()} >= {"local", "remote", "back"}
    refused = server("-s", adbd.address, "push", str(local), "/proc/no/file")
    assert refused.returncode
    assert b"couldn't create file" in refused.stdout + refused.stderr


def test_a_client_is_authorised_by_its_key_and_hwbench_by_the_same(server: AdbServer) -> None:
    with PyAdbd(trusted=[]) as adbd:
        server.connect(adbd.address, "unauthorized")
        with pytest.raises(
            DeviceUnavailableError, match="unauthorized: unlock it and confirm the dialog"
        ):
            connect(adbd.address)
        assert [(phone.state, phone.model) for phone in list_phones()] == [("unauthorized", "")]
        server("disconnect", adbd.address)
        adbd.dialog = "allow"
        server.connect(adbd.address)
        assert len(adbd.trusted or ()) == 1
        server("disconnect", adbd.address)
        adbd.dialog = "deny"
        with connect(adbd.address) as adb:
            assert adb.route == "tcp"


@pytest.fixture
def through(server: AdbServer, adbd: PyAdbd) -> Adb:
    """A connection through the server."""
    server.connect(adbd.address)
    adb = connect(adbd.address)
    assert (adb.serial, adb.route) == (adbd.address, "server")
    return adb


def test_commands_and_files_through_a_server(through: Adb, tmp_path: Path) -> None:
    stdin = os.urandom(3_000_000)
    done = through.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin=stdin, check=False)
    assert (done.code, done.stdout, done.stderr) == (3, stdin, b"err\n")
    assert len(through.run(["echo", "x" * 30_000]).text) == 30_001
    data, remote = os.urandom(20_000_003), str(tmp_path / "remote")
    through.push(data, remote, mode=0o755)
    assert through.pull(remote, limit_bytes=len(data)) == data
    assert through.stat(str(tmp_path / "nothing")) is None
    through.close()


def test_conversations_through_a_server(through: Adb, adbd: PyAdbd) -> None:
    process = through.start(
        ["sh", "-c", 'while read line; do echo "got $line"; done; echo bye >&2; exit 5']
    )
    process.send(b"one\n", 1)
    assert process.receive(2) == b"got one\n"
    assert through.run(["echo", "beside it"]).text == "beside it\n"
    assert process.close(2.0) == "exit status 5; bye"
    started = time.monotonic()
    with pytest.raises(DeviceTimeoutError):
        through.run(["sleep", "60"], timeout_s=0.3)
    assert time.monotonic() - started < 30, "it was waited for"
    assert soon(lambda: not adbd.running())
    assert through.run(["echo", "next"]).text == "next\n"
    process = through.start(["sleep", "60"])
    assert soon(adbd.running)
    through.close()
    assert soon(lambda: not adbd.running())
    assert process.close() != "exit status 0; no message"


def test_a_phone_lost_behind_a_server(through: Adb, adbd: PyAdbd) -> None:
    process = through.start(["sleep", "60"])
    adbd.stop()
    with pytest.raises(DeviceLostError):
        process.receive(5)
    with pytest.raises(DeviceLostError):
        through.run(["true"], timeout_s=3)
    through.close()


def test_phones_of_a_server(server: AdbServer, adbd: PyAdbd) -> None:
    with pytest.raises(DeviceUnavailableError, match="no phone is in sight"):
        connect("")
    with pytest.raises(DeviceUnavailableError, match="no phone 'SERIAL'"):
        connect("SERIAL")
    server.connect(adbd.address)
    with connect("") as only:
        assert only.serial == adbd.address
    with PyAdbd() as second:
        server.connect(second.address)
        with pytest.raises(UsageError, match=r"2 phones are in sight") as caught:
            connect("")
        assert all(
            f"android:{phone.address} (device)" in str(caught.value) for phone in (adbd, second)
        )
        assert {
            (phone.address, phone.state, phone.route, phone.hint) for phone in list_phones()
        } == {(phone.address, "device", "server", "") for phone in (adbd, second)}
