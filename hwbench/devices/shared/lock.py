"""One measurement at a time per device, across processes.

Two measurements that run at once disturb each other.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.user_folders import cache_folder

POLL_S = 0.05
"""Seconds between two looks at a lock that is waited for."""


class DeviceLock:
    """An advisory lock on one target: a context manager, or `acquire` and `release`.

    It is a lock of the operating system (flock) on a file in the user's cache folder, so it ends
    with its process, however that ends; the file stays and means nothing by itself. It also
    excludes a second `DeviceLock` of the same process.

    Args:
        address: Name of the target.
        wait_s: Seconds to wait for another holder to finish.
    """

    def __init__(self, address: str, wait_s: float = 0.0) -> None:
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
                the message.
            UsageError: The cache folder cannot be written, or this object holds the lock already.
        """
        if self._file is not None:
            raise UsageError(f"the lock of device {self.address} is already held here")
        path = self.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Never through a link, by which somebody else could have another file emptied.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
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
            fcntl.flock(self._file, fcntl.LOCK_UN)
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
        deadline = time.monotonic() + self.wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
                    continue
                holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
                waited = f" after waiting {self.wait_s:g} s" if self.wait_s else ""
                raise DeviceUnavailableError(
                    f"device {self.address} is in use by process {holder}{waited}; wait until it is"
                    " done, or end it"
                ) from error
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
            return
