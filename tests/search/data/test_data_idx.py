"""Files of the idx format are validated before they are believed."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from hwbench.errors import SchemaError
from hwbench.search.data.idx import read_idx
from tests.support.idx_files import idx_bytes

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_files_are_read_packed_and_unpacked(name: str, tmp_path: Path) -> None:
    path, data = tmp_path / name, idx_bytes(VALUES)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    np.testing.assert_array_equal(read_idx(path, 3), VALUES)


WHOLE = idx_bytes(VALUES)
HUGE = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no idx file of 3 dimensions"),
        (b"PNG.....", "no idx file of 3 dimensions of bytes: it begins with 504e472e"),
        (idx_bytes(VALUES[0]), "begins with 00000802, expected 00000803"),
        (bytes([0, 0, 13, 3]) + WHOLE[4:], "no idx file"),  # of floating-point numbers
        (WHOLE[:9], "ends in its header"),
        (WHOLE[:-1], "says to hold 2x3x4 bytes, and holds 23"),
        (WHOLE + b"x", "says to hold 2x3x4 bytes, and holds more"),
        (idx_bytes(VALUES[:0]), "says to hold 0x3x4 bytes; expected 1 to"),
        (HUGE, "says to hold 2147483648x2147483648x4 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_no_such_file_is_refused(
    data: bytes, message: str, packed: bool, tmp_path: Path
) -> None:
    path = tmp_path / ("file.gz" if packed else "file")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(SchemaError, match=message):
        read_idx(path, 3)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(WHOLE)
    path = tmp_path / "file.gz"
    for damaged in (b"no gzip", packed[:-12], packed[:12] + b"\xff\xff" + packed[14:]):
        path.write_bytes(damaged)
        with pytest.raises(SchemaError, match=r"cannot be unpacked|no idx file|says to hold"):
            read_idx(path, 3)


def test_no_more_is_unpacked_than_the_header_says(tmp_path: Path) -> None:
    """A small file that unpacks to very much more is read no further than one byte beyond."""
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx_bytes(VALUES) + bytes(50_000_000)))
    with pytest.raises(SchemaError, match="holds more"):
        read_idx(path, 3)
