"""ONNX operators in torch: for each the torch functions that compute it.

The operators are those of https://onnx.ai/onnx/operators/. Those are covered that convolutional
networks use; what is missing is refused by name, never replaced by something similar.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from hwbench.network.graph.keys import geometry
from hwbench.network.torch_graph.emitter import Operands, Operator

if TYPE_CHECKING:
    from torch import fx


def _apply_to_all(function: Callable[..., Any], **attrs: float) -> Operator:
    """Make the operator that is one function of all inputs.

    Args:
        function: The torch function.
        attrs: Attributes of the node that become further arguments, with their defaults.
    """

    def emit(node: Operands) -> fx.Node:
        tensors = [node.tensor(position) for position in range(len(node))]
        values = [node.attrs.get(name, default) for name, default in attrs.items()]
        return node.call(function, *tensors, *values)

    return emit


def _apply_pairwise(function: Callable[..., Any]) -> Operator:
    """Make the operator that applies a function of two tensors to any number of inputs."""

    def emit(node: Operands) -> fx.Node:
        result = node.tensor(0)
        for position in range(1, len(node)):
            result = node.call(function, result, node.tensor(position))
        return result

    return emit


def _symmetric_pads(pads: Sequence[int]) -> list[int] | None:
    """Return the pads per dimension if those at begin and end are equal, else None."""
    half = len(pads) // 2
    return list(pads[:half]) if pads[:half] == pads[half:] else None


def _pad_tensor(
    node: Operands, source: fx.Node, pads: Sequence[int], value: float = 0.0
) -> fx.Node:
    """Pad a tensor by the pads of ONNX, if there are any.

    ONNX lists the begins of all dimensions, then all ends; torch lists pairs of begin and end from
    the last dimension on.
    """
    if not any(pads):
        return source
    half = len(pads) // 2
    pairs: list[int] = []
    for dim in reversed(range(half)):
        pairs += (pads[dim], pads[dim + half])
    return node.call(F.pad, source, pairs, "constant", value)


def _conv(node: Operands) -> fx.Node:
    form, source = geometry(node.view, node.proto), node.tensor(0)
    functions = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    padding = _symmetric_pads(form.pads)
    if padding is None:
        source, padding = _pad_tensor(node, source, form.pads), [0] * len(form.kernel)
    weights = (node.tensor(1), node.optional_tensor(2))
    group = node.attrs.get("group", 1)
    return node.call(
        functions[len(form.kernel)],
        source,
        *weights,
        list(form.strides),
        padding,
        list(form.dilations),
        group,
    )


def _conv_transpose(node: Operands) -> fx.Node:
    form = geometry(node.view, node.proto)
    padding = _symmetric_pads(form.pads)
    functions = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
    if padding is None or "output_shape" in node.attrs:
        raise node.refusal("its pads differ between begin and end, or follow from output_shape")
    extra = node.attrs.get("output_padding", [0] * len(form.kernel))
    group = node.attrs.get("group", 1)
    weights = (node.tensor(1), node.optional_tensor(2))
    return node.call(
        functions[len(form.kernel)],
        node.tensor(0),
        *weights,
        list(form.strides),
        padding,
        list(extra),
        group,
        list(form.dilations),
    )


def _max_pool(node: Operands) -> fx.Node:
    form, source = geometry(node.view, node.proto), node.tensor(0)
    functions = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
    if len(node.proto.output) > 1:
        raise node.refusal("its indices are asked for")
    padding = _symmetric_pads(form.pads)
    fits = padding is not None and all(
        2 * pad <= size for pad, size in zip(padding, form.kernel, strict=True)
    )
    if not fits:  # torch pads by at most half the kernel, and equally at begin and end
        source, padding = _pad_tensor(node, source, form.pads, -inf), [0] * len(form.kernel)
    ceil = bool(node.attrs.get("ceil_mode", 0))
    pool = functions[len(form.kernel)]
    return node.call(
        pool,
        source,
        list(form.kernel),
        list(form.strides),
        padding,
        list(form.dilations),
        ceil_mode=ceil,
    )


def _average_pool(node: Operands) -> fx.Node:
    form, source = geometry(node.view, node.proto), node.tensor(0)
    functions = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
    counts_pads = bool(node.attrs.get("count_include_pad", 0))
    ceil = bool(node.attrs.get("ceil_mode", 0))
    padding = _symmetric_pads(form.pads)
    if any(size != 1 for size in form.dilations) or (ceil and any(form.pads)):
        raise node.refusal("it has dilations, or pads and ceil_mode")
    if padding is None and not counts_pads:
        raise node.refusal(f"its pads {form.pads} differ between begin and end and do not count")
    if padding is None:
        source, padding = _pad_tensor(node, source, form.pads), [0] * len(form.kernel)
    pool = functions[len(form.kernel)]
    return node.call(
        pool, source, list(form.kernel), list(form.strides), padding, ceil, counts_pads
    )


def _global_pool(node: Operands, function: Callable[..., Any]) -> fx.Node:
    return node.call(function, node.tensor(0), list(range(2, len(node.shape()))), keepdim=True)


def _gemm(node: Operands) -> fx.Node:
    alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
    first, second, third = node.tensor(0), node.tensor(1), node.optional_tensor(2)
    if node.attrs.get("transA", 0):
        first = node.call(torch.t, first)
    if (
        alpha == beta == 1
        and node.attrs.get("transB", 0)
        and (third is None or len(node.shape(2)) == 1)
    ):
        return node.call(F.linear, first, second, third)
    second = node.call(torch.t, second) if node.attrs.get("transB", 0) else second
    if third is not None:
        return node.call(torch.addmm, third, first, second, beta=beta, alpha=alpha)
    product = node.call(torch.mm, first, second)
    return product if alpha == 1 else node.call(torch.mul, product, alpha)


def _clip(node: Operands) -> fx.Node:
    # The bounds are attributes before opset 11, and inputs from then on.
    low = node.attrs.get("min", node.value(1))
    high = node.attrs.get("max", node.value(2))
    return node.call(torch.clamp, node.tensor(0), low, high)


def _batch_norm(node: Operands) -> fx.Node:
    scale, shift, mean, variance = (node.tensor(position) for position in (1, 2, 3, 4))
    epsilon = node.attrs.get("epsilon", 1e-5)
    return node.call(
        F.batch_norm,
        node.tensor(0),
        mean,
        variance,
        scale,
        shift,
        training=False,
        momentum=0.0,
        eps=epsilon,
    )


def _layer_norm(node: Operands) -> fx.Node:
    shape, axis = node.shape(), node.attrs.get("axis", -1)
    if len(node.proto.output) > 1:
        raise node.refusal("its mean or deviation is asked for")
    weights = (node.tensor(1), node.optional_tensor(2))
    epsilon = node.attrs.get("epsilon", 1e-5)
    return node.call(
        F.layer_norm, node.tensor(0), list(shape[axis % len(shape) :]), *weights, epsilon
    )


def _hard_sigmoid(node: Operands) -> fx.Node:
    alpha, beta = node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return node.call(F.hardsigmoid, node.tensor(0))
    line = node.call(torch.add, node.call(torch.mul, node.tensor(0), alpha), beta)
    return node.call(torch.clamp, line, 0.0, 1.0)


def _softmax(node: Operands, function: Callable[..., Any]) -> fx.Node:
    rank = len(node.shape())
    if node.view.opset < 13 and node.attrs.get("axis", 1) % rank != rank - 1:
        raise node.refusal("before opset 13 it flattens the axes behind its own")
    return node.call(function, node.tensor(0), node.attrs.get("axis", -1))


def _reshape(node: Operands) -> fx.Node:
    """Reshape, Flatten, Squeeze and Unsqueeze.

    All shapes are fixed, so only that of the result matters.
    """
    return node.call(torch.reshape, node.tensor(0), list(node.view.shape(node.proto.output[0])))


def _flatten(node: Operands) -> fx.Node:
    axis = node.attrs.get("axis", 1)
    return node.call(torch.flatten, node.tensor(0), 1) if axis == 1 else _reshape(node)


def _transpose(node: Operands) -> fx.Node:
    backwards = reversed(range(len(node.shape())))
    return node.call(torch.permute, node.tensor(0), list(node.attrs.get("perm", backwards)))


def _concat(node: Operands) -> fx.Node:
    return node.call(
        torch.cat, [node.tensor(position) for position in range(len(node))], node.attrs["axis"]
    )


def _split(node: Operands) -> list[fx.Node]:
    axis = node.attrs.get("axis", 0)
    sizes = [node.view.shape(name)[axis] for name in node.proto.output]
    parts = node.call(torch.split, node.tensor(0), sizes, axis)
    return [node.call(operator.getitem, parts, place) for place in range(len(sizes))]


def _slice(node: Operands) -> fx.Node:
    if len(node) == 1:
        raise node.refusal("it is of an opset before 10")
    starts, ends = node.value(1), node.value(2)
    axes, steps = node.value(3, list(range(len(starts)))), node.value(4, [1] * len(starts))
    if min(steps) < 1:
        raise node.refusal(f"its steps {steps} go backwards, which torch's slices do not")
    places = [slice(None)] * len(node.shape())
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        places[axis] = slice(start, end, step)
    return node.call(operator.getitem, node.tensor(0), tuple(places))


def _pad(node: Operands) -> fx.Node:
    mode = node.attrs.get("mode", b"constant").decode()
    pads = node.attrs.get("pads", node.value(1))
    if mode != "constant" or node.has_input(3):
        raise node.refusal(f"its mode is {mode}, or it names axes")
    value = node.attrs.get("value", node.value(2, 0.0))
    if isinstance(value, list):
        value = value[0]
    return _pad_tensor(node, node.tensor(0), pads, float(value))


def _reduce(node: Operands, function: Callable[..., Any]) -> fx.Node:
    axes = node.attrs.get("axes", node.value(1))
    if axes is None:
        axes = [] if node.attrs.get("noop_with_empty_axes", 0) else list(range(len(node.shape())))
    keep = bool(node.attrs.get("keepdims", 1))
    if not axes:  # nothing is reduced, so the result is a copy
        return node.call(torch.clone, node.tensor(0))
    return node.call(function, node.tensor(0), axes, keepdim=keep)


def _prelu(node: Operands) -> fx.Node:
    slope = node.tensor(1)
    scaled = node.call(torch.mul, node.tensor(0), slope)
    return node.call(torch.where, node.call(torch.ge, node.tensor(0), 0), node.tensor(0), scaled)


def _gelu(node: Operands) -> fx.Node:
    return node.call(
        F.gelu, node.tensor(0), approximate=node.attrs.get("approximate", b"none").decode()
    )


OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _apply_to_all(torch.matmul),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": partial(_global_pool, function=torch.mean),
    "GlobalMaxPool": partial(_global_pool, function=torch.amax),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Relu": _apply_to_all(F.relu),
    "LeakyRelu": _apply_to_all(F.leaky_relu, alpha=0.01),
    "Elu": _apply_to_all(F.elu, alpha=1.0),
    "PRelu": _prelu,
    "Clip": _clip,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _apply_to_all(F.hardswish),
    "Softmax": partial(_softmax, function=torch.softmax),
    "LogSoftmax": partial(_softmax, function=torch.log_softmax),
    "Sigmoid": _apply_to_all(torch.sigmoid),
    "Tanh": _apply_to_all(torch.tanh),
    "Erf": _apply_to_all(torch.erf),
    "Sqrt": _apply_to_all(torch.sqrt),
    "Exp": _apply_to_all(torch.exp),
    "Log": _apply_to_all(torch.log),
    "Neg": _apply_to_all(torch.neg),
    "Abs": _apply_to_all(torch.abs),
    "Softplus": _apply_to_all(F.softplus),
    "Add": _apply_to_all(torch.add),
    "Sub": _apply_to_all(torch.sub),
    "Mul": _apply_to_all(torch.mul),
    "Div": _apply_to_all(torch.div),
    "Pow": _apply_to_all(torch.pow),
    "Sum": _apply_pairwise(torch.add),
    "Max": _apply_pairwise(torch.maximum),
    "Min": _apply_pairwise(torch.minimum),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "ReduceMean": partial(_reduce, function=torch.mean),
    "ReduceSum": partial(_reduce, function=torch.sum),
    "ReduceMax": partial(_reduce, function=torch.amax),
}
"""Operators that can be run, by ONNX's names."""
