"""A device that plays recorded measurements back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hwbench.devices.base import Device, Found, Prepared, Samples
from hwbench.errors import DeviceLostError, UsageError, WorkloadError
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.measurement import Measurement, Settings


class Replay(Device):
    """Plays recorded measurements back, so that whatever judges samples can be fed with those of real hardware.

    Each `prepare` of a recorded model is its next recorded session: first the warm-up rounds of
    that session, then the timed ones, in the order they were taken. Nothing is repeated or made up:
    when a recording ends, the device is lost.

    Args:
        measurements: Recordings of different models.

    Raises:
        UsageError: There is none, or two are of the same model and could not be told apart.
    """

    name = "replay"
    precisions = frozenset({"fp32", "fp16", "int8"})

    def __init__(self, *measurements: Measurement) -> None:
        super().__init__()
        if not measurements:
            raise UsageError("nothing to replay: no measurement given")
        self._recorded = {measurement.model_sha256: measurement for measurement in measurements}
        if len(self._recorded) < len(measurements):
            raise UsageError(
                "two of the measurements to replay are of the same model; replay one of them at a"
                " time"
            )
        self._now_s = 0.0
        self._unplayed: dict[str, Iterator[Iterator[float]]] = {}

    @classmethod
    def discover(cls) -> list[Found]:
        """No target: a replay is made from recordings in code."""
        return []

    def time_s(self) -> float:
        """Seconds that the rounds played so far took when they were recorded."""
        return self._now_s

    def idle(self, seconds: float) -> None:
        """Let virtual time pass."""
        self._now_s += seconds

    def _open(self) -> None:
        self._now_s = 0.0
        self._unplayed = {sha256: _sessions(record) for sha256, record in self._recorded.items()}

    def _close(self) -> None:
        self._unplayed.clear()

    def _info(self) -> DeviceInfo:
        return next(iter(self._recorded.values())).device

    def _conditions(self) -> Conditions:
        return next(iter(self._recorded.values())).before

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if workload.sha256 not in self._recorded:
            raise WorkloadError(
                f"{workload.name} (SHA-256 {workload.sha256[:12]}) is in none of the recordings"
                " replayed"
            )
        session = next(self._unplayed[workload.sha256], None)
        if session is None:
            raise DeviceLostError(
                f"the recording of {workload.name} has no further session; ask for fewer sessions"
            )
        return Prepared(workload, settings, session)

    def _release(self, prepared: Prepared) -> None:
        """Nothing is held."""

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        values_s = [next(prepared.handle, None) for prepared in order]
        played = tuple(value for value in values_s if value is not None)
        if len(played) < len(order):
            raise DeviceLostError(
                "the recording of this session is over; ask for fewer or shorter rounds"
            )
        self._now_s += sum(played) * loops
        return Samples(played, next(iter(self._recorded.values())).clock)


def _sessions(record: Measurement) -> Iterator[Iterator[float]]:
    """Rounds of each session, warm-up first."""
    for number in dict.fromkeys(record.session):
        warm_up = [
            value
            for value, session in zip(record.warmup_s, record.warmup_session, strict=True)
            if session == number
        ]
        timed = [
            value
            for value, session in zip(record.samples_s, record.session, strict=True)
            if session == number
        ]
        yield iter(warm_up + timed)
