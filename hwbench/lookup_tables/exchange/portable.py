"""A lookup table as one file.

It is gzip'd JSON that shares the text of keys, with a digest of its content, and never a pickle.

What is read is hostile until shown otherwise: bytes and text are bounded, every value is of the
expected type and within bounds, and the digest finds files that were cut off or edited. It proves
no origin: whoever edits a file can renew its digest.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from hwbench.errors import (
    Argument,
    OutputParseError,
    SchemaError,
    UnsafeModelError,
    UsageError,
)
from hwbench.lookup_tables.families import Family, place_of
from hwbench.lookup_tables.limits import check_read_table, conforms
from hwbench.lookup_tables.metadata import Entry, Metadata
from hwbench.lookup_tables.table import LookupTable
from hwbench.records.layer_key import LayerKey
from hwbench.records.untrusted import is_pickle, parse_json, quote, require_file
from hwbench.records.whole_files import whole_file

FORMAT, SCHEMA = "hwbench-table", 1
SUFFIX = ".hwtable"
MAX_BYTES, MAX_TEXT = 8 << 20, 64 << 20
"""Largest file and largest text in it: some 500,000 entries, hundreds of networks."""
PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".joblib"})
PRECISIONS = frozenset({"fp32", "fp16", "bf16", "int8"})
LATENCY_DIGITS, SD_DIGITS = 6, 3
"""Significant digits kept: a hundredth of what the best measured entry is known to."""
_GZIP = b"\x1f\x8b"


def pack(table: LookupTable) -> bytes:
    """A table as the bytes of a portable file; the same table gives the same bytes."""
    rows: dict[Family, list[list[float]]] = {}
    others: list[list[Any]] = []
    for key, entry in table.entries.items():
        place = place_of(key)
        numbers = [
            _rounded(entry.latency_s, LATENCY_DIGITS),
            _rounded(entry.sd, SD_DIGITS),
            entry.samples,
        ]
        if place.family.key(place.cin, place.cout) == key:
            rows.setdefault(place.family, []).append([place.cin, place.cout, *numbers])
        else:
            # The channel counts of a reshape that folds channels into rows, or of a concatenation,
            # do not tell its shapes.
            others.append([str(key), *numbers])
    families = [
        [str(family.pattern), list(zip(*lines, strict=True))] for family, lines in rows.items()
    ]
    content = {"metadata": table.metadata.to_dict(), "families": families, "others": others}
    document = {"format": FORMAT, "schema": SCHEMA, "digest": _digest(content), "content": content}
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, buffer, mtime=0) as packed:
        packed.write(_canonical(document))
    return buffer.getvalue()


def unpack(data: bytes, source: str = "the file") -> LookupTable:
    """The table in the bytes of a portable file, validated.

    Args:
        data: All of the file.
        source: Its name for messages.

    Raises:
        UnsafeModelError: It is a pickle, or an archive that may hold one.
        SchemaError: It is no such file, damaged, edited, too large, of another schema, or holds
            impossible values.
    """
    refuse_pickle(data, source)
    document = _document(data, source)
    content = document.get("content")
    if document.get("format") != FORMAT or not isinstance(content, dict):
        raise SchemaError(f"{source} is no lookup table; expected a file of hwbench table export")
    if document.get("schema") != SCHEMA:
        raise SchemaError(
            f"{source} is of schema {quote(document.get('schema'))}; this hwbench reads {SCHEMA}:"
            " update hwbench"
        )
    if document.get("digest") != _digest(content):
        raise SchemaError(
            f"{source} was changed after its export: its content has another digest; export the"
            " table again"
        )
    try:
        metadata = Metadata.from_dict(content["metadata"])
        entries = _entries(content)
        check_read_table(entries, metadata)
    except SchemaError as error:
        raise SchemaError(
            f"{source} is a damaged lookup table: {error}; export it again"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SchemaError(
            f"{source} is a damaged lookup table: {quote(repr(error))}; export it again"
        ) from error
    return LookupTable(entries, metadata)


def read_table(path: Path) -> LookupTable:
    """The table in a portable file.

    Raises:
        UsageError: No such file, not a regular file, or too large.
        UnsafeModelError: As `unpack`.
        SchemaError: As `unpack`.
    """
    return unpack(read_bytes(path), quote(path))


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file that is small enough for a portable table.

    Raises:
        UsageError: No such file, not a regular file, empty or too large.
        UnsafeModelError: It is called a pickle.
    """
    if path.suffix.lower() in PICKLES:
        refuse_pickle(b"\x80", quote(path))
    try:
        require_file(path, "a file of hwbench table export, or another tool's log")
        size = path.stat().st_size
        if not 0 < size <= MAX_BYTES:
            raise UsageError(
                f"{str(path)!r} has {size} bytes; expected a lookup table of 1 to {MAX_BYTES}"
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read {str(path)!r} ({error}); give a file of hwbench table export"
        ) from error


def write_table(table: LookupTable, path: Path) -> int:
    """Write a portable file; it appears only when it is complete.

    Returns:
        Its bytes.

    Raises:
        UsageError: It cannot be written.
    """
    data = pack(table)
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise UsageError(
            f"cannot write the table to {path}: {error.strerror or error}",
            Argument("out", change="another"),
        ) from error
    return len(data)


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, as portable tables are and logs are not."""
    try:
        if not path.is_file():  # opening a pipe would wait for whoever writes into it
            return False
        with path.open("rb") as file:
            return file.read(len(_GZIP)) == _GZIP
    except (OSError, ValueError):
        return False


def refuse_pickle(data: bytes, source: str) -> None:
    """Refuse bytes that are a pickle, or an archive that may hold one.

    Raises:
        UnsafeModelError: They are.
    """
    if is_pickle(data):
        raise UnsafeModelError(
            f"{source} is a pickle or an archive that may hold one, and is not opened: a pickle is"
            " a program; import the tool's own text logs, or write the table with hwbench table"
            " export where the file is trusted"
        )


def _document(data: bytes, source: str) -> dict[str, Any]:
    if not data.startswith(_GZIP):
        raise SchemaError(f"{source} is no lookup table; expected a file of hwbench table export")
    try:
        unzip = zlib.decompressobj(wbits=31)
        text = unzip.decompress(data, MAX_TEXT)
        if unzip.unconsumed_tail:
            raise SchemaError(
                f"{source} holds more than {MAX_TEXT} bytes of text; no lookup table does"
            )
        if not unzip.eof or unzip.unused_data:
            raise SchemaError(
                f"{source} is {'followed by other data' if unzip.eof else 'cut off'}; copy or"
                " export it again"
            )
        document = parse_json(text.decode(), source)
    except (zlib.error, UnicodeDecodeError, OutputParseError) as error:
        raise SchemaError(
            f"{source} is damaged: {quote(str(error))}; copy or export it again"
        ) from error
    if not isinstance(document, dict):
        raise SchemaError(f"{source} is no lookup table; expected a file of hwbench table export")
    return document


def _entries(content: Mapping[str, Any]) -> dict[LayerKey, Entry]:
    entries: dict[LayerKey, Entry] = {}
    rows = [(LayerKey.parse(text), *numbers) for text, *numbers in content["others"]]
    for text, columns in content["families"]:
        family = Family(LayerKey.parse(text))
        for cin, cout, *numbers in zip(*columns, strict=True):
            if not (conforms(cin, int) and conforms(cout, int)):
                raise ValueError(f"channel counts {cin!r} and {cout!r}")
            rows.append((family.key(cin, cout), *numbers))
    for key, latency_s, sd, samples in rows:
        if key.precision not in PRECISIONS or LayerKey.parse(str(key)) != key:
            raise ValueError(f"{key} is not a layer key as it is written")
        if key in entries:
            raise ValueError(f"{key} is given twice")
        entries[key] = Entry(latency_s, sd, samples)
    return entries


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _digest(content: object) -> str:
    return sha256(_canonical(content)).hexdigest()


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
