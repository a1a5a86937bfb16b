"""Engines and timing caches kept between runs: whole or not at all, checked when read, and bounded.

A cache that cannot be read or written costs time and nothing else, so no error leaves this module.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from hwbench.records.scratch import scratch_folder

_DIGEST = 32  # bytes of SHA-256, in front of each file's content


class FileCache:
    """Files in one folder, the least recently used removed first.

    Args:
        folder: The folder, which is made when it is first written to.
        max_bytes: Most bytes that all files take together.
        max_files: Most files.
    """

    def __init__(self, folder: Path, max_bytes: int, max_files: int) -> None:
        self._folder, self._max_bytes, self._max_files = folder, max_bytes, max_files

    def get(self, *facts: object) -> bytes | None:
        """Read what was kept under these facts.

        Returns:
            The content; None if there is none, or it is damaged.
        """
        path = self._path(facts)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            return None
        with suppress(OSError):
            os.utime(path)  # the file used last is removed last
        return data[_DIGEST:]

    def put(self, data: bytes, *facts: object) -> None:
        """Keep `data` under these facts, unless it alone exceeds the bounds."""
        if len(data) + _DIGEST > self._max_bytes:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._path(facts)
            with scratch_folder(self._folder) as scratch:
                whole = scratch / path.name
                whole.write_bytes(sha256(data).digest() + data)
                whole.replace(path)
            self._prune()

    def _path(self, facts: tuple[object, ...]) -> Path:
        return self._folder / f"{sha256(repr(facts).encode()).hexdigest()[:40]}.bin"

    def _prune(self) -> None:
        """Remove the files used longest ago that are beyond the bounds."""
        files = [(file, file.stat()) for file in self._folder.glob("*.bin")]
        newest_first = sorted(files, key=lambda item: item[1].st_mtime_ns, reverse=True)
        total = 0
        for count, (file, status) in enumerate(newest_first, start=1):
            total += status.st_size
            if total > self._max_bytes or count > self._max_files:
                file.unlink(missing_ok=True)
