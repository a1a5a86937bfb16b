"""`make lab-demo`: a lab builds a table while one of its hosts is killed.

It has three hosts with eight virtual devices, and a store in PostgreSQL. Everything runs on this
computer's loopback, in temporary folders, and is gone afterwards.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hwbench.lookup_tables.making.journal import RECORD
from hwbench.store import open_store
from tests.lab.ray_support import RealLab, real_lab
from tests.store.postgresql import Server, missing

HOSTS = {"rack1": 3, "rack2": 3, "rack3": 2}
MODEL = "zoo:resnet20"
KILL_AT = 12
"""Networks in the store when a host is killed."""
LIMIT_S = 300.0


def main() -> int:
    """Run the demonstration.

    Returns:
        The exit code.
    """
    requirement = missing()
    if requirement is not None:
        print(f"the demo {requirement}", file=sys.stderr)
        return 2
    server = Server()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hwbench-lab-") as folder,
            real_lab(Path(folder)) as lab,
        ):
            return _run_demo(lab, server.database())
    finally:
        server.remove()


def _run_demo(lab: RealLab, store: str) -> int:
    print(f"$ hwbench lab start      # at {lab.address}; the store is PostgreSQL on a socket")
    seed = 0
    for host, count in HOSTS.items():
        devices = [f"virtual:seed={seed + index}" for index in range(count)]
        seed += count
        lab.join(host, *devices)
        options = " ".join(f"--device {device}" for device in devices)
        print(f"$ hwbench lab join {lab.address} --name {host} {options}")
    lab.await_devices(seed)
    _print_status(lab)
    words = ["table", "build", MODEL, "--lab", lab.address, "--device", "virtual:*"]
    words += ["--store", store, "--validation", "6", "--budget", "600"]
    print(
        f"$ hwbench table build {MODEL} --lab {lab.address} --device 'virtual:*' --store"
        " postgresql://... &"
    )
    begun = time.monotonic()
    client = lab.popen(*words)
    while len(_count_networks(store)) < KILL_AT:
        if client.poll() is not None or time.monotonic() - begun > LIMIT_S:
            break
        time.sleep(0.1)
    print(
        f"\n# {len(_count_networks(store))} networks are in the store; every process of rack3 is"
        " killed now\n"
    )
    lab.kill_host("rack3")
    _print_status(lab)
    out, err = client.communicate(timeout=LIMIT_S)
    print(out, err, sep="")
    _print_status(lab)
    counts = _count_networks(store)
    each_once = sorted(counts) == list(range(len(counts))) and set(counts.values()) == {1}
    print(
        f"{len(counts)} networks are in the store, each {'once' if each_once else 'NOT ONCE'};"
        f" {time.monotonic() - begun:.0f} s"
    )
    return 0 if client.returncode == 0 and each_once else 1


def _print_status(lab: RealLab) -> None:
    print(f"$ hwbench lab status {lab.address}")
    print(lab.call("lab", "status", lab.address).stdout)


def _count_networks(store: str) -> Counter[int]:
    """Count how often each network is in the store."""
    with open_store(store) as opened:
        records = opened.records(RECORD).values()
    return Counter(int(record["number"]) for record in records if record["number"] >= 0)


if __name__ == "__main__":
    sys.exit(main())
