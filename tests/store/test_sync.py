"""Records from one store into another: all, once, checked, and under their own names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.errors import UsageError
from hwbench.records.series import Series
from hwbench.store import open_store
from hwbench.workflows.sync_store import BATCH, Syncing, sync_store
from tests.store.records import (
    MEASURED,
    OTHERS,
    SECONDS,
    TOTAL,
    begun,
    change,
    everything,
    measurement,
)


def test_all_comes_once_in_its_order(source: str, address: str) -> None:
    done = sync_store(address, source)
    assert done.new == {"measurement": MEASURED, "table_build": 1, "free": OTHERS - 1}
    assert (done.updated, done.known, done.refused) == (0, 0, [])
    assert everything(address) == everything(source)
    again = sync_store(address, source)
    assert (again.new.total(), again.updated, again.known) == (0, 0, TOTAL)
    assert everything(address) == everything(source)


def test_only_what_is_new_travels(
    source: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_store(address, source)
    with open_store(source) as store:
        store.save(measurement(id="later"))
        store.save_record("free", {"later": True})
    travelled = []
    take = type(store).take
    monkeypatch.setattr(
        type(store),
        "take",
        lambda self, parcels: travelled.extend(p.key for p in parcels) or take(self, parcels),
    )
    assert sync_store(address, source).new == {"measurement": 1, "free": 1}
    assert [kind for kind, _ in travelled] == ["measurement", "free"]


def test_it_works_downwards_too(
    source: str, address: str, new_address: Callable[[str], str]
) -> None:
    sync_store(address, source)
    back = new_address("sqlite")
    sync_store(back, address)
    assert everything(back) == everything(source)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    samples=st.lists(st.tuples(SECONDS, st.integers(0, 3), st.integers(0, 2**62)), max_size=20),
    name=st.text(),
)
def test_any_measurement_survives(
    new_address: Callable[[str], str],
    address: str,
    samples: list[tuple[float, int, int]],
    name: str,
) -> None:
    values_s, sessions, blocks = (
        (tuple(column) for column in zip(*samples, strict=True)) if samples else ((), (), ())
    )
    with open_store(new_address("sqlite")) as ours:
        record = measurement(
            series=Series(values_s, sessions, blocks),
            warm_up=Series(values_s, sessions),
        )
        with open_store(address) as theirs:
            number = len(theirs.keys())
            record = replace(record, id=f"r{number}", model=name)
            ours.save(record)
            sync_store(address, ours._engine.url.render_as_string(hide_password=False))
            assert theirs.get(record.id) == record
            assert theirs.marks(ours.keys()) == ours.marks(ours.keys())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.dictionaries(st.text(), JSON, max_size=4))
def test_any_record_survives(
    new_address: Callable[[str], str], address: str, data: dict[str, object]
) -> None:
    path = new_address("sqlite")
    with open_store(path) as ours, open_store(address) as theirs:
        name = ours.save_record("free", data)
        assert sync_store(address, path).new.total() == 1
        assert theirs.records("free")[name] == data
        assert theirs.marks([("free", name)]) == ours.marks([("free", name)])


def test_another_content_under_one_id_is_refused_by_name(source: str, address: str) -> None:
    sync_store(address, source)
    with open_store(source) as store, open_store(address) as theirs:
        store.save(measurement(id="m1", series=Series((0.5,), (0,), (9,))))
        name = next(iter(store.records("free")))
        change(store, "UPDATE hwbench_records SET record = '{}' WHERE id = :id", id=name)
        store.save(measurement(id="later"))
        before = theirs.get("m1")
        done = sync_store(address, source)
        assert [(taken.key, taken.reason) for taken in done.refused] == [
            (("measurement", "m1"), "another measurement with this id is there"),
            (("free", name), "another record with this id is there"),
        ]
        assert done.new == {"measurement": 1}, "everything else came"
        assert theirs.get("m1") == before
        assert theirs.records("free")[name] != {}


def test_one_id_of_two_kinds_is_refused(source: str, address: str) -> None:
    sync_store(address, source)
    with open_store(source) as store:
        name = next(iter(store.records("free")))
        change(store, "UPDATE hwbench_records SET kind = 'other' WHERE id = :id", id=name)
    assert [taken.key for taken in sync_store(address, source).refused] == [("other", name)]


def test_the_same_content_in_another_spelling_is_known(source: str, address: str) -> None:
    """Another version may write the fields in another order."""
    sync_store(address, source)
    with open_store(address) as theirs:
        change(theirs, "UPDATE hwbench_records SET record = replace(record, ':', ' : ')")
        change(theirs, "UPDATE hwbench_measurements SET record = replace(record, ', \"', ' , \"')")
    done = sync_store(address, source)
    assert (done.new.total(), done.known, done.refused) == (0, TOTAL, [])


def test_an_unfinished_measurement_gets_further_and_never_back(
    address: str, new_address: Callable[[str], str]
) -> None:
    path, stale = new_address("sqlite"), new_address("sqlite")
    with open_store(path) as store, open_store(address) as theirs:
        store.begin(begun(measurement()))
        sync_store(address, path)
        sync_store(stale, path)
        store.append("0123abc", 0, [0.5], [0])
        assert sync_store(address, path).updated == 1
        assert theirs.get("0123abc").series.samples_s == (0.5,)
        assert (sync_store(address, stale).updated, sync_store(address, stale).known) == (0, 1)
        assert theirs.get("0123abc").series.samples_s == (0.5,)
        store.finish(measurement())
        assert sync_store(address, path).updated == 1
        assert sync_store(address, stale).known == 1
        assert theirs.get("0123abc") == measurement()


def test_another_unfinished_measurement_is_refused(
    address: str, new_address: Callable[[str], str]
) -> None:
    path = new_address("sqlite")
    with open_store(path) as store, open_store(address) as theirs:
        store.save(measurement())
        theirs.begin(begun(measurement(model_sha256="6" * 64)))
        assert [taken.key for taken in sync_store(address, path).refused] == [
            ("measurement", "0123abc")
        ]
        assert theirs.get("0123abc").series.samples_s == ()


DAMAGE = {
    "UPDATE hwbench_measurements SET record = '{}' WHERE id = 'm1'": "schema",
    "UPDATE hwbench_measurements SET record = '[' WHERE id = 'm1'": "damaged",
    "UPDATE hwbench_measurements SET record = replace(record, '\"m1\"', '\"m2\"') WHERE id = 'm1'": (
        "its record is of 'm2'"
    ),
    "UPDATE hwbench_measurements SET record = replace(record, '\"zoo:resnet18\"', '7') WHERE id = 'm1'": (
        "7 is no text"
    ),
    "UPDATE hwbench_measurements SET record = replace(record, '2024-01-01T00:00:01+00:00', 'noon') WHERE id = 'm1'": (
        "ISO 8601"
    ),
    "UPDATE hwbench_samples SET values_s = x'000000000000f0ff' WHERE count = 1 AND measurement_id = 'm1'": (
        "positive"
    ),
    "UPDATE hwbench_samples SET values_s = x'00' WHERE count = 1 AND measurement_id = 'm1'": (
        "does not hold"
    ),
    "UPDATE hwbench_records SET record = '{\"x\": Infinity}' WHERE kind = 'table_build'": (
        "Infinity is no number"
    ),
    "UPDATE hwbench_records SET record = '{\"widths\": []}' WHERE kind = 'table_build'": (
        "damaged record of a table build"
    ),
    "UPDATE hwbench_records SET kind = 'lookup_table' WHERE kind = 'table_build'": "lookup table",
    "UPDATE hwbench_records SET kind = 'search_trial' WHERE kind = 'table_build'": (
        "damaged search_trial: KeyError"
    ),
    "UPDATE hwbench_records SET kind = 'foreign_network' WHERE kind = 'table_build'": (
        "damaged foreign_network"
    ),
    "UPDATE hwbench_records SET created_utc = 'noon' WHERE kind = 'table_build'": "ISO 8601",
}


@pytest.mark.parametrize("statement", DAMAGE, ids=range(len(DAMAGE)))
def test_what_cannot_be_believed_does_not_spread(
    source: str, new_address: Callable[[str], str], statement: str
) -> None:
    address = new_address("sqlite")
    with open_store(source) as store:
        change(store, statement)
    done = sync_store(address, source)
    assert len(done.refused) == 1
    assert DAMAGE[statement] in done.refused[0].reason
    assert done.new.total() == TOTAL - 1


def test_a_damaged_record_in_the_target_is_told_apart(source: str, address: str) -> None:
    sync_store(address, source)
    with open_store(address) as theirs:
        change(theirs, "UPDATE hwbench_measurements SET record = '[' WHERE id = 'm1'")
    (refused,) = sync_store(address, source).refused
    assert refused.reason.startswith("the one that is there cannot be read: measurement m1 in")


def test_progress_is_told(source: str, address: str) -> None:
    seen: list[Syncing] = []
    sync_store(address, source, callback=seen.append)
    assert [now.total for now in seen] == [TOTAL] * 3
    assert [now.done for now in seen] == [BATCH, 2 * BATCH, TOTAL]
    assert seen[-1].new == TOTAL


def test_a_source_that_is_not_there_is_not_made(address: str, local: str) -> None:
    with pytest.raises(UsageError, match=f"there is no store at {local}"):
        sync_store(address)
    with pytest.raises(UsageError, match="there is no store at"):
        open_store(local, create=False)


def test_a_store_is_not_brought_into_itself(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWBENCH_STORE", source)
    with pytest.raises(
        UsageError, match=r"is both source and target.*name the shared store: pass target="
    ):
        sync_store()
