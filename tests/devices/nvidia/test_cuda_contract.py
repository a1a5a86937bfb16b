"""The torch driver keeps the driver contract, on a torch.cuda that computes on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hwbench.devices.base import Device
from hwbench.devices.contract import DeviceContract
from hwbench.devices.nvidia import cuda as cuda_driver
from hwbench.devices.nvidia import torch_session
from hwbench.devices.nvidia.cuda import Cuda
from hwbench.errors import (
    BuildError,
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
    UnsupportedLayerError,
    UsageError,
)
from hwbench.measuring.sessions import measure
from hwbench.network.ort import onnxruntime
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.devices.nvidia import fake_torch
from tests.support.models import conv_workload


@pytest.fixture(autouse=True)
def cuda(monkeypatch):
    return fake_torch.install(monkeypatch)


class OfCuda(DeviceContract):
    address = ""

    def make_device(self) -> Device:
        return Cuda(self.address)

    def make_workload(self) -> Workload:
        return conv_workload((16, 16), size=16)

    def make_slow_workload(self) -> Workload | None:
        return conv_workload((64, 64, 64), size=64, name="slow")


class TestCuda(OfCuda):
    pass


class TestRequests(OfCuda):
    address = "0,latency=request"


@pytest.fixture
def device():
    with Cuda() as device:
        yield device


def test_a_replay_computes_the_network(device, cuda):
    workload = conv_workload((16, 24), size=16)
    session = device.prepare(workload, Settings()).handle
    with fake_torch.stream(device._torch_gpu.stream):
        session.outputs[0].zero_()
        session.graph.replay()
    image = session.inputs[0].contiguous().numpy()
    runtime = onnxruntime().InferenceSession(workload.onnx, providers=["CPUExecutionProvider"])
    expected = runtime.run(None, {"x": image})[0]
    np.testing.assert_allclose(session.outputs[0].numpy(), expected, atol=1e-5)


def test_images_and_weights_lie_in_channels_last_order(device):
    session = device.prepare(conv_workload(), Settings()).handle
    last = torch.channels_last
    assert session.inputs[0].is_contiguous(memory_format=last)
    assert all(
        buffer.is_contiguous(memory_format=last)
        for buffer in session.module.buffers()
        if buffer.dim() == 4
    )


def test_seeds_make_inputs(device):
    first, again, other = (
        device.prepare(conv_workload(), Settings(seed=seed)).handle.inputs[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_more_round_than_asked_for_runs_ahead(device, cuda):
    prepared = device.prepare(conv_workload(), Settings())
    before = cuda.replays
    device.run([prepared] * 5, loops=3)
    assert cuda.replays - before == 5 * 3 + 1
    device.run([])
    assert cuda.replays - before == 5 * 3 + 1


def test_release_and_close_free_every_graph(device, cuda):
    first, _ = (device.prepare(conv_workload(), Settings()) for _ in range(2))
    device.profile_layers(first, 3)
    assert cuda.graphs == 2, "layers and calibration leave nothing"
    device.release(first)
    with pytest.raises(UsageError, match="released"):
        device.run([first])
    device.close()
    assert cuda.graphs == 0


def test_layers_are_named_and_fill_the_whole(device):
    seen = device.profile_layers(
        device.prepare(conv_workload((32, 16, 32), size=32), Settings()), 4
    )
    assert [row.name for row in seen.rows] == [
        "features.0.conv", "features.1.conv", "features.2.conv", "pool", "flatten", "fc",
    ]  # fmt: skip
    assert {row.implementation for row in seen.rows[:3]} == {"channels_last"}
    np.testing.assert_allclose(np.sum([row.samples_s for row in seen.rows], axis=0), seen.whole_s)
    assert len(seen.reference_s) == 4


def test_layers_are_part_of_a_measurement(device):
    settings = Settings(budget_s=30, min_sessions=2, max_sessions=2, session_s=0.05)
    record = measure(device, conv_workload(), settings)
    assert {layer.op for layer in record.profile.layers} >= {"Conv", "Linear", "GlobalAveragePool"}
    assert record.profile.rest_cause


def test_lost_gpu_breaks_the_device(device, cuda):
    prepared = device.prepare(conv_workload(), Settings())
    cuda.fails_at = cuda.replays + 4
    with pytest.raises(
        DeviceLostError, match=r"illegal memory access was encountered; see nvidia-smi"
    ) as lost:
        device.run([prepared] * 5)
    assert len(str(lost.value).splitlines()) == 1
    assert not device.usable


def test_hanging_gpu_is_left_in_bounded_time(device, cuda, monkeypatch):
    monkeypatch.setattr(torch_session, "PATIENCE_S", 0.2)
    prepared = device.prepare(conv_workload(), Settings())
    cuda.hangs = True
    with pytest.raises(DeviceTimeoutError, match=r"0\.2 s"):
        device.run([prepared] * 5)
    cuda.hangs = False
    device.close()


def test_model_that_does_not_fit_harms_nothing(device, cuda):
    cuda.memory_for_captures = 0
    with pytest.raises(BuildError, match=r"does not fit.*smaller batch") as refused:
        device.prepare(conv_workload(), Settings())
    assert len(str(refused.value).splitlines()) == 1
    cuda.memory_for_captures = None
    assert len(device.run([device.prepare(conv_workload(), Settings())]).values_s) == 1


def test_unknown_operator_is_named(device):
    import onnx

    model = onnx.load_from_string(conv_workload().onnx)
    model.graph.node[1].op_type = "Selu"
    workload = conv_workload()
    strange = Workload("strange", model.SerializeToString(), workload.inputs, 1, "fp32", 0, 0, 0)
    with pytest.raises(UnsupportedLayerError, match=r"features\.0\.relu.*Selu"):
        device.prepare(strange, Settings())
    assert device.usable


def test_isolation_and_int8_are_refused(device):
    with pytest.raises(UsageError, match="isolate"):
        device.prepare(conv_workload(), Settings(isolate=True))
    assert Cuda.precisions == {"fp32", "fp16", "bf16"}


def test_compiled_networks_are_traced_whole_and_have_no_layers(monkeypatch, cuda):
    compiler = torch.compile

    def compile_but_record_eager(
        module, **options
    ):  # the recorder of captures cannot look into compiled code
        compiled = compiler(module, **options)
        return lambda *inputs: module(*inputs) if cuda.capturing else compiled(*inputs)

    monkeypatch.setattr(torch, "compile", compile_but_record_eager)
    monkeypatch.setattr(
        torch_session, "BACKEND", "aot_eager"
    )  # the tracing is real, the kernels are torch's own
    monkeypatch.setattr(cuda_driver, "_compile_trouble", lambda _: "")
    with Cuda("mode=compile") as device:
        assert " compile, " in device.info().runtime
        monkeypatch.setattr(
            torch.cuda, "is_available", lambda: False
        )  # torch.compile would ask it for random states
        prepared = device.prepare(conv_workload(), Settings())
        assert len(device.run([prepared] * 2).values_s) == 2
        with pytest.raises(OutputParseError, match="mode=eager"):
            device.profile_layers(prepared, 3)
        assert device.usable
    torch.compiler.reset()


@pytest.mark.parametrize("text", ["0,mode=fast", "0,modus=eager", "mode=eager,mode=eager", "0,1"])
def test_unknown_options_are_refused(text):
    with pytest.raises(UsageError, match=r"mode=eager\|compile; latency=gpu\|request"):
        Cuda(text)


def test_gpus_are_chosen_by_number_and_uuid():
    for text in ("", "0", fake_torch.GPU.uuid, "GPU-0001", "0,mode=eager"):
        with Cuda(text) as device:
            assert dict(device.info().details)["uuid"] == fake_torch.GPU.uuid
    with pytest.raises(UsageError, match="cuda:0 is Fake H200"):
        Cuda("1").open()


def test_one_process_at_a_time(device):
    with pytest.raises(DeviceUnavailableError, match="in use"):
        Cuda("0").open()


def test_load_first_inference_and_memory_are_told(device):
    record = measure(device, conv_workload((16, 16)), Settings(budget_s=1.0, layers=False))
    for start in record.starts:
        assert start.load_s > 0
        assert start.first_run_s > 0
        assert start.peak_memory_bytes == 1_000_000  # what others hold is not counted
