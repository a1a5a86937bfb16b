"""Every record, durable: measurements with all their raw samples, and other records (comparisons) as JSON.

The store is a SQLite file (WAL mode), or any other database that SQLAlchemy reaches. Samples are written batch by batch while
a measurement runs, each batch in a transaction of its own: a killed process loses at most the last tenth of a second, and
leaves a readable record with `complete=False`. Several processes may write at once; a writer waits for the other's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO
from uuid import uuid4

import numpy as np

from hwbench.errors import SchemaError, UsageError
from hwbench.measurement import Measurement
from hwbench.store.database import open_engine, tables, transaction

if TYPE_CHECKING:
    import sqlalchemy as sa


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


def open_store(address: str | None = None) -> Store:
    """Open a store, creating it where there is none.

    Args:
        address: SQLAlchemy URL or path of a SQLite file; else `$HWBENCH_STORE`; else a file in the user's data folder.

    Raises:
        UsageError: The address is no such URL, is a folder, or cannot be read and written.
        SchemaError: What is there is damaged, of a newer schema or not a store; it is left untouched.
    """
    return Store(open_engine(address))


class Store:
    """An open store, from `open_store`; a context manager.

    Every method raises `UsageError` where the database cannot be reached or written, and `SchemaError` where it is damaged.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._tables = tables()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where the store is, without a password."""
        return self._engine.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Give the connections back; the records are safe without it."""
        self._engine.dispose()

    def save(self, measurement: Measurement) -> None:
        """Insert a measurement, or replace the one of the same id, in one transaction."""
        import sqlalchemy as sa

        data = measurement.to_dict()
        series = {name: data.pop(name) for name in ("samples_s", "session", "block", "warmup_s", "warmup_session")}
        warm_up = _batches(series["warmup_session"], series["warmup_s"], None)
        timed = _batches(series["session"], series["samples_s"], series["block"])
        measurements, samples = self._tables.measurements, self._tables.samples
        with transaction(self._engine, write=True) as connection:
            connection.execute(sa.delete(samples).where(samples.c.measurement_id == measurement.id))
            connection.execute(sa.delete(measurements).where(measurements.c.id == measurement.id))
            connection.execute(
                sa.insert(measurements).values(
                    id=measurement.id,
                    model=measurement.model,
                    model_sha256=measurement.model_sha256,
                    device=measurement.device.address,
                    target=measurement.device.target,
                    started_utc=measurement.started_utc,
                    complete=measurement.complete,
                    record=_dump(data),
                )
            )
            for batch in (*warm_up, *timed):
                connection.execute(sa.insert(samples).values(measurement_id=measurement.id, **batch))

    def begin(self, measurement: Measurement) -> None:
        """Save a measurement whose samples are still to come (`append`); it stays `complete=False` until `finish`."""
        self.save(replace(measurement, complete=False))

    def finish(self, measurement: Measurement) -> None:
        """Replace what was begun by the whole record."""
        self.save(replace(measurement, complete=True))

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
            raise UsageError(f"{len(samples_s)} samples came with {len(blocks)} block numbers; give one for each sample")
        numbers = [session] * len(samples_s)
        with transaction(self._engine, write=True) as connection:
            known = sa.select(self._tables.measurements.c.id).where(self._tables.measurements.c.id == measurement_id)
            if connection.execute(known).first() is None:
                raise UsageError(f"no measurement {measurement_id!r} to append to in {self.url}; begin it first")
            for batch in _batches(numbers, samples_s, None if warm_up else blocks):
                connection.execute(sa.insert(self._tables.samples).values(measurement_id=measurement_id, **batch))

    def withdraw(self, measurement_id: str, session: int) -> None:
        """Turn the timed samples of one session into warm-up; the session is going to be repeated."""
        import sqlalchemy as sa

        samples = self._tables.samples
        of_session = (samples.c.measurement_id == measurement_id, samples.c.session == session)
        with transaction(self._engine, write=True) as connection:
            connection.execute(sa.update(samples).where(*of_session).values(blocks=None))

    def get(self, prefix: str) -> Measurement:
        """The measurement whose id is, or alone begins with, `prefix`.

        Raises:
            UsageError: There is none, or several.
            SchemaError: The record is damaged, or of a schema this version does not read.
        """
        import sqlalchemy as sa

        measurements, samples = self._tables.measurements, self._tables.samples
        with transaction(self._engine) as connection:
            wanted = sa.select(measurements.c.id, measurements.c.record)
            found = connection.execute(wanted.where(measurements.c.id == prefix)).all()
            if not found:
                starting = wanted.where(measurements.c.id.startswith(prefix, autoescape=True))
                found = connection.execute(starting.order_by(measurements.c.id).limit(2)).all()
            if len(found) != 1:
                what = f"{found[0].id[:12]}, {found[1].id[:12]}, ... all begin" if found else "no measurement begins"
                raise UsageError(f"{what} with {prefix!r} in {self.url}; see: hwbench store list")
            batches = sa.select(samples).where(samples.c.measurement_id == found[0].id).order_by(samples.c.number)
            rows = connection.execute(batches).all()
        data = _load(found[0].record, f"measurement {found[0].id} in {self.url}")
        return Measurement.from_dict({**data, **_series(rows)})

    def list(self, model: str | None = None, device: str | None = None, limit: int | None = None) -> tuple[Summary, ...]:
        """Stored measurements, newest first, optionally of one model (name or SHA-256) or device (address) alone."""
        import sqlalchemy as sa

        table, samples = self._tables.measurements, self._tables.samples
        count = sa.select(sa.func.coalesce(sa.func.sum(samples.c.count), 0)).where(
            samples.c.measurement_id == table.c.id, samples.c.blocks.is_not(None)
        )
        columns = [table.c[name] for name in Summary.__dataclass_fields__ if name != "samples"]
        query = sa.select(*columns, count.scalar_subquery().label("samples"))
        if model is not None:
            query = query.where(sa.or_(table.c.model == model, table.c.model_sha256 == model))
        if device is not None:
            query = query.where(table.c.device == device)
        with transaction(self._engine) as connection:
            rows = connection.execute(query.order_by(table.c.started_utc.desc(), table.c.id).limit(limit)).all()
        return tuple(Summary(**{**row._asdict(), "samples": int(row.samples)}) for row in rows)

    def save_record(self, kind: str, data: Mapping[str, Any]) -> str:
        """Keep a record of another kind (`comparison`) as JSON.

        Returns:
            Its new id.
        """
        import sqlalchemy as sa

        record_id, now = uuid4().hex, datetime.now(UTC).isoformat()
        with transaction(self._engine, write=True) as connection:
            values = {"id": record_id, "kind": kind, "created_utc": now, "record": _dump(data)}
            connection.execute(sa.insert(self._tables.records).values(values))
        return record_id

    def records(self, kind: str) -> dict[str, dict[str, Any]]:
        """All records of one kind by id, oldest first."""
        import sqlalchemy as sa

        table = self._tables.records
        query = sa.select(table.c.id, table.c.record).where(table.c.kind == kind).order_by(table.c.created_utc, table.c.id)
        with transaction(self._engine) as connection:
            rows = connection.execute(query).all()
        return {row.id: _load(row.record, f"{kind} {row.id} in {self.url}") for row in rows}

    def export(self, target: Path | TextIO) -> int:
        """Write everything as JSON lines `{"kind": ..., "id": ..., "record": {...}}`, raw samples included.

        A path appears only when it is complete.

        Returns:
            Number of lines.

        Raises:
            UsageError: The file cannot be written.
        """
        if not isinstance(target, Path):
            return self._export(target)
        part = target.with_name(target.name + ".part")
        try:
            with part.open("w", encoding="utf-8") as file:
                lines = self._export(file)
            part.replace(target)
        except OSError as error:
            raise UsageError(f"cannot write the export to {target}: {error.strerror or error}") from error
        return lines

    def _export(self, file: TextIO) -> int:
        lines = 0
        for kind, record_id, record in self._everything():
            file.write(_dump({"kind": kind, "id": record_id, "record": record}) + "\n")
            lines += 1
        return lines

    def _everything(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        import sqlalchemy as sa

        for summary in reversed(self.list()):
            yield "measurement", summary.id, self.get(summary.id).to_dict()
        with transaction(self._engine) as connection:
            kinds = connection.execute(sa.select(self._tables.records.c.kind).distinct()).scalars().all()
        for kind in sorted(kinds):
            for record_id, record in self.records(kind).items():
                yield kind, record_id, record


def _batches(sessions: Sequence[int], values_s: Sequence[float], blocks: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """Rows of consecutive samples of one session; without blocks they are warm-up."""
    for session, group in groupby(range(len(sessions)), key=sessions.__getitem__):
        places = list(group)
        part = slice(places[0], places[-1] + 1)
        yield {
            "session": session,
            "count": len(places),
            "values_s": np.array(values_s[part], "<f8").tobytes(),
            "blocks": None if blocks is None else np.array(blocks[part], "<i8").tobytes(),
        }


def _series(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """The fields of a measurement that the batches hold."""
    series: dict[str, list[Any]] = {name: [] for name in ("samples_s", "session", "block", "warmup_s", "warmup_session")}
    for row in rows:
        values_s = np.frombuffer(row.values_s, "<f8").tolist()
        if row.blocks is None:
            series["warmup_s"] += values_s
            series["warmup_session"] += [row.session] * len(values_s)
        else:
            series["samples_s"] += values_s
            series["session"] += [row.session] * len(values_s)
            series["block"] += np.frombuffer(row.blocks, "<i8").tolist()
    return series


def _dump(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"a record cannot be stored as JSON ({error}); it needs finite numbers and plain types") from error


def _load(text: str, what: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SchemaError(f"{what} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise SchemaError(f"{what} is damaged: expected a JSON object, not {type(data).__name__}")
    return data
