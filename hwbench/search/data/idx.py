"""Files of LeCun's idx format, in which MNIST and its successors come, gzipped or not.

A file is two zero bytes, a byte that says the type of the values (8: unsigned bytes), the number of
dimensions, each of them as four bytes, big-endian, and the values. The size follows from the
header, so that no more is ever unpacked than that, and no file is believed that has less or more.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import SchemaError

UNSIGNED_BYTES = 0x08
MOST_BYTES = 2**30
"""The most values of a file that is read; MNIST's successors have at most 550 million."""


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes.

    Args:
        path: The file; gzipped if its name ends in `.gz`.
        dimensions: How many dimensions it must have.

    Raises:
        SchemaError: It is something else, is damaged, or is too large.
        OSError: It cannot be opened.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return _read(cast("BinaryIO", file), path, dimensions)
        with path.open("rb") as file:
            return _read(file, path, dimensions)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SchemaError(f"{path} cannot be unpacked: {error}; get it anew") from error


def _read(file: BinaryIO, path: Path, dimensions: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * dimensions)
    if header[:4] != bytes([0, 0, UNSIGNED_BYTES, dimensions]):
        raise SchemaError(
            f"{path} is no idx file of {dimensions} dimensions of bytes: it begins with"
            f" {header[:4].hex()}, expected 0000{UNSIGNED_BYTES:02x}{dimensions:02x}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise SchemaError(f"{path} ends in its header; get it anew")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
    count = math.prod(shape)
    if not 0 < count <= MOST_BYTES:
        raise SchemaError(
            f"{path} says to hold {'x'.join(map(str, shape))} bytes; expected 1 to {MOST_BYTES}"
        )
    data = file.read(count + 1)
    if len(data) != count:
        more = "more" if len(data) > count else f"{len(data)}"
        raise SchemaError(
            f"{path} says to hold {'x'.join(map(str, shape))} bytes, and holds {more}; get it anew"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
