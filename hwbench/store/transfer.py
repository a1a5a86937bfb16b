"""Records from one store into another: compare what both hold, take over what is missing.

Two stores compare digests, taken inside the databases, so that only new records travel. Every
record is checked when it is read, and inserted whole or not at all, under the id it has. So a
transfer that was killed goes on where it stopped, two at once do no harm, and a third brings
nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from hwbench.errors import SchemaError
from hwbench.records.measurement import Measurement
from hwbench.store.database import digest, reading, tables, write
from hwbench.store.rows import (
    dump,
    find_measurement,
    insert_measurement,
    load,
    replace_measurement,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

MEASUREMENT = "measurement"
Key = tuple[str, str]
"""Kind and id of a record; the kind of measurements is `measurement`."""


class Fate(Enum):
    """What became of a record that was offered to a store."""

    NEW = "new"
    UPDATED = "updated"
    KNOWN = "known"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Parcel:
    """One checked record on its way.

    Attributes:
        key: Kind and id.
        content: A measurement, or the data of another record.
        created_utc: ISO 8601 time in UTC.
    """

    key: Key
    content: Measurement | Mapping[str, Any]
    created_utc: str


@dataclass(frozen=True, slots=True)
class Taken:
    """The fate of one record.

    Attributes:
        key: Kind and id.
        fate: What became of it.
        reason: Why it was refused.
    """

    key: Key
    fate: Fate
    reason: str = ""


Check = Callable[[str, Mapping[str, Any]], None]
"""Raises SchemaError where data are no record of a kind."""


def keys(engine: sa.Engine) -> list[Key]:
    """Of all records: measurements first, each kind by id."""
    import sqlalchemy as sa

    measurements, records = tables().measurements, tables().records
    with reading(engine) as connection:
        ids = connection.execute(sa.select(measurements.c.id).order_by(measurements.c.id)).scalars()
        measured = [(MEASUREMENT, record_id) for record_id in ids]
        rows = connection.execute(
            sa.select(records.c.kind, records.c.id).order_by(records.c.kind, records.c.id)
        )
        return measured + [(row.kind, row.id) for row in rows]


def marks(engine: sa.Engine, wanted: Sequence[Key]) -> dict[Key, str]:
    """A digest of the content of each of these records that is there.

    Equal content of one version of hwbench has equal ones.
    """
    with reading(engine) as connection:
        return _marks_of_measurements(connection, _ids(wanted, MEASUREMENT)) | _marks_of_records(
            connection, _ids(wanted)
        )


def read(engine: sa.Engine, wanted: Sequence[Key], check: Check) -> Iterator[Parcel | Taken]:
    """These records, checked; a damaged one is refused with its reason."""
    import sqlalchemy as sa

    records = tables().records
    with reading(engine) as connection:
        for record_id in _ids(wanted, MEASUREMENT):
            key = (MEASUREMENT, record_id)
            try:
                measurement = find_measurement(connection, record_id)
                if measurement is not None:
                    _check_measurement(measurement, record_id)
                    yield Parcel(key, measurement, measurement.started_utc)
            except SchemaError as error:
                yield Taken(key, Fate.REFUSED, str(error))
        for row in connection.execute(
            sa.select(records).where(records.c.id.in_(_ids(wanted))).order_by(records.c.id)
        ):
            key = (row.kind, row.id)
            try:
                data = load(row.record, f"{row.kind} {row.id}")
                check(row.kind, data)
                _check_time(row.created_utc)
                yield Parcel(key, data, row.created_utc)
            except SchemaError as error:
                yield Taken(key, Fate.REFUSED, str(error))


def take(engine: sa.Engine, parcels: Sequence[Parcel]) -> list[Taken]:
    """Insert new records, each measurement in a transaction of its own, all others in one.

    An unfinished measurement is replaced by one that got further. A record that is there with other
    content is refused.

    Raises:
        HwbenchError: The database failed; what was taken before stays.
    """
    others = [parcel for parcel in parcels if not isinstance(parcel.content, Measurement)]
    taken = []
    for parcel in parcels:
        if isinstance(parcel.content, Measurement):
            take_one = partial(_take_measurement, key=parcel.key, offered=parcel.content)
            taken.append(write(engine, take_one))
    if others:
        taken += write(engine, partial(_take_records, parcels=others))
    return taken


def _take_measurement(connection: sa.Connection, key: Key, offered: Measurement) -> Taken:
    try:
        held = find_measurement(connection, offered.id, lock=True)
    except SchemaError as error:
        return Taken(key, Fate.REFUSED, f"the one that is there cannot be read: {error}")
    if held is None:
        # Where another process is first, this is refused and the work done again.
        insert_measurement(connection, offered)
        return Taken(key, Fate.NEW)
    if held == offered or _is_further(held, offered):
        return Taken(key, Fate.KNOWN)
    if not _is_further(offered, held):
        return Taken(key, Fate.REFUSED, "another measurement with this id is there")
    replace_measurement(connection, offered)
    return Taken(key, Fate.UPDATED)


def _is_further(later: Measurement, earlier: Measurement) -> bool:
    """Whether `later` is a later state of the unfinished measurement `earlier`."""
    if earlier.complete or later.device.target_id != earlier.device.target_id:
        return False
    for name in ("group_id", "model_sha256", "started_utc", "settings"):
        if getattr(later, name) != getattr(earlier, name):
            return False
    samples = len(later.series) + len(later.warm_up)
    return later.complete or samples >= len(earlier.series) + len(earlier.warm_up)


def insert_records(connection: sa.Connection, parcels: Sequence[Parcel]) -> None:
    """Insert records of other kinds, none of which is there."""
    import sqlalchemy as sa

    rows = [
        {
            "id": parcel.key[1],
            "kind": parcel.key[0],
            "created_utc": parcel.created_utc,
            "record": dump(parcel.content),
        }
        for parcel in parcels
        if not isinstance(parcel.content, Measurement)
    ]
    if rows:
        connection.execute(sa.insert(tables().records), rows)


def _take_records(connection: sa.Connection, parcels: Sequence[Parcel]) -> list[Taken]:
    import sqlalchemy as sa

    records = tables().records
    query = sa.select(records).where(records.c.id.in_([parcel.key[1] for parcel in parcels]))
    held = {row.id: row for row in connection.execute(query)}
    insert_records(connection, [parcel for parcel in parcels if parcel.key[1] not in held])
    return [_fate(parcel, held.get(parcel.key[1])) for parcel in parcels]


def _fate(parcel: Parcel, held: Any) -> Taken:
    if held is None:
        return Taken(parcel.key, Fate.NEW)
    try:
        content = load(held.record, "it")
    except SchemaError as error:
        return Taken(parcel.key, Fate.REFUSED, f"the one that is there cannot be read: {error}")
    if (held.kind, held.created_utc, content) == (
        parcel.key[0],
        parcel.created_utc,
        parcel.content,
    ):
        return Taken(parcel.key, Fate.KNOWN)
    return Taken(parcel.key, Fate.REFUSED, "another record with this id is there")


def _ids(wanted: Sequence[Key], kind: str | None = None) -> list[str]:
    """Ids of measurements, or of everything else."""
    return [record_id for of, record_id in wanted if (of == MEASUREMENT) == (kind == MEASUREMENT)]


def _check_measurement(measurement: Measurement, record_id: str) -> None:
    """Check beyond `Measurement.from_dict`: the row is of this record, warm-up and time sound.

    Raises:
        SchemaError: They are not.
    """
    if measurement.id != record_id:
        raise SchemaError(
            f"measurement {record_id} is damaged: its record is of {measurement.id!r}"
        )
    if not all(0 < sample_s < float("inf") for sample_s in measurement.warm_up.samples_s):
        raise SchemaError(
            f"measurement {record_id} is damaged: a warm-up sample is not a positive finite number"
            " of seconds"
        )
    _check_time(measurement.started_utc)


def _check_time(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"its time {text!r} is none in ISO 8601") from error


def _marks_of_measurements(connection: sa.Connection, ids: Sequence[str]) -> dict[Key, str]:
    import sqlalchemy as sa

    measurements, samples, engine = tables().measurements, tables().samples, connection.engine
    rows = sa.select(
        measurements.c.id,
        measurements.c.complete,
        digest(engine, measurements.c.record).label("record"),
    )
    facts = {
        row.id: [row.complete, row.record]
        for row in connection.execute(rows.where(measurements.c.id.in_(ids)))
    }
    batches = sa.select(
        samples.c.measurement_id,
        samples.c.session,
        samples.c.count.label("size"),
        digest(engine, samples.c.values_s).label("values_digest"),
        digest(engine, samples.c.blocks).label("blocks_digest"),
    )
    for row in connection.execute(
        batches.where(samples.c.measurement_id.in_(ids)).order_by(samples.c.number)
    ):
        facts[row.measurement_id] += [row.session, row.size, row.values_digest, row.blocks_digest]
    return {
        (MEASUREMENT, record_id): sha256(repr(own).encode()).hexdigest()
        for record_id, own in facts.items()
    }


def _marks_of_records(connection: sa.Connection, ids: Sequence[str]) -> dict[Key, str]:
    import sqlalchemy as sa

    records = tables().records
    columns = (
        records.c.id,
        records.c.kind,
        records.c.created_utc,
        digest(connection.engine, records.c.record).label("record"),
    )
    rows = connection.execute(sa.select(*columns).where(records.c.id.in_(ids)))
    return {(row.kind, row.id): f"{row.created_utc} {row.record}" for row in rows}
