"""`hwbench store sync`: bring the records of one store into another, such as the team's."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hwbench.errors import Argument, UsageError
from hwbench.lookup_tables import repository
from hwbench.lookup_tables.making import journal as making_journal
from hwbench.records.ceilings import RECORD as CEILINGS
from hwbench.store import (
    Fate,
    Key,
    Parcel,
    Store,
    Taken,
    local_address,
    open_store,
    read_as,
)
from hwbench.workflows.ceilings import parse_ceilings
from hwbench.workflows.search import journal as search_journal
from hwbench.workflows.search import subject

BATCH = 32
"""Records that travel at once: a killed transfer loses no more."""


@dataclass(frozen=True, slots=True)
class Syncing:
    """How far a transfer is.

    Attributes:
        done: Records looked at.
        total: Records of the source.
        new: Records brought so far.
    """

    done: int
    total: int
    new: int


@dataclass(slots=True)
class Synced:
    """What a transfer did.

    Attributes:
        source: URL of the store that records came from, without secrets.
        target: URL of the one they went to.
        new: Number of records that were not there, by kind.
        updated: Number of unfinished measurements that were replaced by a later state.
        known: Number of records that were there already.
        refused: Records that were left out, and why: damaged ones, and those whose id is taken by
            other content.
    """

    source: str
    target: str
    new: Counter[str] = field(default_factory=Counter)
    updated: int = 0
    known: int = 0
    refused: list[Taken] = field(default_factory=list)

    def note(self, taken: Taken) -> None:
        """Count the fate of one record."""
        match taken.fate:
            case Fate.NEW:
                self.new[taken.key[0]] += 1
            case Fate.UPDATED:
                self.updated += 1
            case Fate.KNOWN:
                self.known += 1
            case Fate.REFUSED:
                self.refused.append(taken)


def sync_store(
    target: str | None = None,
    source: str | None = None,
    *,
    callback: Callable[[Syncing], None] | None = None,
) -> Synced:
    """Bring all records of one store into another that are not there yet.

    It may be killed and repeated, and several may run at once. Records keep their ids; nothing is
    changed in the source.

    Args:
        target: URL or path of the store to bring them to; None for `$HWBENCH_STORE`.
        source: URL or path of the store they come from; None for the one of this computer.
        callback: Called after every few records.

    Raises:
        UsageError: Both are one store, there is no source, or a store cannot be read or written.
        StoreUnavailableError: A server went away; what was brought before stays, and the same call
            goes on from there.
        SchemaError: A store is damaged or of another schema.
    """
    with open_store(source or local_address(), create=False) as ours, open_store(target) as theirs:
        if ours.url == theirs.url:
            raise UsageError(
                f"{ours.url} is both source and target; set HWBENCH_STORE to the shared store",
                Argument("target", purpose="name the shared store"),
            )
        done, wanted = Synced(ours.url, theirs.url), ours.keys()
        for start in range(0, len(wanted), BATCH):
            part = wanted[start : start + BATCH]
            for taken in _transfer(ours, theirs, part):
                done.note(taken)
            if callback is not None:
                callback(Syncing(start + len(part), len(wanted), done.new.total()))
        return done


def _transfer(ours: Store, theirs: Store, keys: Sequence[Key]) -> list[Taken]:
    """Bring those of these records that differ; says what became of each."""
    our_marks, their_marks = ours.marks(keys), theirs.marks(keys)
    changed, taken = [], []
    for key in keys:
        if our_marks.get(key) == their_marks.get(key):
            taken.append(Taken(key, Fate.KNOWN))
        else:
            changed.append(key)
    parcels = []
    for record in ours.read(changed, _check) if changed else ():
        if isinstance(record, Parcel):
            parcels.append(record)
        else:
            taken.append(record)
    return [*taken, *theirs.take(parcels)]


def _check(kind: str, data: Mapping[str, Any]) -> None:
    """Read a record as whoever will use it; a kind that nothing here reads is only JSON."""
    reader = _readers().get(kind)
    if reader is None:
        return
    read_as(reader, data, kind)


@cache
def _readers() -> dict[str, Callable[[Mapping[str, Any]], object]]:
    from hwbench.lookup_tables import LookupTable
    from hwbench.lookup_tables.exchange.foreign_network import ForeignNetwork
    from hwbench.lookup_tables.making.networks import NetworkSample
    from hwbench.search.base import Trial

    return {
        CEILINGS: parse_ceilings,
        repository.RECORD: LookupTable.from_dict,
        repository.NETWORK: lambda data: ForeignNetwork.from_dict(data["network"]),
        making_journal.RECORD: lambda data: (
            None if data.get("forget") else NetworkSample.from_dict(data)
        ),
        search_journal.RECORD: lambda data: (
            Trial.from_dict(data["trial"]),
            int(data["run"]),
            float(data["elapsed_s"]),
        ),
        subject.RECORD: lambda data: (data["key"], base64.b64decode(data["state"], validate=True)),
    }
