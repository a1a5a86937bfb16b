"""What phones and boards tell of themselves, as they print it, and what is made of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.devices.android import phone_facts as facts
from hwbench.devices.android.phone_cpus import Cluster, find_clusters
from hwbench.errors import DeviceUnavailableError, HwbenchError, OutputParseError, UsageError

PIXEL = {
    "machine": "aarch64",
    "kernel": "5.10.157-android13-4",
    "properties": (
        """[ro.build.fingerprint]: [google/cheetah/cheetah:14/AP2A.240805.005/12025142:user/release-keys]
[ro.build.version.release]: [14]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 7 Pro]
[ro.serialno]: [2A1B3C]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G2]
[odd]: [a]: [b]"""
    ),
    "cpuinfo": (
        """processor\t: 0
Features\t: fp asimd aes asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd05

processor\t: 4
CPU implementer\t: 0x41
CPU part\t: 0xd41

processor\t: 6
CPU implementer\t: 0x41
CPU part\t: 0xd44
"""
    ),
    "cpus": "\n".join(
        [f"cpu{i}/online 1" for i in range(1, 8)]
        + [f"cpu{i}/cpu_capacity {124 if i < 4 else 427 if i < 6 else 1024}" for i in range(8)]
        + [
            f"cpu{i}/cpufreq/cpuinfo_max_freq {1803000 if i < 4 else 2348000 if i < 6 else 2850000}"
            for i in range(8)
        ]
    ),
    "present": "0-7",
    "space": (
        "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/block/dm-44 113254436 32145668"
        " 81108768 29% /data"
    ),
    "files": (
        "13600 bundle/abc/hwbench_runner\n8 bundle/abc/tested\n44700000 models/0f.onnx\nstat:"
        " nonsense"
    ),
}
BOARD = {
    "machine": "aarch64",
    "kernel": "6.1.0-rpi7",
    "properties": "",
    "cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n",
    "board": "Raspberry Pi 4 Model B Rev 1.4",
    "cpus": "\n".join(f"cpu{i}/cpufreq/cpuinfo_max_freq 1500000" for i in range(4)),
    "present": "0-3",
}
STATE = {
    "load": "3.25 2.80 2.51 2/1893 12345",
    "cpus": (
        "cpu0/online 1\ncpu6/online 0\ncpu0/cpufreq/scaling_cur_freq"
        " 738000\ncpu7/cpufreq/scaling_cur_freq 2850000\ncpu7/cpufreq/scaling_max_freq"
        " 2850000\ncpu7/cpufreq/scaling_governor sched_pixel"
    ),
    "zones": (
        "class/thermal/thermal_zone0/type BIG\nclass/thermal/thermal_zone1/type"
        " battery\nclass/thermal/thermal_zone2/type cpu-dead\nclass/thermal/thermal_zone3/type"
        " modem\nclass/thermal/thermal_zone0/temp 51300\nclass/thermal/thermal_zone1/temp"
        " 29100\nclass/thermal/thermal_zone2/temp -273000\nclass/thermal/thermal_zone3/temp 66"
    ),
    "battery": (
        "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  status: 2\n"
        "  present: true\n  level: 57\n"
        "  scale: 100\n  temperature: 291\n  technology: Li-ion"
    ),
    "thermal": (
        "IsStatusOverride: false\nThermalEventListeners:\n\tcallbacks: 2\nThermal Status: 0\nCached"
        " temperatures:\n"
    ),
    "power": "  mWakefulness=Awake",
}


def printed(told: Mapping[str, str]) -> bytes:
    return "".join(f"\x1e{name}\n{text}\n" for name, text in told.items()).encode()


def state(**changes: str) -> facts.PhoneState:
    return facts.parse_state(printed(STATE | changes))


def test_a_phone_is_known_by_maker_model_chip_and_system() -> None:
    who = facts.parse_identity(printed(PIXEL))
    assert (who.model, who.soc, who.android, who.serial) == (
        "Google Pixel 7 Pro",
        "Google Tensor G2",
        "14",
        "2A1B3C",
    )
    assert (who.machine, who.features) == ("aarch64", "asimd asimddp")
    assert (
        who.cores
        == "4 x Cortex-A55 at 1.80 GHz, 2 x Cortex-A78 at 2.35 GHz, 2 x Cortex-X1 at 2.85 GHz"
    )
    assert who.free_bytes == 81108768 * 1024
    assert who.files == {
        "bundle/abc/hwbench_runner": 13600,
        "bundle/abc/tested": 8,
        "models/0f.onnx": 44700000,
    }


def test_a_board_without_androids_tools_is_known_by_its_device_tree() -> None:
    who = facts.parse_identity(printed(BOARD))
    assert (who.model, who.android, who.serial, who.free_bytes) == (
        "Raspberry Pi 4 Model B Rev 1.4",
        "",
        "",
        None,
    )
    assert who.cores == "4 x Cortex-A72 at 1.50 GHz"
    assert list(who.clusters) == ["big"]


def test_a_shell_that_is_no_phones_is_refused() -> None:
    for output in (
        b"",
        b"sh: not found",
        printed(PIXEL | {"machine": ""}),
        printed(PIXEL | {"present": ""}),
    ):
        with pytest.raises(DeviceUnavailableError, match="Android or Linux"):
            facts.parse_identity(output)


SLOW, MIDDLE, FAST = (124, 1803000), (427, 2348000), (1024, 2850000)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ([SLOW] * 4, {"big": (0, 1, 2, 3)}),
        ([SLOW, SLOW, FAST], {"big": (2,), "little": (0, 1), "all": (0, 1, 2)}),
        ([FAST, SLOW], {"big": (0,), "little": (1,), "all": (1, 0)}),
        ([SLOW, MIDDLE, FAST], {"big": (2,), "middle": (1,), "little": (0,), "all": (0, 1, 2)}),
        (
            [SLOW, FAST, MIDDLE, (300, 1)],
            {"big": (1,), "middle": (3, 2), "little": (0,), "all": (0, 3, 2, 1)},
        ),
        ([(0, 0)] * 2, {"big": (0, 1)}),
        ([(0, 1500000), (0, 2000000)], {"big": (1,), "little": (0,), "all": (0, 1)}),
    ],
)
def test_cpus_of_equal_speed_are_a_cluster(
    kinds: list[tuple[int, int]], expected: dict[str, tuple[int, ...]]
) -> None:
    found = find_clusters(dict(enumerate(kinds)), {})
    assert {name: cluster.cpus for name, cluster in found.items()} == expected


def test_cpus_that_are_off_are_not_measured_on_but_remembered() -> None:
    found = find_clusters({0: SLOW, 1: SLOW, 2: FAST}, {1: False, 2: False})
    assert found["little"] == Cluster("little", (0,), (1,))
    assert found["big"] == Cluster("big", (), (2,))


def test_a_cluster_that_a_phone_lacks_is_an_error_that_lists_the_others() -> None:
    with pytest.raises(UsageError, match=r"'middle'; it has big$"):
        facts.parse_identity(printed(BOARD)).cluster("middle")


def test_the_state_becomes_conditions() -> None:
    conditions = state().conditions((7,), {7: 2.85e9})
    assert conditions.frequency_hz == (2.85e9,)
    assert (conditions.governor, conditions.load_1m) == ("sched_pixel", 3.25)
    assert (conditions.battery, conditions.charging, conditions.throttled) == (0.57, True, False)
    assert conditions.temperature_c == 51.3, (
        "of the processor, although the modem is hotter; a dead sensor does not count"
    )
    assert dict(conditions.details)["battery_c"] == "29.1"


@pytest.mark.parametrize(
    ("changes", "before", "throttled"),
    [
        ({}, {7: 2.85e9}, False),
        ({}, {7: 2.9e9}, True),
        ({}, {6: 2.9e9}, False),
        ({"thermal": "Thermal Status: 1"}, {7: 2.85e9}, True),
        ({"thermal": "Thermal Status: 3"}, {}, True),
        ({"thermal": "", "cpus": ""}, {}, None),
    ],
)
def test_a_fallen_cap_or_a_thermal_status_is_throttling(
    changes: dict[str, str], before: dict[int, float], throttled: bool | None
) -> None:
    assert state(**changes).conditions((7,), before).throttled is throttled


@pytest.mark.parametrize(
    ("battery", "level", "charging"),
    [
        ("", None, None),
        ("  present: false\n  level: 50\n  scale: 100\n  status: 1", None, False),
        ("  level: 100\n  scale: 200\n  status: 5", 0.5, False),
        ("  level: high\n  scale: 0", None, None),
    ],
)
def test_batteries_are_read_with_care(
    battery: str, level: float | None, charging: bool | None
) -> None:
    seen = state(battery=battery)
    assert (seen.battery_level, seen.charging) == (level, charging)


def test_without_a_sensor_of_the_processor_the_hottest_counts() -> None:
    zones = (
        "class/thermal/thermal_zone0/type a\nclass/thermal/thermal_zone0/temp"
        " 41\nclass/thermal/thermal_zone1/temp 42000"
    )
    assert state(zones=zones).processor_c == 42
    assert state(zones="").processor_c is None


def test_output_that_is_no_state_is_refused() -> None:
    with pytest.raises(OutputParseError):
        facts.parse_state(b"sh: syntax error")


@given(
    st.dictionaries(
        st.sampled_from([*PIXEL, *STATE]),
        st.text() | st.sampled_from([*PIXEL.values(), *STATE.values()]),
    )
)
def test_whatever_is_printed_is_read_or_refused(told: dict[str, str]) -> None:
    for read in (facts.parse_identity, facts.parse_state):
        try:
            seen = read(printed(told))
        except HwbenchError:
            continue
        if isinstance(seen, facts.PhoneState):
            assert seen.conditions((0, 7), {0: 1e9}).at_utc
        else:
            assert all(
                set(cluster.cpus).isdisjoint(cluster.offline) for cluster in seen.clusters.values()
            )
