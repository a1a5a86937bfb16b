"""What a user of a phone meets: quick starts, few round trips, phones that vanish, hwbench killed,
phones that throttle.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hwbench.devices.android.device import Android
from hwbench.errors import DeviceLostError, DeviceUnavailableError, UsageError
from hwbench.lookup_tables.making.build import Plan, build
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.lookup_tables.making.networks import Effort
from hwbench.measuring import sessions, stopping
from hwbench.measuring.sessions import measure
from hwbench.network.graph import layers, load
from hwbench.records.measurement import Settings
from hwbench.store import open_store
from tests.devices.android.phone_support import on, rig
from tests.devices.android.pyadbd_support import soon
from tests.devices.android.rig import Rig
from tests.support.models import conv_workload

QUICK = Settings(budget_s=1.5, session_s=0.05, max_sessions=3)
SMALL = Plan(first=6, batch=3, most=9, effort=Effort(turns=4, runs=3))


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with rig("amd64") as phone:
        with Android(on(phone.address)):
            pass  # the bundle is there from now on
        yield phone


@pytest.fixture
def phone(running: Rig) -> Iterator[Rig]:
    """As it comes: nothing changed, nothing running; and it must be so again at the end."""
    running.start()
    running.set_thermal_status(0)
    running.cap_frequency(1.0)
    before = running.settings()
    yield running
    running.start()
    assert soon(lambda: running.processes() == [])
    assert running.settings() == before


def test_the_first_sample_comes_within_three_seconds(phone: Rig) -> None:
    start = time.monotonic()
    with Android(on(phone.address)) as device:
        device.run([device.prepare(conv_workload(), Settings())])
        assert time.monotonic() - start < 3.0


def test_hundreds_of_layers_cost_a_handful_of_round_trips(phone: Rig) -> None:
    with Android(on(phone.address)) as device:
        anchor = device.prepare(conv_workload(), Settings())
        device.profile_layers(anchor, 3)
        before, measured = device._phone.adb.trips, 0
        for width in range(8, 40, 2):
            workload = conv_workload((width, width, width, width))
            prepared = device.prepare(workload, Settings())
            device.run([anchor, prepared] * 3)
            device.profile_layers(prepared, 3)
            device.release(prepared)
            measured += len(layers(load(workload.onnx)))
        assert measured > 100
        assert device._phone.adb.trips - before <= 5 * measured // 100


def test_a_measurement_has_layers_conditions_and_nothing_to_distrust_of_the_phone(
    phone: Rig,
) -> None:
    with Android(on(phone.address)) as device:
        record = measure(device, conv_workload(), QUICK)
    assert record.profile is not None
    assert {"features.0.conv", "fc"} <= {layer.name for layer in record.profile.layers}
    assert record.before.battery == 0.87
    assert record.before.governor == "schedutil"
    assert record.clock.endswith("on the device")
    assert not {"throttled", "layers_unknown"} & {finding.code for finding in record.findings}


def test_isolated_sessions_tell_their_memory(phone: Rig) -> None:
    with Android(on(phone.address)) as device:
        record = measure(device, conv_workload(), replace(QUICK, isolate=True, layers=False))
    assert record.peak_memory_bytes is not None
    assert record.peak_memory_bytes > 5e6


@pytest.mark.parametrize("sign", ["status", "cap"])
def test_throttling_is_waited_out_and_told(
    phone: Rig, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    monkeypatch.setattr(stopping, "COOL_DOWN_S", 0.2)
    waits = []
    sleep = time.sleep

    def cool_down(seconds: float) -> None:
        if seconds != stopping.COOL_DOWN_S:  # others sleep too, on their way to the phone
            sleep(seconds)
            return
        waits.append(seconds)
        phone.set_thermal_status(0)
        phone.cap_frequency(1.0)

    monkeypatch.setattr(sessions.time, "sleep", cool_down)
    with Android(on(phone.address)) as device:
        assert device.conditions().throttled is False
        phone.set_thermal_status(2) if sign == "status" else phone.cap_frequency(0.6)
        assert device.conditions().throttled is True
        record = measure(device, conv_workload(), replace(QUICK, layers=False, budget_s=5))
    assert len(waits) == 1
    assert "throttled" in {finding.code for finding in record.findings}
    assert record.after.throttled is False


def test_a_second_measurement_of_a_phone_is_refused(phone: Rig) -> None:
    with (
        Android(on(phone.address)),
        pytest.raises(DeviceUnavailableError, match=f"in use by process {os.getpid()}"),
    ):
        Android(phone.address).open()


def test_a_phone_that_vanishes_is_lost_and_keeps_its_samples(phone: Rig) -> None:
    heard = []

    class MeasuringCallback(sessions.MeasuringCallback):
        def sampled(self, record, session, samples_s, blocks, *, warm_up):
            heard.extend(samples_s)
            if session == 1:
                phone.kill()

    with pytest.raises(DeviceLostError) as lost, Android(on(phone.address)) as device:
        measure(device, conv_workload(), replace(QUICK, min_sessions=8), MeasuringCallback())
    assert len(str(lost.value).splitlines()) == 1
    assert min(heard) > 0
    phone.start()
    with Android(on(phone.address)) as device:
        assert device.run([device.prepare(conv_workload(), Settings())]).values_s[0] > 0


def test_a_table_build_survives_unplugging_and_measures_nothing_twice(
    phone: Rig, tmp_path: Path
) -> None:
    def pull_the_plug(progress) -> None:
        if progress.networks == 3:
            phone.kill()

    settings, workload = Settings(budget_s=60), conv_workload((16, 32, 32), size=16)
    with open_store(str(tmp_path / "store.db")) as store:
        with pytest.raises(DeviceLostError), Android(on(phone.address)) as device:
            build(device, workload, settings, plan=SMALL, store=store, callback=pull_the_plug)
        assert sum(record["number"] >= 0 for record in store.records(RECORD).values()) == 3
        phone.start()
        seen = []
        with Android(on(phone.address)) as device:
            fitted = build(
                device, workload, settings, plan=SMALL, store=store, callback=seen.append
            )
        assert seen[0].networks == 4
        assert fitted.table.entries


BUSY = """
import sys, time
from hwbench.devices.android.device import Android
from hwbench.records.measurement import Settings
from tests.support.models import conv_workload
with Android(sys.argv[1]) as device:
    prepared = device.prepare(conv_workload(), Settings())
    print("busy", flush=True)
    while True: device.run([prepared] * 1000)
"""


def test_settings_and_processes_are_as_before_even_after_a_kill(phone: Rig) -> None:
    before = phone.settings()
    argv = [sys.executable, "-c", BUSY, on(phone.address, "mode=sustained")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        changed = phone.settings()
        assert (changed["stay_on_while_plugged_in"], changed["fixed_performance"]) == ("7", "true")
        assert any("hwbench_runner" in line for line in phone.processes())
        process.send_signal(signal.SIGKILL)
    assert soon(lambda: phone.processes() == []), "the runner outlived its stream"
    assert phone.settings() == changed, "nobody was left to restore them"
    with Android(on(phone.address)) as device:
        assert phone.settings()["fixed_performance"] == "false"
        assert len(list((phone.root / "data/local/tmp/hwbench/run").iterdir())) == 1, (
            "what the killed one left is gone"
        )
        device.conditions()
    assert phone.settings() == before
    assert not (phone.root / "data/local/tmp/hwbench/run").exists()


def test_an_unset_setting_is_unset_again(phone: Rig) -> None:
    setting = phone.root / "data/rig/settings/global/stay_on_while_plugged_in"
    value = setting.read_text()
    setting.unlink()
    try:
        with Android(on(phone.address)):
            assert setting.read_text() == "7\n"
        assert not setting.exists()
    finally:
        setting.write_text(value)


def test_a_setting_that_suits_us_is_left_alone(phone: Rig) -> None:
    setting = phone.root / "data/rig/settings/global/stay_on_while_plugged_in"
    setting.write_text("3\n")
    try:
        with Android(on(phone.address)):
            assert setting.read_text() == "3\n"
    finally:
        setting.write_text("0\n")


def test_a_phone_without_fixed_performance_says_so_and_is_left_as_it_was(phone: Rig) -> None:
    supported = phone.root / "data/rig/fixed_performance_supported"
    supported.write_text("false\n")
    try:
        with pytest.raises(DeviceUnavailableError, match="mode=burst"):
            Android(on(phone.address, "mode=sustained")).open()
    finally:
        supported.write_text("true\n")


def test_more_threads_than_cores_is_an_error_that_names_the_clusters(phone: Rig) -> None:
    with (
        Android(on(phone.address)) as device,
        pytest.raises(UsageError, match=r"99 threads .*cluster=NAME"),
    ):
        device.prepare(conv_workload(), Settings(threads=99))
