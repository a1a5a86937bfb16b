"""Fixtures of the tests of the adb transport; none acts unless it is asked for."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from hwbench.devices.android.adb.client import Adb, connect
from tests.devices.android.pyadbd import PyAdbd
from tests.devices.android.pyadbd_clients import AdbServer, adb_programs
from tests.devices.android.pyadbd_support import soon

# adbd ends what it started by SIGHUP; a test run under nohup would hand down that it is ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A home of its own (but the user's cache: what is built there costs seconds), no adb server,
    no thread left behind.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", platformdirs.user_cache_dir())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    held = (
        socket.socket()
    )  # bound and not listening: nobody answers there, and nobody else is given the port meanwhile
    held.bind(("127.0.0.1", 0))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(held.getsockname()[1]))
    for name in (
        "ADB_SERVER_SOCKET",
        "ADB_VENDOR_KEYS",
        "ANDROID_SERIAL",
        "ANDROID_ADB_SERVER_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)
    before = set(threading.enumerate())
    yield
    held.close()
    assert soon(lambda: set(threading.enumerate()) <= before), "a thread was left behind"


@pytest.fixture
def adbd(alone: None) -> Iterator[PyAdbd]:
    """A phone without faults that lets everybody in."""
    with PyAdbd() as daemon:
        yield daemon
        assert soon(lambda: not daemon.running()), "a process was left behind on the phone"


@pytest.fixture
def adb(adbd: PyAdbd) -> Iterator[Adb]:
    """A direct connection to it."""
    with connect(adbd.address) as connection:
        yield connection


@pytest.fixture(params=["path", "adbutils"])
def server(
    request: pytest.FixtureRequest, alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AdbServer]:
    """A running adb server of Google's, once from the system's package and once from adbutils.

    Hwbench finds it.
    """
    program = adb_programs()[request.param]
    if program is None:
        pytest.skip(f"no adb program from {request.param} (apt install adb; pip install adbutils)")
    found = AdbServer(program, tmp_path / "home")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(found.port))
    with found.running():
        yield found
