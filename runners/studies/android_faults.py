"""A thousand faults on the way to a phone: what becomes of the numbers, of the phone and of the
work already done.

python -m runners.studies.android_faults
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from hwbench.devices.android.device import Android
from hwbench.errors import HwbenchError
from hwbench.records.scratch import PREFIX
from runners.studies._fault_checks import WrongError, check_store
from runners.studies._fault_runs import (
    BOUND_S,
    GONE_S,
    LIMIT_S,
    PRELOAD,
    Ending,
    Use,
    carry_out,
)
from runners.studies._results import markdown, save_study
from tests.devices.android.phone_support import fake, on
from tests.devices.android.pyadbd_faults import Fault, Faults
from tests.devices.android.pyadbd_phone import FakePhone
from tests.devices.android.pyadbd_support import soon
from tests.support.models import conv_net

FAULTS, USES, LONGEST_S = 1000, 200, 3600.0
"""Ends when there were so many faults in at least so many uses, or after so many seconds."""
TASKS = {"profile": 4, "layers": 1, "compare": 3, "table": 2}
KINDS = {
    "corrupt": 3.0,
    "wrong_id": 3.0,
    "cut": 3.0,
    "truncate": 2.0,
    "drop": 2.0,
    "refuse": 2.0,
    "reboot": 2.0,
    "corrupt_put": 1.0,
    "corrupt_push": 0.7,
    "unauthorised": 0.7,
}
"""How often each kind ends a use, relative to the others; delays come on top."""
DELAYS, LONGEST_DELAY_S = (2, 5), 0.08
SECOND = 0.3
"""Share of uses in which another fault follows on the heels of the first."""
TO_HWBENCH = {
    signal.SIGKILL: 0.08,
    signal.SIGTERM: 0.1,
    signal.SIGHUP: 0.1,
    signal.SIGINT: 0.05,
}
"""Shares of uses in which hwbench gets a signal."""
RUNNER_KILLED = 0.06
"""Share of uses in which the runner on the phone is killed."""
TRIES = 8
"""Uses in a row that go on with one table, unless it is complete before."""


@dataclass
class Tally:
    """What was seen so far."""

    faults: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, object]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    table: Use | None = None
    tries: int = 0
    known: frozenset[str] = frozenset()


class Bench:
    """The phone, what it looked like before, the models, and the folder for temporary files."""

    def __init__(self, phone: FakePhone, folder: Path, scratch: Path) -> None:
        self.phone, self.folder, self.scratch = phone, folder, scratch
        self.device = f"android:{on(phone.address)}"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOAD)
        self.models = []
        for name, widths in {"a": (8,), "b": (16,), "c": (8, 12), "d": (12, 8)}.items():
            self.models.append(folder / f"{name}.onnx")
            self.models[-1].write_bytes(conv_net(widths, size=8))
        self.connect()
        self.before, self.files = phone.changeable(), self.others()
        self.packets: dict[str, int] = {}

    def connect(self) -> None:
        """Open the phone and close it again, as the next use would."""
        with Android(on(self.phone.address)):
            pass

    def others(self) -> list[str]:
        """Every file of the phone outside hwbench's folder."""
        inside = self.phone.home / "hwbench"
        files = [
            path
            for path in self.phone.folder.rglob("*")
            if inside not in path.parents and path != inside
        ]
        return sorted(
            str(path) for path in files if not path.is_relative_to(self.phone.folder / "new")
        )

    def faults(self, wanted: random.Random, task: str) -> list[Fault]:
        """A plan of faults, and the phone as they need it to happen: without a model or a file of
        the bundle.
        """
        last = self.packets[task]
        delays = (
            Fault("delay", wanted.randint(1, last), wanted.uniform(0.005, LONGEST_DELAY_S))
            for _ in range(wanted.randint(*DELAYS))
        )
        plan, at = [*delays], wanted.randint(1, last)
        for kind in wanted.choices(
            [*KINDS], [*KINDS.values()], k=2 if wanted.random() < SECOND else 1
        ):
            at_first = kind in {"unauthorised", "corrupt_put", "corrupt_push"}
            plan.append(Fault(kind, 1 if at_first else at, seconds=0.2))
            at += wanted.randint(0, 3)
        kinds = {fault.kind for fault in plan}
        if "corrupt_put" in kinds:
            for model in (self.phone.home / "hwbench/models").iterdir():
                model.unlink()
        if "corrupt_push" in kinds:
            files = (
                path
                for path in (self.phone.home / "hwbench/bundle").rglob("*.so*")
                if path.is_file()
            )
            min(
                files, key=lambda path: path.stat().st_size, default=self.phone.home / "none"
            ).unlink(missing_ok=True)
        return plan

    def left_behind(self) -> list[str]:
        """What is wrong with the phone after a use, and after the next one."""
        adbd, found = self.phone.adbd, []
        adbd.faults, adbd.trusted = Faults(), None
        if not soon(self._answers):
            found.append("the phone does not come back")
        if not soon(lambda: adbd.running() == []):
            found.append("a process is left on the phone")
        self.connect()
        if self.phone.changeable() != self.before:
            found.append("a setting is changed")
        if self.others() != self.files:
            found.append("a file is left outside hwbench's folder")
        if (self.phone.home / "hwbench/run").exists():
            found.append("files are left in run/")
        if any((self.phone.home / "hwbench/restore").iterdir()):
            found.append("a note in restore/ is left")
        return found

    def _answers(self) -> bool:
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.phone.adbd.port), timeout=1),
        ):
            return True
        return False


def killer(
    bench: Bench, wanted: random.Random, typical_s: float, happened: Counter[str]
) -> Callable[[int], None]:
    """Sends hwbench a signal, or kills the runner on the phone, at a random moment of some uses."""
    shares = [*TO_HWBENCH.values(), RUNNER_KILLED]
    choices = [*((number, True) for number in TO_HWBENCH), (signal.SIGKILL, False), None]
    choice = wanted.choices(choices, [*shares, 1 - sum(shares)])[0]
    wait_s = wanted.uniform(0.1, typical_s)

    def strike(hwbench: int) -> None:
        if choice is None:
            return
        number, to_hwbench = choice
        time.sleep(wait_s)
        for pid in [hwbench] if to_hwbench else bench.phone.adbd.running():
            with suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes():  # empty once it has ended
                    os.kill(pid, number)
                    happened[f"hwbench-{number.name}" if to_hwbench else "runner-killed"] += 1

    return strike


def outcome(ending: Ending, kept: int) -> str:
    """`COMPLETE`, `PARTIAL` (something was kept) or `REFUSED`; anything else is a defect."""
    if ending.kind in {"HANG", "CRASH", "COMPLETE"}:
        return ending.kind
    return "PARTIAL" if kept else "REFUSED"


def one(bench: Bench, tally: Tally, number: int, *, faults: bool) -> None:
    """One use and all that is checked after it."""
    wanted, adbd = random.Random(number), bench.phone.adbd
    task = wanted.choices([*TASKS], [*TASKS.values()])[0] if faults else [*TASKS][number]
    models = {"compare": tuple(bench.models[:2]), "table": (bench.models[2 + number % 2],)}.get(
        task, (bench.models[0],)
    )
    use = Use(task, models, bench.folder / f"{number}.db")
    if task == "table" and faults:
        use = tally.table = tally.table or use
    plan = Faults(bench.faults(wanted, task) if faults else (), seed=number)
    struck: Counter[str] = Counter()
    adbd.talks.clear()
    adbd.faults = plan
    ending = carry_out(
        bench.context,
        use,
        bench.device,
        killer(bench, wanted, 1.5, struck) if faults else lambda _: None,
    )
    bench.packets.setdefault(task, plan.sent)
    struck.update(fault.kind for fault in plan.happened)
    problems = [f"{helper} runs on" for helper in ending.running]
    left_here = [str(path) for path in bench.scratch.glob(f"{PREFIX}*")]
    if left_here and ending.kind not in {"KILLED", "HANG"}:
        problems.append(f"{left_here} is left on this computer")
    problems += bench.left_behind()
    known = tally.known if task == "table" and faults else frozenset()
    kept, networks = 0, known
    try:
        kept, networks = check_store(
            use.store, task, use.models[0], known, adbd.talks, complete=ending.kind == "COMPLETE"
        )
    except (WrongError, HwbenchError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    if ending.kind in {"HANG", "CRASH"} or "\n" in ending.message:
        problems.append(f"{ending.kind} {ending.message!r}")
    what = outcome(ending, len(networks) if task == "table" else kept)
    tally.wrong += [f"use {number} ({task}, {what}): {problem}" for problem in problems]
    if not faults:
        return
    if task == "table":
        tally.tries, tally.known = tally.tries + 1, networks
        if what == "COMPLETE" or tally.tries == TRIES:
            tally.table, tally.tries, tally.known = None, 0, frozenset()
    tally.faults.update(struck)
    row = {
        "use": number,
        "task": task,
        "faults": " ".join(sorted(struck.elements())),
        "end": what,
        "error": ending.kind,
    }
    tally.rows.append(
        {**row, "rounds": kept, "took_s": round(ending.took_s, 3), "message": ending.message}
    )


def summary(tally: Tally) -> list[dict[str, object]]:
    """One row per task."""
    rows: list[dict[str, object]] = []
    for task in (*TASKS, "all"):
        ours = [row for row in tally.rows if task in {row["task"], "all"}]
        ends, took_s = (
            Counter(row["end"] for row in ours),
            [float(str(row["took_s"])) for row in ours],
        )
        counted = {end: ends[end] for end in ("COMPLETE", "PARTIAL", "REFUSED")}
        faults = sum(len(str(row["faults"]).split()) for row in ours)
        times = {"median_s": median(took_s or [0.0]), "longest_s": max(took_s, default=0.0)}
        rows.append({"task": task, "uses": len(ours), "faults": faults, **counted, **times})
    return rows


def notes(tally: Tally, took_s: float) -> str:
    """What came out, and how it was looked for."""
    kinds = [{"fault": kind, "happened": count} for kind, count in tally.faults.most_common()]
    errors = Counter(str(row["error"]) for row in tally.rows)
    defects = ": " + "; ".join(tally.wrong) if tally.wrong else ""
    return (
        f"**{tally.faults.total()} faults in {len(tally.rows)} uses: {len(tally.wrong)}"
        f" defects{defects}.** The study took {took_s:.0f} s.\n\nCOMPLETE: the result came."
        " PARTIAL: an error, and what was measured before it is in the store, told apart from a"
        " complete record. REFUSED: an error before the first number was kept. How the uses ended:"
        f" {dict(errors.most_common())}.\n\n"
        + markdown(kinds)
        + "\n\nEvery use runs in a process of its own through the public workflows, on a fake"
        " phone behind an adbd in Python, with the real runner (x86-64). After each of them this"
        " is checked. Every sample in the store equals, bit for bit and in order, what the"
        " runner wrote to its standard output for that model, recorded on the phone's side of"
        " all faults; a table's networks are worked out again from those rounds. A table's build"
        " that goes on begins with the first network that is not finished. No process is left on"
        " the phone. After the next connection no setting differs, no file lies outside"
        " hwbench's folder, none in `run/` and none in `restore/`. Signals reach"
        f" hwbench at random moments; processes that it started are gone {GONE_S:g} s later, and no"
        " temporary folder is left, after SIGKILL until the next use. A use hangs if it takes more"
        f" than {BOUND_S:.0f} s; the driver's limits were {LIMIT_S:g} s instead of 10 s and"
        " more.\n\nWhat it costs when nothing goes wrong: `results/android_rigs/`."
    )


def main() -> None:
    """Run all and write results/android_faults/."""
    # In the background of a shell, or after nohup, uses would inherit that these are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    start, tally, number = time.monotonic(), Tally(), 0
    with fake() as phone, TemporaryDirectory() as folder:
        scratch = Path(folder) / "tmp"
        scratch.mkdir()
        bench = Bench(phone, Path(folder), scratch)
        os.environ["TMPDIR"] = str(scratch)  # that of the uses, which all come from the server
        forkserver.ensure_running()
        del os.environ["TMPDIR"]
        for number in range(len(TASKS)):
            one(bench, tally, number, faults=False)
        while (
            len(tally.rows) < USES or tally.faults.total() < FAULTS
        ) and time.monotonic() - start < LONGEST_S:
            number += 1
            one(bench, tally, number, faults=True)
    took_s = time.monotonic() - start
    save_study(
        "android_faults",
        question=(
            "A thousand faults on the way to a phone: wrong numbers, hangs, or anything left"
            " behind?"
        ),
        rows=summary(tally),
        raw=tally.rows,
        command="make study NAME=android_faults",
        notes=notes(tally, took_s),
    )


if __name__ == "__main__":
    main()
