"""Comparisons of records are explained by the driver that took them, if it is at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.devices.virtual.device import Virtual
from hwbench.measuring.comparing import compare_measured
from hwbench.measuring.sessions import measure_interleaved
from hwbench.records.measurement import LayerLatency, LayerProfile, Settings
from tests.support.models import conv_workload


def pair(address, before, after):
    """A network and itself, whose layers ran `before` and ran `after`."""
    with Virtual(seed=1) as device:
        records = measure_interleaved(device, [conv_workload()] * 2, Settings(budget_s=3))
    for record, how in zip(records, (before, after), strict=True):
        layers = tuple(
            LayerLatency(name, "Conv", None, how, record.median_s / 2) for name in ("a", "b")
        )
        yield replace(
            record,
            device=replace(record.device, address=address),
            profile=LayerProfile(layers, record.median_s, 0.0, "nothing"),
        )


@pytest.mark.parametrize(
    ("address", "before", "after", "explained"),
    [
        ("cpu", "nchwc16", "nchw", True),
        ("android:SERIAL,cluster=little", "nchwc16", "nchw", True),
        ("cpu", "nchw", "nchwc16", False),
        ("cpu", "nchwc16", "nchwc16", False),
        ("virtual:seed=1", "nchwc16", "nchw", False),
        ("a-driver-of-another-computer:0", "nchwc16", "nchw", False),
    ],
)
def test_a_runtime_explains_its_own_implementations(address, before, after, explained):
    findings = compare_measured(*pair(address, before, after)).findings
    texts = [finding.text for finding in findings if finding.code == "fell_off_layout"]
    assert texts == ["2 layers left the blocked layout in the candidate: a, b"] * explained
