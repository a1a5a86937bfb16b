"""The phone's file service: stat, pull, push.

From `SYNC.TXT` and `file_sync_protocol.h`, Android Open Source Project.

A request is (name: 4 bytes, length: 4 bytes little-endian, path); contents travel in chunks of at
most 64 KiB, each with such a head. One service is opened for one file.
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

_HEAD = struct.Struct("<4sI")
_STAT1 = struct.Struct("<4s3I")
_STAT2 = struct.Struct("<4sIQQ4IQ3q")
_MAX_CHUNK_BYTES = 1 << 16
_MAX_PATH_BYTES = 1024


@dataclass(frozen=True, slots=True)
class RemoteStat:
    """What a phone tells of a file.

    Attributes:
        mode: Type and permissions, as `os.stat_result.st_mode`.
        size_bytes: Its size.
        modified_s: Time of its last change, seconds since 1970 by the phone's clock.
    """

    mode: int
    size_bytes: int
    modified_s: int


class _Exchange:
    """Requests to and answers from one file service, for one remote path."""

    def __init__(self, stream: Stream, remote: str, deadline: float) -> None:
        self.stream, self.remote, self.deadline = stream, remote, deadline
        self._rest = bytearray()

    def ask(self, request: bytes, suffix: str = "") -> None:
        path = os.fsencode(self.remote + suffix)
        self.stream.send(_HEAD.pack(request, len(path)) + path, self.deadline)

    def take(self, size: int) -> bytes:
        while len(self._rest) < size:
            data = self.stream.receive(self.deadline)
            if not data:
                raise DeviceLostError(
                    f"the phone stopped in the middle of {self.remote}; connect anew"
                )
            self._rest += data
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        return taken

    def head(self, *expected: bytes) -> tuple[bytes, int]:
        """Name and number of the next answer; a refusal is raised with the phone's own reason."""
        name, number = _HEAD.unpack(self.take(_HEAD.size))
        if name == b"FAIL" and number <= _MAX_CHUNK_BYTES:
            raise self.refused(one_line(self.take(number).decode("utf-8", "replace")))
        if name not in expected or (name == b"DATA" and number > _MAX_CHUNK_BYTES):
            raise OutputParseError(
                f"the phone's file service answered {name!r} {number} about {self.remote}; connect"
                " anew"
            )
        return name, number

    def refused(self, reason: str) -> DeviceCommandError:
        text = (
            f"the phone refuses {self.remote}: {reason}; check that it is there, the folder's"
            " permissions and the free space"
        )
        return DeviceCommandError(text, ("sync", self.remote), 1, reason)


def check_path(remote: str) -> str:
    """The path itself, if a phone can take it.

    Raises:
        UsageError: It is relative, too long, or holds a NUL.
    """
    if (
        not remote.startswith("/")
        or "\0" in remote
        or len(os.fsencode(remote)) > _MAX_PATH_BYTES - 8
    ):
        raise UsageError(
            f"{remote[:80]!r} is no path on a phone; give it from the root on, of at most"
            f" {_MAX_PATH_BYTES - 8} bytes"
        )
    return remote


def stat(
    stream: Stream, remote: str, features: frozenset[str], deadline: float
) -> RemoteStat | None:
    """What the phone tells of a file, links followed; None if there is none.

    Raises:
        DeviceCommandError: It cannot tell (permission denied).
    """
    exchange = _Exchange(stream, remote, deadline)
    if (
        "stat_v2" not in features
    ):  # Android 7: no reason given, sizes modulo 2**32, links not followed
        exchange.ask(b"STAT")
        name, mode, size, modified = _STAT1.unpack(exchange.take(_STAT1.size))
        code = 0 if mode else errno.ENOENT
    else:
        exchange.ask(b"STA2")
        name, code, _, _, mode, _, _, _, size, _, modified, _ = _STAT2.unpack(
            exchange.take(_STAT2.size)
        )
    if name not in {b"STAT", b"STA2"}:
        raise OutputParseError(
            f"the phone's file service answered {name!r} about {remote}; connect anew"
        )
    if code in {errno.ENOENT, errno.ENOTDIR}:
        return None
    if code:
        raise exchange.refused(os.strerror(code))
    return RemoteStat(mode, size, modified)


def pull(stream: Stream, remote: str, limit_bytes: int, deadline: float) -> bytes:
    """The contents of a file of at most `limit_bytes`.

    Raises:
        DeviceCommandError: There is none, or it may not be read.
        OutputParseError: It is larger, or the phone's answer is damaged.
    """
    exchange = _Exchange(stream, remote, deadline)
    exchange.ask(b"RECV")
    contents = bytearray()
    while True:
        name, size = exchange.head(b"DATA", b"DONE")
        if name == b"DONE":
            return bytes(contents)
        if len(contents) + size > limit_bytes:
            raise OutputParseError(
                f"{remote} on the phone is larger than the {limit_bytes} bytes expected of it; look"
                " at it by hand"
            )
        contents += exchange.take(size)


def push(stream: Stream, remote: str, mode: int, pieces: Iterable[bytes], deadline: float) -> None:
    """Write a file; it is whole only once this returns. Missing folders are made.

    Args:
        stream: An open file service.
        remote: Where.
        mode: Permissions; adbd gives those of the owner to all.
        pieces: The contents, in pieces of any size.
        deadline: Until when it may take.

    Raises:
        DeviceCommandError: The phone refuses it; the reason is in the message.
    """
    exchange = _Exchange(stream, remote, deadline)
    exchange.ask(b"SEND", f",{file_types.S_IFREG | mode}")
    for piece in pieces:
        chunks = (
            piece[first : first + _MAX_CHUNK_BYTES]
            for first in range(0, len(piece), _MAX_CHUNK_BYTES)
        )
        stream.send(b"".join(_HEAD.pack(b"DATA", len(chunk)) + chunk for chunk in chunks), deadline)
    stream.send(_HEAD.pack(b"DONE", int(time.time()) & 0xFFFFFFFF), deadline)
    exchange.head(b"OKAY")
