"""Operators that exporters spell out in simpler ones are one layer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwbench.network.graph import count, layers
from tests.support.onnx_nets import Net

SHAPE = (2, 3, 8)


def number(net: Net, value: float) -> str:
    return net.constant(f"c{len(net.weights)}", np.float32(value))


def spell_gelu(net: Net, x: str, order: str, *, root: float = math.sqrt(2)) -> str:
    """GELU as exporters write it; `order` says how, and where the half is multiplied."""
    if "div" in order:
        scaled = net.node("Div", x, number(net, root))
    else:
        scaled = net.node("Mul", number(net, 1 / root), x)
    factor = net.node("Add", net.node("Erf", scaled, name="act/Erf"), number(net, 1))
    if "first" in order:
        return net.node("Mul", net.node("Mul", x, number(net, 0.5)), factor)
    if "middle" in order:
        return net.node("Mul", x, net.node("Mul", factor, number(net, 0.5)))
    return net.node("Mul", net.node("Mul", x, factor), number(net, 0.5))


def spell_tanh_gelu(net: Net, x: str, *, power: bool) -> str:
    if power:
        cube = net.node("Pow", x, number(net, 3))
    else:
        cube = net.node("Mul", net.node("Mul", x, x), x)
    total = net.node("Add", x, net.node("Mul", cube, number(net, 0.044715)))
    tanh = net.node("Tanh", net.node("Mul", total, number(net, math.sqrt(2 / math.pi))), name="t")
    factor = net.node("Add", number(net, 1), tanh)
    return net.node("Mul", net.node("Mul", number(net, 0.5), x), factor)


def spell_layer_norm(net: Net, x: str, *, axes: tuple[int, ...] = (-1,)) -> str:
    """Layer normalization as exporters wrote it before there was an operator for it."""
    width = net.shape[-1]
    centred = net.node("Sub", x, net.node("ReduceMean", x, axes=list(axes)))
    square = net.node("Pow", centred, number(net, 2))
    variance = net.node("ReduceMean", square, axes=list(axes))
    root = net.node("Sqrt", net.node("Add", variance, number(net, 1e-6)))
    scaled = net.node("Mul", net.node("Div", centred, root), net.random("g", width), name="norm")
    return net.node("Add", scaled, net.random("b", width))


def keys_of(net: Net, *outputs: str) -> list[str]:
    return [str(layer.key) for layer in layers(net.model(*outputs))]


@pytest.mark.parametrize("order", ["div last", "mul last", "div first", "mul middle"])
def test_a_gelu_is_one_layer_with_the_key_of_the_operator(order):
    net = Net(*SHAPE)
    output = spell_gelu(net, net.node("Exp", "x", name="before"), order)
    _, gelu = layers(net.model(net.node("Neg", output, name="after")))[:2]
    assert (gelu.name, len(gelu.nodes)) == ("act/Erf", 5)
    assert (gelu.inputs, gelu.output) == (("t0",), output)
    plain = Net(*SHAPE)
    assert [str(gelu.key)] == keys_of(plain, plain.node("Gelu", "x"))


@pytest.mark.parametrize("power", [True, False])
def test_so_is_a_gelu_by_tanh(power):
    net = Net(*SHAPE)
    keys = keys_of(net, spell_tanh_gelu(net, "x", power=power))
    plain = Net(*SHAPE)
    assert keys == keys_of(plain, plain.node("Gelu", "x", approximate="tanh"))


def test_a_layer_normalization_of_nine_nodes_is_one_layer():
    net = Net(*SHAPE, opset=13)
    model = net.model(spell_layer_norm(net, "x"))
    (norm,) = layers(model)
    assert (norm.name, len(norm.nodes), norm.params) == ("norm", 9, 16)
    assert count(model).params == 16
    plain = Net(*SHAPE)
    parts = plain.random("g", 8), plain.random("b", 8)
    output = plain.node("LayerNormalization", "x", *parts, epsilon=1e-6)
    assert [str(norm.key)] == keys_of(plain, output)


def test_what_only_looks_like_one_stays_apart():
    net = Net(*SHAPE)
    assert len(keys_of(net, spell_gelu(net, "x", "div", root=1.5))) == 5
    net = Net(*SHAPE, opset=13)
    assert len(keys_of(net, spell_layer_norm(net, "x", axes=(1,)))) == 9


def test_a_tensor_inside_that_is_read_elsewhere_keeps_the_nodes_apart():
    net = Net(*SHAPE)
    output = spell_gelu(net, "x", "div first")
    erf = next(node for node in net.nodes if node.op_type == "Erf")
    assert len(keys_of(net, output, net.node("Neg", erf.output[0]))) == 6
    net = Net(*SHAPE)
    output = spell_gelu(net, "x", "div last")
    erf = next(node for node in net.nodes if node.op_type == "Erf")
    assert len(keys_of(net, output, erf.output[0])) == 5


def test_a_batch_normalization_takes_its_activation():
    net = Net(1, 4, 8, 8)
    means = [net.random(part, 4) for part in ("weight", "bias", "mean")]
    variance = net.constant("var", np.ones(4, np.float32))
    normal = net.node("BatchNormalization", "x", *means, variance, name="norm")
    (layer,) = layers(net.model(net.node("Relu", normal, name="relu")))
    assert str(layer.key) == "BatchNormalization[1x4x8x8->1x4x8x8]{act=Relu}@fp32"
