"""What hwbench costs on a phone, and what it says when something is wrong: on Google's adbd,
without faults of our own making.

python -m runners.studies.android_rigs
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import wraps
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from hwbench.devices.android.adb.client import Adb
from hwbench.devices.base import Samples
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.lookup_tables.making.journal import RECORD
from hwbench.network.graph import layers, load
from hwbench.network.intake import load_workload
from hwbench.records.measurement import Settings
from hwbench.store import open_store
from hwbench.workflows.build_table import build_table
from runners.studies._results import save_study
from tests.devices.android.phone_support import on, rig
from tests.devices.android.pyadbd_clients import AdbServer, adb_programs
from tests.devices.android.rig import Rig, phone
from tests.devices.android.rig_support import own_key

MODEL, LARGE = "zoo:resnet20", "zoo:mobilenet_v1"
SMALL = "1x3x8x8"
BUILD_S, INTERRUPTED_S, COMPARE_S, TEN_MINUTES_S = 60.0, 15.0, 20.0, 600.0
REPEATS = 3
PROGRAM = Path(sys.executable).with_name("hwbench")
Row = dict[str, object]


def said(arguments: Sequence[str], folder: Path, **environment: str) -> tuple[int, str, str]:
    """Exit status of a command of hwbench, the last lines it wrote for people, and its standard
    output.
    """
    every = os.environ | environment
    done = subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        env=every,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    told = [line for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, " ".join(told[-2:]), done.stdout


def rows_of(store: Path, query: str) -> int:
    """A count from a store that another process writes; 0 while it is not there."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection,
    ):
        return int(connection.execute(query).fetchone()[0])
    return 0


def first_sample(phone: Rig, folder: Path) -> list[Row]:
    """Seconds from the command to the first sample in the store, bundle and model there."""
    model = folder / "resnet20.onnx"
    model.write_bytes(load_workload(MODEL).onnx)
    times_s = []
    for repeat in range(REPEATS + 1):  # the first brings the bundle
        store = folder / f"first{repeat}.db"
        argv = [
            str(PROGRAM),
            "profile",
            str(model),
            "--device",
            f"android:{on(phone.address)}",
            "--budget",
            "2",
            "--store",
            str(store),
        ]
        start = time.monotonic()
        with subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while (
                not rows_of(store, "SELECT count(*) FROM hwbench_samples")
                and process.poll() is None
            ):
                time.sleep(0.02)
            times_s.append(time.monotonic() - start)
    what = "time from the command to the first sample, start of Python included, s"
    return [
        {
            "what": what,
            "value": median(times_s[1:]),
            "goal": "<= 3",
            "all": " ".join(f"{value:.2f}" for value in times_s[1:]),
        }
    ]


@contextmanager
def watched() -> Iterator[Counter[str]]:
    """Seconds that the runner says it was measuring (`measuring`), that it was waited for (by
    command), and trips.
    """
    seen: Counter[str] = Counter()
    run, command, made = RunnerProcess.run, RunnerProcess.command, Adb.__init__

    @wraps(run)
    def timed_run(
        self: RunnerProcess, order: Sequence[str], loops: int = 1, timeout_s: float = 120.0
    ) -> Samples:
        samples = run(self, order, loops, timeout_s)
        seen["measuring"] += sum(samples.values_s) * loops  # type: ignore[assignment]
        return samples

    @wraps(command)
    def timed_command(
        self: RunnerProcess, line: bytes, answer: str, timeout_s: float | None = None
    ) -> dict[str, Any]:
        start = time.monotonic()
        try:
            return command(self, line, answer, timeout_s)
        finally:
            seen[answer] += time.monotonic() - start  # type: ignore[assignment]

    @wraps(made)
    def counted(self: Adb, *arguments: Any) -> None:
        made(self, *arguments)
        connections.append(self)

    connections: list[Adb] = []
    RunnerProcess.run, RunnerProcess.command, Adb.__init__ = timed_run, timed_command, counted  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        RunnerProcess.run, RunnerProcess.command, Adb.__init__ = run, command, made  # type: ignore[method-assign]
        seen["trips"] = sum(connection.trips for connection in connections)


def overhead(phone: Rig, folder: Path, model: str) -> list[Row]:
    """A table's build, and what part of its time the runner was measuring."""
    with watched() as seen:
        start = time.monotonic()
        settings, store = Settings(budget_s=BUILD_S), folder / f"build{model.partition(':')[2]}.db"
        build_table(
            model,
            device=f"android:{on(phone.address)}",
            settings=settings,
            validation=0,
            store=str(store),
        )
        wall_s = time.monotonic() - start
    with open_store(str(store)) as kept:
        networks = len(kept.records(RECORD))
    measured = networks * len(layers(load(load_workload(model).onnx)))
    loading_s = seen["loaded"] + seen["unloaded"]
    fixed_s = wall_s - seen["measuring"] - loading_s
    asked_s = seen["samples"] - seen["measuring"] + seen["set"] + seen["file"]
    note = f"{wall_s:.0f} s, {networks} sessions of networks, {measured} layers"
    parts = (
        f"loading models there {loading_s:.1f} s, transport {asked_s:.1f} s, computing here"
        f" {fixed_s - asked_s:.1f} s"
    )
    loading = loading_s / wall_s
    return [
        {
            "what": f"build of {model}: not measuring, share",
            "value": 1 - seen["measuring"] / wall_s,
            "goal": "",
            "all": f"{note}: {parts}",
        },
        {
            "what": (
                "the same networks on a phone that takes ten minutes for them: share of transport"
                " and computing here"
            ),
            "value": fixed_s / TEN_MINUTES_S,
            "goal": "<= 0.05",
            "all": (
                f"extrapolated; ONNX Runtime on the phone takes another {loading:.3f} to load the"
                " models"
            ),
        },
        {
            "what": "adb trips per 100 layers",
            "value": 100 * seen["trips"] / measured,
            "goal": "<= 5",
            "all": f"{seen['trips']} trips",
        },
    ]


def survives(phone: Rig, folder: Path) -> list[Row]:
    """A build whose phone loses its power in the middle, and the same command again."""
    store, device = folder / "cut.db", f"android:{on(phone.address)}"
    command = [
        "table",
        "build",
        MODEL,
        "--device",
        device,
        "--budget",
        f"{INTERRUPTED_S:g}",
        "--validation",
        "0",
        "--store",
        str(store),
    ]
    with subprocess.Popen(
        [PROGRAM, *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        while rows_of(store, "SELECT count(*) FROM hwbench_records") < 5 and process.poll() is None:
            time.sleep(0.05)
        phone.kill()
        said_last = process.communicate(timeout=60)[1] or ""
        errors = " ".join(said_last[said_last.find("hwbench: error") :].split())
    first = numbers(store)
    phone.start()
    code, _, _ = said(command, folder)
    every = numbers(store)
    again = len(every) - len(set(every))
    return [
        {
            "what": "build cut off: networks kept",
            "value": len(first),
            "goal": "",
            "all": f"exit {process.returncode}: {errors[:120]} ... {errors[-80:]}",
        },
        {
            "what": "the same command again: networks",
            "value": len(every),
            "goal": "",
            "all": f"exit {code}",
        },
        {"what": "of these measured twice", "value": again, "goal": "0", "all": ""},
    ]


def numbers(store: Path) -> list[int]:
    """The networks of a build that are finished, by number."""
    with open_store(str(store)) as kept:
        return [
            record["number"] for record in kept.records(RECORD).values() if record["number"] >= 0
        ]


def mistakes(folder: Path) -> list[Row]:
    """What is said when a phone does not know the key, and when there are two."""
    with own_key(), phone("amd64") as locked:
        status, unauthorised, _ = said(
            ["profile", MODEL, "--device", f"android:{locked.address}"], folder
        )
    program = adb_programs()["path"]
    server = AdbServer(program or "", folder / "server")
    with (
        own_key(),
        phone("amd64", dialog="allow") as one,
        phone("amd64", dialog="allow") as two,
        server.running(),
    ):
        for each in (one, two):
            server.connect(each.address)
        code, several, _ = said(
            ["profile", MODEL, "--device", "android"],
            folder,
            ADB_SERVER_SOCKET=f"tcp:127.0.0.1:{server.port}",
        )
        both = sum(each.address in several for each in (one, two))
    return [
        {
            "what": "a key that the phone does not know",
            "value": status,
            "goal": "exit 3",
            "all": unauthorised,
        },
        {
            "what": "two phones, none named: phones in the message",
            "value": both,
            "goal": "2",
            "all": f"exit {code}: {several}",
        },
    ]


def emulated(folder: Path) -> list[Row]:
    """`compare` on real 64-bit Arm code; no latency of a phone, as it is emulated."""
    with rig("arm64") as arm:
        start = time.monotonic()
        options = [
            "--input",
            SMALL,
            "--device",
            f"android:{arm.address}",
            "--budget",
            f"{COMPARE_S:g}",
            "--json",
            "-",
            "--no-save",
        ]
        code, words, text = said(["compare", MODEL, f"{MODEL}@0.5", *options], folder)
        took_s = time.monotonic() - start
    found = json.loads(text) if text else {}
    if not found:
        return [{"what": "arm64, emulated: compare", "value": code, "goal": "exit 0", "all": words}]
    low, high = found["speedup_ci"]
    note = (
        f"{found['verdict']}, 95 %: {low:.3g} to {high:.3g}, {len(found['layers'])} layers,"
        f" {took_s:.0f} s"
    )
    return [
        {
            "what": "arm64, emulated: speed-up of half the width",
            "value": found["speedup"],
            "goal": "",
            "all": note,
        }
    ]


def main() -> None:
    """Run all and write results/android_rigs/."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with rig("amd64") as phone:
            rows = [
                *first_sample(phone, folder),
                *overhead(phone, folder, MODEL),
                *overhead(phone, folder, LARGE),
                *survives(phone, folder),
            ]
        rows += [*emulated(folder), *mistakes(folder)]
    save_study(
        "android_rigs",
        question=(
            "What does hwbench cost on a phone, what survives a cut, and what is said when"
            " something is wrong?"
        ),
        rows=rows,
        command="make study NAME=android_rigs",
        notes=(
            f"Google's adbd 34.0.5 with authorisation, on this computer; {MODEL}. The first three"
            f" groups run on the amd64 rig at full speed, the build with `--budget {BUILD_S:g}`;"
            f" the comparison on the arm64 rig under emulation, with `--input {SMALL}`, and its"
            " latencies are no phone's. Extrapolated: a build that takes ten minutes measures the"
            " same networks on a slower processor, where loading models takes longer in"
            " proportion; what is computed here and sent stays as it is."
        ),
    )


if __name__ == "__main__":
    main()
