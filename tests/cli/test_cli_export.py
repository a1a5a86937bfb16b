"""`hwbench export`: every sample as CSV, the layers as a trace."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise

import pytest

from hwbench.store import open_store
from tests.support.cli_support import hwb

__all__ = ["hwb"]


@pytest.fixture
def record(hwb):
    hwb("profile", "big.onnx", "--device", "virtual", "--budget", "2")
    with open_store() as store:
        (summary,) = store.list()
        yield store.get(summary.id)


def test_every_sample_is_a_line(hwb, record):
    outcome = hwb("export", record.id[:12])
    rows = list(csv.DictReader(io.StringIO(outcome.out)))
    timed = [row for row in rows if row["warm_up"] == "0"]
    assert [float(row["latency_s"]) for row in timed] == list(record.series.samples_s)
    assert [int(row["block"]) for row in timed] == list(record.series.block)
    assert len(rows) - len(timed) == len(record.warm_up)


def test_layers_are_a_trace(hwb, record):
    done = hwb("export", record.id, "--to", "chrome-trace", "-o", "layers.json")
    assert (done.code, done.out) == (0, "written to layers.json\n")
    trace = json.loads((hwb.folder / "layers.json").read_text(encoding="utf-8"))
    whole, *layers = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert whole["dur"] == pytest.approx(record.median_s * 1e6)
    assert [event["name"] for event in layers] == [layer.name for layer in record.profile.layers]
    for before, after in pairwise(layers):
        assert after["ts"] == pytest.approx(before["ts"] + before["dur"])


def test_impossible_exports(hwb, record):
    assert "no measurement begins" in hwb("export", "absent").error
    assert hwb("export", record.id, "--to", "xls").code == 2
    assert hwb("export", record.id, "-o", "nowhere/samples.csv").code == 2
    hwb("profile", "small.onnx", "--device", "virtual", "--budget", "1", "--no-layers")
    with open_store() as store:
        plain = next(one.id for one in store.list() if one.model == "small.onnx")
    assert "has no layers" in hwb("export", plain, "--to", "chrome-trace").error
