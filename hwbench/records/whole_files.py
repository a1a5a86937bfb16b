"""Files that appear under their name only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
"""Never open through a link; Windows has no such flag."""
PART = ".part"
"""What follows a file's name until it is complete."""


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Write a file, or replace it, at the end of the block; after an error nothing has changed.

    What lies where the unfinished file goes, left by a killed process or laid there as a link by
    somebody else, is removed and never written through.

    Args:
        target: The file.

    Yields:
        The unfinished file.

    Raises:
        OSError: It cannot be written.
    """
    part = target.with_name(target.name + PART)
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
