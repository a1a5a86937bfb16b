"""The folders that a user's files lie in, and what takes the place of a home that cannot be used.

Containers and services run under user ids without a home, or with one that cannot be written. What
is kept to save time then lies among the temporary files; what is kept for good needs to be told
where.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

from hwbench.errors import UsageError

logger = logging.getLogger(__name__)


def cache_folder(*, quiet: bool = False) -> Path:
    """Find the folder for what can be made again.

    Without a home that can be written, it is one of this user alone among the temporary files, and
    a warning says so.

    Args:
        quiet: Whether to leave out the warning.

    Raises:
        UsageError: There is neither.
    """
    try:
        import platformdirs
    except ImportError:  # on a bare GPU machine with torch alone
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "hwbench"
    else:
        try:
            folder = Path(platformdirs.user_cache_dir("hwbench"))
        except RuntimeError:  # this user has no home
            folder = Path("~/.cache/hwbench")
    if os.environ.get("XDG_CACHE_HOME"):
        return folder  # whoever named a place hears of it where it cannot be used
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = f"{folder} cannot be written"
    except OSError as error:
        reason = f"{folder}: {error.strerror or error}"
    except RuntimeError:  # of pathlib, for the same
        reason = "this user has none"
    folder = _temporary_cache()
    if not quiet:
        logger.warning(
            "no home folder to keep a cache in (%s), so it lies in %s; to keep it, set"
            " XDG_CACHE_HOME",
            reason,
            folder,
        )
    return folder


def home_folder(name: str, remedy: str) -> Path:
    """Find a user's folder of another kind.

    Args:
        name: What platformdirs calls it (`user_data_path`).
        remedy: What helps where there is none.

    Raises:
        UsageError: There is no home.
    """
    import platformdirs

    try:
        folder: Path = getattr(platformdirs, name)("hwbench").expanduser()
    except RuntimeError as error:
        raise UsageError(f"this user has no home folder; {remedy}, or HOME") from error
    return folder


def _temporary_cache() -> Path:
    """Make the folder among the temporary files; never use one that another user could change."""
    folder = Path(tempfile.gettempdir()) / f"hwbench-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UsageError(
            f"there is no place for a cache: {folder}: {error.strerror or error}; set"
            " XDG_CACHE_HOME"
        ) from error
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_own or found.st_mode & 0o077:
        raise UsageError(
            f"there is no place for a cache: {folder} is not a folder of this user alone; set"
            " XDG_CACHE_HOME"
        )
    return folder
