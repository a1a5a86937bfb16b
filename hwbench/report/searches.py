"""Pages of searches: their trials, what was kept of each layer, and what was found.

The result stands beside the original and the baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwbench.render.comparing import verdict_text
from hwbench.render.units import minute, moment, percent, plural, seconds
from hwbench.render.views import SHORT_ID
from hwbench.report.commands import search_command
from hwbench.report.comparisons import compare_address
from hwbench.report.nouns import Cell, Column, Figure, Link, Number, Page, Source, Table
from hwbench.report.numbers import (
    count_number,
    round_digits,
    seconds_number,
    share_number,
    size_number,
    speedup_number,
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
    date = moment(str(summary["created_utc"])) if summary.get("created_utc") else "unknown"
    command = search_command(summary)
    if comparison is None:
        steered = summary.get("table") or summary.get("device") or "unknown"
        return Source(
            (summary["search"],),
            str(steered),
            "not measured: predicted by a table",
            "-",
            date,
            command,
        )
    device = comparison.baseline.device
    return Source(
        (summary["search"],), device.address, device.target, device.runtime, date, command
    )


def measured_of(search: KeptSearch, comparisons: Sequence[Comparison]) -> Comparison | None:
    """The comparison of its result with the original, if it was measured."""
    pair = search.summary["measurements"]
    return next((one for one in comparisons if [one.baseline.id, one.candidate.id] == pair), None)


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
        link = Link(summary["model"], search_address(search))
        trials = Number(len(search.trials), str(len(search.trials)))
        speedup = Number(None, "not measured") if comparison is None else speedup_number(comparison)
        date = minute(str(summary["created_utc"])) if summary.get("created_utc") else "unknown"
        numbers = (
            _quality(search, search.best.outcome),
            _of_original(search, search.best.outcome),
            speedup,
            trials,
        )
        rows.append((link, summary["plan"]["method"], *numbers, date))
        sources.append(search_source(search, comparison))
    return Figure(
        "Searches",
        "The network that each search chose.",
        Table(columns, tuple(rows), tuple(sources)),
    )


def search_page(search: KeptSearch, comparisons: Sequence[Comparison]) -> Page:
    """One search."""
    summary, plan, best = search.summary, search.summary["plan"], search.best.outcome
    comparison = measured_of(search, comparisons)
    facts: list[tuple[str, Cell]] = [
        (_objective(search), _quality(search, best)),
        ("of original latency", _of_original(search, best)),
    ]
    if best is not None:
        facts += [
            ("predicted latency", _predicted(best)),
            ("MACs", count_number(best.macs)),
            ("parameters", count_number(best.params)),
        ]
    if comparison is not None:
        facts += [
            ("measured speed-up", speedup_number(comparison)),
            ("comparison", Link(comparison.verdict.value, compare_address(comparison))),
        ]
    if summary.get("quality") is not None:
        facts.append(("accuracy on test images", share_number(summary["quality"])))
    if summary.get("original_quality") is not None:
        facts.append(("accuracy of the original", share_number(summary["original_quality"])))
    figures = [_trials(search), *_kept(search), _networks(search)]
    failed = [trial.error for _, trial in search.trials if trial.error]
    findings = [(finding["code"], finding["text"]) for finding in summary.get("findings", ())]
    if failed:
        share = f"{plural(len(failed), 'trial')} of {len(search.trials)}"
        findings.append(("trials_failed", f"{share} failed, the last with {failed[-1]}"))
    measured = " Its latency was predicted, not measured."
    if comparison is not None:
        measured = f" Measured: {verdict_text(comparison)}."
    return Page(
        id=search_address(search),
        title=f"{plan['method']} on {summary['model']}",
        lead=f"The best of {plural(len(search.trials), 'trial')}, baselines included.{measured}",
        facts=tuple(facts),
        findings=tuple(findings),
        figures=tuple(figures),
        closing=f"search {summary['search'][:SHORT_ID]} with seed {plan['seed']}",
        source=search_source(search, comparison),
    )


def _objective(search: KeptSearch) -> str:
    return str(search.summary.get("objective") or "quality")


def _quality(search: KeptSearch, outcome: Outcome | None) -> Number:
    return share_number(None if outcome is None else outcome.quality, _objective(search))


def _of_original(search: KeptSearch, outcome: Outcome | None) -> Number:
    original = search.original
    if outcome is None or original is None or outcome.latency_s is None or not original.latency_s:
        return Number(None, "-")
    return share_number(
        outcome.latency_s / original.latency_s,
        f"{seconds(outcome.latency_s)} of {seconds(original.latency_s)}, predicted",
    )


def _predicted(outcome: Outcome) -> Number:
    return seconds_number(outcome.latency_s, "predicted by a lookup table")


def _reward(plan: Mapping[str, Any]) -> tuple[str, Callable[[Outcome], float | None]]:
    """What the search maximised: its name, and how it follows from an outcome."""
    method = recorded_method(plan)
    if method is None:
        return "quality", lambda outcome: outcome.quality
    return method.reward()


def _trials(search: KeptSearch) -> Figure:
    """Reward of every trial, the best so far, and the baselines."""
    columns = (
        Column("trial"),
        Column("part"),
        Column("how", minor=True),
        Column("reward", numeric=True),
        Column("latency", numeric=True),
        Column("of original", numeric=True, minor=True),
        Column("MACs", numeric=True, minor=True),
        Column("state"),
    )
    name, reward_of = _reward(search.summary["plan"])
    rows, points = [], []
    for number, (part, trial) in enumerate(search.trials):
        outcome = trial.outcome
        reward = None
        if outcome is not None and trial.candidate.task == "network":
            reward = reward_of(outcome)
        shown = Number(reward, _reward_text(reward, name), trial.error or name)
        state = _state(search, trial, reward)
        costs = (seconds_number(None), Number(None, "-"), count_number(None))
        if outcome is not None:
            costs = (_predicted(outcome), _of_original(search, outcome), count_number(outcome.macs))
        note = trial.candidate.note or "-"
        rows.append((Number(number, str(number)), part, note, shown, *costs, state))
        if reward is not None:
            points.append(
                {
                    "x": number,
                    "y": round_digits([reward])[0],
                    "part": part,
                    "chosen": state == "chosen",
                    "text": f"trial {number} ({part}): {shown.text}, {costs[0].text}",
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


def _reward_text(reward: float | None, name: str) -> str:
    """A reward for people; a quality is a share."""
    if reward is None:
        return "-"
    return percent(reward) if name == "quality" else f"{reward:.4f}"


def _state(search: KeptSearch, trial: Trial, reward: float | None) -> str:
    """What became of a trial, in one word."""
    if trial.outcome is None:
        return "failed"
    if _same(trial, search.best):
        return "chosen"
    return "scored" if reward is None else "done"


def _same(trial: Trial, best: Trial) -> bool:
    return trial.candidate == best.candidate and trial.outcome == best.outcome


def _kept(search: KeptSearch) -> list[Figure]:
    """The share of each layer's channels that stays, or the blocks that go."""
    candidate, groups = search.best.candidate, search.summary.get("groups")
    if candidate.dropped:
        rows: list[tuple[Cell, ...]] = [(name,) for name in candidate.dropped]
        return [
            Figure(
                "Dropped blocks",
                "These blocks were left out.",
                Table((Column("block"),), tuple(rows)),
            )
        ]
    if candidate.shares is not None:
        rows = [
            (Number(index, str(index)), share_number(share))
            for index, share in enumerate(candidate.shares)
        ]
        kept = Table((Column("layer"), Column("kept weights", numeric=True)), tuple(rows))
        chart = {"kind": "shares", "label": "kept share", "name": 0, "value": 1}
        return [
            Figure(
                "Kept weights", "Share of single weights that stay, layer by layer.", kept, (chart,)
            )
        ]
    if candidate.widths is None or not groups:
        return []
    rows = [
        (name, count_number(width), count_number(stays), share_number(stays / width))
        for (name, width), stays in zip(groups, candidate.widths, strict=True)
    ]
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
    return [Figure("Preserve ratios", text, Table(columns, tuple(rows)), (chart,))]


def _networks(search: KeptSearch) -> Figure:
    """Original, result and the best of each baseline."""
    columns = (
        Column("network"),
        Column(_objective(search), numeric=True),
        Column("latency", numeric=True),
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
        costs = (
            count_number(outcome.macs),
            count_number(outcome.params),
            size_number(outcome.size_bytes),
        )
        rows.append(
            (
                name,
                _quality(search, outcome),
                _predicted(outcome),
                _of_original(search, outcome),
                *costs,
            )
        )
    return Figure(
        "Networks",
        "What was found, beside the original and the baselines. Latencies are predicted.",
        Table(columns, tuple(rows)),
    )
