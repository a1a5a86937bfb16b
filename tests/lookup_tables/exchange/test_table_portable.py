"""Portable files: what comes back, and what is refused."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import HwbenchError, SchemaError, UnsafeModelError, UsageError
from hwbench.lookup_tables import Calibration, Entry, LookupTable, Metadata
from hwbench.lookup_tables.exchange import portable as room
from hwbench.lookup_tables.exchange.portable import pack, read_table, unpack, write_table
from hwbench.lookup_tables.making.proposals import Grid
from hwbench.network.structure import Structure
from hwbench.records.layer_key import LayerKey
from hwbench.records.untrusted import MIN_SECONDS
from tests.support.table_support import built, structure

sizes = st.integers(1, 4096)


@st.composite
def keys(draw) -> LayerKey:
    """Layers of all ranks and roles, whose shapes need not follow from their channels."""
    rank = draw(st.integers(0, 4))
    shape = st.tuples(*[sizes] * rank)
    name, text = (
        st.sampled_from(["kernel", "group", "axis", "act", "x%"]),
        st.text("0123456789x.=,%é{}", max_size=6),
    )
    op = draw(st.sampled_from(["Conv", "Linear", "Add", "Reshape", "My.Op-1"]))
    attrs = tuple(draw(st.dictionaries(name, text, max_size=3)).items())
    inputs = tuple(draw(st.lists(shape, max_size=3)))
    return LayerKey(op, inputs, draw(shape), attrs, draw(st.sampled_from(["fp32", "int8"])))


latencies_s = st.just(0.0) | st.floats(MIN_SECONDS, 10)
entries = st.builds(Entry, latencies_s, st.floats(0, 1), st.integers(1, 10**6))
tables = st.dictionaries(keys(), entries, min_size=1, max_size=20).map(
    lambda found: LookupTable(found, built().table.metadata)
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(tables)
def test_a_table_comes_back_to_six_digits_and_its_file_is_the_same_each_time(table):
    data = pack(table)
    twin = unpack(data)
    assert pack(twin) == pack(table) == data
    assert twin.metadata == table.metadata
    assert list(twin.entries) == list(table.entries)
    for key, entry in table.entries.items():
        assert twin.entries[key].latency_s == pytest.approx(entry.latency_s, rel=1e-5)
        assert twin.entries[key].sd == pytest.approx(entry.sd, rel=1e-2)
        assert twin.entries[key].samples == entry.samples


def test_predictions_survive():
    table = built().table
    wide = structure().keys(structure().widths)
    assert unpack(pack(table)).predict(wide).latency_s == pytest.approx(
        table.predict(wide).latency_s, rel=1e-5
    )


def test_every_layer_of_mobilenet_v1_at_step_8_fits_in_200_kb():
    shape = Structure.from_model(_model("zoo:mobilenet_v1"))
    grid, found = Grid(shape.widths, 8, 0.2), {}
    rng = np.random.default_rng(0)
    for _ in range(120):  # three times as many networks as a build measures
        for key in shape.keys(grid.random(rng)):
            found.setdefault(
                key, Entry(float(rng.uniform(1e-6, 1e-2)), float(rng.uniform(0, 0.1)), 3)
            )
    assert len(found) > 1500
    assert len(pack(LookupTable(found, built().table.metadata))) < 200_000


def _model(name: str):
    from hwbench.network.graph import load
    from hwbench.network.intake import load_workload

    return load(load_workload(name).onnx)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_goes_unnoticed(data):
    whole = bytearray(pack(built().table))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole[data.draw(st.integers(10, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SchemaError):
        unpack(bytes(whole))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_on_purpose(data):
    for hostile in (data, gzip.compress(data), b"\x1f\x8b" + data):
        with pytest.raises((SchemaError, UnsafeModelError)):
            unpack(hostile)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def signed(content: object) -> bytes:
    """A file with a digest that is right for whatever content."""
    document = {
        "format": room.FORMAT,
        "schema": room.SCHEMA,
        "digest": room._digest(content),
        "content": content,
    }
    return gzip.compress(json.dumps(document).encode())


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_content_that_was_edited_and_signed_again_is_a_table_or_an_error(data):
    content = json.loads(gzip.decompress(pack(built().table)))["content"]
    node, steps = content, data.draw(st.integers(1, 6))
    for step in range(steps):
        spots = list(node) if isinstance(node, dict) else list(range(min(len(node), 4)))
        spot = data.draw(st.sampled_from(spots))
        if step == steps - 1 or not isinstance(node[spot], dict | list) or not node[spot]:
            node[spot] = data.draw(json_values.filter(_finite))
            break
        node = node[spot]
    try:
        table = unpack(signed(content))
    except SchemaError:
        return
    keys = list(table.entries)[:20]
    assert all(0 <= part.latency_s < float("inf") for part in table.extrapolating().layers(keys))
    assert unpack(pack(table)).metadata == table.metadata


def _finite(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["families"][0][1][2].__setitem__(0, -1e-3), "Entry"),
        (lambda c: c["families"][0][1][2].__setitem__(0, 1e9), "Entry"),
        (lambda c: c["families"][0][1][0].__setitem__(0, 0), "channels|entry of|channel"),
        (lambda c: c["families"][0][1][0].__setitem__(0, 1 << 40), "entry of"),
        (lambda c: c["families"][0][1][4].__setitem__(0, 0), "samples"),
        (lambda c: c["families"].append(c["families"][0]), "twice"),
        (lambda c: c["metadata"]["calibration"].update(reference_s=0.0), "impossible"),
        (
            lambda c: c["metadata"]["calibration"].update(bend=1.0, span=[-0.1, 30.0]),
            "impossible",
        ),  # e**900 times the sum
        (
            lambda c: c["metadata"]["calibration"].update(bend=-0.5, span=[-0.1, 3.0]),
            "impossible",
        ),  # larger networks are faster
        (lambda c: c["metadata"]["calibration"].update(bend=0.5, span=[-3.0, 0.1]), "impossible"),
        (lambda c: c["metadata"]["calibration"].update(bend=0.1, span=[1.0, -1.0]), "impossible"),
        (lambda c: c["metadata"]["provenance"].update(threads="one"), "is no whole number"),
        (lambda c: c["metadata"].update(schema=9), "schema 9"),
        (lambda c: c.pop("others"), "others"),
    ],
)
def test_impossible_values_are_named(change, said):
    content = json.loads(gzip.decompress(pack(built().table)))["content"]
    change(content)
    with pytest.raises(SchemaError, match=said):
        unpack(signed(content))


def test_an_edit_breaks_the_digest():
    document = json.loads(gzip.decompress(pack(built().table)))
    document["content"]["families"][0][1][2][0] *= 1.01
    with pytest.raises(SchemaError, match="changed after its export"):
        unpack(gzip.compress(json.dumps(document).encode()))


def test_a_bomb_is_not_unpacked():
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb") as packed:
        for _ in range(65):
            packed.write(bytes(1 << 20))
    with pytest.raises(SchemaError, match="no lookup table does"):
        unpack(buffer.getvalue())


class Marker:
    """Unpickling it would leave a mark."""

    hit = False

    def __reduce__(self):
        return setattr, (Marker, "hit", True)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["table.hwtable", "table.pkl", "table.txt"])
def test_pickles_are_refused_with_the_safe_way(tmp_path, protocol, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps([Marker()], protocol))
    with pytest.raises((UnsafeModelError, SchemaError), match=r"pickle|no lookup table") as caught:
        read_table(path)
    assert "hwbench table export" in str(caught.value)
    assert not Marker.hit


def test_other_files_and_schemas_are_refused(tmp_path):
    for text, said in (
        ("[]", "no lookup table"),
        ('{"format": "other"}', "no lookup table"),
        ("{", "damaged"),
    ):
        with pytest.raises(SchemaError, match=said):
            unpack(gzip.compress(text.encode()))
    newer = json.loads(gzip.decompress(pack(built().table))) | {"schema": 2}
    with pytest.raises(SchemaError, match="update hwbench"):
        unpack(gzip.compress(json.dumps(newer).encode()))
    with pytest.raises(SchemaError, match="other data"):
        unpack(pack(built().table) * 2)
    with pytest.raises(UsageError, match="is not a regular file"):
        read_table(tmp_path)
    (tmp_path / "empty.hwtable").touch()
    with pytest.raises(UsageError, match="0 bytes"):
        read_table(tmp_path / "empty.hwtable")


def test_a_file_is_whole_or_not_there(tmp_path):
    table = built().table
    path = tmp_path / "a.hwtable"
    assert write_table(table, path) == path.stat().st_size
    assert read_table(path).entries.keys() == table.entries.keys()
    assert [one.name for one in tmp_path.iterdir()] == ["a.hwtable"]
    with pytest.raises(UsageError, match="pass another out"):
        write_table(table, tmp_path / "no" / "a.hwtable")


def test_an_uncalibrated_table_is_portable_too():
    table = built().table
    plain = LookupTable(
        table.entries, Metadata(replace(table.provenance, sources=()), Calibration())
    )
    assert unpack(pack(plain)).metadata == plain.metadata
    assert issubclass(SchemaError, HwbenchError)
