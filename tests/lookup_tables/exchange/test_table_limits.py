"""Whatever is read as a table can be shown, reported and asked.

All else is refused when it is read.
"""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import HwbenchError, LookupTableError, SchemaError
from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.exchange.foreign_table import ForeignNetwork, table_of
from hwbench.lookup_tables.exchange.join_by_order import ForeignEntry
from hwbench.lookup_tables.exchange.portable import pack, unpack
from hwbench.lookup_tables.limits import check_key
from hwbench.records.layer_key import LayerKey
from tests.support.hostile_tables import LINEAR, WILD, made_table, numbers_in, signed, use


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
