"""Zeros anywhere against whole channels away, at equal parameters: which of them does a dense
runtime notice?

    python -m runners.studies.sparsity

Wen et al., Learning Structured Sparsity in Deep Neural Networks (2016, arXiv 1608.03665), figure 1,
found hardly any speed-up from zeros scattered over AlexNet's convolutions, at over 95 % of them
too. Here ONNX Runtime runs them, and a whole ResNet-18.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.graph import load
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from runners.studies._groups import RATIOS, Row, measured, raw_of, rows_of, said
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study
from runners.studies._variants import exported, narrowed, zipped_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Convolution:
    """A convolution of a network: channels, square kernel, stride, side of the map it reads."""

    cin: int
    cout: int
    kernel: int
    stride: int
    side: int


ALEXNET = {
    "conv1": Convolution(3, 64, 11, 4, 224),
    "conv2": Convolution(64, 192, 5, 1, 27),
    "conv3": Convolution(192, 384, 3, 1, 13),
    "conv4": Convolution(384, 256, 3, 1, 13),
    "conv5": Convolution(256, 256, 3, 1, 13),
}
"""AlexNet in its form of a single tower (Krizhevsky, 2014, arXiv 1404.5997)."""
NETWORK = "zoo:resnet18"
KEPT = 0.1
"""Share of the parameters that both ways of pruning keep."""
STEP = 4
"""Narrower widths are multiples of this, as the blocked layout asks for (`results/odd_widths/`)."""
LAYER = Settings(budget_s=36, session_s=0.4, layers=False)
WHOLE = Settings(budget_s=80, session_s=1.2, layers=False)


def main() -> None:
    """Measure all and write results/sparsity/."""
    import torch

    torch.manual_seed(0)
    rows: list[Row] = []
    raw = {}
    groups = {f"AlexNet {name}": (layer_variants(layer), LAYER) for name, layer in ALEXNET.items()}
    dense = load_workload(NETWORK)
    groups["ResNet-18"] = (variants(dense, narrowed_to(dense, KEPT)), WHOLE)
    with CpuOrt() as device:
        for name, (workloads, settings) in groups.items():
            found = measured(device, workloads, settings)
            sizes = {one: zipped_bytes(workload) for one, workload in workloads.items()}
            share = 1 - workloads["narrower"].params / workloads["dense"].params
            for row in rows_of(found, network=name):
                zeros = share if row["name"] == "zeros" else 0.0
                rows.append(row | {"zeros": zeros, "zipped": sizes[row["name"]] / sizes["dense"]})
            raw[name] = raw_of(found)
    scattered, narrower = rows[-2:]
    save_study(
        "sparsity",
        question=(
            "Are 90 % zeros as good as 90 % fewer parameters? Zeros anywhere against narrower"
            " layers."
        ),
        answer=(
            f"ResNet-18 with {scattered['zeros']:.1%} of its weights zero takes {said(scattered)}"
            " of the dense network's latency; with as many weights left, but in narrower layers,"
            f" {said(narrower)}."
        ),
        rows=rows,
        raw=raw,
        picture=draw(rows),
        command="make study NAME=sparsity",
        notes=(
            f"{RATIOS} zeros: the smallest weights of each layer are 0, the others scaled up so"
            f" that activations keep their size. narrower: fewer filters, in steps of {STEP}; zeros"
            " has as many weights left as it. Weights are untrained: this is about latency, not"
            " accuracy. params of the rows with zeros counts them, as the runtime does. zipped:"
            " bytes of the file after zlib, where zeros do pay. hwbench says `zeros_left_dense`"
            " when it is given such a model. A runtime with sparse kernels could gain from the"
            " zeros; this one multiplies by them."
        ),
    )


def layer_variants(layer: Convolution) -> dict[str, Workload]:
    """One layer: dense, with zeros, and with fewer filters; all read the same map."""
    return variants(one_layer(layer), one_layer(replace(layer, cout=step_width(layer.cout, KEPT))))


def variants(dense: Workload, narrower: Workload) -> dict[str, Workload]:
    """The network, the same with zeros, and the narrower one with as many parameters left as the
    zeros leave.
    """
    return {
        "dense": dense,
        "zeros": zeroed(dense, 1 - narrower.params / dense.params),
        "narrower": narrower,
    }


def one_layer(layer: Convolution) -> Workload:
    """A network of a single convolution."""
    from torch import nn

    made = nn.Conv2d(layer.cin, layer.cout, layer.kernel, layer.stride, layer.kernel // 2)
    return exported(nn.Sequential(made), layer.cin, layer.side)


def zeroed(workload: Workload, share: float) -> Workload:
    """The workload with that share of each layer's weights, the smallest, set to zero."""
    from onnx import numpy_helper

    model = load(workload.onnx)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            weights = sparsified(numpy_helper.to_array(tensor), share)
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return replace(workload, artifact=model.SerializeToString())


def sparsified(weights: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Weights with the smallest `share` of them zero and the sum of squares as it was, so that
    activations keep their size.
    """
    flat = np.abs(weights).ravel()
    count = round(share * flat.size)
    result = weights.copy()
    result.ravel()[np.argpartition(flat, count - 1)[:count] if count else []] = 0
    norm = float(np.linalg.norm(result))
    scaled = result * (float(np.linalg.norm(weights)) / norm) if norm else result
    return scaled.astype(weights.dtype)


def narrowed_to(workload: Workload, share: float) -> Workload:
    """The network with all widths times one factor, in multiples of `STEP`, whose parameters come
    closest to `share`.
    """
    tried = [
        narrowed(workload, partial(step_width, factor=factor))
        for factor in np.arange(0.2, 0.5, 0.01)
    ]
    return min(tried, key=lambda one: abs(one.params / workload.params - share))


def step_width(width: int, factor: float) -> int:
    """`width` times `factor`, to the nearest multiple of `STEP`, at least one."""
    return max(STEP, round(width * factor / STEP) * STEP)


def draw(rows: Sequence[Row]) -> Any:
    """Speed-up layer by layer, as in the paper's figure, and of a whole network."""
    zeros, narrower = rows[-2:]
    title = (
        f"As many weights left: zeros x{1 / zeros['ratio']:.2f}, narrower layers"
        f" x{1 / narrower['ratio']:.1f} (ResNet-18)"
    )
    drawn, axes = figure(title, xlabel="", ylabel="speed-up over the dense one")
    names = list(dict.fromkeys(row["network"] for row in rows))
    places = np.arange(len(names))
    for shift, colour, way in zip((-0.2, 0.2), COLOURS, ("zeros", "narrower"), strict=False):
        some = [row for row in rows if row["name"] == way]
        speedups = np.array([1 / row["ratio"] for row in some])
        errors = [
            speedups - [1 / row["high"] for row in some],
            np.array([1 / row["low"] for row in some]) - speedups,
        ]
        axes.bar(places + shift, speedups, 0.4, yerr=errors, capsize=2, color=colour, label=way)
    axes.axhline(1, color="black", lw=0.8)
    axes.set_yscale("log")
    axes.set_xticks(places, names, fontsize=8)
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
