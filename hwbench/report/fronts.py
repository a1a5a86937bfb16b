"""Pages of searches for several budgets: what each costs in quality, and which are worth having."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench.render.units import minute, moment, percent, plural, seconds
from hwbench.render.views import SHORT_ID
from hwbench.report.commands import search_command
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import (
    count_number,
    round_digits,
    seconds_number,
    share_number,
    speedup_number,
)
from hwbench.report.searches import measured_of, search_address
from hwbench.search.limit import Limit
from hwbench.workflows.search.front import cost_in, pareto

if TYPE_CHECKING:
    from hwbench.records.comparison import Comparison
    from hwbench.report.contents import KeptFront, KeptSearch


def front_address(front: KeptFront) -> str:
    """Address of its page."""
    return f"front/{front.id[:SHORT_ID]}"


def fronts_figure(fronts: Sequence[KeptFront], searches: Sequence[KeptSearch]) -> Figure:
    """All searches for several budgets."""
    columns = (Column("model"), Column("method"), Column("budgets"), Column("ended (UTC)"))
    rows: list[tuple[Cell, ...]] = []
    for front in fronts:
        members = _members(front, searches)
        summary = members[0].summary
        budgets = ", ".join(_budget_text(member) for member in members)
        rows.append(
            (
                Link(summary["model"], front_address(front)),
                summary["plan"]["method"],
                budgets,
                minute(front.created_utc),
            )
        )
    text = "Searches for several budgets at once, each ending in a Pareto front."
    return Figure("Fronts", text, Table(columns, tuple(rows)))


def front_page(
    front: KeptFront, searches: Sequence[KeptSearch], comparisons: Sequence[Comparison]
) -> Page:
    """What one search found for several budgets."""
    members = _members(front, searches)
    summary = members[0].summary
    costs = [_cost_share(member, comparisons) for member in members]
    qualities = [_quality(member) for member in members]
    on_front = pareto(list(zip(costs, qualities, strict=True)))
    worth = plural(sum(on_front), "network")
    return Page(
        id=front_address(front),
        title=f"{summary['plan']['method']} on {summary['model']}, {len(members)} budgets",
        lead=f"{worth} of {len(members)} worth having: no other is as good at a lower cost.",
        figures=(_front_figure(members, comparisons, costs, qualities, on_front),),
        closing=f"front {front.id[:SHORT_ID]} with seed {summary['plan']['seed']}",
        source=_source(front, members),
    )


def _members(front: KeptFront, searches: Sequence[KeptSearch]) -> list[KeptSearch]:
    """The searches of a front, the smallest budget first."""
    by_key = {str(search.summary["search"]): search for search in searches}
    return [by_key[key] for key in front.searches]


def _front_figure(
    members: Sequence[KeptSearch],
    comparisons: Sequence[Comparison],
    costs: Sequence[float],
    qualities: Sequence[float],
    on_front: Sequence[bool],
) -> Figure:
    kind = members[0].summary["plan"]["limit"]["kind"]
    tested = all(member.summary.get("quality") is not None for member in members)
    quality_name = str(members[0].summary.get("objective") or "quality")
    if tested:
        quality_name = "accuracy on test images"
    columns = (
        Column("budget"),
        Column(quality_name, numeric=True),
        Column(f"{kind} of original", numeric=True),
        Column("predicted latency", numeric=True, minor=True),
        Column("measured speed-up", numeric=True),
        Column("MACs", numeric=True, minor=True),
        Column("state"),
    )
    rows: list[tuple[Cell, ...]] = []
    points = []
    drawn_costs, drawn_qualities = round_digits(costs), round_digits(qualities)
    for index, member in enumerate(members):
        outcome, comparison = member.best.outcome, measured_of(member, comparisons)
        latency_s = None if outcome is None else outcome.latency_s
        speedup = Number(None, "not measured")
        if comparison is not None:
            speedup = speedup_number(comparison)
        state = "on the front" if on_front[index] else "beaten"
        budget = _budget_text(member)
        rows.append(
            (
                Link(budget, search_address(member)),
                share_number(qualities[index]),
                share_number(costs[index]),
                seconds_number(latency_s, "predicted"),
                speedup,
                count_number(None if outcome is None else outcome.macs),
                state,
            )
        )
        points.append(
            {
                "x": drawn_costs[index],
                "y": drawn_qualities[index],
                "on_front": on_front[index],
                "text": f"budget {budget}: {percent(qualities[index])} at"
                f" {percent(costs[index])} of the original ({seconds(latency_s)} predicted)",
            }
        )
    chart = {
        "kind": "front",
        "label": quality_name,
        "cost": f"{kind}, share of the original's",
        "points": points,
    }
    text = (
        "Each dot is the network found for one budget; the line joins those that no other one"
        " beats."
    )
    return Figure("Pareto front", text, Table(columns, tuple(rows)), (chart,))


def _budget_text(search: KeptSearch) -> str:
    """The budget as people write it."""
    return str(Limit(**search.summary["plan"]["limit"]))


def _cost_share(search: KeptSearch, comparisons: Sequence[Comparison]) -> float:
    """What the network costs as a share of the original: latency as measured, if it was."""
    kind = search.summary["plan"]["limit"]["kind"]
    comparison = measured_of(search, comparisons)
    if kind == "latency" and comparison is not None and comparison.ratio is not None:
        return comparison.ratio.ratio
    return cost_in(search.best.outcome, kind) / cost_in(search.original, kind)


def _quality(search: KeptSearch) -> float:
    """Accuracy on test images; without them, what the search judged by."""
    tested = search.summary.get("quality")
    if tested is not None:
        return float(tested)
    outcome = search.best.outcome
    return float("nan") if outcome is None or outcome.quality is None else outcome.quality


def _source(front: KeptFront, members: Sequence[KeptSearch]) -> Source:
    """Provenance of the front as a whole."""
    summary = members[0].summary
    steered = str(summary.get("device") or summary.get("table") or "unknown")
    budgets = [_budget_text(member) for member in members]
    command = search_command(summary, budgets)
    where = (steered, "several networks, see each budget", "-")
    return Source(front.searches, *where, moment(front.created_utc), command)
