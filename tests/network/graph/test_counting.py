"""Multiply-accumulates, parameters and precision, each against a count by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwbench.network.graph import count, find_precision, name_nodes
from hwbench.network.graph.counting import count_einsum

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
ORT = "com.microsoft"


def value(name, *shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name, *shape, kind=np.float32):
    return numpy_helper.from_array(np.ones(shape, kind), name)


def number(name, content, kind):
    return numpy_helper.from_array(np.array(content, kind), name)


def model(nodes, inputs, outputs, weights=(), inner=()):
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights, value_info=inner)
    domains = {"": 21, ORT: 1, "my.own": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    found = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return name_nodes(onnx.shape_inference.infer_shapes(found, data_prop=True))


def one(op, inputs, output, weights=(), domain="", **attributes):
    """A model of one node; its inputs and output are given as (name, shape, type)."""
    names = [*(entry[0] for entry in inputs), *(tensor.name for tensor in weights)]
    if "order" in attributes:
        names = attributes.pop("order")
    node = helper.make_node(op, names, ["y"], name="node", domain=domain, **attributes)
    values = [value(name, *shape, kind=kind) for name, shape, kind in inputs]
    return model([node], values, [value("y", *output)], weights)


X = ("x", (2, 3, 10), FLOAT)


@pytest.mark.parametrize(
    ("built", "macs", "params"),
    [
        (one("MatMul", [X, ("z", (2, 10, 4), FLOAT)], (2, 3, 4)), 2 * 3 * 10 * 4, 0),
        (
            one("Gemm", [("a", (7, 3), FLOAT), ("b", (5, 7), FLOAT)], (3, 5), transA=1, transB=1),
            3 * 5 * 7,
            0,
        ),
        (
            one("Conv", [("x", (1, 4, 8, 8), FLOAT), ("w", (6, 2, 3, 3), FLOAT)], (1, 6, 6, 6),
                group=2),
            6 * 36 * 2 * 9,
            0,
        ),
        (
            one("ConvTranspose", [("x", (1, 4, 8, 8), FLOAT)], (1, 5, 10, 10),
                [weight("w", 4, 5, 3, 3)]),
            4 * 64 * 5 * 9,
            4 * 5 * 9,
        ),
        (
            one("Einsum", [X, ("z", (2, 10, 4), FLOAT)], (2, 3, 4), equation="bij,bjk->bik"),
            2 * 3 * 10 * 4,
            0,
        ),
        (
            one("LSTM", [("x", (5, 2, 3), FLOAT)], (5, 2, 2, 4),
                [weight("w", 2, 16, 3), weight("r", 2, 16, 4), weight("b", 2, 32)],
                hidden_size=4, direction="bidirectional"),
            5 * 2 * 2 * 4 * 4 * (3 + 4),
            2 * 16 * 3 + 2 * 16 * 4 + 2 * 32,
        ),
        (
            one("GRU", [("x", (2, 5, 3), FLOAT)], (2, 5, 1, 4),
                [weight("w", 1, 12, 3), weight("r", 1, 12, 4)], hidden_size=4, layout=1),
            5 * 2 * 3 * 4 * (3 + 4),
            12 * 3 + 12 * 4,
        ),
        (
            one("MatMulNBits", [("x", (1, 64), FLOAT)], (1, 32),
                [weight("q", 32, 2, 16, kind=np.uint8), weight("s", 64)],
                ORT, K=64, N=32, bits=4, block_size=32),
            64 * 32,
            64 * 32,
        ),
        (
            one("QLinearConv", [("x", (1, 3, 8, 8), TensorProto.UINT8)], (1, 4, 6, 6),
                [number("s", 1, np.float32), number("z", 0, np.uint8),
                 weight("w", 4, 3, 3, 3, kind=np.int8), weight("ws", 4),
                 number("wz", 0, np.int8), weight("b", 4, kind=np.int32)],
                order=["x", "s", "z", "w", "ws", "wz", "s", "z", "b"]),
            4 * 36 * 27,
            4 * 27 + 4,
        ),
        (
            one("MultiHeadAttention", [("q", (2, 6, 8), FLOAT), ("k", (2, 9, 8), FLOAT),
                                       ("v", (2, 9, 4), FLOAT)], (2, 6, 4), domain=ORT,
                num_heads=2),
            2 * 6 * 9 * (8 + 4),
            0,
        ),
        (
            one("Attention", [("x", (2, 6, 8), FLOAT)], (2, 6, 8),
                [weight("w", 8, 24), weight("b", 24)], ORT, num_heads=2),
            2 * 6 * (8 * 24 + 6 * 16),
            8 * 24 + 24,
        ),
        (one("BiasGelu", [X], (2, 3, 10), [weight("b", 10)], ORT), 0, 10),
        (one("Softmax", [X], (2, 3, 10)), 0, 0),
        (one("Mul", [X], (2, 3, 10), [weight("scale", 1, 1)]), 0, 0),
        (one("Mul", [X], (2, 3, 10), [weight("scale", 3, 1)]), 0, 3),
        (one("PRelu", [X], (2, 3, 10), [weight("slope", 1)]), 0, 1),
        (one("MyOwn", [X], (2, 3, 10), domain="my.own"), None, 0),
        (one("LongformerAttention", [X], (2, 3, 10), domain=ORT), None, 0),
        (one("Det", [("x", (4, 4), FLOAT)], ()), None, 0),
    ],
    ids=lambda case: case.graph.node[0].op_type if isinstance(case, onnx.ModelProto) else "",
)  # fmt: skip
def test_one_operator(built, macs, params):
    counted = count(built)
    assert (counted.macs, counted.params) == (macs, params)
    if macs is None:
        assert counted.uncounted == (f"node ({built.graph.node[0].op_type})",)


def body(name, inputs, outputs, *nodes):
    return helper.make_graph(list(nodes), name, inputs, outputs)


def branch(name, width):
    product = helper.make_node("MatMul", ["x", f"w{width}"], ["y"], name=f"{name}.mm")
    return body(name, [], [value("y", 2, 4)], product)


def test_both_branches_count_and_each_is_told():
    node = helper.make_node(
        "If", ["c"], ["y"], name="if", then_branch=branch("a", 10), else_branch=branch("b", 11)
    )
    weights = [weight("w10", 3, 4), weight("w11", 3, 4)]
    counted = count(
        model([node], [value("x", 2, 3), value("c", kind=BOOL)], [value("y", 2, 4)], weights)
    )
    assert counted.macs == 2 * (2 * 3 * 4)
    assert counted.params == 2 * 12
    assert counted.branches == (("if", (24, 24)),)


def loop(trips, condition="c_in"):
    product = helper.make_node("MatMul", ["s", "w"], ["s_out"], name="mm")
    same = helper.make_node("Identity", [condition], ["c_out"], name="same")
    inputs = [value("i", kind=INT64), value("c_in", kind=BOOL), value("s", 2, 3)]
    inner = body("b", inputs, [value("c_out", kind=BOOL), value("s_out", 2, 3)], product, same)
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], name="loop", body=inner)
    weights = [weight("w", 3, 3)]
    fed = [value("x", 2, 3), value("stop", kind=BOOL)]
    if trips is None:
        fed.append(value("n", kind=INT64))
    else:
        weights.append(number("n", trips, np.int64))
    return model([node], fed, [value("y", 2, 3)], weights)


@pytest.mark.parametrize(
    ("built", "executions", "macs"),
    [
        (loop(7), None, 7 * 18),
        (loop(0), None, 0),
        (loop(None), None, None),
        (loop(None), {"loop": 1, "mm": 5, "same": 5}, 5 * 18),
        (loop(7, "stop"), None, None),
        (loop(7, "stop"), {"loop": 2, "mm": 8, "same": 8}, 4 * 18),
    ],
)
def test_a_loop_counts_its_body_as_often_as_it_runs(built, executions, macs):
    counted = count(built, executions)
    assert counted.macs == macs
    assert counted.params == 9
    assert counted.uncounted == (() if macs is not None else ("loop (Loop)",))


def test_a_scan_counts_its_body_once_for_each_slice():
    product = helper.make_node("MatMul", ["part", "w"], ["out"], name="mm")
    inner = body("b", [value("part", 2, 3)], [value("out", 2, 4)], product)
    node = helper.make_node("Scan", ["x"], ["y"], name="scan", body=inner, num_scan_inputs=1)
    built = model([node], [value("x", 6, 2, 3)], [value("y", 6, 2, 4)], [weight("w", 3, 4)])
    assert count(built).macs == 6 * 2 * 3 * 4
    assert count(built).params == 12


def test_one_weight_in_the_graph_and_in_a_body_counts_once():
    node = helper.make_node(
        "If", ["c"], ["y"], name="if", then_branch=branch("a", 10), else_branch=branch("b", 10)
    )
    twice = helper.make_node("MatMul", ["x", "w10"], ["z"], name="mm")
    inputs = [value("x", 2, 3), value("c", kind=BOOL)]
    outputs = [value("y", 2, 4), value("z", 2, 4)]
    assert count(model([node, twice], inputs, outputs, [weight("w10", 3, 4)])).params == 12


def test_scales_of_dynamic_quantisation_are_no_parameters():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], name="mm"),
        helper.make_node("Cast", ["i"], ["f"], to=FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["ss"]),
        helper.make_node("Mul", ["f", "ss"], ["y"]),
    ]
    weights = [weight("w", 10, 4, kind=np.int8), weight("ws", 4)]
    built = model(nodes, [value("x", 1, 10)], [value("y", 1, 4)], weights)
    assert (count(built).macs, count(built).params) == (40, 40)
    assert find_precision(built) == "int8"


@pytest.mark.parametrize(
    ("kind", "precision"),
    [(np.float32, "fp32"), (np.float16, "fp16"), (np.float64, "fp64")],
)
def test_precision_is_that_of_most_weights_and_else_of_the_inputs(kind, precision):
    element_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    x = ("x", (2, 3), element_type)
    assert find_precision(one("MatMul", [x], (2, 8), [weight("w", 3, 8, kind=kind)])) == precision
    assert find_precision(one("Relu", [x], (2, 3))) == precision


def test_precision_of_packed_and_of_dequantised_weights():
    packed = one(
        "MatMulNBits",
        [("x", (1, 64), FLOAT)],
        (1, 32),
        [weight("q", 32, 2, 16, kind=np.uint8), weight("s", 64)],
        ORT,
        K=64,
        N=32,
        bits=4,
        block_size=32,
    )
    assert find_precision(packed) == "int4"
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    weights = [weight("q", 3, 8, kind=np.int8), number("s", 1, np.float32)]
    built = model(nodes, [value("x", 2, 3)], [value("y", 2, 8)], weights)
    assert find_precision(built) == "int8"
    assert count(built).params == 24


@st.composite
def sums(draw):
    """Two operands of up to four dimensions, and the indices that are kept."""
    labels = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=5, unique=True))
    first = draw(st.lists(st.sampled_from(labels), min_size=1, unique=True))
    second = draw(st.lists(st.sampled_from(labels), min_size=1, unique=True))
    joint = sorted({*first, *second})
    kept = draw(st.lists(st.sampled_from(joint), unique=True))
    sizes = {label: draw(st.integers(1, 4)) for label in joint}
    return first, second, kept, sizes


@given(sums())
def test_a_sum_of_products_counts_every_product_that_is_added(case):
    first, second, kept, sizes = case
    shapes = [tuple(sizes[label] for label in labels) for labels in (first, second)]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(kept)}"
    products = np.einsum(
        f"{''.join(first)},{''.join(second)}->{''.join(sorted(sizes))}",
        np.ones(shapes[0]),
        np.ones(shapes[1]),
    ).size
    assert count_einsum(equation, shapes) == (products if set(kept) != set(sizes) else 0)


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 6)], 2 * 3 * 4 * 5 * 6),
        ("ij,jk", [(2, 3), (3, 4)], 24),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 24 + 40),
        ("ii->i", [(3, 3)], 0),
    ],
)
def test_equations_with_ellipses_without_output_and_with_several_operands(equation, shapes, macs):
    assert count_einsum(equation, shapes) == macs
