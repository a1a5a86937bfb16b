"""Straight to a phone's adbd, over TCP or USB, without an adb server.

Of adb-shell 0.4.4 this uses the key files (`auth.keygen`) and the USB transport, and nothing else.
Its device class has no stream that stays open both ways, which a conversation with the runner
needs, and its faults lie in the layers between: partial sends are lost, no TCP_NODELAY, end of file
spins, time-outs leave streams out of step. The protocol itself is six messages (`protocol.txt`,
Android Open Source Project), so a small multiplexer is the simpler and safer part to own:

- one thread, no locks: whoever waits for its own stream reads packets and puts those of other
  streams into their boxes;
- every packet is checked (magic, length, checksum, both stream ids); one that cannot be right
  closes the connection, as nothing after it can be trusted. Protocol version 0x01000000 is
  announced since later ones leave the checksum out;
- a stream takes at most `BOX_BYTES` ahead of its reader, then the phone waits: memory is bounded.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from typing import NoReturn, Protocol

from hwbench.devices.android.adb.keys import Key, keys
from hwbench.devices.android.adb.link import FEATURES, Stream, left_s, one_line
from hwbench.errors import DeviceError, DeviceLostError, DeviceTimeoutError, DeviceUnavailableError

_HEADER = struct.Struct("<6I")
_VERSION = 0x01000000
_MIN_PAYLOAD, _MAX_PAYLOAD = 1 << 12, 1 << 20
_TOKEN, _SIGNATURE, _PUBLIC_KEY = 1, 2, 3
_CLOSE_S = 1.0  # adbd acknowledges within a round trip
BOX_BYTES = 16 << 20
"""Bytes that a stream takes ahead of its reader."""


class Pipe(Protocol):
    """A connection that carries packets; it gives up with DeviceTimeoutError or DeviceLostError."""

    def write(self, data: bytes, deadline: float) -> None:
        """Write all of it."""
        ...

    def read(self, size: int, deadline: float) -> bytes:
        """Read exactly `size` bytes."""
        ...

    def close(self) -> None:
        """Close it; never raises."""
        ...


class TcpPipe:
    """A TCP connection.

    Args:
        host: Name or number.
        port: Where adbd listens.
        deadline: Until when to try.

    Raises:
        DeviceUnavailableError: Nothing answers there.
    """

    def __init__(self, host: str, port: int, deadline: float) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout=left_s(deadline))
        except OSError as error:
            raise DeviceUnavailableError(
                f"nothing answers as a phone at {host}:{port} ({error}); check the address, that"
                " the phone is on this network, and that it listens (adb tcpip 5555 over USB, or"
                " `adb connect` for wireless debugging)"
            ) from error
        # Without NODELAY a small packet waits some 40 ms for the acknowledgement of the one before
        # it.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._ahead = bytearray()

    def write(self, data: bytes, deadline: float) -> None:
        """See `Pipe`."""
        try:
            self._socket.settimeout(left_s(deadline))
            self._socket.sendall(data)
        except TimeoutError as error:
            raise DeviceTimeoutError(
                f"the phone did not take {len(data)} bytes in the time allowed; allow more"
            ) from error
        except OSError as error:
            raise DeviceLostError(
                f"the connection to the phone was lost while sending ({error}); connect anew"
            ) from error

    def read(self, size: int, deadline: float) -> bytes:
        """See `Pipe`. What has come of an unfinished read is kept for the next one."""
        while len(self._ahead) < size:
            try:
                self._socket.settimeout(left_s(deadline))
                data = self._socket.recv(max(size - len(self._ahead), 1 << 16))
            except TimeoutError as error:
                raise DeviceTimeoutError(
                    "the phone did not answer in the time allowed; allow more, or connect anew"
                ) from error
            except OSError as error:
                raise DeviceLostError(
                    f"the connection to the phone was lost ({error}); connect anew"
                ) from error
            if not data:
                raise DeviceLostError(
                    "the phone closed the connection (switched off, restarted, out of reach?);"
                    " connect anew"
                )
            self._ahead += data
        taken = bytes(self._ahead[:size])
        del self._ahead[:size]
        return taken

    def close(self) -> None:
        """See `Pipe`."""
        self._socket.close()


class DirectStream:
    """One service on a `DirectLink`; see `_adb_link.Stream`.

    Attributes:
        remote: The phone's number for it; 0 until it has accepted.
        writable: The phone has taken the last packet.
        ended: The phone has closed it.
        agreed: It closed it by its own number, not by none.
    """

    def __init__(self, link: DirectLink, local: int) -> None:
        self._link, self._local = link, local
        self.remote, self.writable, self.ended, self.agreed = 0, False, False, False
        self._box: deque[bytes] = deque()
        self._boxed, self._owes, self._closed = 0, False, False

    def put(self, data: bytes, deadline: float) -> None:
        """Take a packet of the phone.

        Acknowledge it, unless the box is full, which makes the phone wait.
        """
        if self._owes:
            self._link.broken("data before the last were acknowledged")
        self._box.append(data)
        self._boxed += len(data)
        self._owes = True
        if self._boxed < BOX_BYTES:
            self._acknowledge(deadline)

    def _acknowledge(self, deadline: float) -> None:
        self._owes = False
        self._link.send("OKAY", self._local, self.remote, b"", deadline)

    def send(self, data: bytes, deadline: float) -> None:
        """See `Stream`."""
        for first in range(0, len(data), self._link.max_payload):
            while not self.writable and not self.ended:
                self._link.pump(deadline)
            if self.ended:
                return
            self.writable = False
            self._link.send(
                "WRTE",
                self._local,
                self.remote,
                data[first : first + self._link.max_payload],
                deadline,
            )

    def receive(self, deadline: float) -> bytes:
        """See `Stream`."""
        while not self._box and not self.ended:
            self._link.pump(deadline)
        data = self._box.popleft() if self._box else b""
        self._boxed -= len(data)
        if self._owes and not self.ended:
            self._acknowledge(deadline)
        return data

    def close(self) -> None:
        """See `Stream`: the phone kills what runs behind it.

        If it cannot be told, the whole connection is closed.

        A packet that is not acknowledged may mean that the phone knows no stream of that number, as
        the number came damaged (TCP packets are not checked above their own 16 bits); then nothing
        but the end of the connection reaches what runs behind it. The acknowledgement may also just
        be on its way, as of a short command's input, which may come after the command's end.
        """
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + _CLOSE_S
        try:
            while not (self.writable or self.ended):
                self._link.pump(deadline)
            if not self.ended:
                self._link.send("CLSE", self._local, self.remote, b"", deadline)
            elif not self.agreed:
                self._link.close()
        except DeviceError:
            self._link.close()
        finally:
            self._link.forget(self._local)


class DirectLink:
    """An authorised connection to adbd; see `_adb_link.Link`.

    Args:
        pipe: The connection; closed by this object, also if the phone refuses.
        serial: The phone's name in messages.
        route: `tcp` or `usb`.
        deadline: Until when the phone may take to let this computer in.

    Raises:
        DeviceUnavailableError: It does not know this computer's key, or wants to be paired.
        DeviceTimeoutError: It does not answer.
        DeviceLostError: It hung up.
    """

    def __init__(self, pipe: Pipe, serial: str, route: str, deadline: float) -> None:
        self._pipe, self.serial, self.route = pipe, serial, route
        self.closed = False
        self.max_payload = _MIN_PAYLOAD
        self._streams: dict[int, DirectStream] = {}
        self._last = 0
        try:
            self.banner = self._greet(deadline)
        except BaseException:
            self.close()
            raise
        fields = dict(
            part.partition("=")[::2] for part in self.banner.partition("::")[2].split(";")
        )
        self.features = frozenset(fields.get("features", "").split(","))

    def _greet(self, deadline: float) -> str:
        """Be let in: answer challenges with one key after the other, then ask for the dialog about the first."""
        self.send("CNXN", _VERSION, _MAX_PAYLOAD, f"host::features={FEATURES}".encode(), deadline)
        offers: list[Key] | None = None
        asked: Key | None = None
        while True:
            try:
                command, kind, size, data = self._packet(deadline)
            except (DeviceTimeoutError, DeviceLostError) as error:
                if asked is None:
                    raise
                raise _unauthorised(self.serial, asked) from error
            if command == "CNXN" and size >= _MIN_PAYLOAD:
                self.max_payload = min(size, _MAX_PAYLOAD)
                return data.rstrip(b"\0").decode("utf-8", "replace")
            if command == "STLS":
                raise _unpaired(self.serial)
            if command != "AUTH" or kind != _TOKEN:
                self.broken(f"a {command} packet as a greeting (is it a phone's adbd?)")
            if offers is None:
                offers = keys()
                first = offers[0]
            if offers:
                self.send("AUTH", _SIGNATURE, 0, offers.pop(0).sign(data), deadline)
            elif asked is None:
                asked = first
                self.send("AUTH", _PUBLIC_KEY, 0, asked.public() + b"\0", deadline)

    def open(self, service: str, deadline: float) -> Stream:
        """See `Link`."""
        self._last += 1
        stream = self._streams[self._last] = DirectStream(self, self._last)
        try:
            self.send(
                "OPEN", self._last, 0, service.encode("utf-8", "surrogateescape") + b"\0", deadline
            )
            while not stream.remote and not stream.ended:
                self.pump(deadline)
        except BaseException:
            self.close()  # whether the service runs is unknown: only the end of the connection ends it for certain
            raise
        if stream.ended:
            self.forget(self._last)
            raise DeviceUnavailableError(
                f"{self.serial} refuses the service {one_line(service.partition(':')[0])!r};"
                " restart adb on it"
            )
        return stream

    def send(self, command: str, first: int, second: int, data: bytes, deadline: float) -> None:
        """Send one packet.

        If that fails half of it may be under way, so the connection is closed.
        """
        if self.closed:
            raise DeviceLostError(f"the connection to {self.serial} is closed; connect anew")
        code = int.from_bytes(command.encode(), "little")
        header = _HEADER.pack(code, first, second, len(data), _checksum(data), code ^ 0xFFFFFFFF)
        try:
            self._pipe.write(header, deadline)
            if data:
                self._pipe.write(data, deadline)
        except DeviceError:
            self.close()
            raise

    def pump(self, deadline: float) -> None:
        """Read one packet and hand it to its stream."""
        command, remote, local, data = self._packet(deadline)
        stream = self._streams.get(local)
        if stream is None:
            if 0 < local <= self._last and command in {"OKAY", "WRTE", "CLSE"}:
                return  # the last words of a stream that was closed here
            self.broken(f"a {command} packet for stream {local}, which was never opened")
        elif command == "OKAY" and stream.remote in {0, remote} and remote:
            # Maybe a second one for the same packet: adbd 34 sends two where it could hand on only
            # a part at first.
            stream.remote, stream.writable = remote, True
        elif command == "WRTE" and stream.remote == remote and remote:
            stream.put(data, deadline)
        elif command == "CLSE" and remote in {0, stream.remote}:
            stream.ended, stream.agreed = True, remote == stream.remote
        else:
            self.broken(f"a {command} packet that does not fit stream {local}")

    def _packet(self, deadline: float) -> tuple[str, int, int, bytes]:
        if self.closed:
            raise DeviceLostError(f"the connection to {self.serial} is closed; connect anew")
        try:
            header = self._pipe.read(_HEADER.size, deadline)
        except DeviceLostError:
            self.close()
            raise
        code, first, second, size, checksum, magic = _HEADER.unpack(header)
        if magic != code ^ 0xFFFFFFFF or size > _MAX_PAYLOAD:
            self.broken("a damaged packet")
        try:
            data = self._pipe.read(size, deadline) if size else b""
        except DeviceError:
            self.close()
            raise
        command = code.to_bytes(4, "little").decode("ascii", "replace")
        if command not in {"CNXN", "AUTH", "STLS", "OKAY", "WRTE", "CLSE"} or (
            size and checksum != _checksum(data)
        ):
            self.broken("a damaged packet")
        return command, first, second, data

    def broken(self, what: str) -> NoReturn:
        """Close the connection because of something that the phone should not have sent."""
        self.close()
        raise DeviceLostError(f"{self.serial} sent {what}; the connection was closed, connect anew")

    def forget(self, local: int) -> None:
        """Its further packets are of no interest."""
        self._streams.pop(local, None)

    def close(self) -> None:
        """See `Link`."""
        self.closed = True
        self._pipe.close()


def _checksum(data: bytes) -> int:
    """The sum of the bytes modulo 2**32; by numpy, since `sum` takes 8 ms for a full packet."""
    if len(data) < 4096:
        return sum(data)
    import numpy as np

    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint32))


def _unauthorised(serial: str, key: Key) -> DeviceUnavailableError:
    return DeviceUnavailableError(
        f"{serial} has not authorised this computer: unlock it, confirm the dialog 'Allow USB"
        " debugging?' (tick 'Always allow'), then run this again; the key it is asked about is"
        f" {key.path}"
    )


def _unpaired(serial: str) -> DeviceUnavailableError:
    return DeviceUnavailableError(
        f"{serial} wants an encrypted connection; pair it once (adb pair HOST:PORT), run adb"
        f" connect {serial}, and leave that adb server running: hwbench goes through it"
    )
