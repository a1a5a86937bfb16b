"""Tables in the store, and whether one is valid for a device."""

from __future__ import annotations

from hwbench.errors import StaleTableError, UsageError
from hwbench.lookup_tables.table import LookupTable
from hwbench.measurement import DeviceInfo
from hwbench.store import Store

RECORD = "lookup_table"


def save_table(store: Store, table: LookupTable) -> str:
    """Keep a table.

    Returns:
        Its new id.
    """
    return store.save_record(RECORD, table.to_dict())


def find_table(store: Store, wanted: str) -> LookupTable:
    """The newest table of a device, or the one whose id begins with `wanted`.

    Args:
        store: Where to look.
        wanted: Address of a device (`cpu`), or the beginning of an id.

    Raises:
        UsageError: There is none, or several ids begin so.
        SchemaError: The record is damaged.
    """
    records = store.records(RECORD)
    by_id = [data for record_id, data in records.items() if record_id.startswith(wanted)]
    of_device = [data for data in records.values() if _address(data) == wanted]
    if of_device:
        return LookupTable.from_dict(of_device[-1])
    if len(by_id) != 1:
        what = f"{len(by_id)} lookup tables begin" if by_id else "no lookup table of a device, and none whose id begins"
        raise UsageError(f"{what} with {wanted!r} in {store.url}; make one: hwbench table build MODEL --device ADDRESS")
    return LookupTable.from_dict(by_id[0])


def _address(data: dict[str, object]) -> object:
    value: object = data
    for name in ("metadata", "provenance", "device", "address"):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def check(table: LookupTable, info: DeviceInfo, threads: int) -> None:
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
                f"the table was made for {what} {then!r}, but this is {now!r}; build one: "
                f"hwbench table build MODEL --device {info.address}"
            )
