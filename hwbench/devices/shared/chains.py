"""What a profiler itself costs, estimated on two chains of equal convolutions.

The chains differ in length, so what grows with the length is the cost of an entry.

The cost is not fitted on the network that is measured: then layers would always add up to the
latency, and that they do would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import median

import numpy as np

from hwbench.devices.shared.turns import TURN
from hwbench.network.workload import Workload
from hwbench.records.tensors import TensorSpec

SHORT_CHAIN, LONG_CHAIN = 6, 30
"""Convolutions of the two chains."""
COST_RUNS, COST_S = 150, 1.0
"""Runs of each chain from which the cost of a CPU's profiler is estimated.

There are fewer where they would take more than these seconds.
"""


@dataclass(frozen=True, slots=True)
class ChainProfile:
    """A chain's inferences, profiled and unprofiled in turns.

    Attributes:
        nodes: Entries of the runtime's profile per inference.
        sums_s: Sum of the entries' times in each profiled inference.
        whole_s: Latency of each profiled inference.
        reference_s: Latency of the unprofiled inference that took turns with each of them.
    """

    nodes: int
    sums_s: Sequence[float]
    whole_s: Sequence[float]
    reference_s: Sequence[float]


def count_chain_runs(run_s: float) -> int:
    """Count the runs of a chain whose inference takes `run_s` seconds."""
    return min(COST_RUNS, max(TURN, round(COST_S / run_s)))


def profile_chains(
    profile: Callable[[Workload], ChainProfile],
) -> tuple[ChainProfile, ChainProfile]:
    """Profile the short and the long chain.

    Args:
        profile: Profiles one chain on the device.
    """
    return profile(chain_workload(SHORT_CHAIN)), profile(chain_workload(LONG_CHAIN))


def node_cost_s(short: ChainProfile, long: ChainProfile) -> float:
    """Estimate the seconds that the profiler adds to each entry's own time.

    The excess of the entries' sum over the unprofiled latency grows with the number of entries. Its
    slope is the cost; a fixed part, which an inference has once, falls out of the difference.
    """
    more = long.nodes - short.nodes
    if more <= 0:  # the runtime made one kernel of each chain
        return max(0.0, _excess_s(long.sums_s, long.reference_s) / max(1, long.nodes))
    slope_s = _excess_s(long.sums_s, long.reference_s) - _excess_s(short.sums_s, short.reference_s)
    return max(0.0, slope_s / more)


def share_inside(short: ChainProfile, long: ChainProfile) -> float:
    """Estimate which share (0 to 1) of the profiler's cost falls inside the entries' own times.

    The rest falls between them. By the difference of the chains, the first is how much the sum of
    the entries grows beyond the unprofiled latency, and the whole cost is how much the profiled
    latency does.
    """
    inside_s = _excess_s(long.sums_s, long.reference_s) - _excess_s(short.sums_s, short.reference_s)
    total_s = _excess_s(long.whole_s, long.reference_s) - _excess_s(
        short.whole_s, short.reference_s
    )
    if total_s <= 0:
        return 0.0
    return min(max(inside_s / total_s, 0.0), 1.0)


def _excess_s(profiled_s: Sequence[float], reference_s: Sequence[float]) -> float:
    """Compute the median difference between inferences that took turns.

    Paired, since the drift of the machine then cancels; the median, since some rounds are
    disturbed.
    """
    pairs = zip(profiled_s, reference_s, strict=True)
    return median(profiled - reference for profiled, reference in pairs)


@cache
def chain_workload(length: int) -> Workload:
    """Make a network of `length` equal small convolutions of 16 channels on 32 x 32.

    Each takes some 45 us on one core with AVX-512.
    """
    return convolutions(f"chain of {length}", [16] * (length + 1), side=32)


def convolutions(name: str, channels: Sequence[int], side: int) -> Workload:
    """Make a network of 3x3 convolutions in a row with random weights.

    Args:
        name: Name of the workload.
        channels: Channels of the input, then of the output of each convolution.
        side: Height and width of all maps.
    """
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
