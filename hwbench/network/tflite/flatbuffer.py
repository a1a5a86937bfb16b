"""Tables, vectors and scalars of a FlatBuffer, read by the numbers of their fields.

Files may be hostile: every offset is checked, and no more is read than the file could honestly
hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator


class FlatBuffer:
    """Reads tables, vectors and scalars of a FlatBuffer.

    A table begins with the distance back to its vtable, which lists, field by field, how far behind
    the beginning of the table the field lies (0 if it is not set). Vectors, texts and other tables
    are reached by offsets, so one may be shared by many: a small hostile file can claim more
    elements than anybody could read, and so what is read in all is bounded.

    Every method raises struct.error or IndexError where the file is damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._elements_left = 4 * len(data)

    def scalar(self, code: str, position: int | None, default: int = 0) -> int:
        """Read the number of `struct` format `code`; `default` for a field that is not set."""
        if position is None:
            return default
        if position < 0:
            raise IndexError(f"offset {position}")
        value: int = struct.unpack_from(f"<{code}", self._data, position)[0]
        return value

    def root(self) -> int:
        """Find the root table."""
        return self.scalar("I", 0)

    def field(self, table: int, number: int) -> int | None:
        """Find the position of a field of a table; None if it is not set."""
        vtable = table - self.scalar("i", table)
        slot = 4 + 2 * number
        # Older files have shorter vtables: fields that came later are not set in them.
        if slot + 2 > self.scalar("H", vtable):
            return None
        offset = self.scalar("H", vtable + slot)
        return table + offset if offset else None

    def child(self, table: int, number: int) -> int | None:
        """Find the table that a field of another points to; None if it is not set."""
        position = self.field(table, number)
        return None if position is None else position + self.scalar("I", position)

    def vector(self, table: int, number: int) -> tuple[int, int]:
        """Find the position of a vector's elements, and their number; 0 for a field not set."""
        position = self.child(table, number)
        if position is None:
            return 0, 0
        return position + 4, self.scalar("I", position)

    def numbers(self, table: int, number: int) -> tuple[int, ...]:
        """Read a vector of 32-bit integers."""
        position, count = self.vector(table, number)
        return self.read_many("i", position, count)

    def read_many(self, code: str, position: int, count: int) -> tuple[int, ...]:
        """Read `count` numbers of `struct` format `code` in a row."""
        self._count_elements(count)
        return struct.unpack_from(f"<{count}{code}", self._data, position)

    def tables(self, table: int, number: int) -> Iterator[int]:
        """Walk over a vector of tables."""
        first, count = self.vector(table, number)
        self._count_elements(count)
        for position in range(first, first + 4 * count, 4):
            yield position + self.scalar("I", position)

    def text(self, table: int, number: int) -> str:
        """Read a text."""
        position, count = self.vector(table, number)
        if position + count > len(self._data):
            raise IndexError(f"text of {count} bytes at {position}")
        self._count_elements(count)
        return self._data[position : position + count].decode()

    def _count_elements(self, count: int) -> None:
        self._elements_left -= count
        if self._elements_left < 0:
            raise IndexError("vectors that hold more than the file")
