"""The measuring core: warm-up, interleaved rounds, several sessions, stopping, layers, findings.

The budget bounds it: counted from the moment at which everything is prepared for the first time, no
round begins after its end, as long as there is one sample of each workload. Where a network is too
slow for the usual rounds, there are fewer, and a finding says so.

A measurement is a row of *sessions*. In each, every workload is prepared afresh, warmed up until it
has settled, and timed in blocks that hold one round of each workload in random order; then the
device's layer profiler, if it has one, runs for a moment in a session of its own, so that layers
and end-to-end latency come from the same minutes. After each session the evidence so far decides
whether to go on (`hwbench.stats` says why that does not inflate false verdicts).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby

import numpy as np

from hwbench import stats
from hwbench.devices.base import (
    Device,
    DrawsInputs,
    MovesTime,
    Prepared,
    ProfilesLayers,
    ReportsMemory,
)
from hwbench.devices.shared.turns import count_inferences
from hwbench.errors import (
    DeviceError,
    OutputParseError,
    OutputTooLargeError,
    UsageError,
    WorkloadError,
)
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.input_check import FEWEST_INFERENCES, PAIRS, RandomInput, check_inputs
from hwbench.measuring.stopping import GRACE_S, CoolDown, Evidence, StopRule
from hwbench.measuring.sustained import LEAST_WINDOW_S, WINDOWS, judge_load, rest
from hwbench.measuring.track import Track, draft_records
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.measurement import Measurement, SessionStart, Settings
from hwbench.records.sustained import LoadWindow, SustainedLoad

LOG = logging.getLogger("hwbench")
CHUNK_S = 0.1
"""Seconds of rounds between two calls of the callback: what a killed process can lose."""
MIN_BLOCKS, MAX_BLOCKS = 4, 200
"""Blocks of a session: enough for a median, and not so many that tiny models fill the store."""
TAIL_BLOCKS = 2000
"""Blocks of a session whose samples are single inferences: 20 of them are beyond p99."""
WARM_UP_S, REWARM_UP_S = 1.0, 0.3
"""Bound of the warm-up in the first session, which also wakes the processor, and in later ones."""
WARM_UP_ROUNDS, WARM_UP_MIN_S = 2, 0.02
"""Rounds between two looks at whether a workload has settled; seconds it takes at least."""
WARM_UP_SHARE = 1 / 6
"""Share of the time left that a warm-up may take."""
SESSIONS_OF_BUDGET = 16
"""Sessions that a budget should have room for.

In a small one several short sessions tell more than two long ones, so it makes them shorter."""
SMALL_BUDGET_S, VERDICT_SESSIONS = 10.0, 3
"""Budget below which layers are profiled from this session on, which is the first that may tell a
verdict."""
LATER_SHARE = 0.7
"""Time that a later session takes, of the first, whose warm-up is longer."""
OVERDRAWN = 1.5
"""Factor on the time of a session's timed blocks after which they end, however many are left: the
device has become slower since the warm-up."""
PROFILE_SHARE = 0.2
"""Share of the time that may go to layer profiling."""
ROOMY_SHARE = 0.5
"""Share of the time left that a profile of the usual number of inferences may take."""
MEMORY_SHARE = 0.1
"""Share of the time that may go to runs of single workloads, for their peak memory."""
INPUTS_SHARE = 0.1
"""Share of the time left that a first look at other random inputs may take."""
PROFILE_RUNS = (3, 20)
PROFILE_S = 0.2
"""Profiled inferences at a time, within these numbers; and the seconds they should take.

Where time is short, a single one has to do."""


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
    return measure_on([device] * len(workloads), workloads, settings, callback)


def measure_on(
    devices: Sequence[Device],
    workloads: Sequence[Workload],
    settings: Settings,
    callback: MeasuringCallback | None = None,
) -> tuple[Measurement, ...]:
    """Measure workloads interleaved, each on its device; see `measure_interleaved`.

    Args:
        devices: The opened device of each workload: several runtimes of one target take turns.
        workloads: The workloads; the first is the baseline.
        settings: How to measure.
        callback: Called while the work goes on.
    """
    if not workloads:
        raise UsageError("nothing to measure: no workload given")
    if settings.budget_s <= 0:
        raise UsageError(
            f"the budget must be a positive number of seconds, not {settings.budget_s:g}"
        )
    if not 0 <= settings.sustain_s < math.inf:
        raise UsageError(
            f"load without a pause lasts a positive number of seconds, not {settings.sustain_s:g}"
        )
    return _Campaign(devices, workloads, settings, callback or MeasuringCallback()).run()


def _find_clock(
    devices: Sequence[Device],
) -> tuple[Callable[[], float], Callable[[float], None]]:
    """Find the clock that bounds a measurement, and what lets time pass on it.

    Simulated devices have clocks of their own, which stand still while another one runs.
    """
    moving = [device for device in devices if isinstance(device, MovesTime)]
    if not moving:
        return time.monotonic, time.sleep
    return lambda: sum(device.time_s() for device in moving), moving[0].idle


class _Campaign:
    """One measurement in progress."""

    def __init__(
        self,
        devices: Sequence[Device],
        workloads: Sequence[Workload],
        settings: Settings,
        callback: MeasuringCallback,
    ) -> None:
        self.settings, self.callback = settings, callback
        self.tracks = [Track(workload) for workload in workloads]
        self.device_of = list(devices)  # by number of the workload
        self.devices = list(dict.fromkeys(devices))
        self.now, idle = _find_clock(self.devices)
        self.begun_s = self.now()
        self.stop_rule = StopRule(settings)
        self.idle = idle
        self.cool_down = CoolDown(settings.budget_s, self.elapsed_s, idle)
        self.random = np.random.default_rng(settings.seed)
        self.blocks = 0  # numbered over the whole measurement
        self.loops = 0  # fixed by the first warm-up
        self.clocks: dict[int, str] = {}  # by number of the workload
        self.profiled_s = 0.0
        self.memory_s = 0.0
        self.next_s: float | None = None  # least seconds of a second session, while there is one
        self.drafts: list[Measurement] = []

    def elapsed_s(self) -> float:
        """Seconds since the measurement began, the first preparing not counted."""
        return self.now() - self.begun_s

    def left_s(self) -> float:
        """Seconds of the budget that are left; below 0 where it is overdrawn."""
        return self.settings.budget_s - self.elapsed_s()

    def run(self) -> tuple[Measurement, ...]:
        """Take sessions until there is enough evidence; gives one record per workload."""
        states = {device: (device.info(), device.conditions()) for device in self.devices}
        workloads = [track.workload for track in self.tracks]
        places = [states[device] for device in self.device_of]
        self.drafts = draft_records(workloads, self.settings, places)
        sessions = 0
        while not self.stop_rule.stops(self.elapsed_s(), self.next_s if sessions == 1 else None):
            start_s = self.now()
            if not self._run_session(sessions):
                continue
            sessions += 1
            duration_s = self.now() - start_s
            evidence = self._evidence()
            self.stop_rule.add_session(evidence, duration_s)
            self.callback.session_ended(sessions, self.elapsed_s(), evidence)
        self._explain_missing_layers()
        after = {device: device.conditions() for device in self.devices}
        loads: Sequence[SustainedLoad | None] = [None] * len(self.tracks)
        if self.settings.sustain_s:
            loads = self._run_load()
        records = self.callback.examine(
            [
                track.finish(
                    replace(draft, sustained=load),
                    after[device],
                    has_enough=self.stop_rule.has_enough,
                )
                for draft, track, device, load in zip(
                    self.drafts, self.tracks, self.device_of, loads, strict=True
                )
            ]
        )
        self.callback.finished(records)
        return records

    def _run_load(self) -> list[SustainedLoad]:
        """Run all workloads by turns without a pause, after a rest; gives what became of each."""
        rest_s = rest(lambda: [device.conditions() for device in self.devices], self.idle)
        sustain_s = self.settings.sustain_s
        # What the device says of a load that is meant to heat it concerns the load alone.
        known = [dict(track.findings) for track in self.tracks]
        windows: list[list[LoadWindow]] = [[] for _ in self.tracks]
        with self._prepare_all() as slots:
            start_s = self.now()
            self._run_blocks(slots, WARM_UP_ROUNDS, self.loops)
            block_s = (self.now() - start_s) / WARM_UP_ROUNDS
            window_s = max(sustain_s / WINDOWS, LEAST_WINDOW_S, block_s)
            start_s = self.now()
            while (at_s := self.now() - start_s) < sustain_s:
                samples_s: dict[int, list[float]] = {index: [] for index in slots}
                while self.now() - start_s < at_s + window_s:
                    blocks = max(1, int(min(CHUNK_S, window_s) / block_s))
                    for index, values_s in self._run_blocks(slots, blocks, self.loops).items():
                        samples_s[index] += values_s
                states = {device: device.conditions() for device in self.devices}
                for index, values_s in samples_s.items():
                    state = states[self.device_of[index]]
                    median_s = float(np.median(values_s))
                    windows[index].append(
                        LoadWindow(at_s, median_s, state.temperature_c, state.throttled)
                    )
                LOG.info("load without a pause: %.0f of %g s", at_s, sustain_s)
        for track, findings in zip(self.tracks, known, strict=True):
            track.findings = findings
        loads = [SustainedLoad(sustain_s, rest_s, tuple(parts)) for parts in windows]
        for track, load in zip(self.tracks, loads, strict=True):
            finding = judge_load(load)
            track.add_findings([] if finding is None else [finding])
        return loads

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
        start_s = self.now()
        with self._prepare_all() as slots:
            prepare_s = self.now() - start_s
            if not self.loops:
                self.begun_s = self.now()
            if prepare_s > self.settings.budget_s:
                prepare_s = 0.0  # mostly for what is done once (compiling, copying to a phone)
            block_s = self._warm_up(slots, number)
            if number == 0:
                self.next_s = prepare_s + 2 * block_s  # one block to warm up and one to count
            self._run_timed_blocks(slots, number, block_s)
            if self._is_hot() and self.cool_down.fits(self.now() - start_s):
                self._withdraw(number)
                self._let_cool()
                return False
            is_hasty = self._is_hasty(number, self.now() - start_s)
            self._add_starts(slots, may_look=not is_hasty)
            if not is_hasty:
                self._profile_layers(slots)
            if number == 0:
                self._check_inputs(slots)
        return True

    @contextmanager
    def _prepare_all(self) -> Iterator[dict[int, Prepared]]:
        """Every workload freshly prepared, in random order; released in the end."""
        slots: dict[int, Prepared] = {}
        try:
            for index in self.random.permutation(len(self.tracks)).tolist():
                track = self.tracks[index]
                slots[index] = self.device_of[index].prepare(track.workload, self.settings)
                track.add_findings(slots[index].findings)
            yield slots
        except BaseException:
            for index, prepared in slots.items():
                with suppress(DeviceError):  # what went wrong first is what the user should hear of
                    self.device_of[index].release(prepared)
            raise
        for index, prepared in slots.items():
            self.device_of[index].release(prepared)

    def _warm_up(self, slots: dict[int, Prepared], number: int) -> float:
        """Run until every workload has settled or the bound is reached.

        The first warm-up also fixes how many inferences make a round.

        Returns:
            Latency of one block in seconds.
        """
        first = number == 0
        start_s = self.now()
        bound_s = min(WARM_UP_S if first else REWARM_UP_S, WARM_UP_SHARE * self.left_s())
        samples_s, settled = self._run_until_settled(slots, bound_s)
        if first and not settled and min(map(len, samples_s.values())) >= stats.SETTLED_FROM:
            self._add_unsettled_finding(self.now() - start_s)
        latencies_s = [float(np.median(values[-WARM_UP_ROUNDS:])) for values in samples_s.values()]
        if not self.loops:
            loops = math.ceil(self.settings.min_round_s / min(latencies_s))
            self._start(1 if self.settings.tail else loops)
        if self.loops == 1 and self.left_s() <= 0:
            self._count_last_block(slots, samples_s, number)
        for index, values in samples_s.items():
            self.tracks[index].warm_up.add(number, values)
            self.callback.sampled(index, number, values, (), warm_up=True)
        return sum(latencies_s) * self.loops

    def _count_last_block(
        self, slots: dict[int, Prepared], samples_s: dict[int, list[float]], number: int
    ) -> None:
        """Take the last block of a warm-up for a timed one, as there is no time for another."""
        for index in slots:
            value_s = samples_s[index].pop()
            self.tracks[index].series.add(number, [value_s], [self.blocks])
            self.callback.sampled(index, number, [value_s], [self.blocks], warm_up=False)
        self.blocks += 1

    def _run_until_settled(
        self, slots: dict[int, Prepared], bound_s: float
    ) -> tuple[dict[int, list[float]], bool]:
        """Sample each workload until all have settled, for `bound_s` at most.

        Say whether they have.
        """
        samples_s: dict[int, list[float]] = {index: [] for index in slots}
        start_s = self.now()
        rounds = 1
        while True:
            before_s = self.now()
            for index, values in self._run_blocks(slots, rounds, self.loops or 1).items():
                samples_s[index] += values
            elapsed_s = self.now() - start_s
            settled = all(stats.settled(values) for values in samples_s.values())
            if elapsed_s >= bound_s or (settled and elapsed_s >= WARM_UP_MIN_S):
                return samples_s, settled
            block_s = (self.now() - before_s) / rounds
            rounds = WARM_UP_ROUNDS
            if elapsed_s + rounds * block_s > bound_s:
                rounds = 1

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
        self.drafts = [
            replace(draft, clock=self.clocks[index], loops=self.loops)
            for index, draft in enumerate(self.drafts)
        ]
        self.callback.started(self.drafts)

    def _run_timed_blocks(self, slots: dict[int, Prepared], number: int, block_s: float) -> None:
        """The timed blocks of one session, handed on chunk by chunk."""
        left = wanted = self._count_timed_blocks(number, block_s)
        end_s = self.now() + OVERDRAWN * wanted * block_s
        chunk = max(1, int(CHUNK_S / block_s))
        while left > 0:
            count = min(chunk, left)
            numbers = range(self.blocks, self.blocks + count)
            for index, values_s in self._run_blocks(slots, count, self.loops).items():
                self.tracks[index].series.add(number, values_s, numbers)
                self.callback.sampled(index, number, values_s, numbers, warm_up=False)
            self.blocks += count
            left -= count
            is_late = self.now() > end_s and wanted - left >= MIN_BLOCKS
            if is_late or self.left_s() <= 0:
                return

    def _count_timed_blocks(self, number: int, block_s: float) -> int:
        """Count the timed blocks that a session should have and has time for.

        Args:
            number: Of the session.
            block_s: Seconds that a block takes.
        """
        session_s = min(self.settings.session_s, self.settings.budget_s / SESSIONS_OF_BUDGET)
        most = TAIL_BLOCKS if self.settings.tail else MAX_BLOCKS
        wanted = min(most, max(MIN_BLOCKS, round(session_s / block_s)))
        left_s = self.left_s()
        fitting = int(max(0.0, left_s) / block_s)
        if number == 0:
            # A second session, which makes an interval, should have as many.
            halves = int((left_s - (self.next_s or 0.0)) / (2 * block_s))
            fitting = halves if halves > 0 else fitting
        least = 0 if number in self.tracks[0].series.session else 1
        return min(wanted, max(fitting, least))

    def _run_blocks(
        self, slots: dict[int, Prepared], blocks: int, loops: int
    ) -> dict[int, list[float]]:
        """Run blocks, each with one round of every workload in random order.

        Returns:
            Seconds of the rounds of each workload.
        """
        indices = np.array(sorted(slots))
        order = self.random.permuted(np.tile(indices, (blocks, 1)), axis=1).ravel()
        run_s: list[float] = []
        # Rounds that follow each other on one device are one request to it.
        for device, part in groupby(order.tolist(), key=self.device_of.__getitem__):
            turn = list(part)
            samples = device.run([slots[index] for index in turn], loops)
            run_s += samples.values_s
            for index in turn:
                self.clocks[index] = samples.clock
                self.tracks[index].add_findings(samples.findings)
        values_s = np.array(run_s)
        return {int(index): values_s[order == index].tolist() for index in indices}

    def _is_hot(self) -> bool:
        return any(device.conditions().throttled for device in self.devices)

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

    def _check_inputs(self, slots: dict[int, Prepared]) -> None:
        """Compare the latencies of several random inputs, where that takes a little of the time."""
        seed = self.settings.seed
        for index, prepared in slots.items():
            track = self.tracks[index]
            device = self.device_of[index]
            if not isinstance(device, DrawsInputs):
                continue
            if not prepared.workload.inputs or prepared.workload.values:
                continue  # values that were asked for stay
            round_s = track.series.samples_s[-1] * self.loops
            look_s = FEWEST_INFERENCES * round_s
            spare_s = self.left_s() - (self.next_s or 0.0)
            if look_s > INPUTS_SHARE * spare_s:
                continue

            def time_input(
                chosen: RandomInput, prepared: Prepared = prepared, device: Device = device
            ) -> float:
                device.draw_inputs(prepared, seed + chosen.offset, chosen.exponent)
                return device.run([prepared, prepared], self.loops).values_s[1]

            may_confirm = look_s + 4 * PAIRS * round_s < spare_s
            try:
                finding = check_inputs(time_input, self.random, may_confirm=may_confirm)
                device.draw_inputs(prepared, seed, 0)
            except WorkloadError as error:  # what was measured stands; the sessions are gone
                text = f"it does not run on other random inputs: {error}"
                track.add_findings([Finding("latency_depends_on_input", text)])
                return
            if finding is not None:
                track.add_findings([finding])

    def _is_hasty(self, number: int, session_s: float) -> bool:
        """Whether layers and memory wait for a later session.

        In a small budget a verdict comes first, which takes three sessions; the first profile also
        finds out what the profiler costs. So they wait as long as further sessions fit.
        """
        to_come = VERDICT_SESSIONS - 1 - number
        is_small = self.settings.budget_s < SMALL_BUDGET_S
        return is_small and to_come > 0 and self.left_s() > LATER_SHARE * to_come * session_s

    def _add_starts(self, slots: dict[int, Prepared], *, may_look: bool) -> None:
        """Keep what it took to make this session ready, and the memory that each workload needs."""
        start_s = self.now()
        may_look &= self.memory_s <= MEMORY_SHARE * (start_s - self.begun_s)
        for index, prepared in slots.items():
            peak_bytes, device = None, self.device_of[index]
            if isinstance(device, ReportsMemory):
                peak_bytes = device.peak_memory_bytes(prepared)
                is_shared = peak_bytes is None and not prepared.settings.isolate
                if is_shared and may_look and device.measures_memory():
                    peak_bytes = self._measure_memory(device, prepared)
            start = SessionStart(prepared.load_s, prepared.first_run_s, peak_bytes)
            self.tracks[index].starts.append(start)
        self.memory_s += self.now() - start_s

    def _measure_memory(self, device: Device, prepared: Prepared) -> int | None:
        """Run a workload once in a process of its own, for its peak memory."""
        first_run_s = prepared.first_run_s or 0.0
        if 2 * first_run_s > MEMORY_SHARE * self.left_s() or not isinstance(device, ReportsMemory):
            return None
        alone = device.prepare(prepared.workload, replace(self.settings, isolate=True))
        try:
            return device.peak_memory_bytes(alone)
        finally:
            device.release(alone)

    def _profile_layers(self, slots: dict[int, Prepared]) -> None:
        """Profile layers for a moment, as long as that takes no more than its share of the time."""
        if not self.settings.layers:
            return
        start_s = self.now()
        if self.profiled_s > PROFILE_SHARE * (start_s - self.begun_s):
            return
        for index, prepared in slots.items():
            track = self.tracks[index]
            device = self.device_of[index]
            if not isinstance(device, ProfilesLayers):
                continue
            runs = self._count_profiled_runs(track)
            if runs:
                self._profile_one(device, track, prepared, runs)
        self.profiled_s += self.now() - start_s

    def _explain_missing_layers(self) -> None:
        """Say so where no session had the time to profile layers that were asked for."""
        text = (
            f"no layer times: the sessions left no time to profile in the"
            f" {self.settings.budget_s:g} s allowed; allow a longer time"
        )
        for index, track in enumerate(self.tracks):
            can = self.settings.layers and isinstance(self.device_of[index], ProfilesLayers)
            if can and not track.profiles:
                track.add_findings([Finding("layers_unknown", text)])

    def _count_profiled_runs(self, track: Track) -> int:
        """Count the inferences to profile at a time: the usual number, one, or none.

        A profile also takes as many plain inferences, those that do not count, and the first one of
        the profiled session.
        """
        latency_s = track.series.samples_s[-1]
        least, most = PROFILE_RUNS
        usual = min(max(round(PROFILE_S / latency_s), least), most)
        left_s = self.left_s()
        cost_s = 0.0
        for runs, share in ((usual, ROOMY_SHARE), (1, 1.0)):
            cost_s = latency_s * (count_inferences(runs) + 1)
            if cost_s <= max(share * left_s, GRACE_S):
                return runs
        if not track.profiles:
            text = (
                f"no layer times: profiling one inference takes about {cost_s:.0f} s, which the"
                f" {self.settings.budget_s:g} s allowed do not leave; allow a longer time"
            )
            track.add_findings([Finding("layers_unknown", text)])
        return 0

    def _profile_one(
        self, device: ProfilesLayers, track: Track, prepared: Prepared, runs: int
    ) -> None:
        """Profile the layers of one workload; where that fails, the latency still stands."""
        try:
            try:
                profile = device.profile_layers(prepared, runs)
            except OutputTooLargeError:
                if runs == 1:
                    raise
                profile = device.profile_layers(prepared, 1)
        except OutputParseError as error:
            track.add_findings([Finding("layers_unknown", f"no layer times: {error}")])
            return
        track.profiles.append(profile)
        track.add_findings(profile.findings)
