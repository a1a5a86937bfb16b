"""The results of one search for several budgets, and which of them are worth having."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.records.findings import Finding
from hwbench.workflows.search.result import NOT_WRITTEN

if TYPE_CHECKING:
    from hwbench.search.base import Outcome
    from hwbench.search.limit import Limit
    from hwbench.workflows.search.result import SearchResult

RECORD = "search_front"
FILE = "front.json"


@dataclass(frozen=True)
class Front:
    """What one search found for several budgets.

    Attributes:
        results: One for each budget, the smallest budget first.
        out: Folder that holds a folder for each; None if nothing was written.
        findings: What to know beyond what is known of each result.
    """

    results: tuple[SearchResult, ...]
    out: Path | None = None
    findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        return f"<Front of {len(self.results)} searches, written to {self.out}>"

    @property
    def on_front(self) -> tuple[bool, ...]:
        """For each result, whether no other one is as good at a lower cost, or better at none."""
        points = [(cost_share(result), quality_of(result)) for result in self.results]
        return pareto(points)

    def to_record(self) -> dict[str, Any]:
        """What the store keeps: the identities of its searches, which are records of their own."""
        return {
            "searches": [result.key for result in self.results],
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def write(self, out: Path) -> Front:
        """Write what was found for which budget, beside the folders of the results.

        Returns:
            The front with its folder, or with the finding that it could not be written.
        """
        rows = []
        for result, is_on_front in zip(self.results, self.on_front, strict=True):
            rows.append(
                {
                    "budget": str(result.plan.limit),
                    "kind": cost_kind(result),
                    "folder": None if result.out is None else result.out.name,
                    "share": cost_share(result),
                    "quality": quality_of(result),
                    "on_front": is_on_front,
                }
            )
        try:
            (out / FILE).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            text = f"{out / FILE} could not be written: {error.strerror or error}"
            return replace(self, findings=(*self.findings, Finding(NOT_WRITTEN, text)))
        return replace(self, out=out)


def pareto(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """For each pair of cost and quality, whether no other one is at least as good in both.

    Of equal pairs the first is on the front.
    """
    on_front = []
    for index, (cost, quality) in enumerate(points):
        beaten = False
        for other, (other_cost, other_quality) in enumerate(points):
            as_good = other_cost <= cost and other_quality >= quality
            different = (other_cost, other_quality) != (cost, quality) or other < index
            beaten = beaten or (as_good and different and other != index)
        on_front.append(not beaten)
    return tuple(on_front)


def cost_kind(result: SearchResult) -> str:
    """What the budget is of; latency where there is none."""
    return "latency" if result.plan.limit is None else result.plan.limit.kind


def cost_share(result: SearchResult) -> float:
    """What the network costs, as a share of the original: latency as measured, if it was."""
    kind = cost_kind(result)
    if kind == "latency" and result.comparison is not None and result.comparison.ratio is not None:
        return result.comparison.ratio.ratio
    return cost_in(result.best.outcome, kind) / cost_in(result.original, kind)


def cost_in(outcome: Outcome | None, kind: str) -> float:
    """Cost of a network as the search knew it; not a number where that is not known."""
    if outcome is None:
        return math.nan
    costs = {
        "latency": outcome.latency_s,
        "macs": outcome.macs,
        "params": outcome.params,
        "size": outcome.size_bytes,
    }
    cost = costs[kind]
    return math.nan if cost is None else float(cost)


def quality_of(result: SearchResult) -> float:
    """Accuracy of the delivered network on test images; without them, what the search judged by."""
    if result.quality is not None:
        return result.quality
    outcome = result.best.outcome
    return float("-inf") if outcome is None or outcome.quality is None else outcome.quality


def folder_of(limit: Limit) -> str:
    """Name of the folder of the network for one budget: `latency-0.3`."""
    return f"{limit.kind}-{limit}"
