"""Through an adb server that already runs (`adb devices` starts one): the way to phones that are paired, on USB or over TLS.

The client's side of that protocol is a length, a word and an answer (`OVERVIEW.TXT`, Android Open
Source Project), after which a socket carries the bytes of one service. adbutils speaks it too, but
starts a server of its own accord when none answers, has time-outs per read only, and takes longer
to import than a phone to answer. A server is never started or killed here.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from hwbench.devices.android.adb.link import Stream, left_s, one_line
from hwbench.errors import DeviceLostError, DeviceTimeoutError, DeviceUnavailableError, UsageError

_PORT = 5037


@dataclass(frozen=True, slots=True)
class Listed:
    """One phone in a server's list: its serial and its state (`device`, `unauthorized`, `offline`, ...)."""

    serial: str
    state: str


def server_address() -> str | tuple[str, int]:
    """Where an adb server would be: `ADB_SERVER_SOCKET`, `ANDROID_ADB_SERVER_ADDRESS` and `_PORT`, else 127.0.0.1:5037.

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
    host, port = (
        os.environ.get("ANDROID_ADB_SERVER_ADDRESS", "127.0.0.1"),
        os.environ.get("ANDROID_ADB_SERVER_PORT", str(_PORT)),
    )
    if spec:
        host, _, port = rest.rpartition(":")
    if (spec and kind != "tcp") or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            f"no adb server can be at {spec or port!r}; ADB_SERVER_SOCKET is tcp:HOST:PORT,"
            " ANDROID_ADB_SERVER_PORT a number"
        )
    return host.strip("[]") or "127.0.0.1", int(port)


class ServerStream:
    """A socket to the server; see `_adb_link.Stream`.

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

    def ask(self, request: str, deadline: float) -> None:
        """Send a request and wait until it is granted.

        Raises:
            DeviceUnavailableError: The server refuses it, with its reason.
        """
        words = request.encode("utf-8", "surrogateescape")
        self.send(b"%04x" % len(words) + words, deadline)
        answer = self._exactly(4, deadline)
        if answer == b"FAIL":
            raise DeviceUnavailableError(one_line(self.block(deadline).decode("utf-8", "replace")))
        if answer != b"OKAY":
            raise DeviceUnavailableError(
                f"what listens at {server_address()} answered {answer!r}; it is no adb server"
            )

    def block(self, deadline: float) -> bytes:
        """A text of the server: four hexadecimal digits of length, then it."""
        digits = self._exactly(4, deadline)
        try:
            return self._exactly(int(digits, 16), deadline)
        except ValueError as error:
            raise DeviceUnavailableError(
                f"what listens at {server_address()} answered {digits!r}; it is no adb server"
            ) from error

    def _exactly(self, size: int, deadline: float) -> bytes:
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


def listed(deadline: float) -> list[Listed] | None:
    """The phones that a running server knows; None if no server answers.

    Raises:
        DeviceError: Something answers that is no adb server.
    """
    try:
        stream = ServerStream(deadline)
    except OSError:
        return None
    try:
        stream.ask("host:devices", deadline)
        lines = stream.block(deadline).decode("utf-8", "replace").splitlines()
    finally:
        stream.close()
    return [
        Listed(serial, state.strip())
        for serial, tab, state in (line.partition("\t") for line in lines)
        if tab
    ]


class ServerLink:
    """A phone that a running adb server knows; see `_adb_link.Link`.

    Each service is a connection of its own.

    Args:
        serial: As the server lists it.
        deadline: Until when it may take.

    Raises:
        DeviceUnavailableError: The server does not know it, or it is not in a state to be used.
    """

    route = "server"

    def __init__(self, serial: str, deadline: float) -> None:
        self.serial = serial
        self.closed = False
        self._streams: list[ServerStream] = []
        stream = self._connect(deadline)
        try:
            stream.ask(f"host-serial:{serial}:features", deadline)
            self.features = frozenset(stream.block(deadline).decode("utf-8", "replace").split(","))
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
        """See `Link`."""
        if self.closed:
            raise DeviceLostError(f"the connection to {self.serial} is closed; connect anew")
        stream = self._connect(deadline)
        self._streams = [*(other for other in self._streams if not other.closed), stream]
        try:
            self._ask(stream, service, deadline)
        except BaseException:
            stream.close()
            raise
        return stream

    def _ask(self, stream: ServerStream, service: str, deadline: float) -> None:
        try:
            stream.ask(f"host:transport:{self.serial}", deadline)
        except DeviceUnavailableError as error:
            raise DeviceLostError(
                f"the adb server has lost {self.serial} ({error}); look at it with: adb devices"
            ) from error
        try:
            stream.ask(service, deadline)
        except DeviceUnavailableError as error:
            name = one_line(service.partition(":")[0])
            raise DeviceUnavailableError(
                f"{self.serial} refuses the service {name!r} ({error}); restart adb on it"
            ) from error

    def close(self) -> None:
        """See `Link`."""
        self.closed = True
        for stream in self._streams:
            stream.close()
