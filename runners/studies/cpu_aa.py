"""False verdicts on the real CPU: 40 comparisons of networks with themselves.

python -m runners.studies.cpu_aa
"""

from __future__ import annotations

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.intake import load_workload
from hwbench.records.measurement import Settings
from hwbench.stats import Verdict
from runners.studies._comparisons import one
from runners.studies._results import save_study

MODELS = {"zoo:resnet20": 14, "zoo:mobilenet_v1": 13, "zoo:mobilenet_v2": 13}
SETTINGS = Settings(budget_s=30, layers=False)


def main() -> None:
    """Run all and write results/cpu_aa/."""
    rows: list[dict[str, object]] = []
    with CpuOrt() as device:
        for model, runs in MODELS.items():
            workload = load_workload(model)
            rows += [
                {"model": model, **one(device, workload, workload, SETTINGS, seed)}
                for seed in range(runs)
            ]
    raw = [row.pop("raw") for row in rows]
    false = sum(row["verdict"] in {Verdict.FASTER.value, Verdict.SLOWER.value} for row in rows)
    covered = sum(float(str(row["low"])) <= 1 <= float(str(row["high"])) for row in rows)
    save_study(
        "cpu_aa",
        question=(
            "How often does a comparison of a network with itself claim a difference, on a real"
            " CPU?"
        ),
        rows=rows,
        raw=raw,
        command="make study NAME=cpu_aa",
        notes=(
            f"**{false} of {len(rows)} false verdicts; {covered} of {len(rows)} 95 % intervals hold"
            " the truth (1).**"
        ),
    )


if __name__ == "__main__":
    main()
