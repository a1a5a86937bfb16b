"""The LiteRT driver keeps the contract with layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwbench.devices import open_device
from hwbench.devices.base import Device, ProfilesLayers
from hwbench.devices.contract import DeviceContract
from hwbench.devices.litert.device import Litert
from hwbench.devices.shared.inputs import inputs_as_bytes
from hwbench.devices.shared.litert import library
from hwbench.devices.shared.litert.library import litert_library
from hwbench.devices.shared.runner.build import LITERT_RUNNER, build_runner
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.devices.shared.runner.protocol import plan_line
from hwbench.errors import BuildError, DeviceUnavailableError, UsageError, WorkloadError
from hwbench.measuring.agreement import check_outputs
from hwbench.network.intake import load_workload
from hwbench.network.layers import layers_of
from hwbench.network.tflite import describe
from hwbench.network.tflite.writing import (
    NewOperator,
    NewTensor,
    write_convolutions,
    write_model,
)
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.needs import needs_compiler
from tests.support.models import conv_workload
from tests.support.tflite import depthwise_network, half_network, int8_network

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install ai-edge-litert")
pytestmark = needs_compiler


class TestLitert(DeviceContract):
    def make_device(self) -> Device:
        return open_device("litert")

    def make_workload(self) -> Workload:
        return write_convolutions("quick", (8, 8), side=16)

    def make_slow_workload(self) -> Workload | None:
        return write_convolutions("slow", (64, 64, 64), side=64)

    def test_it_has_layers(self) -> None:
        assert isinstance(self.make_device(), ProfilesLayers)


class TestBuiltinKernels(TestLitert):
    def make_device(self) -> Device:
        return open_device("litert:kernels=builtin")


def test_every_layer_has_a_row_and_kernels_are_named() -> None:
    with open_device("litert") as device:
        prepared = device.prepare(depthwise_network(), Settings())
        seen = device.profile_layers(prepared, 5)
    names = [row.name for row in seen.rows]
    assert names == [layer.name for layer in layers_of(depthwise_network())]
    kernels = {row.name: row.implementation for row in seen.rows}
    assert kernels["block/depthwise"].startswith("F32")
    assert [row.name for row in seen.rows if row.key is None] == []


@pytest.mark.parametrize("make", [half_network, int8_network])
def test_other_precisions_run_with_layers(make: Callable[[], Workload]) -> None:
    with open_device("litert") as device:
        prepared = device.prepare(make(), Settings())
        seen = device.profile_layers(prepared, 3)
    layers = layers_of(make())
    assert {row.name for row in seen.rows if row.key} == {layer.name for layer in layers}


def test_tensorflow_lites_own_kernels_can_be_asked_for() -> None:
    with open_device("litert:kernels=builtin") as device:
        assert device.info().runtime.endswith("without XNNPACK")
        prepared = device.prepare(depthwise_network(), Settings())
        rows = device.profile_layers(prepared, 3).rows
    assert {row.implementation for row in rows} == {"TFLite"}
    with pytest.raises(UsageError, match="one of delegate, builtin"):
        open_device("litert:kernels=fast")


def test_what_it_does_not_run_is_refused_with_what_to_do() -> None:
    with open_device("litert") as device:
        with pytest.raises(WorkloadError, match="runs tflite: convert"):
            device.prepare(conv_workload(), Settings())
        custom = write_model(
            [NewTensor("x", (1, 4)), NewTensor("y", (1, 4))],
            [NewOperator("CUSTOM", (0,), (1,))],
            (0,),
            (1,),
        )
        with pytest.raises(BuildError, match=r"odd\.tflite.*custom_code"):
            device.prepare(describe(custom, "odd.tflite"), Settings())
        assert device.usable
    with open_device("virtual") as device, pytest.raises(WorkloadError, match="device litert"):
        device.prepare(depthwise_network(), Settings())


def test_values_reach_the_inputs_they_are_for(tmp_path: Path) -> None:
    """Two inputs of different sizes: one that got the other's values would be too short."""
    tensors = [
        NewTensor("a", (1, 4)),
        NewTensor("b", (1, 2)),
        NewTensor("joined", (1, 6)),
    ]
    operator = NewOperator("CONCATENATION", (1, 0), (2,), (1, 0))
    path = tmp_path / "join.tflite"
    path.write_bytes(write_model(tensors, [operator], (0, 1), (2,)))
    values = {"a": np.arange(4, dtype=np.float32)[None], "b": np.ones((1, 2), np.float32)}
    workload = load_workload(path, values=values)
    with RunnerProcess.start([str(build_runner(name=LITERT_RUNNER))]) as runner:
        runner.library(litert_library())
        (tmp_path / "values").write_bytes(inputs_as_bytes(workload))
        runner.load("net", path, inputs=tmp_path / "values")
        runner.command(plan_line("dump", "net", tmp_path), "dumped")
    output = np.fromfile(tmp_path / "net.0.bin", np.float32)
    assert output.tolist() == [1, 1, 0, 1, 2, 3]


def test_it_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "DISTRIBUTION", "ai-edge-nothing")
    (found,) = Litert.discover()
    assert not found.ready
    assert "need ai-edge-nothing, which is not installed; try: " in found.hint
    with pytest.raises(DeviceUnavailableError, match="ai-edge-nothing"):
        Litert().open()


def test_outputs_of_two_versions_are_compared_and_a_damaged_one_is_told() -> None:
    same = check_outputs(depthwise_network(), depthwise_network(name="b.tflite"), 0, 5.0)
    assert same.outputs is not None
    assert same.outputs.correlation == pytest.approx(1.0)
    assert same.outputs.runtime.startswith("ai-edge-litert 2.3.0")
    broken = replace(depthwise_network(), artifact=b"\0" * 64)
    (finding,) = check_outputs(depthwise_network(), broken, 0, 5.0).findings
    assert "does not run in LiteRT" in finding.text
