"""The graph that ONNX Runtime executes.

It makes it of a network by fusing, converting and inserting nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from hwbench.devices.shared.chains import convolutions
from hwbench.errors import OutputParseError
from hwbench.network.workload import Workload


@dataclass(frozen=True, slots=True)
class ExecutedNode:
    """One node of the graph that the runtime executes, after its optimisations."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def executed_nodes(graph: bytes) -> list[ExecutedNode]:
    """List the nodes of a graph that ONNX Runtime executes (see `Engine.load`), in order."""
    return [
        ExecutedNode(
            node.name,
            node.op_type,
            node.domain,
            tuple(filter(None, node.input)),
            tuple(node.output),
        )
        for node in _parse(graph).node
    ]


def channel_block(graph: bytes) -> int:
    """Find the channels in a block of the blocked layout on a processor.

    They are 16 with AVX-512 and on ARM, 8 with AVX2. The number is read off the weights of a
    convolution to one output channel, which the runtime pads to a whole block.

    Args:
        graph: The graph that the runtime executes for `block_workload` on that processor.

    Returns:
        The channels; 1 if there is no blocked layout.
    """
    channels = 1
    for weights in _parse(graph).initializer:
        if len(weights.dims) == 4:
            channels = max(channels, int(weights.dims[0]))
    return channels


@cache
def block_workload() -> Workload:
    """Make a network of one convolution to a single output channel."""
    return convolutions("block", [64, 1], side=8)


def _parse(graph: bytes) -> Any:
    """Read the graph of an ONNX model whose larger weights may be missing.

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
