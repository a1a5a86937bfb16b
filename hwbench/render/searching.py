"""The result of a search for people and for tools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.comparing import verdict_text
from hwbench.render.documents import compare_document
from hwbench.render.units import count, percent, plural, seconds, size
from hwbench.render.views import SHORT_ID

if TYPE_CHECKING:
    from hwbench.render.documents import Document
    from hwbench.search.base import Outcome, Trial
    from hwbench.workflows.search.result import SearchResult

SCHEMA = 1
KEPT_SHOWN = 3


def search_view(result: SearchResult) -> View:
    """The network found beside its original and the baselines, and how fast it really is."""
    best = result.best.outcome
    headline = (
        f"{result.model}: {_describe_cost(best)} found by {result.plan.method} in"
        f" {plural(len(result.trials), 'trial')}"
    )
    blocks: list[Block] = [Line(headline, "bold")]
    if result.comparison is not None:
        blocks.append(Line(f"measured: {verdict_text(result.comparison)}", "bold"))
    titles = (result.objective, "latency", "of original", "MACs", "parameters", "size")
    columns = (Column("network"), *(Column(title, right=True) for title in titles))
    rows = [
        _network_row("original", result.original, result.original),
        _network_row(result.plan.method, best, result.original),
    ]
    for name, trial in result.baselines.items():
        outcome = None if trial is None else trial.outcome
        rows.append(_network_row(name, outcome, result.original))
    blocks.append(Table(columns, tuple(rows)))
    blocks += [Line(text) for text in (_describe_tuning(result), _describe_network(result.best))]
    failed = sum(trial.error is not None for trial in result.trials)
    notes = [(finding.code, finding.text) for finding in result.findings]
    if failed:
        last = next(trial.error for trial in reversed(result.trials) if trial.error)
        share = f"{plural(failed, 'trial')} of {len(result.trials)}"
        notes.append(("trials_failed", f"{share} failed, the last with {last}"))
    if result.layers:
        notes.append(("kept_layers", _describe_kept(result.layers)))
    if notes:
        blocks.append(Notes(tuple(notes)))
    where = f"written to {result.out}" if result.out is not None else "not written; give --out DIR"
    resumed = f"; went on after {plural(result.resumed, 'trial')}" if result.resumed else ""
    return [
        *blocks,
        Line(
            f"search {result.key[:SHORT_ID]} with seed {result.plan.seed}{resumed}; {where}", "dim"
        ),
    ]


def _describe_kept(layers: Sequence[tuple[str, str]]) -> str:
    """What could not be pruned, the first few with their reasons."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in layers[:KEPT_SHOWN])
    rest = len(layers) - KEPT_SHOWN
    return f"{shown}; and {rest} more, see --json" if rest > 0 else shown


def _describe_cost(outcome: Outcome | None) -> str:
    """What a network costs, for the headline."""
    if outcome is None:
        return "nothing"
    if outcome.latency_s is None:
        return f"{count(outcome.macs)} MACs"
    return f"{seconds(outcome.latency_s)} predicted"


def _network_row(name: str, outcome: Outcome | None, original: Outcome) -> tuple[str, ...]:
    if outcome is None:
        return (name, "no result", "-", "-", "-", "-", "-")
    return (
        name,
        percent(outcome.quality),
        seconds(outcome.latency_s),
        percent(_latency_share(outcome, original)),
        count(outcome.macs),
        count(outcome.params),
        size(outcome.size_bytes),
    )


def _describe_tuning(result: SearchResult) -> str:
    """How the result was tuned, and how accurate it is."""
    how = {
        "none": "not tuned",
        "ce": "tuned by labels",
        "kd": "tuned by the original's answers",
        "features": "tuned by features",
    }
    if result.quality is None:
        return f"Result {how[result.tuned]}: there are no labelled images to tell its accuracy."
    accuracy = (
        f"accuracy {percent(result.quality)} on test images, the original"
        f" {percent(result.original_quality)}"
    )
    return f"Result {how[result.tuned]}: {accuracy}."


def _describe_network(best: Trial) -> str:
    """The network found: its widths, its dropped blocks, or its shares of weights."""
    candidate = best.candidate
    if candidate.dropped:
        return f"dropped: {', '.join(candidate.dropped)}"
    if candidate.shares is not None:
        return f"kept shares of weights: {' '.join(f'{share:.2f}' for share in candidate.shares)}"
    return f"widths: {' '.join(map(str, candidate.widths or ()))}"


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
        "predicted_ratio": _predicted_ratio(result),
        "measured": None if result.comparison is None else compare_document(result.comparison),
        "tuned": result.tuned,
        "quality": result.quality,
        "original_quality": result.original_quality,
        "baselines": result.baselines_to_dict(),
        "trials": [trial.to_dict() for trial in result.trials],
        "resumed": result.resumed,
        "kept_layers": dict(result.layers),
        "out": None if result.out is None else str(result.out),
        "findings": [asdict(finding) for finding in result.findings],
    }


def _predicted_ratio(result: SearchResult) -> float | None:
    """Predicted latency of the result over the original's; None where it is not known."""
    return _latency_share(result.best.outcome, result.original)


def _latency_share(outcome: Outcome | None, original: Outcome) -> float | None:
    """Predicted latency of a network over the original's; None where one is not known."""
    if outcome is None or outcome.latency_s is None or not original.latency_s:
        return None
    return outcome.latency_s / original.latency_s
