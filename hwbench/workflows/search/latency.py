"""Where the latencies of a search come from: a table that was named, that of the device, or one that is built first."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from hwbench.errors import LookupTableError, StaleTableError, UsageError
from hwbench.lookup_tables import LookupTable
from hwbench.lookup_tables.making.channel_steps import grid_step
from hwbench.lookup_tables.repository import check, find_table, save_table
from hwbench.lookup_tables.structure_latency import StructureLatency
from hwbench.lookup_tables.table import IMPORTED
from hwbench.records.findings import Finding
from hwbench.search.abcpruner.search import TENTHS
from hwbench.search.budget import FINE_STEP, WIDE_ENOUGH
from hwbench.workflows.build_table import TableCallback
from hwbench.workflows.defaults import TABLE_BUDGET_S
from hwbench.workflows.search.blocks import TableGains, keep_gains, kept_gains, measured_gains
from hwbench.workflows.search.context import Ground

if TYPE_CHECKING:
    from hwbench.lookup_tables import Progress
    from hwbench.network.structure import Structure
    from hwbench.records.measurement import Settings
    from hwbench.search.practise.search import BlockLatency
    from hwbench.store import Store
    from hwbench.workflows.search.meter import Meter
    from hwbench.workflows.search.plan import Plan
    from hwbench.workflows.search.run import SearchCallback
    from hwbench.workflows.search.subject import Subject

TABLE_SHARE = 0.25
"""Share of a search's time that building a table may take, where it has a limit."""
USUAL_STEP = 8


@dataclass(frozen=True)
class Latencies:
    """What there is to tell latencies by.

    Attributes:
        meter: What to measure with; None to measure nothing.
        table: The table named by the user; None for that of the device.
        store: Where tables are kept; None for nowhere.
        url: Of the store.
        settings: How to measure.
    """

    meter: Meter | None
    table: LookupTable | str | None
    store: Store | None
    url: str | None
    settings: Settings


def find_latencies(
    subject: Subject, plan: Plan, places: Latencies, callback: SearchCallback
) -> tuple[Ground, str]:
    """The ground of a search, and the identity of its source of latencies.

    Raises:
        StaleTableError: The table named is of another device than the one given.
        MissingEntryError: It does not know a layer of the network.
        UsageError: There is no such table.
    """
    if plan.method == "practise" and places.table is None and places.meter is not None:
        return _measured_blocks(subject, plan, places, callback)
    table = _table(subject, places, plan, callback)
    if table is None:
        return Ground(subject, plan, None, None, plan.step or USUAL_STEP), "no latency"
    findings: list[Finding] = []
    imported = IMPORTED in dict(table.provenance.device.details)
    if imported:
        table = table.extrapolating()
        origin = f"the table {table.provenance.device.address} was made of few published networks"
        findings.append(
            Finding(
                "extrapolated", f"{origin}, so latencies of other widths are partly extrapolated"
            )
        )
    source_step = min((source.step for source in table.provenance.sources), default=USUAL_STEP)
    step = plan.step or (source_step if imported else grid_step(table.steps))
    source = StructureLatency(table, subject.structure, step)
    identity = sha256(json.dumps(table.to_dict(), sort_keys=True).encode()).hexdigest()
    blocks = TableGains(table, subject.network) if subject.structure.blocks else None
    return Ground(subject, plan, source, blocks, step, findings), identity


def _table(
    subject: Subject, places: Latencies, plan: Plan, callback: SearchCallback
) -> LookupTable | None:
    if isinstance(places.table, LookupTable):
        return _checked(places.table, places)
    if places.table is not None:
        if places.store is None:
            from hwbench.store import open_store

            with open_store(places.url) as store:
                return _checked(find_table(store, places.table, _target(places)), places)
        return _checked(find_table(places.store, places.table, _target(places)), places)
    if places.meter is None:
        return None
    return (
        _of_device(places)
        if _usable(subject, places, plan)
        else _built(subject, places, plan, callback)
    )


def _target(places: Latencies) -> str | None:
    return None if places.meter is None else places.meter.info().target_id


def _checked(table: LookupTable, places: Latencies) -> LookupTable:
    if places.meter is not None:
        check(table, places.meter.info(), places.settings.threads)
    return table


def _of_device(places: Latencies) -> LookupTable:
    if places.store is None or places.meter is None:
        raise UsageError("no table is kept; give one with --table")
    return _checked(find_table(places.store, places.meter.address, _target(places)), places)


def _usable(subject: Subject, places: Latencies, plan: Plan) -> bool:
    """Whether the store has a table of the device that knows the network's layers."""
    try:
        table = _of_device(places)
        table.layers([slot.layer.key for slot in subject.structure.slots])
    except (UsageError, StaleTableError, LookupTableError):
        return False
    step = table_step(subject.structure, grid_step(table.steps))
    return any(
        source.model == subject.name and source.step <= step and source.lower <= lower_of(plan)
        for source in table.provenance.sources
    )


def lower_of(plan: Plan) -> float:
    """Least share of a width that the search may ask for."""
    return 1 / TENTHS if plan.method == "abcpruner" else plan.lower


def table_step(structure: Structure, step: int) -> int:
    """Step of the widths that a table of a network must know, on a device of that channel step."""
    return (
        min(step, FINE_STEP)
        if any(width < WIDE_ENOUGH * step for width in structure.widths)
        else step
    )


def _built(
    subject: Subject, places: Latencies, plan: Plan, callback: SearchCallback
) -> LookupTable:
    """Build the table of the network on the device, with what was measured there before."""
    from hwbench.lookup_tables import Plan as TablePlan

    if places.meter is None:
        raise UsageError("a table is built on a device; give --device")
    limit_s = (
        TABLE_BUDGET_S
        if plan.budget_s is None
        else min(TABLE_BUDGET_S, TABLE_SHARE * plan.budget_s)
    )
    settings = replace(places.settings, budget_s=limit_s)
    callback.say("building the lookup table of the device")
    own = plan.step or places.meter.channel_step(subject.workload, settings)
    step = table_step(subject.structure, own)
    tell: Callable[[Progress], None] = _Telling(callback).measured
    made = places.meter.build_table(
        subject.workload, settings, TablePlan(step=step, lower=lower_of(plan)), places.store, tell
    )
    if places.store is not None:
        save_table(places.store, made.table)
    return made.table


class _Telling(TableCallback):
    def __init__(self, callback: SearchCallback) -> None:
        self._callback = callback

    def measured(self, progress: Progress) -> None:
        self._callback.say(
            f"building the lookup table: {progress.networks} of at most {progress.most} networks"
        )


def _measured_blocks(
    subject: Subject, plan: Plan, places: Latencies, callback: SearchCallback
) -> tuple[Ground, str]:
    names = [block.name for block in subject.structure.blocks]
    if places.meter is None or not names:
        raise UsageError(
            f"{subject.name} has no block that keeps its shape, so none can be dropped; search with"
            " amc or abcpruner"
        )
    info = places.meter.info()
    identity = f"measured on {info.target_id} {info.runtime}"
    key = plan.key(subject.name, subject.prunable.sha256, identity)
    found = kept_gains(places.store, key)
    if found is None:
        callback.say(f"measuring what each of {len(names)} blocks costs")
        found = measured_gains(places.meter, subject.network, names, places.settings)
        keep_gains(places.store, key, found)
    blocks: BlockLatency = found
    return Ground(subject, plan, None, blocks, plan.step or USUAL_STEP), identity
