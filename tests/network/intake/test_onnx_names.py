"""Nodes are found by the names that their file has for them."""

from __future__ import annotations

import numpy as np
import onnx

from hwbench.lab.tasks import describe_workload
from hwbench.network.graph import layers, load
from hwbench.network.intake import load_workload
from tests.support.onnx_nets import Net


def saved(tmp_path, rename) -> tuple[onnx.ModelProto, dict[str, str]]:
    net = Net(1, 3, 8, 8)
    out = net.conv("x", "stem", 8, act="Relu")
    model = net.model(net.head(out))
    for place, node in enumerate(model.graph.node):
        node.name = rename(place, node)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    workload = load_workload(path)
    return load(workload.onnx), dict(workload.node_names)


def test_folded_and_renamed_nodes_are_found(tmp_path):
    model, names = saved(tmp_path, lambda place, node: f"{node.op_type}_{place}")
    assert names["Conv_0"] == names["BatchNormalization_1"] == "stem.conv"
    assert {names[f"{op}_{place}"] for op, place in (("Relu", 2), ("Gemm", 5))} <= {
        node.name for node in model.graph.node
    }
    assert names["stem.bn.mean"] == "", "a constant that was folded"


def test_nodes_without_a_name_are_called_as_runtimes_call_them(tmp_path):
    model, names = saved(tmp_path, lambda place, node: "")
    stem = layers(model)[0].name
    assert names["Conv_0"] == names["node_of_t0"] == stem


def test_what_was_folded_into_several_nodes_is_known_and_gone(tmp_path):
    value = onnx.numpy_helper.from_array(np.float32([0.5]))
    nodes = [
        onnx.helper.make_node("Constant", [], ["half"], name="shared", value=value),
        onnx.helper.make_node("Add", ["x", "half"], ["more"], name="add"),
        onnx.helper.make_node("Mul", ["more", "half"], ["y"], name="mul"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"
    ]
    graph = onnx.helper.make_graph(nodes, "net", ends[:1], ends[1:])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset]), tmp_path / "net.onnx")
    assert load_workload(tmp_path / "net.onnx").node_names["shared"] == ""


def test_exports_of_hwbench_have_no_file():
    workload = load_workload("zoo:resnet20")
    assert not workload.node_names
    assert "node_names" not in describe_workload(workload), "names of jobs stay what they were"
