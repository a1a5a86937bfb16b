"""Reaching phones through an adb server that already runs (`adb devices` starts one).

This is the way to phones that are paired, on USB or over TLS. The client's side of the protocol is
a length, a word and an answer (`OVERVIEW.TXT`, Android Open Source Project), after which a socket
carries the bytes of one service. adbutils speaks it too, but starts a server of its own accord when
none answers, has time-outs per read only, and takes longer to import than a phone to answer. A
server is never started or killed here.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from hwbench.devices.android.adb.link import Stream, left_s, one_line
from hwbench.errors import DeviceLostError, DeviceTimeoutError, DeviceUnavailableError, UsageError

_PORT = 5037


@dataclass(frozen=True, slots=True)
class ServerPhone:
    """One phone in a server's list.

    Attributes:
        serial: Its serial, or HOST:PORT.
        state: Its state (`device`, `unauthorized`, `offline`, ...).
    """

    serial: str
    state: str


def server_address() -> str | tuple[str, int]:
    """Find where an adb server would be.

    That is at `ADB_SERVER_SOCKET`, else at `ANDROID_ADB_SERVER_ADDRESS` and
    `ANDROID_ADB_SERVER_PORT`, else at 127.0.0.1:5037.

    Returns:
        Host and port, or the path of a local socket (a leading NUL for an abstract one).

    Raises:
        UsageError: One of the variables holds something else.
    """
    spec = os.environ.get("ADB_SERVER_SOCKET", "")
    kind, _, rest = spec.partition(":")
    if kind in {"local", "localfilesystem", "unix"} and rest:
        return rest
    if kind == "localabstract" and rest:
        return f"\0{rest}"
    if spec:
        host, _, port = rest.rpartition(":")
    else:
        host = os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.1")
        port = os.environ.get("ANDROID_ADB_SERVER_PORT", str(_PORT))
    if (spec and kind != "tcp") or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"no adb server can be at {spec or port!r}; ADB_SERVER_SOCKET is tcp:HOST:PORT,"
            " ANDROID_ADB_SERVER_PORT a number"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


class ServerStream:
    """A socket to the server; see `link.Stream`.

    Args:
        deadline: Until when to try.

    Raises:
        OSError: No server answers.
    """

    def __init__(self, deadline: float) -> None:
        address = server_address()
        if isinstance(address, str):
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.settimeout(left_s(deadline))
                self._socket.connect(address)
            except BaseException:
                self._socket.close()
                raise
        else:
            self._socket = socket.create_connection(address, timeout=left_s(deadline))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes, deadline: float) -> None:
        """See `Stream`."""
        try:
            self._socket.settimeout(left_s(deadline))
            self._socket.sendall(data)
        except TimeoutError as error:
            raise DeviceTimeoutError(
                f"the phone did not take {len(data)} bytes in the time allowed; allow more"
            ) from error
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError as error:
            raise DeviceLostError(
                f"the connection to the adb server was lost ({error}); connect anew"
            ) from error

    def receive(self, deadline: float) -> bytes:
        """See `Stream`."""
        try:
            self._socket.settimeout(left_s(deadline))
            return self._socket.recv(1 << 18)
        except TimeoutError as error:
            raise DeviceTimeoutError(
                "the phone did not answer in the time allowed; allow more, or connect anew"
            ) from error
        except ConnectionResetError:
            return b""
        except OSError as error:
            raise DeviceLostError(
                f"the connection to the adb server was lost ({error}); connect anew"
            ) from error

    def close(self) -> None:
        """See `Stream`; the server tells the phone."""
        self._socket.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._socket.fileno() < 0

    def request(self, text: str, deadline: float) -> None:
        """Send a request and wait until it is granted.

        Args:
            text: The request, such as `host:devices`.
            deadline: Until when it may take.

        Raises:
            DeviceUnavailableError: The server refuses it, with its reason.
        """
        data = text.encode("utf-8", "surrogateescape")
        self.send(b"%04x" % len(data) + data, deadline)
        answer = self._read_exactly(4, deadline)
        if answer == b"FAIL":
            raise DeviceUnavailableError(one_line(self.read_text(deadline)))
        if answer != b"OKAY":
            raise DeviceUnavailableError(
                f"what listens at {server_address()} answered {answer!r}; it is no adb server"
            )

    def read_text(self, deadline: float) -> str:
        """Read a text of the server, which comes with its length in four hexadecimal digits."""
        digits = self._read_exactly(4, deadline)
        try:
            size = int(digits, 16)
        except ValueError as error:
            raise DeviceUnavailableError(
                f"what listens at {server_address()} answered {digits!r}; it is no adb server"
            ) from error
        return self._read_exactly(size, deadline).decode("utf-8", "replace")

    def _read_exactly(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            try:
                self._socket.settimeout(left_s(deadline))
                more = self._socket.recv(size - len(data))
            except TimeoutError as error:
                raise DeviceTimeoutError(
                    "the adb server did not answer in the time allowed; allow more"
                ) from error
            except OSError as error:
                raise DeviceLostError(f"the adb server hung up ({error}); connect anew") from error
            if not more:
                raise DeviceLostError("the adb server hung up; look at it with: adb devices")
            data += more
        return data


def list_server_phones(deadline: float) -> list[ServerPhone] | None:
    """List the phones that a running server knows; None if no server answers.

    Raises:
        DeviceError: Something answers that is no adb server.
    """
    try:
        stream = ServerStream(deadline)
    except OSError:
        return None
    try:
        stream.request("host:devices", deadline)
        lines = stream.read_text(deadline).splitlines()
    finally:
        stream.close()
    phones = []
    for line in lines:
        serial, tab, state = line.partition("\t")
        if tab:
            phones.append(ServerPhone(serial, state.strip()))
    return phones


class ServerLink:
    """A phone that a running adb server knows; see `link.AdbLink`.

    Each service is a connection of its own.

    Args:
        serial: The serial of the phone as the server lists it.
        deadline: Until when it may take.

    Raises:
        DeviceUnavailableError: The server does not know the phone, or it cannot be used in its
            state.
    """

    route = "server"

    def __init__(self, serial: str, deadline: float) -> None:
        self.serial = serial
        self.closed = False
        self._streams: list[ServerStream] = []
        stream = self._connect(deadline)
        try:
            stream.request(f"host-serial:{serial}:features", deadline)
            self.features = frozenset(stream.read_text(deadline).split(","))
        finally:
            stream.close()

    def _connect(self, deadline: float) -> ServerStream:
        try:
            return ServerStream(deadline)
        except OSError as error:
            raise DeviceLostError(
                f"the adb server at {server_address()} is gone ({error}); start it with: adb"
                " devices"
            ) from error

    def open(self, service: str, deadline: float) -> Stream:
        """See `AdbLink`."""
        if self.closed:
            raise DeviceLostError(f"the connection to {self.serial} is closed; connect anew")
        stream = self._connect(deadline)
        self._streams = [other for other in self._streams if not other.closed]
        self._streams.append(stream)
        try:
            self._request_service(stream, service, deadline)
        except BaseException:
            stream.close()
            raise
        return stream

    def _request_service(self, stream: ServerStream, service: str, deadline: float) -> None:
        """Have the server connect the stream to the phone, then the phone to the service."""
        try:
            stream.request(f"host:transport:{self.serial}", deadline)
        except DeviceUnavailableError as error:
            raise DeviceLostError(
                f"the adb server has lost {self.serial} ({error}); look at it with: adb devices"
            ) from error
        try:
            stream.request(service, deadline)
        except DeviceUnavailableError as error:
            name = one_line(service.partition(":")[0])
            raise DeviceUnavailableError(
                f"{self.serial} refuses the service {name!r} ({error}); restart adb on it"
            ) from error

    def close(self) -> None:
        """See `AdbLink`."""
        self.closed = True
        for stream in self._streams:
            stream.close()
