"""The fake phone is one: its own folders and Android commands, whose state a test sees and sets.

This computer stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hwbench.devices.android.adb.client import Adb, connect
from hwbench.devices.shared.runner.process import RunnerProcess, build_runner
from tests.devices.android.pyadbd_phone import FakePhone, needs_namespace

pytestmark = [needs_namespace, pytest.mark.usefixtures("alone")]


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[FakePhone]:
    with FakePhone(tmp_path / "phone", cores=8) as running:
        yield running


@pytest.fixture
def fake(phone: FakePhone) -> Iterator[Adb]:
    with connect(phone.address) as adb:
        yield adb


def test_its_folders_are_its_own(phone: FakePhone, fake: Adb) -> None:
    there = Path("/data").exists()
    fake.push(b"contents", "/data/local/tmp/hwbench/file", mode=0o755)
    assert (phone.home / "hwbench/file").read_bytes() == b"contents"
    assert fake.run(["cat", "/data/local/tmp/hwbench/file"]).stdout == b"contents"
    fake.script("echo more >/data/local/tmp/hwbench/more")
    assert fake.pull("/data/local/tmp/hwbench/more", limit_bytes=100) == b"more\n"
    assert Path("/data").exists() == there
    assert fake.run(["sh", "-c", "echo /sys/devices/system/cpu/cpu?"]).text.count("cpu/cpu") == 8
    assert fake.run(["cat", "/sys/devices/system/cpu/cpu7/cpu_capacity"]).text == "1024\n"
    assert [
        line
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if str(phone.folder) in line
    ] == []


def test_it_runs_programs_from_its_own_folder(phone: FakePhone, fake: Adb) -> None:
    fake.push(build_runner(), "/data/local/tmp/runner", mode=0o755)
    with RunnerProcess(fake.start(["./runner"], cwd="/data/local/tmp")) as runner:
        assert runner.memory() > 0


def test_android_commands_keep_their_state_where_a_test_sees_it(
    phone: FakePhone, fake: Adb
) -> None:
    assert fake.run(["getprop", "ro.product.model"]).text == "Fake Phone 1\n"
    assert "[ro.soc.model]: [NB-1]" in fake.run(["getprop"]).text
    before = phone.changeable()
    assert phone.setting("global", "stay_on_while_plugged_in") == "0"
    fake.run(["svc", "power", "stayon", "true"])
    assert phone.setting("global", "stay_on_while_plugged_in") == "15"
    fake.run(["settings", "put", "system", "screen_off_timeout", "1800000"])
    assert phone.changeable() != before
    fake.run(["settings", "put", "system", "screen_off_timeout", "60000"])
    fake.run(["settings", "put", "global", "stay_on_while_plugged_in", "0"])
    assert phone.changeable() == before
    assert fake.run(["settings", "get", "secure", "nothing"]).text == "null\n"
    fake.run(["cmd", "power", "set-fixed-performance-mode-enabled", "true"])
    assert phone.state("fixed_performance") == "true"
    assert "svc power stayon true" in phone.calls()


def test_its_condition_is_what_the_test_sets(phone: FakePhone, fake: Adb) -> None:
    phone.state("level", "42")
    phone.state("thermal_status", "3")
    phone.state("wakefulness", "Asleep")
    assert "  level: 42\n" in fake.run(["dumpsys", "battery"]).text
    assert "Thermal Status: 3\n" in fake.run(["dumpsys", "thermalservice"]).text
    fake.run(["input", "keyevent", "WAKEUP"])
    assert "mWakefulness=Awake" in fake.run(["dumpsys", "power"]).text
    assert fake.run(["dumpsys", "nothing"], check=False).code


def test_a_folder_of_a_phone_that_is_gone_serves_the_next_one(phone: FakePhone, fake: Adb) -> None:
    fake.push(b"kept", "/data/local/tmp/kept")
    phone.adbd.stop()
    phone.adbd.start()
    with connect(phone.address) as again:
        assert again.pull("/data/local/tmp/kept", limit_bytes=4) == b"kept"
