"""One measurement at a time per device, across processes.

Two measurements that run at once disturb each other.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Self
from urllib.parse import quote

from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.records.whole_files import NOFOLLOW
from hwbench.user_folders import cache_folder

POLL_S = 0.05
"""Seconds between two looks at a lock that is waited for."""
TELL_S = 10.0
"""Seconds between two words on what is waited for."""

_log = logging.getLogger(__name__)
_patience_s: ContextVar[float] = ContextVar("patience_s", default=0.0)
"""How long locks are waited for that say nothing else themselves, in seconds."""


@contextmanager
def wait_for_devices(wait_s: float) -> Iterator[None]:
    """Wait for devices that another process measures on, instead of failing at once.

    Holds for every device that is opened within the block, in its thread:

        with hwbench.wait_for_devices(600):
            record = hwbench.profile("net.onnx", device="cpu")

    Every ten seconds the logger `hwbench` warns of what is waited for.

    Args:
        wait_s: The longest wait for one device, in seconds.

    Raises:
        UsageError: It is no such time.
    """
    if not 0 <= wait_s < math.inf:
        raise UsageError(f"wait_s={wait_s} is no time to wait; expected seconds, such as 600")
    token = _patience_s.set(wait_s)
    try:
        yield
    finally:
        _patience_s.reset(token)


class DeviceLock:
    """An advisory lock on one target: a context manager, or `acquire` and `release`.

    It is a lock of the operating system (flock) on a file in the user's cache folder, so it ends
    with its process, however that ends; the file stays and means nothing by itself. It also
    excludes a second `DeviceLock` of the same process.

    Args:
        address: Name of the target.
        wait_s: Seconds to wait for another holder to finish; None for what `wait_for_devices` says,
            which is not at all outside of it.
    """

    def __init__(self, address: str, wait_s: float | None = None) -> None:
        self.address, self.wait_s = address, wait_s
        self._file: int | None = None

    @property
    def path(self) -> Path:
        """The lock's file, named after this computer too.

        A home folder may be shared by several computers.
        """
        name = f"{platform.node()}-{self.address}"
        return cache_folder() / "locks" / f"{quote(name, safe='')}.lock"

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            DeviceUnavailableError: Another holder still has it after the wait; its process id is in
                the message. Or the operating system has no such locks.
            UsageError: The cache folder cannot be written, or this object holds the lock already.
        """
        if self._file is not None:
            raise UsageError(f"the lock of device {self.address} is already held here")
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Never through a link, by which somebody else could have another file emptied.
            file = os.open(path, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(
                f"cannot create the lock file {path}: {error.strerror}; set XDG_CACHE_HOME"
            ) from error
        try:
            self._wait_for(file)
        except BaseException:
            os.close(file)
            raise
        self._file = file

    def release(self) -> None:
        """Give the lock back; without it, nothing happens."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            # Closing the file would not free the lock where a child process inherited it.
            _unlock(self._file)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _wait_for(self, file: int) -> None:
        """Take the lock of an open file, and write this process's number into it.

        The number is for the message that another process shows; it says nothing of whether the
        lock is held, which the operating system alone knows.
        """
        wait_s = _patience_s.get() if self.wait_s is None else self.wait_s
        begun_s = time.monotonic()
        tell_s = begun_s
        while True:
            try:
                _lock(file)
            except BlockingIOError as error:
                holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                is_own = self.wait_s is None and holder == str(os.getpid())
                now_s = time.monotonic()
                if now_s - begun_s >= wait_s or is_own:
                    waited = f" after waiting {wait_s:g} s" if wait_s and not is_own else ""
                    raise DeviceUnavailableError(
                        f"device {self.address} is in use by process {holder}{waited}; wait until"
                        " it is done, or end it"
                    ) from error
                if now_s >= tell_s:
                    self._tell(holder, now_s - begun_s, wait_s)
                    tell_s = now_s + TELL_S
                time.sleep(min(POLL_S, begun_s + wait_s - now_s))
                continue
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
            return

    def _tell(self, holder: str, waited_s: float, wait_s: float) -> None:
        """Say what is waited for."""
        _log.warning(
            "device %s is in use by process %s; waiting since %.0f s, for at most %g s",
            self.address,
            holder,
            waited_s,
            wait_s,
        )


def _lock(file: int) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: Another holder has it.
        DeviceUnavailableError: The operating system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise DeviceUnavailableError(
            "this operating system cannot lock a device, so only virtual ones are measured on it;"
            " use Linux, on Windows inside WSL"
        ) from error
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(file: int) -> None:
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)
