"""JSON documents: plain, finite, complete."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.records.series import Series
from hwbench.render.documents import (
    compare_document,
    doctor_document,
    profile_document,
    selftest_document,
    to_json,
)
from hwbench.workflows.doctor import Diagnosis
from hwbench.workflows.selftest import SelfTest
from tests.render.test_render_views import CPU, NOW, compared, layers, record
from tests.support.render_support import patiently

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


def refuse(name: str) -> None:
    pytest.fail(f"{name} in JSON")


@given(st.dictionaries(st.text(), VALUES))
@patiently
def test_json_never_holds_what_is_not_finite(document):
    json.loads(to_json(document), parse_constant=refuse)


def test_an_interval_without_an_end_is_null():
    one = record(series=Series((0.01,), (0,), (0,)))
    data = json.loads(to_json(profile_document(one)), parse_constant=refuse)
    assert data["median_s"] == pytest.approx(0.01)
    assert None in data["median_ci_s"]


def test_a_record_without_samples_has_no_latency():
    data = profile_document(record(series=Series(), complete=False))
    assert [data[name] for name in ("median_s", "median_ci_s", "closure", "rest_s")] == [None] * 4
    assert data["layers_sum_s"] == pytest.approx(0.006)
    assert {row["share"] for row in data["layers"]} == {None}


def test_calls_count_in_sums_and_shares():
    twice = replace(layers(), layers=(replace(layers().layers[0], calls=3),))
    data = profile_document(record(profile=twice))
    assert data["layers"][0]["median_s"] == pytest.approx(1e-3)
    assert data["layers"][0]["share"] == pytest.approx(0.3, rel=1e-2)
    assert data["layers_sum_s"] == pytest.approx(3e-3)


def test_compare_document_is_baseline_over_candidate():
    data = compare_document(compared(0.5))
    assert data["speedup"] == pytest.approx(2.0, rel=1e-6)
    assert data["macs_ratio"] == pytest.approx(1.82 / 0.9)
    assert [row["saved_s"] for row in data["layers"]] == pytest.approx([0.5e-3, 1e-3, 1.5e-3])
    assert data["explained_share"] == pytest.approx(0.6, rel=1e-3)
    assert data["baseline"]["record"]["settings"]["budget_s"] == 30.0


def test_a_layer_absent_on_one_side_is_null_there():
    shorter = replace(layers(0.5), layers=layers(0.5).layers[:2])
    data = compare_document(compared(0.5, profile=shorter))
    assert data["layers"][2]["candidate_s"] is None
    assert data["layers"][2]["saved_s"] == data["layers"][2]["baseline_s"]


def test_incomparable_has_no_numbers():
    data = compare_document(compared(0.5, batch=2))
    assert data["verdict"] == "INCOMPARABLE"
    assert (data["speedup"], data["speedup_ci"]) == (None, None)


def test_every_document_is_json():
    for document in (
        profile_document(record()),
        compare_document(compared(1.0)),
        selftest_document(SelfTest(CPU, (compared(1.0),))),
        doctor_document(Diagnosis(CPU, NOW, ())),
    ):
        assert json.loads(to_json(document), parse_constant=refuse)["schema"] == 1
