"""Whatever is read as a table can be shown, reported and asked.

All else is refused when it is read.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import HwbenchError, LookupTableError, SchemaError
from hwbench.lookup_tables import Calibration, Entry, Grade, LookupTable, Metadata
from hwbench.lookup_tables.exchange import portable
from hwbench.lookup_tables.exchange.foreign_table import ForeignNetwork, table_of
from hwbench.lookup_tables.exchange.join_by_order import ForeignEntry
from hwbench.lookup_tables.exchange.portable import pack, unpack
from hwbench.lookup_tables.limits import check_key
from hwbench.lookup_tables.metadata import Provenance, Source
from hwbench.records.device import DeviceInfo
from hwbench.records.layer_key import LayerKey
from hwbench.render.blocks import write_text
from hwbench.render.documents import to_json
from hwbench.render.tables import prediction_view, table_document, table_view
from hwbench.report.contents import Contents, KeptTable
from hwbench.report.overview import make_pages
from hwbench.report.page import html

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


def use(table: LookupTable) -> None:
    """Everything that commands do with a table; where it cannot answer, that is said."""
    write_text(table_view(table), io.StringIO())
    to_json(table_document(table))
    contents = Contents((), (), (KeptTable("0" * 32, table, {}, 0),), ())
    html(make_pages(contents, 100), contents, None, [])
    try:
        parts = table.extrapolating().layers(list(table.entries))
        prediction = table.total(parts)
    except LookupTableError:
        return
    assert all(math.isfinite(value) for value in (prediction.latency_s, *prediction.ci_s))
    write_text(prediction_view("a model", prediction, parts), io.StringIO())


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


def test_the_table_itself_can_be_used():
    use(unpack(pack(made_table())))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_a_file_of_wild_numbers_is_refused_or_can_be_used(data):
    content = json.loads(gzip.decompress(pack(made_table())))["content"]
    places = numbers_in(content)
    changes = data.draw(st.integers(1, 4))
    for place in data.draw(st.lists(st.sampled_from(range(len(places))), max_size=changes)):
        container, name = places[place]
        container[name] = data.draw(st.sampled_from(WILD) | st.floats(0, 1e6, allow_nan=False))
    try:
        table = unpack(signed(content))
        table.check_usable()
    except SchemaError as error:
        assert "\n" not in str(error)
        return
    use(table)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_record_of_wild_numbers_is_refused_or_can_be_used(data):
    record = json.loads(json.dumps(made_table().to_dict()))
    places = numbers_in(record)
    for place in data.draw(st.lists(st.sampled_from(range(len(places))), max_size=3)):
        container, name = places[place]
        container[name] = data.draw(st.sampled_from(WILD))
    try:
        table = LookupTable.from_dict(record)
        table.check_usable()
    except SchemaError:
        return
    use(table)


@pytest.mark.parametrize(
    "text",
    [
        "Conv[1x16777217x8x8->1x8x8x8]{kernel=3x3}@fp32",
        "Conv[1x8x0x8->1x8x8x8]{kernel=3x3}@fp32",
        "Conv[1x1x1x1x1x1x1x1x1->1x8]{kernel=3}@fp32",
        "Add[1x16777216x16777216x2->1x8]{}@fp32",
        f"Conv[1x8x8x8->1x8x8x8]{{kernel={'x'.join(['999999999'] * 5)}}}@fp32",
        "Conv[1x8x8x8->1x8x8x8]{group=999999999,kernel=3x3}@fp32",
    ],
)
def test_layers_that_cannot_be_are_refused(text):
    with pytest.raises(SchemaError, match="no possible layer"):
        check_key(LayerKey.parse(text))


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0},
        {"layers": 10**7},
        {"threads": 0},
        {"threads": 10**12},
        {"whole_s": 0.0},
        {"whole_s": -1.0},
        {"whole_s": 1e-320},
        {"whole_s": 1e7},
        {"whole_s": math.inf},
        {"whole_s": math.nan},
        {"calls": 0},
        {"calls": 10**9},
        {"samples_s": ()},
        {"samples_s": (1e-320,)},
        {"samples_s": (1e7,)},
        {"samples_s": (math.nan,)},
        {"samples_s": (-1e-3,)},
    ],
)
def test_networks_of_other_tools_have_the_same_bounds(change):
    key = LayerKey.parse(LINEAR.format(cin=8, cout=10))
    entry = ForeignEntry(key, (1e-3,), 1)
    network = ForeignNetwork("m", "trtexec", ("a.json",), (entry,), 1, 2e-3, "gpu", "runtime", 1)
    assert table_of([network], "gpu").entries
    of_entry = {name: change[name] for name in change if name in {"calls", "samples_s"}}
    of_network = {name: change[name] for name in change if name not in of_entry}
    with pytest.raises(HwbenchError):
        replace(network, entries=(replace(entry, **of_entry),), **of_network)


def test_an_interval_beyond_what_a_float_holds_is_refused():
    table = made_table()
    keys = list(table.entries)
    doubtful = [replace(part, sd=1e9) for part in table.layers(keys)]
    with pytest.raises(LookupTableError, match="too uncertain"):
        table.total(doubtful)
