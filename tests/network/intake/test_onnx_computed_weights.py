"""Weights that are normalised at every inference are computed once, as nothing changes them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import WorkloadError
from hwbench.network import graph
from hwbench.network.intake import load_workload
from hwbench.pruning.probing import run_graph
from tests.support.prunable_nets import NormFree, lively

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def net() -> NormFree:
    torch.manual_seed(0)
    return lively(NormFree())


def check(workload) -> None:
    model = graph.load(workload.onnx)
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["Conv"] == 4
    assert not operators["BatchNormalization"]
    with torch.no_grad():
        expected = net()(IMAGE).numpy()
    np.testing.assert_allclose(run_graph(model, (IMAGE,))[0], expected, rtol=1e-4, atol=1e-5)


def test_a_module_is_read():
    check(load_workload(net(), example_inputs=IMAGE))


@pytest.mark.filterwarnings("ignore")  # of torch, about an exporter that people still use
def test_a_file_is_read_and_not_taken_for_one_in_training(tmp_path):
    path = tmp_path / "net.onnx"
    torch.onnx.export(net(), (IMAGE,), path, dynamo=False, opset_version=17)
    workload = load_workload(path)
    assert not [finding for finding in workload.findings if "training" in finding.text]
    check(workload)


@pytest.mark.parametrize(
    "maker",
    [
        helper.make_node("Gelu", ["raw"], ["made"], domain="com.microsoft"),
        helper.make_node("RandomNormal", [], ["made"], shape=[1, 4, 3]),
    ],
)
def test_weights_that_cannot_be_computed_here_leave_a_network_in_training(maker, tmp_path):
    nodes = [
        maker,
        helper.make_node("BatchNormalization", ["made", *"sbmv"], ["n", "u", "w"], training_mode=1),
        helper.make_node("Reshape", ["n", "shape"], ["weight"]),
        helper.make_node("Conv", ["x", "weight"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.ones(4, np.float32), name) for name in "sbmv"]
    constants.append(numpy_helper.from_array(np.array([4, 3, 1, 1]), "shape"))
    constants.append(numpy_helper.from_array(np.ones((1, 4, 3), np.float32), "raw"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])]
    body = helper.make_graph(nodes, "net", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(body, opset_imports=opsets, ir_version=8), path)
    codes = {finding.code for finding in load_workload(path).findings}
    assert "exported_in_training" in codes


def test_a_network_in_training_is_still_refused():
    class Trained(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.batch_norm(x, None, None, training=True)

    with pytest.raises(WorkloadError, match="was exported in training mode"):
        load_workload(Trained(), example_inputs=IMAGE)
