"""What the TensorRT driver asks of TensorRT and CUDA, seen by strict fakes of three versions."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwbench.devices.nvidia.tensorrt import NvidiaTrt, TrtAddress
from hwbench.errors import BuildError, DeviceUnavailableError, UnsupportedLayerError, UsageError
from hwbench.measuring.layer_profile import join_sessions
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.devices.nvidia import fake_trt, wheels
from tests.devices.nvidia.trt_nets import convolutions
from tests.devices.nvidia.trt_support import UUID, use_fakes
from tests.support.models import conv_net

VERSIONS = tuple(wheels.BINDINGS)
SETTINGS = Settings()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hwbench" / "tensorrt"


@pytest.fixture(scope="module", autouse=True)
def _fetched():
    """Before the cache folder is a fresh one."""
    for version in VERSIONS:
        wheels.bindings(version)
    wheels.cuda()


def plans(cache: Path) -> list[dict]:
    """The engines kept on disk, as the fakes wrote them; oldest first."""
    files = sorted((cache / "engines").glob("*.bin"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_bytes()[32:]) for file in files]


def timings(cache: Path) -> list[bytes]:
    return [file.read_bytes()[32:] for file in (cache / "timings").glob("*.bin")]


def int8_workload(tmp_path: Path) -> Workload:
    (tmp_path / "net.onnx").write_bytes(conv_net((8, 8), 8))
    return load_workload(tmp_path / "net.onnx", precision="int8")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_every_precision_with_honest_settings(
    version, monkeypatch, tmp_path, cache
):
    use_fakes(monkeypatch, version)
    models = [
        convolutions((8,), 8),
        convolutions((8,), 8, kind=np.float16),
        int8_workload(tmp_path),
    ]
    with NvidiaTrt("0,level=2") as device:
        for model in models:
            noted = device.prepare(model, SETTINGS).findings
            assert ("symmetric_int8" in {finding.code for finding in noted}) == (
                model.precision == "int8"
            )
        assert device.info().runtime == f"TensorRT {version}, level 2"
        assert dict(device.info().details)["typing"] == (
            "weak" if version.startswith("8") else "strong"
        )
    expected = [[], ["FP16"], ["INT8"]] if version.startswith("8") else [[], [], []]
    assert [plan["on"] for plan in plans(cache)] == expected, (
        "TF32 is off, and precisions have flags where typing is weak"
    )
    for plan in plans(cache):
        assert plan["settings"] == {
            "profiling_verbosity": "ProfilingVerbosity.DETAILED",
            "builder_optimization_level": "2",
            "avg_timing_iterations": "8",
            "max_aux_streams": "0",
        }


def test_engines_and_timings_are_kept(monkeypatch, cache):
    use_fakes(monkeypatch, VERSIONS[-1])
    for _ in range(2):
        with NvidiaTrt() as device:
            device.run([device.prepare(convolutions((8,), 8), SETTINGS)])
    assert len(plans(cache)) == 1
    assert timings(cache) == [b"+"]
    with NvidiaTrt() as device:
        device.prepare(convolutions((16,), 8), SETTINGS)
        device.prepare(convolutions((16,), 8, kind=np.float16), SETTINGS)
    with NvidiaTrt("0,level=1") as device:
        device.prepare(convolutions((8,), 8), SETTINGS)
    assert [plan["timings"] for plan in plans(cache)] == [
        "",
        "+",
        "",
        "",
    ], "timings are shared by models of one kind of build alone"


def test_another_version_has_engines_of_its_own(monkeypatch, cache):
    for version in VERSIONS[1:]:
        use_fakes(monkeypatch, version)
        with NvidiaTrt() as device:
            device.prepare(convolutions((8,), 8), SETTINGS)
    assert [plan["version"] for plan in plans(cache)] == list(VERSIONS[1:])


def test_damaged_cache_costs_a_build_and_nothing_else(monkeypatch, cache):
    use_fakes(monkeypatch, VERSIONS[-1])
    for _ in range(2):
        with NvidiaTrt() as device:
            assert device.run([device.prepare(convolutions((8,), 8), SETTINGS)]).values_s[0] > 0
        engine = next((cache / "engines").glob("*.bin"))
        whole = engine.read_bytes()
        engine.write_bytes(whole[:-5])
    assert json.loads(whole[32:])["timings"] == "+", "it was built once more"


def test_timings_of_another_device_are_not_used(monkeypatch, cache):
    use_fakes(monkeypatch, VERSIONS[-1])
    with NvidiaTrt() as device:
        device.prepare(convolutions((8,), 8), SETTINGS)
    use_fakes(monkeypatch, VERSIONS[-1], fault="stale timings")
    with NvidiaTrt() as device:
        device.prepare(convolutions((16,), 8), SETTINGS)
    assert [plan["timings"] for plan in plans(cache)] == ["", ""]


def test_fresh_builds_are_taken_in_turn_and_not_kept(monkeypatch, cache):
    use_fakes(monkeypatch, VERSIONS[-1])
    with NvidiaTrt("0,builds=3") as device:
        told = []
        ask = device._shared.ask
        monkeypatch.setattr(
            device._shared, "ask", lambda *a, **k: told.append(ask(*a, **k)) or told[-1]
        )
        for _ in range(7):
            device.prepare(convolutions((8,), 8), SETTINGS)
        assert [answer["built"] for answer in told] == [True] * 3 + [False] * 4
        assert "3 fresh ones" in dict(device.info().details)["builds"]
    assert plans(cache) == []
    assert timings(cache) == []


def test_a_node_that_is_not_supported_is_named(monkeypatch):
    use_fakes(monkeypatch, VERSIONS[-1])
    import onnx

    model = onnx.load_from_string(convolutions((8,), 8).onnx)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Unheard", "elsewhere"
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    with NvidiaTrt() as device:
        with pytest.raises(
            UnsupportedLayerError, match=r"features\.0\.relu \(Unheard\): no importer"
        ):
            device.prepare(
                replace(convolutions((8,), 8), artifact=model.SerializeToString()), SETTINGS
            )
        assert device.run([device.prepare(convolutions((8,), 8), SETTINGS)]).values_s


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no engine", "Could not find any implementation for node conv1"),
        ("no load", "engine plan file is not"),
    ],
)
def test_refusals_are_build_errors_with_what_tensorrt_said(monkeypatch, fault, said):
    use_fakes(monkeypatch, VERSIONS[-1], fault)
    with NvidiaTrt() as device, pytest.raises(BuildError, match=said):
        device.prepare(convolutions((8,), 8), SETTINGS)


def test_a_constructor_that_returns_null_is_told(monkeypatch):
    use_fakes(monkeypatch, VERSIONS[0], fault="no builder")
    with pytest.raises(DeviceUnavailableError, match=r"TensorRT 8\.6\.1 does not start: .*nullptr"):
        NvidiaTrt().open()


def test_gpu_clock_tells_the_gpus_time_and_request_clock_more(monkeypatch):
    """The paper GPU takes a known time; launching is in the request's latency alone."""
    use_fakes(monkeypatch, VERSIONS[-1])
    model = convolutions((64, 64), 64)
    truth_s = 2 * fake_trt.LAYER_S + fake_trt.PER_MAC_S * model.macs
    found = {}
    for latency in ("gpu", "request"):
        with NvidiaTrt(f"0,latency={latency}") as device:
            prepared = device.prepare(model, SETTINGS)
            assert prepared.findings == ()
            samples = device.run([prepared] * 21, loops=4)
            found[latency] = sorted(samples.values_s)[10]
            assert samples.clock.startswith(
                {"gpu": "cuda_event", "request": "perf_counter"}[latency]
            )
            assert device.info().target_id == f"NVIDIA Paper GPU|{UUID}|latency {latency}"
    assert truth_s <= found["gpu"] < 1.1 * truth_s
    assert found["request"] > found["gpu"]


def test_an_engine_that_cannot_be_captured_runs_and_says_so(monkeypatch):
    use_fakes(monkeypatch, VERSIONS[-1], fault="no graph")
    with NvidiaTrt() as device:
        prepared = device.prepare(convolutions((8,), 8), SETTINGS)
        assert [finding.code for finding in prepared.findings] == ["no_cuda_graph"]
        assert device.run([prepared] * 3).values_s


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profilers_cost_is_learnt_and_layers_close(version, monkeypatch):
    use_fakes(monkeypatch, version)
    with NvidiaTrt() as device:
        prepared = device.prepare(convolutions((32, 32, 32, 32), 32), SETTINGS)
        latency_s = statistics.median(device.run([prepared] * 41, loops=4).values_s)
        profile = join_sessions([device.profile_layers(prepared, 20) for _ in range(2)], latency_s)
    assert fake_trt.PROFILER_S / 2 < profile.node_cost_s < 1.5 * fake_trt.PROFILER_S
    assert [layer.name for layer in profile.layers] == [f"features.{index}" for index in range(4)]
    assert 0.7 < profile.layers_sum_s / latency_s < 1.3
    assert profile.layers[0].implementation.startswith("fp32 CaskConvolution sm90_features.0")


def test_addresses():
    assert TrtAddress.parse("") == TrtAddress()
    assert TrtAddress.parse("1,latency=request,level=5,builds=3") == TrtAddress(
        "1", "request", 5, 3
    )
    assert TrtAddress.parse("builds=3") == TrtAddress(builds=3)
    for wrong in ("0,latency=both", "0,level=6", "0,level=2,level=2", "0,streams=2", "0,builds=-1"):
        with pytest.raises(UsageError, match="known: latency=gpu"):
            NvidiaTrt(wrong)


def test_gpus_are_found_by_number_and_by_uuid(monkeypatch):
    use_fakes(monkeypatch, VERSIONS[-1])
    for place in ("", "0", UUID, UUID[4:12], UUID.lower()):
        with NvidiaTrt(place) as device:
            assert dict(device.info().details)["uuid"] == UUID
    for place in ("1", "GPU-99"):
        with pytest.raises(UsageError, match="names 0 GPUs; there are: tensorrt:0"):
            NvidiaTrt(place).open()


def test_load_and_first_inference_are_told(monkeypatch, cache):
    use_fakes(monkeypatch, VERSIONS[-1])
    with NvidiaTrt("0,level=2") as device:
        prepared = device.prepare(convolutions((8,), 8), SETTINGS)
    assert 0 < prepared.load_s < 60
    assert 0 < prepared.first_run_s < 60
