"""Where the latencies of a search come from.

They come from a table that was named, from that of the device, from one that is built first, or,
for blocks, from a measurement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, LookupTableError, StaleTableError, UsageError
from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.making.channel_steps import grid_step
from hwbench.lookup_tables.making.validate import add_grade
from hwbench.lookup_tables.repository import check_table, find_table, save_table
from hwbench.lookup_tables.structure_latency import ConvertedLatency, StructureLatency
from hwbench.lookup_tables.table import IMPORTED
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.widths import DEFAULT_STEP
from hwbench.records.findings import Finding
from hwbench.search.budget import FINE_STEP, WIDE_ENOUGH
from hwbench.workflows.build_table import count_graded
from hwbench.workflows.defaults import GRADING_NETWORKS, TABLE_BUDGET_S
from hwbench.workflows.meter import in_format_of_table
from hwbench.workflows.search.blocks import TableGains, load_gains, measure_gains, save_gains
from hwbench.workflows.search.shares import TABLE_SHARE

if TYPE_CHECKING:
    from hwbench.lookup_tables import Grade, Progress, Validation
    from hwbench.network.structure import Structure
    from hwbench.records.measurement import Settings
    from hwbench.records.prediction import LatencySource
    from hwbench.search.blocks import BlockLatency
    from hwbench.search.context import Subject
    from hwbench.search.method import Method
    from hwbench.store import Store
    from hwbench.workflows.meter import Meter, TableBuilder
    from hwbench.workflows.search.callback import SearchCallback
    from hwbench.workflows.search.plan import Plan


GRADING_SHARE = 0.25
"""Of the time for making a table, the share for grading it."""
POOR = 0.08
"""Mean error on held-out networks from which a table is built once more; 0.9 to 3.5 % is usual."""


@dataclass(frozen=True)
class Resources:
    """What a search may measure with, and where it finds tables.

    Attributes:
        meter: What to measure with; None to measure nothing.
        table: The table named by the user; None for that of the device.
        store: Where tables are kept; None for nowhere.
        url: Address of the store.
        settings: How to measure.
    """

    meter: Meter | None
    table: LookupTable | str | None
    store: Store | None
    url: str | None
    settings: Settings

    @property
    def target_id(self) -> str | None:
        """The device; None without one."""
        return None if self.meter is None else self.meter.info().target_id

    def check_table(self, table: LookupTable) -> LookupTable:
        """The table itself, if it is of the device.

        Raises:
            StaleTableError: It is of another one.
        """
        if self.meter is not None:
            check_table(table, self.meter.info(), self.settings.threads)
        return table


@dataclass(frozen=True)
class Latencies:
    """What is known of the latencies of a network and of smaller ones.

    Attributes:
        source: Tells latencies of widths; None for a search that needs none.
        blocks: Tells what dropping blocks saves; None for a search that needs none.
        step: Channel step of the grid of widths.
        identity: What the latencies come from: part of the identity of the search.
        findings: What to know of them.
    """

    source: LatencySource | None
    blocks: BlockLatency | None
    step: int
    identity: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class LatencyFinder:
    """Finds the latencies that steer a search, or measures them.

    Attributes:
        subject: The network.
        plan: What was asked for.
        method: The search.
        resources: What there is to tell latencies by.
        callback: Told what is done.
    """

    subject: Subject
    plan: Plan
    method: Method[Any]
    resources: Resources
    callback: SearchCallback

    @property
    def measures_blocks(self) -> bool:
        """Whether latencies are measured block by block, not told by a table.

        They are kept with the search, whose identity holds the weights of the original.
        """
        resources = self.resources
        has_table = resources.table is not None
        return self.method.drops_blocks and not has_table and resources.meter is not None

    def find(self) -> Latencies:
        """Latencies for the search.

        Raises:
            StaleTableError: The table named is of another device than the one given.
            MissingEntryError: It does not know a layer of the network.
            UsageError: There is no such table.
        """
        method, meter = self.method, self.resources.meter
        if self.measures_blocks and meter is not None:
            return self._measure_blocks(meter)
        table = self._find_table()
        if table is None:
            return Latencies(None, None, method.channel_step or DEFAULT_STEP, "no latency")
        identity = sha256(json.dumps(table.to_dict(), sort_keys=True).encode()).hexdigest()
        step = grid_step(table.steps)
        if IMPORTED in dict(table.provenance.device.details):
            table = table.extrapolating()
            text = (
                f"the table {table.provenance.device.address} was made of few published networks,"
                " so latencies of other widths are partly extrapolated"
            )
            findings: list[Finding] = [Finding("extrapolated", text)]
            # Published networks say nothing of the device's own step; theirs is the finest known.
            step = min((source.step for source in table.provenance.sources), default=DEFAULT_STEP)
        else:
            table = self._grade_if_needed(table)
            findings = self._grade_findings(table)
        step = method.channel_step or step
        source, blocks = self._read_table(table, step)
        return Latencies(source, blocks, step, identity, tuple(findings))

    def _read_table(
        self, table: LookupTable, step: int
    ) -> tuple[StructureLatency, TableGains | None]:
        """What a table tells of widths, and of blocks.

        Raises:
            UsageError: The method drops blocks, and the table is of converted networks, which are
                cut to other widths only.
        """
        subject = self.subject
        converted = self._convert(table)
        if converted is None:
            blocks = TableGains(table, subject.network) if subject.structure.blocks else None
            return StructureLatency(table, subject.structure, step), blocks
        if self.method.drops_blocks:
            raise UsageError(
                f"{self.method.name} drops blocks, and the table"
                f" {table.provenance.device.address} knows other widths alone, as its networks were"
                " converted; let the device measure blocks instead",
                Argument("table", change="no"),
            )
        return ConvertedLatency(table, converted, subject.structure, step), None

    def _convert(self, table: LookupTable) -> Structure | None:
        """The layers that a device makes of the network, by the groups of the original.

        None where it runs the network as it is.
        """
        subject = self.subject
        fitted = in_format_of_table(subject.workload, table, self.resources.settings.seed)
        if fitted.format == subject.workload.format:
            return None
        return PrunableNetwork(fitted).structure.with_groups_of(subject.structure)

    def _find_table(self) -> LookupTable | None:
        """The table that was named, else that of the device; None where there is neither."""
        resources = self.resources
        if isinstance(resources.table, LookupTable):
            return resources.check_table(resources.table)
        if resources.table is not None:
            return resources.check_table(_find_named(resources.table, resources))
        if resources.meter is None:
            return None
        table = _find_of_device(resources, resources.meter)
        if table is not None and self._is_known(table):
            return table
        return self._build_well(resources.meter)

    def _grade_of(self, table: LookupTable) -> Grade | None:
        """How the table did on held-out versions of the network; None where nobody has tried."""
        grades = [grade for grade in table.grades if grade.model == self.subject.name]
        return grades[-1] if grades else None

    def _grade_if_needed(self, table: LookupTable) -> LookupTable:
        """A table of the device that nobody has graded on this network, graded.

        The grade widens the intervals, and leaves the latencies as they are. It is not kept: the
        identity of searches that were killed holds the table as it was found.
        """
        meter = self.resources.meter
        if meter is None or self.resources.table is not None or self._grade_of(table) is not None:
            return table
        step = table_step(self.subject.structure, grid_step(table.steps))
        limit_s = self._time_for_tables()
        builder = self._begin_table(meter, step, limit_s)
        graded, _ = self._grade(builder, table, GRADING_SHARE * limit_s)
        return graded

    def _grade_findings(self, table: LookupTable) -> list[Finding]:
        """What is known against the table."""
        grade = self._grade_of(table)
        address = table.provenance.device.address
        if grade is None:
            text = (
                f"nobody has graded the table {address} on this network, so it is not known how far"
                " off its predictions are"
            )
            return [Finding("table_ungraded", text)]
        if grade.mean_error <= POOR:
            return []
        text = (
            f"the table {address} is {grade.mean_error:.1%} off on average on"
            f" {grade.networks} networks that it had not seen; build it anew on a quiet machine"
        )
        return [Finding("table_poor", text)]

    def _is_known(self, table: LookupTable) -> bool:
        """Whether a table knows the network's layers, as narrow as the search may ask for."""
        structure = self.subject.structure
        layers = (self._convert(table) or structure).slots
        try:
            table.layers([slot.layer.key for slot in layers])
        except (UsageError, StaleTableError, LookupTableError):
            return False
        step = table_step(structure, grid_step(table.steps))
        return any(
            source.model == self.subject.name
            and source.step <= step
            and source.lower <= self.method.narrowest
            for source in table.provenance.sources
        )

    def _build_well(self, meter: Meter) -> LookupTable:
        """Build the table of the network on the device, once more where it turns out poor.

        A machine that was busy for a minute spoils a table, and with it the whole search.
        """
        limit_s = self._time_for_tables()
        self.callback.say("building the lookup table of the device", timed=True)
        settings = replace(self.resources.settings, budget_s=limit_s)
        channel_step = self.method.channel_step
        if channel_step is None:
            channel_step = meter.channel_step(self.subject.workload, settings)
        step = table_step(self.subject.structure, channel_step)
        table, found = self._build(meter, step, limit_s)
        grade = self._grade_of(table)
        if grade is not None and grade.mean_error > POOR and self.plan.budget_s is None:
            self.callback.say("the table is poor; building it anew", timed=True)
            second, found_then = self._build(meter, step, limit_s, forget=True)
            second_grade = self._grade_of(second)
            if second_grade is not None and second_grade.mean_error < grade.mean_error:
                table, found = second, found_then
        if self.resources.store is not None:
            save_table(self.resources.store, table, found)
        return table

    def _build(
        self, meter: Meter, step: int, limit_s: float, *, forget: bool = False
    ) -> tuple[LookupTable, Validation | None]:
        """Build the table with what was measured on the device before, and grade it."""
        builder = self._begin_table(meter, step, (1 - GRADING_SHARE) * limit_s, forget=forget)
        return self._grade(builder, builder.run().table, GRADING_SHARE * limit_s)

    def _begin_table(
        self, meter: Meter, step: int, limit_s: float, *, forget: bool = False
    ) -> TableBuilder:
        from hwbench.lookup_tables import Plan as TablePlan

        def show(progress: Progress) -> None:
            networks = f"{progress.networks} of at most {progress.most} networks"
            self.callback.say(f"building the lookup table: {networks}", timed=True)

        return meter.begin_table(
            self.subject.workload,
            replace(self.resources.settings, budget_s=limit_s),
            TablePlan(step=step, lower=self.method.narrowest),
            self.resources.store,
            show,
            forget=forget,
        )

    def _grade(
        self, builder: TableBuilder, table: LookupTable, limit_s: float
    ) -> tuple[LookupTable, Validation | None]:
        """Grade a table on networks it has not seen, as many as there is time for."""
        workload = in_format_of_table(self.subject.workload, table, self.resources.settings.seed)
        networks = count_graded(table, workload, limit_s, GRADING_NETWORKS)
        if not networks:
            return table, None

        def show(done: int, total: int) -> None:
            self.callback.say(f"grading the lookup table: {done} of {total}", timed=True)

        validation = builder.grade(table, networks, callback=show)
        return add_grade(table, validation), validation

    def _time_for_tables(self) -> float:
        """Seconds that making and grading a table may take."""
        limit_s = TABLE_BUDGET_S / (1 - GRADING_SHARE)
        if self.plan.budget_s is None:
            return limit_s
        return min(limit_s, TABLE_SHARE * self.plan.budget_s)

    def _measure_blocks(self, meter: Meter) -> Latencies:
        """Measure what dropping each block saves, unless an earlier run of the search did."""
        subject, resources = self.subject, self.resources
        names = [block.name for block in subject.structure.blocks]
        if not names:
            raise UsageError(
                f"{subject.name} has no block that keeps its shape, so none can be dropped; search"
                " for widths instead (amc, abcpruner)"
            )
        info = meter.info()
        identity = f"measured on {info.target_id} {info.runtime}"
        key = self.plan.key(subject.name, subject.prunable.sha256, identity)
        gains = load_gains(resources.store, key)
        if gains is None:
            self.callback.say(f"measuring what each of {len(names)} blocks costs", timed=True)
            limit_s = None
            if self.plan.budget_s is not None:
                limit_s = TABLE_SHARE * self.plan.budget_s
            gains = measure_gains(
                meter, subject.network, names, resources.settings, limit_s=limit_s
            )
            save_gains(resources.store, key, gains)
        return Latencies(None, gains, self.method.channel_step or DEFAULT_STEP, identity)


def _find_named(name: str, resources: Resources) -> LookupTable:
    """A table of the store; of the user's own store where the search keeps nothing."""
    from hwbench.store import open_store

    if resources.store is not None:
        return find_table(resources.store, name, resources.target_id)
    with open_store(resources.url) as store:
        return find_table(store, name, resources.target_id)


def _find_of_device(resources: Resources, meter: Meter) -> LookupTable | None:
    """The kept table of the device; None where there is none that fits it."""
    if resources.store is None:
        return None
    try:
        table = find_table(resources.store, meter.address, resources.target_id)
        return resources.check_table(table)
    except (UsageError, StaleTableError, LookupTableError):
        return None


def table_step(structure: Structure, step: int) -> int:
    """Step of the widths that a table of a network must know.

    Args:
        structure: Structure of the network.
        step: Channel step of the device; groups that are narrow in it are cut more finely.
    """
    if any(width < WIDE_ENOUGH * step for width in structure.widths):
        return min(step, FINE_STEP)
    return step
