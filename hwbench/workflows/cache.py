"""`hwbench cache`: what hwbench keeps to save time, and removing it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hwbench.errors import UsageError
from hwbench.records.scratch import PREFIX
from hwbench.user_folders import cache_folder

LOCKS = "locks"
"""Stays: who measures holds a lock on a file in it, and a new file would be another lock."""


@dataclass(frozen=True, slots=True)
class CachePart:
    """A file or folder of the cache.

    Attributes:
        path: Where it is.
        size_bytes: What it takes, with all that is in it.
    """

    path: Path
    size_bytes: int


def list_cache() -> tuple[Path, tuple[CachePart, ...]]:
    """The folder of the cache, and what lies in it, the largest first.

    Locks and temporary folders of running commands are left out.

    Raises:
        UsageError: There is no place for a cache.
    """
    folder = cache_folder()
    paths = list(folder.iterdir()) if folder.is_dir() else []
    kept = [path for path in paths if path.name != LOCKS and not path.name.startswith(PREFIX)]
    parts = [CachePart(path, _size_of(path)) for path in kept]
    return folder, tuple(sorted(parts, key=lambda part: part.size_bytes, reverse=True))


def clean_cache() -> tuple[Path, tuple[CachePart, ...]]:
    """Remove the cache; whatever is needed again is made again. See `list_cache`.

    Raises:
        UsageError: Something cannot be removed.
    """
    folder, parts = list_cache()
    for part in parts:
        try:
            if part.path.is_dir() and not part.path.is_symlink():
                shutil.rmtree(part.path)
            else:
                part.path.unlink()
        except OSError as error:
            raise UsageError(
                f"{part.path} of the cache cannot be removed: {error.strerror or error}"
            ) from error
    return folder, parts


def _size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count nothing."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())
