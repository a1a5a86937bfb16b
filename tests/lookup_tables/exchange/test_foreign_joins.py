"""Logs and profiles of today's tools, joined to the layers of the networks they were made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwbench.devices.android import tflite_log
from hwbench.devices.android.tflite_log import Operator, TfliteLog
from hwbench.devices.nvidia.trtexec import LayerTime, TrtProfile
from hwbench.devices.shared.ort.profile import read_profile
from hwbench.errors import UsageError
from hwbench.lookup_tables.exchange import foreign_files
from hwbench.lookup_tables.exchange.foreign_reader import read_network
from hwbench.lookup_tables.exchange.foreign_table import table_of
from hwbench.lookup_tables.exchange.join_by_order import join_tflite
from hwbench.network.graph import layers, load
from hwbench.network.intake import load_workload
from hwbench.network.ort import onnxruntime
from hwbench.network.workload import Workload
from hwbench.records.untrusted import load_json
from tests.support.onnx_nets import Net
from tests.support.paths import DATA

pytestmark = pytest.mark.slow


def read(record: foreign_files.Record, workload: Workload):
    network, findings = read_network([("file", record)], workload, target="", threads=1)
    return network, {finding.code: finding.text for finding in findings}


def test_operators_of_xnnpack_go_to_the_layers_of_the_network():
    workload = load_workload("zoo:mobilenet_v2")
    log = foreign_files.read(DATA / "litert_2026.txt")
    network, codes = read(log, workload)
    assert "unclosed" not in codes
    assert network.layers == len(layers(load(workload.onnx)))
    assert network.whole_s == pytest.approx(341.239e-3 / 30)
    residual = [entry for entry in network.entries if entry.key.attr("add")]
    assert sum(entry.calls for entry in residual) == 10
    total_s = sum(sum(entry.samples_s) for entry in network.entries)
    assert total_s == pytest.approx(network.whole_s, rel=1e-3), "no row was left out"


def rows(*kinds: str) -> TfliteLog:
    """A log whose row i takes 2^i us."""
    operators = [Operator(kind, "", 2**i * 1e-6, 1) for i, kind in enumerate(kinds)]
    return TfliteLog("log", (), None, None, None, tuple(operators))


def residual_net() -> onnx.ModelProto:
    net = Net(1, 3, 8, 8)
    stem = net.conv("x", "stem", 8, stride=2, act="Relu")
    out = net.conv(net.conv(stem, "one", 8, act="HardSwish"), "two", 8)
    short = net.conv(stem, "short", 8, 1)
    return net.model(net.head(net.node("Relu", net.node("Add", out, short))))


def test_padding_additions_and_activations_belong_to_the_layer_that_has_them():
    found = {layer.name: layer.key for layer in layers(residual_net())}
    keys = [found[f"{name}.conv"] for name in ("stem", "one", "two", "short")]
    keys += [key for name, key in found.items() if not name.endswith(".conv")]
    kinds = ["TRANSPOSE", "PAD", "CONV_2D", "CONV_2D", "HARD_SWISH", "CONV_2D", "CONV_2D", "ADD"]
    log = rows(*kinds, "MEAN", "FULLY_CONNECTED")
    times_s = {entry.key: entry.samples_s for entry in join_tflite([log], keys)}
    assert times_s[found["stem.conv"]] == pytest.approx((6e-6,))
    assert times_s[found["one.conv"]] == pytest.approx((24e-6,))
    assert times_s[found["two.conv"]] == pytest.approx((160e-6,)), "with the addition"
    assert times_s[found["short.conv"]] == pytest.approx((64e-6,))
    assert [times for key, times in times_s.items() if key.op == "Reshape"] == [(0.0,)]
    for wrong in (
        [*kinds[:-1], "MEAN", "FULLY_CONNECTED"],  # no addition
        [*kinds, "PAD", "MEAN", "FULLY_CONNECTED"],  # padding before what has none
        [*kinds, "ADD", "MEAN", "FULLY_CONNECTED"],
        [*kinds, "MEAN"],
    ):
        with pytest.raises(UsageError, match="model that was logged"):
            join_tflite([rows(*wrong)], keys)


def as_old_exporters_name(workload: Workload, path: Path) -> Workload:
    """The same network in a file whose nodes are called `Conv_0`, `Relu_1`, .."""
    model = onnx.load_from_string(workload.onnx)
    for place, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{place}"
    onnx.save(model, path)
    return load_workload(path)


def test_a_published_profile_of_resnet_joins_under_the_names_of_its_file(tmp_path):
    workload = as_old_exporters_name(load_workload("zoo:resnet18", batch=32), tmp_path / "net.onnx")
    network, codes = read(foreign_files.read(DATA / "trt_resnet18.json"), workload)
    assert network.layers == 24
    reformat_s = 0.045056e-3
    measured_s = sum(sum(entry.samples_s) for entry in network.entries)
    profile = foreign_files.read(DATA / "trt_resnet18.json")
    assert isinstance(profile, TrtProfile)
    listed_s = sum(layer.mean_s for layer in profile.layers if layer.mean_s is not None)
    assert measured_s == pytest.approx(listed_s - reformat_s)
    assert "3 rows" in codes["fused_elsewhere"], "the additions behind three shortcuts"
    assert "Conv_16 + Add_17 + Relu_18" in codes["fused_elsewhere"]


def profile_of(*names: str) -> TrtProfile:
    times = tuple(LayerTime(name, (place + 1) * 1e-3, None) for place, name in enumerate(names))
    return TrtProfile("p.json", 1, times)


def test_a_row_of_several_layers_is_left_out_and_counted(tmp_path):
    net = Net(1, 3, 8, 8)
    out = net.conv(net.conv("x", "stem", 8, act="Relu"), "body", 8, act="Relu")
    onnx.save(net.model(net.head(out)), tmp_path / "net.onnx")
    workload = load_workload(tmp_path / "net.onnx")
    profile = profile_of(
        "{ForeignNode[stem.conv...body.act/Relu]}", "pool", "fc", "reshape_after_fc"
    )
    network, codes = read(profile, workload)
    assert "2 layers have no entry" in codes["grouped_rows"]
    assert network.groups_s == pytest.approx(1e-3)
    assert [entry.key.op for entry in network.entries if entry.median_s] == [
        "GlobalAveragePool",
        "Linear",
    ]
    whole = replace(network, whole_s=network.rows_s + 5 * 1e-4)
    assert table_of([whole], "t").calibration.per_layer_s == pytest.approx(1e-4)


@pytest.mark.parametrize("named", [True, False], ids=["named nodes", "nodes without names"])
def test_a_profile_of_onnx_runtime_joins_the_file_it_was_made_of(named, tmp_path):
    """Fusions, split products and nodes that the runtime invents among them."""
    net = Net(1, 16, 32)
    mixed = net.node("MatMul", "x", net.random("q.weight", 32, 32))
    mixed = net.node("Add", mixed, net.random("q.bias", 32))
    mixed = net.node("Gelu", mixed)
    scale, shift = net.random("n.weight", 32), net.random("n.bias", 32)
    normal = net.node("LayerNormalization", net.node("Add", mixed, "x"), scale, shift)
    out = net.node("MatMul", normal, net.random("o.weight", 32, 32))
    model = net.model(out)
    for place, node in enumerate(model.graph.node):
        node.name = f"node{place}" if named else ""
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    events = load_json(profile_with_onnx_runtime(path, tmp_path))
    for event in events:
        event["dur"] = 5 if event["cat"] == "Node" else event["dur"]
    network, codes = read(read_profile(events), load_workload(path))
    assert "grouped_rows" not in codes
    calls = {entry.key.op: entry.calls for entry in network.entries if any(entry.samples_s)}
    assert (calls["Linear"], calls["LayerNormalization"]) == (2, 1)


def profile_with_onnx_runtime(path: Path, folder: Path) -> str:
    options = onnxruntime().SessionOptions()
    options.enable_profiling = True
    options.intra_op_num_threads = 1
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime().InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0]
    for _ in range(3):
        session.run(None, {feed.name: np.ones(feed.shape, np.float32)})
    return Path(session.end_profiling()).read_text()


def test_csv_of_another_model_is_refused():
    log = tflite_log.parse((DATA / "tflite_xnnpack_2026.csv").read_text(), "log")
    with pytest.raises(UsageError, match="does not fit"):
        read(log, load_workload("zoo:resnet20"))


def test_launch_times_are_no_latencies():
    """ONNX Runtime's profiler does not wait for a GPU."""
    events = load_json((DATA / "ort_profile.json").read_text().replace("CPUExec", "CUDAExec"))
    with pytest.raises(UsageError, match="launch its kernels"):
        read(read_profile(events), load_workload("zoo:resnet20"))


def test_a_profile_with_a_branch_says_what_its_time_holds(tmp_path):
    net = Net(1, 3, 8, 8)
    out = net.conv("x", "stem", 8)
    total = net.node("ReduceSum", out, keepdims=0)
    condition = net.node("Greater", total, net.constant("zero", np.float32(0)))
    branches = {}
    for name, op in (("then_branch", "Exp"), ("else_branch", "Tanh")):
        inner = [
            onnx.helper.make_node(op, [out], [f"{name}_0"], name=f"{name}/0"),
            onnx.helper.make_node("Neg", [f"{name}_0"], [f"{name}_1"], name=f"{name}/1"),
        ]
        shape = [onnx.helper.make_tensor_value_info(f"{name}_1", onnx.TensorProto.FLOAT, None)]
        branches[name] = onnx.helper.make_graph(inner, name, [], shape)
    model = net.model(net.node("If", condition, **branches))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    events = load_json(profile_with_onnx_runtime(path, tmp_path))
    _, codes = read(read_profile(events), load_workload(path))
    assert "2 nodes" in codes["profiled_bodies"]
