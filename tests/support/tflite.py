"""Small `.tflite` networks with random weights."""

from __future__ import annotations

import numpy as np

from hwbench.network.graph import load
from hwbench.network.graph.view import GraphView
from hwbench.network.tflite import describe
from hwbench.network.tflite.writing import SAME, NewOperator, NewTensor, write_model
from hwbench.network.workload import Workload

RELU6 = 3
VALID = 1


def random_values(*shape: int, dtype: str = "float32") -> bytes:
    values = np.random.default_rng(sum(shape)).uniform(-0.2, 0.2, shape)
    return values.astype(dtype).tobytes()


def depthwise_network(width: int = 8, name: str = "net.tflite") -> Workload:
    """A convolution with a pad and an activation of their own, a residual block, a classifier."""
    pads = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32).tobytes()
    axes = np.array([1, 2], np.int32).tobytes()
    image = (1, 8, 8, width)
    tensors = [
        NewTensor("image", (1, 16, 16, 3)),
        NewTensor("pads", (4, 2), "int32", pads),
        NewTensor("padded", (1, 18, 18, 3)),
        NewTensor("w0", (width, 3, 3, 3), data=random_values(width, 3, 3, 3)),
        NewTensor("stem", image),
        NewTensor("stem/relu", image),
        NewTensor("w1", (1, 3, 3, width), data=random_values(1, 3, 3, width)),
        NewTensor("block/depthwise", image),
        NewTensor("w2", (width, 1, 1, width), data=random_values(width, 1, 1, width)),
        NewTensor("block/project", image),
        NewTensor("block/add", image),
        NewTensor("block/relu", image),
        NewTensor("axes", (2,), "int32", axes),
        NewTensor("pool", (1, width)),
        NewTensor("w3", (10, width), data=random_values(10, width)),
        NewTensor("fc", (1, 10)),
        NewTensor("probs", (1, 10)),
        NewTensor("b0", (width,), data=random_values(width)),
        NewTensor("b3", (10,), data=random_values(10)),
    ]
    operators = [
        NewOperator("PAD", (0, 1), (2,)),
        NewOperator("CONV_2D", (2, 3, 17), (4,), (VALID, 2, 2, 0, 1, 1)),
        NewOperator("RELU", (4,), (5,)),
        NewOperator("DEPTHWISE_CONV_2D", (5, 6, 17), (7,), (SAME, 1, 1, 1, RELU6, 1, 1)),
        NewOperator("CONV_2D", (7, 8, 17), (9,), (SAME, 1, 1, 0, 1, 1)),
        NewOperator("ADD", (9, 5), (10,), (0,)),
        NewOperator("RELU", (10,), (11,)),
        NewOperator("MEAN", (11, 12), (13,), (0,)),
        NewOperator("FULLY_CONNECTED", (13, 14, 18), (15,), (0,)),
        NewOperator("SOFTMAX", (15,), (16,), (1.0,)),
    ]
    return describe(write_model(tensors, operators, (0,), (16,)), name)


def half_network() -> Workload:
    """A convolution whose weights are kept in half precision."""
    tensors = [
        NewTensor("image", (1, 16, 16, 3)),
        NewTensor("w16", (8, 3, 3, 3), "float16", random_values(8, 3, 3, 3, dtype="float16")),
        NewTensor("w", (8, 3, 3, 3)),
        NewTensor("conv", (1, 16, 16, 8)),
        NewTensor("b", (8,), data=random_values(8)),
    ]
    operators = [
        NewOperator("DEQUANTIZE", (1,), (2,), version=3),
        NewOperator("CONV_2D", (0, 2, 4), (3,), (SAME, 1, 1, 0, 1, 1)),
    ]
    return describe(write_model(tensors, operators, (0,), (3,)), "half.tflite")


def int8_network() -> Workload:
    """A convolution and a linear layer in int8, scales for each channel."""
    weights = np.random.default_rng(0).integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    linear = np.random.default_rng(1).integers(-127, 128, (4, 8 * 64)).astype(np.int8)
    scale = (0.02,)
    tensors = [
        NewTensor("image", (1, 8, 8, 3), "int8", scales=scale),
        NewTensor("w", (8, 3, 3, 3), "int8", weights.tobytes(), scales=(0.01,) * 8),
        NewTensor("b", (8,), "int32", np.zeros(8, np.int32).tobytes(), scales=(0.02 * 0.01,) * 8),
        NewTensor("conv", (1, 8, 8, 8), "int8", scales=scale),
        NewTensor("w2", (4, 8 * 64), "int8", linear.tobytes(), scales=(0.01,)),
        NewTensor("b2", (4,), "int32", np.zeros(4, np.int32).tobytes(), scales=(0.02 * 0.01,)),
        NewTensor("fc", (1, 4), "int8", scales=scale),
    ]
    operators = [
        NewOperator("CONV_2D", (0, 1, 2), (3,), (SAME, 1, 1, 0, 1, 1), version=3),
        NewOperator("FULLY_CONNECTED", (3, 4, 5), (6,), (0,), version=4),
    ]
    return describe(write_model(tensors, operators, (0,), (6,)), "int8.tflite")


def convert_by_hand(workload: Workload) -> bytes:
    """What a converter makes of a network of 3x3 convolutions, sums, a mean and a linear layer."""
    view = GraphView(load(workload.onnx))
    tensors: list[NewTensor] = []
    operators: list[NewOperator] = []
    numbers: dict[str, int] = {}

    def constant(values: np.ndarray) -> int:
        data = np.ascontiguousarray(values)
        tensors.append(NewTensor("", data.shape, data.dtype.name, data.tobytes()))
        return len(tensors) - 1

    def tensor(name: str, label: str) -> int:
        shape = view.shape(name)
        if len(shape) == 4:
            shape = (shape[0], *shape[2:], shape[1])
        tensors.append(NewTensor(label, shape))
        numbers[view.resolve(name)] = len(tensors) - 1
        return len(tensors) - 1

    (image,) = (tensor(name, name) for name in view.inputs)
    for index in view.active:
        node = view.nodes[index]
        read = [numbers[name] for name in view.activations(node)]
        values = [view.value(name) for name in node.input if view.is_constant(name)]
        if node.op_type == "Conv":
            read += [constant(values[0].transpose(0, 2, 3, 1)), constant(values[1])]
            kind, options = "CONV_2D", (SAME, 1, 1, 0, 1, 1)
        elif node.op_type == "Gemm":
            read += [constant(values[0]), constant(values[1])]
            kind, options = "FULLY_CONNECTED", (0,)
        elif node.op_type in {"GlobalAveragePool", "ReduceMean"}:
            read.append(constant(np.array([1, 2], np.int32)))
            kind, options = "MEAN", (len(view.shape(node.output[0])) == 4,)
        elif node.op_type in {"Flatten", "Reshape"}:
            read.append(constant(np.array(view.shape(node.output[0]), np.int32)))
            kind, options = "RESHAPE", ()
        else:
            kind, options = {"Add": ("ADD", (0,)), "Relu": ("RELU", ())}[node.op_type]
        written = tensor(node.output[0], node.name)
        operators.append(NewOperator(kind, tuple(read), (written,), options))
    (output,) = (numbers[name] for name in view.outputs)
    return write_model(tensors, operators, (image,), (output,))
