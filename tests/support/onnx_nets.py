"""Small ONNX graphs in the style of torch exports, built by hand, for tests of the graph rooms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwbench.network.graph import load
from hwbench.network.ort import onnxruntime


class Net:
    """Builds a graph node by node; every method returns the tensor it made."""

    def __init__(self, *shape: int, opset: int = 20) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"x": shape[1]}
        self.shape, self.opset = shape, opset
        self.rng = np.random.default_rng(7)

    def constant(self, name: str, value: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, name: str, *shape: int) -> str:
        spread = 1 / np.sqrt(np.prod(shape[1:]))
        return self.constant(name, (self.rng.standard_normal(shape) * spread).astype(np.float32))

    def node(
        self, op: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any
    ) -> str:
        out = f"t{len(self.nodes)}"
        names = [out, *(f"{out}_{i}" for i in range(1, outputs))]
        self.nodes.append(
            helper.make_node(op, list(inputs), names, name=name or f"{out}/{op}", **attributes)
        )
        self.channels[out] = self.channels.get(inputs[0], 0) if inputs else 0
        return out

    def conv(
        self,
        x: str,
        name: str,
        width: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        group: int = 1,
        bn: bool = True,
        act: str = "",
    ) -> str:
        """Convolution, batch normalization left in the graph, activation.

        `group=0` is depth-wise.
        """
        inner = self.channels[x]
        groups = group or inner
        parameters = [self.random(f"{name}.conv.weight", width, inner // groups, kernel, kernel)]
        if not bn:
            parameters.append(self.random(f"{name}.conv.bias", width))
        pads = [kernel // 2] * 4
        window = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": pads,
            "group": groups,
        }
        out = self.node("Conv", x, *parameters, name=f"{name}.conv", **window)
        if bn:
            means = [self.random(f"{name}.bn.{part}", width) for part in ("weight", "bias", "mean")]
            out = self.node(
                "BatchNormalization",
                out,
                *means,
                self._ones(f"{name}.bn.var", width),
                name=f"{name}.bn",
            )
        if act == "Clip":
            bounds = [
                self.constant(f"{name}.act.{i}", np.float32(bound))
                for i, bound in enumerate((0, 6))
            ]
            out = self.node("Clip", out, *bounds, name=f"{name}.act/Clip")
        elif act:
            out = self.node(act, out, name=f"{name}.act/{act}")
        self.channels[out] = width
        return out

    def linear(self, x: str, name: str, inner: int, width: int) -> str:
        weight, bias = (
            self.random(f"{name}.weight", width, inner),
            self.random(f"{name}.bias", width),
        )
        return self.node("Gemm", x, weight, bias, name=name, transB=1)

    def flatten(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.constant(f"{x}.shape", np.array(shape, np.int64)))

    def head(self, x: str, classes: int = 5) -> str:
        pooled = self.node("GlobalAveragePool", x, name="pool")
        flat = self.flatten(pooled, self.shape[0], self.channels[x])
        return self.linear(flat, "fc", self.channels[x], classes)

    def _ones(self, name: str, width: int) -> str:
        return self.constant(name, np.linspace(0.5, 1.5, width).astype(np.float32))

    def model(self, *outputs: str) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", onnx.TensorProto.FLOAT, self.shape)],
            [value(name, onnx.TensorProto.FLOAT, None) for name in outputs],
            self.weights,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return load(
            helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        )


def mobilenet() -> onnx.ModelProto:
    """Depth-wise separable blocks, one inverted residual, batch 2."""
    net = Net(2, 3, 16, 16)
    x = net.conv("x", "stem", 8, stride=2, act="Relu")
    x = net.conv(x, "one.dw", 8, group=0, act="Relu")
    x = net.conv(x, "one.pw", 12, 1, act="Relu")
    y = net.conv(x, "two.expand", 24, 1, act="Clip")
    y = net.conv(y, "two.dw", 24, group=0, act="Clip")
    y = net.conv(y, "two.project", 12, 1)
    x = net.node("Add", x, y, name="two/Add")
    return net.model(net.head(x))


def resnet() -> onnx.ModelProto:
    """A stem, one identity block, one down-sampling block, one identity block."""
    net = Net(1, 3, 16, 16)
    x = net.conv("x", "stem", 6, act="Relu")
    x = net.node(
        "MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], name="maxpool"
    )
    for block, width, stride in (("layer1.0", 6, 1), ("layer2.0", 10, 2), ("layer2.1", 10, 1)):
        skip = (
            net.conv(x, f"{block}.down", width, 1, stride=stride, bn=False)
            if width != net.channels[x]
            else x
        )
        y = net.conv(x, f"{block}.first", width, stride=stride, act="Relu")
        y = net.conv(y, f"{block}.second", width)
        x = net.node(
            "Relu", net.node("Add", y, skip, name=f"{block}/Add"), name=f"{block}.relu/Relu"
        )
    return net.model(net.head(x))


def vgg() -> onnx.ModelProto:
    """Convolutions with biases, pooling, and a flattened 4x4 map before the linear layers."""
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "features.0", 6, bn=False, act="Relu")
    x = net.conv(x, "features.1", 7, bn=False, act="Relu")
    x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], name="pool")
    x = net.linear(net.node("Flatten", x, axis=1), "fc1", 7 * 16, 20)
    return net.model(net.linear(net.node("Relu", x, name="relu/Relu"), "fc2", 20, 4))


def inception() -> onnx.ModelProto:
    """Two branches side by side, then a convolution with squeeze-and-excitation, then a transposed
    convolution.
    """
    net = Net(1, 3, 8, 8)
    x = net.conv("x", "stem", 6, act="Relu")
    x = net.node(
        "Concat",
        net.conv(x, "left", 4, 1, act="Relu"),
        net.conv(x, "right", 5, act="Relu"),
        axis=1,
        name="cat",
    )
    net.channels[x] = 9
    x = net.conv(x, "mixed", 7, act="Relu")
    gate = net.conv(
        net.node("GlobalAveragePool", x, name="se.pool"), "se.squeeze", 3, 1, bn=False, act="Relu"
    )
    gate = net.conv(gate, "se.excite", 7, 1, bn=False, act="Sigmoid")
    x = net.node("Mul", x, gate, name="se/Mul")
    parameters = net.random("up.weight", 7, 4, 2, 2), net.random("up.bias", 4)
    x = net.node("ConvTranspose", x, *parameters, name="up", kernel_shape=[2, 2], strides=[2, 2])
    net.channels[x] = 4
    return net.model(net.head(x))


def tokens() -> onnx.ModelProto:
    """A map turned into tokens, then a block of LayerNormalization, MatMul, bias and residual
    addition, as in ConvNeXt.
    """
    net = Net(1, 3, 4, 4)
    x = net.node("Transpose", net.conv("x", "stem", 6, bn=False), perm=[0, 2, 3, 1], name="permute")
    scale, shift = net.random("norm.weight", 6), net.random("norm.bias", 6)
    y = net.node("LayerNormalization", x, scale, shift, name="norm", axis=-1)
    y = net.node("MatMul", y, net.random("up.weight", 6, 10), name="up")
    y = net.node(
        "Relu", net.node("Add", y, net.random("up.bias", 10), name="up/Add"), name="act/Relu"
    )
    y = net.node("MatMul", y, net.random("down.weight", 10, 6), name="down")
    x = net.node("Add", x, y, name="residual")
    pooled = net.node(
        "ReduceMean", x, net.constant("axes", np.array([1, 2], np.int64)), name="pool", keepdims=0
    )
    return net.model(net.linear(pooled, "fc", 6, 5))


def run(model: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    """First output of the model for a random input."""
    session = onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (value,) = session.get_inputs()
    return session.run(
        None, {value.name: np.random.default_rng(seed).random(value.shape, np.float32)}
    )[0]
