"""What one workload gathers while it is measured, and the record that comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from uuid import uuid4

from hwbench.devices.base import LayerSamples
from hwbench.measuring.layer_profile import find_unresolved_rows, join_sessions
from hwbench.measuring.sample_findings import find_sample_faults
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding, order_findings
from hwbench.records.measurement import Measurement, SessionStart, Settings
from hwbench.records.series import Series, SeriesBuilder
from hwbench.version import __version__, commit, commit_here


@dataclass
class Track:
    """One workload of a measurement in progress."""

    workload: Workload
    series: SeriesBuilder = field(default_factory=SeriesBuilder)
    warm_up: SeriesBuilder = field(default_factory=SeriesBuilder)
    profiles: list[LayerSamples] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    starts: list[SessionStart] = field(default_factory=list)

    def add_findings(self, findings: Sequence[Finding]) -> None:
        """Keep the first finding of each code."""
        for finding in findings:
            self.findings.setdefault(finding.code, finding)

    def withdraw(self, session: int) -> None:
        """Count the timed samples of the session in progress as warm-up."""
        self.warm_up.add(session, self.series.take_session(session))

    def finish(
        self, draft: Measurement, after: Conditions, *, has_enough: bool = False
    ) -> Measurement:
        """The complete record.

        Args:
            draft: The record as it was begun.
            after: Conditions after the last session.
            has_enough: Whether measuring stopped since it knew enough, however few the sessions.
        """
        peaks = [
            start.peak_memory_bytes for start in self.starts if start.peak_memory_bytes is not None
        ]
        record = replace(
            draft,
            series=self.series.build(),
            warm_up=self.warm_up.build(),
            after=after,
            peak_memory_bytes=max(peaks, default=None),
            starts=tuple(self.starts),
            complete=True,
        )
        if self.profiles:
            record = replace(record, profile=join_sessions(self.profiles, record.median_s))
            self.add_findings(find_unresolved_rows(self.profiles))
        record = replace(record, findings=(*draft.findings, *self.findings.values()))
        faults = find_sample_faults(record, has_enough=has_enough)
        return replace(record, findings=order_findings((*record.findings, *faults)))


def draft_records(
    workloads: Sequence[Workload],
    settings: Settings,
    places: Sequence[tuple[DeviceInfo, Conditions]],
) -> list[Measurement]:
    """Records of workloads that are measured together, as they are before the first sample.

    Args:
        workloads: The workloads.
        settings: How they are measured.
        places: The device of each, and its state.
    """
    group_id = uuid4().hex
    started_utc = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        Measurement(
            id=uuid4().hex,
            group_id=group_id,
            model=workload.name,
            model_sha256=workload.sha256,
            inputs=workload.inputs,
            batch=workload.batch,
            precision=workload.precision,
            macs=workload.macs,
            params=workload.params,
            file_bytes=workload.file_bytes,
            peak_memory_bytes=None,
            device=device,
            settings=settings,
            clock="",
            loops=1,
            series=Series(),
            warm_up=Series(),
            before=before,
            after=before,
            findings=workload.findings,
            profile=None,
            started_utc=started_utc,
            hwbench_version=__version__,
            commit=commit(),
            complete=False,
            source_commit=commit_here(),
        )
        for workload, (device, before) in zip(workloads, places, strict=True)
    ]
