"""What the base class does for every driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from hwbench.devices.base import (
    Advice,
    Device,
    Found,
    LayerRow,
    LayerSamples,
    Prepared,
    ProfilesLayers,
    Samples,
)
from hwbench.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    MeasurementError,
    OutputParseError,
    UsageError,
    WorkloadError,
)
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec

WORKLOAD = Workload("net", b"net", (TensorSpec("x", (1,)),), 1, "fp32", 0, 0, 3)
PROFILE = LayerSamples(
    (LayerRow("a", "Conv", None, "plain", (0.0, 1e-6)),), (1e-3, 2e-3), (1e-3,), 0.0, "nothing"
)


class Board(Device):
    """The least that a driver has; `events` tells what was asked of it."""

    name = "board"

    def __init__(self, address: str = "", *, fails: Exception | None = None) -> None:
        super().__init__(address)
        self.events: list[str] = []
        self.fails = fails
        self.values_s: tuple[float, ...] | None = None

    @classmethod
    def discover(cls) -> list[Found]:
        return []

    def _open(self) -> None:
        self._lock_target("the board")
        self._at_close.callback(self.events.append, "power off")
        if self.fails is not None:
            raise self.fails

    def _close(self) -> None:
        self.events.append(f"close with {len(self._live)}")

    def _info(self) -> DeviceInfo:
        return DeviceInfo(self.address, "board", "board 1", "runtime 1")

    def _conditions(self) -> Conditions:
        return Conditions(datetime.now(UTC).isoformat())

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if self.fails is not None:
            raise self.fails
        return Prepared(workload, settings, None)

    def _release(self, prepared: Prepared) -> None:
        self.events.append(f"release, {len(self._live)} live")

    def _run(self, order: Sequence[Prepared], loops: int) -> Samples:
        if self.fails is not None:
            raise self.fails
        return Samples(self.values_s or (1e-3,) * len(order), "clock")


class Profiler(Board):
    profile: LayerSamples = PROFILE

    def _profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        if self.fails is not None:
            raise self.fails
        return self.profile

    def _doctor(self, threads: int) -> list[Advice]:
        return [Advice("power", ok=True, text="on")]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_what_is_held_ends_after_the_driver_closed_last_first():
    board = Board()
    with board:
        board.prepare(WORKLOAD, Settings())
        with pytest.raises(DeviceUnavailableError, match="the board is in use by process"):
            Profiler().open()
    assert board.events == ["close with 1", "power off"]
    with Profiler():
        pass


def test_what_is_held_ends_when_opening_fails():
    board = Board(fails=DeviceUnavailableError("no board"))
    with pytest.raises(DeviceUnavailableError, match="no board"):
        board.open()
    assert board.events == ["close with 0", "power off"]
    with Board():
        pass


def test_drivers_of_one_target_exclude_each_other_whatever_they_are_called():
    class OtherRuntime(Board):
        name = "other"

    with (
        Board("1"),
        pytest.raises(DeviceUnavailableError, match="the board is in use"),
        OtherRuntime("2"),
    ):
        pass


def test_a_session_is_released_once_and_is_not_live_when_it_is():
    with Board() as board:
        first, second = (board.prepare(WORKLOAD, Settings()) for _ in range(2))
        board.release(first)
        board.release(first)
        assert board.events == ["release, 1 live"]
        for order in ([first], [second, first]):
            with pytest.raises(UsageError, match="released or is another device's"):
                board.run(order)
        assert board.run([second]).values_s == (1e-3,)


def test_a_session_of_another_device_is_refused_and_not_released():
    with Board() as board:
        strange = Prepared(WORKLOAD, Settings(), None)
        with pytest.raises(UsageError):
            board.run([strange])
        board.release(strange)
        assert board.events == []


def test_sessions_do_not_survive_closing():
    board = Board()
    with board:
        prepared = board.prepare(WORKLOAD, Settings())
    with board, pytest.raises(UsageError):
        board.run([prepared])


@pytest.mark.parametrize(
    "values_s", [(), (1e-3, 1e-3), (0.0,), (-1.0,), (float("nan"),), (float("inf"),)], ids=str
)
def test_impossible_samples_are_refused(values_s):
    with Board() as board:
        prepared = board.prepare(WORKLOAD, Settings())
        board.values_s = values_s or (1e-3,) * 3
        with pytest.raises(MeasurementError):
            board.run([prepared])
        assert board.usable, "the device is not at fault"


def test_layers_are_profiled_only_where_the_driver_can():
    assert not isinstance(Board(), ProfilesLayers)
    assert isinstance(Profiler(), ProfilesLayers)
    with Board() as board, pytest.raises(UsageError, match="does not profile layers"):
        board.profile_layers(board.prepare(WORKLOAD, Settings()), 2)


def test_profiling_keeps_the_promises_of_running():
    profiler = Profiler()
    with pytest.raises(DeviceUnavailableError, match="not open"):
        profiler.profile_layers(Prepared(WORKLOAD, Settings(), None), 2)
    with profiler:
        prepared = profiler.prepare(WORKLOAD, Settings())
        assert profiler.profile_layers(prepared, 2) is PROFILE
        with pytest.raises(UsageError, match="at least 1"):
            profiler.profile_layers(prepared, 0)
        for harmless in (OutputParseError("no layers"), WorkloadError("no layers")):
            profiler.fails = harmless
            with pytest.raises(type(harmless)):
                profiler.profile_layers(prepared, 2)
        profiler.fails = None
        assert profiler.profile_layers(prepared, 2) is PROFILE
        profiler.release(prepared)
        with pytest.raises(UsageError, match="released"):
            profiler.profile_layers(prepared, 2)
        prepared = profiler.prepare(WORKLOAD, Settings())
        profiler.fails = DeviceLostError("gone")
        with pytest.raises(DeviceLostError):
            profiler.profile_layers(prepared, 2)
        with pytest.raises(DeviceUnavailableError, match="failed earlier"):
            profiler.profile_layers(prepared, 2)


ROW = PROFILE.rows[0]


@pytest.mark.parametrize(
    "change",
    [
        {"whole_s": (1e-3,)},
        {"whole_s": (1e-3, 0.0)},
        {"reference_s": (0.0,)},
        {"rows": (replace(ROW, samples_s=(1e-6,)),)},
        {"rows": (ROW, replace(ROW, samples_s=(1e-6, -1e-9)))},
        {"rows": (replace(ROW, samples_s=(1e-6, float("nan"))),)},
        {"node_cost_s": -1e-6},
        {"node_cost_s": float("inf")},
        {"grain_s": -1e-6},
    ],
    ids=str,
)
def test_impossible_layer_times_are_refused(change):
    with Profiler() as profiler:
        profiler.profile = replace(PROFILE, **change)
        with pytest.raises(MeasurementError):
            profiler.profile_layers(profiler.prepare(WORKLOAD, Settings()), 2)


def test_the_doctor_is_asked_on_an_open_device():
    profiler = Profiler()
    with pytest.raises(DeviceUnavailableError, match="not open"):
        profiler.doctor()
    with profiler:
        assert [advice.code for advice in profiler.doctor()] == ["power"]
    with Board() as board:
        assert board.doctor() == []


def test_a_device_beside_another_shares_the_lock_of_their_target():
    first, second = Board(), Board()
    with first:
        with pytest.raises(DeviceUnavailableError, match="in use"):
            second.open()
        second.open(beside=first)
        second.close()
        with pytest.raises(DeviceUnavailableError, match="in use"):
            Board().open()  # closing the second has not freed what the first holds
    with second:
        pass
