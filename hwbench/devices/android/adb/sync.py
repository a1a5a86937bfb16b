"""The phone's file service: stat, pull, push.

The protocol is that of `SYNC.TXT` and `file_sync_protocol.h` (Android Open Source Project). A
request is a header (name: 4 bytes, length: 4 bytes little-endian) and a path. Contents travel in
chunks of at most 64 KiB, each behind a header named DATA with the length of the chunk; DONE ends
them. An answer is such a header too: OKAY, or FAIL with the length of the reason that follows. One
service is opened for one file.
"""

from __future__ import annotations

import errno
import os
import stat as file_types
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

from hwbench.devices.android.adb.link import Stream, one_line
from hwbench.errors import DeviceCommandError, DeviceLostError, OutputParseError, UsageError

_HEADER = struct.Struct("<4sI")
_STAT1 = struct.Struct("<4s3I")
_STAT2 = struct.Struct("<4sIQQ4IQ3q")
_MAX_CHUNK_BYTES = 1 << 16
_MAX_PATH_BYTES = 1024
_SUFFIX_BYTES = 16
"""What the name of a file is longer by while it is being sent."""


@dataclass(frozen=True, slots=True)
class RemoteStat:
    """What a phone says of a file.

    Attributes:
        mode: Its type and permissions, as `os.stat_result.st_mode`.
        size_bytes: Its size in bytes.
        modified_s: The time of its last change, in seconds since 1970 by the phone's clock.
    """

    mode: int
    size_bytes: int
    modified_s: int


class _Exchange:
    """Requests to and answers from one file service, for one remote path.

    Args:
        stream: An open file service.
        remote: The path on the phone.
        deadline: Until when the whole exchange may take.
    """

    def __init__(self, stream: Stream, remote: str, deadline: float) -> None:
        self.stream, self.remote, self.deadline = stream, remote, deadline
        self._received = bytearray()

    def request(self, name: bytes, suffix: str = "") -> None:
        """Send a request about the path, with `suffix` behind it."""
        path = os.fsencode(self.remote + suffix)
        self.stream.send(_HEADER.pack(name, len(path)) + path, self.deadline)

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes of the answer."""
        while len(self._received) < size:
            data = self.stream.receive(self.deadline)
            if not data:
                raise DeviceLostError(
                    f"the phone stopped in the middle of {self.remote}; connect anew"
                )
            self._received += data
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def read_header(self, *expected: bytes) -> tuple[bytes, int]:
        """Read the header of the next answer.

        Args:
            *expected: The names it may have.

        Returns:
            Its name and number.

        Raises:
            DeviceCommandError: The phone refuses the request; the message has its own reason.
            OutputParseError: The answer is something else.
        """
        name, number = _HEADER.unpack(self.read(_HEADER.size))
        if name == b"FAIL" and number <= _MAX_CHUNK_BYTES:
            raise self.refusal(one_line(self.read(number).decode("utf-8", "replace")))
        if name not in expected or (name == b"DATA" and number > _MAX_CHUNK_BYTES):
            raise OutputParseError(
                f"the phone's file service answered {name!r} {number} about {self.remote}; connect"
                " anew"
            )
        return name, number

    def refusal(self, reason: str) -> DeviceCommandError:
        """Make the error for a request that the phone refuses."""
        text = (
            f"the phone refuses {self.remote}: {reason}; check that it is there, the folder's"
            " permissions and the free space"
        )
        return DeviceCommandError(text, ("sync", self.remote), 1, reason)


def check_path(remote: str) -> str:
    """Check that a phone can take a path, and return it.

    Raises:
        UsageError: The path is relative, too long, or holds a NUL.
    """
    if (
        not remote.startswith("/")
        or "\0" in remote
        or len(os.fsencode(remote)) > _MAX_PATH_BYTES - _SUFFIX_BYTES
    ):
        raise UsageError(
            f"{remote[:80]!r} is no path on a phone; give it from the root on, of at most"
            f" {_MAX_PATH_BYTES - _SUFFIX_BYTES} bytes"
        )
    return remote


def stat(
    stream: Stream, remote: str, features: frozenset[str], deadline: float
) -> RemoteStat | None:
    """Ask what a file is, links followed.

    Args:
        stream: An open file service.
        remote: The path on the phone.
        features: The features of the phone.
        deadline: Until when it may take.

    Returns:
        What the phone says; None if there is no such file.

    Raises:
        DeviceCommandError: The phone cannot say (permission denied).
    """
    exchange = _Exchange(stream, remote, deadline)
    if "stat_v2" in features:
        exchange.request(b"STA2")
        fields = _STAT2.unpack(exchange.read(_STAT2.size))
        name, code, _, _, mode, _, _, _, size, _, modified, _ = fields
    else:
        # Android 7 gives no reason, sizes modulo 2**32, and does not follow links.
        exchange.request(b"STAT")
        name, mode, size, modified = _STAT1.unpack(exchange.read(_STAT1.size))
        code = 0 if mode else errno.ENOENT
    if name not in {b"STAT", b"STA2"}:
        raise OutputParseError(
            f"the phone's file service answered {name!r} about {remote}; connect anew"
        )
    if code in {errno.ENOENT, errno.ENOTDIR}:
        return None
    if code:
        raise exchange.refusal(os.strerror(code))
    return RemoteStat(mode, size, modified)


def pull(stream: Stream, remote: str, limit_bytes: int, deadline: float) -> bytes:
    """Read the contents of a file.

    Args:
        stream: An open file service.
        remote: The path on the phone.
        limit_bytes: The largest size that is read.
        deadline: Until when it may take.

    Raises:
        DeviceCommandError: There is no such file, or it may not be read.
        OutputParseError: The file is larger, or the phone's answer is damaged.
    """
    exchange = _Exchange(stream, remote, deadline)
    exchange.request(b"RECV")
    contents = bytearray()
    while True:
        name, size = exchange.read_header(b"DATA", b"DONE")
        if name == b"DONE":
            return bytes(contents)
        if len(contents) + size > limit_bytes:
            raise OutputParseError(
                f"{remote} on the phone is larger than the {limit_bytes} bytes expected of it; look"
                " at it by hand"
            )
        contents += exchange.read(size)


def push(stream: Stream, remote: str, mode: int, pieces: Iterable[bytes], deadline: float) -> None:
    """Write a file; it is whole only once this returns. Missing folders are made.

    Args:
        stream: An open file service.
        remote: The path on the phone.
        mode: The permissions; adbd gives those of the owner to all.
        pieces: The contents, in pieces of any size.
        deadline: Until when it may take.

    Raises:
        DeviceCommandError: The phone refuses it; the reason is in the message.
    """
    exchange = _Exchange(stream, remote, deadline)
    exchange.request(b"SEND", f",{file_types.S_IFREG | mode}")
    for piece in pieces:
        # The chunks of a piece are sent together, as each sending waits for an acknowledgement.
        data = bytearray()
        for first in range(0, len(piece), _MAX_CHUNK_BYTES):
            chunk = piece[first : first + _MAX_CHUNK_BYTES]
            data += _HEADER.pack(b"DATA", len(chunk)) + chunk
        stream.send(bytes(data), deadline)
    # The number of DONE is the time of the last change. The phone answers only now, also if it
    # refused the file at once.
    stream.send(_HEADER.pack(b"DONE", int(time.time()) & 0xFFFFFFFF), deadline)
    exchange.read_header(b"OKAY")
