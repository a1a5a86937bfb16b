"""What goes into the store comes out of it, bit for bit, whatever the database."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.errors import SchemaError, UsageError
from hwbench.records.measurement import Measurement
from hwbench.records.series import Series
from hwbench.store import Store, rows
from tests.store.records import SECONDS, begun, change, measurement


class TestStore:
    """What both databases promise."""

    def test_round_trip(self, store: Store) -> None:
        record = measurement()
        store.save(record)
        assert store.get(record.id) == record

    def test_saving_again_replaces(self, store: Store) -> None:
        store.save(measurement())
        store.save(measurement(series=Series((0.5,), (0,), (9,))))
        assert store.get("0123abc").series.samples_s == (0.5,)
        assert len(store.list()) == 1

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.lists(st.tuples(SECONDS, st.integers(0, 3), st.integers(0, 2**62)), max_size=40))
    def test_any_samples_survive(self, store: Store, table: list[tuple[float, int, int]]) -> None:
        values_s, sessions, blocks = (
            (tuple(column) for column in zip(*table, strict=True)) if table else ((), (), ())
        )
        record = measurement(
            series=Series(values_s, sessions, blocks),
            warm_up=Series(values_s, sessions),
        )
        store.save(record)
        assert store.get(record.id) == record

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.text())
    def test_any_name_survives(self, store: Store, name: str) -> None:
        store.save(measurement(model=name))
        assert store.get("0123abc").model == name
        assert [row.id for row in store.list(model=name)] == ["0123abc"]

    def test_names_of_files_that_are_no_unicode(self, store: Store) -> None:
        for name in ("caf\udce9.onnx", "a\0b"):
            store.save(measurement(model=name))
            assert store.get("0123abc").model == name
            assert store.list(model=name)[0].model.isprintable()
        with pytest.raises(UsageError, match="no measurement begins"):
            store.get("\udce9\0")

    def test_batches_add_up_to_the_record(self, store: Store) -> None:
        record = measurement()
        record = replace(record, series=replace(record.series, session=(0, 0, 1, 1)))
        store.begin(begun(record))
        assert store.get(record.id) == replace(begun(record), complete=False)
        store.append(record.id, 0, record.warm_up.samples_s[:1], warm_up=True)
        store.append(record.id, 0, record.series.samples_s[:2], record.series.block[:2])
        store.append(record.id, 1, record.warm_up.samples_s[1:], warm_up=True)
        store.append(record.id, 1, record.series.samples_s[2:3], record.series.block[2:3])
        store.append(record.id, 1, record.series.samples_s[3:], record.series.block[3:])
        store.append(record.id, 1, (), ())
        assert store.get(record.id) == replace(record, complete=False)
        store.finish(replace(record, complete=False))
        assert store.get(record.id) == record

    def test_append_refuses_what_does_not_fit(self, store: Store) -> None:
        with pytest.raises(UsageError, match="no measurement 'nobody' to append to"):
            store.append("nobody", 0, [0.1], [0])
        store.begin(measurement())
        with pytest.raises(UsageError, match="2 samples came with 1 block numbers"):
            store.append("0123abc", 0, [0.1, 0.2], [0])

    def test_get_by_prefix(self, store: Store) -> None:
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

    def test_list_is_newest_first_and_can_be_narrowed(self, store: Store) -> None:
        other = replace(measurement().device, address="android:X")
        store.save(measurement(id="old", model="net", started_utc="2024-01-01T00:00:00+00:00"))
        store.save(
            measurement(
                id="new", device=other, started_utc="2024-06-01T00:00:00+00:00", complete=False
            )
        )
        assert [row.id for row in store.list()] == ["new", "old"]
        assert [row.id for row in store.list(model="net")] == ["old"]
        assert [row.id for row in store.list(model="5" * 64)] == ["new", "old"]
        assert [row.id for row in store.list(device="android:X")] == ["new"]
        assert [row.id for row in store.list(limit=1)] == ["new"]
        newest = store.list()[0]
        assert (newest.samples, newest.complete, newest.target, newest.model) == (
            4,
            False,
            "some CPU",
            "zoo:resnet18",
        )

    def test_a_measurement_without_samples_is_listed(self, store: Store) -> None:
        store.begin(begun(measurement()))
        assert store.list()[0].samples == 0

    def test_other_records(self, store: Store) -> None:
        first = store.save_record("comparison", {"speedup": 1.5})
        second = store.save_record("comparison", {"speedup": 2.5, "layers": [None]})
        store.save_record("table", {})
        assert list(store.records("comparison").items()) == [
            (first, {"speedup": 1.5}),
            (second, {"speedup": 2.5, "layers": [None]}),
        ]
        assert store.records("nothing") == {}
        assert list(store.records("comparison", holding="[null]")) == [second]
        assert store.records("comparison", holding="speed%2") == {}

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), object()])
    def test_no_number_that_json_does_not_have(self, store: Store, bad: object) -> None:
        with pytest.raises(SchemaError, match="cannot be stored as JSON"):
            store.save_record("comparison", {"speedup": bad})
        assert store.records("comparison") == {}

    def test_export_has_everything(self, store: Store, tmp_path: Path) -> None:
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

    def test_export_names_a_path_it_cannot_write(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot write the export to"):
            store.export(tmp_path / "nowhere" / "all.jsonl")

    def test_a_failed_save_leaves_the_old_record(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One transaction: what was replaced is undone with the rest."""
        store.save(measurement())
        with monkeypatch.context() as patched:
            patched.setattr(
                rows,
                "batches",
                lambda *_: iter([{"session": None, "count": 1, "values_s": b"", "blocks": None}]),
            )
            with pytest.raises(UsageError):
                store.save(measurement(model="other"))
        assert store.get("0123abc") == measurement()

    def test_what_is_no_text_is_refused(self, store: Store) -> None:
        with pytest.raises(SchemaError, match="the model of measurement '0123abc' is None"):
            store.save(measurement(model=None))
        assert store.list() == ()

    @pytest.mark.parametrize(
        "text", ["{", "[]", "null", "[" * 100_000, '{"schema": 1, "id": NaN}', '{"schema": 1}']
    )
    def test_a_damaged_record_is_named(self, store: Store, text: str) -> None:
        store.save(measurement())
        change(store, "UPDATE hwbench_measurements SET record = :text", text=text)
        with pytest.raises(SchemaError, match=r"measurement 0123abc in .*damaged"):
            store.get("0123abc")

    @pytest.mark.parametrize("part", ["values_s", "blocks"])
    def test_a_truncated_batch_is_named(self, store: Store, part: str) -> None:
        store.save(measurement())
        change(store, f"UPDATE hwbench_samples SET {part} = :text", text=b"1234567")
        with pytest.raises(SchemaError, match=r"measurement 0123abc in .*does not hold"):
            store.get("0123abc")
