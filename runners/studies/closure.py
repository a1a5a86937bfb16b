"""Do the layers add up to the unprofiled latency, for every network of the zoo, and how much does
the profiler distort?

python -m runners.studies.closure
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.measuring.sessions import measure
from hwbench.network.intake import load_workload
from hwbench.network.zoo import NETWORKS
from hwbench.records.measurement import Settings
from runners.studies._pictures import COLOURS, figure
from runners.studies._results import save_study

SETTINGS = Settings(budget_s=25, target=0.002)


def main() -> None:
    """Profile every network and write results/closure/."""
    rows = []
    with CpuOrt() as device:
        for name in NETWORKS:
            record = measure(device, load_workload(f"zoo:{name}"), SETTINGS)
            profile = record.profile
            if profile is None or record.closure is None:
                raise RuntimeError(f"no layers for {name}")
            rows.append(
                {
                    "network": name,
                    "latency_ms": record.median_s * 1e3,
                    "closure": record.closure,
                    "rest_us": (record.median_s - profile.layers_sum_s) * 1e6,
                    "rows": len(profile.layers),
                    "profiled_over_unprofiled": profile.profiled_s / record.median_s,
                    "profiler_us_per_node": profile.node_cost_s * 1e6,
                    "sessions": record.series.sessions,
                }
            )
    save_study(
        "closure",
        question="Do the per-layer latencies add up to the unprofiled end-to-end latency?",
        answer=answer(rows),
        rows=rows,
        picture=draw(rows),
        command="make study NAME=closure",
        notes=(
            "closure = sum of layer latencies over the unprofiled latency; only the profiler's own"
            " cost per node, as measured here, is taken off. What is left over is reported as a row"
            " of its own. profiled_over_unprofiled: latency of the whole network while the profiler"
            " is on, over that without it."
        ),
    )


def answer(rows: Sequence[dict[str, Any]]) -> str:
    """One sentence."""
    distorted, closed = (
        [row[name] for row in rows] for name in ("profiled_over_unprofiled", "closure")
    )
    worst = max(rows, key=lambda row: row["profiled_over_unprofiled"])["network"]
    return (
        f"With its profiler on, ONNX Runtime takes {min(distorted):.2f} to {max(distorted):.2f}"
        f" times as long (most for {worst}); the layer latencies that hwbench reports add up to"
        f" {min(closed):.2f} to {max(closed):.2f} of the undisturbed latency."
    )


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """What the profiler shows and what hwbench reports, over the undisturbed latency."""
    most = max(row["profiled_over_unprofiled"] for row in rows)
    title = f"The profiler slows networks up to {most:.1f} times; hwbench's layers still add up"
    drawn, axes = figure(title, xlabel="", ylabel="ratio to the unprofiled latency")
    places = np.arange(len(rows))
    labels = {
        "profiled_over_unprofiled": "whole network, profiler on",
        "closure": "sum of hwbench's layers",
    }
    for shift, colour, (name, label) in zip(
        (-0.2, 0.2), (COLOURS[1], COLOURS[0]), labels.items(), strict=True
    ):
        axes.bar(places + shift, [row[name] for row in rows], 0.4, color=colour, label=label)
    axes.axhline(1, color="black", lw=0.8)
    axes.set_ylim(0.8, None)
    axes.set_xticks(places, [row["network"] for row in rows], rotation=30, ha="right", fontsize=8)
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
