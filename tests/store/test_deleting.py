"""Deleted measurements are gone with all that belongs to them, in either kind of store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.errors import UsageError
from hwbench.store import open_store
from tests.store.records import measurement


def test_a_deleted_measurement_takes_its_samples_and_comparisons_along(address: str) -> None:
    first, second, third = (replace(measurement(), id=letter * 32) for letter in ("a", "b", "c"))
    with open_store(address) as store:
        for record in (first, second, third):
            store.save(record)
        store.save_record("comparison", {"measurements": [first.id, second.id]})
        kept = store.save_record("comparison", {"measurements": [second.id, third.id]})
        other = store.save_record("free", {"measurements": [first.id]})
        assert store.delete([first.id, "f" * 32]) == 1
        assert {summary.id for summary in store.list()} == {second.id, third.id}
        assert list(store.records("comparison")) == [kept]
        assert list(store.records("free")) == [other]
        with pytest.raises(UsageError, match="no measurement begins"):
            store.get(first.id)
        store.save(first)
        assert store.get(first.id) == first


def test_latencies_are_those_of_the_records(address: str) -> None:
    record = measurement()
    with open_store(address) as store:
        store.save(record)
        store.begin(replace(record, id="e" * 32))
        latencies_s = store.latencies_s([record.id, "d" * 32])
    assert latencies_s == {record.id: pytest.approx(record.median_s)}
