"""Measurement records: what they refuse to be rebuilt from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hwbench.devices.virtual.device import Virtual
from hwbench.errors import SchemaError
from hwbench.measuring.sessions import measure
from hwbench.records.measurement import Measurement, Settings
from tests.support.models import conv_workload


@pytest.fixture(scope="module")
def record() -> Measurement:
    with Virtual() as device:
        return measure(device, conv_workload(), Settings(budget_s=3))


def test_survives_json_text(record):
    assert Measurement.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": 99},
        {"schema": None},
        {"samples_s": [0.0]},
        {"samples_s": "x"},
        {"settings": {"threads": 1}} | {"settings": {"unknown": 1}},
        {"device": None},
        {"surprise": 1},
        {"profile": {"layers": [{"key": "no key"}]}},
    ],
)
def test_damaged_records_are_refused(record, damage):
    with pytest.raises(SchemaError):
        Measurement.from_dict(record.to_dict() | damage)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_stored_sample_that_is_no_latency_is_refused(record, bad):
    data = record.to_dict()
    data["samples_s"] = [bad, *data["samples_s"][1:]]
    with pytest.raises(SchemaError, match="positive finite"):
        Measurement.from_dict(data)


def test_missing_fields_are_refused(record):
    data = record.to_dict()
    del data["clock"]
    with pytest.raises(SchemaError):
        Measurement.from_dict(data)


def test_statistics_follow_the_samples(record):
    doubled = replace(
        record,
        series=replace(
            record.series, samples_s=tuple(2 * sample for sample in record.series.samples_s)
        ),
    )
    assert doubled.median_s == pytest.approx(2 * record.median_s)
    assert doubled.closure == pytest.approx(record.closure / 2)
