"""Showing to people what a lab is doing: its devices, who holds what, and what waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench.render.blocks import Block, Column, Line, Notes, Table, View
from hwbench.render.units import plural

DEVICES = (
    Column("device", path=True),
    Column("target", path=True),
    Column("state"),
    Column("for", right=True),
    Column("does", path=True),
    Column("done", right=True),
)
JOBS = (
    Column("work", path=True),
    Column("on", path=True),
    Column("devices", right=True),
    Column("waiting", right=True),
    Column("running", right=True),
    Column("done", right=True),
    Column("asked for by", path=True),
)


def status_view(status: Mapping[str, Any]) -> View:
    """Make the view of a lab's state.

    Args:
        status: The state, as `Lab.status` gives it.
    """
    devices, jobs = status["devices"], status["jobs"]
    states = [device["state"] for device in devices]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    counts = counts or "none yet"
    waiting = sum(job["waiting"] for job in jobs)
    blocks: list[Block] = [
        Line(
            f"lab at {status['address']}: {plural(len(devices), 'device')} ({counts}),"
            f" {plural(waiting, 'task')} waiting",
            "bold",
        )
    ]
    if devices:
        blocks.append(Table(DEVICES, tuple(_device_row(device) for device in devices)))
    if jobs:
        blocks.append(Table(JOBS, tuple(_job_row(job) for job in jobs)))
    failures = tuple((device["name"], device["reason"]) for device in devices if device["reason"])
    if failures:
        blocks.append(Notes(failures))
    return blocks


def _device_row(device: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        device["name"],
        device["target"],
        device["state"],
        duration(device["since_s"]),
        device["job"] or "-",
        str(device["done"]),
    )


def _job_row(job: Mapping[str, Any]) -> tuple[str, ...]:
    client = job["client"].partition(", ")[0]
    if not job["listening"]:
        client += ", gone"
    counts = (str(job[name]) for name in ("devices", "waiting", "running", "done"))
    return (job["title"], job["device"], *counts, client)


def duration(seconds: float) -> str:
    """Write a time that passed: `12 s`, `3 min`, `5 h`, `2 d`."""
    for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"
