"""The result of a search for people and for tools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hwbench.records.findings import Finding
from hwbench.render.blocks import Block, Column, Line, Table, View
from hwbench.render.comparing import verdict_text
from hwbench.render.documents import compare_document
from hwbench.render.units import count, percent, plural, seconds, size
from hwbench.render.views import SHORT_ID, notes

if TYPE_CHECKING:
    from hwbench.render.documents import Document
    from hwbench.search.base import Outcome, Trial
    from hwbench.workflows.search.result import SearchResult

SCHEMA = 1
UNPRUNED_SHOWN = 3
"""Layers that are named of those that could not be pruned."""


def search_view(result: SearchResult, *, save_hint: str = "", layers_hint: str = "") -> View:
    """The chosen network with its original and the baselines, and how fast it really is.

    Args:
        result: What to show.
        save_hint: What writes the network to files where none were written; empty to name nothing.
        layers_hint: What shows all layers that could not be pruned; empty to name nothing.
    """
    best = result.best.outcome
    headline = (
        f"{result.model}: {_describe_cost(best)} found by {result.plan.method} in"
        f" {plural(len(result.trials), 'trial')}"
    )
    blocks: list[Block] = [Line(headline, "bold")]
    if result.comparison is not None:
        blocks.append(Line(f"measured: {verdict_text(result.comparison)}", "bold"))
    titles = (result.objective, "predicted latency", "of original", "MACs", _last_title(result))
    columns = (Column("network"), *(Column(title, right=True) for title in titles))
    rows = [
        _network_row("original", result.original, result),
        _network_row(result.plan.method, best, result),
    ]
    for name, trial in result.baselines.items():
        outcome = None if trial is None else trial.outcome
        rows.append(_network_row(name, outcome, result))
    blocks.append(Table(columns, tuple(rows)))
    blocks += [Line(_describe_tuning(result)), Line(describe_network(result.best))]
    remarks = [*result.findings, *find_failed_trials(result.trials)]
    if result.layers:
        remarks.append(Finding("kept_layers", _describe_unpruned(result.layers, layers_hint)))
    blocks += notes(remarks)
    parts = [f"search {result.key[:SHORT_ID]} with seed {result.plan.seed}"]
    if result.resumed:
        parts.append(f"went on after {plural(result.resumed, 'trial')}")
    if result.out is not None:
        parts.append(f"written to {result.out}")
    else:
        parts += filter(None, ("not written", save_hint))
    parts += filter(None, [describe_spent(result)])
    return [*blocks, Line("; ".join(parts), "dim")]


def find_failed_trials(trials: Sequence[Trial]) -> list[Finding]:
    """How many trials failed, and the error of the last of them; empty where none did."""
    errors = [trial.error for trial in trials if trial.error]
    if not errors:
        return []
    share = f"{plural(len(errors), 'trial')} of {len(trials)}"
    return [Finding("trials_failed", f"{share} failed, the last with {errors[-1]}")]


def _describe_unpruned(layers: Sequence[tuple[str, str]], hint: str) -> str:
    """What could not be pruned, the first few with their reasons."""
    text = "; ".join(f"{name}: {reason}" for name, reason in layers[:UNPRUNED_SHOWN])
    hidden = len(layers) - UNPRUNED_SHOWN
    if hidden <= 0:
        return text
    return ", ".join(filter(None, (f"{text}; and {hidden} more", hint)))


def _describe_cost(outcome: Outcome | None) -> str:
    """What a network costs, for the headline."""
    if outcome is None:
        return "nothing"
    if outcome.latency_s is None:
        return f"{count(outcome.macs)} MACs"
    return f"{seconds(outcome.latency_s)} predicted"


def _network_row(name: str, outcome: Outcome | None, result: SearchResult) -> tuple[str, ...]:
    if outcome is None:
        return (name, "no result", "-", "-", "-", "-")
    return (
        name,
        percent(outcome.quality),
        describe_prediction(outcome.latency_s, result.intervals_s.get(name)),
        percent(latency_share(outcome, result.original)),
        count(outcome.macs),
        size(outcome.size_bytes) if _is_of_size(result) else count(outcome.params),
    )


def _is_of_size(result: SearchResult) -> bool:
    """Whether bytes are limited; they are shown only then, as they tell what parameters do."""
    return result.plan.limit is not None and result.plan.limit.kind == "size"


def _last_title(result: SearchResult) -> str:
    return "size" if _is_of_size(result) else "parameters"


def describe_prediction(latency_s: float | None, ends_s: tuple[float, float] | None) -> str:
    """A predicted latency with the reach of its 95 % interval, if there is one: `165 us ±9.1 %`."""
    if latency_s is None or ends_s is None:
        return seconds(latency_s)
    reach = max(ends_s[1] / latency_s, latency_s / ends_s[0]) - 1
    return f"{seconds(latency_s)} ±{percent(reach)}"


def _describe_tuning(result: SearchResult) -> str:
    """How the result was tuned, and how accurate it is."""
    tuning = {
        "none": "not tuned",
        "ce": "tuned by labels",
        "kd": "tuned by the original's answers",
        "features": "tuned by features",
    }
    if result.quality is None:
        return f"Result {tuning[result.tuned]}: there are no labelled images to tell its accuracy."
    accuracy = (
        f"accuracy {percent(result.quality)} on test images, the original"
        f" {percent(result.original_quality)}"
    )
    if result.untuned_quality is not None:
        accuracy += f", before tuning {percent(result.untuned_quality)}"
    return f"Result {tuning[result.tuned]}: {accuracy}."


def describe_spent(result: SearchResult) -> str:
    """What the time of a search went to; empty where that was not noted."""
    parts = [f"{name} {spent_s:.0f} s" for name, spent_s in result.spent_s.items() if spent_s >= 1]
    return f"time: {', '.join(parts)}" if parts else ""


def describe_network(best: Trial) -> str:
    """The network found: its dropped blocks and its widths, or its shares of weights."""
    candidate = best.candidate
    if candidate.shares is not None:
        return f"kept shares of weights: {' '.join(f'{share:.2f}' for share in candidate.shares)}"
    parts = []
    if candidate.dropped:
        parts.append(f"dropped: {', '.join(candidate.dropped)}")
    if candidate.widths is not None or not candidate.dropped:
        parts.append(f"widths: {' '.join(map(str, candidate.widths or ()))}")
    return "; ".join(parts)


def search_document(result: SearchResult) -> Document:
    """A search as JSON types."""
    return {
        "schema": SCHEMA,
        "search": result.key,
        "model": result.model,
        "plan": result.plan.to_dict(),
        "objective": result.objective,
        "limit": result.limit if math.isfinite(result.limit) else None,
        "original": asdict(result.original),
        "best": result.best.to_dict(),
        "predicted_ratio": latency_share(result.best.outcome, result.original),
        "measured": None if result.comparison is None else compare_document(result.comparison),
        "tuned": result.tuned,
        "quality": result.quality,
        "original_quality": result.original_quality,
        "untuned_quality": result.untuned_quality,
        "baselines": result.baselines_to_dict(),
        "trials": [trial.to_dict() for trial in result.trials],
        "resumed": result.resumed,
        "kept_layers": dict(result.layers),
        "out": None if result.out is None else str(result.out),
        "latency_ci_s": {name: list(ends) for name, ends in result.intervals_s.items()},
        "spent_s": dict(result.spent_s),
        "findings": [asdict(finding) for finding in result.findings],
    }


def latency_share(outcome: Outcome | None, original: Outcome | None) -> float | None:
    """Predicted latency of a network over the original's; None where one is not known."""
    if outcome is None or outcome.latency_s is None:
        return None
    if original is None or not original.latency_s:
        return None
    return outcome.latency_s / original.latency_s
