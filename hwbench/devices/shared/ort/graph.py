"""What ONNX Runtime makes of a graph before it executes it, and the small graphs that are used to learn its habits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from hwbench.devices.shared.ort.layers import ExecutedNode
from hwbench.devices.shared.ort.profile import ProfiledRuns, read_profile
from hwbench.errors import OutputParseError
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec


def executed_nodes(graph: bytes) -> list[ExecutedNode]:
    """The nodes of a graph that ONNX Runtime executes (`Engine.graph`), in order."""
    nodes = _parse(graph).node
    return [
        ExecutedNode(n.name, n.op_type, n.domain, tuple(filter(None, n.input)), tuple(n.output))
        for n in nodes
    ]


def read_trace(profile: bytes, runs: int) -> ProfiledRuns:
    """The last `runs` inferences of a profile that ONNX Runtime wrote.

    Raises:
        OutputParseError: It is not such a profile, or holds fewer inferences.
    """
    try:
        events = json.loads(profile)
    except ValueError as error:
        raise OutputParseError(f"ONNX Runtime's profile cannot be read: {error}") from error
    return read_profile(events, last=runs)


def channel_block(graph: bytes) -> int:
    """Channels in a block of the blocked layout on a processor (16 with AVX-512 and on ARM, 8 with AVX2).

    Read off the weights of a convolution to one output channel, which the runtime pads to a whole
    block; 1 if there is no blocked layout.

    Args:
        graph: What is executed for `block_workload` there.
    """
    return max(
        (int(weights.dims[0]) for weights in _parse(graph).initializer if len(weights.dims) == 4),
        default=1,
    )


@cache
def block_workload() -> Workload:
    """One convolution to a single output channel."""
    return _convolutions("block", [64, 1], side=8)


@cache
def chain_workload(length: int) -> Workload:
    """A network of `length` equal small convolutions, 16 channels on 32 x 32: some 45 us each on one core with AVX-512."""
    return _convolutions(f"chain of {length}", [16] * (length + 1), side=32)


def _convolutions(name: str, channels: Sequence[int], side: int) -> Workload:
    """3x3 convolutions in a row with random weights, on maps of `side` x `side`."""
    import onnx
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    nodes, weights = [], []
    for i, (before, after) in enumerate(pairwise(channels)):
        values = random.uniform(-1, 1, (after, before, 3, 3)).astype(np.float32) / (3 * before)
        weights.append(onnx.numpy_helper.from_array(values, f"w{i}"))
        nodes.append(
            helper.make_node(
                "Conv",
                [f"t{i}", f"w{i}"],
                [f"t{i + 1}"],
                f"n{i}",
                kernel_shape=[3, 3],
                pads=[1] * 4,
            )
        )
    ends = [
        helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [1, channels[i], side, side])
        for i in (0, len(channels) - 1)
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    return Workload(
        name, model, (TensorSpec("t0", (1, channels[0], side, side)),), 1, "fp32", 0, 0, len(model)
    )


def _parse(graph: bytes) -> Any:
    """The graph of an ONNX model whose larger weights may be missing.

    Raises:
        OutputParseError: It is no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load_model_from_string(graph).graph
    except DecodeError as error:
        raise OutputParseError(
            f"the graph that ONNX Runtime wrote cannot be read: {error}"
        ) from error
