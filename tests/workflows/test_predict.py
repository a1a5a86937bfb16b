"""Predictions from Python: one model, many models, tables by name, by file and in hand."""

from __future__ import annotations

import numpy as np
import pytest

import hwbench
from hwbench.errors import MissingEntryError, UsageError
from hwbench.lookup_tables.exchange.portable import write_table
from hwbench.lookup_tables.exchange.shipped import PIXEL1, pixel1
from hwbench.workflows.predict import predict_each

FULL = next(iter(PIXEL1))


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "store.db")


def test_a_model_is_predicted_with_its_layers(store):
    prediction = hwbench.predict(FULL, table="pixel1", store=store)
    low_s, high_s = prediction.ci_s
    assert low_s < prediction.latency_s < high_s
    assert prediction.latency_s == pytest.approx(0.1232, rel=0.02)
    assert (prediction.model, prediction.table) == (FULL, "pixel1")
    frame = prediction.to_frame()
    assert list(frame["name"]) == list(prediction.names)
    assert set(frame["origin"]) == {"measured"}
    assert len(repr(prediction)) < 400


def test_an_open_table_answers_for_keys_widths_and_frames(store):
    table = hwbench.open_table("pixel1", extrapolate=True, store=store)
    network = hwbench.PrunableNetwork(hwbench.load_workload(FULL))
    full = network.structure.widths
    halves = [width // 2 for width in full]
    by_keys = table.predict(network.keys(halves)).latency_s
    by_widths = hwbench.StructureLatency(table, network.structure).predict_widths(
        np.array([full, halves])
    )
    assert by_widths[1] == pytest.approx(by_keys)
    assert by_widths[0] == pytest.approx(hwbench.predict(FULL, table=table).latency_s)
    assert len(table.to_frame()) == len(table.entries)


def test_only_an_extrapolating_prediction_leaves_the_measured_range(store):
    narrow = "zoo:mobilenet_v1@0.5,classes=1001"
    with pytest.raises(MissingEntryError):
        hwbench.predict(narrow, table="pixel1", store=store)
    opened = hwbench.predict(narrow, table="pixel1", extrapolate=True, store=store)
    in_hand = hwbench.predict(narrow, table=pixel1(), extrapolate=True)
    assert opened == in_hand


def test_a_file_of_a_table_is_opened_as_it_lies(tmp_path, store):
    write_table(pixel1(), tmp_path / "phone.hwtable")
    table = hwbench.open_table(tmp_path / "phone.hwtable")
    assert table.predict([next(iter(table.entries))]).latency_s > 0
    assert hwbench.predict(FULL, table=str(tmp_path / "phone.hwtable")).table == "pixel1"
    with pytest.raises(UsageError, match=r"absent\.hwtable"):
        hwbench.open_table(tmp_path / "absent.hwtable")


def test_a_slip_of_the_pen_is_answered_with_the_table_that_was_meant(store):
    with pytest.raises(UsageError, match=r"no lookup table 'pixle1'.* there is 'pixel1'"):
        hwbench.open_table("pixle1", store=store)
    with pytest.raises(UsageError, match="make one"):
        hwbench.open_table("quite something else", store=store)


def test_what_cannot_be_predicted_is_an_outcome_of_its_own(store):
    cells = predict_each([FULL, "absent.onnx", FULL], ["pixel1", "absent", "pixel1"], store=store)
    assert [cell.prediction is not None for cell in cells] == [True, False, False, False]
    assert [cell.error is None for cell in cells] == [True, False, False, False]
    assert "absent.onnx" in str(cells[2].error)
    assert [(cell.model, cell.table) for cell in cells[:2]] == [(FULL, "pixel1"), (FULL, "absent")]
