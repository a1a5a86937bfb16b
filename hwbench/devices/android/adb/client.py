"""One connection to one Android phone: run, script, start, push, pull, stat.

It knows nothing of models. Every call is bounded in time and ends with its result or an error of
`hwbench.errors` that says what to do. Arguments travel through one quoting function
(`quote_command`) and are never pasted into shell text. After a time-out, or any error that leaves
the connection's state unknown, the next call connects anew, which also ends whatever the old
connection had left running.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Self
from uuid import uuid4

from hwbench.devices.android.adb import sync
from hwbench.devices.android.adb.find import Sighting, find_phones, open_link
from hwbench.devices.android.adb.link import AdbLink, Stream, one_line
from hwbench.devices.android.adb.shell import Completed, RemoteProcess, quote_command, run_to_end
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

__all__ = [
    "Adb",
    "Completed",
    "ListedPhone",
    "RemoteProcess",
    "RemoteStat",
    "connect",
    "list_phones",
    "quote_command",
]

_SHELL_SERVICE = "shell,v2,raw:"
_PUSH_PIECE_BYTES = 1 << 19
# $1 is the file that was sent, $2 where it belongs, $3 its permissions, and $4 its MD5 (the one
# checksum that the toybox of every phone has). What earlier attempts left behind goes too.
_INSTALL = """
sum=$(md5sum <"$1") && [ "${sum%% *}" = "$4" ] && chmod "$3" "$1" && mv -f "$1" "$2" \\
  && rm -f "$2".*.part && exit
echo "what arrived has the sum ${sum%% *}, sent was $4"; rm -f "$1"; exit 1
"""


class Adb:
    """A phone, connected. Use it as a context manager, from one thread; `connect` makes it.

    Args:
        link: The connection; this object closes it.
        reopen: Makes a new connection to the same phone, until a deadline.

    Attributes:
        trips: How many services were opened so far, each a round trip.
    """

    def __init__(self, link: AdbLink, reopen: Callable[[float], AdbLink]) -> None:
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

    def __exit__(self, *_: object) -> None:
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
            argv: The program and its arguments, as they are.
            env: Environment variables to set.
            cwd: The folder to run it in.
            stdin: The input of the command.
            timeout_s: How long it may take, in seconds; then it is ended.
            check: Whether an exit status other than 0 is an error.

        Raises:
            DeviceCommandError: The command failed and `check` is set.
            DeviceTimeoutError: It took too long, and was ended.
            DeviceLostError: The phone went away.
        """
        line, deadline = quote_command(argv, env, cwd), time.monotonic() + timeout_s
        with self._reconnect_after_errors():
            stream = self._open(_SHELL_SERVICE + line, deadline)
            completed = run_to_end(stream, stdin, deadline)
        if check and completed.code:
            tail = (completed.stderr or completed.stdout)[-2000:].decode("utf-8", "replace")
            reason = one_line(tail) or "no message"
            raise DeviceCommandError(
                f"{argv[0]} on {self.serial} failed with status {completed.code}: {reason}",
                argv,
                completed.code,
                tail,
            )
        return completed

    def script(
        self, text: str, *args: str, timeout_s: float = 30.0, check: bool = True
    ) -> Completed:
        """Run a shell script.

        Args:
            text: The script, a constant: nothing is ever pasted into it.
            *args: What the script reads as `$1` and on.
            timeout_s: How long it may take, in seconds.
            check: Whether an exit status other than 0 is an error.

        Raises:
            DeviceError: As `run`.
        """
        return self.run(["sh", "-c", text, "sh", *args], timeout_s=timeout_s, check=check)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float = 10.0,
    ) -> RemoteProcess:
        """Start a command to talk with; closing the process, or this connection, ends it.

        Args:
            argv: The program and its arguments, as they are.
            env: Environment variables to set.
            cwd: The folder to run it in.
            timeout_s: How long starting it may take, in seconds.
        """
        line, deadline = quote_command(argv, env, cwd), time.monotonic() + timeout_s
        with self._reconnect_after_errors():
            return RemoteProcess(self._open(_SHELL_SERVICE + line, deadline))

    def push(
        self,
        data: bytes | Path,
        remote: str,
        *,
        mode: int = 0o644,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        """Put a file on the phone, whole or not at all.

        It is sent under another name, compared there by its checksum, and then renamed.

        Args:
            data: The contents, or the path of the local file that has them.
            remote: Its path on the phone; missing folders are made.
            mode: Its permissions.
            progress: Called with the bytes sent so far and the bytes in all.
            timeout_s: How long it may take, in seconds.

        Raises:
            DeviceCommandError: The phone refuses it, with its reason, or what arrived is not what
                was sent.
            DeviceTimeoutError: It took too long.
        """
        deadline = time.monotonic() + timeout_s
        # The phone removes what an interrupted attempt had sent, maybe only after the next one has
        # begun: each has a name of its own.
        part = f"{sync.check_path(remote)}.{uuid4().hex[:8]}.part"
        digest = hashlib.md5(usedforsecurity=False)

        contents = _iterate_pieces(data)
        # A file that cannot be read must be found out before the phone has begun one of that name.
        beginning = list(islice(contents, 1))

        def iterate_and_count() -> Iterator[bytes]:
            for piece, sent, total in chain(beginning, contents):
                digest.update(piece)
                yield piece
                if progress is not None:
                    progress(sent, total)

        with self._service("sync:", deadline) as stream:
            sync.push(stream, part, mode, iterate_and_count(), deadline)
        arguments = (part, remote, f"{mode:04o}", digest.hexdigest())
        left_s = max(1.0, deadline - time.monotonic())
        completed = self.script(_INSTALL, *arguments, timeout_s=left_s, check=False)
        if completed.code:
            tail = (completed.stderr + completed.stdout).decode("utf-8", "replace")
            raise DeviceCommandError(
                f"{remote} could not be put on {self.serial}: {one_line(tail)}; check the folder's"
                " permissions and the free space",
                ("push", remote),
                completed.code,
                tail,
            )

    def pull(self, remote: str, *, limit_bytes: int, timeout_s: float = 60.0) -> bytes:
        """Read the contents of a file on the phone.

        Args:
            remote: Its path on the phone.
            limit_bytes: The largest size that is read.
            timeout_s: How long it may take, in seconds.

        Raises:
            DeviceCommandError: There is no such file, or it may not be read.
            OutputParseError: The file is larger than `limit_bytes`.
        """
        deadline = time.monotonic() + timeout_s
        with self._service("sync:", deadline) as stream:
            return sync.pull(stream, sync.check_path(remote), limit_bytes, deadline)

    def stat(self, remote: str, *, timeout_s: float = 10.0) -> RemoteStat | None:
        """Ask for size, type and permissions of a file, links followed.

        Args:
            remote: Its path on the phone.
            timeout_s: How long it may take, in seconds.

        Returns:
            What the phone says; None if there is no such file.
        """
        deadline = time.monotonic() + timeout_s
        with self._service("sync:", deadline) as stream:
            return sync.stat(stream, sync.check_path(remote), self._link.features, deadline)

    @contextmanager
    def _service(self, service: str, deadline: float) -> Iterator[Stream]:
        """Open a service for a while."""
        with self._reconnect_after_errors():
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
    def _reconnect_after_errors(self) -> Iterator[None]:
        """Hang up after whatever leaves the connection's state unknown.

        The next call then starts with a new connection. A refusal or a mistaken argument leaves
        everything in order; anything else, an interrupt by the user included, may come in the
        middle of a packet or leave a command running.
        """
        try:
            yield
        except (UsageError, DeviceCommandError):
            raise
        except BaseException:
            self._link.close()
            raise


def _iterate_pieces(data: bytes | Path) -> Iterator[tuple[bytes, int, int]]:
    """Cut contents into pieces, each with the number of bytes so far and in all."""
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
    """Connect to a phone.

    It is reached through an adb server that lists it, else directly over TCP, else over USB.

    Args:
        address: A serial, HOST:PORT, or an empty text if there is only one phone.
        timeout_s: How long it may take, in seconds.

    Raises:
        UsageError: Several phones are in sight and none is named.
        DeviceUnavailableError: There is no phone, or it is not ready; the message says what to do.
        DeviceTimeoutError: The phone does not answer.
        DeviceLostError: The phone hung up.
    """

    def reopen(deadline: float) -> AdbLink:
        return open_link(link.serial, min(deadline, time.monotonic() + timeout_s))

    link = open_link(address, time.monotonic() + timeout_s)
    if "shell_v2" not in link.features:
        link.close()
        raise DeviceUnavailableError(
            f"phone {link.serial} has no shell of version 2; Android 7 or later is needed"
        )
    return Adb(link, reopen)


@dataclass(frozen=True, slots=True)
class ListedPhone:
    """A phone in sight, and what it is.

    Attributes:
        address: The address to give after `android:`.
        state: `device` if it is ready, else what it is instead (`unauthorized`, `offline`, `no
            permissions`, ...).
        model: The manufacturer and model; empty, like the next two, if it could not be asked.
        soc: The system on chip.
        android: The version of Android.
        route: How it is reached, `server` or `usb`.
        hint: What to do to make it ready; empty if it is.
    """

    address: str
    state: str
    model: str = ""
    soc: str = ""
    android: str = ""
    route: str = ""
    hint: str = ""


_PRINT_PROPERTIES = """
for name in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model \\
    ro.board.platform ro.build.version.release
do echo "$(getprop $name)"; done
"""


def list_phones(timeout_s: float = 5.0) -> list[ListedPhone]:
    """List the phones in sight of an adb server or on USB, ready or not.

    It never raises: what keeps phones from being found is an entry without an address.

    Args:
        timeout_s: About how long it may take, in seconds.
    """
    deadline = time.monotonic() + timeout_s
    try:
        phones, missing = find_phones(deadline)
    except HwbenchError as error:
        return [ListedPhone("", "unknown", hint=str(error))]
    if not phones and missing:
        return [ListedPhone("", "unknown", route="usb", hint=missing)]
    return [_describe_phone(phone, deadline) for phone in phones]


def _describe_phone(phone: Sighting, deadline: float) -> ListedPhone:
    """Ask a phone that is ready what it is."""
    address, state = phone.address, phone.state
    route = "server" if phone.usb is None else "usb"
    if phone.cure:
        return ListedPhone(address, state, route=route, hint=phone.cure)
    try:
        with connect(address, timeout_s=max(0.5, deadline - time.monotonic())) as adb:
            left_s = max(0.5, deadline - time.monotonic())
            lines = adb.script(_PRINT_PROPERTIES, timeout_s=left_s).text.splitlines()
    except (DeviceError, OutputParseError, UsageError) as error:
        return ListedPhone(address, state, route=route, hint=str(error))
    maker, model, soc_maker, soc, board, android = (lines + [""] * 6)[:6]
    return ListedPhone(
        address,
        state,
        f"{maker} {model}".strip(),
        f"{soc_maker} {soc}".strip() or board,
        android,
        route,
    )
