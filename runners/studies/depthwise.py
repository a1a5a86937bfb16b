"""Depth-wise separable convolutions: does latency fall as the formula 1/O + 1/k^2 says?

    python -m runners.studies.depthwise

A k x k convolution to O channels against a depth-wise k x k and a point-wise one to O channels: the
MACs fall to 1/O + 1/k^2 of what they were (Howard et al., MobileNets, 2017, arXiv 1704.04861,
section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from runners.studies._groups import SMALL_MACS, Row, measured, raw_of, rows_of
from runners.studies._pictures import COLOURS, errors_of, figure
from runners.studies._results import count_macs, save_study
from runners.studies._variants import exported

CHANNELS, KERNELS, SIDES = (16, 64, 256), (3, 5, 7), (7, 14, 28)
MARKS = {3: "o", 5: "s", 7: "^"}
LARGEST_MACS = 5e8
"""Of the ordinary convolution; larger ones would take most of the study's time."""
SMALL, LARGE = (
    Settings(budget_s=7, session_s=0.4, layers=False),
    Settings(budget_s=18, session_s=0.4, layers=False),
)
NARROW = 1.2
"""Ends of an interval that are closer than this factor make an extreme worth naming."""


def main() -> None:
    """Measure every pair and write results/depthwise/."""
    import torch

    torch.manual_seed(0)
    rows: list[Row] = []
    raw = {}
    with CpuOrt() as device:
        for channels, kernel, side in geometries():
            workloads = pair(channels, kernel, side)
            found = measured(
                device,
                workloads,
                SMALL if count_macs(workloads["ordinary"]) <= SMALL_MACS else LARGE,
            )
            row = rows_of(found, channels=channels, kernel=kernel, side=side)[1]
            expected = formula(channels, kernel)
            del row["name"], row["params"]
            rows.append({**row, "formula": expected, "over_formula": row["ratio"] / expected})
            raw[f"{channels} channels, {kernel}x{kernel}, {side}x{side}"] = raw_of(found)
    sure = [row for row in rows if row["high"] / row["low"] < NARROW]
    best, worst = (max(sure, key=lambda row: sign * row["over_formula"]) for sign in (-1, 1))
    save_study(
        "depthwise",
        question=(
            "Does the latency of a depth-wise separable convolution follow its MACs, 1/O + 1/k^2 of"
            " the ordinary one's?"
        ),
        answer=(
            f"It took {mean_over(rows):.1f} times what the formula promises on average over"
            f" {len(rows)} geometries, from {best['over_formula']:.2f} times ({where(best)}) to"
            f" {worst['over_formula']:.1f} times ({where(worst)});"
            f" {sum(row['high'] < 1 for row in rows)} of {len(rows)} have an interval below 1."
        ),
        rows=rows,
        raw=raw,
        picture=draw(rows),
        command="make study NAME=depthwise",
        notes=(
            "ratio: latency of the separable pair over that of the ordinary convolution,"
            " interleaved, with its 95 % interval over sessions; macs is the ratio of MACs as"
            " counted in the graphs, formula is 1/O + 1/k^2. O = channels, in and out; stride 1, no"
            " activations. Both networks hold the same two conversions into and out of the blocked"
            " layout and a call of the runtime, which weigh most where there is little to compute."
            " Large pairs were measured less often, and other programs on the machine disturbed"
            " them more: see their intervals; the extremes named are those of intervals narrower"
            " than 20 %. A depth-wise layer moves as much data as an ordinary one for a fraction of"
            " the arithmetic."
        ),
    )


def geometries() -> list[tuple[int, int, int]]:
    """Channels, kernel and side of every pair."""
    every = product(CHANNELS, KERNELS, SIDES)
    return [
        (channels, kernel, side)
        for channels, kernel, side in every
        if (channels * kernel * side) ** 2 <= LARGEST_MACS
    ]


def pair(channels: int, kernel: int, side: int) -> dict[str, Workload]:
    """The ordinary convolution and the separable one."""
    from torch import nn

    ordinary = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
    depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    separable = nn.Sequential(depthwise, nn.Conv2d(channels, channels, 1))
    return {
        "ordinary": exported(nn.Sequential(ordinary), channels, side),
        "separable": exported(separable, channels, side),
    }


def formula(channels: int, kernel: int) -> float:
    """Share of the MACs that is left: 1/O + 1/k^2."""
    return 1 / channels + 1 / kernel**2


def mean_over(rows: Sequence[Row]) -> float:
    """Geometric mean of what the pairs take over what the formula promises."""
    return float(np.exp(np.log([row["over_formula"] for row in rows]).mean()))


def where(row: Row) -> str:
    """A geometry in words."""
    return (
        f"{row['channels']} channels, {row['kernel']}x{row['kernel']}, {row['side']}x{row['side']}"
        " pixels"
    )


def draw(rows: Sequence[Row]) -> Any:
    """Measured over promised."""
    drawn, axes = figure(
        f"Separable convolutions take {mean_over(rows):.1f} times what 1/O + 1/k^2 promises",
        xlabel="formula: 1/O + 1/k^2",
        ylabel="latency, separable over ordinary",
    )
    for (colour, channels), (kernel, mark) in product(
        zip(COLOURS, CHANNELS, strict=False), MARKS.items()
    ):
        some = [row for row in rows if (row["channels"], row["kernel"]) == (channels, kernel)]
        x = [row["formula"] for row in some]
        label = f"O = {channels}" if kernel == KERNELS[0] else None
        axes.errorbar(
            x,
            [row["ratio"] for row in some],
            yerr=errors_of(some),
            fmt=mark,
            ms=5,
            lw=1,
            capsize=2,
            color=colour,
            label=label,
        )
    ends = [0.02, 0.2]
    axes.plot(ends, ends, color="grey", lw=1, label="as the formula says")
    axes.axhline(1, color="black", lw=0.8, ls="--", label="no gain")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=8, title="circle 3x3, square 5x5, triangle 7x7", title_fontsize=8)
    return drawn


if __name__ == "__main__":
    main()
