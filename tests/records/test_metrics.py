"""Records in numbers, for tools that log them, and in one line, for people at a prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.lookup_tables.exchange.shipped import pixel1
from hwbench.records.comparison import compare
from hwbench.records.series import Series
from tests.render.test_render_views import compared, record


def test_a_measurement_is_a_flat_dictionary_of_known_numbers():
    measured = record()
    metrics = measured.metrics()
    assert metrics["latency_s"] == measured.median_s
    assert metrics["latency_low_s"] < metrics["latency_s"] < metrics["latency_high_s"]
    assert metrics["macs"] == measured.macs
    assert {type(value) for value in metrics.values()} == {float}
    layer = measured.profile.layers[0]
    assert metrics[f"layer_s/{layer.name}"] == layer.inference_s
    unknown = replace(measured, macs=None, profile=None, series=Series()).metrics()
    assert not {"macs", "latency_s", "closure"} & set(unknown)


def test_a_comparison_holds_both_sides():
    comparison = compared(0.5)
    metrics = comparison.metrics()
    assert metrics["speedup"] == pytest.approx(comparison.speedup)
    assert metrics["candidate/latency_s"] == comparison.candidate.median_s
    apart = compare(comparison.baseline, replace(comparison.candidate, group_id="other"))
    assert "speedup" not in apart.metrics()


def test_a_record_is_one_line_at_a_prompt():
    comparison = compared(0.5)
    for value in (comparison.baseline, comparison, pixel1()):
        assert len(repr(value)) < 250
        assert "\n" not in repr(value)
    assert "FASTER" in repr(comparison)
    assert "no samples" in repr(replace(comparison.baseline, series=Series()))
