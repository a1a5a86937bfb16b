"""Do the layers add up to the unprofiled latency, for every network of the zoo?

python -m runners.studies.closure
"""

from __future__ import annotations

from hwbench.devices.cpu_ort import CpuOrt
from hwbench.measurement import Settings
from hwbench.model_files import load_workload
from hwbench.profiling import measure
from hwbench.zoo import NETWORKS
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
                    "sessions": len(set(record.session)),
                }
            )
    save_study(
        "closure",
        question="Do the per-layer latencies add up to the unprofiled end-to-end latency?",
        rows=rows,
        command="make study NAME=closure",
        notes=(
            "closure = sum of layer latencies over the unprofiled latency; only the profiler's own cost per node, as measured "
            "here, is taken off. What is left over is reported as a row of its own."
        ),
    )


if __name__ == "__main__":
    main()
