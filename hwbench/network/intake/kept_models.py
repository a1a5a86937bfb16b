"""Models that took long to make, kept in the user's cache folder."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from hwbench.records.scratch import scratch_folder


def read_kept(path: Path) -> bytes | None:
    """Read a model that was kept; None if there is none, or it is damaged."""
    # A kept file is a SHA-256 and the model.
    data = path.read_bytes() if path.is_file() else b""
    if sha256(data[32:]).digest() != data[:32]:
        return None
    return data[32:]


def keep(path: Path, model: bytes) -> None:
    """Keep a model, whole or not at all.

    A cache that cannot be written costs time, nothing else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path.parent) as folder:
            whole = folder / path.name
            whole.write_bytes(sha256(model).digest() + model)
            whole.replace(path)
    except OSError:
        return
