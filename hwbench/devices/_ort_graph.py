"""What ONNX Runtime makes of a graph before it executes it, and the small graphs that are used to learn its habits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from hwbench.devices._ort_layers import ExecutedNode
from hwbench.devices._ort_python import create_session, session_options
from hwbench.errors import OutputParseError
from hwbench.formats.ort_profile import ProfiledRuns, read_profile
from hwbench.workload import TensorSpec, Workload


def executed_graph(model: bytes, cores: Sequence[int], folder: Path) -> list[ExecutedNode]:
    """The nodes that ONNX Runtime executes for `model` on this processor, in order; `folder` is used in passing."""
    import onnx

    path = folder / "optimised.onnx"
    options = session_options(cores)
    options.optimized_model_filepath = str(path)
    # Weights go into a file of their own, which need not be read back.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimised.bin")
    create_session(model, options)
    graph = onnx.load(path, load_external_data=False).graph
    for file in folder.glob("optimised.*"):
        file.unlink()
    return [ExecutedNode(n.name, n.op_type, n.domain, tuple(filter(None, n.input)), tuple(n.output)) for n in graph.node]


def read_trace(path: Path, runs: int) -> ProfiledRuns:
    """The last `runs` inferences of a profile that ONNX Runtime wrote; the file is removed.

    Raises:
        OutputParseError: It is not such a profile, or holds fewer inferences.
    """
    try:
        events = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise OutputParseError(f"ONNX Runtime's profile {path.name} cannot be read: {error}") from error
    path.unlink()
    return read_profile(events, last=runs)


@cache
def channel_block() -> int:
    """Channels in a block of the blocked layout on this processor (16 with AVX-512 and on ARM, 8 with AVX2).

    Read off the weights of an optimised convolution to one output channel, which the runtime pads to a whole block; 1 if
    there is no blocked layout.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="hwbench-") as folder:
        path = Path(folder) / "block.onnx"
        options = session_options([0])
        options.optimized_model_filepath = str(path)
        create_session(_convolutions([64, 1], side=8), options)
        weights = onnx.load(path).graph.initializer
    return max((int(w.dims[0]) for w in weights if len(w.dims) == 4), default=1)


@cache
def chain_workload(length: int) -> Workload:
    """A network of `length` equal small convolutions, 16 channels on 32 x 32: some 45 us each on one core with AVX-512."""
    model = _convolutions([16] * (length + 1), side=32)
    return Workload(f"chain of {length}", model, (TensorSpec("t0", (1, 16, 32, 32)),), 1, "fp32", 0, 0, len(model))


def _convolutions(channels: Sequence[int], side: int) -> bytes:
    """A model of 3x3 convolutions in a row with random weights, on maps of `side` x `side`."""
    import onnx
    from onnx import TensorProto, helper

    random = np.random.default_rng(0)
    nodes, weights = [], []
    for i, (before, after) in enumerate(pairwise(channels)):
        values = random.uniform(-1, 1, (after, before, 3, 3)).astype(np.float32) / (3 * before)
        weights.append(onnx.numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"t{i}", f"w{i}"], [f"t{i + 1}"], f"n{i}", kernel_shape=[3, 3], pads=[1] * 4))
    ends = [
        helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [1, channels[i], side, side]) for i in (0, len(channels) - 1)
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())
