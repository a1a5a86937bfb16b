"""Temporary folders that do not outlive their owners, however those end.

A process that is killed outright (SIGKILL, a power cut) removes nothing. So each temporary folder
is locked by the process that made it, and removed by the next one that makes one beside it, or by
the next command, once that lock is free.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "hwbench-scratch-"
"""How the names of these folders begin."""
_own: set[Path] = set()
"""Those of this process."""


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder, and remove it at the end of the block.

    What dead processes left beside it is removed first. A fork of this process holds the folder
    too, as long as it lives.

    Args:
        parent: The folder to make it in, such as that of a file which it will hold until the file
            is complete; None for the system's folder for temporary files.

    Yields:
        The folder, empty and of this user alone.

    Raises:
        OSError: It cannot be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    remove_abandoned(place)
    folder, lock = _make_locked(place)
    _own.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _own.discard(folder)
        if lock is not None:
            os.close(lock)


def remove_own() -> None:
    """Remove the temporary folders of this process, which is about to end in the middle of them."""
    for folder in list(_own):
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(place: Path) -> None:
    """Remove the temporary folders in a folder whose owners are gone.

    The lock is the kernel's: it is gone when its owner is, also after a restart of the computer
    that gives its process number to another. Folders of other users are left alone.
    """
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = _lock(folder, wait=False)
            if lock is None:
                continue
            try:
                if os.fstat(lock).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _make_locked(place: Path) -> tuple[Path, int | None]:
    """Make a folder and lock it.

    Between the two, another process may take it for one whose owner is gone, and remove it.

    Returns:
        The folder, and the open lock; None where folders cannot be locked.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        try:
            lock = _lock(folder, wait=True)
        except FileNotFoundError:
            continue
        except OSError:
            return folder, None
        if lock is None or _is_still(folder, lock):
            return folder, lock
        os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """Open a folder, never through a link, and lock it as long as that is open.

    Returns:
        The open folder; None where there are no such locks.

    Raises:
        OSError: It is gone, is no folder, or cannot be locked; without `wait`, it is held.
    """
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_still(folder: Path, lock: int) -> bool:
    """Whether a path leads to the folder that is locked."""
    ours = os.fstat(lock)
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and os.path.samestat(found, ours)
