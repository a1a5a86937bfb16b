"""A small table, files of it whose digest is right whatever they hold, and what is done with tables."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

from hwbench.errors import LookupTableError
from hwbench.lookup_tables import Calibration, Entry, Grade, LookupTable, Metadata
from hwbench.lookup_tables.exchange import portable
from hwbench.lookup_tables.metadata import Provenance, Source
from hwbench.records.device import DeviceInfo
from hwbench.records.layer_key import LayerKey
from hwbench.render.blocks import write_text
from hwbench.render.documents import to_json
from hwbench.render.tables import prediction_view, table_document, table_view
from hwbench.report.contents import Contents, KeptTable
from hwbench.report.overview import make_pages
from hwbench.report.page import html
from hwbench.workflows.predict import ModelPrediction
from tests.support.paths import DATA

CONV = "Conv[1x{cin}x16x16->1x{cout}x16x16]{{group=1,kernel=3x3}}@fp32"
LINEAR = "Linear[1x{cin}->1x{cout}]{{}}@fp32"
WILD = [
    0,
    -1,
    1,
    1e-320,
    1e-25,
    1e-24,
    1e-9,
    1e6,
    1.1e6,
    1e308,
    10**400,
    2**63,
    1 << 24,
    0.5,
    True,
    None,
    "1",
    [],
    [1],
]
"""Numbers at and beyond the bounds, and what is none."""
_TOKENS = (
    "", "0", "-1", "nan", "1e999", "NaN", "null", "[", "]", "{", "}", '"', "\t", "\n", ",", "=", "%",
    "!!python/object/apply:os.system ", "&a *a", "\x1f", "99999999999999999999", "\u202e", "[" * 5000,
)  # fmt: skip
"""What parts of logs are replaced by."""


def made_table() -> LookupTable:
    """Two kinds of layers: one with enough points for a process, one with few."""
    entries = {}
    for index, cin in enumerate((8, 16, 24, 32)):
        for cout in (8, 24, 64):
            latency_s = 2e-6 + 1e-9 * cin * cout * (1 + 0.03 * (index % 2))
            entries[LayerKey.parse(CONV.format(cin=cin, cout=cout))] = Entry(latency_s, 0.01, 9)
    for cin in (8, 64):
        entries[LayerKey.parse(LINEAR.format(cin=cin, cout=10))] = Entry(3e-6 * cin, 0.02, 4)
    device = DeviceInfo("bench", "a device", "a-device", "a runtime 1", ())
    source = Source("zoo:some", "f" * 64, 1e-3, 3, 8, 0.25, 12)
    made = Provenance(device, 1, "2026-11-30T12:00:00+00:00", "1.0", (source,))
    grade = Grade("zoo:some", 10, 0.01, 0.02, 0.05, 0.03, 0.9, 1.0, 0.99, 0.95, 0.01)
    adding_up = Calibration(1e-6, 0.1, -0.01, (-1.0, 1.0), 1e-4, 0.02, 12)
    return LookupTable(entries, Metadata(made, adding_up, (grade,)))


def use(table: LookupTable, *, report: bool = True) -> None:
    """Everything that commands do with a table; where it cannot answer, that is said.

    Args:
        table: The table.
        report: Whether the page of a report is made, too, which takes half a second.
    """
    write_text(table_view(table), io.StringIO())
    to_json(table_document(table))
    if report:
        contents = Contents((), (), (KeptTable("0" * 32, table, {}, 0),), ())
        html(make_pages(contents, 100), contents, None, [])
    try:
        parts = table.extrapolating().layers(list(table.entries))
        prediction = table.total(parts)
    except LookupTableError:
        return
    assert all(math.isfinite(value) for value in (prediction.latency_s, *prediction.ci_s))
    names = tuple(str(part.key) for part in parts)
    told = ModelPrediction(
        "a model", "a table", prediction.latency_s, prediction.ci_s, tuple(parts), names
    )
    write_text(prediction_view(told), io.StringIO())


def signed(content: object) -> bytes:
    """A file with a digest that is right for whatever content."""
    document = {
        "format": portable.FORMAT,
        "schema": portable.SCHEMA,
        "digest": portable._digest(content),
        "content": content,
    }
    return gzip.compress(json.dumps(document).encode())


def numbers_in(node: object) -> list[tuple[object, object]]:
    """Every place of a number below a node, as its container and index or name."""
    if isinstance(node, dict):
        members = list(node.items())
    elif isinstance(node, list):
        members = list(enumerate(node))
    else:
        return []
    places = []
    for name, value in members:
        if isinstance(value, int | float) and not isinstance(value, bool):
            places.append((node, name))
        else:
            places += numbers_in(value)
    return places


def make_table(random: Random) -> tuple[str, bytes]:
    """Make a damaged portable table; returns how it was made, too."""
    packed = portable.pack(made_table())
    kind = random.choice(["table numbers", "table numbers", "table values", "table bytes"])
    if kind == "table bytes":
        changed = bytearray(packed)
        for _ in range(random.randint(1, 6)):
            changed[random.randrange(len(changed))] = random.randrange(256)
        return kind, bytes(changed)
    content = json.loads(gzip.decompress(packed))["content"]
    for _ in range(random.randint(1, 4)):
        places = numbers_in(content) if kind == "table numbers" else list(_values_in(content))
        container, name = random.choice(places)
        container[name] = random.choice([*WILD, "", "Conv[1x1]", {}, "x" * 5000, "\x1b[2J"])
    return kind, signed(content)


def _values_in(node: Any) -> Iterator[tuple[Any, Any]]:
    """Walk over every value below a node, as its container and index or name."""
    for name, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, name
        if isinstance(value, dict | list):
            yield from _values_in(value)


def make_log(random: Random) -> tuple[str, bytes]:
    """Make a damaged log or profile of another program; returns which one it was, too."""
    path = random.choice([path for path in sorted(DATA.iterdir()) if path.name != "documents.json"])
    text = path.read_bytes().decode()
    for _ in range(random.randint(1, 4)):
        begin = random.randrange(len(text) + 1)
        end = begin + random.choice([0, 1, 5, 60, random.randrange(len(text) + 1)])
        text = text[:begin] + random.choice(_TOKENS) + text[end:]
    return path.name, text.encode()
