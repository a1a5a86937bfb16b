"""The torch form of a network computes what ONNX Runtime computes: every network of the zoo, and
every operator by itself.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import UnsupportedLayerError
from hwbench.network.intake import load_workload
from hwbench.network.ort import onnxruntime
from hwbench.network.torch_graph import to_torch
from hwbench.network.torch_graph.operators import OPERATORS
from hwbench.network.zoo import NETWORKS

TOLERANCE = 1e-4
CLOSE = {"fp16": 0.02, "bf16": 0.15}
RANDOM = np.random.default_rng(0)


def reference(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return (
        onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
    )


def in_torch(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [
            value.numpy()
            for value in to_torch(model).module(*map(torch.from_numpy, feeds.values()))
        ]


def assert_same(model: bytes, feeds: dict[str, np.ndarray], tolerance: float = TOLERANCE) -> None:
    for expected, found in zip(reference(model, feeds), in_torch(model, feeds), strict=True):
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        assert np.abs(found - expected).max() <= tolerance * max(1e-6, np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_zoo(name):
    side = 224 if name == "vgg16" else 64  # VGG's linear layers fix it
    workload = load_workload(f"zoo:{name}@0.25", inputs=[f"1x3x{side}x{side}"])
    feeds = {workload.inputs[0].name: feeds_of((1, 3, side, side))["x"]}
    assert_same(workload.onnx, feeds)
    net = to_torch(workload.onnx)
    computing = [node.name for node in net.module.graph.nodes if node.op == "call_function"]
    assert sorted(name for step in net.steps for name in step) == sorted(computing), (
        "every node belongs to one layer"
    )
    assert all(net.steps)


@pytest.mark.parametrize("precision", CLOSE)
def test_half_precision(precision):
    whole, cast = (
        load_workload("zoo:resnet18@0.25", inputs=["1x3x64x64"], precision=p)
        for p in ("fp32", precision)
    )
    value = RANDOM.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    expected = reference(whole.onnx, {whole.inputs[0].name: value})[0]
    kind = getattr(torch, cast.inputs[0].dtype)
    with torch.no_grad():
        found = to_torch(cast.onnx).module(torch.from_numpy(value).to(kind))[0]
    assert found.dtype == kind
    assert (
        np.abs(found.float().numpy() - expected).max() < CLOSE[precision] * np.abs(expected).max()
    )


def test_layers_can_run_in_their_order():
    """No layer's nodes read what a later layer makes: the layer profile relies on it."""
    net = to_torch(load_workload("zoo:resnet50@0.25", inputs=["1x3x64x64"]).onnx)
    nodes = {node.name: node for node in net.module.graph.nodes}
    known = {node.name for node in nodes.values() if node.op in {"placeholder", "get_attr"}}
    for step in net.steps:
        for name in step:
            assert {source.name for source in nodes[name].all_input_nodes} <= known
            known.add(name)


IMAGE = (2, 6, 9, 8)
C = {"channels": (6,)}
ONE = [
    (
        "Conv",
        IMAGE,
        {"w": (4, 3, 3, 3), "b": (4,)},
        {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 0], "dilations": [1, 2]},
    ),
    ("Conv", IMAGE, {"w": (4, 6, 3, 3)}, {"pads": [0, 1, 2, 0]}),
    ("Conv", IMAGE, {"w": (4, 6, 4, 4)}, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (1, 3, 16), {"w": (5, 3, 3)}, {"pads": [1, 1]}),
    (
        "ConvTranspose",
        IMAGE,
        {"w": (6, 4, 3, 3), "b": (4,)},
        {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
    ),
    ("ConvTranspose", IMAGE, {"w": (6, 2, 3, 3)}, {"group": 2, "dilations": [2, 1]}),
    ("Gemm", (3, 5), {"w": (4, 5), "b": (4,)}, {"transB": 1}),
    ("Gemm", (5, 3), {"w": (5, 4), "b": (3, 1)}, {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", (3, 5), {"w": (5, 4)}, {"alpha": 0.5}),
    ("MatMul", (2, 3, 5), {"w": (5, 4)}, {}),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", IMAGE, {}, {"kernel_shape": [3, 3], "pads": [0, 0, 2, 1], "dilations": [2, 1]}),
    ("AveragePool", IMAGE, {}, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    (
        "AveragePool",
        IMAGE,
        {},
        {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1], "count_include_pad": 1},
    ),
    ("GlobalAveragePool", IMAGE, {}, {}),
    ("GlobalMaxPool", IMAGE, {}, {}),
    ("BatchNormalization", IMAGE, {"s": (6,), "b": (6,), "m": (6,), "+v": (6,)}, {"epsilon": 1e-3}),
    ("LayerNormalization", (2, 3, 8), {"s": (8,), "b": (8,)}, {"axis": -1}),
    *(
        (name, IMAGE, {}, {})
        for name in (
            "Relu",
            "LeakyRelu",
            "Elu",
            "HardSigmoid",
            "HardSwish",
            "Sigmoid",
            "Tanh",
            "Erf",
        )
    ),
    *((name, IMAGE, {}, {}) for name in ("Exp", "Neg", "Abs", "Softplus")),
    ("LeakyRelu", IMAGE, {}, {"alpha": 0.3}),
    ("HardSigmoid", IMAGE, {}, {"alpha": 1 / 6}),
    ("PRelu", IMAGE, {"slope": (6, 1, 1)}, {}),
    ("Clip", IMAGE, {"low": -0.25, "high": 0.5}, {}),
    ("Clip", IMAGE, {"low": 0.0}, {}),
    ("Softmax", IMAGE, {}, {"axis": 1}),
    ("LogSoftmax", IMAGE, {}, {}),
    *(
        (name, IMAGE, {"w": (6, 1, 1)}, {})
        for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")
    ),
    ("Reshape", IMAGE, {"shape": [2, -1]}, {}),
    ("Flatten", IMAGE, {}, {}),
    ("Flatten", IMAGE, {}, {"axis": 2}),
    ("Squeeze", (2, 6, 1, 1), {"axes": [2, 3]}, {}),
    ("Unsqueeze", (2, 6), {"axes": [0, 3]}, {}),
    ("Transpose", IMAGE, {}, {"perm": [0, 2, 3, 1]}),
    ("Transpose", (2, 3), {}, {}),
    ("Concat", IMAGE, {"w": (2, 3, 9, 8)}, {"axis": 1}),
    ("Slice", IMAGE, {"starts": [1, 0], "ends": [-1, 2**31], "axes": [1, -1], "steps": [1, 2]}, {}),
    ("Pad", IMAGE, {"pads": [0, 1, 2, 0, 0, 2, 0, 3], "value": 0.5}, {}),
    ("Pad", IMAGE, {"pads": [0, 0, -1, 0, 0, 0, 0, -2]}, {}),
    ("ReduceMean", IMAGE, {"axes": [2, 3]}, {"keepdims": 0}),
    ("ReduceSum", IMAGE, {}, {}),
    ("ReduceMax", IMAGE, {"axes": [-1]}, {}),
]


def constant(name: str, value: object) -> onnx.TensorProto:
    if isinstance(value, tuple):
        found = RANDOM.uniform(0.5 if name.startswith("+") else -1, 1, value).astype(np.float32)
    else:
        found = np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
    return numpy_helper.from_array(found, name)


def model_of(
    op: str,
    shape: tuple[int, ...],
    constants: dict[str, object],
    attrs: dict[str, object],
    outputs=("y",),
) -> bytes:
    node = helper.make_node(op, ["x", *constants], list(outputs), name="the_layer", **attrs)
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info(y) for y in outputs],
    )
    for value in ends[1]:
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph([node], "net", *ends, [constant(*item) for item in constants.items()])
    opset = 20 if op == "Gelu" else 18
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    ).SerializeToString()


def feeds_of(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"x": RANDOM.uniform(-1, 1, shape).astype(np.float32)}


@pytest.mark.parametrize(
    ("op", "shape", "constants", "attrs"),
    ONE,
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_operators(op, shape, constants, attrs):
    assert_same(model_of(op, shape, constants, attrs), feeds_of(shape))


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Pow"])
def test_operators_of_positive_numbers(op):
    feeds = {"x": np.abs(feeds_of(IMAGE)["x"]) + 0.1}
    assert_same(model_of(op, IMAGE, {"e": 1.5} if op == "Pow" else {}, {}), feeds)


def test_gelu_and_split():
    assert_same(model_of("Gelu", IMAGE, {}, {"approximate": "tanh"}), feeds_of(IMAGE))
    assert_same(
        model_of("Split", IMAGE, {"sizes": [4, 2]}, {"axis": 1}, ("y", "z")), feeds_of(IMAGE)
    )


def test_every_operator_is_tested():
    assert set(OPERATORS) == {op for op, *_ in ONE} | {"Sqrt", "Log", "Pow", "Gelu", "Split"}


@pytest.mark.parametrize(
    ("op", "constants", "attrs", "why"),
    [
        ("Selu", {}, {}, "which hwbench does not run in torch"),
        ("Slice", {"starts": [-1], "ends": [0], "axes": [1], "steps": [-1]}, {}, "backwards"),
        ("Pad", {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}, {"mode": "reflect"}, "reflect"),
        ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 0, 0, 1]}, "do not count"),
    ],
)
def test_what_is_not_known_is_refused_by_name(op, constants, attrs, why):
    with pytest.raises(UnsupportedLayerError, match=f"'the_layer'.*{op}.*{why}") as refused:
        to_torch(model_of(op, IMAGE, constants, attrs))
    assert len(str(refused.value).splitlines()) == 1


def test_constants_computed_from_others_are_evaluated_once():
    """A weight behind a Transpose, as linear layers are often written."""
    weight = numpy_helper.from_array(RANDOM.standard_normal((7, 40)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], name="turn"),
        helper.make_node("MatMul", ["x", "t"], ["y"], name="linear"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", (2, 40)), ("y", (2, 7)))
    ]
    graph = helper.make_graph(nodes, "net", *ends, [weight])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    assert_same(model, feeds_of((2, 40)))
    assert [len(step) for step in to_torch(model).steps] == [1]
