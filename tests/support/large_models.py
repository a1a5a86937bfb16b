"""ONNX models with weights in other files, small ones that are read as if they were too large for
one model, and one that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from hwbench.network.intake import archives, files, onnx_external
from hwbench.network.intake.torch_files import ReadRequest
from hwbench.network.workload import Workload


def read_as_too_large(path: Path, monkeypatch: pytest.MonkeyPatch, **request: Any) -> Workload:
    """Read a file in this process, as if one model could hold no more than 2,000 bytes."""
    monkeypatch.setattr(onnx_external, "PROTOBUF_LIMIT", 2000)
    monkeypatch.setattr(onnx_external, "_SMALL_BYTES", 256)
    precision = request.pop("precision", "fp32")
    asked = ReadRequest(str(path), **request)
    exported = files.export_onnx(archives.inspect(path), path, asked)
    return files.describe_workload(exported, asked, precision, path.stat().st_size)


def place(tensor: TensorProto, location: str, offset: int, length: int) -> TensorProto:
    """Take the data out of a tensor, and say where it lies."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def linear_weights(sizes: Sequence[int], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Weights and biases of linear layers from each of these sizes to the next."""
    random = np.random.default_rng(seed)
    weights = {}
    for index, (inner, outer) in enumerate(pairwise(sizes)):
        values = random.standard_normal((inner, outer)) / np.sqrt(inner)
        weights[f"fc{index}.weight"] = values.astype(np.float32)
        weights[f"fc{index}.bias"] = random.standard_normal(outer).astype(np.float32)
    return weights


def linear_net(tensors: Sequence[TensorProto]) -> ModelProto:
    """A network of linear layers with ReLU, whose weights and biases follow each other."""
    nodes, tensor = [], "x"
    for index in range(len(tensors) // 2):
        weight, bias = tensors[2 * index], tensors[2 * index + 1]
        nodes += [
            helper.make_node("MatMul", [tensor, weight.name], [f"product{index}"]),
            helper.make_node("Add", [f"product{index}", bias.name], [f"sum{index}"]),
            helper.make_node("Relu", [f"sum{index}"], [f"relu{index}"]),
        ]
        tensor = f"relu{index}"
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, tensors[0].dims[0]]),
        helper.make_tensor_value_info(tensor, TensorProto.FLOAT, [1, tensors[-2].dims[1]]),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def save_apart(
    path: Path,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    first_offset: int = 0,
    one_file_each: bool = False,
) -> Path:
    """Save a network of linear layers with all its weights in `data.bin`, or in a file each."""
    tensors, offset, written = [], first_offset, b"\xff" * first_offset
    for name, values in weights.items():
        location, begin = ("data.bin", offset) if not one_file_each else (f"parts/{name}", 0)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        tensors.append(place(tensor, location, begin, values.nbytes))
        if one_file_each:
            (path.parent / "parts").mkdir(exist_ok=True)
            (path.parent / location).write_bytes(values.tobytes())
        written += values.tobytes()
        offset += values.nbytes
    if not one_file_each:
        (path.parent / "data.bin").write_bytes(written)
    path.write_bytes(linear_net(tensors).SerializeToString())
    return path


def save_huge(path: Path, width: int = 36864, layers: int = 4) -> Path:
    """Save a network of over 2 GiB of weights, all zeros but a few, which take no disk."""
    tensors, offset = [], 4096
    with (path.parent / "data.bin").open("wb") as file:
        for index in range(layers):
            shapes = ((4096, width), (width,)) if index % 2 == 0 else ((width, 4096), (4096,))
            for kind, shape in zip(("weight", "bias"), shapes, strict=True):
                length = 4 * int(np.prod(shape))
                tensor = TensorProto(
                    name=f"fc{index}.{kind}", data_type=TensorProto.FLOAT, dims=shape
                )
                tensors.append(place(tensor, "data.bin", offset, length))
                file.seek(offset)
                file.write(np.arange(1, 9, dtype=np.float32).tobytes())
                offset += length
        file.truncate(offset)
    path.write_bytes(linear_net(tensors).SerializeToString())
    return path
