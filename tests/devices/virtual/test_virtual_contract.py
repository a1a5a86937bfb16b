"""The virtual device keeps the driver contract, and the contract catches drivers that do not."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

from hwbench.devices.base import Device, LayerSamples, Prepared, Samples
from hwbench.devices.contract import DeviceContract
from hwbench.devices.virtual.device import Spikes, Virtual
from hwbench.errors import DeviceUnavailableError, HwbenchError
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.records.tensors import TensorSpec


def network(channels: int, size: int, depth: int) -> Workload:
    """Plain convolutions, each with a Relu that fuses into it."""
    shape = [1, channels, size, size]
    nodes, weights, last = [], [], "x"
    for index in range(depth):
        weight = helper.make_tensor(
            f"conv{index}.weight",
            TensorProto.FLOAT,
            [channels, channels, 3, 3],
            [0.1] * channels**2 * 9,
        )
        weights.append(weight)
        nodes.append(
            helper.make_node(
                "Conv",
                [last, weight.name],
                [f"c{index}"],
                f"conv{index}",
                kernel_shape=[3, 3],
                pads=[1] * 4,
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        last = f"r{index}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    macs, params = depth * channels**2 * 9 * size**2, depth * channels**2 * 9
    return Workload(
        f"net{channels}", data, (TensorSpec("x", tuple(shape)),), 1, "fp32", macs, params, len(data)
    )


class OfVirtual(DeviceContract):
    """What the contract needs to know, without its name making it a test."""

    def make_device(self) -> Device:
        return Virtual("noise=white+session,seed=3")

    def make_workload(self) -> Workload:
        return network(8, 8, 3)

    def make_slow_workload(self) -> Workload | None:
        return network(16, 64, 8)


class TestVirtual(OfVirtual):
    pass


class TestSilentVirtual(OfVirtual):
    def make_device(self) -> Device:
        return Virtual("noise=none")


class Reversing(Virtual):
    def _run(self, order: list[Prepared], loops: int) -> Samples:
        samples = super()._run(order, loops)
        return replace(samples, values_s=samples.values_s[::-1])


class OneBehind(Virtual):
    """Gives each sample to the round after it."""

    def _run(self, order: list[Prepared], loops: int) -> Samples:
        samples = super()._run(order, loops)
        return replace(samples, values_s=samples.values_s[-1:] + samples.values_s[:-1])


class Shuffling(Virtual):
    """Runs the rounds in another order each time."""

    shuffle = random.Random(0).shuffle

    def _run(self, order: list[Prepared], loops: int) -> Samples:
        mixed = list(order)
        self.shuffle(mixed)
        return super()._run(mixed, loops)


class SortedOrder(Virtual):
    """Runs all rounds of a session in a row."""

    def _run(self, order: list[Prepared], loops: int) -> Samples:
        return super()._run(sorted(order, key=id), loops)


class InMilliseconds(Virtual):
    def _run(self, order: list[Prepared], loops: int) -> Samples:
        samples = super()._run(order, loops)
        return replace(samples, values_s=tuple(1000 * value for value in samples.values_s))


class Undivided(Virtual):
    def _run(self, order: list[Prepared], loops: int) -> Samples:
        samples = super()._run(order, loops)
        return replace(samples, values_s=tuple(loops * value for value in samples.values_s))


class OneTooMany(Virtual):
    def _run(self, order: list[Prepared], loops: int) -> Samples:
        return super()._run([*order, *order[:1]], loops)


class SharedSession(Virtual):
    """Releasing one session ends all of them."""

    def _release(self, prepared: Prepared) -> None:
        self._live.clear()


class Dying(Virtual):
    """Takes a bad model for its own failure."""

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        if workload.onnx.startswith(b"this"):
            raise DeviceUnavailableError("gone")
        return super()._prepare(workload, settings)


class AnyPrecision(Virtual):
    precisions = frozenset({"fp32", "fp1"})


class LocalTime(Virtual):
    def _conditions(self) -> Conditions:
        return Conditions(at_utc="2024-05-06T07:08:09+02:00")


class Restless(Virtual):
    """Says another thing about itself at every turn."""

    turn = 0

    def _info(self) -> DeviceInfo:
        Restless.turn += 1
        return replace(super()._info(), target_id=str(Restless.turn))


class Forgetful(Virtual):
    """Leaves the first layer out of the profile."""

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        seen = super().profile_layers(prepared, runs)
        return replace(seen, rows=seen.rows[1:])


class Unguarded(Virtual):
    """Profiles layers past the bookkeeping of the base."""

    def profile_layers(self, prepared: Prepared, runs: int) -> LayerSamples:
        return self._profile_layers(prepared, max(runs, 1))


class LeavingThreads(Virtual):
    """Starts a thread per session and ends none of them."""

    stop = threading.Event()
    started: list[threading.Thread] = []  # noqa: RUF012 - shared on purpose, to be ended by the test

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        self.started.append(threading.Thread(target=self.stop.wait, daemon=True))
        self.started[-1].start()
        return super()._prepare(workload, settings)


class LeavingProcesses(Virtual):
    """Starts a child process per session and ends none of them."""

    started: list[subprocess.Popen[bytes]] = []  # noqa: RUF012 - shared on purpose, to be ended by the test

    def _prepare(self, workload: Workload, settings: Settings) -> Prepared:
        self.started.append(
            subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        )
        return super()._prepare(workload, settings)


@pytest.fixture
def clean() -> Iterator[None]:
    LeavingThreads.stop.clear()
    yield
    LeavingThreads.stop.set()
    for thread in LeavingThreads.started:  # one that still ends would count in the next test
        thread.join()
    LeavingThreads.started.clear()
    for child in LeavingProcesses.started:
        child.communicate(b"\n")
    LeavingProcesses.started.clear()


def test_a_driver_that_keeps_the_order_passes_on_a_busy_machine() -> None:
    """Two rounds in three take up to a hundred times as long as they should."""
    contract = OfVirtual()
    contract.make_device = lambda: Virtual(noise=[Spikes(probability=0.66, factor=20)], seed=1)
    call(contract, "test_rounds_run_in_the_order_asked_for")


@pytest.mark.parametrize(
    ("driver", "test"),
    [
        (Reversing, "test_rounds_run_in_the_order_asked_for"),
        (OneBehind, "test_rounds_run_in_the_order_asked_for"),
        (Shuffling, "test_rounds_run_in_the_order_asked_for"),
        (SortedOrder, "test_rounds_run_in_the_order_asked_for"),
        (InMilliseconds, "test_samples_are_seconds_of_one_inference"),
        (Undivided, "test_samples_are_seconds_of_one_inference"),
        (Undivided, "test_loops_do_not_change_the_latency_of_one_inference"),
        (OneTooMany, "test_run_returns_what_was_asked_for"),
        (SharedSession, "test_sessions_are_independent"),
        (Dying, "test_bad_model_is_refused_and_harms_nothing"),
        (AnyPrecision, "test_unknown_precision_is_refused_and_harms_nothing"),
        (LocalTime, "test_conditions_have_the_time_in_utc"),
        (Restless, "test_info_is_complete_and_stable"),
        (Unguarded, "test_a_released_session_is_refused"),
        (Unguarded, "test_layer_profile_covers_every_layer_once"),
        (Forgetful, "test_layer_profile_covers_every_layer_once"),
        (LeavingThreads, "test_release_frees_the_session"),
        (LeavingThreads, "test_nothing_is_left_after_close"),
        (LeavingProcesses, "test_release_frees_the_session"),
        (LeavingProcesses, "test_nothing_is_left_after_close"),
    ],
)
@pytest.mark.usefixtures("clean")
def test_the_contract_catches_a_driver_that_breaks_it(driver: type[Virtual], test: str) -> None:
    contract = OfVirtual()
    contract.make_device = lambda: driver("noise=white,seed=3")
    with pytest.raises((AssertionError, HwbenchError, pytest.fail.Exception)):
        call(contract, test)


def call(contract: DeviceContract, test: str) -> None:
    """One test of the contract, with the device it asks for."""
    if test == "test_nothing_is_left_after_close":
        contract.test_nothing_is_left_after_close()
    else:
        with contract.make_device() as device:
            getattr(contract, test)(device)
