"""What a search for several budgets found, for people and for tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.records.findings import Finding
from hwbench.render.blocks import Block, Column, Line, Table, View
from hwbench.render.searching import (
    describe_network,
    describe_prediction,
    describe_spent,
    find_failed_trials,
    search_document,
)
from hwbench.render.units import percent, plural, times
from hwbench.render.views import SHORT_ID, notes
from hwbench.workflows.search.front import cost_kind, cost_share, quality_of

if TYPE_CHECKING:
    from hwbench.render.documents import Document
    from hwbench.workflows.search.front import Front
    from hwbench.workflows.search.result import SearchResult

SCHEMA = 1


def front_view(front: Front, *, save_hint: str = "") -> View:
    """One row for each budget, and which of the networks are worth having.

    Args:
        front: What to show.
        save_hint: What writes the networks to files where none were written; empty to name nothing.
    """
    first = front.results[0]
    budgets = ", ".join(str(result.plan.limit) for result in front.results)
    trials = sum(len(result.trials) for result in front.results)
    headline = (
        f"{first.model}: {plural(sum(front.on_front), 'network')} worth having, found by"
        f" {first.plan.method} in {plural(trials, 'trial')} for budgets of {budgets}"
    )
    blocks: list[Block] = [Line(headline, "bold"), _make_table(front)]
    blocks += [
        Line(f"{result.plan.limit}: {describe_network(result.best)}") for result in front.results
    ]
    blocks += notes([*front.findings, *_gather_findings(front)])
    keys = ", ".join(result.key[:SHORT_ID] for result in front.results)
    parts = [f"searches {keys} with seed {first.plan.seed}"]
    resumed = sum(result.resumed for result in front.results)
    if resumed:
        parts.append(f"went on after {plural(resumed, 'trial')}")
    if front.out is not None:
        parts.append(f"written to {front.out}")
    else:
        parts += filter(None, ("not written", save_hint))
    parts += filter(None, [describe_spent(front.results[-1])])
    return [*blocks, Line("; ".join(parts), "dim")]


def _make_table(front: Front) -> Table:
    """One row for each budget, and the original."""
    first = front.results[0]
    quality = first.objective if first.quality is None else "test accuracy"
    was_measured = any(result.comparison is not None for result in front.results)
    # What is limited is a share of the original's; for other costs than latency that is said.
    kind = cost_kind(first)
    share = "of original" if kind == "latency" else f"{kind} of original"
    titles = [quality, "predicted latency", share]
    titles += ["speed-up"] if was_measured else []
    columns = (Column("budget"), *(Column(title, right=True) for title in titles), Column("front"))
    rows = []
    for result, is_on_front in zip(front.results, front.on_front, strict=True):
        outcome = result.best.outcome
        latency_s = None if outcome is None else outcome.latency_s
        row = [
            str(result.plan.limit),
            percent(quality_of(result)),
            describe_prediction(latency_s, result.intervals_s.get(result.plan.method)),
            percent(cost_share(result)),
        ]
        row += [describe_speedup(result)] if was_measured else []
        rows.append((*row, "yes" if is_on_front else "no"))
    original = first.original.quality if first.quality is None else first.original_quality
    original_s = describe_prediction(first.original.latency_s, first.intervals_s.get("original"))
    footer = ["original", percent(original), original_s, percent(1.0)]
    footer += ["-"] if was_measured else []
    return Table(columns, tuple(rows), ((*footer, ""),))


def describe_speedup(result: SearchResult) -> str:
    """The measured speed-up with the reach of its 95 % interval: `1.52x ±1.0 %`."""
    comparison = result.comparison
    if comparison is None or comparison.speedup is None or comparison.speedup_ci is None:
        return "-"
    low, high = comparison.speedup_ci
    reach = max(high / comparison.speedup, comparison.speedup / low) - 1
    return f"{times(comparison.speedup)} ±{percent(reach)}"


def _gather_findings(front: Front) -> list[Finding]:
    """The findings of all results, each with the budgets that it is about, where not with all."""
    budgets: dict[tuple[str, str], list[str]] = {}
    for result in front.results:
        for finding in (*result.findings, *find_failed_trials(result.trials)):
            named = budgets.setdefault((finding.code, finding.text), [])
            named.append(str(result.plan.limit))
    gathered = []
    for (code, text), named in budgets.items():
        of_all = len(named) == len(front.results)
        gathered.append(Finding(code, text if of_all else f"{', '.join(named)}: {text}"))
    return gathered


def front_document(front: Front) -> Document:
    """A search for several budgets as JSON types."""
    rows = []
    for result, is_on_front in zip(front.results, front.on_front, strict=True):
        rows.append(
            {
                "budget": str(result.plan.limit),
                "share": cost_share(result),
                "quality": quality_of(result),
                "on_front": is_on_front,
                "result": search_document(result),
            }
        )
    return {
        "schema": SCHEMA,
        "model": front.results[0].model,
        "out": None if front.out is None else str(front.out),
        "front": rows,
    }
