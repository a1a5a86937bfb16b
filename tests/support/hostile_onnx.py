"""Small ONNX files that ask for much or break the rules, and mutations of good ones along ONNX's grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 8)
"""Of the input of every hostile file here."""
_INTEGERS = (-1, 0, 1, 2, 7, 99, 1 << 20, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63))


def _model(
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto] | None = None,
    shape: tuple[int, ...] = SHAPE,
    functions: list[onnx.FunctionProto] | None = None,
    output: int | None = None,
) -> onnx.ModelProto:
    rank = output or len(shape)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{i}" for i in range(rank)])],
        weights or [],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions or [])


def _array(name: str, *values: int, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def _ones(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def _sum_of(node: onnx.NodeProto, *weights: onnx.TensorProto) -> onnx.ModelProto:
    """A network that adds the mean of a constant which one node makes."""
    tail = [
        helper.make_node("ReduceMean", ["big"], ["mean"], keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]
    return _model([node, *tail], list(weights))


def nested_functions(depth: int = 60) -> onnx.ModelProto:
    """Each function calls the next twice: 2^depth additions once they are all written out."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(depth):
        domain, op = ("", "Neg") if level == depth - 1 else ("own", f"f{level + 1}")
        nodes = [
            helper.make_node(op, ["a"], ["b"], domain=domain),
            helper.make_node(op, ["b"], ["c"], domain=domain),
        ]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["c"], nodes, opsets))
    call = helper.make_node("f0", ["x"], ["y"], domain="own")
    return _model([call], functions=functions)


def huge_dilation() -> onnx.ModelProto:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], dilations=[1 << 40, 1 << 40])
    return _model([conv], [_ones("w", 3, 3, 3, 3)], (1, 3, 8, 8))


def huge_max() -> onnx.ModelProto:
    """Broadcasting vectors along an axis each makes the product of their lengths."""
    weights = []
    for axis in range(4):
        shape = [1] * 4
        shape[axis] = 256
        weights.append(_ones(f"w{axis}", *shape))
    return _sum_of(helper.make_node("Max", [w.name for w in weights], ["big"]), *weights)


def huge_concat() -> onnx.ModelProto:
    node = helper.make_node("Concat", ["a"] * 60_000, ["big"], axis=0)
    return _sum_of(node, _ones("a", 4096))


def many_concats() -> onnx.ModelProto:
    """Thousands of constants, each as large as one may be that is folded."""
    names = [f"c{index}" for index in range(6000)]
    nodes = [helper.make_node("Concat", ["a", "a"], [name], axis=0) for name in names]
    nodes.append(helper.make_node("Concat", names, ["big"], axis=0))
    model = _sum_of(nodes[-1], _ones("a", 2048))
    for node in reversed(nodes[:-1]):
        model.graph.node.insert(0, node)
    return model


def mismatching_norm() -> onnx.ModelProto:
    names = ["gamma", "beta", "mean", "var"]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *names], ["y"]),
    ]
    weights = [_ones("w", 4, 3, 3, 3), *(_ones(name, 7) for name in names)]
    return _model(nodes, weights, (1, 3, 8, 8))


def long_data() -> onnx.ModelProto:
    weight = _ones("w", 8)
    weight.raw_data += b"\0"
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def unknown_type() -> onnx.ModelProto:
    weight = _ones("w", 8)
    weight.data_type = 99
    return _model([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def deep_nesting(depth: int) -> onnx.ModelProto:
    """Branches within branches."""
    condition = numpy_helper.from_array(np.array(True), "yes")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "other", [], [value])
    node = helper.make_node("Neg", ["x"], ["y"])
    for _ in range(depth):
        branch = helper.make_graph([node], "branch", [], [value])
        node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other)
    return _model([node], [condition])


def cycle() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    return _model(nodes)


HOSTILE: dict[str, Callable[[], onnx.ModelProto]] = {
    "nested functions": nested_functions,
    "huge dilation": huge_dilation,
    "huge Max": huge_max,
    "huge Concat": huge_concat,
    "many Concats": many_concats,
    "huge Expand": lambda: _sum_of(
        helper.make_node("Expand", ["a", "to"], ["big"]),
        _ones("a", 1),
        _array("to", 1 << 20, 1 << 20),
    ),
    "huge ConstantOfShape": lambda: _sum_of(
        helper.make_node("ConstantOfShape", ["to"], ["big"]), _array("to", 1 << 20, 1 << 20)
    ),
    "huge Tile": lambda: _sum_of(
        helper.make_node("Tile", ["a", "to"], ["big"]), _ones("a", 4096), _array("to", 1 << 40)
    ),
    "mismatching norm": mismatching_norm,
    "data too long": long_data,
    "unknown type": unknown_type,
    "deep nesting": lambda: deep_nesting(20),
    "cycle": cycle,
}


def seed_model() -> onnx.ModelProto:
    """A good small network with most that intake looks at: folding, norms, shapes, attributes."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"]),
        helper.make_node("Shape", ["g"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["g", "to"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["l"], name="fc", transB=1),
        helper.make_node("Softmax", ["l"], ["y"], axis=-1),
    ]
    weights = [_ones("conv.weight", 4, 3, 3, 3), _ones("fc.weight", 5, 4), _ones("fc.bias", 5)]
    weights += [_ones(name, 4) for name in ("gamma", "beta", "mean", "var")]
    weights += [_array("zero", 0), _array("rest", -1)]
    return _model(nodes, weights, (1, 3, 8, 8), output=2)


def mutate(model: onnx.ModelProto, random: Random) -> onnx.ModelProto:
    """A copy in which one to four fields, chosen anywhere in it, were changed, dropped or doubled."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    operators = ["Conv", "Concat", "Expand", "If", "Loop", "Max", "QLinearConv", "Resize", "Tile"]
    for _ in range(random.randint(1, 4)):
        message = random.choice(list(_walk(changed)))
        fields = [*message.ListFields()]
        if not fields:
            continue
        field, value = random.choice(fields)
        if random.random() < 0.1:
            message.ClearField(field.name)
        elif hasattr(value, "extend"):
            _mutate_list(
                value, random, lambda field=field: _replace(field, names, operators, random)
            )
        elif field.message_type is None:
            setattr(message, field.name, _replace(field, names, operators, random))
    return changed


def _mutate_list(values: Any, random: Random, replace: Callable[[], Any]) -> None:
    index = random.randrange(len(values))
    change = random.choice(["drop", "double", "replace"])
    if change == "drop":
        del values[index]
    elif hasattr(values, "add"):
        values.add().CopyFrom(values[index])
    elif change == "double":
        values.append(values[index])
    else:
        values[index] = replace()


def _replace(field: Any, names: list[str], operators: list[str], random: Random) -> Any:
    """A value of a field's type: a bad one more often than not."""
    if field.type == field.TYPE_STRING:
        return random.choice([*names, *operators, "", "\x1b[2J", "x" * 5000])
    if field.type == field.TYPE_BYTES:
        return random.choice([b"", b"\0", b"\xff" * 64, bytes(1000)])
    if field.type in {field.TYPE_FLOAT, field.TYPE_DOUBLE}:
        return random.choice([0.0, -1.0, float("nan"), float("inf"), 1e38])
    if field.type == field.TYPE_ENUM:
        return random.choice([value.number for value in field.enum_type.values])
    bits = 31 if field.type in {field.TYPE_INT32, field.TYPE_UINT32} else 63
    fitting = [number for number in _INTEGERS if -(1 << bits) <= number < 1 << bits]
    if field.type in {field.TYPE_UINT32, field.TYPE_UINT64}:
        fitting = [number for number in fitting if number >= 0]
    return random.choice(fitting)


def _walk(message: Any) -> Iterator[Any]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for entry in value if hasattr(value, "extend") else (value,):
                yield from _walk(entry)
