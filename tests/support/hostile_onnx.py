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


def make_model(
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
    return make_model([node, *tail], list(weights))


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
    return make_model([call], functions=functions)


def huge_dilation() -> onnx.ModelProto:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], dilations=[1 << 40, 1 << 40])
    return make_model([conv], [_ones("w", 3, 3, 3, 3)], (1, 3, 8, 8))


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
    return make_model(nodes, weights, (1, 3, 8, 8))


def long_data() -> onnx.ModelProto:
    weight = _ones("w", 8)
    weight.raw_data += b"\0"
    return make_model([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def unknown_type() -> onnx.ModelProto:
    weight = _ones("w", 8)
    weight.data_type = 99
    return make_model([helper.make_node("Add", ["x", "w"], ["y"])], [weight])


def deep_nesting(depth: int) -> onnx.ModelProto:
    """Branches within branches."""
    condition = numpy_helper.from_array(np.array(True), "yes")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "other", [], [value])
    node = helper.make_node("Neg", ["x"], ["y"])
    for _ in range(depth):
        branch = helper.make_graph([node], "branch", [], [value])
        node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other)
    return make_model([node], [condition])


def cycle() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["b"], ["y"]),
    ]
    return make_model(nodes)


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
    return make_model(nodes, weights, (1, 3, 8, 8), output=2)


def wide_seed_model() -> onnx.ModelProto:
    """A good small network with what the other one has not: attention, branches, norms, resizing."""
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="constant"),
        helper.make_node("Conv", ["padded", "w"], ["c"], name="conv", dilations=[2, 2]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["silu"]),
        helper.make_node("Split", ["silu", "halves"], ["a", "b"], axis=1),
        helper.make_node("Resize", ["a", "", "scales"], ["up"], mode="nearest"),
        helper.make_node("AveragePool", ["up"], ["down"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Concat", ["down", "b"], ["joined"], axis=1),
        helper.make_node("ConvTranspose", ["joined", "wt"], ["wide"], name="up", strides=[2, 2]),
        helper.make_node("Clip", ["wide", "low", "high"], ["clipped"]),
        helper.make_node("Reshape", ["clipped", "to"], ["tokens"], allowzero=0),
        helper.make_node("LayerNormalization", ["tokens", "gain", "shift"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "q"], ["query"], name="query"),
        helper.make_node("Transpose", ["n"], ["key"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["query", "key"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "n"], ["mixed"]),
        helper.make_node("Slice", ["mixed", "one", "four", "one"], ["part"]),
        helper.make_node("Cast", ["part"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = [_ones("w", 4, 3, 3, 3), _ones("wt", 4, 2, 2, 2), _ones("q", 16, 16)]
    weights += [_ones("gain", 16), _ones("shift", 16)]
    weights += [_array("pads", 0, 0, 2, 2, 0, 0, 2, 2), _array("halves", 2, 2)]
    weights += [_array("to", 1, -1, 16), _array("one", 1), _array("four", 4)]
    weights += [
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array(-1, np.float32), "low"),
        numpy_helper.from_array(np.array(6, np.float32), "high"),
    ]
    return make_model(nodes, weights, (1, 3, 8, 8), output=3)


def vary(model: onnx.ModelProto, random: Random) -> onnx.ModelProto:
    """A copy with one to three changes that keep to the format, and mostly to ONNX's rules."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for _ in range(random.randint(1, 3)):
        random.choice(_VARIATIONS)(changed.graph, random)
    if random.random() < 0.1:
        changed.opset_import[0].version = random.choice([1, 7, 9, 11, 13, 17, 19, 21, 23, 99])
    if random.random() < 0.05:
        changed.ir_version = random.choice([1, 3, 4, 8, 12, 99])
    return changed


def _vary_number(value: int, random: Random) -> int:
    near = [value + 1, value - 1, value * 2, -value, 0]
    return random.choice([*near, *near, *_INTEGERS])


def _vary_attribute(graph: Any, random: Random) -> None:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if not attributes:
        return
    attribute = random.choice(attributes)
    if attribute.ints:
        index = random.randrange(len(attribute.ints))
        fitting = max(-(1 << 63), min(_vary_number(attribute.ints[index], random), (1 << 63) - 1))
        attribute.ints[index] = fitting
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = max(-(1 << 63), min(_vary_number(attribute.i, random), (1 << 63) - 1))
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = random.choice([b"linear", b"reflect", b"edge", b"SAME_UPPER", b"", b"\xff"])


def _drop_attribute(graph: Any, random: Random) -> None:
    node = random.choice(graph.node)
    if node.attribute:
        del node.attribute[random.randrange(len(node.attribute))]


def _rename_operator(graph: Any, random: Random) -> None:
    """An operator of another node, or one that takes and gives as many tensors."""
    node = random.choice(graph.node)
    alike = {
        1: ["Abs", "Erf", "Exp", "Flatten", "Gelu", "GlobalMaxPool", "HardSwish", "Identity"],
        2: ["Add", "Div", "Expand", "Gather", "Max", "Mod", "Pow", "PRelu", "Sub", "Tile"],
    }
    others = [other.op_type for other in graph.node]
    node.op_type = random.choice(alike.get(len(node.input), others) + others)


def _rewire(graph: Any, random: Random) -> None:
    """Another tensor as an input: of another shape or type, of later, or left out."""
    node = random.choice(graph.node)
    if node.input:
        names = [name for other in graph.node for name in (*other.input, *other.output)]
        node.input[random.randrange(len(node.input))] = random.choice([*names, *names, "", "none"])


def _reorder(graph: Any, random: Random) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    change = random.choice(["shuffle", "drop", "double"])
    if change == "shuffle":
        random.shuffle(nodes)
    elif change == "drop":
        del nodes[random.randrange(len(nodes))]
    else:
        nodes.append(random.choice(nodes))
    del graph.node[:]
    graph.node.extend(nodes)


def _retype_weight(graph: Any, random: Random) -> None:
    """A weight of another element type, with data to match."""
    tensor = random.choice(graph.initializer)
    types = [np.float16, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_]
    try:
        values = numpy_helper.to_array(tensor)
        with np.errstate(all="ignore"):
            changed = numpy_helper.from_array(values.astype(random.choice(types)), tensor.name)
    except (TypeError, ValueError):
        return  # earlier changes left nothing to convert
    tensor.CopyFrom(changed)


def _reshape_weight(graph: Any, random: Random) -> None:
    """A weight of other dimensions, with data to match or without."""
    tensor = random.choice(graph.initializer)
    dims = list(tensor.dims) or [1]
    change = random.choice(["size", "size", "more", "fewer", "declare"])
    if change == "more":
        dims.insert(random.randrange(len(dims) + 1), random.choice([0, 1, 1, 2]))
    elif change == "fewer":
        del dims[random.randrange(len(dims))]
    else:
        index = random.randrange(len(dims))
        dims[index] = max(0, _vary_number(dims[index], random))
    elements = 1
    for dim in dims:
        elements *= dim
    if change == "declare" or elements > 1 << 16:
        del tensor.dims[:]
        tensor.dims.extend(dims)
        return
    tensor.CopyFrom(numpy_helper.from_array(np.ones(dims, np.float32), tensor.name))


def _change_values(graph: Any, random: Random) -> None:
    """A weight of values that no network has; of shapes and axes, wrong ones."""
    tensor = random.choice(graph.initializer)
    try:
        values = np.array(numpy_helper.to_array(tensor))
    except (TypeError, ValueError):
        return
    if values.size == 0:
        return
    if values.dtype.kind == "f":
        value = random.choice([float("nan"), float("inf"), -1e38, 1e-42, 0.0])
    else:
        top = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
        value = min(abs(_vary_number(int(values.flat[0]), random)), int(top))
    with np.errstate(all="ignore"):
        values.flat[random.randrange(values.size)] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _change_types_of_values(graph: Any, random: Random) -> None:
    """Inputs and outputs of other types, ranks and sizes, open ones too."""
    value = random.choice([*graph.input, *graph.output])
    tensor = value.type.tensor_type
    if random.random() < 0.3:
        tensor.elem_type = random.choice([1, 2, 6, 7, 9, 10, 11, 16, 8, 0, 42])
    elif tensor.shape.dim and random.random() < 0.7:
        dim = random.choice(tensor.shape.dim)
        dim.dim_value = random.choice([0, 1, 2, 16, -1, 1 << 31, (1 << 63) - 1])
    else:
        tensor.shape.dim.add().dim_param = random.choice(["n", "", "n*2"])


def _declare_inner_value(graph: Any, random: Random) -> None:
    """A declared type of an inner tensor, mostly a wrong one."""
    name = random.choice(random.choice(graph.node).output or ["none"])
    shape = [random.choice([1, 2, 4, 8, 16, 1 << 40]) for _ in range(random.randint(0, 4))]
    kind = random.choice([TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16])
    graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))


def _rename_tensor(graph: Any, random: Random) -> None:
    """One tensor under another name everywhere: an odd one, or that of another tensor."""
    names = sorted({name for node in graph.node for name in (*node.input, *node.output) if name})
    if not names:
        return
    old = random.choice(names)
    new = random.choice([*names, "../x", "\x1b[31m", "a b\nc", "\u202e", "y" * 300])
    for node in graph.node:
        for part in (node.input, node.output):
            for index, name in enumerate(part):
                if name == old:
                    part[index] = new
    for named in (*graph.initializer, *graph.input, *graph.output):
        if named.name == old:
            named.name = new


def _wrap_in_branch(graph: Any, random: Random) -> None:
    """A node within an If or a Loop."""
    index = random.randrange(len(graph.node))
    node = onnx.NodeProto.FromString(graph.node[index].SerializeToString())
    outputs = list(node.output)
    if random.random() < 0.5:
        condition = numpy_helper.from_array(np.array(random.random() < 0.5), "condition")
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        branch = helper.make_graph([node], "branch", [], values)
        wrapped = helper.make_node(
            "If", ["condition"], outputs, then_branch=branch, else_branch=branch
        )
        graph.initializer.append(condition)
    else:
        count = numpy_helper.from_array(
            np.array(random.choice([0, 1, 3, 1 << 40]), np.int64), "count"
        )
        node.output[:] = [f"{name}_inside" for name in outputs]
        keep = helper.make_node("Identity", ["going"], ["goes_on"])
        head = [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ]
        tail = [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])]
        tail += [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in node.output]
        body = helper.make_graph([node, keep], "body", head, tail)
        wrapped = helper.make_node("Loop", ["count", ""], outputs, body=body)
        graph.initializer.append(count)
    graph.node[index].CopyFrom(wrapped)


_VARIATIONS = (
    _vary_attribute, _vary_attribute, _drop_attribute, _rename_operator, _rewire, _reorder,
    _retype_weight, _reshape_weight, _change_values, _change_values, _change_types_of_values,
    _declare_inner_value, _rename_tensor, _wrap_in_branch,
)  # fmt: skip


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
