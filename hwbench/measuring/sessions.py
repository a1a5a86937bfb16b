"""The measuring core: warm-up, interleaved rounds, several sessions, stopping, layers, findings.

A measurement is a row of *sessions*. In each, every workload is prepared afresh, warmed up until it
has settled, and timed in blocks that hold one round of each workload in random order; then the
device's layer profiler, if it has one, runs for a moment in a session of its own, so that layers
and end-to-end latency come from the same minutes. After each session the evidence so far decides
whether to go on (`hwbench.stats` says why that does not inflate false verdicts).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from subprocess import SubprocessError, run
from uuid import uuid4

import numpy as np

from hwbench import stats
from hwbench.devices.base import (
    Device,
    LayerSamples,
    MovesTime,
    Prepared,
    ProfilesLayers,
    ReportsMemory,
)
from hwbench.errors import DeviceError, OutputParseError, UsageError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.layer_profile import below_resolution, join_sessions
from hwbench.measuring.sample_findings import of_samples
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions
from hwbench.records.findings import Finding
from hwbench.records.measurement import Measurement, Settings
from hwbench.version import __version__

CHUNK_S = 0.1
"""Seconds of rounds between two reports to the callback: what a killed process can lose."""
MIN_BLOCKS, MAX_BLOCKS = 4, 200
"""Blocks of a session: enough for a median, and not so many that tiny models fill the store."""
WARM_UP_S, REWARM_UP_S = 1.0, 0.3
"""Bound of the warm-up in the first session, which also wakes the processor, and in later ones."""
WARM_UP_ROUNDS, WARM_UP_MIN_S = 2, 0.02
PROFILE_SHARE = 0.2
"""Share of the time that may go to layer profiling."""
PROFILE_RUNS = (3, 20)
PROFILE_S = 0.2
"""Profiled inferences at a time, within these numbers; and the seconds they should take."""
CONFIRM = 3
"""The reason to stop must have held this many sessions ago too.

Stopping at the first lucky moment would make the intervals too narrow where the truth is near the
smallest effect: simulated coverage falls to 91 %, with this rule it stays above 93 % for 11 % more
sessions (study `results/virtual_truth/`)."""
COOL_DOWN_S, COOL_DOWNS = 5.0, 12
"""Seconds between two looks at a throttled device, and looks before it is measured as it is."""


def measure(
    device: Device,
    workload: Workload,
    settings: Settings,
    callback: MeasuringCallback | None = None,
) -> Measurement:
    """Measure one workload on an opened device.

    Raises:
        DeviceError: The device failed; samples taken before were given to `callback`.
        WorkloadError: The device cannot run the workload.
    """
    return measure_interleaved(device, [workload], settings, callback)[0]


def measure_interleaved(
    device: Device,
    workloads: Sequence[Workload],
    settings: Settings,
    callback: MeasuringCallback | None = None,
) -> tuple[Measurement, ...]:
    """Measure several workloads interleaved on an opened device, the first being the baseline of the others.

    Returns:
        One record per workload, in order, sharing `group_id`; their samples pair by `block`.

    Raises:
        DeviceError: The device failed; samples taken before were given to `callback`.
        WorkloadError: The device cannot run one of the workloads.
    """
    if not workloads:
        raise UsageError("nothing to measure: no workload given")
    if settings.budget_s <= 0:
        raise UsageError(
            f"the budget must be a positive number of seconds, not {settings.budget_s:g}"
        )
    campaign = _Campaign(device, list(workloads), settings, callback or MeasuringCallback())
    return campaign.run()


@dataclass
class _Track:
    """What one workload has gathered so far."""

    workload: Workload
    samples_s: list[float] = field(default_factory=list)
    session: list[int] = field(default_factory=list)
    block: list[int] = field(default_factory=list)
    warmup_s: list[float] = field(default_factory=list)
    warmup_session: list[int] = field(default_factory=list)
    profiles: list[LayerSamples] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    peak_memory_bytes: int | None = None

    def note(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self.findings.setdefault(finding.code, finding)


class _Campaign:
    """One measurement in progress."""

    def __init__(
        self,
        device: Device,
        workloads: list[Workload],
        settings: Settings,
        callback: MeasuringCallback,
    ) -> None:
        self.device, self.settings, self.callback = device, settings, callback
        self.tracks = [_Track(workload) for workload in workloads]
        self.now: Callable[[], float] = (
            device.time_s if isinstance(device, MovesTime) else time.monotonic
        )
        self.idle: Callable[[float], None] = (
            device.idle if isinstance(device, MovesTime) else time.sleep
        )
        self.random = np.random.default_rng(settings.seed)
        self.blocks = 0  # numbered over the whole measurement
        self.loops = 0  # fixed by the first warm-up
        self.clock = ""
        self.cool_downs = 0
        self.resolved: list[bool] = []  # after each session
        self.profiled_s = 0.0
        self.begun = self.now()

    def run(self) -> tuple[Measurement, ...]:
        self.drafts = self._drafts(self.device.conditions())
        sessions, longest_s = 0, 0.0
        while not self._enough(sessions, longest_s):
            start = self.now()
            if self._session(sessions):
                sessions += 1
                # The first session also pays for what is done once, and is no measure of those to
                # come.
                longest_s = max(longest_s, self.now() - start) if sessions > 1 else 0.0
                so_far = self._so_far()
                self.resolved.append(self._resolves(so_far))
                self.callback.session_ended(sessions, self.now() - self.begun, so_far)
        after = self.device.conditions()
        records = tuple(
            self._finish(draft, track, after)
            for draft, track in zip(self.drafts, self.tracks, strict=True)
        )
        self.callback.finished(records)
        return records

    def _enough(self, sessions: int, longest_s: float) -> bool:
        if sessions < 2:  # one session has no interval, whatever the budget
            return False
        if (
            sessions >= self.settings.max_sessions
            or self.now() - self.begun + longest_s > self.settings.budget_s
        ):
            return True
        return (
            sessions >= max(self.settings.min_sessions, CONFIRM + 1)
            and self.resolved[-1]
            and self.resolved[-1 - CONFIRM]
        )

    def _resolves(self, so_far: stats.Estimate | Sequence[stats.Ratio]) -> bool:
        """Whether what is known so far is enough to stop: a narrow interval, and for ratios a verdict."""
        if isinstance(so_far, stats.Estimate):
            return so_far.half_width <= self.settings.target
        verdicts = [ratio.verdict(self.settings.min_effect) for ratio in so_far]
        narrow = all(ratio.half_width <= self.settings.target for ratio in so_far)
        return narrow and stats.Verdict.UNRESOLVED not in verdicts

    def _so_far(self) -> stats.Estimate | list[stats.Ratio]:
        first, *others = self.tracks
        if not others:
            return stats.latency(first.samples_s, first.session)
        return [
            stats.ratio(first.samples_s, other.samples_s, first.session, first.block, other.block)
            for other in others
        ]

    def _session(self, number: int) -> bool:
        """One session of every workload; False if it was throttled and has to be repeated."""
        with self._prepared() as slots:
            block_s = self._warm_up(slots, number)
            self._timed(slots, number, block_s)
            if self.device.conditions().throttled and self._may_wait():
                self._withdraw(number)
                self._cool_down()
                return False
            if isinstance(self.device, ReportsMemory):
                for index, prepared in slots.items():
                    self.tracks[index].peak_memory_bytes = self.device.peak_memory_bytes(prepared)
            self._layers(slots)
        return True

    @contextmanager
    def _prepared(self) -> Iterator[dict[int, Prepared]]:
        """Every workload freshly prepared, in random order; released in the end."""
        slots: dict[int, Prepared] = {}
        try:
            for index in self.random.permutation(len(self.tracks)):
                slots[int(index)] = self.device.prepare(self.tracks[index].workload, self.settings)
                self.tracks[index].note(slots[int(index)].findings)
            yield slots
        except BaseException:
            for prepared in slots.values():
                with suppress(DeviceError):  # what went wrong first is what the user should hear of
                    self.device.release(prepared)
            raise
        for prepared in slots.values():
            self.device.release(prepared)

    def _warm_up(self, slots: dict[int, Prepared], number: int) -> float:
        """Run until every workload has settled or the bound is reached.

        Returns the latency of one block in seconds.
        """
        seen: dict[int, list[float]] = {index: [] for index in slots}
        start, bound_s = self.now(), REWARM_UP_S if number else WARM_UP_S
        while True:
            for index, values in self._run(slots, WARM_UP_ROUNDS, self.loops or 1).items():
                seen[index] += values
            elapsed_s = self.now() - start
            done = all(stats.settled(values) for values in seen.values())
            if elapsed_s >= bound_s or (done and elapsed_s >= WARM_UP_MIN_S):
                break
        if not done and not number and min(map(len, seen.values())) >= stats.SETTLED_FROM:
            for track in self.tracks:
                text = (
                    f"still changing by over 2 % after {elapsed_s:.1f} s of warm-up; the first"
                    " samples may be slow"
                )
                track.note([Finding("not_settled", text)])
        latencies_s = {
            index: float(np.median(values[-WARM_UP_ROUNDS:])) for index, values in seen.items()
        }
        if not self.loops:
            self.loops = max(1, math.ceil(self.settings.min_round_s / min(latencies_s.values())))
            self.drafts = [
                replace(draft, clock=self.clock, loops=self.loops) for draft in self.drafts
            ]
            self.callback.started(self.drafts)
        for index, values in seen.items():
            self._keep(index, number, values, (), warm_up=True)
        return sum(latencies_s.values()) * self.loops

    def _timed(self, slots: dict[int, Prepared], number: int, block_s: float) -> None:
        """The timed blocks of one session, handed on chunk by chunk."""
        left = min(MAX_BLOCKS, max(MIN_BLOCKS, round(self.settings.session_s / block_s)))
        chunk = max(1, int(CHUNK_S / block_s))
        while left > 0:
            count = min(chunk, left)
            for index, values in self._run(slots, count, self.loops).items():
                self._keep(
                    index, number, values, range(self.blocks, self.blocks + count), warm_up=False
                )
            self.blocks += count
            left -= count

    def _run(self, slots: dict[int, Prepared], blocks: int, loops: int) -> dict[int, list[float]]:
        """Run `blocks` blocks, each with one round of every workload in random order."""
        indices = np.array(sorted(slots))
        order = self.random.permuted(np.tile(indices, (blocks, 1)), axis=1).ravel()
        samples = self.device.run([slots[int(index)] for index in order], loops)
        self.clock = samples.clock
        values_s = np.array(samples.values_s)
        for track in self.tracks:
            track.note(samples.findings)
        return {int(index): values_s[order == index].tolist() for index in indices}

    def _keep(
        self,
        index: int,
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int],
        *,
        warm_up: bool,
    ) -> None:
        track = self.tracks[index]
        if warm_up:
            track.warmup_s += samples_s
            track.warmup_session += [session] * len(samples_s)
        else:
            track.samples_s += samples_s
            track.session += [session] * len(samples_s)
            track.block += blocks
        self.callback.sampled(index, session, samples_s, blocks, warm_up=warm_up)

    def _withdraw(self, session: int) -> None:
        for track in self.tracks:
            kept = track.session.index(session)
            track.warmup_s += track.samples_s[kept:]
            track.warmup_session += track.session[kept:]
            del track.samples_s[kept:], track.session[kept:], track.block[kept:]
        self.callback.session_withdrawn(session)

    def _may_wait(self) -> bool:
        return (
            self.cool_downs < COOL_DOWNS
            and self.now() - self.begun + COOL_DOWN_S < self.settings.budget_s
        )

    def _cool_down(self) -> None:
        while self._may_wait():
            self.cool_downs += 1
            self.idle(COOL_DOWN_S)
            if not self.device.conditions().throttled:
                break
        for track in self.tracks:
            track.findings["throttled"] = Finding(
                "throttled",
                f"the device slowed itself down; waited {self.cool_downs * COOL_DOWN_S:.0f} s in"
                " all for it to cool",
            )

    def _layers(self, slots: dict[int, Prepared]) -> None:
        """Profile layers for a moment, as long as that takes no more than its share of the time."""
        if not self.settings.layers or not isinstance(self.device, ProfilesLayers):
            return
        start = self.now()
        if self.profiled_s > PROFILE_SHARE * (start - self.begun):
            return
        for index, prepared in slots.items():
            latency_s = self.tracks[index].samples_s[-1]
            runs = min(max(round(PROFILE_S / latency_s), PROFILE_RUNS[0]), PROFILE_RUNS[1])
            try:
                found = self.device.profile_layers(prepared, runs)
            except OutputParseError as error:
                self.tracks[index].note([Finding("layers_unknown", f"no layer times: {error}")])
                continue
            self.tracks[index].profiles.append(found)
            self.tracks[index].note(found.findings)
        self.profiled_s += self.now() - start

    def _drafts(self, before: Conditions) -> list[Measurement]:
        group, started, info = (
            uuid4().hex,
            datetime.now(UTC).isoformat(timespec="seconds"),
            self.device.info(),
        )
        return [
            Measurement(
                id=uuid4().hex,
                group_id=group,
                model=track.workload.name,
                model_sha256=track.workload.sha256,
                inputs=track.workload.inputs,
                batch=track.workload.batch,
                precision=track.workload.precision,
                macs=track.workload.macs,
                params=track.workload.params,
                file_bytes=track.workload.file_bytes,
                peak_memory_bytes=None,
                device=info,
                settings=self.settings,
                clock="",
                loops=1,
                samples_s=(),
                session=(),
                block=(),
                warmup_s=(),
                warmup_session=(),
                before=before,
                after=before,
                findings=track.workload.findings,
                profile=None,
                started_utc=started,
                hwbench_version=__version__,
                commit=commit(),
                complete=False,
            )
            for track in self.tracks
        ]

    def _finish(self, draft: Measurement, track: _Track, after: Conditions) -> Measurement:
        record = replace(
            draft,
            samples_s=tuple(track.samples_s),
            session=tuple(track.session),
            block=tuple(track.block),
            warmup_s=tuple(track.warmup_s),
            warmup_session=tuple(track.warmup_session),
            after=after,
            peak_memory_bytes=track.peak_memory_bytes,
            complete=True,
        )
        if track.profiles:
            record = replace(record, profile=join_sessions(track.profiles, record.median_s))
            track.note(below_resolution(track.profiles))
        record = replace(record, findings=(*draft.findings, *track.findings.values()))
        return replace(record, findings=(*record.findings, *of_samples(record)))


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Commit of the checkout that hwbench runs from; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, SubprocessError):
        return None
    return found.stdout.strip()
