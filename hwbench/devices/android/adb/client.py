"""One connection to one Android phone: run, script, start, push, pull, stat.

Knows nothing of models.

Every call is bounded in time and ends with its result or an error of `hwbench.errors` that says
what to do. Arguments travel through one quoting function (`quote`) and are never pasted into shell
text. After a time-out, or any error that leaves the connection's state unknown, the next call
connects anew, which also ends whatever the old connection had left running.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Self

from hwbench.devices.android.adb import sync
from hwbench.devices.android.adb.find import open_link, sightings
from hwbench.devices.android.adb.link import Link, Stream, one_line
from hwbench.devices.android.adb.shell import Completed, RemoteProcess, complete, quote
from hwbench.devices.android.adb.sync import RemoteStat
from hwbench.errors import (
    DeviceCommandError,
    DeviceError,
    DeviceLostError,
    DeviceUnavailableError,
    HwbenchError,
    OutputParseError,
    UsageError,
)

__all__ = ["Adb", "Completed", "Phone", "RemoteProcess", "RemoteStat", "connect", "phones", "quote"]

_PUSH_PIECE_BYTES = 1 << 19
# $1 what was sent, $2 where it belongs, $3 its permissions, $4 its MD5 (the one sum that every
# phone's toybox has)
_INSTALL = """
sum=$(md5sum <"$1") && [ "${sum%% *}" = "$4" ] && chmod "$3" "$1" && mv -f "$1" "$2" && exit
echo "what arrived has the sum ${sum%% *}, sent was $4"; rm -f "$1"; exit 1
"""


class Adb:
    """A phone, connected. Use as a context manager, from one thread; made by `connect`.

    Args:
        link: The connection; closed by this object.
        reopen: Makes a new one to the same phone, bounded by a deadline.

    Attributes:
        trips: Services opened so far, each a round trip.
    """

    def __init__(self, link: Link, reopen: Callable[[float], Link]) -> None:
        self._link, self._reopen = link, reopen
        self.trips = 0

    @property
    def serial(self) -> str:
        """The phone's serial, or HOST:PORT."""
        return self._link.serial

    @property
    def route(self) -> str:
        """How it is reached: `server`, `tcp` or `usb`."""
        return self._link.route

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; what still runs on the phone through this connection ends.

        Closing twice is fine.
        """
        self._link.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes = b"",
        timeout_s: float = 30.0,
        check: bool = True,
    ) -> Completed:
        """Run a command to its end.

        Args:
            argv: Program and arguments, as they are.
            env: Variables to set.
            cwd: Folder to run it in.
            stdin: Its input.
            timeout_s: Seconds it may take; then it is ended.
            check: Whether a status other than 0 is an error.

        Raises:
            DeviceCommandError: It failed and `check` is set.
            DeviceTimeoutError: It took too long, and was ended.
            DeviceLostError: The phone went away.
        """
        line, deadline = quote(argv, env, cwd), time.monotonic() + timeout_s
        with self._in_step():
            done = complete(self._open(_shell(line), deadline), stdin, deadline)
        if check and done.code:
            tail = (done.stderr or done.stdout)[-2000:].decode("utf-8", "replace")
            said = one_line(tail) or "no message"
            raise DeviceCommandError(
                f"{argv[0]} on {self.serial} failed with status {done.code}: {said}",
                argv,
                done.code,
                tail,
            )
        return done

    def script(
        self, text: str, *args: str, timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        """Run a constant shell script of ours; `args` reach it as $1 and on. Raises as `run`."""
        return self.run(["sh", "-c", text, "sh", *args], timeout_s=timeout_s, check=check)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 10.0,
    ) -> RemoteProcess:
        """Start a command and talk with it; closing the process, or this connection, ends it."""
        line, deadline = quote(argv, env, cwd), time.monotonic() + timeout_s
        with self._in_step():
            return RemoteProcess(self._open(_shell(line), deadline))

    def push(
        self,
        data: bytes | Path,
        remote: str,
        *,
        mode: int = 0o644,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        """Put a file on the phone, whole or not at all: under another name first, compared there, then renamed.

        Args:
            data: The contents, or the local file that has them.
            remote: Where; missing folders are made.
            mode: Permissions.
            progress: Called with bytes sent and bytes in all.
            timeout_s: Seconds it may take.

        Raises:
            DeviceCommandError: The phone refuses it, with its reason, or what arrived is not what
                was sent.
            DeviceTimeoutError: It took too long.
        """
        deadline, part, digest = (
            time.monotonic() + timeout_s,
            f"{sync.check_path(remote)}.part",
            hashlib.md5(usedforsecurity=False),
        )

        contents = _pieces(data)
        # A file that cannot be read must be found out before the phone has begun one of that name.
        beginning = list(islice(contents, 1))

        def pieces() -> Iterator[bytes]:
            for piece, sent, total in chain(beginning, contents):
                digest.update(piece)
                yield piece
                if progress is not None:
                    progress(sent, total)

        with self._service("sync:", deadline) as stream:
            sync.push(stream, part, mode, pieces(), deadline)
        left_s = max(1.0, deadline - time.monotonic())
        done = self.script(
            _INSTALL, part, remote, f"{mode:04o}", digest.hexdigest(), timeout_s=left_s, check=False
        )
        if done.code:
            tail = (done.stderr + done.stdout).decode("utf-8", "replace")
            what = f"{remote} could not be put on {self.serial}: {one_line(tail)}"
            raise DeviceCommandError(
                f"{what}; check the folder's permissions and the free space",
                ("push", remote),
                done.code,
                tail,
            )

    def pull(self, remote: str, *, limit_bytes: int, timeout_s: float = 60.0) -> bytes:
        """The contents of a file on the phone.

        Raises:
            DeviceCommandError: There is none, or it may not be read.
            OutputParseError: It is larger than `limit_bytes`.
        """
        deadline = time.monotonic() + timeout_s
        with self._service("sync:", deadline) as stream:
            return sync.pull(stream, sync.check_path(remote), limit_bytes, deadline)

    def stat(self, remote: str, *, timeout_s: float = 10.0) -> RemoteStat | None:
        """Size, type and permissions of a file, links followed; None if there is no such file."""
        deadline = time.monotonic() + timeout_s
        with self._service("sync:", deadline) as stream:
            return sync.stat(stream, sync.check_path(remote), self._link.features, deadline)

    @contextmanager
    def _service(self, service: str, deadline: float) -> Iterator[Stream]:
        with self._in_step():
            stream = self._open(service, deadline)
            try:
                yield stream
            finally:
                stream.close()

    def _open(self, service: str, deadline: float) -> Stream:
        if self._link.closed:
            try:
                self._link = self._reopen(deadline)
            except DeviceUnavailableError as error:
                raise DeviceLostError(
                    f"the connection to {self.serial} was lost and cannot be made again: {error}"
                ) from error
        self.trips += 1
        return self._link.open(service, deadline)

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Hang up after whatever leaves the connection's state unknown, so that the next call starts with a new one."""
        try:
            yield
        except (UsageError, DeviceCommandError):
            raise
        except BaseException:
            self._link.close()
            raise


def _shell(line: str) -> str:
    return f"shell,v2,raw:{line}"


def _pieces(data: bytes | Path) -> Iterator[tuple[bytes, int, int]]:
    """Pieces of the contents, each with the bytes so far and in all."""
    if isinstance(data, bytes):
        for first in range(0, len(data), _PUSH_PIECE_BYTES):
            piece = data[first : first + _PUSH_PIECE_BYTES]
            yield piece, first + len(piece), len(data)
        return
    try:
        total, sent = data.stat().st_size, 0
        with data.open("rb") as file:
            while piece := file.read(_PUSH_PIECE_BYTES):
                sent += len(piece)
                yield piece, sent, total
    except OSError as error:
        raise UsageError(
            f"cannot read {data} to send it to the phone ({error}); check the file"
        ) from error


def connect(address: str, *, timeout_s: float = 10.0) -> Adb:
    """Connect to a phone: through an adb server that lists it, else directly over TCP (HOST:PORT), else over USB.

    Args:
        address: A serial, HOST:PORT, or nothing if there is only one phone.
        timeout_s: Seconds it may take.

    Raises:
        UsageError: Several phones are in sight and none is named.
        DeviceUnavailableError: There is none, or it is not ready; the message says what to do.
        DeviceTimeoutError: It does not answer.
        DeviceLostError: It hung up.
    """
    link = open_link(address, time.monotonic() + timeout_s)
    if "shell_v2" not in link.features:
        link.close()
        raise DeviceUnavailableError(
            f"phone {link.serial} has no shell of version 2; Android 7 or later is needed"
        )
    return Adb(
        link, lambda deadline: open_link(link.serial, min(deadline, time.monotonic() + timeout_s))
    )


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone in sight, for `hwbench devices`.

    Attributes:
        address: What to give after `android:`.
        state: `device` if it is ready, else what it is instead (`unauthorized`, `offline`, `no
            permissions`, ...).
        model: Manufacturer and model; empty if it could not be asked, as the next two.
        soc: System on chip.
        android: Version of Android.
        route: `server` or `usb`.
        hint: What to do to make it ready; empty if it is.
    """

    address: str
    state: str
    model: str = ""
    soc: str = ""
    android: str = ""
    route: str = ""
    hint: str = ""


_IDENTITY = """
for name in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model ro.board.platform ro.build.version.release
do echo "$(getprop $name)"; done
"""


def phones(timeout_s: float = 5.0) -> list[Phone]:
    """The phones in sight of an adb server or on USB, ready or not.

    Never raises; takes at most about `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    try:
        seen, missing = sightings(deadline)
    except HwbenchError as error:
        return [Phone("", "unknown", hint=str(error))]
    if not seen and missing:
        return [Phone("", "unknown", route="usb", hint=missing)]
    return [
        _described(
            item.address, item.state, "server" if item.usb is None else "usb", item.cure, deadline
        )
        for item in seen
    ]


def _described(address: str, state: str, route: str, hint: str, deadline: float) -> Phone:
    if hint:
        return Phone(address, state, route=route, hint=hint)
    try:
        with connect(address, timeout_s=max(0.5, deadline - time.monotonic())) as adb:
            lines = adb.script(
                _IDENTITY, timeout_s=max(0.5, deadline - time.monotonic())
            ).text.splitlines()
    except (DeviceError, OutputParseError, UsageError) as error:
        return Phone(address, state, route=route, hint=str(error))
    maker, model, soc_maker, soc, board, android = (lines + [""] * 6)[:6]
    return Phone(
        address,
        state,
        f"{maker} {model}".strip(),
        f"{soc_maker} {soc}".strip() or board,
        android,
        route,
    )
