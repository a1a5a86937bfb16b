"""Chaos on real processes: tables built in a lab on this computer while processes of it are killed
at random by signals.

Five virtual devices on three hosts. During each build one thing after the other is killed with
SIGKILL: the process of a device, every process of a host (which then joins anew), or the client,
which repeats its command. Compare `lab_chaos`, in virtual time.
"""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from hwbench.devices.virtual.device import LAW
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.lookup_tables.making.networks import NetworkSample
from hwbench.network.graph import load
from hwbench.network.structure import Structure
from hwbench.store import open_store
from runners.studies._results import save_study
from tests.lab.ray_support import RealLab, real_lab
from tests.support.models import conv_net

RUNS = 4
HOSTS = {
    "rack1": ("virtual:seed=1", "virtual:seed=2"),
    "rack2": ("virtual:seed=3", "virtual:seed=4"),
    "rack3": ("virtual:seed=5",),
}
EVERY_S = 4.0
BOUND_S = 400.0
"""A build that takes longer hangs; undisturbed it takes some seconds."""
WRONG = 0.15


def run(lab: RealLab, seed: int) -> dict[str, object]:
    """One build in chaos."""
    rng, struck = random.Random(seed), Counter[str]()
    store = str(lab.folder / f"{seed}.db")
    words = [
        "table",
        "build",
        "net.onnx",
        "--lab",
        lab.address,
        "--device",
        "virtual:*",
        "--store",
        store,
        "--seed",
        str(seed),
    ]
    words += ["--budget", "900", "--validation", "0"]
    begun, client = time.monotonic(), lab.popen(*words)
    while True:
        try:
            out, err = client.communicate(timeout=rng.expovariate(1 / EVERY_S))
        except subprocess.TimeoutExpired:
            out, err = "", ""
        if client.poll() == 0:
            break
        if client.poll() is not None and client.returncode != -signal.SIGKILL:
            raise RuntimeError(f"run {seed}: {out}{err}")
        if time.monotonic() - begun > BOUND_S:
            raise RuntimeError(f"run {seed} hangs")
        kind = rng.choice(["device", "device", "host", "client"])
        struck[kind] += 1
        if kind == "client":
            client.kill()
            client.communicate()
            client = lab.popen(*words)
        else:
            _strike(lab, kind, rng)
    whole, wrong, networks = _judged(store)
    print(
        f"run {seed}: {dict(struck)} {networks} networks, whole {whole}, {wrong} wrong", flush=True
    )
    counts = {kind: struck[kind] for kind in ("device", "host", "client")}
    return {
        "run": seed,
        **counts,
        "networks": networks,
        "whole": whole,
        "wrong": wrong,
        "seconds": time.monotonic() - begun,
    }


def _strike(lab: RealLab, kind: str, rng: random.Random) -> None:
    name = rng.choice(sorted(lab.hosts))
    if kind == "host":
        lab.kill_host(name)
        lab.join(name, *HOSTS[name])
        return
    family = psutil.Process(lab.hosts[name].pid).children(recursive=True)
    workers = [
        one
        for one in family
        if one.is_running() and "DeviceActor" in one.name() + " ".join(one.cmdline())
    ]
    for one in workers[:1]:
        one.send_signal(signal.SIGKILL)


def _judged(store: str) -> tuple[bool, int, int]:
    """Whether each network is there once, how many numbers are off the law, and how many networks
    there are.
    """
    structure = Structure.from_model(load(conv_net((16, 24, 32))))
    anchor_s = LAW.network_s(structure.keys(structure.widths))
    with open_store(store) as opened:
        samples = [NetworkSample.from_dict(record) for record in opened.records(RECORD).values()]
    numbers = Counter(sample.number for sample in samples if sample.number >= 0)
    whole = sorted(numbers) == list(range(len(numbers))) and set(numbers.values()) == {1}
    truths = [LAW.network_s(structure.keys(sample.widths)) / anchor_s for sample in samples]
    wrong = sum(
        abs(sample.ratio / truth - 1) > WRONG for sample, truth in zip(samples, truths, strict=True)
    )
    return whole, wrong, len(numbers)


def main() -> None:
    """Run everything and write results/lab_chaos_ray."""
    with (
        tempfile.TemporaryDirectory(prefix="hwbench-lab-") as folder,
        real_lab(Path(folder)) as lab,
    ):
        (lab.folder / "net.onnx").write_bytes(conv_net((16, 24, 32)))
        for name, devices in HOSTS.items():
            lab.join(name, *devices)
        lab.await_devices(sum(map(len, HOSTS.values())))
        rows = [run(lab, seed) for seed in range(RUNS)]
    good = sum(bool(row["whole"]) and not row["wrong"] for row in rows)
    save_study(
        "lab_chaos_ray",
        question=(
            "Tables built in a lab of real processes while some are killed at random: is every"
            " table whole and right?"
        ),
        answer=f"{good} of {len(rows)} tables are whole and right; none hung",
        rows=rows,
        command="python -m runners.studies.lab_chaos_ray",
        notes=f"""Killed with SIGKILL every {EVERY_S:g} s on average: the process of a device, all
processes of a host (which then joins anew), or the client (whose command is repeated).
Whole: each network is in the store once. Wrong: more than {WRONG:.0%} off the law.""",
    )


if __name__ == "__main__":
    main()
