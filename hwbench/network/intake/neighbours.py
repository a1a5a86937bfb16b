"""Files that a model names beside itself: external data, or the parts of weights in several files.

A model could name any file of this computer, so that only those in its own folder are read, and
links only as Hugging Face's cache makes them: there a model's folder is `NAME/snapshots/REVISION`,
and every file in it a link to one in `NAME/blobs`.
"""

from __future__ import annotations

import re
from pathlib import Path

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
_NOT_PLAIN = re.compile(r"[\\\x00:]")


def is_inside(location: str) -> bool:
    """Tell by its text whether a path leads into the folder that it begins at.

    Absolute paths, backslashes, drive letters and `..` do not.
    """
    is_plain = bool(location) and not _NOT_PLAIN.search(location)
    return is_plain and not location.startswith("/") and ".." not in location.split("/")


def find_neighbour(folder: Path, location: str) -> Path | None:
    """Find the file that a model names, without a link left in its path.

    Args:
        folder: The folder of the model.
        location: Its path from there, as the model has it.

    Returns:
        The file; None if there is no regular file, or it lies elsewhere.
    """
    if not is_inside(location):
        return None
    try:
        home = folder.resolve()
        target = (home / location).resolve()
        if not target.is_file():
            return None
    except (OSError, RuntimeError, ValueError):  # a name too long, or a circle of links
        return None
    if target == home / location or target.parent == _find_blobs(home):
        return target
    return None


def is_neighbour(folder: Path, target: Path) -> bool:
    """Tell whether a path is one that `find_neighbour` gives for the files of a folder."""
    try:
        home = folder.resolve()
        if target.resolve() != target or not target.is_file():
            return False
    except (OSError, RuntimeError, ValueError):
        return False
    return home in target.parents or target.parent == _find_blobs(home)


def _find_blobs(folder: Path) -> Path | None:
    """Find the folder of contents that goes with a folder of Hugging Face's cache."""
    for parent in folder.parents:
        if parent.name == _SNAPSHOTS:
            return parent.parent / _BLOBS
    return None


def find_snapshot(folder: Path) -> Path | None:
    """Find the model's folder in that which Hugging Face's cache keeps for all of its revisions.

    Returns:
        The revision `main`, or the only one; None if it is no such folder, or has several.
    """
    try:
        revisions = sorted(entry for entry in (folder / _SNAPSHOTS).iterdir() if entry.is_dir())
        main = folder / "refs" / "main"
        if main.is_file() and main.stat().st_size < 256:
            named = main.read_text(errors="replace").strip()
            revisions = [entry for entry in revisions if entry.name == named] or revisions
    except OSError:
        return None
    return revisions[0] if len(revisions) == 1 else None
