"""Building a lookup table with several devices of one kind at once.

The networks are those that one device would measure (`hwbench.lookup_tables.making.build`): first
random ones, then in batches those of which the table is least certain. Each is kept in the store as
soon as it is known, so that the same call goes on after a killed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.lab.reconcile import find_scales, rescale_samples, widen_intervals
from hwbench.lab.tasks import Outcome, Task, TaskKind, describe_workload, digest, task_result
from hwbench.lookup_tables import LookupTable, Plan, Progress, Provenance, Source, Validation
from hwbench.lookup_tables.making.build import refine
from hwbench.lookup_tables.making.fit import Fitted, fit
from hwbench.lookup_tables.making.journal import BuildJournal
from hwbench.lookup_tables.making.networks import Effort, NetworkSample
from hwbench.lookup_tables.making.proposals import Grid, propose_first
from hwbench.lookup_tables.making.validate import HeldOutTrial, draw_held_out
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.workload import Workload
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.store import Store
from hwbench.version import __version__

LIMIT_S = 120.0
"""Seconds after which a network is taken to hang; on a slow phone one takes some seconds."""
GRADING = Effort(turns=6, runs=3)
"""How thoroughly a held-out network is measured; its layers are not looked at."""
LEAST_NETWORKS = 3
"""Networks that are measured before a budget may end a build."""


class Crew(Protocol):
    """Devices of one kind that carry out tasks, whoever does which."""

    info: DeviceInfo
    """The kind: what they have in common."""

    def now(self) -> float:
        """Read the clock that budgets are counted by, in seconds."""
        ...

    def carry_out(
        self, job: str, tasks: Sequence[Task], *workloads: Workload
    ) -> Iterator[tuple[str, Outcome]]:
        """Have the tasks of a job done, and give their outcomes by id as they come.

        Each counts as safe when the next is asked for.
        """
        ...


@dataclass(frozen=True)
class TableRequest:
    """What a table is built of, and how.

    Attributes:
        workload: The unpruned model.
        settings: How to measure; `budget_s` is for the whole build.
        plan: The grid, batches and effort of the build.
        limit_s: Seconds after which a network is taken to hang.
    """

    workload: Workload
    settings: Settings
    plan: Plan
    limit_s: float = LIMIT_S


class TableBuild:
    """One table in the making.

    Args:
        crew: The devices that measure.
        request: What to build, and how.
        store: The store that each network is kept in and found again; None keeps nothing.
        forget: Whether all that was measured on this kind before is left out.
        callback: Called after every network.

    Raises:
        UsageError: The model has nothing to prune.
    """

    def __init__(
        self,
        crew: Crew,
        request: TableRequest,
        store: Store | None = None,
        *,
        forget: bool = False,
        callback: Callable[[Progress], None] | None = None,
    ) -> None:
        self.crew, self.request, self._callback = crew, request, callback
        workload, settings, plan = request.workload, request.settings, request.plan
        self.structure = PrunableNetwork(workload).structure
        self.grid = Grid(self.structure.widths, plan.step, plan.lower, self.structure.units)
        self.identity = self.structure.architecture
        source = Source(
            workload.name, self.identity, 0.0, len(self.structure.slots), plan.step, plan.lower, 0
        )
        facts = ["lab", plan.first, plan.batch, plan.anchor_every, asdict(plan.effort)]
        self.journal = BuildJournal(store, crew.info, settings, source, facts, forget=forget)
        # The name of the job says what the work is. The budget is no part of it: more time is more
        # of the same work.
        job_settings = asdict(replace(settings, budget_s=0.0))
        self.job = digest("table", asdict(crew.info), workload.sha256, job_settings, asdict(plan))
        self._fitted: Fitted | None = None
        self._begun_s, self._measured_now = crew.now(), 0

    def run(self) -> Fitted:
        """Measure and fit until predictions stop improving, the plan is done or time is up.

        Raises:
            DeviceError: No device is left; the same call goes on where it stopped.
            WorkloadError: The devices cannot run the model.
        """
        plan, seed = self.request.plan, self.request.settings.seed
        queue = propose_first(self.grid, plan.first, seed)
        return refine(
            self.grid, self.structure, plan, seed, queue, measure=self._measure, fitted=self._fit
        )

    def grade(
        self,
        table: LookupTable,
        networks: int,
        *,
        sessions: int = 2,
        callback: Callable[[int, int], None] | None = None,
    ) -> Validation:
        """Measure random pruned networks that the table has not seen, and compare with it.

        Args:
            table: The table of this build.
            networks: The number of held-out networks.
            sessions: In how many sessions each is measured, on whichever devices.
            callback: Called with the number of measurements done and the number of all.

        Raises:
            MissingEntryError: The table cannot answer for the model.
            UsageError: Fewer than 1 network or session.
        """
        if networks < 1 or sessions < 1:
            raise UsageError(
                f"nothing to validate with {networks} networks in {sessions} sessions; give at"
                " least 1 of each"
            )
        sources = {source.architecture: source for source in table.provenance.sources}
        source = sources[self.identity]
        chosen = draw_held_out(self.structure, source, networks, self.request.settings.seed, table)
        predictions = [table.predict(self.structure.keys(widths)) for widths in chosen]
        tasks = []
        for session in range(sessions):
            for index, widths in enumerate(chosen):
                name = f"graded {session}.{index}"
                tasks.append(self._make_task(name, session * networks + index, widths, GRADING))
        latencies_s: list[list[float]] = [[] for _ in range(networks)]
        all_samples: list[NetworkSample] = []
        for done, samples in enumerate(self._measure_tasks(tasks), 1):
            all_samples += samples
            # The last sample is the network, any before it are of the anchor. Its ratio to the
            # anchor is what another device would find too; in the table's seconds it is a latency.
            sample = samples[-1]
            latencies_s[sample.number % networks].append(sample.ratio * source.latency_s)
            if callback is not None:
                callback(done, len(tasks))
        trials = []
        for widths, prediction, values_s in zip(chosen, predictions, latencies_s, strict=True):
            trials.append(HeldOutTrial(widths, prediction, tuple(values_s)))
        drift = find_scales(all_samples).reference_s / source.latency_s
        return Validation(self.request.workload.name, self.structure, tuple(trials), drift)

    def _measure(self, queue: Sequence[tuple[int, ...]], start: int) -> bool:
        """Have the networks of a batch measured that are not yet in the journal.

        Args:
            queue: The widths of the networks.
            start: The number of the first of them.

        Returns:
            Whether all were measured before the budget ended.
        """
        effort = self.request.plan.effort
        done = {sample.number for sample in self.journal.samples}
        tasks = []
        for number, widths in enumerate(queue, start):
            if number not in done:
                tasks.append(self._make_task(str(number), number, widths, effort))
        left = len(tasks)
        for samples in self._measure_tasks(tasks):
            for sample in samples:
                self.journal.keep(sample)
            left -= 1
            self._measured_now += 1
            self._report_progress()
            is_late = self.crew.now() - self._begun_s > self.request.settings.budget_s
            if left and is_late and len(self.journal.samples) >= LEAST_NETWORKS:
                return False
        return True

    def _measure_tasks(self, tasks: Sequence[Task]) -> Iterator[list[NetworkSample]]:
        """Have tasks done; give the samples of each as they come, those of the anchor first."""
        if not tasks:
            return
        expected_widths = {task.id: tuple(task.arguments["widths"]) for task in tasks}
        outcomes = self.crew.carry_out(self.job, tasks, self.request.workload)
        for task_id, outcome in outcomes:
            samples = [
                NetworkSample.from_dict({**sample, "by": outcome.get("by", "")})
                for sample in task_result(outcome)["samples"]
            ]
            if not samples or samples[-1].widths != expected_widths.pop(task_id):
                text = (
                    f"{outcome.get('by')} measured another network than it was asked for; update"
                    " hwbench there"
                )
                raise DeviceUnavailableError(text)
            yield samples

    def _make_task(self, name: str, number: int, widths: tuple[int, ...], effort: Effort) -> Task:
        request = self.request
        arguments = {
            "number": number,
            "widths": list(widths),
            "effort": asdict(effort),
            "anchor_every": request.plan.anchor_every,
        }
        return Task(
            name,
            TaskKind.NETWORK,
            (describe_workload(request.workload),),
            request.settings,
            request.limit_s,
            arguments,
        )

    def _fit(self, before: int) -> Fitted:
        """Fit the table to all networks numbered below `before`, in seconds of the average device.

        What was measured of other models on this kind is part of it.
        """
        ours = self.journal.campaign(before)
        scales = find_scales(ours.samples)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        provenance = Provenance(self.crew.info, self.request.settings.threads, created, __version__)
        fitted = fit(
            [replace(ours, samples=rescale_samples(ours.samples, scales)), *self.journal.others],
            provenance,
        )
        self._fitted = replace(fitted, table=widen_intervals(fitted.table, scales))
        return self._fitted

    def _report_progress(self) -> None:
        if self._callback is None:
            return
        plan = self.request.plan
        done = sum(sample.number >= 0 for sample in self.journal.samples)
        elapsed_s = self.crew.now() - self._begun_s
        each_s = elapsed_s / self._measured_now
        left_s = min(each_s * (plan.most - done), self.request.settings.budget_s - elapsed_s)
        rmspe = None if self._fitted is None else self._fitted.rmspe
        self._callback(Progress(done, plan.most, elapsed_s, max(0.0, left_s), rmspe))
