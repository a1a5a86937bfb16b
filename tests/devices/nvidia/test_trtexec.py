"""What trtexec exports and prints."""

from __future__ import annotations

import json

import pytest

from hwbench.devices.nvidia import trtexec
from hwbench.errors import HwbenchError, OutputParseError
from hwbench.lookup_tables.exchange import foreign_files
from hwbench.lookup_tables.exchange.foreign_files import TrtLayers, TrtLog, TrtProfile, TrtTimes
from tests.support.paths import DATA

LOG = (DATA / "trtexec_log.txt").read_text()


def test_profile():
    profile = foreign_files.read(DATA / "trt_profile.json")
    assert isinstance(profile, TrtProfile)
    assert profile.count == 6610
    assert [layer.name for layer in profile.layers][1:] == [
        "conv0 + relu0",
        "dw1 + relu1",
        "squeeze",
        "logits",
    ]
    assert (profile.layers[1].mean_s, profile.layers[1].median_s) == pytest.approx(
        (40e-6, 39.936e-6)
    )


def test_a_layer_without_time_is_below_the_resolution_and_a_finding():
    profile = foreign_files.read(DATA / "trt_profile.json")
    assert isinstance(profile, TrtProfile)
    assert profile.layers[3].mean_s is None
    assert [finding.code for finding in profile.findings] == ["below_resolution"]


def test_profiles_before_8_5_have_no_median_and_before_that_only_totals():
    old = trtexec.parse_profile(
        [{"count": 10}, {"name": "a", "timeMs": 5, "averageMs": 0.5}, {"name": "b", "timeMs": 20.0}]
    )
    assert [(layer.mean_s, layer.median_s) for layer in old.layers] == [
        (0.5e-3, None),
        (2e-3, None),
    ]


def test_times_are_one_per_inference():
    times = foreign_files.read(DATA / "trt_times.json")
    assert isinstance(times, TrtTimes)
    assert times.compute_s == pytest.approx((93.1e-6, 92.9e-6, 94.2e-6, 93.0e-6))
    assert times.latency_s == pytest.approx(tuple(t + 18e-6 for t in times.compute_s))


def test_layers_know_their_onnx_nodes():
    layers = foreign_files.read(DATA / "trt_layers.json")
    assert isinstance(layers, TrtLayers)
    assert [layer.origins for layer in layers.layers] == [
        (),
        ("conv0", "relu0"),
        ("dw1", "relu1"),
        ("logits",),
    ]
    assert layers.layers[1].kind == "CaskConvolution"
    assert layers.bindings == ("x", "y")


def test_names_alone_are_split_into_nodes():
    layers = foreign_files.read(DATA / "trt_layers_names.json")
    assert isinstance(layers, TrtLayers)
    assert [(layer.origins, layer.kind) for layer in layers.layers] == [
        (("conv0", "relu0"), ""),
        (("logits",), ""),
    ]
    assert layers.bindings == ("x", "y")


def test_log_keeps_the_command_line_with_the_numbers():
    log = foreign_files.read(DATA / "trtexec_log.txt")
    assert isinstance(log, TrtLog)
    assert log.command == "trtexec --onnx=small.onnx --useCudaGraph --exportTimes=times.json"
    assert log.version == "TensorRT v100800"
    assert (log.compute.min_s, log.compute.median_s) == pytest.approx((91.3086e-6, 93.1396e-6))
    assert dict(log.compute.percentiles_s)[0.99] == pytest.approx(102.539e-6)
    assert log.latency.mean_s == pytest.approx(111.387e-6)
    assert [finding.code for finding in log.findings] == ["trtexec_warning"]
    assert "unstable" in log.findings[0].text


def test_a_bare_summary_of_tensorrt_8_is_read():
    log = trtexec.parse_log(
        "[I] GPU Compute Time: min = 1 ms, max = 3 ms, mean = 2 ms, median = 1.5 ms,"
        " percentile(99%) = 3 ms"
    )
    assert (log.command, log.version, log.latency) == (None, None, None)
    assert log.compute.median_s == 1.5e-3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("&&&& PASSED", "&&&& FAILED", "FAILED"),
        ("median = 0.0931396 ms", "median = nan ms", "expected a time"),
        ("median = 0.0931396 ms", "median = 0 ms", "time above 0"),
        ("median = 0.0931396 ms, ", "", "no median"),
        ("[I] GPU Compute Time: min", "[I] GPU Compute: minimum", "no 'GPU Compute Time"),
        ("[I] Enqueue Time:", "[I] GPU Compute Time:", "several summaries"),
    ],
)
def test_a_damaged_or_failed_log_is_refused(old, new, message):
    assert old in LOG
    with pytest.raises(OutputParseError, match=message):
        trtexec.parse_log(LOG.replace(old, new))


@pytest.mark.parametrize(
    "data",
    [
        [{"count": 3}],
        [{"count": 0}, {"name": "a", "averageMs": 1}],
        [{"count": 3}, {"averageMs": 1}],
        [{"count": 3}, {"name": "a"}],
        [{"count": 3}, {"name": "a", "averageMs": -1}],
        [{"count": 3}, {"name": "a", "averageMs": True}],
        [{"count": 3}, {"name": "a", "averageMs": "x"}],
        [{"count": 3}, "a"],
        [{"computeMs": 0}],
        [{"computeMs": 1}, {"latencyMs": 1}],
        {"Layers": []},
        {"Layers": [3]},
        {"Layers": [{"LayerType": "x"}]},
        {"Layers": ["a"], "Bindings": [[]]},
        [],
        {},
        3,
    ],
)
def test_damaged_exports_are_refused(data):
    with pytest.raises(HwbenchError):
        foreign_files.parse(json.dumps(data), "x.json")


@pytest.mark.parametrize(
    "prefix", ["2026-11-30T12:{i:02d}:56.1234567Z ", "job | ", "    ", "\x1b[32m"]
)
def test_what_other_programs_put_before_lines_changes_nothing(prefix):
    lines = [prefix.format(i=i % 60) + line for i, line in enumerate(LOG.splitlines())]
    log = foreign_files.parse("\n".join(lines), "log")
    assert log == trtexec.parse_log(LOG, "log")
    assert isinstance(log, TrtLog)
    assert log.version == "TensorRT v100800"
