"""A smaller file, or a faster network? Clustered weights and low-rank factors, by the bytes they
save and the time.

    python -m runners.studies.clustering_lowrank

Clustering: every weight of a layer becomes one of a few values (Han, Mao and Dally, Deep
Compression, 2015, arXiv 1510.00149, section 3). Low rank: a k x k convolution becomes one to fewer
channels and a 1x1 convolution behind it (Zhang et al., Accelerating Very Deep Convolutional
Networks, 2015, arXiv 1505.06798, section 3.1), here by plain singular value decomposition.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from runners.studies._groups import RATIOS, Row, by_name, measured, raw_of, rows_of, said
from runners.studies._pictures import COLOURS, figure, points
from runners.studies._results import save_study
from runners.studies._variants import exported, zipped_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

NETWORK, SIDE = "resnet18", 224
CLUSTERS = (256, 16, 4)
RANKS = (0.5, 0.25, 0.125)
"""Shares of the output channels that are left between the two factors."""
ROUNDS = 10
"""Of Lloyd's algorithm."""
SETTINGS = Settings(budget_s=130, session_s=1.2, layers=False)


def main() -> None:
    """Measure all variants and write results/clustering_lowrank/."""
    from hwbench.network import zoo

    module = zoo.build(NETWORK)
    modules = {"as it is": module}
    modules |= {f"{count} clusters": with_clusters(module, count) for count in CLUSTERS}
    modules |= {f"rank {share:g}": with_factors(module, share) for share in RANKS}
    workloads: dict[str, Workload] = {name: exported(one, 3, SIDE) for name, one in modules.items()}
    with CpuOrt() as device:
        found = measured(device, workloads, SETTINGS)
    rows = rows_of(found)
    first = next(iter(workloads.values()))
    for row in rows:
        workload = workloads[row["name"]]
        row["file"] = workload.file_bytes / first.file_bytes
        row["zipped"] = zipped_bytes(workload) / first.file_bytes
    known = by_name(rows)
    few, low = known[f"{CLUSTERS[1]} clusters"], known[f"rank {RANKS[1]:g}"]
    save_study(
        "clustering_lowrank",
        question=(
            "Weight clustering and low-rank factors both make the file smaller. Do they make the"
            " network faster?"
        ),
        answer=(
            f"{few['name']} per layer leave {few['zipped']:.2f} of the bytes after compression and"
            f" {said(few)} of the latency; factors of a quarter of the channels leave"
            f" {low['zipped']:.2f} of the bytes, {low['macs']:.2f} of the MACs and {said(low)} of"
            " the latency."
        ),
        rows=rows,
        raw=raw_of(found),
        picture=draw(rows),
        command="make study NAME=clustering_lowrank",
        notes=(
            f"{RATIOS} file: bytes of the ONNX model over those of the original; zipped: the same"
            " after zlib, over the original file's bytes. clusters: values per layer, by k-means;"
            " stored and computed as 32-bit floats, as ONNX Runtime has no kernel that reads a"
            " codebook. rank: channels between the two factors, as a share of the output channels,"
            " in every 3x3 convolution. Weights are untrained, so nothing is said about accuracy:"
            " trained weights are nearer to low rank than random ones."
        ),
    )


def with_clusters(module: nn.Module, count: int) -> nn.Module:
    """A copy whose weights take `count` values in each convolution and linear layer."""
    import torch
    from torch import nn

    changed = copy.deepcopy(module)
    for layer in changed.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weights = clustered(layer.weight.detach().numpy(), count)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weights))
    return changed


def clustered(weights: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Each weight replaced by the nearest of `count` values: k-means in one dimension, from evenly
    spaced values.

    Evenly spaced is what the paper found best (section 3.2): few but large weights keep a value of
    their own.
    """
    flat = weights.ravel()
    values = np.linspace(flat.min(), flat.max(), count)
    for _ in range(ROUNDS):
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, flat)
        sums, sizes = np.bincount(nearest, flat, count), np.bincount(nearest, minlength=count)
        values = np.where(sizes > 0, sums / np.maximum(sizes, 1), values)
    nearest = np.searchsorted((values[1:] + values[:-1]) / 2, flat)
    return values[nearest].astype(weights.dtype).reshape(weights.shape)


def with_factors(module: nn.Module, share: float) -> nn.Module:
    """A copy whose 3x3 convolutions are two factors with that share of the output channels between
    them.
    """
    from torch import nn

    changed = copy.deepcopy(module)
    for path, layer in list(changed.named_modules()):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            parent, _, name = path.rpartition(".")
            setattr(
                changed.get_submodule(parent),
                name,
                factors(layer, max(1, round(share * layer.out_channels))),
            )
    return changed


def factors(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """The 3x3 convolution to `rank` channels and the 1x1 convolution behind it that together come
    closest to `layer`.
    """
    import torch
    from torch import nn

    weight = layer.weight.detach()
    left, sizes, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    window: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "bias": False}
    first = nn.Conv2d(layer.in_channels, rank, 3, **window)
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    with torch.no_grad():
        first.weight.copy_((sizes[:rank, None] * right[:rank]).reshape(first.weight.shape))
        second.weight.copy_(left[:, :rank, None, None])
        if layer.bias is not None and second.bias is not None:
            second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def draw(rows: Sequence[Row]) -> Any:
    """Latency over bytes."""
    known = by_name(rows)
    few, low = known[f"{CLUSTERS[1]} clusters"], known[f"rank {RANKS[1]:g}"]
    drawn, axes = figure(
        f"Clusters: {few['zipped']:.0%} of the bytes, {few['ratio']:.0%} of the latency. Low rank:"
        f" {low['zipped']:.0%}, {low['ratio']:.0%}",
        xlabel="bytes after compression, ratio to the original file",
        ylabel="latency, ratio to the original",
    )
    for colour, kind in zip(COLOURS, ("clusters", "rank", "as it is"), strict=False):
        some = [row for row in rows if kind in row["name"]]
        points(
            axes,
            [row["zipped"] for row in some],
            some,
            color=colour,
            label={"rank": "low rank"}.get(kind, kind),
        )
        for place, row in enumerate(some):
            beside = {
                "xytext": (5, 12 if place % 2 else -14),
                "textcoords": "offset points",
                "fontsize": 8,
            }
            axes.annotate(row["name"], (row["zipped"], row["ratio"]), **beside)
    axes.set_xlim(0, 1.1)
    axes.set_ylim(0, 1.2)
    axes.legend(loc="lower right")
    return drawn


if __name__ == "__main__":
    main()
