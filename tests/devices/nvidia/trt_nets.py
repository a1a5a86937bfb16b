"""A network whose every layer is one layer of an engine, for tests on paper and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwbench.network.graph import count, load
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec


def convolutions(
    widths: Sequence[int], size: int, name: str = "net", kind: type = np.float32
) -> Workload:
    """3x3 convolutions with ReLU and nothing else: TensorRT makes no layer vanish, as it does with
    a Flatten.
    """
    random = np.random.default_rng(0)
    nodes, weights, channels = [], [], 3
    for index, width in enumerate(widths):
        values = (random.standard_normal((width, channels, 3, 3)) / channels).astype(kind)
        weights.append(numpy_helper.from_array(values, f"features.{index}.weight"))
        inputs = [f"t{index}", f"features.{index}.weight"]
        nodes.append(
            helper.make_node(
                "Conv",
                inputs,
                [f"c{index}"],
                f"features.{index}",
                kernel_shape=[3, 3],
                pads=[1] * 4,
            )
        )
        nodes.append(
            helper.make_node("Relu", [f"c{index}"], [f"t{index + 1}"], f"features.{index}.relu")
        )
        channels = width
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    ends = [
        helper.make_tensor_value_info(tensor, element, [1, width, size, size])
        for tensor, width in (("t0", 3), (f"t{len(widths)}", channels))
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    counts = count(load(data))
    precision = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}[element]
    spec = TensorSpec("t0", (1, 3, size, size), np.dtype(kind).name)
    return Workload(name, data, (spec,), 1, precision, counts.macs, counts.params, len(data))
