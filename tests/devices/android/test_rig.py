"""The rig is as good as a phone where hwbench looks, is gone when the test is, and says what it
lacks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hwbench.devices.android.adb.client import Adb, connect
from hwbench.errors import DeviceUnavailableError
from tests.devices.android import rig_build
from tests.devices.android.rig import Rig, missing, phone
from tests.devices.android.rig_build import RigError, built, rig_folder
from tests.devices.android.rig_support import connected, own_key

ARCHES = ("amd64", "arm64")


@pytest.fixture(scope="module", params=ARCHES)
def peer(request: pytest.FixtureRequest) -> Iterator[tuple[Rig, Adb]]:
    with connected(request.param) as (rig, adb):
        yield rig, adb


def said(adb: Adb, *argv: str) -> str:
    return adb.run(argv).stdout.decode().strip()


def test_its_shell_is_that_of_a_phone(peer: tuple[Rig, Adb]) -> None:
    rig, adb = peer
    assert said(adb, "id", "-u") == "2000"
    assert said(adb, "uname", "-m") == {"amd64": "x86_64", "arm64": "aarch64"}[rig.arch]
    assert adb.run(["touch", "/system/bin/mine"], check=False).code != 0
    assert adb.run(["touch", "/usr/mine"], check=False).code != 0
    assert adb.run(["sh", "-c", "kill -SYS $$"], check=False).code == 159
    adb.push(b"#!/bin/sh\necho $1 >&2; exit 7\n", "/data/local/tmp/tool", mode=0o755)
    done = adb.run(["/data/local/tmp/tool", "a b"], check=False)
    assert (done.code, done.stdout, done.stderr) == (7, b"", b"a b\n")
    assert (rig.root / "data/local/tmp/tool").stat().st_uid == 2000


def test_it_says_what_it_is(peer: tuple[Rig, Adb]) -> None:
    rig, adb = peer
    assert said(adb, "getprop", "ro.product.model") == f"Rig {rig.arch}"
    assert said(adb, "getprop", "ro.no.such") == ""
    assert said(adb, "getprop", "ro.no.such", "else") == "else"
    assert f"[ro.serialno]: [RIG{rig.port}]" in said(adb, "getprop").splitlines()
    last = min(os.cpu_count(), 8) - 1
    assert said(adb, "cat", "/sys/devices/system/cpu/online") == (f"0-{last}" if last else "0")
    clocks = said(
        adb, "sh", "-c", "cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq"
    ).splitlines()
    assert len(clocks) == last + 1
    assert max(map(int, clocks)) == 2841600


def test_settings_are_kept_and_seen_from_outside(peer: tuple[Rig, Adb]) -> None:
    rig, adb = peer
    assert said(adb, "settings", "get", "global", "stay_on_while_plugged_in") == "0"
    assert said(adb, "settings", "get", "global", "never_set") == "null"
    said(adb, "svc", "power", "stayon", "true")
    assert said(adb, "settings", "get", "global", "stay_on_while_plugged_in") == "15"
    assert "mStayOn=true" in said(adb, "dumpsys", "power")
    said(adb, "settings", "put", "global", "other", "a b")
    said(adb, "cmd", "power", "set-fixed-performance-mode-enabled", "true")
    assert rig.settings() == {
        "stay_on_while_plugged_in": "15",
        "other": "a b",
        "fixed_performance": "true",
    }
    assert said(adb, "settings", "delete", "global", "other") == "Deleted 1 rows"
    said(adb, "settings", "put", "global", "stay_on_while_plugged_in", "0")
    (rig.root / "data/rig/fixed_performance_supported").write_text("false")
    refused = adb.run(["cmd", "power", "set-fixed-performance-mode-enabled", "false"], check=False)
    assert (refused.code, b"Power HAL" in refused.stderr) == (255, True)
    assert rig.settings() == {"stay_on_while_plugged_in": "0", "fixed_performance": "true"}
    assert (rig.root / "data/rig/calls").read_text().splitlines()[
        -1
    ] == "cmd power set-fixed-performance-mode-enabled false"
    assert adb.run(["settings", "put", "nowhere", "a", "b"], check=False).code == 255


def test_it_grows_hot_when_told(peer: tuple[Rig, Adb]) -> None:
    rig, adb = peer
    assert "Thermal Status: 0" in said(adb, "dumpsys", "thermalservice").splitlines()
    rig.set_thermal_status(3)
    rig.cap_frequency(0.5)
    hot = said(adb, "dumpsys", "thermalservice")
    assert "Thermal Status: 3" in hot.splitlines()
    assert "Temperature{mValue=33.1, mType=3, mName=skin-therm, mStatus=3}" in hot
    big = f"/sys/devices/system/cpu/cpu{min(os.cpu_count(), 8) - 1}/cpufreq/scaling_max_freq"
    assert said(adb, "cat", big) == "1420800"
    rig.cap_frequency(1.0)
    assert said(adb, "cat", big) == "2841600"
    battery = said(adb, "dumpsys", "battery").splitlines()
    assert battery[0] == "Current Battery Service state:"
    assert "  level: 87" in battery


@pytest.mark.parametrize("arch", ARCHES)
def test_it_asks_its_owner_about_strangers(arch: str) -> None:
    with own_key() as key, phone(arch) as rig:
        for answer in ("ignore", "deny"):
            rig.dialog = answer
            with pytest.raises(DeviceUnavailableError):
                connect(rig.address, timeout_s=1.0)
        rig.dialog = "allow"
        with connect(rig.address) as adb:
            assert said(adb, "id", "-u") == "2000"
        rig.dialog = "ignore"
        rig.trust(key)
        with connect(rig.address) as adb:
            assert said(adb, "id", "-u") == "2000"


@pytest.mark.parametrize("arch", ARCHES)
def test_it_comes_back_after_a_loss_of_power(arch: str) -> None:
    with connected(arch) as (rig, adb):
        adb.push(b"kept", "/data/local/tmp/kept")
        remote = adb.start(["sleep", "1000"])
        eventually(lambda: [line for line in rig.processes() if "sleep 1000" in line])
        port = rig.port
        rig.kill()
        rig.kill()
        assert not listens(port)
        assert rig.processes() == []
        remote.close(0.1)
        rig.start()
        rig.start()
        assert rig.port == port
        assert adb.pull("/data/local/tmp/kept", limit_bytes=10) == b"kept"
        assert not [line for line in rig.processes() if "sleep" in line]


def test_two_phones_at_once_are_two() -> None:
    with connected("amd64") as (one, first), connected("amd64") as (other, second):
        assert one.port != other.port
        first.push(b"1", "/data/local/tmp/mine")
        assert second.stat("/data/local/tmp/mine") is None


@pytest.mark.parametrize("arch", ARCHES)
def test_a_test_that_is_killed_leaves_nothing(
    arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Phones in a folder of this test's own: the next one that starts anywhere cleans up there.
    builds = rig_folder() / "builds"
    builds.mkdir(parents=True, exist_ok=True)
    (tmp_path / "builds").symlink_to(builds)
    monkeypatch.setenv("HWBENCH_RIG", str(tmp_path))
    code = "import sys; from tests.devices.android.rig import phone\n"
    code += (
        f"with phone({arch!r}) as rig: print(rig.port, rig.root, rig._process.pid, flush=True);"
        " sys.stdin.read()"
    )
    with phone(arch):  # built, and its folder stays in use
        test = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        port, root, first = test.stdout.readline().split()
        assert listens(int(port))
        test.send_signal(signal.SIGKILL)
        test.communicate(timeout=10)
        eventually(lambda: not listens(int(port)))
        eventually(lambda: not Path(f"/proc/{first}").exists())
        assert root not in Path("/proc/self/mountinfo").read_text()
        assert Path(root).exists()
        with phone(arch):
            assert not Path(root).parent.exists()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def eventually(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_stays_after_the_block() -> None:
    with phone("amd64") as rig:
        assert rig.root.is_dir()
    assert not rig.root.parent.exists()
    assert not listens(rig.port)
    assert str(rig.root) not in Path("/proc/self/mountinfo").read_text()


BUILDER = """
import time
from tests.devices.android import rig_build
def build(arch, scratch, deadline):
    print("builds", flush=True)
    (scratch / "phone").mkdir()
    time.sleep(1)
    (scratch / "phone" / "complete").touch()
    return scratch / "phone"
rig_build._build = build
print((rig_build.built("amd64") / "complete").exists(), flush=True)
"""


def test_one_process_builds_and_the_others_wait(tmp_path: Path) -> None:
    env = os.environ | {"HWBENCH_RIG": str(tmp_path)}
    (tmp_path / "builds/.amd64-of-a-killed-process/phone").mkdir(parents=True)
    argv = [sys.executable, "-c", BUILDER]
    killed = subprocess.Popen(argv, stdout=subprocess.PIPE, env=env, text=True)
    assert killed.stdout.readline() == "builds\n"
    killed.kill()
    killed.communicate()
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, env=env, text=True) for _ in range(2)]
    told = sorted(process.communicate(timeout=60)[0] for process in both)
    assert told == ["True\n", "builds\nTrue\n"]
    names = sorted(path.name for path in (tmp_path / "builds").iterdir())
    assert names == [f"amd64-{rig_build._identity('amd64')}", "amd64.lock"]


def test_builds_of_other_checkouts_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWBENCH_RIG", str(tmp_path))
    monkeypatch.setattr(
        rig_build,
        "_build",
        lambda arch, scratch, deadline: (scratch / "phone").mkdir() or scratch / "phone",
    )
    for number in range(4):
        monkeypatch.setattr(rig_build, "_identity", lambda arch, number=number: f"{number}")
        built("arm64")
        os.utime(tmp_path / f"builds/arm64-{number}", (number, number))
    assert sorted(path.name for path in (rig_folder() / "builds").glob("arm64-*")) == [
        "arm64-2",
        "arm64-3",
    ]


def test_another_adbd_is_not_patched_blindly(tmp_path: Path) -> None:
    (tmp_path / "adbd").write_bytes(bytes(1 << 18))
    with pytest.raises(RigError, match="adbd has changed"):
        rig_build._authorise(tmp_path / "adbd", rig_build.KINDS["amd64"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_step_that_fails_is_quoted() -> None:
    with pytest.raises(RigError, match=r"sh -c .*failed \(3\): broken"):
        rig_build._call(["sh", "-c", "echo broken >&2; exit 3"], time.monotonic() + 10)
    with pytest.raises(RigError, match="timed out"):
        rig_build._call(["sleep", "10"], time.monotonic() + 0.1)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing.cache_clear()
    try:
        monkeypatch.setenv("PATH", str(tmp_path))
        if os.geteuid() == 0:
            assert "aarch64-linux-gnu-g++" in missing("arm64")
            assert "qemu-user-static" in missing("arm64")
            with (
                pytest.raises(pytest.skip.Exception, match=r"dpkg-deb.*apt-get install"),
                phone("amd64"),
            ):
                pass
        missing.cache_clear()
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert "root" in missing("amd64")
    finally:
        missing.cache_clear()
