"""A child that crashes, hangs, is killed or talks nonsense: the device is lost in bounded time,
with the end of its log.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from dataclasses import dataclass

import pytest

from hwbench.devices.nvidia import probe, trt_process
from hwbench.devices.nvidia import tensorrt as tensorrt_driver
from hwbench.devices.nvidia.tensorrt import PROVEN, NvidiaTrt
from hwbench.devices.nvidia.trt_process import TrtProcess
from hwbench.errors import (
    DeviceLostError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
)
from hwbench.records.measurement import Settings
from tests.devices.nvidia import wheels
from tests.devices.nvidia.trt_nets import convolutions
from tests.devices.nvidia.trt_support import PAPER, use_fakes

VERSION = "11.4.0.106"
PATIENCE_S = 30.0
"""Far more than any limit set here, far less than the ten minutes that a hanging child sleeps."""


@pytest.fixture(autouse=True)
def _soon():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < PATIENCE_S


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    wheels.bindings(VERSION), wheels.cuda()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("point", ["build", "run"])
def test_a_crash_is_told_with_its_signal_and_log(point, monkeypatch):
    use_fakes(monkeypatch, VERSION, f"crash@{point}")
    with NvidiaTrt() as device:
        with pytest.raises(
            DeviceLostError, match=r"killed by SIGSEGV.*paper TensorRT is about to crash"
        ) as lost:
            device.run([device.prepare(convolutions((8,), 8), Settings())])
        assert len(str(lost.value).splitlines()) == 1
        assert not device.usable
    use_fakes(monkeypatch, VERSION)
    with NvidiaTrt() as device:
        assert device.run([device.prepare(convolutions((8,), 8), Settings())]).values_s, (
            "opened anew, it works"
        )


def test_a_crash_at_the_start_is_a_device_that_cannot_be_opened(monkeypatch):
    use_fakes(monkeypatch, VERSION, "crash@start")
    with pytest.raises(DeviceUnavailableError, match=r"does not start.*SIGSEGV.*about to crash"):
        NvidiaTrt().open()


@pytest.mark.parametrize("point", ["build", "run"])
def test_a_hang_ends_in_time(point, monkeypatch):
    """A session is run once when it is prepared, so both show there."""
    use_fakes(monkeypatch, VERSION, f"hang@{point}")
    monkeypatch.setattr(tensorrt_driver, "BUILD_S", 1.0)
    with NvidiaTrt() as device:
        child = device._shared.pid
        with pytest.raises(
            DeviceTimeoutError, match=r"longer than allowed to load.*paper TensorRT hangs"
        ):
            device.prepare(convolutions((8,), 8), Settings())
        assert not device.usable
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_hang_at_the_start_ends_in_time(monkeypatch):
    use_fakes(monkeypatch, VERSION, "hang@start")
    monkeypatch.setattr(trt_process, "START_S", 2.0)
    with pytest.raises(DeviceUnavailableError, match="longer than allowed to start"):
        NvidiaTrt().open()


def test_a_killed_child_is_told_and_stays_lost(monkeypatch):
    use_fakes(monkeypatch, VERSION)
    with NvidiaTrt() as device:
        prepared = device.prepare(convolutions((8,), 8), Settings())
        os.kill(device._shared.pid, signal.SIGKILL)
        with pytest.raises(DeviceLostError, match="killed by SIGKILL"):
            device.run([prepared])
        with pytest.raises(DeviceUnavailableError, match="failed earlier"):
            device.run([prepared])


def test_what_libraries_print_does_not_disturb(monkeypatch):
    use_fakes(monkeypatch, VERSION)
    code = (
        "import os, tests.devices.nvidia.fake_child as c, hwbench.devices.nvidia.trt_child as t;"
        " serve = t.serve\n"
    )
    code += (
        "t.serve = lambda *a: (os.write(1, b'noise'), print('more noise', flush=True), serve(*a));"
        " c.main()"
    )
    monkeypatch.setattr(NvidiaTrt, "child", (sys.executable, "-c", code))
    with NvidiaTrt() as device:
        assert device.run([device.prepare(convolutions((8,), 8), Settings())]).values_s


@dataclass
class Said:
    """A child that says one thing."""

    text: str

    @property
    def argv(self) -> tuple[str, ...]:
        return (sys.executable, "-c", f"print({self.text!r}, flush=True); input()")


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"ok": 1}', '{"error": "BuildError"}'])
def test_nonsense_is_refused(text, tmp_path):
    with pytest.raises(OutputParseError, match="process of TensorRT answered"):
        TrtProcess("GPU-0", tmp_path, Said(text).argv)


@pytest.mark.parametrize("kind", ["DeviceCommandError", "SystemExit", "NoSuchError", "annotations"])
def test_unknown_errors_count_as_a_lost_device(kind, tmp_path):
    with pytest.raises(DeviceUnavailableError, match="does not start: it broke"):
        TrtProcess("GPU-0", tmp_path, Said(f'{{"error": "{kind}", "text": "it\\nbroke"}}').argv)


def test_a_child_that_cannot_be_started(tmp_path):
    with pytest.raises(DeviceUnavailableError, match="cannot start a process"):
        TrtProcess("GPU-0", tmp_path, ("/no/such/program",))


def test_without_a_driver_nothing_of_tensorrt_is_touched(monkeypatch):
    absent = probe.Probe(
        ok=False,
        reason="there is an NVIDIA GPU, but no driver for it",
        remedy="install NVIDIA's driver",
    )
    monkeypatch.setattr(probe, "probe", lambda: absent)
    monkeypatch.setattr(NvidiaTrt, "child", ("/no/such/program",))
    (found,) = NvidiaTrt.discover()
    assert not found.ready
    for told in (
        absent.reason,
        absent.remedy,
        "TensorRT is not installed: pip install tensorrt",
        PROVEN,
    ):
        assert told in found.hint
    with pytest.raises(DeviceUnavailableError, match="no driver for it; install NVIDIA's driver"):
        NvidiaTrt().open()


@pytest.mark.parametrize(("cuda", "major"), [((12, 8), 12), ((13, 1), 13), (None, 13)])
def test_a_missing_library_is_named_with_its_command(cuda, major, monkeypatch):
    monkeypatch.setattr(probe, "probe", lambda: probe.Probe(ok=True, devices=(PAPER,), cuda=cuda))
    monkeypatch.setattr(tensorrt_driver, "find_spec", lambda name: None)
    (found,) = NvidiaTrt.discover()
    assert (found.address, found.ready) == ("tensorrt:0", False)
    for command in (f"pip install tensorrt-cu{major}", f'pip install "cuda-bindings=={major}.*"'):
        assert command in found.hint
        with pytest.raises(DeviceUnavailableError, match=re.escape(command)):
            NvidiaTrt().open()


def test_the_real_child_without_a_gpu_says_so(monkeypatch, tmp_path):
    """No fake at all: the program a user has, cuda-bindings and TensorRT's bindings on a computer
    without a driver.
    """
    environment = wheels.environment(wheels.bindings(VERSION), wheels.cuda())
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, environment[name])
    if probe.probe().ok:
        pytest.skip("this computer has a GPU")
    with pytest.raises(DeviceUnavailableError, match=r"NVIDIA driver|no GPU"):
        TrtProcess("GPU-0", tmp_path)
