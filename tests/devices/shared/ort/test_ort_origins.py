"""Nodes that ONNX Runtime really executes, joined to the layers that they work for."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.devices.base import LayerRow
from hwbench.devices.ort.python_engine import PythonEngine
from hwbench.devices.shared.ort.executed_graph import ExecutedNode, executed_nodes
from hwbench.devices.shared.ort.layers import join_profile, unknown_rows_finding
from hwbench.devices.shared.ort.origins import NodeOrigin, find_origins
from hwbench.devices.shared.ort.profile import ProfiledRuns, read_trace
from hwbench.network.graph import Layer, layers, load
from hwbench.network.graph.view import GraphView
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec


class Net:
    """An ONNX network in the making; every node is called after the module that it stands for."""

    def __init__(self, *shape: int, dtype: str = "float32") -> None:
        self.shape, self.dtype = shape, dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def weight(self, name: str, *shape: int) -> str:
        values = (self.random.standard_normal(shape) * 0.1).astype(self.dtype)
        return self.constant(name, values)

    def constant(self, name: str, value: object) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes: object) -> str:
        output = f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def linear(self, name: str, tensor: str, inner: int, outer: int) -> str:
        """A linear layer on tensors of any rank, as torch exports it."""
        product = self.node("MatMul", name, tensor, self.weight(f"{name}.w", inner, outer))
        return self.node("Add", f"{name}/Add", self.weight(f"{name}.bias", outer), product)

    def conv(self, name: str, tensor: str, inner: int, outer: int) -> str:
        weights = self.weight(f"{name}.weight", outer, inner, 3, 3), self.weight(f"{name}.b", outer)
        return self.node("Conv", name, tensor, *weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def gelu(self, name: str, tensor: str) -> str:
        """GELU as torch exports it."""
        numbers = {"root": 2**0.5, "one": 1.0, "half": 0.5}
        root, one, half = (
            self.constant(f"{name}.{label}", np.float32(value)) for label, value in numbers.items()
        )
        factor = self.node("Erf", f"{name}/Erf", self.node("Div", f"{name}/Div", tensor, root))
        factor = self.node("Add", f"{name}/Add", factor, one)
        return self.node(
            "Mul", f"{name}/Mul_1", self.node("Mul", f"{name}/Mul", tensor, factor), half
        )

    def finish(self, *outputs: str) -> bytes:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 18)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return bytes(model.SerializeToString())


def profile(
    model: bytes, spec: TensorSpec, folder: Path
) -> tuple[tuple[NodeOrigin, ...], tuple[Layer, ...], ProfiledRuns]:
    """Run a model three times in ONNX Runtime, and join its nodes."""
    workload = Workload("net", model, (spec,), 1, "fp32", 0, 0, len(model))
    with closing(PythonEngine([0], 0, folder)) as engine:
        graph = engine.load("net", workload, profile=True, graph=True)
        engine.run(["net"] * 3, 1)
        trace = engine.unload("net")
    assert graph is not None
    assert trace is not None
    view = GraphView(load(model))
    parts = layers(view)
    return find_origins(executed_nodes(graph), view, parts), parts, read_trace(trace, 3)


@pytest.fixture
def rows_of(tmp_path):
    """Rows of a network, by name; nothing of it may stay unknown."""

    def rows(net: Net, *outputs: str) -> dict[str, LayerRow]:
        origins, parts, runs = profile(
            net.finish(*outputs), TensorSpec("x", net.shape, net.dtype), tmp_path
        )
        assert unknown_rows_finding(origins, runs) == ()
        joined = join_profile(origins, parts, runs, 16)
        total = [sum(times) for times in zip(*runs.nodes_s.values(), strict=True)]
        assert [sum(times) for times in zip(*(row.samples_s for row in joined), strict=True)] == (
            pytest.approx(total)
        ), "no time is lost or counted twice"
        return {row.name: row for row in joined}

    return rows


def test_a_linear_layer_of_rank_three_has_its_reshapes_and_its_product(rows_of):
    net = Net(1, 50, 64)
    hidden = net.linear("0", "x", 64, 256)
    scale, shift = net.weight("1.weight", 256), net.weight("1.bias", 256)
    normal = net.node("LayerNormalization", "1/Norm", hidden, scale, shift)
    rows = rows_of(net, net.linear("2", normal, 256, 64))
    assert list(rows) == ["0", "1/Norm", "2"]
    for name in ("0", "2"):
        assert (rows[name].nodes, rows[name].implementation) == (3, "Gemm")
        assert rows[name].key is not None
    assert rows["1/Norm"].nodes == 1


def test_linear_layers_that_share_a_reshape_keep_their_products(rows_of):
    net = Net(1, 50, 64)
    query, key = net.linear("q", "x", 64, 32), net.linear("k", "x", 64, 32)
    rows = rows_of(net, net.node("Mul", "both", query, key))
    assert {name: row.implementation for name, row in rows.items() if row.key is not None} == {
        "q": "Gemm",
        "k": "Gemm",
        "both": "Mul",
    }


@pytest.mark.parametrize("block", ["conv", "linear"])
def test_an_activation_that_runs_by_itself_belongs_to_the_layer_before_it(rows_of, block):
    """SiLU becomes QuickGelu, in the blocked layout a node without any name of the network."""
    if block == "conv":
        net = Net(1, 16, 16, 16)
        before = net.conv("0", "x", 16, 16)
    else:
        net = Net(1, 10, 16)
        before = net.linear("0", "x", 16, 16)
    gate = net.node("Sigmoid", "1/Sigmoid", before)
    product = net.node("Mul", "1/Mul", before, gate)
    after = net.conv("2", product, 16, 16) if block == "conv" else net.linear("2", product, 16, 16)
    rows = rows_of(net, after)
    assert [name for name, row in rows.items() if row.key is not None] == ["0", "2"]
    assert dict(rows["0"].key.attrs)["act"] == "Silu"
    assert rows["0"].nodes == (2 if block == "conv" else 4)


def test_functions_that_the_runtime_inlines_belong_to_their_layer(rows_of):
    """Their nodes have no names; every one is told apart all the same."""
    net = Net(4, 16)
    tensor = "x"
    for name in ("a", "b"):
        weights = net.weight(f"{name}.weight", 16, 16), net.weight(f"{name}.bias", 16)
        tensor = net.node("Gemm", name, tensor, *weights)
        tensor = net.node("HardSwish", f"{name}/HardSwish", tensor)
    rows = rows_of(net, tensor)
    assert list(rows) == ["a", "b"]
    assert [row.nodes for row in rows.values()] == [3, 3]


def test_layers_in_half_precision_that_run_in_single_are_found(rows_of):
    """The runtime has no half-precision kernels for them: it renames tensors and adds casts."""
    net = Net(1, 16, 16, 16, dtype="float16")
    tensor = "x"
    for name in ("0", "1"):
        tensor = net.node("Relu", f"{name}/Relu", net.conv(name, tensor, 16, 16))
    rows = rows_of(net, tensor)
    assert [name for name, row in rows.items() if row.key is not None] == ["0", "1"]
    assert {row.op for row in rows.values() if row.key is None} <= {
        "Cast",
        "ReorderInput",
        "ReorderOutput",
    }


def test_a_batch_normalization_that_runs_as_a_convolution_keeps_its_row(rows_of):
    """As in DenseNet, where it follows a concatenation."""
    net = Net(1, 16, 16, 16)
    first = net.conv("first", "x", 16, 16)
    both = net.node("Concat", "cat", first, net.conv("second", first, 16, 16), axis=1)
    parts = [net.constant(f"norm.{i}", np.full(32, 0.5, np.float32)) for i in range(4)]
    normal = net.node("BatchNormalization", "norm", both, *parts)
    rows = rows_of(net, net.conv("third", net.node("Relu", "relu", normal), 32, 16))
    assert str(rows["norm"].key).startswith("BatchNormalization[1x32x16x16->1x32x16x16]{act=Relu}")
    assert rows["third"].key.inputs == ((1, 32, 16, 16),)


def test_a_gelu_of_five_nodes_is_one_row(rows_of):
    net = Net(1, 10, 16)
    rows = rows_of(net, net.linear("2", net.gelu("1", net.linear("0", "x", 16, 16)), 16, 16))
    assert list(rows) == ["0", "1/Erf", "2"]
    assert (rows["1/Erf"].op, rows["1/Erf"].implementation) == ("Gelu", "Gelu")


def test_normalizations_that_share_equal_constants_are_not_mixed_up(rows_of):
    """The runtime keeps one of several equal constants."""
    net = Net(1, 8, 6, 6)
    tensor = "x"
    for name in ("0", "1", "2"):
        ones = net.constant(f"{name}.weight", np.ones(8, np.float32))
        zeros = net.constant(f"{name}.bias", np.zeros(8, np.float32))
        tensor = net.node("InstanceNormalization", name, tensor, ones, zeros)
        tensor = net.node("Exp", f"{name}/Exp", tensor)
    rows = rows_of(net, tensor)
    assert list(rows) == ["0", "0/Exp", "1", "1/Exp", "2", "2/Exp"]


def test_a_product_of_activations_keeps_its_row_when_scale_and_transpose_join_it(rows_of):
    net = Net(1, 10, 32)
    query, key = net.linear("q", "x", 32, 32), net.linear("k", "x", 32, 32)
    scaled = net.node("Mul", "attn/Mul", query, net.constant("scale", np.float32(0.25)))
    turned = net.node("Transpose", "attn/Transpose", key, perm=[0, 2, 1])
    scores = net.node("MatMul", "attn/MatMul", scaled, turned)
    rows = rows_of(net, net.node("Softmax", "attn/Softmax", scores))
    assert rows["attn/MatMul"].op == "MatMul"
    assert rows["attn/MatMul"].implementation == "FusedMatMul"
    assert {"q", "k", "attn/MatMul", "attn/Softmax"} <= set(rows)


def test_a_convolution_that_took_a_scale_in_is_that_convolution(rows_of):
    """It writes the scaled tensor, so its name leads to the scale; GELU must not get its time."""
    net = Net(1, 16, 16, 16)
    before = net.gelu("act", net.conv("fc1", "x", 16, 16))
    after = net.conv("fc2", before, 16, 16)
    scaled = net.node("Mul", "scale", after, net.weight("gamma", 1, 16, 1, 1))
    rows = rows_of(net, net.node("Exp", "last", scaled))
    joined = {name: row.nodes for name, row in rows.items() if row.key is not None}
    assert joined == {"fc1": 1, "act/Erf": 1, "fc2": 1, "last": 1}


def test_an_addition_fused_into_a_normalization_as_convolution_is_no_part_of_the_next(rows_of):
    """As in RepVGG: a branch of normalization alone takes the sum of the others in."""
    net = Net(1, 16, 16, 16)
    start = net.node("Relu", "act0", net.conv("conv0", "x", 16, 16))
    parts = [net.constant(f"norm.{i}", np.full(16, 0.5, np.float32)) for i in range(4)]
    branches = [net.conv("a", start, 16, 16), net.conv("b", start, 16, 16)]
    total = net.node("Add", "add", *branches)
    normal = net.node("BatchNormalization", "norm", start, *parts)
    output = net.node("Relu", "act", net.node("Add", "last", normal, total))
    rows = rows_of(net, net.conv("next", output, 16, 16))
    keyed = {name: row.op for name, row in rows.items() if row.key is not None}
    assert keyed == {
        "conv0": "Conv",
        "a": "Conv",
        "b": "Conv",
        "norm": "BatchNormalization",
        "next": "Conv",
    }


def test_an_activation_behind_an_addition_of_nothing_is_of_the_convolution_that_sums(tmp_path):
    """As in MobileOne, whose sums begin with the number 0."""
    net = Net(1, 16, 16, 16)
    branches = [net.conv("a", "x", 16, 16), net.conv("b", "x", 16, 16)]
    total = net.node("Add", "add", *branches)
    nothing = net.node("Add", "nothing", total, net.constant("zero", np.float32(0)))
    output = net.conv("next", net.node("Relu", "act", nothing), 16, 16)
    origins, _, _ = profile(net.finish(output), TensorSpec("x", net.shape), tmp_path)
    convolutions = [origin.serves for origin in origins if origin.node.op == "Conv"]
    assert len(convolutions) == 3
    (summing,) = (serves for serves in convolutions if "act" in serves)
    assert {"a", "b"} & set(summing)


def test_transposes_that_the_runtime_moved_are_one_row(rows_of):
    """One in front of a split becomes one behind each of its outputs."""
    net = Net(1, 10, 3, 8)
    turned = net.node("Transpose", "turn", "x", perm=[2, 0, 1, 3])
    net.nodes.append(
        helper.make_node("Split", [turned], ["s0", "s1", "s2"], name="split", num_outputs=3, axis=0)
    )
    outputs = [net.node(op, op, f"s{i}") for i, op in enumerate(("Exp", "Tanh", "Neg"))]
    rows = rows_of(net, *outputs)
    assert sorted(rows) == ["Exp", "Neg", "Tanh", "split", "turn"]


def test_layers_that_the_runtime_computes_once_or_not_at_all_rename_no_other(rows_of):
    net = Net(1, 8, 6, 6)
    window = {"kernel_shape": [2, 2], "strides": [2, 2]}
    first, second = (net.node("MaxPool", name, "x", **window) for name in ("pool", "again"))
    half = net.node("Mul", "half", first, net.constant("h", np.float32(0.5)))
    both = net.node("Concat", "cat", half, second, axis=1)
    same = net.node("Mul", "times one", both, net.constant("one", np.float32(1)))
    rows = rows_of(net, net.node("Add", "shift", same, net.constant("two", np.float32(2))))
    keyed = {name: row.op for name, row in rows.items() if row.key is not None}
    assert keyed["cat"] == "Concat"
    assert keyed["shift"] == "Add"
    (pool,) = {"pool", "again"} & keyed.keys()
    assert keyed[pool] == "MaxPool"


def test_the_bodies_of_a_branch_are_in_the_time_of_the_branch(rows_of):
    """Which of them runs depends on the input, and each has nodes of its own in the profile."""
    net = Net(1, 16)
    total = net.node("ReduceSum", "sum", "x", keepdims=0)
    condition = net.node("Greater", "greater", total, net.constant("zero", np.float32(0)))
    branches = {}
    for name, op in (("then_branch", "Exp"), ("else_branch", "Tanh")):
        inner = [
            helper.make_node(op, ["x"], [f"{name}_0"], name=f"{name}/0"),
            helper.make_node("Neg", [f"{name}_0"], [f"{name}_1"], name=f"{name}/1"),
        ]
        output = helper.make_tensor_value_info(f"{name}_1", TensorProto.FLOAT, [1, 16])
        branches[name] = helper.make_graph(inner, name, [], [output])
    chosen = net.node("If", "choice", condition, **branches)
    rows = rows_of(net, net.node("Sqrt", "root", chosen))
    assert [name for name in rows if name in {"choice", "root"}] == ["choice", "root"]


def test_what_cannot_be_joined_is_counted_and_the_rest_is_kept():
    net = Net(1, 16)
    first, second = net.node("Exp", "a", "x"), net.node("Tanh", "b", "x")
    view = GraphView(load(net.finish(first, second)))
    executed = [
        ExecutedNode("a", "Exp", "", ("x",), ("a_out",)),
        ExecutedNode("odd", "Novelty", "", ("x",), ("odd_out",)),
        ExecutedNode("b", "Tanh", "", ("odd_out",), ("b_out",)),
        ExecutedNode("c", "Oddity", "", ("x",), ("elsewhere",)),
    ]
    parts = layers(view)
    origins = find_origins(executed, view, parts)
    nodes_s = {node.name: (3e-6, 3e-6) for node in executed} | {"stranger": (3e-6, 3e-6)}
    runs = ProfiledRuns((1e-5, 1e-5), nodes_s)
    rows = {row.name: row for row in join_profile(origins, parts, runs, 16)}
    assert rows["a"].samples_s == (3e-6, 3e-6)
    assert rows["b"].samples_s == (6e-6, 6e-6), "a node that only this layer reads works for it"
    assert [row.key for name, row in rows.items() if name not in {"a", "b"}] == [None, None]
    (finding,) = unknown_rows_finding(origins, runs)
    assert finding.code == "layers_unknown"
    assert "2 of 5 nodes" in finding.text
    assert "40.0% of the time" in finding.text
