"""A pool with a clock that is set by hand, tasks, and a simulated lab."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwbench.devices.virtual.device import Law, SessionOffset, White
from hwbench.lab.pool import Pool
from hwbench.lab.records import Rules
from hwbench.lab.tasks import Task, TaskKind
from hwbench.lookup_tables import Plan
from hwbench.lookup_tables.making.networks import Effort
from hwbench.records.device import DeviceInfo
from hwbench.records.measurement import Settings
from runners.studies._lab_simulation import Agent, Simulation, Specimen

LAW = Law(
    macs_per_s=2e8, bytes_per_s=4e8, layer_overhead_s=2e-6, network_overhead_s=10e-6, channel_step=8
)
PLAN = Plan(step=4, lower=0.25, first=16, batch=16, most=32, effort=Effort(turns=3, runs=6))
SETTINGS = Settings(budget_s=1e6, seed=5)
PIXEL = DeviceInfo(
    "android:A1",
    "Pixel 8, Tensor G3, big cluster",
    "Pixel 8|Tensor G3",
    "onnxruntime 1",
    (("serial", "A1"), ("mode", "burst")),
)


@dataclass
class Clock:
    """Seconds, set by hand."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Lab:
    """A pool and its clock."""

    rules: Rules = field(default_factory=Rules)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.pool = Pool(self.clock, self.rules)

    def join(self, *names: str, info: DeviceInfo = PIXEL) -> list[int]:
        return [self.pool.join(name, info) for name in names]

    def submit(
        self,
        *ids: str,
        job: str = "job",
        client: str = "ann",
        wanted: str = "android:*",
        kind: str = "",
    ) -> None:
        self.pool.submit(job, map(task, ids), title=job, client=client, wanted=wanted, kind=kind)

    def done(self, name: str, incarnation: int, task_id: str) -> bool:
        return self.pool.report(
            name, incarnation, task_id, {"result": {"of": task_id}, "by": name, "took_s": 1.0}
        )


def task(name: str, limit_s: float = 60.0) -> Task:
    workload = {"sha256": "0" * 64, "name": "net"}
    return Task(name, TaskKind.STEPS, (workload,), Settings(), limit_s)


def simulated(count: int, *, spread: float = 0.03, seed: int = 3, hosts: int = 3) -> Simulation:
    """So many devices of one kind, each of its own speed."""
    speeds = np.exp(np.random.default_rng(seed).normal(0, spread, count)).tolist()

    def agent(number: int) -> Agent:
        noise = (White(), SessionOffset())
        name = f"virtual:{number}@host{number % hosts}"
        return Agent(
            name,
            lambda life: Specimen(speeds[number], law=LAW, noise=noise, seed=100 * number + life),
        )

    return Simulation([agent(number) for number in range(count)])
