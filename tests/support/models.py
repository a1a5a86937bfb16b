"""Small workloads for tests: some that only the virtual device can run, some real ONNX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwbench.network.graph import count, load
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec


def told(name: str) -> Workload:
    """A workload whose latency a virtual device is told by its SHA-256; it holds no network."""
    data = name.encode()
    return Workload(name, data, (TensorSpec("x", (1,)),), 1, "fp32", 1000, 100, len(data))


def conv_net(widths: Sequence[int] = (16, 32, 32), size: int = 16, seed: int = 0) -> bytes:
    """An ONNX network: 3x3 convolutions of the given widths with ReLU, global pooling, a linear
    layer to 10 classes.
    """
    random = np.random.default_rng(seed)
    nodes, weights, tensor, channels = [], [], "x", 3

    def weight(name: str, *shape: int) -> str:
        values = (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        weights.append(numpy_helper.from_array(values, name))
        return name

    for index, width in enumerate(widths):
        name = f"features.{index}.conv"
        inputs = [
            tensor,
            weight(f"{name}.weight", width, channels, 3, 3),
            weight(f"{name}.bias", width),
        ]
        nodes.append(
            helper.make_node(
                "Conv", inputs, [f"c{index}"], name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1]
            )
        )
        nodes.append(
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"features.{index}.relu")
        )
        tensor, channels = f"r{index}", width
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"))
    inputs = ["flat", weight("fc.weight", 10, channels), weight("fc.bias", 10)]
    nodes.append(helper.make_node("Gemm", inputs, ["y"], name="fc", transB=1))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def conv_workload(
    widths: Sequence[int] = (16, 32, 32), size: int = 16, name: str = "net"
) -> Workload:
    """`conv_net` as a workload."""
    data = conv_net(widths, size)
    counts = count(load(data))
    return Workload(
        name,
        data,
        (TensorSpec("x", (1, 3, size, size)),),
        1,
        "fp32",
        counts.macs,
        counts.params,
        len(data),
    )
