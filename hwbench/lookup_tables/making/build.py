"""Building a table from pruned versions of a model.

They are measured whole, and layer by layer in place, until predictions stop improving.

Why whole networks and not isolated layers: in place a layer has the cache state, layout and fusions
it will have in use, one network gives a sample of every layer at once, and only whole networks show
what lies between layers (`DECISIONS.md`).

Every network is written to the store as soon as it is measured (`journal`). Proposals depend on
nothing but the seed and on networks measured before, so the same command goes on where a killed one
stopped; only the anchor is measured again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial

from hwbench.devices.base import Device, MovesTime, Prepared
from hwbench.errors import Argument, MissingEntryError, UsageError
from hwbench.lookup_tables.making.fit import Fitted, fit
from hwbench.lookup_tables.making.journal import BuildJournal
from hwbench.lookup_tables.making.networks import (
    EFFORTS,
    Effort,
    NetworkSample,
    PrunedNetwork,
    Quiet,
    measure_network,
)
from hwbench.lookup_tables.making.proposals import Grid, propose_first, propose_uncertain
from hwbench.lookup_tables.metadata import Provenance, Source
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.structure import Structure
from hwbench.network.widths import DEFAULT_LOWER, DEFAULT_STEP
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.store import Store
from hwbench.version import __version__

logger = logging.getLogger(__name__)

FEWEST = 3
"""Networks, the unpruned one among them, that a table can be fitted to."""
ROOM = 2.0
"""A table should rest on this many times the fewest networks at least."""
GRACE_S = 1.0
"""Seconds that the fewest networks may take beyond the budget."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to build.

    Attributes:
        step: Pruned widths are multiples of it.
        lower: Smallest share of a width.
        first: Random networks before the table is asked what it is unsure of.
        batch: Networks between two such questions.
        most: Networks at most.
        gain: Building ends when a batch lowers the cross-validated error by less than this share.
        anchor_every: Networks between two fresh sessions of the anchor.
        effort: What each network is given.
    """

    step: int = DEFAULT_STEP
    lower: float = DEFAULT_LOWER
    first: int = 48
    batch: int = 16
    most: int = 160
    gain: float = 0.05
    anchor_every: int = 8
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is.

    Attributes:
        networks: Measured so far, earlier runs included.
        most: Measured at most.
        elapsed_s: Of this run.
        left_s: Time left at most, from the pace so far.
        rmspe: Cross-validated error of the last fit; None before the first.
    """

    networks: int
    most: int
    elapsed_s: float
    left_s: float
    rmspe: float | None


def build(
    device: Device,
    workload: Workload,
    settings: Settings,
    *,
    plan: Plan | None = None,
    store: Store | None = None,
    forget: bool = False,
    quiet: Quiet | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Fitted:
    """Build a table of all pruned versions of one model on an opened device.

    Args:
        device: It must profile layers.
        workload: The unpruned model.
        settings: Threads, isolation, seed, and `budget_s` for this run.
        plan: How to build.
        store: Where each measured network is kept, and found again; None keeps nothing. Networks of
            other models found there become part of the table, and what they tell need not be
            measured again.
        forget: Leave out all that was measured on the device before.
        quiet: What the unpruned network takes while nothing disturbs the device, if that is known
            already.
        callback: Called after every network.

    Raises:
        UsageError: The device cannot profile layers, or the model has nothing to prune.
        DeviceError: The device failed; the same call goes on where it stopped.
        WorkloadError: The device cannot run the model.
    """
    return _Build(
        device,
        workload,
        settings,
        plan=plan or Plan(),
        store=store,
        forget=forget,
        quiet=quiet or Quiet(),
        callback=callback or (lambda _: None),
    ).run()


def refine(
    grid: Grid,
    structure: Structure,
    plan: Plan,
    seed: int,
    queue: Sequence[tuple[int, ...]],
    *,
    measure: Callable[[Sequence[tuple[int, ...]], int], bool],
    fitted: Callable[[int], Fitted],
) -> Fitted:
    """Measure batch after batch, each of the networks that the table is least certain of.

    Args:
        grid: Widths to choose from.
        structure: Of the model.
        plan: Batches, most networks, least gain.
        seed: Of the choices.
        queue: The first batch.
        measure: Measures a batch whose first network has that number; False if time was up before
            all were.
        fitted: The table of the networks numbered below that.

    Returns:
        The last fit: when time was up, the plan was done, or two batches together gained less than
        they should.
    """
    start, errors = 0, list[float]()
    while True:
        whole = measure(queue, start)
        start += len(queue)
        found = fitted(start)
        errors.append(found.rmspe)
        flat = len(errors) > 2 and errors[-1] > (1 - plan.gain) * errors[-3]
        if not whole or flat or start >= plan.most:
            return found
        queue = propose_uncertain(grid, found.table, structure, plan.batch, (seed, len(errors)))


class _Build:
    """One build in progress."""

    def __init__(
        self,
        device: Device,
        workload: Workload,
        settings: Settings,
        *,
        plan: Plan,
        store: Store | None,
        forget: bool,
        quiet: Quiet,
        callback: Callable[[Progress], None],
    ) -> None:
        self.device, self.workload, self.settings, self.plan = device, workload, settings, plan
        self.callback, self.quiet = callback, quiet
        self.network = PrunableNetwork(workload)
        self.structure = self.network.structure
        self.grid = Grid(self.structure.widths, plan.step, plan.lower, self.structure.units)
        self.now: Callable[[], float] = (
            device.time_s if isinstance(device, MovesTime) else time.monotonic
        )
        source = Source(
            workload.name,
            self.structure.architecture,
            0.0,
            len(self.structure.slots),
            plan.step,
            plan.lower,
            0,
        )
        facts = [plan.first, plan.batch, plan.anchor_every, asdict(plan.effort)]
        self.journal = BuildJournal(store, device.info(), settings, source, facts, forget=forget)
        self.fresh = 0  # networks measured in this run
        self.slowest_s = 0.0  # seconds of the slowest of them
        self.effort = self.plan.effort  # what each is given; less where time is short
        self.fitted: Fitted | None = None

    def run(self) -> Fitted:
        self.begun = self.now()
        queue = propose_first(
            self.grid,
            self.plan.batch if self._is_covered() else self.plan.first,
            self.settings.seed,
        )
        with self._anchors() as anchor:
            measure = partial(self._measure, anchor)
            return refine(
                self.grid,
                self.structure,
                self.plan,
                self.settings.seed,
                queue,
                measure=measure,
                fitted=self._fit,
            )

    def _measure(
        self, anchor: Callable[[int], Prepared], queue: Sequence[tuple[int, ...]], start: int
    ) -> bool:
        """Measure the networks of one batch that were not; False if the budget ended first."""
        done = {sample.number for sample in self.journal.samples}
        for number, widths in enumerate(queue, start):
            if number in done:
                continue
            if (
                self.fresh
                and self.now() - self.begun + self.slowest_s > self.settings.budget_s
                and len(self.journal.samples) >= FEWEST
            ):
                return False
            prepared = anchor(number)
            start_s = self.now()
            self.journal.keep(self._network(number, widths, prepared))
            self.slowest_s = max(self.slowest_s, self.now() - start_s)
            self.fresh += 1
            self._report_progress()
        return True

    def _network(self, number: int, widths: tuple[int, ...], anchor: Prepared) -> NetworkSample:
        pruned = PrunedNetwork.of(self.network, number, widths)
        return measure_network(self.device, anchor, pruned, self.effort, self.quiet)

    def _choose_effort(self, anchor: Prepared) -> None:
        """Give each network less where the budget has no room for a few of them otherwise.

        Raises:
            UsageError: It has no room for the fewest that make a table, however little each is
                given.
        """
        latency_s = self.device.run([anchor]).values_s[0]
        missing = max(1, FEWEST - len(self.journal.samples))
        for effort in (self.plan.effort, *EFFORTS):
            if effort.cost_s(latency_s) * missing * ROOM <= self.settings.budget_s:
                break
        else:
            least_s = EFFORTS[-1].cost_s(latency_s) * missing
            if least_s > max(GRACE_S, self.settings.budget_s):
                raise UsageError(
                    f"{self.settings.budget_s:g} s are too few for a table of {self.workload.name}:"
                    f" an inference takes {latency_s:.2g} s, so that the fewest networks that make"
                    f" one take about {least_s:.0f} s",
                    Argument("budget_s", math.ceil(ROOM * least_s)),
                )
        if effort != self.plan.effort:
            logger.warning(
                "an inference takes %.2g s, so that each network is measured with fewer rounds: %d"
                " turns and %d profiled inferences, not %d and %d; the intervals say what that"
                " costs, and a longer time helps",
                latency_s,
                effort.turns,
                effort.runs,
                self.plan.effort.turns,
                self.plan.effort.runs,
            )
            self.effort, self.quiet = effort, Quiet(batches=1)

    @contextmanager
    def _anchors(self) -> Iterator[Callable[[int], Prepared]]:
        """Gives the prepared anchor for the number of a network.

        After every few networks it is prepared anew: a fresh session.

        Each session is measured like a network, under a negative number that tells the network it
        comes before.
        """
        held: list[Prepared] = []
        since = 0

        def current(number: int) -> Prepared:
            nonlocal since
            if not held or since >= self.plan.anchor_every:
                held.append(self.device.prepare(self.workload, self.settings))
                if not self.fresh:
                    self._choose_effort(held[0])
                if len(held) > 1:
                    self.device.release(held.pop(0))
                self.journal.keep(self._network(-1 - number, self.structure.widths, held[0]))
                since = 0
            since += 1
            return held[0]

        try:
            yield current
        finally:
            for prepared in held if self.device.usable else ():
                self.device.release(prepared)

    def _fit(self, before: int) -> Fitted:
        """The table of all networks that were measured on the device.

        Of this campaign, these are the networks numbered below `before`.
        """
        created = datetime.now(UTC).isoformat(timespec="seconds")
        provenance = Provenance(self.device.info(), self.settings.threads, created, __version__)
        self.fitted = fit([self.journal.campaign(before), *self.journal.others], provenance)
        return self.fitted

    def _is_covered(self) -> bool:
        """Whether other models' networks already answer for the whole range of this one."""
        if not self.journal.others:
            return False
        info, created = self.device.info(), datetime.now(UTC).isoformat(timespec="seconds")
        table = fit(
            self.journal.others, Provenance(info, self.settings.threads, created, __version__)
        ).table
        try:
            for widths in (self.grid.least, self.structure.widths):
                table.layers(self.structure.keys(widths))
        except MissingEntryError:
            return False
        return True

    def _report_progress(self) -> None:
        done = sum(sample.number >= 0 for sample in self.journal.samples)
        elapsed_s = self.now() - self.begun
        pace_s = elapsed_s / self.fresh * (self.plan.most - done)
        left_s = max(0.0, min(pace_s, self.settings.budget_s - elapsed_s))
        self.callback(
            Progress(
                done,
                self.plan.most,
                elapsed_s,
                left_s,
                None if self.fitted is None else self.fitted.rmspe,
            )
        )
