"""`hwbench profile model.tflite`: TensorFlow Lite on a phone, by the user's `benchmark_model`.

The program times and sums up by itself; so it is measured beside the devices, into the same record.
A session is one execution of the program, a fresh process; its one sample is the mean over the
inferences that it timed, as every version prints it. The operators come from an execution of their
own, so that profiling costs the latency nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hwbench.devices.android.tflite import Invocation, TflitePhone
from hwbench.devices.android.tflite_log import Operator, TfliteLog
from hwbench.devices.android.tflite_program import read_program
from hwbench.errors import Argument, OutputParseError, UsageError
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.sessions import REWARM_UP_S, WARM_UP_S
from hwbench.measuring.stopping import CoolDown, StopRule
from hwbench.measuring.track import Track, draft_records
from hwbench.network.tflite import read_workload
from hwbench.network.workload import Workload
from hwbench.records.findings import Finding
from hwbench.records.measurement import LayerLatency, LayerProfile, Measurement, Settings
from hwbench.workflows.profile import DEFAULT_SETTINGS
from hwbench.workflows.recording import recording

SUFFIX = ".tflite"
CLOCK = "benchmark_model's own, its mean over the inferences of one execution"
LOOK_RUNS = 3
"""Inferences of the first execution, which only tells how many the others should time."""
RUNS = (3, 1000)
"""Fewest and most inferences of a session."""
WARM_SHARE = 0.25
"""Share of a session that is warm-up."""
LOOK_S, START_S, PATIENCE = 300.0, 30.0, 10.0
"""Seconds that the first execution may take.

Later ones: seconds to start, and so many times what is expected of them.
"""
HASTE = 1.1
"""Sessions are planned to take this many times less than the budget allows."""
SPIKE = 0.02
"""Share of a session's mean due to its slowest inference alone that is worth a word."""
REST_CAUSE = (
    "what the interpreter does between operators, and what operators take beyond whole microseconds"
)


def profile_tflite(
    model: str | Path,
    benchmark_model: str | Path,
    *,
    device: str = "android",
    flags: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    save_log: str | Path | None = None,
    store: str | None = None,
    save: bool = True,
    callback: MeasuringCallback | None = None,
) -> Measurement:
    """Measure a TensorFlow Lite model on a phone, end to end and operator by operator.

    Args:
        model: The `.tflite` file.
        benchmark_model: TensorFlow Lite's benchmark program, built for the phone.
        device: Address of the phone, `android[:SERIAL|HOST:PORT][,cluster=..][,mode=..]`.
        flags: Further flags of the program by name (`use_xnnpack`: `false`); one that it does not
            know is an error.
        settings: How to measure; `isolate` changes nothing, since every session is a process of its
            own.
        save_log: Folder for what the program printed, one file per execution; `layers.log` can be
            imported into a table.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep the record in the store.
        callback: Called while the work goes on, to show or store how far it is.

    Returns:
        The record; its layers have the operators' names and no key, as the program tells no shapes.

    Raises:
        UsageError: A file is not what it should be, is for another processor, or a flag is not
            known.
        WorkloadError: The model is damaged, or TensorFlow Lite cannot run it.
        DeviceError: The phone or the program failed; samples taken before were given to `callback`.
        OutputParseError: What the program printed cannot be read.
    """
    driver, _, place = device.partition(":")
    if driver != "android":
        raise UsageError(
            f"benchmark_model measures on phones, not on {device!r}",
            Argument("device", "android"),
        )
    settings = settings or DEFAULT_SETTINGS
    if settings.budget_s <= 0:
        raise UsageError(
            f"the budget must be a positive number of seconds, not {settings.budget_s:g}"
        )
    found, program, logs = (
        read_workload(Path(model), str(model)),
        read_program(Path(benchmark_model)),
        _Logs.at(save_log),
    )
    with (
        TflitePhone(place, program, settings.threads, flags) as phone,
        recording(store, save=save, callback=callback) as recorder,
    ):
        return _Profile(phone, found, settings, logs, recorder).run()


class _Logs:
    """Where the logs go, if anywhere."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def at(cls, folder: str | Path | None) -> _Logs:
        """Make the folder before anything is measured for it."""
        if folder is not None:
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"cannot make the folder {str(folder)!r} for logs ({error})"
                ) from error
        return cls(None if folder is None else Path(folder))

    def keep(self, name: str, text: str) -> None:
        if self._folder is None:
            return
        try:
            (self._folder / f"{name}.log").write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write a log to {str(self._folder)!r} ({error})") from error


class _Profile:
    """One measurement in progress."""

    def __init__(
        self,
        phone: TflitePhone,
        model: Workload,
        settings: Settings,
        logs: _Logs,
        callback: MeasuringCallback,
    ) -> None:
        self.phone, self.model, self.settings = phone, model, settings
        self.logs, self.callback = logs, callback
        self.begun_s = time.monotonic()
        self.track = Track(model)
        self.track.add_findings(phone.findings)
        self.stop_rule = StopRule(settings)
        self.cool_down = CoolDown(settings.budget_s, self._elapsed_s, time.sleep)
        self.spikes: list[float] = []  # what the slowest inference adds to the mean, relative

    def run(self) -> Measurement:
        self.graph = self.phone.place_model(self.model)
        asked_s = time.monotonic()
        before = self.phone.conditions()
        conditions_s = time.monotonic() - asked_s
        look = self._execute("look", LOOK_RUNS, 1, LOOK_S, warm_s=WARM_UP_S)
        self._plan_sessions(look, conditions_s)
        (draft,) = draft_records(
            [self.track.workload], self.settings, [(self.phone.info(), before)]
        )
        draft = replace(draft, clock=CLOCK, loops=self.runs)
        self.callback.started([draft])
        executions_ahead = 2 if self.settings.layers else 1
        while not self.stop_rule.stops(
            self._elapsed_s(), ahead_s=executions_ahead * self.session_s
        ):
            self._run_session(len(self.track.series.samples_s))
        if self.settings.layers:
            draft = replace(draft, profile=self._profile_operators())
        self._add_spikes()
        (record,) = self.callback.examine([self.track.finish(draft, self.phone.conditions())])
        self.callback.finished([record])
        return record

    def _elapsed_s(self) -> float:
        return time.monotonic() - self.begun_s

    def _execute(
        self,
        name: str,
        runs: int,
        warm_ups: int,
        timeout_s: float,
        *,
        warm_s: float = 0.0,
        **more: str,
    ) -> Invocation:
        """Run the program once.

        It takes exactly `runs` timed inferences, which versions without `min_secs` do anyhow.
        """
        flags = {
            "num_runs": runs,
            "min_secs": 0,
            "warmup_runs": warm_ups,
            "warmup_min_secs": f"{warm_s:g}",
            **more,
        }
        done = self.phone.run(self.graph, flags, timeout_s)
        self.logs.keep(name, done.text)
        self.track.add_findings(done.log.findings)
        timed = done.log.timed
        if timed is None or timed.count != runs:
            count = "no inference" if timed is None else f"{timed.count} inferences"
            raise OutputParseError(
                f"benchmark_model timed {count} where {runs} were asked for; measure with fewer at"
                " a time",
                Argument("budget_s", change="a smaller"),
            )
        return done

    def _plan_sessions(self, look: Invocation, conditions_s: float) -> None:
        """Fix how many inferences warm up and are timed, so that enough sessions fit the budget.

        Args:
            look: The first execution.
            conditions_s: Seconds that asking the phone for its state takes.
        """
        latency_s = _mean_s(look.log)
        inside_s = latency_s * LOOK_RUNS + _warm_up_s(look.log)
        # Each session also starts a process, loads the model, and asks for the phone's state.
        start_s = max(0.0, look.wall_s - inside_s) + conditions_s
        left_s = self.settings.budget_s - self._elapsed_s()
        executions = self.settings.min_sessions + 1  # the one is for the operators
        each_s = max(0.0, left_s / executions / HASTE - start_s)
        timed_s = min(self.settings.session_s, (1 - WARM_SHARE) * each_s)
        self.runs = min(max(round(timed_s / latency_s), RUNS[0]), RUNS[1])
        self.warm_ups = max(1, math.ceil(min(REWARM_UP_S, WARM_SHARE * each_s) / latency_s))
        self.session_s = start_s + (self.runs + self.warm_ups) * latency_s

    @property
    def _timeout_s(self) -> float:
        return START_S + PATIENCE * self.session_s

    def _run_session(self, number: int) -> None:
        """One execution of the program; where the phone got hot in it, it counts as warm-up."""
        done = self._execute(f"session-{number + 1:02d}", self.runs, self.warm_ups, self._timeout_s)
        if done.log.warm_up is not None:
            self._add_warm_up(number, done.log.warm_up.mean_s)
        mean_s = _mean_s(done.log)
        if self._is_hot() and self.cool_down.may_wait():
            self._add_warm_up(number, mean_s)
            self._let_cool()
            return
        slowest_s = (done.log.timed.max_s if done.log.timed else None) or mean_s
        self.spikes.append((slowest_s / mean_s - 1) / self.runs)
        self.track.series.add(number, [mean_s], [number])
        self.callback.sampled(0, number, [mean_s], [number], warm_up=False)
        so_far = self.track.series.build().latency()
        self.stop_rule.add_session(so_far, self.session_s)
        self.callback.session_ended(number + 1, self._elapsed_s(), so_far)

    def _add_warm_up(self, session: int, value_s: float) -> None:
        self.track.warm_up.add(session, [value_s])
        self.callback.sampled(0, session, [value_s], (), warm_up=True)

    def _is_hot(self) -> bool:
        return bool(self.phone.conditions().throttled)

    def _let_cool(self) -> None:
        self.cool_down.wait(self._is_hot)
        text = (
            f"the phone slowed itself down; waited {self.cool_down.waited_s:.0f} s in all for it to"
            " cool, and repeated the session"
        )
        self.track.findings["throttled"] = Finding("throttled", text)

    def _profile_operators(self) -> LayerProfile | None:
        """The operators, from an execution of their own."""
        done = self._execute(
            "layers", self.runs, self.warm_ups, self._timeout_s, enable_op_profiling="true"
        )
        if not done.log.operators:
            text = (
                "no layer times: this benchmark_model printed no table of operators; build it with"
                " profiling"
            )
            self.track.add_findings([Finding("layers_unknown", text)])
            return None
        return LayerProfile(_rows(done.log.operators), _mean_s(done.log), 0.0, REST_CAUSE)

    def _add_spikes(self) -> None:
        """Say where one slow inference, which a mean hides, raised the mean of a session."""
        spiked = [share for share in self.spikes if share > SPIKE]
        if spiked:
            text = (
                f"one slow inference raised the mean of {len(spiked)} of {len(self.spikes)}"
                f" sessions, by up to {max(spiked):.0%}"
            )
            self.track.findings["spikes"] = Finding("spikes", text)


def _mean_s(log: TfliteLog) -> float:
    if log.timed is None:
        raise OutputParseError(f"{log.source} holds no timed inference; was it written to its end?")
    return log.timed.mean_s


def _warm_up_s(log: TfliteLog) -> float:
    return 0.0 if log.warm_up is None else log.warm_up.mean_s * (log.warm_up.count or 1)


def _rows(operators: Sequence[Operator]) -> tuple[LayerLatency, ...]:
    """Operators as layers, each by a name of its own.

    One below the log's resolution has no latency and is a finding instead.
    """
    seen: dict[str, int] = {}
    rows = []
    for operator in operators:
        name = operator.name or operator.kind
        seen[name] = seen.get(name, 0) + 1
        own = name if seen[name] == 1 else f"{name} ({seen[name]})"
        runs_as = "delegate" if "delegate" in operator.kind.lower() else "tflite"
        if operator.mean_s is not None and operator.calls:
            rows.append(
                LayerLatency(own, operator.kind, None, runs_as, operator.mean_s, operator.calls)
            )
    return tuple(rows)
