"""Records as rows of the tables, and back; what a row holds is checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hwbench import stats
from hwbench.errors import HwbenchError, SchemaError
from hwbench.records.comparison import RECORD as COMPARISON
from hwbench.records.measurement import Measurement
from hwbench.records.series import Series, SeriesBuilder
from hwbench.records.untrusted import load_json
from hwbench.store.address import shown
from hwbench.store.database import tables

if TYPE_CHECKING:
    import sqlalchemy as sa

T = TypeVar("T")

SERIES = ("samples_s", "session", "block", "warmup_s", "warmup_session")
"""Fields of a measurement that are kept as batches of samples, not in its record."""


FAULTS_OF_DATA = (
    HwbenchError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What readers raise where data are not what they should be."""


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that was left out because it cannot be read.

    Attributes:
        kind: Its kind; `measurement` for measurements.
        id: Its id.
        reason: What is wrong with it.
    """

    kind: str
    id: str
    reason: str

    def __str__(self) -> str:
        reason = " ".join(self.reason.split())
        return f"{self.kind} {self.id[:12]} is damaged and left out: {reason}"


def read_as(reader: Callable[[Mapping[str, Any]], T], data: Mapping[str, Any], what: str) -> T:
    """Read the data of a record as whoever uses it.

    Args:
        reader: Makes something of the data.
        data: What the record holds.
        what: What the record is, for the message.

    Raises:
        SchemaError: The reader could not.
    """
    try:
        return reader(data)
    except SchemaError as error:
        raise SchemaError(f"{what}: {error.message}", *error.remedies) from error
    except FAULTS_OF_DATA as error:
        raise SchemaError(f"damaged {what}: {type(error).__name__}: {error}") from error


def find_measurement(
    connection: sa.Connection, record_id: str, *, lock: bool = False
) -> Measurement | None:
    """The measurement of this id, with its samples in the order they came.

    None where there is none.

    Args:
        connection: In a transaction.
        record_id: Whole id.
        lock: Let nobody change it until the end of the transaction.

    Raises:
        SchemaError: It is damaged, or of a schema this version does not read.
    """
    import sqlalchemy as sa

    measurements, samples = tables().measurements, tables().samples
    row = sa.select(measurements.c.record).where(measurements.c.id == record_id)
    record = connection.execute(row.with_for_update() if lock else row).scalar()
    if record is None:
        return None
    columns = (samples.c.session, samples.c.count.label("size"), samples.c.values_s)
    query = (
        sa.select(*columns, samples.c.blocks)
        .where(samples.c.measurement_id == record_id)
        .order_by(samples.c.number)
    )
    what = f"measurement {record_id} in {shown(connection.engine.url)}"
    data = load(record, what)
    batches_of_record = connection.execute(query).all()
    return read_as(
        lambda fields: Measurement.from_dict({**fields, **_read_series(batches_of_record)}),
        data,
        what,
    )


def insert_measurement(connection: sa.Connection, measurement: Measurement) -> None:
    """Insert a measurement with its samples; the database refuses if one of its id is there.

    Raises:
        SchemaError: It holds what JSON does not.
    """
    import sqlalchemy as sa

    row, batches = _rows_of(measurement)
    connection.execute(sa.insert(tables().measurements).values(row))
    if batches:
        connection.execute(sa.insert(tables().samples), batches)


def replace_measurement(connection: sa.Connection, measurement: Measurement) -> None:
    """Insert a measurement with its samples, or replace the one of the same id.

    Raises:
        SchemaError: It holds what JSON does not.
    """
    import sqlalchemy as sa

    measurements, samples = tables().measurements, tables().samples
    same = measurements.c.id == measurement.id
    if (
        connection.execute(sa.select(measurements.c.id).where(same).with_for_update()).first()
        is None
    ):
        insert_measurement(connection, measurement)
        return
    row, batches = _rows_of(measurement)
    connection.execute(sa.delete(samples).where(samples.c.measurement_id == measurement.id))
    connection.execute(sa.update(measurements).where(same).values(row))
    if batches:
        connection.execute(sa.insert(samples), batches)


def delete_measurements(connection: sa.Connection, ids: Sequence[str]) -> int:
    """Delete measurements, their samples and the records of comparisons that name them.

    Returns:
        How many there were.
    """
    import sqlalchemy as sa

    measurements, samples, records = tables().measurements, tables().samples, tables().records
    deleted = 0
    for record_id in ids:
        connection.execute(sa.delete(samples).where(samples.c.measurement_id == record_id))
        gone = connection.execute(sa.delete(measurements).where(measurements.c.id == record_id))
        deleted += gone.rowcount
        naming = records.c.record.contains(record_id, autoescape=True)
        connection.execute(sa.delete(records).where(records.c.kind == COMPARISON, naming))
    return deleted


def latency_of_batches(rows: Sequence[Any]) -> float | None:
    """Latency of timed batches (`session`, `values_s`), seconds; None without a sound sample."""
    samples_s: list[float] = []
    sessions: list[int] = []
    for row in rows:
        if len(row.values_s) % 8:
            return None
        values_s = np.frombuffer(row.values_s, "<f8").tolist()
        samples_s += values_s
        sessions += [row.session] * len(values_s)
    if not samples_s or not all(0 < sample_s < float("inf") for sample_s in samples_s):
        return None
    return stats.latency(samples_s, sessions).estimate


def batches(series: Series) -> Iterator[dict[str, Any]]:
    """Rows of consecutive samples of one session; without blocks they are warm-up."""
    start = 0
    for session, group in groupby(series.session):
        end = start + len(list(group))
        blocks = series.block[start:end]
        yield {
            "session": session,
            "count": end - start,
            "values_s": np.array(series.samples_s[start:end], "<f8").tobytes(),
            "blocks": np.array(blocks, "<i8").tobytes() if series.block else None,
        }
        start = end


def dump(data: Mapping[str, Any]) -> str:
    """JSON in ASCII, which every database holds unchanged.

    Raises:
        SchemaError: The data are not JSON's.
    """
    try:
        return json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(
            f"a record cannot be stored as JSON ({error}); it needs finite numbers and plain types"
        ) from error


def load(text: str, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SchemaError: It is none, or holds numbers that JSON does not have.
    """
    try:
        data = load_json(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{what} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise SchemaError(f"{what} is damaged: expected a JSON object, not {type(data).__name__}")
    return data


def plain(text: str) -> str:
    """Text that every database holds: file names may be no Unicode, PostgreSQL knows no NUL.

    The record itself has the original.
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def columns(measurement: Measurement) -> dict[str, Any]:
    """What lists show of a measurement.

    Raises:
        SchemaError: It is not text where it has to be.
    """
    device = measurement.device
    texts = {
        "id": measurement.id,
        "model": measurement.model,
        "model_sha256": measurement.model_sha256,
        "device": device.address,
        "target": device.target,
        "started_utc": measurement.started_utc,
    }
    row: dict[str, Any] = {"complete": bool(measurement.complete)}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise SchemaError(
                f"the {name} of measurement {measurement.id!r} is {text!r}; expected text"
            )
        row[name] = plain(text)
    return row


def _rows_of(measurement: Measurement) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of a measurement and those of its samples, warm-up first.

    Raises:
        SchemaError: It holds what JSON does not.
    """
    data = measurement.to_dict()
    for name in SERIES:
        del data[name]
    row = columns(measurement) | {"record": dump(data)}
    rows = [*batches(measurement.warm_up), *batches(measurement.series)]
    return row, [{"measurement_id": row["id"], **batch} for batch in rows]


def _read_series(rows: Sequence[Any]) -> dict[str, list[Any]]:
    """The fields of a measurement that the batches hold.

    Raises:
        SchemaError: A batch is cut off.
    """
    series, warm_up = SeriesBuilder(), SeriesBuilder()
    for row in rows:
        parts = [row.values_s] if row.blocks is None else [row.values_s, row.blocks]
        if any(len(part) != 8 * row.size for part in parts):
            raise SchemaError(f"a batch of session {row.session} does not hold {row.size} samples")
        values_s = np.frombuffer(row.values_s, "<f8").tolist()
        if row.blocks is None:
            warm_up.add(row.session, values_s)
        else:
            series.add(row.session, values_s, np.frombuffer(row.blocks, "<i8").tolist())
    return {
        "samples_s": series.samples_s,
        "session": series.session,
        "block": series.block,
        "warmup_s": warm_up.samples_s,
        "warmup_session": warm_up.session,
    }
