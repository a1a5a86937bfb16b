"""Checks of ten things that spoil a measurement on a phone, and what mends each."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.devices.android import phone_facts as facts
from hwbench.devices.android.phone_cpus import Cluster
from hwbench.devices.base import Advice

SETTINGS_SCRIPT = """
for name in low_power airplane_mode_on
do echo "$name=$(settings get global $name 2>/dev/null)"; done
exit 0
"""
"""Prints global settings that are switches."""
HOT_C, WARM_BATTERY_C = 60.0, 38.0
LOW_BATTERY, FULL_BATTERY = 0.3, 0.8
BUSY_LOAD = 0.5
"""1-minute load per core above which other work disturbs."""
FREE_BYTES = 500e6
STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's PowerManager.THERMAL_STATUS_*."""


def parse_settings(output: bytes) -> dict[str, str]:
    """Parse what `SETTINGS_SCRIPT` printed: the value of each setting by its name."""
    settings = {}
    for line in output.decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            settings[name] = value
    return settings


def check_phone(
    identity: facts.PhoneIdentity,
    cluster: Cluster,
    state: facts.PhoneState,
    settings: Mapping[str, str],
) -> list[Advice]:
    """Check what would spoil a measurement on some CPUs of a phone.

    Args:
        identity: What the phone is.
        cluster: The CPUs to measure on.
        state: How the phone is now.
        settings: Its global settings, as `parse_settings` gives them.

    Returns:
        One entry per check; what is unknown passes.
    """
    return [
        *_check_heat(state),
        *_check_power(state, settings),
        *_check_cpus(cluster, state, identity.highest_hz),
        _check_screen(state),
        _check_load(identity, state, settings),
        _check_space(identity),
    ]


def _check_heat(state: facts.PhoneState) -> list[Advice]:
    status, processor_c, battery_c = state.thermal_status, state.processor_c, state.battery_c
    cool = (processor_c is None or processor_c < HOT_C) and (
        battery_c is None or battery_c < WARM_BATTERY_C
    )
    status_name = "unknown" if status is None else STATUSES[min(status, len(STATUSES) - 1)]
    return [
        _make_advice(
            "thermal_status",
            not status,
            f"thermal status {status_name}",
            "it slows itself down: let it cool, out of its case",
        ),
        _make_advice(
            "temperature",
            cool,
            f"processor {_celsius_text(processor_c)}, battery {_celsius_text(battery_c)}",
            "let it cool for some minutes, away from the sun and out of its case",
        ),
    ]


def _check_power(state: facts.PhoneState, settings: Mapping[str, str]) -> list[Advice]:
    level, charging = state.battery_level, state.charging
    charging_text = "charging unknown"
    if charging is not None:
        charging_text = "charging" if charging else "not charging"
    saves_power = settings.get("low_power") == "1"
    return [
        _make_advice(
            "battery",
            level is None or level >= LOW_BATTERY,
            "battery unknown" if level is None else f"battery at {level:.0%}",
            f"charge it above {LOW_BATTERY:.0%}: phones lower their clocks when it is low",
        ),
        _make_advice(
            "charging",
            not charging or level is None or level >= FULL_BATTERY,
            charging_text,
            f"charging heats: charge it above {FULL_BATTERY:.0%} first, or measure over Wi-Fi (adb"
            " tcpip 5555)",
        ),
        _make_advice(
            "power_save",
            not saves_power,
            f"power saving {'on' if saves_power else 'off'}",
            "switch it off: adb shell settings put global low_power 0",
        ),
    ]


def _check_cpus(
    cluster: Cluster, state: facts.PhoneState, highest_hz: Mapping[int, float]
) -> list[Advice]:
    limited = [cpu for cpu in cluster.cpus if cpu in state.caps_hz and cpu in highest_hz]
    capped = [str(cpu) for cpu in limited if state.caps_hz[cpu] < highest_hz[cpu]]
    governors = [state.governors[cpu] for cpu in cluster.cpus if cpu in state.governors]
    frequency_text = f"governor {governors[0] if governors else 'unknown'}"
    if capped:
        frequency_text += f", CPU {', '.join(capped)} capped below what they can do"
    every_cpu = (*cluster.cpus, *cluster.offline)
    switched_off = [str(cpu) for cpu in every_cpu if not state.online.get(cpu, True)]
    cores_text = f"all {cluster.name} cores on"
    if switched_off:
        cores_text = f"CPU {', '.join(switched_off)} of the {cluster.name} cluster switched off"
    return [
        _make_advice(
            "frequency",
            not capped and "powersave" not in governors,
            frequency_text,
            "let it cool, switch power saving and game or battery profiles off; then look at"
            " scaling_max_freq again",
        ),
        _make_advice(
            "cores",
            not switched_off and bool(cluster.cpus),
            cores_text,
            "wake the screen, let it cool, switch power saving off; or measure on another cluster"
            " (android:...,cluster=...)",
        ),
    ]


def _check_screen(state: facts.PhoneState) -> Advice:
    return _make_advice(
        "screen",
        state.wakefulness in {"", "Awake"},
        f"screen {state.wakefulness.lower() or 'unknown'}",
        "wake it: adb shell input keyevent KEYCODE_WAKEUP; asleep it parks its fast cores",
    )


def _check_load(
    identity: facts.PhoneIdentity, state: facts.PhoneState, settings: Mapping[str, str]
) -> Advice:
    cores = sum(state.online.values())
    if not cores:
        # Which CPUs are on is unknown: the largest cluster is `all` where there are several.
        cores = max((len(cluster.cpus) for cluster in identity.clusters.values()), default=1)
    cores = max(1, cores)
    load_text = "unknown" if state.load_1m is None else f"{state.load_1m:.2f}"
    radio_texts = {"0": ", radio on", "1": ", radio off"}
    radio_text = radio_texts.get(settings.get("airplane_mode_on", ""), "")
    return _make_advice(
        "background",
        state.load_1m is None or state.load_1m < BUSY_LOAD * cores,
        f"load {load_text} on {cores} cores{radio_text}",
        "close apps, switch airplane mode on, and wait some minutes after a restart or an update",
    )


def _check_space(identity: facts.PhoneIdentity) -> Advice:
    free_bytes = identity.free_bytes
    return _make_advice(
        "space",
        free_bytes is None or free_bytes >= FREE_BYTES,
        "free space unknown" if free_bytes is None else f"{free_bytes / 1e9:.1f} GB free",
        "make room: hwbench devices clean removes what hwbench put there",
    )


def _celsius_text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} C"


def _make_advice(code: str, ok: bool, text: str, remedy: str) -> Advice:
    return Advice(code, ok, text, "" if ok else remedy)
