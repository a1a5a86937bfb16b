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
from dataclasses import replace

import numpy as np

from hwbench import stats
from hwbench.devices.base import Device, MovesTime, Prepared, ProfilesLayers, ReportsMemory
from hwbench.errors import DeviceError, OutputParseError, UsageError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.stopping import CoolDown, Evidence, StopRule
from hwbench.measuring.track import Track, draft_records
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.measurement import Measurement, Settings

CHUNK_S = 0.1
"""Seconds of rounds between two calls of the callback: what a killed process can lose."""
MIN_BLOCKS, MAX_BLOCKS = 4, 200
"""Blocks of a session: enough for a median, and not so many that tiny models fill the store."""
WARM_UP_S, REWARM_UP_S = 1.0, 0.3
"""Bound of the warm-up in the first session, which also wakes the processor, and in later ones."""
WARM_UP_ROUNDS, WARM_UP_MIN_S = 2, 0.02
"""Rounds between two looks at whether a workload has settled; seconds it takes at least."""
PROFILE_SHARE = 0.2
"""Share of the time that may go to layer profiling."""
PROFILE_RUNS = (3, 20)
PROFILE_S = 0.2
"""Profiled inferences at a time, within these numbers; and the seconds they should take."""


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
    """Measure several workloads interleaved on an opened device; the first is the baseline.

    Returns:
        One record per workload, in order, sharing `group_id`; their samples pair by block.

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
    return _Campaign(device, workloads, settings, callback or MeasuringCallback()).run()


class _Campaign:
    """One measurement in progress."""

    def __init__(
        self,
        device: Device,
        workloads: Sequence[Workload],
        settings: Settings,
        callback: MeasuringCallback,
    ) -> None:
        self.device, self.settings, self.callback = device, settings, callback
        self.tracks = [Track(workload) for workload in workloads]
        self.now: Callable[[], float] = time.monotonic
        idle: Callable[[float], None] = time.sleep
        if isinstance(device, MovesTime):
            self.now, idle = device.time_s, device.idle
        self.begun_s = self.now()
        self.stop_rule = StopRule(settings)
        self.cool_down = CoolDown(settings.budget_s, self.elapsed_s, idle)
        self.random = np.random.default_rng(settings.seed)
        self.blocks = 0  # numbered over the whole measurement
        self.loops = 0  # fixed by the first warm-up
        self.clock = ""
        self.profiled_s = 0.0
        self.drafts: list[Measurement] = []

    def elapsed_s(self) -> float:
        """Seconds since the measurement began."""
        return self.now() - self.begun_s

    def run(self) -> tuple[Measurement, ...]:
        """Take sessions until there is enough evidence; gives one record per workload."""
        before = self.device.conditions()
        workloads = [track.workload for track in self.tracks]
        self.drafts = draft_records(workloads, self.settings, self.device.info(), before)
        sessions = 0
        while not self.stop_rule.stops(self.elapsed_s()):
            start_s = self.now()
            if not self._run_session(sessions):
                continue
            sessions += 1
            duration_s = self.now() - start_s
            evidence = self._evidence()
            self.stop_rule.add_session(evidence, duration_s)
            self.callback.session_ended(sessions, self.elapsed_s(), evidence)
        after = self.device.conditions()
        records = tuple(
            track.finish(draft, after)
            for draft, track in zip(self.drafts, self.tracks, strict=True)
        )
        self.callback.finished(records)
        return records

    def _evidence(self) -> Evidence:
        first, *others = (track.series for track in self.tracks)
        if not others:
            return stats.latency(first.samples_s, first.session)
        return [
            stats.ratio(first.samples_s, other.samples_s, first.session, first.block, other.block)
            for other in others
        ]

    def _run_session(self, number: int) -> bool:
        """One session of every workload; False if it was throttled and has to be repeated."""
        with self._prepare_all() as slots:
            block_s = self._warm_up(slots, number)
            self._run_timed_blocks(slots, number, block_s)
            if self._is_hot() and self.cool_down.may_wait():
                self._withdraw(number)
                self._let_cool()
                return False
            if isinstance(self.device, ReportsMemory):
                for index, prepared in slots.items():
                    self.tracks[index].peak_memory_bytes = self.device.peak_memory_bytes(prepared)
            self._profile_layers(slots)
        return True

    @contextmanager
    def _prepare_all(self) -> Iterator[dict[int, Prepared]]:
        """Every workload freshly prepared, in random order; released in the end."""
        slots: dict[int, Prepared] = {}
        try:
            for index in self.random.permutation(len(self.tracks)).tolist():
                slots[index] = self.device.prepare(self.tracks[index].workload, self.settings)
                self.tracks[index].add_findings(slots[index].findings)
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

        The first warm-up also fixes how many inferences make a round.

        Returns:
            Latency of one block in seconds.
        """
        first = number == 0
        start_s = self.now()
        samples_s, settled = self._run_until_settled(slots, WARM_UP_S if first else REWARM_UP_S)
        if first and not settled and min(map(len, samples_s.values())) >= stats.SETTLED_FROM:
            self._add_unsettled_finding(self.now() - start_s)
        latencies_s = [float(np.median(values[-WARM_UP_ROUNDS:])) for values in samples_s.values()]
        if not self.loops:
            self._start(math.ceil(self.settings.min_round_s / min(latencies_s)))
        for index, values in samples_s.items():
            self.tracks[index].warm_up.add(number, values)
            self.callback.sampled(index, number, values, (), warm_up=True)
        return sum(latencies_s) * self.loops

    def _run_until_settled(
        self, slots: dict[int, Prepared], bound_s: float
    ) -> tuple[dict[int, list[float]], bool]:
        """Sample each workload until all have settled, for `bound_s` at most.

        Say whether they have.
        """
        samples_s: dict[int, list[float]] = {index: [] for index in slots}
        start_s = self.now()
        while True:
            for index, values in self._run_blocks(slots, WARM_UP_ROUNDS, self.loops or 1).items():
                samples_s[index] += values
            elapsed_s = self.now() - start_s
            settled = all(stats.settled(values) for values in samples_s.values())
            if elapsed_s >= bound_s or (settled and elapsed_s >= WARM_UP_MIN_S):
                return samples_s, settled

    def _add_unsettled_finding(self, elapsed_s: float) -> None:
        text = (
            f"still changing by over 2 % after {elapsed_s:.1f} s of warm-up; the first"
            " samples may be slow"
        )
        for track in self.tracks:
            track.add_findings([Finding("not_settled", text)])

    def _start(self, loops: int) -> None:
        """Fix the inferences of a round, and say that samples follow."""
        self.loops = max(1, loops)
        self.drafts = [replace(draft, clock=self.clock, loops=self.loops) for draft in self.drafts]
        self.callback.started(self.drafts)

    def _run_timed_blocks(self, slots: dict[int, Prepared], number: int, block_s: float) -> None:
        """The timed blocks of one session, handed on chunk by chunk."""
        left = min(MAX_BLOCKS, max(MIN_BLOCKS, round(self.settings.session_s / block_s)))
        chunk = max(1, int(CHUNK_S / block_s))
        while left > 0:
            count = min(chunk, left)
            numbers = range(self.blocks, self.blocks + count)
            for index, values_s in self._run_blocks(slots, count, self.loops).items():
                self.tracks[index].series.add(number, values_s, numbers)
                self.callback.sampled(index, number, values_s, numbers, warm_up=False)
            self.blocks += count
            left -= count

    def _run_blocks(
        self, slots: dict[int, Prepared], blocks: int, loops: int
    ) -> dict[int, list[float]]:
        """Run blocks, each with one round of every workload in random order.

        Returns:
            Seconds of the rounds of each workload.
        """
        indices = np.array(sorted(slots))
        order = self.random.permuted(np.tile(indices, (blocks, 1)), axis=1).ravel()
        samples = self.device.run([slots[int(index)] for index in order], loops)
        self.clock = samples.clock
        values_s = np.array(samples.values_s)
        for track in self.tracks:
            track.add_findings(samples.findings)
        return {int(index): values_s[order == index].tolist() for index in indices}

    def _is_hot(self) -> bool:
        return bool(self.device.conditions().throttled)

    def _withdraw(self, session: int) -> None:
        for track in self.tracks:
            track.withdraw(session)
        self.callback.session_withdrawn(session)

    def _let_cool(self) -> None:
        self.cool_down.wait(self._is_hot)
        text = (
            f"the device slowed itself down; waited {self.cool_down.waited_s:.0f} s in all for it"
            " to cool"
        )
        for track in self.tracks:
            track.findings["throttled"] = Finding("throttled", text)

    def _profile_layers(self, slots: dict[int, Prepared]) -> None:
        """Profile layers for a moment, as long as that takes no more than its share of the time."""
        if not self.settings.layers or not isinstance(self.device, ProfilesLayers):
            return
        start_s = self.now()
        if self.profiled_s > PROFILE_SHARE * (start_s - self.begun_s):
            return
        least, most = PROFILE_RUNS
        for index, prepared in slots.items():
            track = self.tracks[index]
            runs = min(max(round(PROFILE_S / track.series.samples_s[-1]), least), most)
            try:
                profile = self.device.profile_layers(prepared, runs)
            except OutputParseError as error:
                track.add_findings([Finding("layers_unknown", f"no layer times: {error}")])
                continue
            track.profiles.append(profile)
            track.add_findings(profile.findings)
        self.profiled_s += self.now() - start_s
