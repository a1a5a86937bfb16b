"""Where a lab stops scaling: up to 1,000 devices on 100 hosts, simulated with the real pool and
with costs that were measured.

Three things could be too slow: the pool, which is one process and answers one call after the other;
the client, which keeps each result in its store before it takes the next; and the work itself, as a
table is built in batches that wait for each other. The pool's own time is measured here as it runs;
what Ray adds to a call was measured on a real lab (`CALL_S`).
"""

from __future__ import annotations

import heapq
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hwbench.lab.pool import Pool
from hwbench.lab.tasks import Task, TaskKind
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from hwbench.store import open_store
from runners.studies._results import save_study

DEVICES = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)
PER_HOST = 10
CALL_S = 0.8e-3
"""Seconds of the pool's process that Ray takes for a call.

On a real lab asking took 0.55 ms of a processor, reporting 0.87.
"""
NETWORK_S, NETWORK_SD = 0.35, 0.25
"""Seconds and log deviation of one network of a table on a CPU or a phone; an assumption."""
PROFILE_S = 10.0
USED = 0.9
TASKS_EACH = 30
"""Tasks per device where there is work for all."""
FIRST, BATCH, MOST = 48, 16, 160
"""Networks of one table, as `hwbench.lookup_tables.Plan` has them."""
FIT_S = 0.9
"""Seconds of a processor that the client takes between two batches to fit the table of ResNet-20
and choose the next networks.
"""
INFO = DeviceInfo("android:A", "Pixel 8, Tensor G3", "Pixel 8", "onnxruntime 1")


@dataclass
class Load:
    """What came of one simulation.

    Attributes:
        devices: In the lab.
        tasks: Done.
        took_s: Virtual seconds.
        work_s: Seconds of measuring in all.
        pool_s: Seconds that the pool was busy.
        waited_s: Seconds that devices waited for the pool's answer, in all.
        paused_s: Seconds in which the client fitted.
    """

    devices: int
    tasks: int
    took_s: float
    work_s: float
    pool_s: float
    waited_s: float
    paused_s: float

    @property
    def speed_up(self) -> float:
        """Over one device."""
        return self.work_s / self.took_s

    @property
    def overhead_s(self) -> float:
        """Seconds per task that are not measuring: waiting for work and reporting."""
        return self.waited_s / self.tasks


class Lab:
    """A pool that takes time to answer, and devices that take time to measure."""

    def __init__(self, devices: int, seed: int, task_s: float = NETWORK_S) -> None:
        self.paused_s, self._task_s = 0.0, task_s
        self.now_s, self.free_s, self.pool_s, self.waited_s, self.work_s, self.done = (
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0,
        )
        self.pool = Pool(lambda: self.now_s)
        self._rng = np.random.default_rng(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        names = [f"android:{number}@host{number // PER_HOST}" for number in range(devices)]
        self._idle: list[tuple[str, int]] = [(name, self.pool.join(name, INFO)) for name in names]
        self.devices = devices

    def run(self, batches: Sequence[int], pause_s: float = 0.0) -> Load:
        """Do so many tasks, then so many, each batch after the one before, with a pause between
        them.
        """
        number = itertools.count()
        for count in batches:
            tasks = [
                Task(str(next(number)), TaskKind.NETWORK, (), Settings(), 600.0)
                for _ in range(count)
            ]
            self.pool.submit("job", tasks, title="table", client="ann", wanted="android:*")
            for name, incarnation in self._idle:
                self._after(0.0, partial(self._ask, name, incarnation))
            self._idle, until = [], self.done + count
            while self.done < until:
                self._step()
            self.pool.collect("job", "ann", [str(one) for one in range(until)])
            end_s = self.now_s
            while self._events and self._events[0][0] <= end_s + pause_s:
                self._step()
            self.now_s = end_s + pause_s
            self.paused_s += pause_s
        return Load(
            self.devices,
            self.done,
            self.now_s,
            self.work_s,
            self.pool_s,
            self.waited_s,
            self.paused_s,
        )

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), action))

    def _step(self) -> None:
        self.now_s, _, action = heapq.heappop(self._events)
        action()

    def _call(self, own_s: float) -> float:
        """When the pool has answered a call that costs it so much itself.

        It answers one after the other.
        """
        cost_s = CALL_S + own_s
        self.free_s = max(self.free_s, self.now_s) + cost_s
        self.pool_s += cost_s
        self.waited_s += self.free_s - self.now_s
        return self.free_s - self.now_s

    def _ask(self, name: str, incarnation: int) -> None:
        begun = time.perf_counter()
        lease = self.pool.lease(name, incarnation)
        delay_s = self._call(time.perf_counter() - begun)
        self.pool.jobs["job"].heard_s = self.now_s
        if lease.tasks:
            self._after(delay_s, lambda: self._begin(name, incarnation, list(lease.tasks)))
        else:
            self._idle.append((name, incarnation))

    def _begin(self, name: str, incarnation: int, tasks: list[Task]) -> None:
        took_s = self._task_s * math.exp(self._rng.normal(0, NETWORK_SD))
        self.work_s += took_s
        self._after(took_s, lambda: self._report(name, incarnation, tasks))

    def _report(self, name: str, incarnation: int, tasks: list[Task]) -> None:
        begun = time.perf_counter()
        self.pool.report(name, incarnation, tasks[0].id, {"result": {}})
        self.done += 1
        delay_s = self._call(time.perf_counter() - begun)
        if tasks[1:]:
            self._after(delay_s, lambda: self._begin(name, incarnation, tasks[1:]))
        else:
            self._after(delay_s, lambda: self._ask(name, incarnation))


def row(load: Load, long: Load, table: Load) -> dict[str, object]:
    """One line of the result."""
    return {
        "devices": load.devices,
        "hosts": math.ceil(load.devices / PER_HOST),
        "efficiency, networks": load.speed_up / load.devices,
        "overhead ms a task": 1e3 * load.overhead_s,
        "share of measuring": load.waited_s / load.work_s,
        "pool busy": load.pool_s / load.took_s,
        "efficiency, profiles": long.speed_up / long.devices,
        "one table, speed-up": table.speed_up,
        "one table, measuring alone": (
            table.speed_up * table.took_s / (table.took_s - table.paused_s)
        ),
    }


def kept_s(count: int = 300) -> float:
    """Seconds that the client takes to keep one result in SQLite, here and now."""
    with (
        tempfile.TemporaryDirectory() as folder,
        open_store(str(Path(folder) / "store.db")) as store,
    ):
        record = {"layers": [[f"Conv[1x{index}]", 1e-3, 1e-2] for index in range(60)]}
        begun = time.perf_counter()
        for _ in range(count):
            store.save_record("table_build", record)
        return (time.perf_counter() - begun) / count


def main() -> None:
    """Simulate, and write results/lab_scale."""
    plan = [FIRST] + [BATCH] * ((MOST - FIRST) // BATCH)
    rows = []
    for devices in DEVICES:
        load = Lab(devices, seed=devices).run([TASKS_EACH * devices])
        long = Lab(devices, seed=devices, task_s=PROFILE_S).run([TASKS_EACH * devices])
        rows.append(row(load, long, Lab(devices, seed=devices).run(plan, pause_s=FIT_S)))
    ends = {str(one["devices"]): float(str(one["efficiency, networks"])) for one in rows}
    full = next(
        (devices for devices, efficiency in ends.items() if efficiency < USED), "none of these"
    )
    last = list(ends)[-1]
    keeping_s = kept_s()
    save_study(
        "lab_scale",
        question="With how many devices does a lab stop scaling, and on what?",
        answer=(
            f"with tasks of {NETWORK_S:g} s efficiency is below {USED:.0%} from {full} devices on,"
            f" as one pool answers all; {last} devices work at {ends[last]:.0%}"
        ),
        rows=rows,
        command="python -m runners.studies.lab_scale",
        notes=NOTES.format(keeping_ms=1e3 * keeping_s, keeping_rate=1 / keeping_s),
    )


NOTES = f"""A network takes {NETWORK_S:g} s (log-normal, {NETWORK_SD:g}), a profile {PROFILE_S:g} s.
A call of the pool costs it {1e3 * CALL_S:g} ms of Ray's time, and what the pool itself
takes, measured while it runs. *Efficiency*: {TASKS_EACH} tasks per device in one queue;
*overhead*: waiting for work and reporting. *One table*: batches of {FIRST}, then
{BATCH} networks that wait for each other, up to {MOST}, with {FIT_S:g} s of fitting
between them, in which devices rest; and without counting that. A client keeps one
result in {{keeping_ms:.1f}} ms (SQLite, on this machine, busy), so it takes
{{keeping_rate:.0f}} a second."""


if __name__ == "__main__":
    main()
