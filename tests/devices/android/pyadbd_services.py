"""Services of the Python adbd: shell (version 1 and 2, with or without a terminal), exec, and file
sync.
"""

from __future__ import annotations

import os
import pty
import selectors
import signal
import stat
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from tests.devices.android.pyadbd import PyAdbd, Stream, StreamEndError, Talk

Service = Callable[[Stream, PyAdbd], None]
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)


def service(address: str) -> Service | None:
    """The service of that name; None if there is none."""
    name, _, argument = address.partition(":")
    kind, *options = name.split(",")
    if kind == "shell":
        terminal = "pty" in options or (not argument and "raw" not in options)
        return partial(shell, command=argument, framed="v2" in options, terminal=terminal)
    if kind == "exec":
        return partial(shell, command=argument, framed=False, terminal=False)
    if kind == "sync":
        return Sync
    return None


def shell(stream: Stream, daemon: PyAdbd, *, command: str, framed: bool, terminal: bool) -> None:
    """Run a command.

    As adbd does, hang up on its process (and on no other) when the host closes the stream.
    """
    argv = [*daemon.prefix, "/bin/sh", *(["-c", command] if command else ["-i"])]
    ours, theirs = pty.openpty() if terminal else (-1, -1)
    process = subprocess.Popen(
        [os.fsencode(word) for word in argv],
        stdin=theirs if terminal else subprocess.PIPE,
        stdout=theirs if terminal else subprocess.PIPE,
        stderr=theirs if terminal else subprocess.PIPE if framed else subprocess.STDOUT,
        start_new_session=True,
        env=daemon.environment,
        cwd="/",
    )
    stream.on_close = partial(_hang_up, process)
    if stream.closed:
        _hang_up(process)
    if terminal:
        os.close(theirs)
        outputs, feed = {ours: _STDOUT}, ours
    else:
        outputs, feed = {process.stdout.fileno(): _STDOUT}, process.stdin.fileno()
        if framed:
            outputs[process.stderr.fileno()] = _STDERR
    talk = Talk(command)
    daemon.talks.append(talk)
    feeding = threading.Thread(
        target=_feed, args=(stream, process, feed, framed, talk), name="pyadbd stdin", daemon=True
    )
    feeding.start()
    try:
        for kind, data in _output(outputs):
            if kind == _STDOUT:
                talk.said += data
            stream.write(struct.pack("<BI", kind, len(data)) + data if framed else data)
        code = process.wait()
        if framed:
            stream.write(struct.pack("<BIB", _EXIT, 1, code if code >= 0 else 128 - code))
    finally:  # nobody listens any more: whoever still writes is ended by that
        stream.close()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        if terminal:
            os.close(ours)
        process.wait()
        feeding.join()


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGHUP)


def _output(outputs: dict[int, int]):
    """(kind, bytes) of what the process prints until it has closed all its outputs."""
    with selectors.DefaultSelector() as selector:
        for descriptor in outputs:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    data = os.read(key.fd, 1 << 16)
                except OSError:  # how a terminal says that nobody is at its other end
                    data = b""
                if data:
                    yield outputs[key.fd], data
                else:
                    selector.unregister(key.fd)


def _feed(
    stream: Stream, process: subprocess.Popen[bytes], descriptor: int, framed: bool, talk: Talk
) -> None:
    try:
        while True:
            if framed:
                kind, size = struct.unpack("<BI", stream.read(5))
                data = stream.read(size)
                if kind == _CLOSE_STDIN:
                    break
                if kind != _STDIN:
                    continue
            else:
                data = stream.read_some()
                if not data:
                    break
            talk.heard += data
            while data:
                data = data[os.write(descriptor, data) :]
    except (StreamEndError, OSError):
        pass
    if process.stdin is not None:
        with suppress(OSError):
            process.stdin.close()


class Sync:
    """The file service; serves until the host has enough."""

    def __init__(self, stream: Stream, daemon: PyAdbd) -> None:
        self._stream, self._daemon = stream, daemon
        requests = {
            b"STAT": self._stat1,
            b"STA2": partial(self._stat2, b"STA2", os.stat),
            b"LST2": partial(self._stat2, b"LST2", os.lstat),
            b"LIST": partial(self._list, version=1),
            b"LIS2": partial(self._list, version=2),
            b"RECV": self._receive,
            b"SEND": self._send,
        }
        while True:
            name, size = struct.unpack("<4sI", stream.read(8))
            if name == b"QUIT":
                return
            argument = os.fsdecode(stream.read(size))
            requests.get(name, lambda _, name=name: self._fail(f"unknown command {name!r}"))(
                argument
            )

    def _fail(self, reason: str) -> None:
        self._stream.write(struct.pack("<4sI", b"FAIL", len(reason)) + reason.encode())

    def _stat1(self, remote: str) -> None:
        try:
            found = os.lstat(self._daemon.path(remote))
            numbers = found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime)
        except OSError:
            numbers = 0, 0, 0
        self._stream.write(struct.pack("<4s3I", b"STAT", *numbers))

    def _stat2(self, name: bytes, look: Callable[[Path], os.stat_result], remote: str) -> None:
        try:
            packed = _packed(look(self._daemon.path(remote)))
        except OSError as error:
            packed = struct.pack("<I", error.errno) + bytes(64)
        self._stream.write(name + packed)

    def _list(self, remote: str, version: int) -> None:
        folder = self._daemon.path(remote)
        for name in (
            [".", "..", *(file.name for file in folder.iterdir())] if folder.is_dir() else []
        ):
            found, encoded = os.lstat(folder / name), os.fsencode(name)
            if version == 2:
                self._stream.write(
                    b"DNT2" + _packed(found) + struct.pack("<I", len(encoded)) + encoded
                )
            else:
                numbers = (
                    found.st_mode,
                    found.st_size & 0xFFFFFFFF,
                    int(found.st_mtime),
                    len(encoded),
                )
                self._stream.write(struct.pack("<4s4I", b"DENT", *numbers) + encoded)
        self._stream.write(b"DONE" + bytes(72 if version == 2 else 16))

    def _receive(self, remote: str) -> None:
        try:
            with self._daemon.path(remote).open("rb") as file:
                while data := file.read(1 << 16):
                    self._stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        except OSError as error:
            return self._fail(f"open failed: {error.strerror}")
        return self._stream.write(b"DONE" + bytes(4))

    def _send(self, specification: str) -> None:
        remote, _, mode = specification.rpartition(",")
        path, refusal = self._daemon.path(remote), ""
        contents = bytearray()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not stat.S_ISLNK(int(mode)):
                path.write_bytes(b"")
        except OSError as error:
            refusal = f"couldn't create file: {error.strerror}"
            self._fail(refusal)
        try:
            while True:
                name, number = struct.unpack("<4sI", self._stream.read(8))
                if name == b"DONE":
                    break
                if name != b"DATA" or number > 1 << 16:
                    return self._fail("invalid data message")
                contents += self._stream.read(number)
        except StreamEndError:
            if not refusal:
                path.unlink(missing_ok=True)
            raise
        if refusal:
            return None
        if stat.S_ISLNK(int(mode)):
            path.unlink(missing_ok=True)
            path.symlink_to(os.fsdecode(contents.rstrip(b"\0")))
        else:
            path.write_bytes(contents)
            owner = int(mode) & 0o700
            path.chmod(owner | owner >> 3 | owner >> 6)
            os.utime(path, (number, number))
        return self._stream.write(b"OKAY" + bytes(4))


def _packed(found: os.stat_result) -> bytes:
    numbers = found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size
    times = int(found.st_atime), int(found.st_mtime), int(found.st_ctime)
    return struct.pack("<IQQ4IQ3q", 0, found.st_dev, found.st_ino, *numbers, *times)
