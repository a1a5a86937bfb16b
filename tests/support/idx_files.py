"""Files as MNIST and its successors come in."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def idx_bytes(values: NDArray[np.uint8]) -> bytes:
    """Values in the idx format."""
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def write_part(
    folder: Path, part: str, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> None:
    """Write the two files of a part (`train`, `t10k`), gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
        (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(values)))
