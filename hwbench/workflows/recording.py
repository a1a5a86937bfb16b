"""Every sample goes to the store as it arrives, and to the callback of the caller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hwbench import stats
from hwbench.measuring.callback import MeasuringCallback
from hwbench.records.codec import from_plain, to_plain
from hwbench.records.comparison import RECORD
from hwbench.records.measurement import Measurement
from hwbench.records.outputs import Likeness
from hwbench.store import Store, open_store
from hwbench.workflows.ceilings import check_with_ceilings, check_with_kept_ceilings


class _Checker(MeasuringCallback):
    """Hands everything on to the callback of the caller, and keeps nothing.

    A latency that the ceilings of its device do not allow is told, if a store has them.
    """

    def __init__(self, url: str | None, callback: MeasuringCallback) -> None:
        self.url, self.callback = url, callback

    def started(self, records: Sequence[Measurement]) -> None:
        self.callback.started(records)

    def sampled(
        self,
        record: int,
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int],
        *,
        warm_up: bool,
    ) -> None:
        self.callback.sampled(record, session, samples_s, blocks, warm_up=warm_up)

    def session_withdrawn(self, session: int) -> None:
        self.callback.session_withdrawn(session)

    def session_ended(
        self, sessions: int, elapsed_s: float, so_far: stats.Estimate | Sequence[stats.Ratio]
    ) -> None:
        self.callback.session_ended(sessions, elapsed_s, so_far)

    def examine(self, records: Sequence[Measurement]) -> tuple[Measurement, ...]:
        return self.callback.examine(check_with_kept_ceilings(self.url, records))

    def finished(self, records: Sequence[Measurement]) -> None:
        self.callback.finished(records)


class _Recorder(_Checker):
    """Writes what happens to the store, then calls the callback of the caller.

    The ceilings are those of the same store.
    """

    def __init__(
        self, store: Store, callback: MeasuringCallback, likeness: Likeness | None = None
    ) -> None:
        super().__init__(None, callback)
        self.store, self.likeness = store, likeness
        self.ids: list[str] = []

    def started(self, records: Sequence[Measurement]) -> None:
        self.ids = [record.id for record in records]
        for record in records:
            self.store.begin(record)
        super().started(records)

    def sampled(
        self,
        record: int,
        session: int,
        samples_s: Sequence[float],
        blocks: Sequence[int],
        *,
        warm_up: bool,
    ) -> None:
        self.store.append(self.ids[record], session, samples_s, blocks, warm_up=warm_up)
        super().sampled(record, session, samples_s, blocks, warm_up=warm_up)

    def session_withdrawn(self, session: int) -> None:
        for measurement_id in self.ids:
            self.store.withdraw(measurement_id, session)
        super().session_withdrawn(session)

    def examine(self, records: Sequence[Measurement]) -> tuple[Measurement, ...]:
        return self.callback.examine(check_with_ceilings(self.store, records))

    def finished(self, records: Sequence[Measurement]) -> None:
        for record in records:
            self.store.finish(record)
        if len(records) > 1:
            order: dict[str, Any] = {
                "group_id": records[0].group_id,
                "measurements": [record.id for record in records],
            }
            if self.likeness is not None:
                order["likeness"] = to_plain(self.likeness)
            self.store.save_record(RECORD, order)
        super().finished(records)


def read_order(data: Mapping[str, Any]) -> tuple[str, list[str], Likeness | None]:
    """Read what `_Recorder` writes of a comparison: its group, and its measurements in order.

    Also how far the networks compute the same, where that was looked into.

    Args:
        data: A record of kind `comparison`.
    """
    likeness = None
    if data.get("likeness") is not None:
        likeness = from_plain(Likeness, data["likeness"], "record of a comparison")
    return str(data["group_id"]), list(map(str, data["measurements"])), likeness


def record_into(
    store: Store | None,
    callback: MeasuringCallback,
    likeness: Likeness | None = None,
    *,
    url: str | None = None,
) -> MeasuringCallback:
    """The callback to measure with, which also writes to an open store if there is one.

    Args:
        store: The store; None where nothing is kept.
        callback: Of the caller.
        likeness: How far two networks compute the same, to be kept with their measurements.
        url: Where the ceilings of devices are looked up if nothing is kept; None for
            `$HWBENCH_STORE` or the user's data folder.
    """
    return _Checker(url, callback) if store is None else _Recorder(store, callback, likeness)


@contextmanager
def recording(
    store: str | None,
    *,
    save: bool,
    callback: MeasuringCallback | None,
    likeness: Likeness | None = None,
) -> Iterator[MeasuringCallback]:
    """The callback to measure with, which also writes to a store where that is wanted.

    Args:
        store: URL of the store; None for `$HWBENCH_STORE` or the user's data folder.
        save: Whether to write to it. The ceilings of the device are looked up in any case.
        callback: Of the caller.
        likeness: How far two networks compute the same, to be kept with their measurements.
    """
    callback = callback or MeasuringCallback()
    if not save:
        yield record_into(None, callback, url=store)
        return
    with open_store(store) as opened:
        yield record_into(opened, callback, likeness)
