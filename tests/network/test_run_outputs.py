"""Networks run for their outputs, in a process of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from hwbench.errors import WorkloadError
from hwbench.network.ort import onnxruntime
from hwbench.network.run_outputs import NetworkRunner
from hwbench.network.workload import TFLITE
from tests.support.models import conv_workload
from tests.support.tflite import depthwise_network

IMAGE = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)


def test_outputs_are_those_of_the_runtime_and_the_process_serves_several_networks(tmp_path):
    small, large = conv_workload((8,)), conv_workload((16, 8))
    with NetworkRunner(tmp_path) as runner:
        for workload in (small, large, small):
            (output,) = runner.run(workload, [IMAGE], 60)
            session = onnxruntime().InferenceSession(workload.onnx)
            assert output == pytest.approx(session.run(None, {"x": IMAGE})[0], abs=1e-5)


def test_outputs_without_a_type_of_numpy_come_as_floats_also_if_listed_twice(tmp_path):
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [2])
    graph = helper.make_graph([cast], "net", [x], [y, y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    workload = replace(conv_workload(), artifact=model.SerializeToString())
    values = np.array([1, -2], np.float32)
    with NetworkRunner(tmp_path) as runner:
        first, second = runner.run(workload, [values], 60)
    assert np.array_equal(first, values)
    assert np.array_equal(second, values)


@pytest.mark.parametrize("make", [conv_workload, depthwise_network])
def test_a_network_that_is_unloaded_leaves_no_file_and_loads_again(make, tmp_path):
    workload = make()
    if workload.format == TFLITE:
        pytest.importorskip("ai_edge_litert", reason="needs: pip install ai-edge-litert")
    inputs = [np.zeros(spec.shape, spec.dtype) for spec in workload.inputs]
    with NetworkRunner(tmp_path) as runner:
        (before,) = runner.run(workload, inputs, 60)
        runner.unload(workload)
        runner.unload(workload)
        assert not list(tmp_path.iterdir())
        (after,) = runner.run(workload, inputs, 60)
    assert np.array_equal(before, after)


def test_what_does_not_load_is_said_and_the_next_network_runs(tmp_path):
    broken = replace(conv_workload(name="broken"), artifact=b"no model")
    with NetworkRunner(tmp_path) as runner:
        with pytest.raises(WorkloadError, match="broken does not run in ONNX Runtime"):
            runner.run(broken, [IMAGE], 60)
        assert runner.run(conv_workload(), [IMAGE], 60)[0].shape == (1, 10)


def test_a_network_that_does_not_end_is_ended(tmp_path):
    late = pytest.raises(WorkloadError, match=r"net did not run within 0\.001 s")
    with NetworkRunner(tmp_path) as runner, late:
        runner.run(conv_workload(), [IMAGE], 0.001)
    assert runner._process.returncode is not None


def test_the_process_ends_with_the_block(tmp_path):
    with NetworkRunner(tmp_path) as runner:
        runner.run(conv_workload(), [IMAGE], 60)
    assert runner._process.returncode == 0
