"""`make lab-demo`: PostgreSQL, a lab of three hosts with eight virtual devices, and a table built
while one host is killed.

Everything runs on this computer's loopback, in temporary folders, and is gone afterwards.
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
    """Show it; returns the exit code."""
    lacking = missing()
    if lacking is not None:
        print(f"the demo {lacking}", file=sys.stderr)
        return 2
    server = Server()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="hwbench-lab-") as folder,
            real_lab(Path(folder)) as lab,
        ):
            return _show(lab, server.database())
    finally:
        server.remove()


def _show(lab: RealLab, store: str) -> int:
    print(f"$ hwbench lab start      # at {lab.address}; the store is PostgreSQL on a socket")
    seed = 0
    for host, count in HOSTS.items():
        devices = [f"virtual:seed={seed + index}" for index in range(count)]
        seed += count
        lab.join(host, *devices)
        print(
            f"$ hwbench lab join {lab.address} --name {host} --device {' --device '.join(devices)}"
        )
    lab.await_devices(seed)
    _status(lab)
    words = [
        "table",
        "build",
        MODEL,
        "--lab",
        lab.address,
        "--device",
        "virtual:*",
        "--store",
        store,
    ]
    words += ["--validation", "6", "--budget", "600"]
    print(
        f"$ hwbench table build {MODEL} --lab {lab.address} --device 'virtual:*' --store"
        " postgresql://... &"
    )
    begun = time.monotonic()
    client = lab.popen(*words)
    while (
        len(_measured(store)) < KILL_AT
        and client.poll() is None
        and time.monotonic() - begun < LIMIT_S
    ):
        time.sleep(0.1)
    print(
        f"\n# {len(_measured(store))} networks are in the store; every process of rack3 is killed"
        " now\n"
    )
    lab.kill_host("rack3")
    _status(lab)
    out, err = client.communicate(timeout=LIMIT_S)
    print(out, err, sep="")
    _status(lab)
    found = _measured(store)
    once = sorted(found) == list(range(len(found))) and set(found.values()) == {1}
    print(
        f"{len(found)} networks are in the store, each {'once' if once else 'NOT ONCE'};"
        f" {time.monotonic() - begun:.0f} s"
    )
    return 0 if client.returncode == 0 and once else 1


def _status(lab: RealLab) -> None:
    print(f"$ hwbench lab status {lab.address}")
    print(lab.call("lab", "status", lab.address).stdout)


def _measured(store: str) -> Counter[int]:
    """How often each network is in the store."""
    with open_store(store) as opened:
        records = opened.records(RECORD).values()
    return Counter(int(record["number"]) for record in records if record["number"] >= 0)


if __name__ == "__main__":
    sys.exit(main())
