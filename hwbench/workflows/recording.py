"""A watch that writes every sample to the store as it arrives, beside the caller's own watch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hwbench import stats
from hwbench.measuring.sessions import Watch
from hwbench.records.comparison import RECORD
from hwbench.records.measurement import Measurement
from hwbench.store import Store, open_store


class _Recorder(Watch):
    """Gives what happens to the store first, then to the caller's watch."""

    def __init__(self, store: Store, inner: Watch) -> None:
        self.store, self.inner = store, inner
        self.ids: list[str] = []

    def started(self, records: Sequence[Measurement]) -> None:
        self.ids = [record.id for record in records]
        for record in records:
            self.store.begin(record)
        self.inner.started(records)

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
        self.inner.sampled(record, session, samples_s, blocks, warm_up=warm_up)

    def withdrawn(self, session: int) -> None:
        for measurement_id in self.ids:
            self.store.withdraw(measurement_id, session)
        self.inner.withdrawn(session)

    def looked(
        self, sessions: int, elapsed_s: float, so_far: stats.Estimate | Sequence[stats.Ratio]
    ) -> None:
        self.inner.looked(sessions, elapsed_s, so_far)

    def finished(self, records: Sequence[Measurement]) -> None:
        for record in records:
            self.store.finish(record)
        if len(records) > 1:
            order = {
                "group_id": records[0].group_id,
                "measurements": [record.id for record in records],
            }
            self.store.save_record(RECORD, order)
        self.inner.finished(records)


@contextmanager
def recording(store: str | None, *, save: bool, watch: Watch | None) -> Iterator[Watch]:
    """The watch to measure with: `watch` itself, or one that also writes to the store at URL `store`."""
    inner = watch or Watch()
    if not save:
        yield inner
        return
    with open_store(store) as opened:
        yield _Recorder(opened, inner)
