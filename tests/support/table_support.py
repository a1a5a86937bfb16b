"""A small network, a quiet and a noisy simulated device, and tables built on them."""

from __future__ import annotations

from functools import cache

from hwbench.devices.virtual.device import Law, SessionOffset, Virtual, White
from hwbench.lookup_tables.making.build import Plan, build
from hwbench.lookup_tables.making.fit import Fitted
from hwbench.lookup_tables.making.networks import Effort
from hwbench.network.intake import load_workload
from hwbench.network.prunable import PrunableNetwork
from hwbench.network.structure import Structure
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings

SETTINGS = Settings(budget_s=1e6, seed=5)
PLAN = Plan(step=4, lower=0.25, first=24, batch=8, most=40, effort=Effort(turns=3, runs=8))
# Layers of resnet20 take microseconds; a slow device keeps the law's parts in proportion.
LAW = Law(
    macs_per_s=2e9, bytes_per_s=4e9, layer_overhead_s=2e-6, network_overhead_s=10e-6, channel_step=8
)


@cache
def workload(name: str = "zoo:resnet20") -> Workload:
    return load_workload(name)


@cache
def structure(name: str = "zoo:resnet20") -> Structure:
    return PrunableNetwork(workload(name)).structure


def device(*, quiet: bool = False, seed: int = 1, **arguments: object) -> Virtual:
    noise = () if quiet else (White(), SessionOffset())
    return Virtual(law=LAW, noise=noise, seed=seed, **arguments)  # type: ignore[arg-type]


@cache
def built(*, quiet: bool = False) -> Fitted:
    with device(quiet=quiet) as opened:
        return build(opened, workload(), SETTINGS, plan=PLAN)
