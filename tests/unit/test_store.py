"""What goes into the store comes out of it, bit for bit."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.errors import SchemaError, UsageError
from hwbench.measurement import Conditions, DeviceInfo, LayerLatency, LayerProfile, Measurement, Settings
from hwbench.store import Store, open_store
from hwbench.workload import Finding, LayerKey, TensorSpec


def measurement(**changes: object) -> Measurement:
    """A record with something in every field."""
    key = LayerKey("Conv", ((1, 3, 8, 8),), (1, 4, 8, 8), (("kernel", "3x3"),))
    profile = LayerProfile(
        (LayerLatency("conv", "Conv", key, "nchwc16", 1e-4), LayerLatency("r", "Reorder", None, "", 2e-5)), 2e-4, 1e-6, "rest"
    )
    record = Measurement(
        id="0123abc", group_id="g", model="zoo:resnet18", model_sha256="5" * 64, inputs=(TensorSpec("x", (1, 3, 8, 8)),),
        batch=1, precision="fp32", macs=7, params=8, file_bytes=9, peak_memory_bytes=10,
        device=DeviceInfo("cpu", "some CPU", "cpu-1", "onnxruntime 1", (("a", "b"),)), settings=Settings(seed=4),
        clock="perf_counter", loops=2, samples_s=(0.1, 0.2, 0.30000000000000004, 0.4), session=(0, 0, 1, 0), block=(0, 1, 2, 3),
        warmup_s=(1e-300, 0.6), warmup_session=(0, 1), before=Conditions("2024-01-01T00:00:00+00:00", (1e9,), "performance"),
        after=Conditions("2024-01-01T00:01:00+00:00", throttled=True), findings=(Finding("drift", "it drifted by 5 %"),),
        profile=profile, started_utc="2024-01-01T00:00:00+00:00", hwbench_version="0.1.0", commit=None,
    )  # fmt: skip
    return replace(record, **changes)  # type: ignore[arg-type]


def begun(record: Measurement) -> Measurement:
    """The same without samples, as it is when measuring begins."""
    return replace(record, samples_s=(), session=(), block=(), warmup_s=(), warmup_session=())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(str(tmp_path / "store.db")) as opened:
        yield opened


def test_round_trip(store: Store) -> None:
    record = measurement()
    store.save(record)
    assert store.get(record.id) == record


def test_saving_again_replaces(store: Store) -> None:
    store.save(measurement())
    store.save(measurement(samples_s=(0.5,), session=(0,), block=(9,)))
    assert store.get("0123abc").samples_s == (0.5,)
    assert len(store.list()) == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(min_value=5e-324, max_value=1e300), st.integers(0, 3), st.integers(0, 2**62)), max_size=40))
def test_any_samples_survive(rows: list[tuple[float, int, int]]) -> None:
    values_s, sessions, blocks = (tuple(column) for column in zip(*rows, strict=True)) if rows else ((), (), ())
    record = measurement(samples_s=values_s, session=sessions, block=blocks, warmup_s=values_s, warmup_session=sessions)
    with open_store("sqlite://") as memory:
        memory.save(record)
        assert memory.get(record.id) == record


def test_batches_add_up_to_the_record(store: Store) -> None:
    record = measurement(session=(0, 0, 1, 1))
    store.begin(begun(record))
    assert store.get(record.id) == replace(begun(record), complete=False)
    store.append(record.id, 0, record.warmup_s[:1], warm_up=True)
    store.append(record.id, 0, record.samples_s[:2], record.block[:2])
    store.append(record.id, 1, record.warmup_s[1:], warm_up=True)
    store.append(record.id, 1, record.samples_s[2:3], record.block[2:3])
    store.append(record.id, 1, record.samples_s[3:], record.block[3:])
    store.append(record.id, 1, (), ())
    assert store.get(record.id) == replace(record, complete=False)
    store.finish(replace(record, complete=False))
    assert store.get(record.id) == record


def test_append_refuses_what_does_not_fit(store: Store) -> None:
    with pytest.raises(UsageError, match="no measurement 'nobody' to append to"):
        store.append("nobody", 0, [0.1], [0])
    store.begin(measurement())
    with pytest.raises(UsageError, match="2 samples came with 1 block numbers"):
        store.append("0123abc", 0, [0.1, 0.2], [0])


def test_get_by_prefix(store: Store) -> None:
    for name in ("aa1", "aa2", "aa", "b%c"):
        store.save(measurement(id=name))
    assert store.get("aa1").id == "aa1"
    assert store.get("b").id == "b%c"
    assert store.get("aa").id == "aa", "an exact id wins over what begins with it"
    with pytest.raises(UsageError, match=r"aa, aa1, \.\.\. all begin with 'a'"):
        store.get("a")
    for unknown in ("c", "%", "b_"):
        with pytest.raises(UsageError, match="no measurement begins with"):
            store.get(unknown)


def test_list_is_newest_first_and_can_be_narrowed(store: Store) -> None:
    other = replace(measurement().device, address="android:X")
    store.save(measurement(id="old", model="net", started_utc="2024-01-01T00:00:00+00:00"))
    store.save(measurement(id="new", device=other, started_utc="2024-06-01T00:00:00+00:00", complete=False))
    assert [row.id for row in store.list()] == ["new", "old"]
    assert [row.id for row in store.list(model="net")] == ["old"]
    assert [row.id for row in store.list(model="5" * 64)] == ["new", "old"]
    assert [row.id for row in store.list(device="android:X")] == ["new"]
    assert [row.id for row in store.list(limit=1)] == ["new"]
    newest = store.list()[0]
    assert (newest.samples, newest.complete, newest.target, newest.model) == (4, False, "some CPU", "zoo:resnet18")


def test_a_measurement_without_samples_is_listed(store: Store) -> None:
    store.begin(begun(measurement()))
    assert store.list()[0].samples == 0


def test_other_records(store: Store) -> None:
    first = store.save_record("comparison", {"speedup": 1.5})
    second = store.save_record("comparison", {"speedup": 2.5, "layers": [None]})
    store.save_record("table", {})
    assert list(store.records("comparison").items()) == [
        (first, {"speedup": 1.5}),
        (second, {"speedup": 2.5, "layers": [None]}),
    ]
    assert store.records("nothing") == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), object()])
def test_no_number_that_json_does_not_have(store: Store, bad: object) -> None:
    with pytest.raises(SchemaError, match="cannot be stored as JSON"):
        store.save_record("comparison", {"speedup": bad})
    assert store.records("comparison") == {}


def test_export_has_everything(store: Store, tmp_path: Path) -> None:
    record = measurement()
    store.save(record)
    name = store.save_record("comparison", {"speedup": 1.5})
    target = tmp_path / "all.jsonl"
    assert store.export(target) == 2
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert Measurement.from_dict(lines[0]["record"]) == record
    assert lines[1] == {"kind": "comparison", "id": name, "record": {"speedup": 1.5}}
    file = io.StringIO()
    assert store.export(file) == 2
    assert file.getvalue() == target.read_text()
    assert [path.name for path in tmp_path.glob("all*")] == ["all.jsonl"]


def test_export_names_a_path_it_cannot_write(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the export to"):
        store.export(tmp_path / "nowhere" / "all.jsonl")


def test_a_failed_save_leaves_the_old_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction: the deletion of the old record is undone with the rest."""
    store.save(measurement())
    with pytest.raises(UsageError):
        store.save(measurement(model=None))
    assert store.get("0123abc") == measurement()


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_damaged_record_is_named(store: Store, tmp_path: Path, text: str) -> None:
    store.save(measurement())
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE hwbench_measurements SET record = ?", [text])
    connection.close()
    with pytest.raises(SchemaError, match=r"measurement 0123abc in .* is damaged"):
        store.get("0123abc")
