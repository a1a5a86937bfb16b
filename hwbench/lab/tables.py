"""A lookup table built by several devices of one kind at once.

The networks are those that one device would be given (`hwbench.lookup_tables.making.build`): first
random ones, then in batches those of which the table is least certain. Each is kept in the store as
soon as it is known, so the same call goes on after a killed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from hwbench.errors import DeviceUnavailableError, UsageError
from hwbench.lab.reconcile import reconciled, scales_of, widened
from hwbench.lab.tasks import Outcome, Task, TaskKind, describe_workload, digest, task_result
from hwbench.lookup_tables import LookupTable, Plan, Progress, Provenance, Source, Validation
from hwbench.lookup_tables.making.build import refine
from hwbench.lookup_tables.making.fit import Fitted, fit
from hwbench.lookup_tables.making.journal import BuildJournal
from hwbench.lookup_tables.making.networks import Effort, NetworkSample
from hwbench.lookup_tables.making.proposals import Grid, first
from hwbench.lookup_tables.making.validate import Trial, held_out
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.workload import Workload
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.store import Store
from hwbench.version import __version__

LIMIT_S = 120.0
"""A network that takes longer hangs; on a slow phone one takes some seconds."""
GRADING = Effort(turns=6, runs=3)
"""What a held-out network is given; its layers are not looked at."""
LEAST = 3
"""Networks before which no budget ends a build."""


class Crew(Protocol):
    """Devices of one kind that carry out tasks, whoever does which."""

    info: DeviceInfo
    """The kind: what they have in common."""

    def now(self) -> float:
        """Seconds, for budgets."""
        ...

    def carry_out(
        self, job: str, tasks: Sequence[Task], *workloads: Workload
    ) -> Iterator[tuple[str, Outcome]]:
        """Outcomes of the tasks of a job by id, in whatever order they come.

        Each counts as safe when the next is asked for.
        """
        ...


@dataclass(frozen=True)
class Request:
    """What a table is built of, and how.

    Attributes:
        workload: The unpruned model.
        settings: Threads, isolation, seed, and `budget_s` for the build.
        plan: Its grid, batches and effort.
        limit_s: Seconds after which a network hangs.
    """

    workload: Workload
    settings: Settings
    plan: Plan
    limit_s: float = LIMIT_S


class TableBuild:
    """One table in the making.

    Args:
        crew: Who measures.
        request: What to build.
        store: Where each network is kept, and found again; None keeps nothing.
        forget: Leave out all that was measured on this kind before.
        callback: Called after every network.

    Raises:
        UsageError: The model has nothing to prune.
    """

    def __init__(
        self,
        crew: Crew,
        request: Request,
        store: Store | None = None,
        *,
        forget: bool = False,
        callback: Callable[[Progress], None] | None = None,
    ) -> None:
        self.crew, self.request, self._callback = crew, request, callback
        workload, settings, plan = request.workload, request.settings, request.plan
        self.structure = PrunableNetwork(workload).structure
        self.grid = Grid(self.structure.widths, plan.step, plan.lower)
        self.identity = self.structure.architecture
        source = Source(
            workload.name, self.identity, 0.0, len(self.structure.slots), plan.step, plan.lower, 0
        )
        facts = ["lab", plan.first, plan.batch, plan.anchor_every, asdict(plan.effort)]
        self.journal = BuildJournal(store, crew.info, settings, source, facts, forget=forget)
        asked = asdict(replace(settings, budget_s=0.0))  # more time is more of the same work
        self.job = digest("table", asdict(crew.info), workload.sha256, asked, asdict(plan))
        self._fitted: Fitted | None = None
        self._begun_s, self._fresh = crew.now(), 0

    def run(self) -> Fitted:
        """Measure and fit until predictions stop improving, the plan is done or time is up.

        Raises:
            DeviceError: No device is left; the same call goes on where it stopped.
            WorkloadError: The devices cannot run the model.
        """
        plan, seed = self.request.plan, self.request.settings.seed
        queue = first(self.grid, plan.first, seed)
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
        """Measure random pruned networks that the table has not seen, each in several sessions, on whichever devices.

        Args:
            table: Of this build.
            networks: Held-out networks.
            sessions: Of each.
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
        source = next(one for one in table.provenance.sources if one.architecture == self.identity)
        chosen = held_out(self.structure, source, networks, self.request.settings.seed)
        predictions = [table.predict(self.structure.keys(widths)) for widths in chosen]
        tasks = [
            self._task(
                f"graded {session}.{index}",
                session * networks + index,
                widths,
                GRADING,
                self.request.plan.anchor_every,
            )
            for session in range(sessions)
            for index, widths in enumerate(chosen)
        ]
        seen: dict[int, list[float]] = {index: [] for index in range(networks)}
        every: list[NetworkSample] = []
        for done, samples in enumerate(self._samples(tasks), 1):
            every += samples
            seen[samples[-1].number % networks].append(samples[-1].ratio * source.latency_s)
            if callback is not None:
                callback(done, len(tasks))
        trials = (
            Trial(widths, prediction, tuple(seen[index]))
            for index, (widths, prediction) in enumerate(zip(chosen, predictions, strict=True))
        )
        drift = scales_of(every).reference_s / source.latency_s
        return Validation(self.request.workload.name, self.structure, tuple(trials), drift)

    def _measure(self, queue: Sequence[tuple[int, ...]], start: int) -> bool:
        """Have the networks of one batch measured that were not.

        False if the budget ended first.
        """
        plan = self.request.plan
        done = {sample.number for sample in self.journal.samples}
        missing = [
            (number, widths) for number, widths in enumerate(queue, start) if number not in done
        ]
        tasks = [
            self._task(str(number), number, widths, plan.effort, plan.anchor_every)
            for number, widths in missing
        ]
        left = len(tasks)
        for samples in self._samples(tasks):
            for sample in samples:
                self.journal.keep(sample)
            left, self._fresh = left - 1, self._fresh + 1
            self._tell()
            late = self.crew.now() - self._begun_s > self.request.settings.budget_s
            if left and late and len(self.journal.samples) >= LEAST:
                return False
        return True

    def _samples(self, tasks: Sequence[Task]) -> Iterator[list[NetworkSample]]:
        """The networks of each task, the anchor's own among them, as they come."""
        if not tasks:
            return
        asked = {task.id: tuple(task.arguments["widths"]) for task in tasks}
        outcomes = self.crew.carry_out(self.job, tasks, self.request.workload)
        for task_id, outcome in outcomes:
            samples = [
                NetworkSample.from_dict({**one, "by": outcome.get("by", "")})
                for one in task_result(outcome)["samples"]
            ]
            if not samples or samples[-1].widths != asked.pop(task_id):
                text = (
                    f"{outcome.get('by')} measured another network than it was asked for; update"
                    " hwbench there"
                )
                raise DeviceUnavailableError(text)
            yield samples

    def _task(
        self, name: str, number: int, widths: tuple[int, ...], effort: Effort, anchor_every: int
    ) -> Task:
        arguments = {
            "number": number,
            "widths": list(widths),
            "effort": asdict(effort),
            "anchor_every": anchor_every,
        }
        request = self.request
        return Task(
            name,
            TaskKind.NETWORK,
            (describe_workload(request.workload),),
            request.settings,
            request.limit_s,
            arguments,
        )

    def _fit(self, before: int) -> Fitted:
        """The table of the networks numbered below `before`, in seconds of one device, and of other models on that kind."""
        ours = self.journal.campaign(before)
        scales = scales_of(ours.samples)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        provenance = Provenance(self.crew.info, self.request.settings.threads, created, __version__)
        fitted = fit(
            [replace(ours, samples=reconciled(ours.samples, scales)), *self.journal.others],
            provenance,
        )
        self._fitted = replace(fitted, table=widened(fitted.table, scales))
        return self._fitted

    def _tell(self) -> None:
        if self._callback is None:
            return
        done, plan = sum(sample.number >= 0 for sample in self.journal.samples), self.request.plan
        elapsed_s = self.crew.now() - self._begun_s
        left_s = min(
            elapsed_s / self._fresh * (plan.most - done), self.request.settings.budget_s - elapsed_s
        )
        rmspe = None if self._fitted is None else self._fitted.rmspe
        self._callback(Progress(done, plan.most, elapsed_s, max(0.0, left_s), rmspe))
