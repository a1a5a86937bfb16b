"""Which phone an address means, who may connect, and why a phone is not ready."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hwbench.devices.android.adb.client import connect, list_phones
from hwbench.devices.android.adb.find import find_cure
from hwbench.devices.android.adb.keys import load_keys
from hwbench.devices.android.adb.server import server_address
from hwbench.errors import DeviceError, DeviceUnavailableError, UsageError
from tests.devices.android.pyadbd import PyAdbd
from tests.devices.android.pyadbd_support import free_port

pytestmark = pytest.mark.usefixtures("alone")


def _own_key() -> Path:
    return load_keys()[0].path


def test_a_key_is_made_once_and_for_the_owner_alone() -> None:
    path = _own_key()
    assert path == Path.home() / ".android/adbkey"
    assert path.stat().st_mode & 0o777 == 0o600
    made = path.read_bytes()
    assert _own_key().read_bytes() == made
    assert {file.name for file in path.parent.iterdir()} == {"adbkey", "adbkey.pub"}
    assert path.with_suffix(".pub").read_bytes().split()[0] == load_keys()[0].public().split()[0]


def test_a_known_key_connects() -> None:
    with PyAdbd(trusted=[load_keys()[0].public().decode()]) as adbd, connect(adbd.address) as adb:
        assert adb.run(["echo", "in"]).text == "in\n"


def test_a_vendor_key_connects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    _own_key().rename(vendor / "lab.adb_key")
    monkeypatch.setenv("ADB_VENDOR_KEYS", str(vendor))
    assert [key.path.name for key in load_keys()] == ["adbkey", "lab.adb_key"]
    with PyAdbd(trusted=[load_keys()[1].public().decode()]) as adbd, connect(adbd.address) as adb:
        assert adb.run(["true"]).code == 0


@pytest.mark.parametrize("dialog", ["ignore", "deny"])
def test_an_unknown_key_is_told_what_to_do(dialog: str) -> None:
    _own_key()
    with PyAdbd(trusted=[], dialog=dialog) as adbd, pytest.raises(DeviceUnavailableError) as caught:
        connect(adbd.address, timeout_s=0.5)
    assert "confirm the dialog" in str(caught.value)
    assert str(_own_key()) in str(caught.value)


def test_an_unknown_key_that_is_confirmed_connects() -> None:
    with PyAdbd(trusted=[], dialog="allow") as adbd, connect(adbd.address) as adb:
        assert adb.run(["true"]).code == 0


def test_a_damaged_key_is_named() -> None:
    _own_key().write_text("no key")
    with (
        PyAdbd(trusted=[]) as adbd,
        pytest.raises(DeviceUnavailableError, match=r"cannot use the adb key .*adbkey"),
    ):
        connect(adbd.address)


def test_a_phone_that_wants_to_be_paired() -> None:
    with PyAdbd(tls=True) as adbd, pytest.raises(DeviceUnavailableError, match="adb pair"):
        connect(adbd.address)


def test_nobody_there() -> None:
    with pytest.raises(DeviceUnavailableError, match=r"nothing answers as a phone at 127\.0\.0\.1"):
        connect(f"127.0.0.1:{free_port()}")
    with pytest.raises(DeviceUnavailableError, match="nothing answers as a phone at no-such-host"):
        connect("no-such-host.invalid:5655")


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port where everybody gets the same answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with listener.accept()[0] as connected:
                        connected.sendall(answer)
                        connected.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", bytes(100)])
def test_something_else_at_the_phones_port(answer: bytes) -> None:
    with answering(answer) as port, pytest.raises(DeviceError):
        connect(f"127.0.0.1:{port}", timeout_s=2)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"OKAYzzzz", b"FAILzzzz", b"FAIL0003no!"]
)
def test_something_else_at_the_servers_port(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answer) as port:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
        with pytest.raises(DeviceError):
            connect("", timeout_s=2)
        found = list_phones()
    assert [phone.state for phone in found] == ["unknown"]
    assert found[0].hint


def test_a_server_that_hangs_does_not_hang_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))
        started = time.monotonic()
        assert list_phones(timeout_s=0.5)[0].hint
        assert time.monotonic() - started < 8


def test_a_server_is_never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    with pytest.raises(DeviceUnavailableError):
        connect("")
    assert list_phones() == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(server_address(), timeout=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ("127.0.0.1", 5037)),
        ({"ANDROID_ADB_SERVER_PORT": "5040"}, ("127.0.0.1", 5040)),
        ({"ADB_SERVER_SOCKET": "tcp:5041"}, ("127.0.0.1", 5041)),
        ({"ADB_SERVER_SOCKET": "tcp:lab:5042", "ANDROID_ADB_SERVER_PORT": "1"}, ("lab", 5042)),
        ({"ADB_SERVER_SOCKET": "tcp:[::1]:5043"}, ("::1", 5043)),
        ({"ADB_SERVER_SOCKET": "localfilesystem:/run/adb"}, "/run/adb"),
        ({"ADB_SERVER_SOCKET": "localabstract:adb"}, "\0adb"),
    ],
)
def test_where_a_server_is_looked_for(
    variables: dict[str, str], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert server_address() == expected


@pytest.mark.parametrize("spec", ["vsock:1:2", "tcp:", "tcp:host:0", "tcp:host:port", "nonsense"])
def test_a_place_where_no_server_can_be(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADB_SERVER_SOCKET", spec)
    with pytest.raises(UsageError, match="no adb server can be at"):
        connect("")
    assert list_phones()[0].hint


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("unauthorized", "confirm the dialog"),
        ("offline", "plug it in again"),
        (
            "no permissions (user in plugdev group; are your udev rules wrong?); see [http://...]",
            "udev",
        ),
        ("recovery", "Reboot system now"),
        ("bootloader", "fastboot reboot"),
        ("something new", "something new"),
    ],
)
def test_every_bad_state_has_its_cure(state: str, words: str) -> None:
    assert words in find_cure(state)
    assert find_cure("device") == ""


def _usb(monkeypatch: pytest.MonkeyPatch, usb1: ModuleType, transport: object) -> None:
    """Put stand-ins where libusb and adb-shell's transport would be."""
    fake = ModuleType("adb_shell.transport.usb_transport")
    fake.UsbTransport = transport  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "adb_shell.transport.usb_transport", fake)
    monkeypatch.setitem(sys.modules, "usb1", usb1)


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        ("import", "OSError('libusb-1.0.so.0: cannot open shared object file')"),
        ("import", "FileNotFoundError(2, 'No such file or directory')"),
        ("import", "ImportError('undefined symbol: libusb_init_context')"),
        ("import", "AttributeError('libusb_init_context')"),
        ("search", "OSError('libusb-1.0.so.0: cannot open shared object file')"),
        ("search", "FileNotFoundError(2, 'No such file or directory')"),
    ],
)
def test_without_libusb_the_list_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str, error: str
) -> None:
    """The wheel of usb1 is there, the system's library is not: told when it loads, or when used."""
    lines = [f"raise {error}"] if moment == "import" else ["class USBError(Exception): pass"]
    (tmp_path / "usb1.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "usb1", raising=False)

    class Transport:
        @staticmethod
        def find_all_adb_devices() -> list[object]:
            raise eval(error)

    fake = ModuleType("adb_shell.transport.usb_transport")
    fake.UsbTransport = Transport  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "adb_shell.transport.usb_transport", fake)
    assert "apt install libusb" in list_phones()[0].hint
    with pytest.raises(DeviceUnavailableError, match=r"no phone is in sight \(USB is not searched"):
        connect("")


class UsbError(Exception):
    """Stands for usb1.USBError."""


class USBErrorBusy(UsbError):
    """What libusb says when another process holds the interface."""


class BusyPhone:
    """A phone on USB that another process holds."""

    serial_number = "BUSY0001"
    port_path = (1, 4)

    @classmethod
    def find_all_adb_devices(cls) -> list[BusyPhone]:
        return [cls()]

    def connect(self, timeout_s: float) -> None:
        raise USBErrorBusy

    def close(self) -> None:
        pass


class ForbiddenPhone(BusyPhone):
    """A phone on USB that this user may not open."""

    @property
    def serial_number(self) -> str:  # type: ignore[override]
        raise UsbError


def test_a_phone_held_by_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    usb1 = ModuleType("usb1")
    usb1.USBError = UsbError  # type: ignore[attr-defined]
    _usb(monkeypatch, usb1, BusyPhone)
    with pytest.raises(
        DeviceUnavailableError,
        match=r"BUSY0001 cannot be opened on USB \(USBErrorBusy\); another process holds it",
    ):
        connect("BUSY0001")
    assert [(phone.address, phone.route) for phone in list_phones()] == [("BUSY0001", "usb")]
    assert "another process" in list_phones()[0].hint


def test_a_phone_that_this_user_may_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    usb1 = ModuleType("usb1")
    usb1.USBError = UsbError  # type: ignore[attr-defined]
    _usb(monkeypatch, usb1, ForbiddenPhone)
    assert [(phone.address, phone.state) for phone in list_phones()] == [
        ("usb:1-4", "no permissions")
    ]
    with pytest.raises(DeviceUnavailableError, match="udev"):
        connect("")
