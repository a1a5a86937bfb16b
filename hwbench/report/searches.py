"""Pages of searches: their trials, what was kept of each layer, and the networks compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwbench.render.comparing import verdict_text
from hwbench.render.searching import find_failed_trials, latency_share
from hwbench.render.units import minute, moment, percent, plural, seconds
from hwbench.render.views import SHORT_ID, finding_rows
from hwbench.report.commands import search_command
from hwbench.report.comparisons import compare_address
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import (
    count_number,
    interval_text,
    round_digits,
    seconds_number,
    share_number,
    size_number,
    speedup_number,
    whole_number,
)
from hwbench.search.base import Outcome, Trial
from hwbench.workflows.search.plan import recorded_method

if TYPE_CHECKING:
    from hwbench.records.comparison import Comparison
    from hwbench.report.contents import KeptSearch


def search_address(search: KeptSearch) -> str:
    """Address of its page."""
    return f"search/{search.summary['search'][:SHORT_ID]}"


def search_source(search: KeptSearch, comparison: Comparison | None) -> Source:
    """Provenance of a search; its device is that of the measured result, if that was measured."""
    summary = search.summary
    if comparison is None:
        steered = str(summary.get("table") or summary.get("device") or "unknown")
        where = (steered, "not measured: predicted by a table", "-")
    else:
        device = comparison.baseline.device
        where = (device.address, device.target, device.runtime)
    return Source((summary["search"],), *where, moment(_ended(search)), search_command(summary))


def _ended(search: KeptSearch) -> str:
    """When a search ended, in UTC; `unknown` in a record of a version that did not keep it."""
    return str(search.summary.get("created_utc") or "unknown")


def measured_of(search: KeptSearch, comparisons: Sequence[Comparison]) -> Comparison | None:
    """The comparison of its result with the original, if it was measured."""
    for comparison in comparisons:
        pair = [comparison.baseline.id, comparison.candidate.id]
        if pair == search.summary["measurements"]:
            return comparison
    return None


def searches_figure(searches: Sequence[KeptSearch], comparisons: Sequence[Comparison]) -> Figure:
    """All searches."""
    columns = (
        Column("model"),
        Column("method"),
        Column("quality", numeric=True),
        Column("of original latency", numeric=True),
        Column("measured speed-up", numeric=True),
        Column("trials", numeric=True, minor=True),
        Column("ended (UTC)", minor=True),
    )
    rows, sources = [], []
    for search in searches:
        summary, comparison = search.summary, measured_of(search, comparisons)
        speedup = Number(None, "not measured") if comparison is None else speedup_number(comparison)
        rows.append(
            (
                Link(summary["model"], search_address(search)),
                summary["plan"]["method"],
                _quality_number(search, search.best.outcome),
                _share_of_original(search, search.best.outcome),
                speedup,
                whole_number(len(search.trials)),
                minute(_ended(search)),
            )
        )
        sources.append(search_source(search, comparison))
    table = Table(columns, tuple(rows), tuple(sources))
    return Figure("Searches", "The network that each search chose.", table)


def search_page(search: KeptSearch, comparisons: Sequence[Comparison]) -> Page:
    """One search."""
    summary, plan, best = search.summary, search.summary["plan"], search.best.outcome
    comparison = measured_of(search, comparisons)
    facts: list[tuple[str, Cell]] = [
        (_objective(search), _quality_number(search, best)),
        ("of original latency", _share_of_original(search, best)),
    ]
    if best is not None:
        facts += [
            ("predicted latency", _latency_number(best, _interval_of(search, plan["method"]))),
            ("MACs", count_number(best.macs)),
            ("parameters", count_number(best.params)),
        ]
    measured = "Its latency was predicted, not measured."
    if comparison is not None:
        facts += [
            ("measured speed-up", speedup_number(comparison)),
            ("comparison", Link(comparison.verdict.value, compare_address(comparison))),
        ]
        measured = f"Measured: {verdict_text(comparison)}."
    if summary.get("quality") is not None:
        facts.append(("accuracy on test images", share_number(summary["quality"])))
    if summary.get("original_quality") is not None:
        facts.append(("accuracy of the original", share_number(summary["original_quality"])))
    figures = [_trials_figure(search), *_pruning_figures(search), _networks_figure(search)]
    findings = [(finding["code"], finding["text"]) for finding in summary.get("findings", ())]
    findings += finding_rows(find_failed_trials([trial for _, trial in search.trials]))
    return Page(
        id=search_address(search),
        title=f"{plan['method']} on {summary['model']}",
        lead=f"The best of {plural(len(search.trials), 'trial')}, baselines included. {measured}",
        facts=tuple(facts),
        findings=tuple(findings),
        figures=tuple(figures),
        closing=f"search {summary['search'][:SHORT_ID]} with seed {plan['seed']}",
        source=search_source(search, comparison),
    )


def _objective(search: KeptSearch) -> str:
    return str(search.summary.get("objective") or "quality")


def _quality_number(search: KeptSearch, outcome: Outcome | None) -> Number:
    return share_number(None if outcome is None else outcome.quality, _objective(search))


def _share_of_original(search: KeptSearch, outcome: Outcome | None) -> Number:
    share = latency_share(outcome, search.original)
    if share is None or outcome is None or search.original is None:
        return Number(None, "-")
    latency, original = seconds(outcome.latency_s), seconds(search.original.latency_s)
    return share_number(share, f"{latency} of {original}, predicted")


def _latency_number(outcome: Outcome, ends_s: Sequence[float] | None = None) -> Number:
    """A predicted latency, with its interval where the record holds it."""
    note = "predicted by a lookup table"
    if ends_s is not None and outcome.latency_s is not None:
        note += f", {interval_text((ends_s[0], ends_s[1]), outcome.latency_s)}"
    return seconds_number(outcome.latency_s, note)


def _interval_of(search: KeptSearch, name: str) -> Sequence[float] | None:
    """The interval of the predicted latency of a network that the record names."""
    ends_s: Sequence[float] | None = search.summary.get("intervals_s", {}).get(name)
    return ends_s


def _find_reward(plan: Mapping[str, Any]) -> tuple[str, Callable[[Outcome], float | None]]:
    """What the search maximised: its name, and how it follows from an outcome."""
    method = recorded_method(plan)
    if method is None:
        return "quality", lambda outcome: outcome.quality
    return method.reward()


def _trials_figure(search: KeptSearch) -> Figure:
    """Reward of every trial, the best so far, and the baselines."""
    columns = (
        Column("trial"),
        Column("part"),
        Column("how", minor=True),
        Column("reward", numeric=True),
        Column("predicted latency", numeric=True),
        Column("of original", numeric=True, minor=True),
        Column("MACs", numeric=True, minor=True),
        Column("state"),
    )
    name, reward_of = _find_reward(search.summary["plan"])
    rows, points = [], []
    for number, (part, trial) in enumerate(search.trials):
        outcome = trial.outcome
        reward = None
        if outcome is not None and trial.candidate.task == "network":
            reward = reward_of(outcome)
        reward_number = Number(reward, _describe_reward(reward, name), trial.error or name)
        state = _describe_state(search, trial, reward)
        costs = (seconds_number(None), Number(None, "-"), count_number(None))
        if outcome is not None:
            costs = (
                _latency_number(outcome),
                _share_of_original(search, outcome),
                count_number(outcome.macs),
            )
        note = trial.candidate.note or "-"
        rows.append((whole_number(number), part, note, reward_number, *costs, state))
        if reward is not None:
            points.append(
                {
                    "x": number,
                    "y": round_digits([reward])[0],
                    "part": part,
                    "chosen": state == "chosen",
                    "text": f"trial {number} ({part}): {reward_number.text}, {costs[0].text}",
                }
            )
    parts = {part for part, _ in search.trials}
    baselines = ", and those it is held against" if len(parts) > 1 else ""
    text = (
        f"Each dot is one network that was tried{baselines}; the line is the best so far of the"
        " search itself, the ring what was chosen."
    )
    method = search.summary["plan"]["method"]
    chart = {
        "kind": "trials",
        "label": name,
        "own": sorted(part for part in parts if part.startswith(method)),
        "points": points,
        "percent": name == "quality",
    }
    return Figure("Trials", text, Table(columns, tuple(rows)), (chart,) if points else ())


def _describe_reward(reward: float | None, name: str) -> str:
    """A reward for people; a quality is a share."""
    if reward is None:
        return "-"
    return percent(reward) if name == "quality" else f"{reward:.4f}"


def _describe_state(search: KeptSearch, trial: Trial, reward: float | None) -> str:
    """What became of a trial, in one word."""
    if trial.outcome is None:
        return "failed"
    if (trial.candidate, trial.outcome) == (search.best.candidate, search.best.outcome):
        return "chosen"
    return "scored" if reward is None else "done"


def _pruning_figures(search: KeptSearch) -> list[Figure]:
    """The blocks that go, and the share of each layer's channels that stays."""
    candidate, groups = search.best.candidate, search.summary.get("groups")
    figures = []
    rows: list[tuple[Cell, ...]]
    if candidate.dropped:
        rows = [(name,) for name in candidate.dropped]
        table = Table((Column("block"),), tuple(rows))
        figures.append(Figure("Dropped blocks", "These blocks were left out.", table))
    if candidate.shares is not None:
        rows = [
            (whole_number(index), share_number(share))
            for index, share in enumerate(candidate.shares)
        ]
        table = Table((Column("layer"), Column("kept weights", numeric=True)), tuple(rows))
        chart = {"kind": "shares", "label": "kept share", "name": 0, "value": 1}
        text = "Share of single weights that stay, layer by layer."
        return [Figure("Kept weights", text, table, (chart,))]
    if candidate.widths is None or not groups:
        return figures
    rows = []
    for (name, width), stays in zip(groups, candidate.widths, strict=True):
        if name.startswith(tuple(f"{block}." for block in candidate.dropped)):
            continue  # it went with its block
        rows.append((name, count_number(width), count_number(stays), share_number(stays / width)))
    columns = (
        Column("layer"),
        Column("channels", numeric=True),
        Column("kept", numeric=True),
        Column("preserve ratio", numeric=True),
    )
    chart = {"kind": "shares", "label": "preserve ratio", "name": 0, "value": 3}
    text = (
        "Share of the channels that stay; layers that must shrink together are one row, named after"
        " the first of them."
    )
    return [*figures, Figure("Preserve ratios", text, Table(columns, tuple(rows)), (chart,))]


def _networks_figure(search: KeptSearch) -> Figure:
    """Original, result and the best of each baseline."""
    columns = (
        Column("network"),
        Column(_objective(search), numeric=True),
        Column("predicted latency", numeric=True),
        Column("of original", numeric=True),
        Column("MACs", numeric=True),
        Column("parameters", numeric=True, minor=True),
        Column("weights", numeric=True, minor=True),
    )
    outcomes: dict[str, Outcome | None] = {}
    if search.original is not None:
        outcomes["original"] = search.original
    outcomes[search.summary["plan"]["method"]] = search.best.outcome
    for name, trial in (search.summary.get("baselines") or {}).items():
        outcomes[name] = None if trial is None else Trial.from_dict(trial).outcome
    rows: list[tuple[Cell, ...]] = []
    for name, outcome in outcomes.items():
        if outcome is None:
            rows.append((name, *([Number(None, "no result")] * 6)))
            continue
        rows.append(
            (
                name,
                _quality_number(search, outcome),
                _latency_number(outcome, _interval_of(search, name)),
                _share_of_original(search, outcome),
                count_number(outcome.macs),
                count_number(outcome.params),
                size_number(outcome.size_bytes),
            )
        )
    text = "What was found, beside the original and the baselines. Latencies are predicted."
    return Figure("Networks", text, Table(columns, tuple(rows)))
