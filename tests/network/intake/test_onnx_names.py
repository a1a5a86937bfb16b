"""Nodes are found by the names that their file has for them."""

from __future__ import annotations

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


def test_exports_of_hwbench_have_no_file():
    workload = load_workload("zoo:resnet20")
    assert not workload.node_names
    assert "node_names" not in describe_workload(workload), "names of jobs stay what they were"
