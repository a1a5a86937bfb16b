"""The tests every driver must pass, importable by drivers in other packages.

    from hwbench.devices.contract import DeviceContract

    class TestMyDevice(DeviceContract):
        def make_device(self):
            return MyDevice("SERIAL")

        def make_workload(self):
            return Workload(...)  # a small model, so that the tests are quick

No test evaluates how fast the device is: timings are only held against each other where a driver
that keeps its promises differs from one that does not by a large factor, or in a way that other
work on the machine cannot bring about.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from hwbench.devices.base import Device, DrawsInputs, Found, MovesTime, ProfilesLayers
from hwbench.errors import DeviceUnavailableError, UnsupportedLayerError, UsageError, WorkloadError
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings

ROUNDS = 9
LOOPS = 16
TIMES_OFF = 6.0
"""Factor between latencies that cannot be noise.

A driver that forgets to divide by `LOOPS`, or divides twice, is off by 16.
"""
PATTERN = (False, True, True, False, True) + (False,) * 5 + (True,) * 5
"""Which rounds are slow ones. Reversed or shifted, it is another pattern."""
ATTEMPTS = 100
"""How often the pattern is run until it shows, before a driver is said to mix its rounds up."""


class DeviceContract(ABC):
    """Subclass it in a test module, in a class whose name starts with `Test`."""

    settings = Settings(threads=1)

    @abstractmethod
    def make_device(self) -> Device:
        """Make a closed device; each call makes another object for the same target."""

    @abstractmethod
    def make_workload(self) -> Workload:
        """Make a small model that the device runs."""

    def make_slow_workload(self) -> Workload | None:
        """Make a model that takes at least ten times as long as `make_workload`'s.

        Without one the order of rounds is not tested.
        """
        return None

    def make_bad_workload(self) -> Workload:
        """Make a model that the device must refuse; the default is no model at all."""
        return replace(
            self.make_workload(), name="not a model", artifact=b"this is no model at all"
        )

    @pytest.fixture
    def device(self) -> Iterator[Device]:
        with self.make_device() as device:
            yield device

    def test_discover_tells_and_never_raises(self) -> None:
        for found in type(self.make_device()).discover():
            assert isinstance(found, Found)
            assert found.address
            assert found.description
            assert found.ready or found.hint, "an unready target says what is missing"

    def test_opening_twice_is_refused(self, device: Device) -> None:
        with pytest.raises(UsageError):
            device.open()
        assert device.info() == device.info(), "and harms nothing"

    def test_closed_device_is_refused(self) -> None:
        device, workload = self.make_device(), self.make_workload()
        for action in (
            device.info,
            device.conditions,
            lambda: device.prepare(workload, self.settings),
        ):
            with pytest.raises(DeviceUnavailableError):
                action()

    def test_closing_twice_and_opening_again(self) -> None:
        device = self.make_device()
        for _ in range(2):
            with device:
                assert device.usable
            device.close()
            assert not device.usable

    def test_close_frees_what_was_never_released(self) -> None:
        device = self.make_device()
        with device:
            prepared = device.prepare(self.make_workload(), self.settings)
        with pytest.raises(DeviceUnavailableError):
            device.run([prepared])

    def test_info_is_complete_and_stable(self, device: Device) -> None:
        info = device.info()
        assert info.address == device.address
        assert info.address.partition(":")[0] == device.name
        assert info.target
        assert info.target_id
        assert info.runtime
        assert device.info() == info
        with_other = self.make_device()
        device.close()
        with with_other:
            assert with_other.info() == info

    def test_conditions_have_the_time_in_utc(self, device: Device) -> None:
        at = datetime.fromisoformat(device.conditions().at_utc)
        assert at.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)

    def test_run_returns_what_was_asked_for(self, device: Device) -> None:
        prepared = device.prepare(self.make_workload(), self.settings)
        for rounds in (1, ROUNDS):
            samples = device.run([prepared] * rounds)
            assert len(samples.values_s) == rounds
            assert all(isinstance(value, float) for value in samples.values_s)
            assert samples.clock
        assert device.run([]).values_s == ()

    def test_no_loops_are_refused(self, device: Device) -> None:
        prepared = device.prepare(self.make_workload(), self.settings)
        with pytest.raises(UsageError):
            device.run([prepared], loops=0)

    def test_samples_are_seconds_of_one_inference(self, device: Device) -> None:
        """The rounds fit into the time that passed.

        So they are no milliseconds, and they are divided by the loops.
        """
        prepared = device.prepare(self.make_workload(), self.settings)
        device.run([prepared] * ROUNDS, LOOPS)
        start_s = _now_s(device)
        samples = device.run([prepared] * ROUNDS, LOOPS)
        passed_s = _now_s(device) - start_s
        assert sum(samples.values_s) * LOOPS <= 1.1 * passed_s + 1e-3

    def test_loops_do_not_change_the_latency_of_one_inference(self, device: Device) -> None:
        prepared = device.prepare(self.make_workload(), self.settings)
        device.run([prepared] * ROUNDS, LOOPS)
        # Other work on a machine makes rounds longer and never shorter, a round of many loops more
        # often than one of a single loop: the least times ever seen decide.
        single_s = looped_s = float("inf")
        for _ in range(ATTEMPTS):
            single_s = min(single_s, *device.run([prepared] * ROUNDS, 1).values_s)
            looped_s = min(looped_s, *device.run([prepared] * ROUNDS, LOOPS).values_s)
            if 1 / TIMES_OFF < looped_s / single_s < TIMES_OFF:
                return
        raise AssertionError(
            f"one inference took {looped_s:.3g} s in rounds of {LOOPS} loops and {single_s:.3g} s"
            " in rounds of one"
        )

    def test_rounds_run_in_the_order_asked_for(self, device: Device) -> None:
        slow_workload = self.make_slow_workload()
        if slow_workload is None:
            pytest.skip("no make_slow_workload(): the order of rounds is not tested")
        quick = device.prepare(self.make_workload(), self.settings)
        slow = device.prepare(slow_workload, self.settings)

        def run(is_slow: Sequence[bool]) -> Sequence[float]:
            return device.run([slow if wanted else quick for wanted in is_slow]).values_s

        assert shows_its_order(run), (
            f"in {ATTEMPTS} attempts the samples never told quick rounds from slow ones where they"
            " were asked for"
        )

    def test_sessions_are_independent(self, device: Device) -> None:
        workload = self.make_workload()
        first, second = (
            device.prepare(workload, self.settings),
            device.prepare(workload, self.settings),
        )
        assert first is not second
        assert first.workload == second.workload == workload
        assert len(device.run([first, second, first]).values_s) == 3
        device.release(first)
        assert len(device.run([second] * ROUNDS).values_s) == ROUNDS

    def test_a_released_session_is_refused(self, device: Device) -> None:
        workload = self.make_workload()
        released, kept = (device.prepare(workload, self.settings) for _ in range(2))
        device.release(released)
        device.release(released)
        for action in (
            lambda: device.run([released]),
            lambda: device.run([kept, released]),
            lambda: device.profile_layers(released, 1),
        ):
            with pytest.raises(UsageError):
                action()
        assert len(device.run([kept]).values_s) == 1, "and harms nothing"

    def test_release_frees_the_session(self, device: Device) -> None:
        workload = self.make_workload()
        used = []
        for _ in range(6):
            prepared = device.prepare(workload, self.settings)
            device.run([prepared])
            device.release(prepared)
            used.append(_resources())
        assert used[-1] <= used[1], "threads, child processes or open files pile up"

    def test_bad_model_is_refused_and_harms_nothing(self, device: Device) -> None:
        bad, kept = self.make_bad_workload(), device.prepare(self.make_workload(), self.settings)
        with pytest.raises(WorkloadError) as refused:
            device.prepare(bad, self.settings)
        assert len(str(refused.value).splitlines()) == 1
        assert bad.name in str(refused.value), "the user knows the model by its name"
        assert device.usable
        device.release(kept)
        assert len(device.run([device.prepare(self.make_workload(), self.settings)]).values_s) == 1

    def test_unknown_precision_is_refused_and_harms_nothing(self, device: Device) -> None:
        workload = self.make_workload()
        assert workload.precision in device.precisions
        with pytest.raises(UnsupportedLayerError):
            device.prepare(replace(workload, precision="fp1"), self.settings)
        assert len(device.run([device.prepare(workload, self.settings)]).values_s) == 1

    def test_layer_profile_covers_every_layer_once(self, device: Device) -> None:
        from hwbench.network.layers import layers_of

        if not isinstance(device, ProfilesLayers):
            pytest.skip(f"{device.name} does not profile layers")
        workload, runs = self.make_workload(), 3
        prepared = device.prepare(workload, self.settings)
        seen = device.profile_layers(prepared, runs)
        expected = Counter((layer.name, str(layer.key)) for layer in layers_of(workload))
        assert (
            Counter((row.name, str(row.key)) for row in seen.rows if row.key is not None)
            == expected
        )
        assert len({row.name for row in seen.rows}) == len(seen.rows), (
            "rows are told apart by their names"
        )
        assert all(len(row.samples_s) == runs and min(row.samples_s) >= 0 for row in seen.rows)
        assert len(seen.whole_s) == runs
        assert min(seen.whole_s) > 0
        assert seen.node_cost_s >= 0
        assert len(device.run([prepared]).values_s) == 1, "the timed session is still there"
        with pytest.raises(UsageError):
            device.profile_layers(prepared, 0)
        device.close()
        with pytest.raises(DeviceUnavailableError):
            device.profile_layers(prepared, runs)

    def test_a_single_inference_can_be_profiled(self, device: Device) -> None:
        if not isinstance(device, ProfilesLayers):
            pytest.skip(f"{device.name} does not profile layers")
        prepared = device.prepare(self.make_workload(), self.settings)
        seen = device.profile_layers(prepared, 1)
        assert len(seen.whole_s) == 1
        assert {len(row.samples_s) for row in seen.rows} == {1}

    def test_other_inputs_can_be_drawn(self, device: Device) -> None:
        if not isinstance(device, DrawsInputs):
            pytest.skip(f"{device.name} draws no inputs after preparing")
        prepared = device.prepare(self.make_workload(), self.settings)
        for exponent in (0, 8, -20, 0):
            device.draw_inputs(prepared, 1, exponent)
            assert len(device.run([prepared]).values_s) == 1
        device.release(prepared)
        with pytest.raises(UsageError):
            device.draw_inputs(prepared, 1, 0)

    def test_nothing_is_left_after_close(self) -> None:
        """Compared with the first use, since loading a library may start threads that stay."""
        left = []
        for _ in range(3):
            with self.make_device() as device:
                device.run([device.prepare(self.make_workload(), self.settings)])
            left.append(_resources())
        assert left[-1] <= left[0], "threads, child processes or open files are left"


def shows_its_order(run: Callable[[Sequence[bool]], Sequence[float]]) -> bool:
    """Tell whether the samples of quick and slow rounds come where they were asked for.

    Other work on a machine makes rounds longer and never shorter. So a slow round never has a quick
    one's time, and of many quick rounds one is soon undisturbed: the least time ever seen at each
    place is what decides. A driver that keeps the order passes as soon as every quick place has
    been undisturbed once. One that does not keep it has a place asked to be quick that never is, or
    one asked to be slow that is quick.

    Args:
        run: Runs quick (False) and slow (True) rounds in the order given; one sample for each.
    """
    least_s = [float("inf")] * len(PATTERN)
    for _ in range(ATTEMPTS):
        least_s = list(map(min, least_s, run(PATTERN)))
        quick_s = []
        slow_s = []
        for value_s, is_slow in zip(least_s, PATTERN, strict=True):
            if is_slow:
                slow_s.append(value_s)
            else:
                quick_s.append(value_s)
        if max(quick_s) < min(slow_s):
            return True
    return False


def _now_s(device: Device) -> float:
    """Read the device's own clock if it has one, else the host's."""
    return device.time_s() if isinstance(device, MovesTime) else time.perf_counter()


class _Resources(Counter[str]):
    """Counts of what a driver may leak; compared part by part."""


def _resources() -> _Resources:
    process = psutil.Process()
    return _Resources(
        python_threads=threading.active_count(),
        threads=process.num_threads(),
        children=len(process.children(recursive=True)),
        files=process.num_fds() if psutil.POSIX else process.num_handles(),
    )
