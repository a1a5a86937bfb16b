"""The phone's shell service, version 2: quoting on the way there, framing on the way back.

A frame is a kind (1 byte), a length (4 bytes little-endian) and a payload, from `shell_protocol.h`
(Android Open Source Project). Output, errors and exit status come apart, and closing the stream
ends the command. The older service has neither, so it is not used, and Android 7 (2016) is the
oldest that works.
"""

from __future__ import annotations

import re
import shlex
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwbench.devices.android.adb.link import Stream, one_line
from hwbench.errors import (
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    OutputParseError,
    UsageError,
)

_FRAME = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_MAX_FRAME = 1 << 24
_TAIL_BYTES = 2000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_COMMAND_BYTES = 1 << 15
"""Longest remote command line in bytes.

Linux allows 128 KiB for one argument, and adb servers 64 KiB for the name of a service.
"""
MAX_OUTPUT_BYTES = 64 << 20
"""Most output of one command that is kept, in bytes."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A remote command that has ended.

    Attributes:
        code: Its exit status; 128 plus the number of the signal if a signal ended it.
        stdout: Its output.
        stderr: Its messages.
    """

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """The output as text."""
        return self.stdout.decode("utf-8", "replace")


def quote_command(
    argv: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None
) -> str:
    """Write the remote command line that runs exactly `argv`.

    This is the one place where text becomes shell. The shell replaces itself by the command, so
    that the end of the stream ends the command itself.

    Args:
        argv: The program and its arguments.
        env: Environment variables to set.
        cwd: The folder to run it in, from the root on.

    Raises:
        UsageError: There is nothing to run, a NUL, a name that no shell takes, a relative folder,
            or a line too long to travel.
    """
    env = env or {}
    words = [*argv, *env.values(), cwd or "/"]
    if not argv or not argv[0] or any("\0" in word for word in words):
        raise UsageError(
            f"cannot run {list(argv)!r} on a phone: a program is needed, and no NUL anywhere"
        )
    if not all(_NAME.fullmatch(name) for name in env) or (env and "=" in argv[0]):
        raise UsageError(
            f"cannot set {sorted(env)!r} for {argv[0]!r} on a phone; use plain variable and"
            " program names"
        )
    if cwd is not None and not cwd.startswith("/"):
        raise UsageError(
            f"cannot run {argv[0]!r} in {cwd!r} on a phone; give the folder from the root on"
        )
    settings = [f"{name}={value}" for name, value in env.items()]
    if settings:
        settings.insert(0, "env")
    line = shlex.join(["exec", *settings, *argv])
    if cwd is not None:
        line = f"cd {shlex.quote(cwd)} && {line}"
    if len(line.encode("utf-8", "surrogateescape")) > MAX_COMMAND_BYTES:
        raise UsageError(
            f"a command line for a phone is longer than {MAX_COMMAND_BYTES} bytes ({argv[0]!r});"
            " push a file instead"
        )
    return line


class ShellParser:
    """Takes the bytes of the shell service, cut anywhere, apart into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self.code: int | None = None
        """The exit status, once it has come; nothing can follow it."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take the next bytes.

        Args:
            data: Bytes of the service, in the order they came.

        Returns:
            What they add to output and to messages; bytes of an unfinished frame wait for the next
            call.

        Raises:
            OutputParseError: The bytes are not frames of the shell service.
        """
        self._rest += data
        out, err = bytearray(), bytearray()
        while len(self._rest) >= _FRAME.size and self.code is None:
            kind, size = _FRAME.unpack_from(self._rest)
            if (
                kind not in {_STDOUT, _STDERR, _EXIT}
                or size > _MAX_FRAME
                or (kind == _EXIT and size != 1)
            ):
                raise OutputParseError(
                    f"the phone's shell sent a frame of kind {kind} and {size} bytes; connect anew"
                )
            if len(self._rest) < _FRAME.size + size:
                break
            payload = bytes(self._rest[_FRAME.size : _FRAME.size + size])
            del self._rest[: _FRAME.size + size]
            if kind == _EXIT:
                self.code = payload[0]
            elif kind == _STDOUT:
                out += payload
            else:
                err += payload
        return bytes(out), bytes(err)


def frame_input(data: bytes) -> bytes:
    """Frame input for a remote command; no input needs no frame."""
    if not data:
        return b""
    return _FRAME.pack(_STDIN, len(data)) + data


END_OF_INPUT = _FRAME.pack(_CLOSE_STDIN, 0)
"""Tells a remote command that no more input comes."""


def run_to_end(stream: Stream, stdin: bytes, deadline: float) -> Completed:
    """Give a command its input, wait for its end, and close the stream.

    Closing ends the command if it has not ended by itself.

    Args:
        stream: The shell service of the command.
        stdin: The input of the command.
        deadline: Until when it may take.

    Raises:
        DeviceTimeoutError: The command has not ended by then.
        DeviceLostError: The connection ended before the command.
        OutputParseError: The output is damaged, or more than `MAX_OUTPUT_BYTES`.
    """
    out, err, parser = bytearray(), bytearray(), ShellParser()
    try:
        stream.send(frame_input(stdin) + END_OF_INPUT, deadline)
        while parser.code is None:
            data = stream.receive(deadline)
            if not data:
                raise DeviceLostError(
                    "the connection to the phone ended before the command did; connect anew"
                )
            more_out, more_err = parser.feed(data)
            out += more_out
            err += more_err
            if len(out) + len(err) > MAX_OUTPUT_BYTES:
                raise OutputParseError(
                    f"a command on the phone printed more than {MAX_OUTPUT_BYTES} bytes; write to a"
                    " file instead"
                )
    finally:
        stream.close()
    return Completed(parser.code, bytes(out), bytes(err))


class RemoteProcess:
    """A command that runs on the phone: a `Transport` for the native runner.

    Args:
        stream: The shell service of the command; this object closes it.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream, self._parser = stream, ShellParser()
        self._messages = b""
        self._ending: str | None = None

    def send(self, data: bytes, timeout_s: float) -> None:
        """Send all of `data` to its input; nothing happens if the command has ended.

        Args:
            data: Input of the command.
            timeout_s: How long it may take, in seconds.

        Raises:
            DeviceTimeoutError: The command did not take it in time.
        """
        if self._parser.code is None:
            self._stream.send(frame_input(data), time.monotonic() + timeout_s)

    def receive(self, timeout_s: float) -> bytes:
        """Receive the next bytes of its output; none at its end.

        Args:
            timeout_s: How long to wait, in seconds.

        Raises:
            DeviceTimeoutError: Nothing came in time.
            DeviceLostError: The connection ended before the command did.
        """
        deadline = time.monotonic() + timeout_s
        while self._parser.code is None:
            data = self._stream.receive(deadline)
            if not data:
                raise DeviceLostError(
                    "the connection to the phone ended before the program did; connect anew"
                )
            out, err = self._parser.feed(data)
            self._messages = (self._messages + err)[-_TAIL_BYTES:]
            if out:
                return out
        return b""

    def close(self, grace_s: float = 0.0) -> str:
        """End the command: by the end of its input, and after a while by force.

        Never raises; closing twice is fine.

        Args:
            grace_s: How long it may take to end by itself, in seconds.

        Returns:
            How it ended and the last of its messages, in one line.
        """
        if self._ending is None:
            how = "ended by force"
            try:
                deadline = time.monotonic() + grace_s
                self._stream.send(END_OF_INPUT, deadline)
                while self.receive(deadline - time.monotonic()):
                    pass
                how = f"exit status {self._parser.code}"
            except DeviceTimeoutError:
                pass
            except (DeviceError, OutputParseError) as error:
                how = one_line(str(error))
            self._stream.close()
            messages = one_line(self._messages.decode("utf-8", "replace")) or "no message"
            self._ending = f"{how}; {messages}"
        return self._ending
