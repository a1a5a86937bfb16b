"""Where the latencies of a search come from.

They come from a table that was named, from that of the device, from one that is built first, or,
for blocks, from a measurement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from hwbench.errors import LookupTableError, StaleTableError, UsageError
from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.making.channel_steps import grid_step
from hwbench.lookup_tables.repository import check_table, find_table, save_table
from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.lookup_tables.table import IMPORTED
from hwbench.network.widths import DEFAULT_STEP
from hwbench.records.findings import Finding
from hwbench.search.budget import FINE_STEP, WIDE_ENOUGH
from hwbench.workflows.defaults import TABLE_BUDGET_S
from hwbench.workflows.search.blocks import TableGains, load_gains, measure_gains, save_gains

if TYPE_CHECKING:
    from collections.abc import Callable

    from hwbench.lookup_tables import Progress
    from hwbench.network.structure import Structure
    from hwbench.records.measurement import Settings
    from hwbench.records.prediction import LatencySource
    from hwbench.search.blocks import BlockLatency
    from hwbench.search.context import Subject
    from hwbench.search.method import Method
    from hwbench.store import Store
    from hwbench.workflows.meter import Meter
    from hwbench.workflows.search.plan import Plan

TABLE_SHARE = 0.25
"""Share of a search's time that building a table may take, where it has a limit."""


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
        say: Called with what is done.
    """

    subject: Subject
    plan: Plan
    method: Method[Any]
    resources: Resources
    say: Callable[[str], None]

    def find(self) -> Latencies:
        """Latencies for the search.

        Raises:
            StaleTableError: The table named is of another device than the one given.
            MissingEntryError: It does not know a layer of the network.
            UsageError: There is no such table.
        """
        method, resources = self.method, self.resources
        if method.drops_blocks and resources.table is None and resources.meter is not None:
            return self._measure_blocks(resources.meter)
        table = self._find_table()
        if table is None:
            return Latencies(None, None, method.channel_step or DEFAULT_STEP, "no latency")
        findings: tuple[Finding, ...] = ()
        step = grid_step(table.steps)
        if IMPORTED in dict(table.provenance.device.details):
            table = table.extrapolating()
            text = (
                f"the table {table.provenance.device.address} was made of few published networks,"
                " so latencies of other widths are partly extrapolated"
            )
            findings = (Finding("extrapolated", text),)
            # Published networks say nothing of the device's own step; theirs is the finest known.
            step = min((source.step for source in table.provenance.sources), default=DEFAULT_STEP)
        step = method.channel_step or step
        source = StructureLatency(table, self.subject.structure, step)
        identity = sha256(json.dumps(table.to_dict(), sort_keys=True).encode()).hexdigest()
        blocks = TableGains(table, self.subject.network) if self.subject.structure.blocks else None
        return Latencies(source, blocks, step, identity, findings)

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
        return self._build(resources.meter)

    def _is_known(self, table: LookupTable) -> bool:
        """Whether a table knows the network's layers, as narrow as the search may ask for."""
        structure = self.subject.structure
        try:
            table.layers([slot.layer.key for slot in structure.slots])
        except (UsageError, StaleTableError, LookupTableError):
            return False
        step = table_step(structure, grid_step(table.steps))
        return any(
            source.model == self.subject.name
            and source.step <= step
            and source.lower <= self.method.narrowest
            for source in table.provenance.sources
        )

    def _build(self, meter: Meter) -> LookupTable:
        """Build the table of the network on the device, with what was measured there before."""
        from hwbench.lookup_tables import Plan as TablePlan

        workload, store = self.subject.workload, self.resources.store
        limit_s = TABLE_BUDGET_S
        if self.plan.budget_s is not None:
            limit_s = min(TABLE_BUDGET_S, TABLE_SHARE * self.plan.budget_s)
        settings = replace(self.resources.settings, budget_s=limit_s)
        self.say("building the lookup table of the device")
        channel_step = self.method.channel_step or meter.channel_step(workload, settings)
        step = table_step(self.subject.structure, channel_step)

        def show(progress: Progress) -> None:
            networks = f"{progress.networks} of at most {progress.most} networks"
            self.say(f"building the lookup table: {networks}")

        table_plan = TablePlan(step=step, lower=self.method.narrowest)
        fitted = meter.begin_table(workload, settings, table_plan, store, show).run()
        if store is not None:
            save_table(store, fitted.table)
        return fitted.table

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
            self.say(f"measuring what each of {len(names)} blocks costs")
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
