"""Tables in the store and those that hwbench brings along; whether one is valid for a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from difflib import get_close_matches
from typing import Any

from hwbench.errors import Argument, Call, SchemaError, StaleTableError, UsageError
from hwbench.lookup_tables.exchange.foreign_network import ForeignNetwork
from hwbench.lookup_tables.exchange.foreign_table import table_of
from hwbench.lookup_tables.exchange.shipped import NETWORKS, SHIPPED
from hwbench.lookup_tables.making.validate import Validation
from hwbench.lookup_tables.table import LookupTable
from hwbench.records.device import DeviceInfo
from hwbench.store import DamagedRecord, Store, read_as

RECORD = "lookup_table"
VALIDATION = "table_validation"
NETWORK = "foreign_network"


def save_table(store: Store, table: LookupTable, validation: Validation | None = None) -> str:
    """Keep a table, and the held-out networks of its newest grade if there were any.

    Returns:
        Its new id.
    """
    table_id = store.save_record(RECORD, table.to_dict())
    if validation is not None:
        networks = [
            {
                "widths": trial.widths,
                "predicted_s": trial.prediction.latency_s,
                "predicted_ci_s": trial.prediction.ci_s,
                "sessions_s": trial.sessions_s,
            }
            for trial in validation.trials
        ]
        facts = {
            "table": table_id,
            "model": validation.model,
            "drift": validation.drift,
            "networks": networks,
        }
        store.save_record(VALIDATION, facts)
    return table_id


def find_table(store: Store, wanted: str, target_id: str | None = None) -> LookupTable:
    """Find a table by its device, its name or its id.

    That is the newest table of a device or of a name, the one whose id begins with `wanted`, or one
    that hwbench brings along.

    Args:
        store: Where to look.
        wanted: Address of a device (`cpu`), name of an imported table, beginning of an id, or
            `pixel1`.
        target_id: Of the device at that address here, where it is opened: a shared store holds
            tables of every host's `cpu`.

    Raises:
        UsageError: There is none, several ids begin so, or several devices have that address and no
            `target_id` tells them apart.
        SchemaError: The record is damaged.
    """
    damaged: list[DamagedRecord] = []
    records = store.records(RECORD, damaged=damaged)
    by_id = {record_id: data for record_id, data in records.items() if record_id.startswith(wanted)}
    of_device = {
        record_id: data
        for record_id, data in records.items()
        if _device(data).get("address") == wanted
    }
    if of_device:
        return _newest(store, wanted, of_device, target_id)
    if not by_id and wanted in SHIPPED:
        return SHIPPED[wanted]()
    for record in damaged:
        if not by_id and record.id.startswith(wanted):
            raise SchemaError(record.reason)
    if len(by_id) > 1:
        raise UsageError(
            f"{len(by_id)} lookup tables have ids that begin with {wanted!r} in {store.url}",
            Call("list_tables", purpose="see"),
        )
    if not by_id:
        raise _no_table(store, wanted, records.values())
    ((record_id, data),) = by_id.items()
    return _table_of_record(store, record_id, data)


def list_tables(
    store: Store, damaged: MutableSequence[DamagedRecord] | None = None
) -> dict[str, LookupTable]:
    """All tables of a store by id, oldest first, then those that hwbench brings along.

    The latter go by name, and only where none of the store hides them.

    Args:
        store: Where they are.
        damaged: Where to name records that cannot be read, which are then left out. With None, the
            first one is an error.

    Raises:
        SchemaError: A record is damaged, and `damaged` is None.
    """
    kept = store.read_records(RECORD, LookupTable.from_dict, damaged=damaged)
    names = {table.provenance.device.address for table in kept.values()}
    return kept | {name: make() for name, make in SHIPPED.items() if name not in names}


def add_networks(store: Store | None, name: str, networks: Sequence[ForeignNetwork]) -> LookupTable:
    """The table of all networks under a name, with these among them.

    One given before is not counted twice.

    All are those that hwbench brings along, those that were imported earlier, and these.

    Args:
        store: Where the earlier ones are and these are kept; None for these alone.
        name: Name of the table.
        networks: What was read.

    Raises:
        UsageError: They were measured on something else than the earlier ones.
        SchemaError: A record is damaged.
    """
    known = list(NETWORKS[name]()) if name in NETWORKS else []
    note = SHIPPED[name]().provenance.note if known else ""
    if store is None:
        return table_of(
            [*known, *(network for network in networks if network not in known)], name, note=note
        )
    # A record that names no table, or nothing at all, belongs to none that could miss it.
    others: list[DamagedRecord] = []
    for record_id, data in store.records(NETWORK, damaged=others).items():
        if data.get("name") == name:
            what = f"{NETWORK} {record_id} in {store.url}"
            known.append(
                read_as(lambda data: ForeignNetwork.from_dict(data["network"]), data, what)
            )
    tables = store.records(RECORD, damaged=others).values()
    if not known and any(_device(data).get("address") == name for data in tables):
        raise UsageError(
            f"the table {name!r} was not made of imported networks, so none can be added to it",
            Argument("name", change="another"),
        )
    new = [network for network in networks if network not in known]
    table = table_of([*known, *new], name, note=note)
    table.check_usable()
    for network in new:
        store.save_record(NETWORK, {"name": name, "network": network.to_dict()})
    return table


def _newest(
    store: Store, address: str, tables: Mapping[str, Mapping[str, Any]], target_id: str | None
) -> LookupTable:
    """The newest of the tables of one address that are of one device."""
    newest = {str(_device(data).get("target_id")): record_id for record_id, data in tables.items()}
    if len(newest) > 1 and target_id not in newest:
        ids = ", ".join(
            f"{record_id[:12]} ({_device(tables[record_id]).get('target')})"
            for record_id in newest.values()
        )
        raise UsageError(
            f"{store.url} holds tables of {len(newest)} devices with the address {address!r}:"
            f" {ids}; name one by its id"
        )
    table_id = newest.get(str(target_id), next(reversed(newest.values())))
    return _table_of_record(store, table_id, tables[table_id])


def _no_table(store: Store, wanted: str, records: Iterable[Mapping[str, Any]]) -> UsageError:
    """That there is no such table, and which one may have been meant."""
    names = {str(_device(data).get("address")) for data in records} | set(SHIPPED)
    similar = get_close_matches(wanted, sorted(names), n=1)
    if similar:
        return UsageError(
            f"no lookup table {wanted!r} in {store.url}, but there is {similar[0]!r}",
            Call("list_tables", purpose="see"),
        )
    return UsageError(
        f"no lookup table {wanted!r} in {store.url}",
        Call("list_tables", purpose="see"),
        Call("build_table", {"model": None, "device": None}, purpose="make one"),
    )


def _table_of_record(store: Store, table_id: str, data: Mapping[str, Any]) -> LookupTable:
    return read_as(LookupTable.from_dict, data, f"{RECORD} {table_id} in {store.url}")


def _device(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The device that a record of a table names; empty in a damaged one."""
    value: Any = data
    for name in ("metadata", "provenance", "device"):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def check_table(table: LookupTable, info: DeviceInfo, threads: int) -> None:
    """Refuse a table that was made for something else.

    Raises:
        StaleTableError: Device, runtime or number of threads differ.
    """
    made = table.provenance
    facts = (
        ("device", made.device.target_id, info.target_id),
        ("runtime", made.device.runtime, info.runtime),
        ("number of threads", str(made.threads), str(threads)),
    )
    for what, then, now in facts:
        if then != now:
            raise StaleTableError(
                f"the table was made for {what} {then!r}, but this is {now!r}",
                Call("build_table", {"model": None, "device": info.address}, purpose="build one"),
            )
