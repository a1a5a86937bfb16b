"""Speaking with a phone's adbd directly, over TCP or USB, without an adb server.

Of adb-shell 0.4.4 this uses the key files (`auth.keygen`) and the USB transport, and nothing else.
Its device class has no stream that stays open both ways, which a conversation with the runner
needs, and its faults lie in the layers between: partial sends are lost, no TCP_NODELAY, end of file
spins, time-outs leave streams out of step. The protocol itself is six messages (`protocol.txt`,
Android Open Source Project), so a small multiplexer is the simpler and safer part to own:

- There is one thread and no lock: whoever waits for its own stream reads packets, and puts those of
  other streams into their queues.
- Every packet is checked (magic, length, checksum, both stream ids). One that cannot be right
  closes the connection, as nothing after it can be trusted. Protocol version 0x01000000 is
  announced, since later ones leave the checksum out.
- Flow control is stop-and-wait: on each stream, either side sends one packet (WRTE) and waits until
  the other acknowledges it (OKAY) before it sends the next. A stream that has `QUEUE_BYTES` waiting
  for its reader leaves the last packet unacknowledged, so that the phone waits: memory is bounded.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from typing import NoReturn, Protocol

from hwbench.devices.android.adb.keys import Key, load_keys
from hwbench.devices.android.adb.link import FEATURES, Stream, left_s, one_line
from hwbench.errors import DeviceError, DeviceLostError, DeviceTimeoutError, DeviceUnavailableError

_HEADER = struct.Struct("<6I")
_VERSION = 0x01000000
_MIN_PAYLOAD, _MAX_PAYLOAD = 1 << 12, 1 << 20
_TOKEN, _SIGNATURE, _PUBLIC_KEY = 1, 2, 3
_CLOSE_S = 1.0  # adbd acknowledges within a round trip
QUEUE_BYTES = 16 << 20
"""How many bytes a stream takes ahead of its reader."""


class Pipe(Protocol):
    """A connection that carries packets; it gives up with DeviceTimeoutError or DeviceLostError."""

    def write(self, data: bytes, deadline: float) -> None:
        """Write all of `data`."""
        ...

    def read(self, size: int, deadline: float) -> bytes:
        """Read exactly `size` bytes."""
        ...

    def close(self) -> None:
        """Close the connection; never raises."""
        ...


class TcpPipe:
    """A TCP connection.

    Args:
        host: The name or number of the phone's host.
        port: The port where adbd listens.
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
        """See `Pipe`. What has come of a read that timed out is kept for the next one."""
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
        data = bytes(self._ahead[:size])
        del self._ahead[:size]
        return data

    def close(self) -> None:
        """See `Pipe`."""
        self._socket.close()


class DirectStream:
    """One service on a `DirectLink`; see `link.Stream`.

    Args:
        link: The connection.
        local: The number of the stream on this side.

    Attributes:
        remote: The phone's number of the stream; 0 until the phone has accepted it.
        writable: Whether the phone has acknowledged the last packet, so that it takes another.
        ended: Whether the phone has closed the stream.
        end_confirmed: Whether the phone named the stream by its own number when it closed it.
    """

    def __init__(self, link: DirectLink, local: int) -> None:
        self._link, self._local = link, local
        self.remote = 0
        self.writable = False
        self.ended = False
        self.end_confirmed = False
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._must_acknowledge = False
        self._closed = False

    def enqueue(self, data: bytes, deadline: float) -> None:
        """Take a packet from the phone, and acknowledge it unless the queue is full.

        As the phone sends nothing before the acknowledgement, leaving it out makes the phone wait;
        `receive` makes up for it once there is room again.
        """
        if self._must_acknowledge:
            self._link.fail("data before the last were acknowledged")
        self._queue.append(data)
        self._queued_bytes += len(data)
        self._must_acknowledge = True
        if self._queued_bytes < QUEUE_BYTES:
            self._acknowledge(deadline)

    def _acknowledge(self, deadline: float) -> None:
        self._must_acknowledge = False
        self._link.send("OKAY", self._local, self.remote, b"", deadline)

    def send(self, data: bytes, deadline: float) -> None:
        """See `Stream`."""
        for first in range(0, len(data), self._link.max_payload):
            # While this side waits for its acknowledgement it goes on reading, so that both sides
            # may send at once without waiting for each other for ever.
            while not self.writable and not self.ended:
                self._link.dispatch_packet(deadline)
            if self.ended:
                return
            self.writable = False
            piece = data[first : first + self._link.max_payload]
            self._link.send("WRTE", self._local, self.remote, piece, deadline)

    def receive(self, deadline: float) -> bytes:
        """See `Stream`."""
        while not self._queue and not self.ended:
            self._link.dispatch_packet(deadline)
        data = self._queue.popleft() if self._queue else b""
        self._queued_bytes -= len(data)
        if self._must_acknowledge and not self.ended:
            self._acknowledge(deadline)
        return data

    def close(self) -> None:
        """See `Stream`: the phone kills what runs behind it.

        If the phone cannot be told, the whole connection is closed. For a packet that is not
        acknowledged may mean that the phone knows no stream of that number, as the number came
        damaged (TCP packets are not checked above their own 16 bits); then nothing but the end of
        the connection reaches what runs behind it. The acknowledgement may also just be on its way,
        as of a short command's input, which may come after the command's end.
        """
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + _CLOSE_S
        try:
            while not (self.writable or self.ended):
                self._link.dispatch_packet(deadline)
            if not self.ended:
                self._link.send("CLSE", self._local, self.remote, b"", deadline)
            elif not self.end_confirmed:
                self._link.close()
        except DeviceError:
            self._link.close()
        finally:
            self._link.forget(self._local)


class DirectLink:
    """An authorised connection to adbd; see `link.AdbLink`.

    Args:
        pipe: The connection; this object closes it, also if the phone refuses.
        serial: The name of the phone in messages.
        route: How the phone is reached, `tcp` or `usb`.
        deadline: Until when the phone may take to let this computer in.

    Attributes:
        max_payload: The largest packet that the phone takes, in bytes.
        banner: What the phone says of itself.

    Raises:
        DeviceUnavailableError: The phone does not know this computer's key, or wants to be paired.
        DeviceTimeoutError: The phone does not answer.
        DeviceLostError: The phone hung up.
    """

    def __init__(self, pipe: Pipe, serial: str, route: str, deadline: float) -> None:
        self._pipe, self.serial, self.route = pipe, serial, route
        self.closed = False
        self.max_payload = _MIN_PAYLOAD
        self._streams: dict[int, DirectStream] = {}
        self._last_local = 0
        try:
            self.banner = self._authorise(deadline)
        except BaseException:
            self.close()
            raise
        self.features: frozenset[str] = frozenset()
        # The banner is `device::name=value;..;features=a,b,c`.
        for field in self.banner.partition("::")[2].split(";"):
            name, _, value = field.partition("=")
            if name == "features":
                self.features = frozenset(value.split(","))

    def _authorise(self, deadline: float) -> str:
        """Be let in by the phone, and return its banner.

        The phone answers every greeting with a random token until one of its known keys has signed
        it. So each key of this computer signs a token in turn; if none is known, the phone is asked
        to show the dialog about the first key, which its owner may confirm until the deadline.
        """
        self.send("CNXN", _VERSION, _MAX_PAYLOAD, f"host::features={FEATURES}".encode(), deadline)
        own_key: Key | None = None
        untried: list[Key] = []
        dialog_asked = False
        while True:
            try:
                command, kind, size, data = self._read_packet(deadline)
            except (DeviceTimeoutError, DeviceLostError) as error:
                if own_key is None or not dialog_asked:
                    raise
                raise _unauthorised_error(self.serial, own_key) from error
            if command == "CNXN" and size >= _MIN_PAYLOAD:
                self.max_payload = min(size, _MAX_PAYLOAD)
                return data.rstrip(b"\0").decode("utf-8", "replace")
            if command == "STLS":
                raise _unpaired_error(self.serial)
            if command != "AUTH" or kind != _TOKEN:
                self.fail(f"a {command} packet as a greeting (is it a phone's adbd?)")
            if own_key is None:
                untried = load_keys()
                own_key = untried[0]
            if untried:
                self.send("AUTH", _SIGNATURE, 0, untried.pop(0).sign(data), deadline)
            elif not dialog_asked:
                dialog_asked = True
                self.send("AUTH", _PUBLIC_KEY, 0, own_key.public() + b"\0", deadline)

    def open(self, service: str, deadline: float) -> Stream:
        """See `AdbLink`."""
        self._last_local += 1
        local = self._last_local
        stream = self._streams[local] = DirectStream(self, local)
        name = service.encode("utf-8", "surrogateescape") + b"\0"
        try:
            self.send("OPEN", local, 0, name, deadline)
            while not stream.remote and not stream.ended:
                self.dispatch_packet(deadline)
        except BaseException:
            # Whether the service runs is unknown: only the end of the connection ends it for
            # certain.
            self.close()
            raise
        if stream.ended:
            self.forget(local)
            raise DeviceUnavailableError(
                f"{self.serial} refuses the service {one_line(service.partition(':')[0])!r};"
                " restart adb on it"
            )
        return stream

    def send(self, command: str, first: int, second: int, data: bytes, deadline: float) -> None:
        """Send one packet.

        If that fails half of it may be under way, so the connection is closed.

        Args:
            command: Its name, four letters.
            first: Its first number; of most packets the stream's number on this side.
            second: Its second number; of most packets the stream's number on the phone.
            data: Its contents.
            deadline: Until when it may take.
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

    def dispatch_packet(self, deadline: float) -> None:
        """Read one packet and hand it to its stream, whoever waits for it."""
        command, remote, local, data = self._read_packet(deadline)
        stream = self._streams.get(local)
        if stream is None:
            if 0 < local <= self._last_local and command in {"OKAY", "WRTE", "CLSE"}:
                return  # the last words of a stream that was closed here
            self.fail(f"a {command} packet for stream {local}, which was never opened")
        elif command == "OKAY" and stream.remote in {0, remote} and remote:
            # Maybe a second one for the same packet: adbd 34 sends two where it could hand on only
            # a part at first.
            stream.remote, stream.writable = remote, True
        elif command == "WRTE" and stream.remote == remote and remote:
            stream.enqueue(data, deadline)
        elif command == "CLSE" and remote in {0, stream.remote}:
            stream.ended, stream.end_confirmed = True, remote == stream.remote
        else:
            self.fail(f"a {command} packet that does not fit stream {local}")

    def _read_packet(self, deadline: float) -> tuple[str, int, int, bytes]:
        """Read and check one packet: its command, its two numbers and its contents.

        A time-out before a packet leaves everything in order. One in the middle of a packet does
        not, so the connection is closed.
        """
        if self.closed:
            raise DeviceLostError(f"the connection to {self.serial} is closed; connect anew")
        try:
            header = self._pipe.read(_HEADER.size, deadline)
        except DeviceLostError:
            self.close()
            raise
        code, first, second, size, checksum, magic = _HEADER.unpack(header)
        if magic != code ^ 0xFFFFFFFF or size > _MAX_PAYLOAD:
            self.fail("a damaged packet")
        try:
            data = self._pipe.read(size, deadline) if size else b""
        except DeviceError:
            self.close()
            raise
        command = code.to_bytes(4, "little").decode("ascii", "replace")
        if command not in {"CNXN", "AUTH", "STLS", "OKAY", "WRTE", "CLSE"} or (
            size and checksum != _checksum(data)
        ):
            self.fail("a damaged packet")
        return command, first, second, data

    def fail(self, what: str) -> NoReturn:
        """Close the connection because of something that the phone should not have sent."""
        self.close()
        raise DeviceLostError(f"{self.serial} sent {what}; the connection was closed, connect anew")

    def forget(self, local: int) -> None:
        """Pass over further packets of a stream."""
        self._streams.pop(local, None)

    def close(self) -> None:
        """See `AdbLink`."""
        self.closed = True
        self._pipe.close()


def _checksum(data: bytes) -> int:
    """Add up the bytes modulo 2**32; by NumPy, since `sum` takes 8 ms for a full packet."""
    if len(data) < 4096:
        return sum(data)
    import numpy as np

    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint32))


def _unauthorised_error(serial: str, key: Key) -> DeviceUnavailableError:
    return DeviceUnavailableError(
        f"{serial} has not authorised this computer: unlock it, confirm the dialog 'Allow USB"
        " debugging?' (tick 'Always allow'), then run this again; the key it is asked about is"
        f" {key.path}"
    )


def _unpaired_error(serial: str) -> DeviceUnavailableError:
    return DeviceUnavailableError(
        f"{serial} wants an encrypted connection; pair it once (adb pair HOST:PORT), run adb"
        f" connect {serial}, and leave that adb server running: hwbench goes through it"
    )
