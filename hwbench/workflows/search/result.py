"""The result of a search: measured beside its original, recorded, and written as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, HwbenchError, UsageError
from hwbench.measuring.comparing import compare_measured
from hwbench.network.intake import load_workload
from hwbench.network.intake.failures import FAILURES, reason
from hwbench.records.comparison import Comparison
from hwbench.records.findings import Finding
from hwbench.search.base import Outcome, Trial
from hwbench.workflows.recording import recording
from hwbench.workflows.search.facts import write_facts
from hwbench.workflows.search.plan import Plan

if TYPE_CHECKING:
    from hwbench.measuring.callback import MeasuringCallback
    from hwbench.pruning import Pruned
    from hwbench.search.context import Subject
    from hwbench.workflows.search.latency import Resources

RECORD = "search"
NOT_WRITTEN = "not_written"
"""Code of the finding that the files of a result could not be written."""
LEAST_S = 0.1
"""Seconds that the result is measured for where a search has none left."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        key: Identity of the search in the store.
        model: What was searched.
        plan: What was asked for.
        objective: What `Outcome.quality` is.
        original: The unpruned network.
        best: The network found.
        limit: The budget, in the unit of its cost; infinite without one.
        trials: All trials of the search, corrected budgets included.
        baselines: Best trial of each baseline, by name.
        resumed: Number of trials taken over from an earlier run of the same search.
        layers: Layers that were kept whole, each with its reason.
        comparison: Original and result, measured interleaved; None where no device was given.
        tuned: How the result was trained in the end, `none` if it was not.
        quality: Quality of the result after that, on images that neither training nor search saw;
            None without images.
        original_quality: Quality of the original on the same images.
        untuned_quality: Quality of the result before it was tuned, on the same images; None where
            it was not.
        out: Where the network was written; None if it was not.
        findings: What to know of all this.
        intervals_s: 95 % intervals of predicted latencies, as far as known, by name: `original`,
            the name of the search for the result, those of the baselines.
        spent_s: Seconds of the run until its end, by what they went to.
    """

    key: str
    model: str
    plan: Plan
    objective: str
    original: Outcome
    best: Trial
    limit: float
    trials: tuple[Trial, ...]
    baselines: Mapping[str, Trial | None]
    resumed: int
    layers: tuple[tuple[str, str], ...]
    comparison: Comparison | None
    tuned: str
    quality: float | None
    original_quality: float | None
    out: Path | None
    findings: tuple[Finding, ...]
    untuned_quality: float | None = None
    intervals_s: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    spent_s: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        trials = f"{len(self.trials)} trials, written to {self.out}"
        return f"<SearchResult {self.key[:12]} of {self.model}: {trials}>"

    def baselines_to_dict(self) -> dict[str, Any]:
        """The best trial of each baseline as plain JSON types."""
        return {
            name: None if trial is None else trial.to_dict()
            for name, trial in self.baselines.items()
        }


def measure_result(
    subject: Subject,
    pruned: Pruned,
    resources: Resources,
    callback: MeasuringCallback,
    *,
    left_s: float | None = None,
) -> Comparison:
    """Measure and compare the very network that is going to be delivered.

    Args:
        subject: The original.
        pruned: The result.
        resources: What to measure with.
        callback: Called while it is measured.
        left_s: Seconds that are left for the search; None for as long as a measurement takes.

    Raises:
        UsageError: There is no device to measure on.
        DeviceError: The device failed.
    """
    if resources.meter is None:
        raise UsageError("there is no device to measure the result on", Argument("device"))
    smaller = load_workload(pruned.module, example_inputs=subject.example)
    smaller = replace(smaller, name=f"{subject.name}, pruned")
    with recording(resources.url, save=resources.store is not None, callback=callback) as recorder:
        # Whether the budget is kept is a question of how fast it is, not only of whether.
        settings = replace(resources.settings, stop_at_difference=False)
        if left_s is not None:
            settings = replace(settings, budget_s=min(settings.budget_s, max(left_s, LEAST_S)))
        pair = resources.meter.measure([subject.workload, smaller], settings, recorder)
        return compare_measured(*pair)


def result_record(result: SearchResult, subject: Subject, resources: Resources) -> dict[str, Any]:
    """What the store keeps of a search that came to its end, beside its trials and measurements."""
    measurements = []
    if result.comparison is not None:
        measurements = [result.comparison.baseline.id, result.comparison.candidate.id]
    return {
        "search": result.key,
        "model": result.model,
        "plan": result.plan.to_dict(),
        "best": result.best.to_dict(),
        "quality": result.quality,
        "original_quality": result.original_quality,
        "untuned_quality": result.untuned_quality,
        "objective": result.objective,
        "original": asdict(result.original),
        "groups": [(group.name, group.width) for group in subject.structure.groups],
        "baselines": result.baselines_to_dict(),
        "intervals_s": {name: list(ends) for name, ends in result.intervals_s.items()},
        "findings": [asdict(finding) for finding in result.findings],
        "device": None if resources.meter is None else resources.meter.address,
        "table": resources.table if isinstance(resources.table, str) else None,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "measurements": measurements,
    }


def write_result(result: SearchResult, pruned: Pruned, subject: Subject, out: Path) -> SearchResult:
    """Write the log of trials, the recipe and the network found.

    The original is written too if it was trained here. What cannot be written is a finding: a
    search that took hours is not to end with nothing for that.

    Returns:
        The result, with its folder or with that finding.
    """
    from hwbench.pruning import save
    from hwbench.pruning.files import write_network

    try:
        out.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(trial.to_dict()) for trial in result.trials]
        (out / "log.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        save(pruned, out, subject.example)
        write_facts(subject, out)
        if subject.trained:
            write_network(subject.prunable.module, out / "original", subject.example)
    except (HwbenchError, *FAILURES) as error:
        text = error.message if isinstance(error, HwbenchError) else reason(error)
        failure = Finding(
            NOT_WRITTEN,
            f"not all of the result could be written to {out}: {text}; its trials are kept, so that"
            " the same search, with another folder, only writes",
        )
        return replace(result, findings=(*result.findings, failure))
    return replace(result, out=out)
