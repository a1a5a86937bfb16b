"""Commands of hwbench, ended by signals at random moments: what is left, and whether they go on.

python -m runners.studies.kills
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from hwbench.errors import HwbenchError
from hwbench.store import open_store
from runners.studies._results import RESULTS, save_study
from tests.support.models import conv_net

JOURNAL = RESULTS / "kills" / "kills.csv"
"""One row a kill; a study that was stopped goes on from it."""
COLUMNS = (
    *("number", "task", "signal", "to_group", "moment_s", "over", "code", "gone_s"),
    *("processes", "folders", "store", "goes_on", "wrong"),
)
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
TO_GROUP = 0.3
"""Share of signals that go to all processes of the command, as a terminal sends them."""
GONE_S = 5.0
"""Seconds from the signal within which everything must be gone."""
LONGEST_S = 300.0
"""A command that takes longer hangs."""
DEVICES = ("virtual", "cpu")
FILES = ("onnx", "pt2")
NETWORK = '''
from torch import nn


def build():
    """A small network for a search."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )
'''
SEARCH = "search amc net:build --input 1x3x16x16 --macs 0.6 --trials 5 --no-baselines --tune none"


@dataclass(frozen=True)
class Task:
    """A command to be killed.

    Attributes:
        name: What it does.
        words: What follows `hwbench`.
        goes_on: Whether the same command goes on where it was killed.
    """

    name: str
    words: tuple[str, ...]
    goes_on: bool


def list_tasks() -> list[Task]:
    """Every command, on every device, with every kind of file that it takes."""
    tasks = []
    for device in DEVICES:
        for kind in FILES:
            commands = {
                "profile": f"profile a.{kind} --budget 3",
                "compare": f"compare a.{kind} b.{kind} --budget 3",
                "table": f"table build a.{kind} --budget 3 --validation 2 --widths 8",
            }
            for name, text in commands.items():
                words = (*text.split(), "--device", device)
                tasks.append(Task(f"{name} {device} {kind}", words, goes_on=name == "table"))
        for jobs in ("", " --jobs 2"):
            words = (*SEARCH.split(), "--budget", "600", "--device", device, *jobs.split())
            tasks.append(Task(f"search {device}{jobs}", words, goes_on=True))
    return tasks


class Place:
    """A folder with everything that a command reads and writes.

    Args:
        folder: The folder.
        models: Where the models are.
    """

    def __init__(self, folder: Path, models: Path) -> None:
        self.folder = folder
        shutil.copytree(models, folder, dirs_exist_ok=True)
        for name in ("tmp", "cache"):
            (folder / name).mkdir()
        self.store = folder / "store.db"
        places = {"TMPDIR": "tmp", "XDG_CACHE_HOME": "cache", "HOME": "."}
        places["HWBENCH_STORE"] = self.store.name
        self.variables = {name: str((folder / place).resolve()) for name, place in places.items()}

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command, in a process group of its own; its messages go to a file."""
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            return subprocess.Popen(
                [sys.executable, "-m", "hwbench", *words],
                cwd=self.folder,
                env=os.environ | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def run(self, *words: str) -> int:
        """Run a command to its end; its exit code."""
        return self.start(*words).wait(LONGEST_S)

    def messages(self) -> str:
        """What the last command wrote to standard error."""
        return (self.folder / "err").read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All processes that have this place in their environment."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TMPDIR") == self.variables["TMPDIR"]:
                    found.append(process)
        return found

    def leftovers(self) -> list[str]:
        """Temporary folders and unfinished files."""
        paths = [*(self.folder / "tmp").iterdir(), *self.folder.rglob("hwbench-scratch-*")]
        paths += self.folder.rglob("*.part")
        return sorted({str(path.relative_to(self.folder)) for path in paths})

    def damage(self) -> str:
        """What is wrong with the store; empty if nothing is."""
        if not self.store.exists():
            return ""
        try:
            with closing(sqlite3.connect(self.store)) as database:
                answer = database.execute("PRAGMA integrity_check").fetchone()[0]
            if answer != "ok":
                return str(answer)
            with open_store(str(self.store)) as store:
                for summary in store.list():
                    store.get(summary.id)
        except (HwbenchError, sqlite3.Error) as error:
            return f"{type(error).__name__}: {error}"
        return ""


def make_models(folder: Path) -> None:
    """Write the models of all tasks."""
    import onnx
    import torch
    from torch import nn

    folder.mkdir()
    (folder / "net.py").write_text(NETWORK)
    for name, widths in {"a": (32, 32), "b": (24, 24)}.items():
        (folder / f"{name}.onnx").write_bytes(conv_net(widths))
        onnx.checker.check_model(folder / f"{name}.onnx")
        first, second = widths
        module = nn.Sequential(
            *(nn.Conv2d(3, first, 3), nn.ReLU(), nn.Conv2d(first, second, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 10)),
        )
        program = torch.export.export(module.eval(), (torch.zeros(1, 3, 16, 16),))
        torch.export.save(program, folder / f"{name}.pt2")


def wait_until_gone(place: Place, begun: float) -> tuple[float, list[str]]:
    """Wait until all processes of a place are gone, for `GONE_S` at most.

    Args:
        place: The place.
        begun: Since when, on the monotonic clock.

    Returns:
        The seconds that took, and the processes that are not; those are ended.
    """
    while left := place.processes():
        took_s = time.monotonic() - begun
        if took_s > GONE_S:
            names = []
            for process in left:
                with suppress(psutil.Error):
                    names.append(" ".join(process.cmdline()[:4]))
                    process.kill()
            return took_s, names
        time.sleep(0.05)
    return time.monotonic() - begun, []


def kill_once(
    task: Task, number: int, typical_s: float, folder: Path, models: Path
) -> dict[str, str]:
    """Start a command, end it at a random moment, and check what it left.

    Args:
        task: The command.
        number: Seed of everything random.
        typical_s: Seconds that the command takes when it is let alone.
        folder: A new folder.
        models: Where the models are.
    """
    wanted = random.Random(number)
    sent = SIGNALS[number % len(SIGNALS)]
    to_group = wanted.random() < TO_GROUP
    moment_s = wanted.uniform(0.02, typical_s)
    place = Place(folder, models)
    process = place.start(*task.words)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment_s)
    over = process.poll() is not None
    sent_s = time.monotonic()
    with suppress(ProcessLookupError):
        if to_group:
            os.killpg(process.pid, sent)
        elif not over:
            process.send_signal(sent)
    threading.Thread(target=process.wait).start()  # or it would stay as a zombie
    gone_s, processes = wait_until_gone(place, sent_s)
    code = process.wait(LONGEST_S)
    wrong = []
    if "Traceback" in place.messages() or code == 70:
        wrong.append("fault")
    if not over and code not in {-sent, 128 + sent, 0, 1, 5}:
        wrong.append(f"exit code {code}")
    if sent == signal.SIGKILL and place.run("store", "list") != 0:
        wrong.append("the next command fails")
    left = place.leftovers()
    damage = place.damage()
    ended = "not asked"
    if task.goes_on:
        again = place.run(*task.words)
        ended = "yes" if again in {0, 1, 5} else f"no: {place.messages()[-300:]!r}"
        damage = damage or place.damage()
        left += place.leftovers()
    shutil.rmtree(folder)
    return {
        "number": str(number),
        "task": task.name,
        "signal": sent.name,
        "to_group": str(to_group),
        "moment_s": f"{moment_s:.2f}",
        "over": str(over),
        "code": str(code),
        "gone_s": f"{gone_s:.2f}",
        "processes": json.dumps(processes),
        "folders": json.dumps(left),
        "store": damage,
        "goes_on": ended,
        "wrong": "; ".join(wrong),
    }


def measure_typical(task: Task, folder: Path, models: Path) -> float:
    """How long a command takes when it is let alone, in seconds.

    Raises:
        RuntimeError: It fails, or leaves something even then.
    """
    place = Place(folder / f"typical {task.name}", models)
    begun = time.monotonic()
    code = place.run(*task.words)
    took_s = time.monotonic() - begun
    print(f"{task.name}: {took_s:.1f} s, code {code}", flush=True)
    _, running = wait_until_gone(place, time.monotonic())
    if code not in {0, 1, 5} or place.leftovers() or running:
        left = [*running, *place.leftovers()]
        raise RuntimeError(f"{task.name} alone: code {code}, {left}, {place.messages()}")
    return took_s


def read_journal() -> list[dict[str, str]]:
    """The kills of a study that was stopped."""
    if not JOURNAL.exists():
        return []
    with JOURNAL.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["wrong"] is not None]


def summarise(rows: list[dict[str, str]]) -> list[dict[str, object]]:
    """One row for each command."""
    summary: list[dict[str, object]] = []
    for name in dict.fromkeys(row["task"].partition(" ")[0] for row in rows):
        mine = [row for row in rows if row["task"].partition(" ")[0] == name]
        summary.append(
            {
                "command": name,
                "kills": len(mine),
                "before its end": sum(row["over"] == "False" for row in mine),
                "processes left": sum(row["processes"] != "[]" for row in mine),
                "folders left": sum(row["folders"] != "[]" for row in mine),
                "stores damaged": sum(row["store"] != "" for row in mine),
                "cannot go on": sum(row["goes_on"].startswith("no:") for row in mine),
                "otherwise wrong": sum(row["wrong"] != "" for row in mine),
                "longest until gone, s": max(float(row["gone_s"]) for row in mine),
            }
        )
    return summary


def main() -> None:
    """Kill, and write results/kills/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="number of kills in all")
    parser.add_argument("--jobs", type=int, default=4, help="number of commands at once")
    arguments = parser.parse_args()
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    # In the background of a shell, or after nohup, commands would inherit that these are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    rows = read_journal()
    tasks = list_tasks()
    with TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        make_models(models)
        with ThreadPoolExecutor(arguments.jobs) as pool, JOURNAL.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
            takes_s = list(pool.map(lambda task: measure_typical(task, folder, models), tasks))
            done = {int(row["number"]) for row in rows}
            kills = []
            for number in range(arguments.count):
                # Signals go round fastest; so each command gets each of them.
                which = number // len(SIGNALS) % len(tasks)
                if number not in done:
                    place = folder / str(number)
                    task, typical_s = tasks[which], takes_s[which]
                    kills.append(pool.submit(kill_once, task, number, typical_s, place, models))
            for kill in as_completed(kills):
                row = kill.result()
                rows.append(row)
                writer.writerow(row)
                file.flush()
                print(*row.values(), sep=", ", flush=True)
    bad = [
        row
        for row in rows
        if row["processes"] != "[]"
        or row["folders"] != "[]"
        or row["store"]
        or row["wrong"]
        or row["goes_on"].startswith("no:")
    ]
    counts = Counter(row["signal"] for row in rows)
    save_study(
        "kills",
        question="What do commands leave that a signal ends at a random moment?",
        rows=summarise(rows),
        command=f"python -m runners.studies.kills --count {arguments.count}",
        answer=f"{len(rows)} kills: {len(bad)} left something, damaged something or kept a build or"
        " search from going on.",
        notes=f"Signals: {dict(counts)}, {TO_GROUP:.0%} of them to all processes of the command, as"
        f" a terminal sends them. {GONE_S:g} s after the signal no process may have the command's"
        " environment, the folder for temporary files must be empty, and nothing unfinished may be"
        " in the cache; after SIGKILL folders may be there until the next command, `hwbench store"
        " list`. Stores are checked by SQLite, and every record is read. Builds and searches are"
        " then run again, to their end. `kills.csv` has a row each.",
    )


if __name__ == "__main__":
    main()
