"""Chaos in a lab: 200 tables built while devices, hosts, the pool and the client are killed at
random; are they whole and right?

A build over six simulated devices on three hosts is disturbed every 1.5 s of virtual time or so: a
device's process is killed, a whole host, the pool with all it knows, or the client (which comes
back and repeats its command); or a device hangs, until the pool has it ended. Some devices fail by
themselves: they go away, stop answering, answer nonsense, or become too hot. Pool, benches and
build are the real ones; only Ray is not there. Further runs on real processes: `lab_chaos_ray`.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwbench.devices.virtual.device import Fault, Law, Noise, SessionOffset, Throttling, White
from hwbench.errors import DeviceError
from hwbench.lab.tables import TableBuild, TableRequest
from hwbench.lookup_tables import Plan
from hwbench.lookup_tables.making.fit import Fitted
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.lookup_tables.making.networks import Effort, NetworkSample
from hwbench.network.structure import Structure
from hwbench.records.measurement import Settings
from hwbench.store import Store, open_store
from runners.studies._lab_simulation import Agent, Chaos, ClientKilled, Simulation, Specimen
from runners.studies._results import save_study
from tests.support.models import conv_workload

RUNS = 200
DEVICES, HOSTS = 6, 3
LAW = Law(
    macs_per_s=2e8, bytes_per_s=4e8, layer_overhead_s=2e-6, network_overhead_s=10e-6, channel_step=8
)
PLAN = Plan(step=4, lower=0.25, first=16, batch=8, most=32, effort=Effort(turns=3, runs=6))
SETTINGS = Settings(budget_s=1e6, seed=5)
LIMIT_S = 20.0
"""A network takes half a second; one that takes longer than this hangs."""
EVERY_S, UNTIL_S = 1.5, 600.0
HANG_S = 20_000.0
"""Virtual time after which a run hangs: without faults it takes 4 s, and each fault costs a minute
at most.
"""
WRONG = 0.15
"""A latency further than this from the law's is wrong: noise makes 2 %, another network or a torn
one is off by far more.
"""
FAULTS = ("lost", "timeout", "nan", "zero", "miscount")


@dataclass(frozen=True)
class Ran:
    """One run.

    Attributes:
        seed: Of everything random.
        struck: Faults by kind.
        virtual_s: Time it took.
        whole: Whether each network that was asked for is in the store once.
        wrong: Stored networks and layers that are not as the law says.
        clients: Client processes it took.
        repeated: Results that came to nothing, so that the network was measured again.
        off: Largest relative error of the table on 30 random networks, by the law.
    """

    seed: int
    struck: Counter[str]
    virtual_s: float
    whole: bool
    wrong: int
    clients: int
    repeated: int
    off: float


def run(seed: int, folder: Path) -> Ran:
    """Build one table in chaos, and hold it against the law."""
    rng = np.random.default_rng(seed)
    lab = Simulation([_agent(number, rng) for number in range(DEVICES)])
    chaos = Chaos(lab, seed, EVERY_S, UNTIL_S)
    request = TableRequest(conv_workload((16, 24, 32)), SETTINGS, PLAN, LIMIT_S)
    clients = 0
    with open_store(str(folder / f"{seed}.db")) as store:
        while True:
            clients += 1
            try:
                build = TableBuild(lab, request, store)
                fitted = build.run()
                break
            except (ClientKilled, DeviceError):  # the user repeats the command, sooner or later
                lab.pass_time(float(rng.uniform(0.0, 30.0)))
                lab.client, lab.killed = f"client {clients}", False
            if lab.now() > HANG_S:
                raise RuntimeError(f"run {seed} hangs")
        samples = stored(store)
    numbers = Counter(sample.number for sample in samples if sample.number >= 0)
    whole = sorted(numbers) == list(range(len(numbers))) and set(numbers.values()) == {1}
    whole = whole and len(numbers) == fitted.table.provenance.sources[0].networks
    repeated = len(lab.measured) - len({task for task, _ in lab.measured})
    struck = chaos.happened + Counter(
        {"broken": sum(agent.broken for agent in lab.agents.values())}
    )
    return Ran(
        seed,
        struck,
        lab.now(),
        whole,
        wrong(build.structure, samples),
        clients,
        repeated,
        off(build, fitted, rng),
    )


def _agent(number: int, rng: np.random.Generator) -> Agent:
    """A device of its own speed.

    Every third one breaks by itself, every sixth is hot after some seconds.
    """
    speed, kind, after = (
        float(np.exp(rng.normal(0, 0.03))),
        str(rng.choice(FAULTS)),
        int(rng.integers(0, 600)),
    )
    noise: tuple[Noise, ...] = (White(), SessionOffset())
    hot = (*noise, Throttling(after_s=5.0, recovery_s=10.0))

    def make(life: int) -> Specimen:
        faults = [Fault(kind, after)] if number % 3 == 0 and life < 3 else []
        return Specimen(
            speed,
            law=LAW,
            noise=noise,
            hot=hot if number % 6 == 1 else noise,
            faults=faults,
            seed=100 * number + life,
        )

    return Agent(f"virtual:{number}@host{number % HOSTS}", make)


def stored(store: Store) -> list[NetworkSample]:
    """What the build kept."""
    return [NetworkSample.from_dict(record) for record in store.records(RECORD).values()]


def wrong(structure: Structure, samples: list[NetworkSample]) -> int:
    """Numbers that are not as the law says: whole networks, and layers of each."""
    found, anchor_s = 0, LAW.network_s(structure.keys(structure.widths))
    for sample in samples:
        keys = structure.keys(sample.widths)
        whole_s = LAW.network_s(keys)
        found += _off(sample.ratio, whole_s / anchor_s)
        for layer, key in zip(sample.layers, keys, strict=True):
            found += layer.key != key or _off(
                layer.latency_s / sample.beside_s, LAW.layer_s(key) / whole_s
            )
    return found


def _off(value: float, truth: float) -> bool:
    return not abs(value / truth - 1) < WRONG


def off(build: TableBuild, fitted: Fitted, rng: np.random.Generator) -> float:
    """Largest relative error of the table on random networks, next to the law, on the scale of its
    own unpruned network.
    """
    structure, table = build.structure, fitted.table.extrapolating()
    scale = table.provenance.sources[0].latency_s / LAW.network_s(structure.keys(structure.widths))
    keys = [structure.keys(build.grid.random(rng)) for _ in range(30)]
    return max(
        abs(math.log(table.predict(one).latency_s / (scale * LAW.network_s(one)))) for one in keys
    )


def main() -> None:
    """Run everything and write results/lab_chaos."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(seed, Path(folder)) for seed in range(RUNS)]
    struck = sum((one.struck for one in runs), Counter[str]())
    rows = [
        {
            "runs": len(runs),
            **{
                f"{kind} lost" if kind in {"pool", "client"} else kind: count
                for kind, count in sorted(struck.items())
            },
            "tables whole": sum(one.whole for one in runs),
            "wrong numbers": sum(one.wrong for one in runs),
            "worst table error": max(one.off for one in runs),
            "measured again": sum(one.repeated for one in runs),
        }
    ]
    save_study(
        "lab_chaos",
        question=(
            "Tables built in a lab while devices, hosts, the pool and the client are killed at"
            " random: is every table whole, every number right, and does every build come to its"
            " end?"
        ),
        answer=(
            f"{sum(one.whole and not one.wrong for one in runs)} of {len(runs)} tables are whole"
            " and right; none hung"
        ),
        rows=rows,
        command="python -m runners.studies.lab_chaos",
        notes=NOTES,
        raw=[{**vars(one), "struck": dict(one.struck)} for one in runs],
    )


NOTES = f"""Each run builds a table of at most {PLAN.most} networks over {DEVICES} devices on
{HOSTS} hosts; something is killed or hangs every {EVERY_S:g} s of virtual time on
average. `broken` are devices that failed by themselves. Whole: each network that was
asked for is in the store exactly once. Wrong: a latency of a stored network, or of one
of its layers, more than {WRONG:.0%} off the law relative to the unpruned network; noise
alone makes some 2 %. `measured again` counts results that came to nothing (their device
had been expelled or was hot, or the pool was lost), so that the network was measured
once more; no result counted twice. The table's error is the largest on 30 random
networks per run."""


if __name__ == "__main__":
    main()
