"""Load without a pause: whether and when a device slows down, and how it is let cool before."""

from __future__ import annotations

from collections.abc import Callable

from hwbench.measuring.change_points import find_steps
from hwbench.records.device import Conditions
from hwbench.records.findings import Finding
from hwbench.records.sustained import SustainedLoad

WINDOWS = 120
"""Windows of a load: six of them are the burst."""
LEAST_WINDOW_S = 0.2
"""Seconds of a window at least."""
LONGEST_REST_S, LOOK_S = 60.0, 5.0
"""Seconds that a device is given to cool before a load, and between two looks at it."""
COOLING_C = 0.5
"""A device still cools if it becomes colder by so much between two looks."""
SLOWER = 0.02
"""Smallest lasting slow-down that counts."""


def rest(look: Callable[[], list[Conditions]], idle: Callable[[float], None]) -> float:
    """Let devices cool, as long as they are throttled or become colder, for a minute at most.

    Devices that tell neither are not waited for.

    Args:
        look: Reads the states of the devices.
        idle: Lets time pass.

    Returns:
        The seconds that they were given.
    """
    rested_s = 0.0
    before = look()
    while rested_s < LONGEST_REST_S:
        if not any(state.throttled or state.temperature_c is not None for state in before):
            return rested_s
        idle(LOOK_S)
        rested_s += LOOK_S
        after = look()
        if not any(_still_cools(*states) for states in zip(before, after, strict=True)):
            return rested_s
        before = after
    return rested_s


def _still_cools(before: Conditions, after: Conditions) -> bool:
    if after.throttled:
        return True
    if before.temperature_c is None or after.temperature_c is None:
        return False
    return before.temperature_c - after.temperature_c >= COOLING_C


def find_throttling(load: SustainedLoad) -> float | None:
    """Seconds of load after which a network became slower for good; None if it did not.

    That is the first lasting step upwards of its latency (`change_points`), not what the device
    says: some throttle in silence.
    """
    latencies_s = [window.latency_s for window in load.windows]
    for step in find_steps(latencies_s, SLOWER):
        if step.ratio > 1:
            return load.windows[step.index].at_s
    return None


def judge_load(load: SustainedLoad) -> Finding | None:
    """Whether a network is proven slower in the end than at first."""
    slowdown = load.slowdown
    if slowdown.ci[0] <= 1 + SLOWER:
        return None
    after_s = find_throttling(load)
    when = "" if after_s is None else f", from {after_s:.0f} s on"
    heat = "" if load.hottest_c is None else f"; it became {load.hottest_c:.0f} °C hot"
    text = (
        f"without a pause it takes {slowdown.estimate:.2f} times as long in the end as at first"
        f" (95 % interval {slowdown.ci[0]:.2f} to {slowdown.ci[1]:.2f}){when}{heat}"
    )
    return Finding("slows_down", text)
