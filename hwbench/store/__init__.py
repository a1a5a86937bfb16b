"""Every record, durable: measurements with all raw samples, and other records as JSON.

The store is a SQLite file (WAL mode), or a PostgreSQL database that several hosts share. Samples
are written batch by batch while a measurement runs, each batch in a transaction of its own: a
killed process loses at most the last tenth of a second, and leaves a readable record with
`complete=False`. Several processes may write at once; a writer waits for the other's transaction.
What a shared store does not take, because its server went away, goes into the local one (`rescue`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO, TypeVar
from uuid import uuid4

from hwbench.errors import Call, SchemaError, StoreLostError, UsageError
from hwbench.records.measurement import Measurement
from hwbench.records.series import Series
from hwbench.records.whole_files import whole_file
from hwbench.store import transfer
from hwbench.store.address import is_file, local_address, redacted, without_secrets
from hwbench.store.database import open_engine, reading, tables, write
from hwbench.store.rescue import Rescue
from hwbench.store.rows import (
    FAULTS_OF_DATA,
    DamagedRecord,
    batches,
    delete_measurements,
    dump,
    find_measurement,
    latency_of_batches,
    load,
    plain,
    read_as,
    replace_measurement,
)
from hwbench.store.transfer import MEASUREMENT, Check, Fate, Key, Parcel, Taken

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = [
    "FAULTS_OF_DATA",
    "MEASUREMENT",
    "Check",
    "DamagedRecord",
    "Fate",
    "Key",
    "Parcel",
    "Store",
    "Summary",
    "Taken",
    "local_address",
    "open_store",
    "read_as",
    "redacted",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Summary:
    """One stored measurement in a list.

    Attributes:
        id: Unique name; `Store.get` takes a prefix.
        model: As the user gave it.
        model_sha256: Identity of the ONNX model.
        device: Address of the device.
        target: The hardware, for people.
        started_utc: ISO 8601 time in UTC.
        samples: Number of timed samples.
        complete: False for a measurement that is running or was killed.
    """

    id: str
    model: str
    model_sha256: str
    device: str
    target: str
    started_utc: str
    samples: int
    complete: bool


def open_store(address: str | None = None, *, create: bool = True) -> Store:
    """Open a store.

    Args:
        address: Path of a SQLite file, or URL of one or of a PostgreSQL database; else
            `$HWBENCH_STORE`; else a file in the user's data folder.
        create: Whether to make one where there is none.

    Raises:
        UsageError: The address is no such URL, is a folder, or cannot be read and written; or there
            is no store.
        StoreUnavailableError: The server cannot be reached.
        SchemaError: What is there is damaged, of another schema or not a store; it is left
            untouched.
    """
    return Store(open_engine(address, create=create))


class Store:
    """An open store, from `open_store`; a context manager.

    It may be used from several threads, but not across a fork.

    Every method raises `StoreUnavailableError` where the server went away (`StoreLostError` where
    the file was deleted or replaced), `UsageError` where the database cannot be read or written
    otherwise, and `SchemaError` where it is damaged. Whatever was being written is then not in it
    at all; what a shared store did not take is in the local one, as a note of the error says.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._tables = tables()
        self._rescue = None if is_file(engine.url) else Rescue(self.url, open_store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the store is, without a password."""
        return without_secrets(self._engine.url)

    def close(self) -> None:
        """Give the connections back; the records are safe without it."""
        self._engine.dispose()

    def save(self, measurement: Measurement) -> None:
        """Insert a measurement, or replace the one of the same id, in one transaction."""
        self._put(measurement, last=True)

    def begin(self, measurement: Measurement) -> None:
        """Save a measurement whose samples are still to come (`append`).

        It stays `complete=False` until `finish`.
        """
        self._put(replace(measurement, complete=False), last=False)

    def finish(self, measurement: Measurement) -> None:
        """Replace what was begun by the whole record."""
        self._put(replace(measurement, complete=True), last=True)

    def append(
        self,
        measurement_id: str,
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int] = (),
        *,
        warm_up: bool = False,
    ) -> None:
        """Add samples of one session to a measurement that was begun.

        Args:
            measurement_id: Whole id.
            session: Number of the session.
            samples_s: Seconds, in order.
            blocks: Block number of each sample; ignored for warm-up.
            warm_up: Whether they are warm-up rounds.

        Raises:
            UsageError: No measurement has this id, or samples and blocks differ in number.
        """
        import sqlalchemy as sa

        if not warm_up and len(samples_s) != len(blocks):
            raise UsageError(
                f"{len(samples_s)} samples came with {len(blocks)} block numbers; give one for each"
                " sample"
            )
        sessions = (session,) * len(samples_s)
        series = Series(tuple(samples_s), sessions, () if warm_up else tuple(blocks))
        rows = [{"measurement_id": measurement_id, **batch} for batch in batches(series)]
        known = sa.select(self._tables.measurements.c.id).where(
            self._tables.measurements.c.id == measurement_id
        )

        def work(connection: sa.Connection) -> None:
            if connection.execute(known.with_for_update(read=True)).first() is None:
                raise UsageError(
                    f"no measurement {measurement_id!r} to append to in {self.url}; begin it first"
                )
            if rows:
                connection.execute(sa.insert(self._tables.samples), rows)

        samples_s, blocks = tuple(samples_s), tuple(blocks)
        self._write(
            work,
            measurement_id,
            lambda local: local.append(measurement_id, session, samples_s, blocks, warm_up=warm_up),
        )

    def withdraw(self, measurement_id: str, session: int) -> None:
        """Turn the timed samples of one session into warm-up.

        The session is going to be repeated.
        """
        import sqlalchemy as sa

        samples = self._tables.samples
        changed = sa.update(samples).where(
            samples.c.measurement_id == measurement_id, samples.c.session == session
        )

        def work(connection: sa.Connection) -> None:
            connection.execute(changed.values(blocks=None))

        self._write(work, measurement_id, lambda local: local.withdraw(measurement_id, session))

    def get(self, prefix: str) -> Measurement:
        """The measurement whose id is, or alone begins with, `prefix`.

        Raises:
            UsageError: There is none, or several.
            SchemaError: The record is damaged, or of a schema this version does not read.
        """
        import sqlalchemy as sa

        ids, prefix = self._tables.measurements.c.id, plain(prefix)
        with reading(self._engine) as connection:
            following = connection.execute(
                sa.select(ids).where(ids >= prefix).order_by(ids).limit(2)
            ).scalars()
            found = [record_id for record_id in following if record_id.startswith(prefix)]
            clear = len(found) == 1 or prefix in found
            measurement = find_measurement(connection, found[0]) if clear else None
        if measurement is None:
            what = (
                f"{found[0][:12]}, {found[1][:12]}, ... all begin"
                if found
                else "no measurement begins"
            )
            raise UsageError(
                f"{what} with {prefix!r} in {self.url}",
                Call("open_store().list", purpose="see"),
            )
        return measurement

    def list(
        self, model: str | None = None, device: str | None = None, limit: int | None = None
    ) -> tuple[Summary, ...]:
        """Stored measurements, newest first; of one model (name or SHA-256) or device only."""
        import sqlalchemy as sa

        table, samples = self._tables.measurements, self._tables.samples
        count = sa.select(sa.func.coalesce(sa.func.sum(samples.c.count), 0)).where(
            samples.c.measurement_id == table.c.id, samples.c.blocks.is_not(None)
        )
        columns = [table.c[name] for name in Summary.__dataclass_fields__ if name != "samples"]
        query = sa.select(*columns, count.scalar_subquery().label("samples"))
        if model is not None:
            query = query.where(
                sa.or_(table.c.model == plain(model), table.c.model_sha256 == plain(model))
            )
        if device is not None:
            query = query.where(table.c.device == plain(device))
        with reading(self._engine) as connection:
            rows = connection.execute(
                query.order_by(table.c.started_utc.desc(), table.c.id).limit(limit)
            ).all()
        return tuple(_summary(row._asdict()) for row in rows)

    def latencies_s(self, ids: Iterable[str]) -> dict[str, float]:
        """Latency of each of these measurements that has samples, seconds, by its id."""
        import sqlalchemy as sa

        samples = self._tables.samples
        columns = (samples.c.session, samples.c.values_s)
        latencies_s: dict[str, float] = {}
        with reading(self._engine) as connection:
            for measurement_id in ids:
                query = sa.select(*columns).where(
                    samples.c.measurement_id == measurement_id, samples.c.blocks.is_not(None)
                )
                latency_s = latency_of_batches(connection.execute(query).all())
                if latency_s is not None:
                    latencies_s[measurement_id] = latency_s
        return latencies_s

    def delete(self, ids: Sequence[str]) -> int:
        """Delete measurements, with their samples and the comparisons that they were part of.

        Args:
            ids: Whole ids.

        Returns:
            The number of measurements that are gone; those that were not there do not count.
        """
        return write(self._engine, partial(delete_measurements, ids=ids))

    def save_record(self, kind: str, data: Mapping[str, Any]) -> str:
        """Keep a record of another kind (`comparison`) as JSON.

        Returns:
            Its new id.
        """
        parcel = Parcel((kind, uuid4().hex), dict(data), datetime.now(UTC).isoformat())
        work = partial(transfer.insert_records, parcels=[parcel])
        self._write(work, parcel.key[1], lambda local: local.take([parcel]), whole=True, last=True)
        return parcel.key[1]

    def records(
        self, kind: str, holding: str = "", damaged: MutableSequence[DamagedRecord] | None = None
    ) -> dict[str, dict[str, Any]]:
        """All records of one kind by id, oldest first, as they were saved.

        Args:
            kind: As they were saved.
            holding: As for `read_records`.
            damaged: As for `read_records`.

        Raises:
            SchemaError: A record is damaged, and `damaged` is None.
        """
        return self.read_records(kind, dict, holding, damaged)

    def read_records(
        self,
        kind: str,
        reader: Callable[[Mapping[str, Any]], T],
        holding: str = "",
        damaged: MutableSequence[DamagedRecord] | None = None,
    ) -> dict[str, T]:
        """What a reader makes of all records of one kind, by id, oldest first.

        Args:
            kind: As they were saved.
            reader: Makes something of the data of a record.
            holding: Only those in whose text this stands somewhere, such as the identity that they
                belong to; a shared store has those of many searches and tables, and all the others
                would travel in vain.
            damaged: Where to name records that cannot be read; the others are returned without
                them. With None, the first one is an error.

        Raises:
            SchemaError: A record is damaged, and `damaged` is None.
        """
        import sqlalchemy as sa

        table = self._tables.records
        query = (
            sa.select(table.c.id, table.c.record)
            .where(table.c.kind == kind)
            .order_by(table.c.created_utc, table.c.id)
        )
        if holding:
            query = query.where(table.c.record.contains(holding, autoescape=True))
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        records: dict[str, T] = {}
        for row in rows:
            what = f"{kind} {row.id} in {self.url}"
            try:
                records[row.id] = read_as(reader, load(row.record, what), what)
            except SchemaError as error:
                if damaged is None:
                    raise
                damaged.append(DamagedRecord(kind, str(row.id), str(error)))
        return records

    def read_measurements(
        self, ids: Iterable[str], damaged: MutableSequence[DamagedRecord] | None = None
    ) -> Iterator[Measurement]:
        """The measurements with these ids, one after the other.

        Args:
            ids: Whole ids.
            damaged: Where to name measurements that cannot be read, which are then left out. With
                None, the first one is an error.

        Raises:
            SchemaError: A measurement is damaged, and `damaged` is None.
        """
        for measurement_id in ids:
            try:
                yield self.get(measurement_id)
            except SchemaError as error:
                if damaged is None:
                    raise
                damaged.append(DamagedRecord(MEASUREMENT, measurement_id, str(error)))

    def export(
        self, target: Path | TextIO, damaged: MutableSequence[DamagedRecord] | None = None
    ) -> int:
        """Write everything as JSON lines `{"kind": .., "id": .., "record": ..}`, raw samples too.

        A path appears only when it is complete.

        Args:
            target: The file.
            damaged: Where to name records that cannot be read, which are then left out. With None,
                the first one is an error.

        Returns:
            Number of lines.

        Raises:
            UsageError: The file cannot be written.
            SchemaError: A record is damaged, and `damaged` is None.
        """
        if not isinstance(target, Path):
            return self._export(target, damaged)
        try:
            with whole_file(target) as file, io.TextIOWrapper(file, "utf-8") as text:
                lines = self._export(text, damaged)
        except OSError as error:
            raise UsageError(
                f"cannot write the export to {target}: {error.strerror or error}"
            ) from error
        return lines

    def _export(self, file: TextIO, damaged: MutableSequence[DamagedRecord] | None) -> int:
        lines = 0
        for kind, record_id, record in self._everything(damaged):
            file.write(dump({"kind": kind, "id": record_id, "record": record}) + "\n")
            lines += 1
        return lines

    def _everything(
        self, damaged: MutableSequence[DamagedRecord] | None
    ) -> Iterator[tuple[str, str, dict[str, Any]]]:
        import sqlalchemy as sa

        ids = [summary.id for summary in reversed(self.list())]
        for measurement in self.read_measurements(ids, damaged):
            yield MEASUREMENT, measurement.id, measurement.to_dict()
        with reading(self._engine) as connection:
            kinds = (
                connection.execute(sa.select(self._tables.records.c.kind).distinct())
                .scalars()
                .all()
            )
        for kind in sorted(kinds):
            for record_id, record in self.records(kind, damaged=damaged).items():
                yield kind, record_id, record

    def keys(self) -> Sequence[Key]:
        """Kind and id of every record: measurements first, each kind by id."""
        return transfer.keys(self._engine)

    def marks(self, wanted: Sequence[Key]) -> dict[Key, str]:
        """A digest of the content of each of these records that is there, taken in the database.

        Two stores whose digests are equal hold the same; unequal ones may, if different versions of
        hwbench wrote them.
        """
        return transfer.marks(self._engine, wanted)

    def read(self, wanted: Sequence[Key], check: Check) -> Iterator[Parcel | Taken]:
        """These records, ready for `take` of another store.

        Args:
            wanted: Kinds and ids.
            check: Raises SchemaError where the data of a record of a kind cannot be believed;
                measurements are checked anyway.

        Returns:
            Each record, or in place of one that is damaged why it is refused.
        """
        return transfer.read(self._engine, wanted, check)

    def take(self, parcels: Sequence[Parcel]) -> Sequence[Taken]:
        """Insert records of another store that are new here; see `transfer.take`."""
        return transfer.take(self._engine, parcels)

    def _put(self, measurement: Measurement, *, last: bool) -> None:
        work = partial(replace_measurement, measurement=measurement)
        self._write(
            work, measurement.id, lambda local: local.save(measurement), whole=True, last=last
        )

    def _write(
        self,
        work: Callable[[sa.Connection], T],
        record_id: str,
        step: Callable[[Store], object],
        *,
        whole: bool = False,
        last: bool = False,
    ) -> T:
        """Write in one transaction.

        `step` does it in the local store, should the database fail (`Rescue.attempt`).
        """
        writing = partial(write, self._engine, work)
        if self._rescue is not None:
            return self._rescue.attempt(writing, record_id, step, whole=whole, last=last)
        try:
            return writing()
        except StoreLostError as error:
            error.add_note(f"record {record_id[:12]} is not kept")
            raise


def _summary(row: Mapping[str, Any]) -> Summary:
    """A row of a list. SQLite keeps any type in any column, and lists show what is there."""
    texts = {name: str(value) for name, value in row.items() if name not in {"samples", "complete"}}
    return Summary(**texts, samples=int(row["samples"]), complete=bool(row["complete"]))
