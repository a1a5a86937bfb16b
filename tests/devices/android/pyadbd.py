"""A small adbd in Python: the side of the adb protocol that runs on a phone, over TCP, with faults
on request.

It knows the greeting, RSA authorisation, streams, and the services of `pyadbd_services`. Threads of
this process do the work, so a test can look at it and change it at any time; `close` ends all of
them and every process they started.
"""

from __future__ import annotations

import base64
import os
import queue
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self
from uuid import uuid4

from tests.devices.android.pyadbd_faults import CutConnectionError, Faults

CODES = {
    name: int.from_bytes(name.encode(), "little")
    for name in ("CNXN", "AUTH", "OPEN", "OKAY", "WRTE", "CLSE", "STLS")
}
NAMES = {code: name for name, code in CODES.items()}
VERSION, MAX_PAYLOAD = 0x01000001, 1 << 20
FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"


class StreamEndError(Exception):
    """The host has closed the stream, or the connection is gone."""


@dataclass
class Talk:
    """A command, the input it was given and what it printed."""

    command: str
    heard: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)


class Stream:
    """One open service: one packet in flight to the host, any number of bytes waiting from it."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self.connection, self.local, self.remote = connection, local, remote
        self._changed = threading.Condition()
        self._received = bytearray()
        self._may_send, self.closed = True, False
        self.on_close: Callable[[], None] = lambda: None

    def write(self, data: bytes) -> None:
        size = self.connection.max_payload
        for first in range(0, len(data), size):
            with self._changed:
                self._changed.wait_for(lambda: self._may_send or self.closed)
                if self.closed:
                    raise StreamEndError
                self._may_send = False
            self.connection.send("WRTE", self.local, self.remote, data[first : first + size])

    def read(self, size: int) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: len(self._received) >= size or self.closed)
            if len(self._received) < size:
                raise StreamEndError
            data = bytes(self._received[:size])
            del self._received[:size]
            return data

    def read_some(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._received) or self.closed)
            data = bytes(self._received)
            self._received.clear()
            return data

    def take(self, data: bytes) -> None:
        with self._changed:
            self._received += data
            self._changed.notify_all()

    def okay(self) -> None:
        with self._changed:
            self._may_send = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            if self.closed:
                return
            self.closed = True
            self._changed.notify_all()
        self.connection.streams.pop(self.local, None)
        self.connection.send("CLSE", self.local, self.remote)
        self.on_close()


class Connection:
    """One host: a thread that reads its packets, one that writes (as in adbd, so that neither waits
    for the other).
    """

    def __init__(self, daemon: PyAdbd, connected: socket.socket) -> None:
        self.daemon, self._socket = daemon, connected
        self.streams: dict[int, Stream] = {}
        self.max_payload, self.version = 4096, VERSION
        self._next, self._token, self._authorised = 1, b"", False
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Begin to talk with the host."""
        self.daemon.connections.add(self)  # before its first packet may make the phone restart
        self.daemon.spawn(self._read_packets, "reads")
        self.daemon.spawn(self._write_packets, "writes")

    def send(self, name: str, first: int, second: int, data: bytes = b"") -> None:
        checksum = sum(data) & 0xFFFFFFFF if self.version < VERSION else 0
        header = struct.pack(
            "<6I", CODES[name], first, second, len(data), checksum, CODES[name] ^ 0xFFFFFFFF
        )
        self._outgoing.put(header + data)

    def _write_packets(self) -> None:
        try:
            while (packet := self._outgoing.get()) is not None:
                try:
                    self._socket.sendall(self.daemon.faults.outgoing(packet))
                except CutConnectionError as cut:
                    self._socket.sendall(cut.args[0])
                    break
                self.daemon.maybe_reboot()
        except OSError:
            pass
        self.hang_up()

    def hang_up(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise StreamEndError
            data += more
        return bytes(data)

    def _read_packets(self) -> None:
        try:
            while True:
                code, first, second, size, _, magic = struct.unpack("<6I", self._exactly(24))
                if magic != code ^ 0xFFFFFFFF or size > MAX_PAYLOAD or code not in NAMES:
                    break
                self._handle(NAMES[code], first, second, self._exactly(size))
        except (StreamEndError, OSError):
            pass
        for stream in list(self.streams.values()):
            stream.close()
        self._outgoing.put(None)
        self.hang_up()
        self._socket.close()
        self.daemon.connections.discard(self)

    def _handle(self, name: str, first: int, second: int, data: bytes) -> None:
        if name in {"CNXN", "AUTH"}:
            self._greet(name, first, second, data)
        elif not self._authorised:
            return
        elif name == "OPEN":
            self._open(first, data.rstrip(b"\0").decode("utf-8", "surrogateescape"))
        elif second not in self.streams:
            if name == "WRTE":
                self.send("CLSE", 0, first)
        elif name == "OKAY":
            self.streams[second].okay()
        elif name == "WRTE":
            stream = self.streams[second]
            stream.take(self.daemon.faults.taken(data))
            self.send("OKAY", stream.local, stream.remote)
        elif name == "CLSE":
            self.streams[second].close()

    def _greet(self, name: str, first: int, second: int, data: bytes) -> None:
        if name == "CNXN":
            self.version, self.max_payload = min(first, VERSION), min(second, MAX_PAYLOAD)
            if self.daemon.tls:
                return self.send("STLS", 0x01000000, 0)
            if self.daemon.faults.due("unauthorised"):
                self.daemon.forget_keys()
            return self._welcome() if self.daemon.trusted is None else self._challenge()
        if first == 2 and any(_signed(key, self._token, data) for key in self.daemon.trusted or ()):
            return self._welcome()
        if first == 3 and self.daemon.dialog == "allow":
            self.daemon.trusted = [*(self.daemon.trusted or ()), data.rstrip(b"\0").decode()]
            return self._welcome()
        if first == 3 and self.daemon.dialog == "deny":
            return self.hang_up()
        return self._challenge() if first == 2 else None

    def _challenge(self) -> None:
        self._token = os.urandom(20)
        self.send("AUTH", 1, 0, self._token)

    def _welcome(self) -> None:
        self._authorised = True
        self.send(
            "CNXN",
            VERSION,
            MAX_PAYLOAD,
            f"device::{self.daemon.identity};features={self.daemon.features}".encode(),
        )

    def _open(self, remote: int, address: str) -> None:
        from tests.devices.android.pyadbd_services import service

        self.daemon.opened.append(address)
        serve = None if self.daemon.faults.due("refuse") else service(address)
        if serve is None:
            return self.send("CLSE", 0, remote)
        stream = self.streams[self._next] = Stream(self, self._next, remote)
        self._next += 1
        self.send("OKAY", stream.local, remote)

        def run() -> None:
            with suppress(StreamEndError, OSError):
                serve(stream, self.daemon)
            stream.close()

        return self.daemon.spawn(run, address.partition(":")[0])


class PyAdbd:
    """The daemon: a context manager that listens on a port of 127.0.0.1 that no adb server takes
    for an emulator's.

    Args:
        trusted: Public keys that may connect (lines of `adb_keys`); None asks for no key at all.
        dialog: What happens to the dialog that asks about an unknown key: `ignore`, `allow` or
            `deny`.
        folders: Folders of the phone, by their path on it, and what they are here; all others are
            this computer's.
        prefix: Put before every command's argument list (to enter a namespace).
        environment: The commands' whole environment; None is this process's own.
        features: What it says that it can do.
        tls: Whether it wants to be paired.
    """

    def __init__(
        self,
        *,
        trusted: Sequence[str] | None = None,
        dialog: str = "ignore",
        folders: dict[str, Path] | None = None,
        prefix: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        features: str = FEATURES,
        tls: bool = False,
        model: str = "Py_Phone",
        host: str = "127.0.0.1",
    ) -> None:
        self.trusted, self.dialog, self.features, self.tls = trusted, dialog, features, tls
        self.folders, self.prefix = folders or {}, list(prefix)
        self._mark = f"PYADBD={uuid4()}"
        self.environment = dict(
            [*(os.environ if environment is None else environment).items(), self._mark.split("=")]
        )
        self.identity = f"ro.product.name=pyadbd;ro.product.model={model};ro.product.device=pyadbd"
        self._faults, self._planning = Faults(), threading.Lock()
        self.opened: list[str] = []
        """Services asked for so far."""
        self.talks: list[Talk] = []
        """What its commands heard and said so far, on their own side of every fault.

        To be emptied now and then.
        """
        self.connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._timer: threading.Timer | None = None
        self._host, self.port = host, 0
        self.start()

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    @property
    def listening(self) -> bool:
        return self._listener is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Listen, from the second time on at the same port."""
        while self._listener is None:
            listener = socket.create_server((self._host, self.port), backlog=16)
            if 5554 <= listener.getsockname()[1] <= 5585 and not self.port:
                listener.close()
                continue
            self.port, self._listener = listener.getsockname()[1], listener
            self.spawn(partial(self._accept, listener), "listens")

    def _accept(self, listener: socket.socket) -> None:
        try:
            while True:
                connected, _ = listener.accept()
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Connection(self, connected).start()
        except OSError:
            listener.close()

    def stop(self) -> None:
        """Go away as a phone does that is switched off: no port, no connections, no processes."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener = None
        for connection in list(self.connections):
            connection.hang_up()
        for pid in self.running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def maybe_reboot(self) -> None:
        """Carry out a planned restart."""
        with self._planning:
            fault = self._faults.due("reboot")
            if fault is not None:
                self.stop()
                self._timer = threading.Timer(fault.seconds, self.start)
                self._timer.start()

    @property
    def faults(self) -> Faults:
        """What goes wrong from now on.

        Once it is set, no restart of an earlier plan can begin any more.
        """
        return self._faults

    @faults.setter
    def faults(self, plan: Faults) -> None:
        with self._planning:
            self._faults = plan

    def close(self) -> None:
        """Stop for good, and wait until every thread has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        for thread in self._threads:
            self.stop()
            thread.join(10)

    def running(self) -> list[int]:
        """Processes that commands of this phone have started and that have not ended, by their
        numbers.
        """
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal() and self._mark.encode() in (
                    folder / "environ"
                ).read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=f"pyadbd {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def forget_keys(self) -> None:
        self.trusted = []

    def path(self, remote: str) -> Path:
        """Where a path of the phone lies here."""
        for folder, here in self.folders.items():
            if remote == folder or remote.startswith(f"{folder}/"):
                return here / remote[len(folder) :].lstrip("/")
        return Path(remote)


def _signed(key: str, token: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `token` by `key`: PKCS #1 v1.5, the key in Android's
    RSAPublicKey form.
    """
    raw = base64.b64decode(key.split(maxsplit=1)[0])
    size = 4 * struct.unpack_from("<I", raw)[0]
    modulus = int.from_bytes(raw[8 : 8 + size], "little")
    (exponent,) = struct.unpack_from("<I", raw, 8 + 2 * size)
    wanted = bytes.fromhex("3021300906052b0e03021a05000414") + token
    padded = b"\x00\x01" + b"\xff" * (size - 3 - len(wanted)) + b"\x00" + wanted
    return pow(int.from_bytes(signature, "big"), exponent, modulus) == int.from_bytes(padded, "big")
