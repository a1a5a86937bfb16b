"""Ten things that spoil a measurement on a phone, and what mends each."""

from __future__ import annotations

from collections.abc import Mapping

from hwbench.devices.android import phone_facts as facts
from hwbench.devices.android.phone_cpus import Cluster
from hwbench.devices.base import Advice

SETTINGS = """
for name in low_power airplane_mode_on; do echo "$name=$(settings get global $name 2>/dev/null)"; done
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


def switches(output: bytes) -> dict[str, str]:
    """Read what `SETTINGS` printed."""
    return dict(
        line.split("=", 1) for line in output.decode("utf-8", "replace").splitlines() if "=" in line
    )


def advice(
    identity: facts.Identity, cluster: Cluster, now: facts.State, switched: Mapping[str, str]
) -> list[Advice]:
    """What would spoil a measurement on these CPUs of a phone.

    Args:
        identity: Of the phone.
        cluster: CPUs to measure on.
        now: Its state.
        switched: Its global settings.
    """
    return [
        *_heat(now),
        *_power(now, switched),
        *_processor(cluster, now, identity.highest_hz),
        *_rest(identity, now, switched),
    ]


def _heat(now: facts.State) -> list[Advice]:
    status, hottest, battery_c = now.thermal_status, now.processor_c, now.battery_c
    cool = (hottest is None or hottest < HOT_C) and (
        battery_c is None or battery_c < WARM_BATTERY_C
    )
    named = "not told" if status is None else STATUSES[min(status, len(STATUSES) - 1)]
    heat = f"processor {_celsius(hottest)}, battery {_celsius(battery_c)}"
    return [
        _check(
            "thermal_status",
            not status,
            f"thermal status {named}",
            "it slows itself down: let it cool, out of its case",
        ),
        _check(
            "temperature",
            cool,
            heat,
            "let it cool for some minutes, away from the sun and out of its case",
        ),
    ]


def _power(now: facts.State, switched: Mapping[str, str]) -> list[Advice]:
    level, charging, save = now.battery_level, now.charging, switched.get("low_power") == "1"
    full = level is None or level >= FULL_BATTERY
    return [
        _check(
            "battery",
            level is None or level >= LOW_BATTERY,
            "battery not told" if level is None else f"battery at {level:.0%}",
            f"charge it above {LOW_BATTERY:.0%}: phones lower their clocks when it is low",
        ),
        _check(
            "charging",
            not charging or full,
            {None: "charging not told", True: "charging", False: "not charging"}[charging],
            f"charging heats: charge it above {FULL_BATTERY:.0%} first, or measure over Wi-Fi (adb"
            " tcpip 5555)",
        ),
        _check(
            "power_save",
            not save,
            f"power saving {'on' if save else 'off'}",
            "switch it off: adb shell settings put global low_power 0",
        ),
    ]


def _processor(cluster: Cluster, now: facts.State, highest_hz: Mapping[int, float]) -> list[Advice]:
    capped = [
        cpu
        for cpu in cluster.cpus
        if now.caps_hz.get(cpu, 0) < highest_hz.get(cpu, 0) and cpu in now.caps_hz
    ]
    saving = [cpu for cpu in cluster.cpus if now.governors.get(cpu) == "powersave"]
    off = [cpu for cpu in (*cluster.cpus, *cluster.offline) if not now.online.get(cpu, True)]
    governor = next(
        (now.governors[cpu] for cpu in cluster.cpus if cpu in now.governors), "not told"
    )
    capped_text = (
        f", CPU {', '.join(map(str, capped))} capped below what they can do" if capped else ""
    )
    return [
        _check(
            "frequency",
            not capped and not saving,
            f"governor {governor}{capped_text}",
            "let it cool, switch power saving and game or battery profiles off; then look at"
            " scaling_max_freq again",
        ),
        _check(
            "cores",
            not off and bool(cluster.cpus),
            (
                f"CPU {', '.join(map(str, off))} of the {cluster.name} cluster switched off"
                if off
                else f"all {cluster.name} cores on"
            ),
            "wake the screen, let it cool, switch power saving off; or measure on another cluster"
            " (android:...,cluster=...)",
        ),
    ]


def _rest(identity: facts.Identity, now: facts.State, switched: Mapping[str, str]) -> list[Advice]:
    cores = max(
        1,
        sum(now.online.values())
        or max((len(c.cpus) for c in identity.clusters.values()), default=1),
    )
    free = identity.free_bytes
    load = "not told" if now.load_1m is None else f"{now.load_1m:.2f}"
    radio = {"0": ", radio on", "1": ", radio off"}.get(switched.get("airplane_mode_on", ""), "")
    return [
        _check(
            "screen",
            now.wakefulness in {"", "Awake"},
            f"screen {now.wakefulness.lower() or 'not told'}",
            "wake it: adb shell input keyevent KEYCODE_WAKEUP; asleep it parks its fast cores",
        ),
        _check(
            "background",
            now.load_1m is None or now.load_1m < BUSY_LOAD * cores,
            f"load {load} on {cores} cores{radio}",
            "close apps, switch airplane mode on, and wait some minutes after a restart or an"
            " update",
        ),
        _check(
            "space",
            free is None or free >= FREE_BYTES,
            "free space not told" if free is None else f"{free / 1e9:.1f} GB free",
            "make room: hwbench devices clean removes what hwbench put there",
        ),
    ]


def _celsius(value: float | None) -> str:
    return "not told" if value is None else f"{value:.0f} C"


def _check(code: str, ok: bool, text: str, remedy: str) -> Advice:
    return Advice(code, ok, text, "" if ok else remedy)
