"""What the report takes of a store: measurements, comparisons, tables and searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, Call, SchemaError, UsageError
from hwbench.lookup_tables.repository import RECORD as TABLE
from hwbench.lookup_tables.repository import VALIDATION
from hwbench.lookup_tables.table import LookupTable
from hwbench.measuring.comparing import compare_measured
from hwbench.records.ceilings import RECORD as CEILINGS
from hwbench.records.ceilings import Ceilings
from hwbench.records.comparison import RECORD as COMPARISON
from hwbench.records.comparison import Comparison
from hwbench.records.times import EARLIEST, parse_since, parse_utc
from hwbench.search.base import Outcome, Trial
from hwbench.store import FAULTS_OF_DATA, MEASUREMENT, DamagedRecord, Store
from hwbench.workflows.ceilings import parse_ceilings
from hwbench.workflows.defaults import DEFAULT_MODEL
from hwbench.workflows.matrix import KeptMatrix, read_matrices
from hwbench.workflows.recording import read_order
from hwbench.workflows.search.front import RECORD as FRONT
from hwbench.workflows.search.journal import RECORD as TRIAL
from hwbench.workflows.search.result import RECORD as SEARCH

if TYPE_CHECKING:
    from hwbench.records.measurement import Measurement


@dataclass(frozen=True)
class KeptTable:
    """A lookup table.

    Attributes:
        id: In the store.
        table: The newest of its device.
        validation: Held-out networks of its last validation; empty where none was kept.
        earlier: How many tables of the device came before it.
    """

    id: str
    table: LookupTable
    validation: Mapping[str, Any]
    earlier: int


@dataclass(frozen=True)
class KeptSearch:
    """A search that came to its end.

    Attributes:
        summary: What the store keeps of its end.
        best: The network found.
        original: What it began with; None in a record of a version that did not keep it.
        trials: (part of the search, trial), in order.
    """

    summary: Mapping[str, Any]
    best: Trial
    original: Outcome | None
    trials: tuple[tuple[str, Trial], ...]


@dataclass(frozen=True)
class KeptFront:
    """What one search found for several budgets.

    Attributes:
        id: Tells it from others.
        searches: Identities of its searches, the smallest budget first.
        created_utc: When it ended.
    """

    id: str
    searches: tuple[str, ...]
    created_utc: str


@dataclass(frozen=True)
class Contents:
    """Everything the report shows, newest first.

    Attributes:
        measurements: All of them, those of comparisons included.
        comparisons: Of every interleaved pair that was measured to its end.
        tables: The newest of each device.
        searches: Those that came to their end.
        fronts: What searches for several budgets found.
        matrices: Models on devices, those with the newest begin first.
        ceilings: The most that devices can do, as far as it was measured, whenever that was.
    """

    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...]
    tables: tuple[KeptTable, ...]
    searches: tuple[KeptSearch, ...]
    fronts: tuple[KeptFront, ...] = ()
    matrices: tuple[KeptMatrix, ...] = ()
    ceilings: tuple[Ceilings, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to report: ceilings alone say nothing of any model."""
        return not (self.measurements or self.tables or self.searches)

    @property
    def newest_utc(self) -> str:
        """Time of the newest record: it dates the report, so one store gives one page."""
        dates = [record.started_utc for record in self.measurements]
        dates += [stored.table.provenance.created_utc for stored in self.tables]
        dates += [str(search.summary.get("created_utc") or "") for search in self.searches]
        return max(dates, key=parse_utc)


def read(
    store: Store,
    since: str | None = None,
    damaged: MutableSequence[DamagedRecord] | None = None,
) -> Contents:
    """Gather what a store holds.

    Args:
        store: An open store.
        since: Only what was measured from then on: a date (`2026-03-01`, or with a time), or `7d`
            for the last seven days.
        damaged: Where to name records that cannot be read, which are then left out. With None, the
            first one is an error.

    Raises:
        UsageError: `since` is neither, or nothing is left.
        SchemaError: A record is damaged, and `damaged` is None.
    """
    after = EARLIEST if since is None else parse_since(since)
    ids = [summary.id for summary in store.list() if parse_utc(summary.started_utc) >= after]
    measurements = tuple(store.read_measurements(ids, damaged))
    searches = _read_searches(store, after, damaged)
    contents = Contents(
        measurements,
        _read_comparisons(store, measurements, damaged),
        _read_tables(store, after, damaged),
        searches,
        _read_fronts(store, searches, damaged),
        read_matrices(store, {record.id: record for record in measurements}, damaged)[::-1],
        tuple(store.read_records(CEILINGS, parse_ceilings, damaged=damaged).values()),
    )
    if contents.is_empty:
        if since is not None and store.list(limit=1):
            raise UsageError(
                f"nothing to report in {store.url} since {since}",
                Argument("since", change="an earlier"),
            )
        raise UsageError(
            f"nothing to report in {store.url}",
            Call("profile", {"model": DEFAULT_MODEL}, purpose="measure something first"),
        )
    return contents


def _read_comparisons(
    store: Store,
    measurements: Iterable[Measurement],
    damaged: MutableSequence[DamagedRecord] | None,
) -> tuple[Comparison, ...]:
    """Every candidate against the baseline it was interleaved with."""
    orders = store.read_records(COMPARISON, read_order, damaged=damaged)
    kept = {group_id: (order, likeness) for group_id, order, likeness in orders.values()}
    groups: dict[str, list[Measurement]] = {}
    for record in measurements:
        if record.complete and record.series:
            groups.setdefault(record.group_id, []).append(record)
    comparisons = []
    for group_id, records in groups.items():
        order, likeness = kept.get(group_id, (None, None))
        baseline, *candidates = _order_baseline_first(records, order)
        for candidate in candidates:
            try:
                comparisons.append(compare_measured(baseline, candidate, likeness=likeness))
            except FAULTS_OF_DATA as error:
                if damaged is None:
                    raise
                text = f"it cannot be compared with {baseline.id[:12]}: {error}"
                damaged.append(DamagedRecord(MEASUREMENT, candidate.id, text))
    return tuple(comparisons)


def _order_baseline_first(records: list[Measurement], order: list[str] | None) -> list[Measurement]:
    """Records of one group in the order they were given in.

    Where that was not kept, the one with most work comes first.
    """
    if order is not None and {record.id for record in records} <= set(order):
        return sorted(records, key=lambda record: order.index(record.id))
    return sorted(records, key=lambda record: (-(record.macs or 0), -record.params, record.id))


def _read_tables(
    store: Store, after: datetime, damaged: MutableSequence[DamagedRecord] | None
) -> tuple[KeptTable, ...]:
    records = store.read_records(
        VALIDATION, lambda data: (str(data["table"]), data), damaged=damaged
    )
    validations = dict(records.values())
    # Records come oldest first, so the last one of each device stays.
    newest: dict[str, KeptTable] = {}
    tables = store.read_records(TABLE, LookupTable.from_dict, damaged=damaged)
    for table_id, table in tables.items():
        address = table.provenance.device.address
        earlier = newest[address].earlier + 1 if address in newest else 0
        newest[address] = KeptTable(table_id, table, validations.get(table_id, {}), earlier)
    recent = [stored for stored in newest.values() if _date_table(stored) >= after]
    return tuple(sorted(recent, key=_date_table, reverse=True))


def _date_table(stored: KeptTable) -> datetime:
    return parse_utc(stored.table.provenance.created_utc)


def _read_searches(
    store: Store, after: datetime, damaged: MutableSequence[DamagedRecord] | None
) -> tuple[KeptSearch, ...]:
    trials: dict[str, dict[int, list[tuple[str, Trial]]]] = {}
    records = store.read_records(TRIAL, _read_trial, damaged=damaged)
    for key, run, part, trial in records.values():
        trials.setdefault(key, {}).setdefault(run, []).append((part, trial))
    ended = store.read_records(SEARCH, _read_search, damaged=damaged)
    by_key = {str(search.summary.get("search")): search for search in ended.values()}
    searches = []
    for key, search in by_key.items():
        # A search of a version that did not keep its time is in every report, and comes last.
        dated = search.summary.get("created_utc") is not None
        if dated and _date_search(search) < after:
            continue
        runs = trials.get(key, {0: []})
        searches.append(replace(search, trials=tuple(runs[max(runs)])))
    return tuple(sorted(searches, key=_date_search, reverse=True))


def _read_fronts(
    store: Store,
    searches: Iterable[KeptSearch],
    damaged: MutableSequence[DamagedRecord] | None,
) -> tuple[KeptFront, ...]:
    """Fronts all of whose searches are in the report; of those that were repeated, the last."""
    known = {str(search.summary["search"]) for search in searches}
    newest: dict[str, KeptFront] = {}
    for front in store.read_records(FRONT, _read_front, damaged=damaged).values():
        if set(front.searches) <= known:
            newest[front.id] = front
    return tuple(sorted(newest.values(), key=lambda front: front.created_utc, reverse=True))


def _read_front(data: Mapping[str, Any]) -> KeptFront:
    keys = tuple(map(str, data["searches"]))
    if not keys:
        raise SchemaError("a front without searches")
    return KeptFront(sha256("\n".join(keys).encode()).hexdigest(), keys, str(data["created_utc"]))


def _date_search(search: KeptSearch) -> datetime:
    return parse_utc(str(search.summary.get("created_utc")))


def _read_trial(data: Mapping[str, Any]) -> tuple[str, int, str, Trial]:
    """Search, run and part that a trial is of, and the trial."""
    trial = Trial.from_dict(data["trial"])
    return str(data.get("search")), int(data["run"]), str(data["part"]), trial


def _read_search(summary: Mapping[str, Any]) -> KeptSearch:
    """A search without its trials, which are records of their own."""
    try:
        best = Trial.from_dict(summary["best"])
        original = summary.get("original")
        outcome = None if original is None else Outcome(**original)
        return KeptSearch(summary, best, outcome, ())
    except (KeyError, TypeError) as error:
        raise SchemaError(f"damaged record of a search: {error!r}; search anew") from error
