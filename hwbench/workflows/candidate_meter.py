"""`hwbench.meter`: many candidates, each beside one baseline, on a device that stays open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from hwbench.errors import (
    DeviceError,
    DeviceUnavailableError,
    HwbenchError,
    MeasurementError,
    UsageError,
    WorkloadError,
)
from hwbench.measuring.callback import MeasuringCallback
from hwbench.measuring.evidence import FALSE_VERDICTS, ErrorLevels, PairedEvidence
from hwbench.measuring.racing import Race
from hwbench.network.intake import ModelOptions, load_workload
from hwbench.network.workload import Workload
from hwbench.records.comparison import IMPOSSIBLE
from hwbench.records.measurement import Measurement, Settings
from hwbench.stats import Verdict
from hwbench.store import Store, open_store
from hwbench.workflows.compare import check_same_inputs
from hwbench.workflows.meter import Meter, open_meter
from hwbench.workflows.recording import record_into

if TYPE_CHECKING:
    from torch import nn

    Model = str | Path | nn.Module | Workload

DEFAULT_SETTINGS = Settings(layers=False, session_s=0.1, stop_at_difference=False)
"""In so short a time several sessions tell more than long ones, and layers cost some of them."""
DEFAULT_BUDGET_S = 2.0
"""Seconds for a candidate: enough to tell 5 % on a quiet computer."""
LEAST_REST = 0.25
"""A candidate is measured further only if at least this share of its budget is left."""
BASELINE_S = 0.5
"""Seconds for finding out whether the baseline runs."""
REMEASURED_SHARE = 0.25
"""Share of the time of a ranking that goes to measuring its winner afresh."""


@dataclass(frozen=True)
class Reading:
    """What a meter tells of a candidate: a ratio, or why there is none.

    Attributes:
        model: The candidate, as it was given.
        latency_s: Its latency, seconds; None where it cannot run.
        ratio: Latency of the candidate over that of the baseline, below 1 is faster; None where it
            cannot run.
        ci: 95 % interval of `ratio`.
        verdict_ci: The interval that the verdict rests on: it holds however often one looks, and
            over all candidates of the meter.
        verdict: What may be claimed so far: FASTER, SLOWER, SAME or UNRESOLVED; INCOMPARABLE where
            it cannot run.
        sessions: Sessions that the ratio rests on.
        error: Why it cannot be read, compared or run; None where it can.
    """

    model: str
    latency_s: float | None = None
    ratio: float | None = None
    ci: tuple[float, float] | None = None
    verdict_ci: tuple[float, float] | None = field(default=None, repr=False)
    verdict: Verdict = Verdict.INCOMPARABLE
    sessions: int = 0
    error: HwbenchError | None = None

    @property
    def speedup(self) -> float | None:
        """Baseline over candidate; above 1 is faster."""
        return None if self.ratio is None else 1 / self.ratio


@dataclass(frozen=True)
class Ranking:
    """Which of several candidates is the fastest.

    Attributes:
        order: All candidates, the fastest first, those that cannot run last. Their ratios come from
            the race: that of the first one was lucky more often than not.
        best: The fastest, measured afresh: its ratio rests on samples that had no part in choosing
            it. None where no candidate can run.
        rivals: Candidates that may be faster than the best by more than the smallest effect that
            matters, as far as is known.
    """

    order: tuple[Reading, ...]
    best: Reading | None
    rivals: tuple[Reading, ...]

    def __repr__(self) -> str:
        best = "none" if self.best is None else f"{self.best.model}, ratio {self.best.ratio}"
        told = "proven" if self.proven else f"{len(self.rivals)} rivals"
        return f"<Ranking of {len(self.order)} candidates: best {best}, {told}>"

    @property
    def proven(self) -> bool:
        """Whether the best is the fastest, up to the smallest effect that matters.

        It is so with an error probability of 1 % over all candidates together.
        """
        return self.best is not None and self.best.error is None and not self.rivals


@dataclass(frozen=True)
class _Candidate:
    """A candidate that can be read, and what is known of it."""

    workload: Workload
    evidence: PairedEvidence

    def read(self) -> Reading:
        """What is known of it, as a reading."""
        ratio = self.evidence.ratio
        return Reading(
            self.workload.name,
            self.evidence.latency_s,
            ratio.ratio,
            ratio.ci,
            ratio.verdict_ci,
            self.evidence.verdict,
            ratio.sessions,
        )


class CandidateMeter:
    """Measures candidates beside one baseline, as often as asked; from `hwbench.meter`.

    Candidates that were measured before are known by their content: asking again is free, and with
    a larger budget what is missing of it is measured and added.

    Attributes:
        baseline: The reference.
        settings: How candidates are measured.
    """

    def __init__(
        self,
        device: str | Meter,
        baseline: Workload,
        *,
        settings: Settings,
        options: ModelOptions,
        store: Store | None,
        url: str | None,
        levels: ErrorLevels,
    ) -> None:
        self.baseline, self.settings = baseline, settings
        self._device, self._options = device, options
        self._store, self._url = store, url
        self._levels = levels
        self._opened = ExitStack()
        self._meter: Meter | None = None
        self._candidates: dict[str, _Candidate] = {}
        self._refused: dict[str, Reading] = {}
        self._claimed: set[str] = set()
        self._measurements = 0

    def __call__(
        self,
        candidate: Model,
        *,
        budget_s: float = DEFAULT_BUDGET_S,
        **changes: Unpack[ModelOptions],
    ) -> Reading:
        """Measure a candidate beside the baseline.

        Args:
            candidate: What `hwbench.profile` takes, or a `Workload`.
            budget_s: Seconds that measuring it may take, those of earlier calls included; reading
                the model comes on top.
            changes: How it is read, where that differs from the baseline.

        Returns:
            What is known of it. A candidate that cannot be read, compared or run is a reading with
            an `error`.

        Raises:
            DeviceUnavailableError: The device is gone.
        """
        known = self._admit(candidate, changes)
        if isinstance(known, Reading):
            return known
        if not known.evidence.parts:
            return self._measure_one(known, budget_s)
        rest_s = budget_s - known.evidence.spent_s
        if known.evidence.has_verdict or rest_s < LEAST_REST * budget_s:
            return known.read()
        return self._measure_one(known, rest_s)

    def rank(
        self,
        candidates: Sequence[Model],
        *,
        budget_s: float | None = None,
        **changes: Unpack[ModelOptions],
    ) -> Ranking:
        """Find the fastest of several candidates.

        They are measured interleaved, a few beside the baseline at a time. The slower half is left
        out, again and again, so that most of the time goes to those that may be the fastest. The
        winner is measured afresh in the end: whoever wins a race was lucky as well.

        Args:
            candidates: Each what `hwbench.profile` takes, or a `Workload`.
            budget_s: Seconds that measuring them all may take; None for 2 s for each.
            changes: How they are read, where that differs from the baseline.

        Raises:
            UsageError: There are none.
            DeviceUnavailableError: The device is gone.
        """
        if not candidates:
            raise UsageError("nothing to rank: no candidate given")
        if budget_s is None:
            budget_s = DEFAULT_BUDGET_S * len(candidates)
        refused: list[Reading] = []
        racing: dict[str, _Candidate] = {}
        for candidate in candidates:
            known = self._admit(candidate, changes)
            if isinstance(known, Reading):
                refused.append(known)
            else:
                racing[known.workload.sha256] = known
        race = Race(tuple(racing), self.settings.min_effect)
        for heat, heat_s in race.heats((1 - REMEASURED_SHARE) * budget_s):
            refused += self._run_heat(race, [racing[name] for name in heat], heat_s)

        order = race.order()
        readings = {name: racing[name].read() for name in order}
        ranked = (*readings.values(), *refused)
        if not order:
            return Ranking(ranked, None, ())
        winner = racing[order[0]]
        rivals = tuple(readings[name] for name in race.find_rivals(order[0]))
        # What chose the winner says too much of it, so only what follows counts from now on. It is
        # judged a second time, which takes an error probability of its own.
        evidence = PairedEvidence(self._levels.next_level(), self.settings.min_effect)
        winner = self._candidates[winner.workload.sha256] = replace(winner, evidence=evidence)
        best = self._measure_one(winner, REMEASURED_SHARE * budget_s)
        return Ranking(ranked, best, rivals)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What is known of every candidate that was measured, in the order of first asking."""
        measured = [known.read() for known in self._candidates.values() if known.evidence.parts]
        return tuple(measured)

    def open_device(self) -> Meter:
        """The device, opened where it is not, and whether the baseline runs there found out.

        Raises:
            HwbenchError: It cannot be opened, or cannot run the baseline.
        """
        if self._meter is None:
            meter = self._opened.enter_context(open_meter(self._device))
            settings = replace(self.settings, budget_s=BASELINE_S)
            try:
                meter.measure([self.baseline], settings, MeasuringCallback())
            except HwbenchError:
                self.close()
                raise
            self._meter = meter
        return self._meter

    def close(self) -> None:
        """Release the device; it is opened anew when it is needed."""
        self._meter = None
        self._opened.close()

    def _admit(self, candidate: Model, changes: ModelOptions) -> _Candidate | Reading:
        """Read a candidate; one that is known already, or was refused, by its content."""
        options = self._options.copy()
        options.update(changes)
        try:
            workload = _load(candidate, self.settings.seed, options)
            check_same_inputs(self.baseline, workload)
        except HwbenchError as error:
            name = str(candidate) if isinstance(candidate, str | Path) else type(candidate).__name__
            return Reading(name, error=error)
        if workload.sha256 in self._refused:
            return self._refused[workload.sha256]
        if workload.sha256 not in self._candidates:
            evidence = PairedEvidence(self._levels.next_level(), self.settings.min_effect)
            self._candidates[workload.sha256] = _Candidate(workload, evidence)
        return self._candidates[workload.sha256]

    def _run_heat(self, race: Race, heat: Sequence[_Candidate], budget_s: float) -> list[Reading]:
        """Measure the candidates of a heat; gives readings of those that cannot run."""
        # In a race it does not matter whether each can be told from the baseline already.
        settings = replace(self.settings, target=0.0, stop_at_difference=False)
        records = self._try_measuring(heat, budget_s, settings)
        if not isinstance(records, HwbenchError):
            race.add(
                records[0].series,
                {record.model_sha256: record.series for record in records[1:]},
            )
            return []
        if len(heat) == 1:
            race.drop(heat[0].workload.sha256)
            return [self._refuse(heat[0], records)]
        refused = []
        for known in heat:  # one of them cannot run: each by itself shows which
            refused += self._run_heat(race, [known], budget_s / len(heat))
        return refused

    def _measure_one(self, known: _Candidate, budget_s: float) -> Reading:
        records = self._try_measuring([known], budget_s, self.settings)
        if isinstance(records, HwbenchError):
            return self._refuse(known, records)
        return known.read()

    def _try_measuring(
        self, candidates: Sequence[_Candidate], budget_s: float, settings: Settings
    ) -> Sequence[Measurement] | HwbenchError:
        """Measure candidates beside the baseline; gives what went wrong if one cannot run.

        Raises:
            DeviceUnavailableError: The device is gone.
        """
        meter = self.open_device()
        self._measurements += 1
        # Each measurement has an order of rounds and random inputs of its own.
        settings = replace(settings, budget_s=budget_s, seed=settings.seed + self._measurements)
        workloads = [self.baseline, *(known.workload for known in candidates)]
        callback = record_into(self._store, MeasuringCallback(), url=self._url)
        try:
            records = meter.measure(workloads, settings, callback)
        except DeviceUnavailableError:
            raise
        except DeviceError as error:
            self.close()  # what it would do now is unknown
            return error
        except (WorkloadError, MeasurementError) as error:
            return error
        for record in records:
            for finding in record.findings:
                if finding.code == IMPOSSIBLE:  # no verdict may rest on it
                    return MeasurementError(f"{record.model}: {finding.text}")
        for known, record in zip(candidates, records[1:], strict=True):
            known.evidence.add(records[0].series, record.series, budget_s / len(candidates))
            if known.evidence.has_verdict:
                self._claimed.add(known.workload.sha256)
        self._levels.verdicts = len(self._claimed)
        return records

    def _refuse(self, known: _Candidate, error: HwbenchError) -> Reading:
        """The reading of a candidate that cannot run; kept where it will never run."""
        reading = Reading(known.workload.name, error=error)
        if isinstance(error, WorkloadError):
            self._refused[known.workload.sha256] = reading
        return reading


def _load(model: Model, seed: int, options: ModelOptions) -> Workload:
    """A model as a workload, if it is not one already."""
    if isinstance(model, Workload):
        return model
    return load_workload(model, seed=seed, **options)


@contextmanager
def meter(
    device: str | Meter = "cpu",
    *,
    baseline: Model,
    settings: Settings | None = None,
    false_verdicts: float = FALSE_VERDICTS,
    store: str | None = None,
    save: bool = True,
    **options: Unpack[ModelOptions],
) -> Iterator[CandidateMeter]:
    """Open a device to measure many candidates beside one baseline, in a loop.

        with hwbench.meter("cpu", baseline="net.onnx") as meter:
            reading = meter("candidate.onnx", budget_s=2)
            print(reading.ratio, reading.ci, reading.verdict)

    Device, baseline and store stay open, so that a candidate costs its budget and little more. What
    cannot run is a reading with an error, so that a search goes on.

    Args:
        device: Address of the device, or another `Meter`.
        baseline: The reference; what `hwbench.profile` takes, or a `Workload`.
        settings: How to measure; None for short sessions without layers. The budget is that of
            each call.
        false_verdicts: The expected share of false ones among all verdicts that the meter gives, at
            most.
        store: SQLAlchemy URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to keep all records in the store.
        options: How the models are read, see `load_workload`.

    Raises:
        HwbenchError: The device cannot be opened, or the baseline cannot be read or run.
    """
    settings = settings or DEFAULT_SETTINGS
    reference = _load(baseline, settings.seed, options)
    with open_store(store) if save else nullcontext() as kept:
        opened = CandidateMeter(
            device,
            reference,
            settings=settings,
            options=options,
            store=kept,
            url=store,
            levels=ErrorLevels(false_verdicts),
        )
        try:
            opened.open_device()
            yield opened
        finally:
            opened.close()
