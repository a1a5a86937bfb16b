"""Do networks that searches find keep to their latency budget when they are measured, and do they
use it up?

python -m runners.studies.search_budget
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hwbench.devices.ort.cpu import CpuOrt
from hwbench.network.intake import load_workload
from hwbench.records.measurement import Settings
from hwbench.workflows.search.plan import Limit, Plan
from hwbench.workflows.search.result import SearchResult
from hwbench.workflows.search.run import run_search
from runners.studies._groups import Row, measured, rows_of
from runners.studies._pictures import COLOURS, figure, points
from runners.studies._results import save_study
from runners.studies._searches import DEVICE, build, once

STUDY = "search_budget"
SIZE, TRIALS = "1x3x32x32", 100
SHARES = {"zoo:plain20": (0.4, 0.5, 0.6, 0.7), "zoo:resnet20": (0.55, 0.6, 0.7, 0.8)}
"""Budgets for widths.

Additions are not pruned, so ResNet-20 keeps at least half its latency on the channel grid.
"""
SETTINGS = Settings(budget_s=20, layers=False)
SLOWEST, FASTEST = 1.03, 0.9
"""What a measured latency may be, over the budget: at most, and at least where widths are searched.
"""


@dataclass(frozen=True)
class Case:
    """One search; without images, as how good the network is does not matter here."""

    method: str
    model: str
    share: float

    def plan(self) -> Plan:
        """What is searched for."""
        options = {"adaptor_steps": 1} if self.method == "practise" else {"baselines": False}
        return Plan.of(
            self.method,
            Limit("latency", share=self.share),
            trials=TRIALS,
            seed=round(100 * self.share),
            tune="none",
            **options,
        )


CASES = [
    *(
        Case(method, model, share)
        for model, shares in SHARES.items()
        for method in ("amc", "abcpruner")
        for share in shares
    ),
    *(Case("practise", "zoo:resnet20", share) for share in (0.6, 0.7, 0.8, 0.9)),
]


def main() -> None:
    """Search, measure what was written beside the original once more, write results/search_budget/
    after each.
    """
    rows: list[Row] = []
    for model in SHARES:
        build(model, SIZE)
    for case in CASES:
        rows += once(
            STUDY,
            asdict(case) | {"trials": TRIALS, "measured_s": SETTINGS.budget_s},
            partial(found, case),
        )
        save(rows)


def found(case: Case) -> list[Row]:
    """One search, and its network measured independently of what the search itself measured."""
    with TemporaryDirectory() as folder:
        result = run_search(case.model, case.plan(), device=DEVICE, settings=SETTINGS, out=folder)
        workloads = {
            "original": load_workload(case.model),
            "found": load_workload(Path(folder) / "network.onnx"),
        }
        with CpuOrt() as device:
            row = rows_of(measured(device, workloads, SETTINGS))[1]
    own = result.comparison.ratio if result.comparison is not None else None
    return [
        {
            "method": case.method,
            "model": case.model,
            "budget": case.share,
            "measured / budget": row["ratio"] / case.share,
            "predicted / budget": predicted(result) / case.share,
            "corrections": sum(finding.code.startswith("budget") for finding in result.findings),
            "own / budget": None if own is None else own.ratio / case.share,
            **{name: row[name] / case.share for name in ("ratio", "low", "high")},
        }
    ]


def predicted(result: SearchResult) -> float:
    """Ratio of the result's latency to the original's, as predicted."""
    best = result.best.outcome
    if best is None or best.latency_s is None or result.original.latency_s is None:
        raise RuntimeError(f"no latency of {result.model}")
    return best.latency_s / result.original.latency_s


def save(rows: Sequence[Row]) -> None:
    """Write what is there."""
    kept = sum(row["measured / budget"] <= SLOWEST for row in rows)
    widths = [row for row in rows if row["method"] != "practise"]
    used = sum(row["measured / budget"] >= FASTEST for row in widths)
    worst = max(row["measured / budget"] for row in rows)
    save_study(
        STUDY,
        question=(
            "Do networks that searches find keep to their latency budget when they are measured,"
            " and do they use it up?"
        ),
        answer=(
            f"{kept} of {len(rows)} measure at most {SLOWEST} times their budget, the slowest"
            f" {worst:.3f} times; {used} of {len(widths)} whose widths were searched measure at"
            f" least {FASTEST} times it."
        ),
        rows=[
            {name: value for name, value in row.items() if name not in {"ratio"}} for row in rows
        ],
        picture=draw(rows),
        command=f"make study NAME={STUDY}",
        notes=(
            "All are measured latency over the budget, a share of the original latency,"
            " interleaved with the original. measured: of the ONNX file that was written, after"
            " the search and independent of it; low and high are its 95 % interval. own: what the"
            " search itself measured at its end. predicted: by the lookup table, or by the gains"
            f" of the blocks. Networks of random weights, {TRIALS} trials, evaluated by kept"
            " weight."
            " PRACTISE drops whole blocks, so it can only come as near to its budget as one block"
            " is large; ABCPruner keeps at most 0.7 of every width (alpha), which is why Plain-20"
            " does not use up 0.7 of its latency."
        ),
    )


def draw(rows: Sequence[Row]) -> Any:
    """Measured latency over the budget, search by search."""
    drawn, axes = figure(
        "Measured latency of what searches found",
        xlabel="latency budget (share of the original)",
        ylabel="measured / budget",
    )
    for place, (colour, method) in enumerate(
        zip(COLOURS, ("amc", "abcpruner", "practise"), strict=False)
    ):
        some = [row for row in rows if row["method"] == method]
        points(
            axes,
            [row["budget"] + 0.006 * (place - 1) for row in some],
            some,
            color=colour,
            label=method,
        )
    axes.axhline(SLOWEST, color="black", lw=1, ls="--")
    axes.axhline(FASTEST, color="grey", lw=1, ls=":")
    axes.legend()
    return drawn


if __name__ == "__main__":
    main()
