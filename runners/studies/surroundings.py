"""Sixty faults of the surroundings: each ends in one line and the right exit code, and what is said
to be kept is there.

A fault is made with the means of Linux: limits of the shell, small file systems in a namespace of
its own, dropped capabilities, signals of the clock by a library that is loaded first. Needs root
and a C compiler.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from hwbench.errors import HwbenchError
from hwbench.store import open_store
from runners.studies._results import RESULTS, save_study
from tests.support.models import conv_net

AT_ONCE = 2
"""Faults at a time."""
LIMIT_S = 240
"""Seconds after which a command counts as one that hangs."""
NOWHERE = "/proc/nowhere"
"""A folder that nobody can make."""
WITHOUT_POWERS = "setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all"
"""Root that permissions apply to."""
STRANGER = (
    "setpriv --reuid 43210 --regid 43210 --clear-groups"
    " --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
)
"""A user without an entry in /etc/passwd; it may read everything, as Python may lie in a home."""
FILL = "; head -c 99999 /dev/zero > {folder}/disk/fill 2>/dev/null"
GONE = "mkdir {folder}/gone; cd {folder}/gone; rmdir {folder}/gone"
LOCKED = "mkdir -m 555 {folder}/locked"
READ_ONLY = "mount --bind {where} {where}; mount -o remount,ro,bind {where}"
QUOTA = """
G=/sys/fs/cgroup/cpu/hwbench-study-$$
mkdir $G && echo 10000 > $G/cpu.cfs_quota_us && echo 50000 > $G/cpu.cfs_period_us
echo $$ > $G/cgroup.procs"""
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
/* The clock of the calendar jumps once, after the 200th look at it. */
int clock_gettime(clockid_t id, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  static int looks;
  if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  const int result = real(id, now);
  if (id == CLOCK_REALTIME && ++looks > 200) now->tv_sec += atol(getenv("JUMP_S"));
  return result;
}
"""

PROFILE = "profile {folder}/net.onnx --device virtual --budget 1"
CPU = "profile {folder}/net.onnx --device cpu --budget 1 --no-layers"
COMPARE = "compare {folder}/net.onnx {folder}/slower.onnx --device virtual --budget 4"
BUILD = "table build {folder}/net.onnx --device virtual --budget 1 --validation 0"
NO_HOME = {"HOME": None, "XDG_CACHE_HOME": None, "XDG_DATA_HOME": None, "XDG_CONFIG_HOME": None}


def small_disk(size: str) -> str:
    """Commands that mount a small disk at {folder}/disk."""
    return "mkdir {folder}/disk; mount -t tmpfs -o size=" + size + " none {folder}/disk"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: What is wrong.
        command: Words after `hwbench`; {folder} is the folder of the trial.
        codes: Exit codes that are right.
        before: Commands of the shell that make the fault.
        wrapper: Command that runs hwbench.
        after: Redirections.
        variables: Changes to the environment; None removes.
        own_mounts: Whether it runs in a namespace of mounts of its own.
        said: What the line must hold.
    """

    name: str
    command: str
    codes: tuple[int, ...] = (0,)
    before: str = ""
    wrapper: str = ""
    after: str = ""
    variables: Mapping[str, str | None] = field(default_factory=dict)
    own_mounts: bool = False
    said: str = ""


def faults() -> list[Fault]:
    """All faults, in order."""
    on_disk = {"HWBENCH_STORE": "{folder}/disk/store.db"}
    return [
        Fault(
            "store on a full disk (0 bytes left)",
            PROFILE,
            (2,),
            small_disk("64k") + FILL,
            variables=on_disk,
            own_mounts=True,
        ),
        Fault(
            "disk of the store fills up while measuring",
            PROFILE.replace("--budget 1", "--budget 20"),
            (2,),
            small_disk("300k"),
            variables=on_disk,
            own_mounts=True,
        ),
        Fault(
            "disk of the store fills up while comparing",
            COMPARE.replace("--budget 4", "--budget 30"),
            (2,),
            small_disk("300k"),
            variables=on_disk,
            own_mounts=True,
        ),
        Fault(
            "disk of the store fills up during a table build",
            BUILD.replace("--budget 1", "--budget 60"),
            (2,),
            small_disk("300k"),
            variables=on_disk,
            own_mounts=True,
        ),
        Fault("files of 4 kB at most", PROFILE, (2,), "ulimit -f 4"),
        Fault(
            "files of 100 kB at most, long measurement",
            PROFILE.replace("--budget 1", "--budget 20"),
            (2,),
            "ulimit -f 100",
        ),
        Fault(
            "cache on a full disk",
            CPU,
            (0, 2),
            small_disk("16k"),
            variables={"XDG_CACHE_HOME": "{folder}/disk"},
            own_mounts=True,
        ),
        Fault(
            "cache on a disk that takes the runner and no more",
            CPU,
            (0, 2),
            small_disk("120k"),
            variables={"XDG_CACHE_HOME": "{folder}/disk"},
            own_mounts=True,
        ),
        Fault(
            "folder of temporary files on a full disk",
            CPU,
            (0, 2),
            small_disk("4k"),
            variables={"TMPDIR": "{folder}/disk"},
            own_mounts=True,
        ),
        Fault(
            "report to a full disk",
            "report -o {folder}/disk/report.html",
            (2,),
            small_disk("16k"),
            own_mounts=True,
        ),
        Fault(
            "export to a full disk",
            "store export {folder}/disk/all.jsonl",
            (2,),
            small_disk("4k"),
            own_mounts=True,
        ),
        Fault("JSON to a full device", PROFILE + " --json /dev/full", (2,)),
        Fault("standard output to a full device", PROFILE, (2,), after="> /dev/full"),
        Fault(
            "JSON on standard output to a full device",
            PROFILE + " --json -",
            (2,),
            after="> /dev/full",
        ),
        Fault("standard error to a full device", PROFILE, (0,), after="2> /dev/full"),
        Fault("comparison, standard error to a full device", COMPARE, (1,), after="2> /dev/full"),
        Fault("comparison, standard error closed", COMPARE, (1,), after="2>&-"),
        Fault("standard error closed", PROFILE, (0,), after="2>&-"),
        Fault("standard output closed", PROFILE, (0, 2), after=">&-"),
        Fault("standard input closed", PROFILE, (0,), after="<&-"),
        Fault("all three closed", PROFILE, (0, 2), after="<&- >&- 2>&-"),
        Fault(
            "reader of the output gone",
            "report --help",
            (0, 141),
            after="| true; exit ${PIPESTATUS[0]}",
        ),
        Fault(
            "reader of the output takes one line",
            PROFILE,
            (0, 141),
            after="| head -1; exit ${PIPESTATUS[0]}",
        ),
        Fault(
            "store in a folder that cannot be written",
            PROFILE,
            (2,),
            LOCKED,
            WITHOUT_POWERS,
            variables={"HWBENCH_STORE": "{folder}/locked/store.db"},
        ),
        Fault(
            "store that can only be read, and is written",
            PROFILE,
            (2,),
            "cp {folder}/store.db {folder}/old.db; chmod 444 {folder}/old.db",
            WITHOUT_POWERS,
            variables={"HWBENCH_STORE": "{folder}/old.db"},
        ),
        Fault(
            "store that can only be read, and is read",
            "store list",
            (0, 2),
            "mkdir {folder}/ro; cp {folder}/store.db {folder}/ro;"
            " chmod 444 {folder}/ro/store.db; chmod 555 {folder}/ro",
            WITHOUT_POWERS,
            variables={"HWBENCH_STORE": "{folder}/ro/store.db"},
        ),
        Fault(
            "store on a disk mounted to be read",
            PROFILE,
            (2,),
            "mkdir {folder}/ro; cp {folder}/store.db {folder}/ro;"
            + READ_ONLY.replace("{where}", "{folder}/ro"),
            variables={"HWBENCH_STORE": "{folder}/ro/store.db"},
            own_mounts=True,
        ),
        Fault(
            "cache that cannot be written",
            CPU,
            (0, 2),
            LOCKED,
            WITHOUT_POWERS,
            variables={"XDG_CACHE_HOME": "{folder}/locked"},
        ),
        Fault(
            "model that cannot be read",
            PROFILE.replace("net.onnx", "secret.onnx"),
            (2,),
            "cp {folder}/net.onnx {folder}/secret.onnx; chmod 0 {folder}/secret.onnx",
            WITHOUT_POWERS,
        ),
        Fault(
            "everything mounted to be read",
            PROFILE,
            (2,),
            READ_ONLY.replace("{where}", "/"),
            variables={
                "HWBENCH_STORE": "/var/lib/hwbench/store.db",
                "XDG_CACHE_HOME": "/var/cache/hwbench",
            },
            own_mounts=True,
        ),
        Fault("HOME unset", "doctor", (0,), variables=NO_HOME),
        Fault(
            "HOME unset, store in it",
            PROFILE,
            (0,),
            variables={**NO_HOME, "HWBENCH_STORE": None, "XDG_DATA_HOME": "{folder}/data"},
        ),
        Fault(
            "no passwd entry, HOME unset: doctor",
            "doctor",
            (0,),
            "chmod 777 {folder}",
            STRANGER,
            variables=NO_HOME,
        ),
        Fault(
            "no passwd entry, HOME unset: devices",
            "devices",
            (0,),
            "chmod 777 {folder}",
            STRANGER,
            variables=NO_HOME,
        ),
        Fault(
            "no passwd entry, HOME unset: profile",
            PROFILE,
            (0, 2),
            "chmod 777 {folder}",
            STRANGER,
            variables={**NO_HOME, "HWBENCH_STORE": None},
        ),
        Fault(
            "no passwd entry, HOME unset: profile on the CPU",
            CPU,
            (0, 2),
            "chmod 777 {folder}",
            STRANGER,
            variables={**NO_HOME, "HWBENCH_STORE": None},
        ),
        Fault(
            "no passwd entry, HOME unset: store list",
            "store list",
            (0, 2),
            "chmod 777 {folder}",
            STRANGER,
            variables={**NO_HOME, "HWBENCH_STORE": None},
        ),
        Fault(
            "HOME that cannot be written: doctor",
            "doctor",
            (0,),
            "mkdir -m 555 {folder}/home",
            WITHOUT_POWERS,
            variables={**NO_HOME, "HOME": "{folder}/home"},
        ),
        Fault(
            "HOME that cannot be written: devices",
            "devices",
            (0,),
            "mkdir -m 555 {folder}/home",
            WITHOUT_POWERS,
            variables={**NO_HOME, "HOME": "{folder}/home"},
        ),
        Fault(
            "HOME that cannot be written: profile",
            CPU,
            (2,),
            "mkdir -m 555 {folder}/home",
            WITHOUT_POWERS,
            variables={**NO_HOME, "HOME": "{folder}/home", "HWBENCH_STORE": None},
        ),
        Fault("HOME that does not exist", "doctor", (0,), variables={**NO_HOME, "HOME": NOWHERE}),
        Fault(
            "HOME that is a file",
            PROFILE,
            (2,),
            "touch {folder}/home",
            variables={**NO_HOME, "HOME": "{folder}/home", "HWBENCH_STORE": None},
        ),
        Fault("HOME that is empty", "doctor", (0,), variables={**NO_HOME, "HOME": ""}),
        Fault("current folder deleted", PROFILE, (2,), GONE),
        Fault("current folder deleted, doctor", "doctor", (0,), GONE),
        Fault(
            "store deleted while measuring",
            PROFILE.replace("--budget 1", "--budget 60").replace("virtual", "cpu"),
            (3,),
            "(until [ -s {folder}/mine.db ]; do sleep 0.2; done; sleep 2;"
            " rm -f {folder}/mine.db*) &",
            variables={"HWBENCH_STORE": "{folder}/mine.db"},
        ),
        Fault(
            "cache deleted while measuring",
            CPU.replace("--budget 1", "--budget 15"),
            (0, 2, 3),
            "rm -rf {folder}/cache; (until ls {folder}/cache/hwbench/hwb* >/dev/null 2>&1;"
            " do sleep 0.2; done; sleep 1; rm -rf {folder}/cache) &",
            variables={"XDG_CACHE_HOME": "{folder}/cache"},
        ),
        Fault("folder of temporary files missing", CPU, (0, 2), variables={"TMPDIR": NOWHERE}),
        Fault(
            "folder of temporary files deleted while measuring",
            CPU.replace("--budget 1", "--budget 10"),
            (0,),
            "mkdir {folder}/tmp; (until [ -s {folder}/mine.db ]; do sleep 0.2; done; sleep 2;"
            " rm -rf {folder}/tmp) &",
            variables={"TMPDIR": "{folder}/tmp", "HWBENCH_STORE": "{folder}/mine.db"},
        ),
        Fault(
            "folder of temporary files deleted while the model is read",
            CPU.replace("--budget 1", "--budget 10"),
            (2,),
            "mkdir {folder}/tmp; (until ls {folder}/tmp/* >/dev/null 2>&1; do sleep 0.1; done;"
            " rm -rf {folder}/tmp) &",
            variables={"TMPDIR": "{folder}/tmp"},
        ),
        Fault(
            "no /dev/shm",
            PROFILE,
            (0,),
            "umount -l /dev/shm 2>/dev/null; mount -t tmpfs -o ro,size=4k none /dev/shm",
            own_mounts=True,
        ),
        Fault("no /proc", PROFILE, (0, 2, 3), "mount -t tmpfs none /proc", own_mounts=True),
        Fault("no /sys", "doctor", (0,), "mount -t tmpfs none /sys", own_mounts=True),
        Fault("one CPU by affinity", CPU, (0,), wrapper="taskset -c 0"),
        Fault(
            "one CPU by affinity, two threads asked for",
            CPU + " --threads 2",
            (2,),
            wrapper="taskset -c 0",
            said="--threads 1",
        ),
        Fault("64 open files", CPU, (0,), "ulimit -n 64"),
        Fault("16 open files", CPU, (0, 2, 3), "ulimit -n 16"),
        Fault(
            "no process may be started",
            CPU,
            (2, 3),
            wrapper=STRANGER + " prlimit --nproc=1:1",
            variables={"OPENBLAS_NUM_THREADS": "1"},
            before="chmod 777 {folder}",
        ),
        Fault("1.5 GB of address space", PROFILE, (0, 2, 3), "ulimit -v 1500000"),
        Fault("30 s of processor time", PROFILE, (0,), "ulimit -t 30"),
        Fault(
            "a tenth of a processor by a control group",
            "doctor",
            (0,),
            QUOTA,
            said="control group gives",
        ),
        Fault(
            "clock jumps a year ahead",
            PROFILE,
            (0,),
            variables={"LD_PRELOAD": "{folder}/clock.so", "JUMP_S": "31536000"},
        ),
        Fault(
            "clock jumps a year back",
            PROFILE,
            (0,),
            variables={"LD_PRELOAD": "{folder}/clock.so", "JUMP_S": "-31536000"},
        ),
        Fault(
            "clock jumps to 1970, on the CPU",
            CPU,
            (0,),
            variables={"LD_PRELOAD": "{folder}/clock.so", "JUMP_S": "-1796000000"},
        ),
        Fault(
            "clock jumps to 2100, report",
            "report -o {folder}/r.html",
            (0,),
            variables={"LD_PRELOAD": "{folder}/clock.so", "JUMP_S": "2300000000"},
        ),
        Fault(
            "no compiler",
            CPU,
            (0,),
            variables={"CC": None, "PATH": "/nowhere", "XDG_CACHE_HOME": "{folder}/cache"},
        ),
        Fault(
            "a compiler that fails",
            CPU,
            (0, 2),
            variables={"CC": "/bin/false", "XDG_CACHE_HOME": "{folder}/cache"},
        ),
        Fault(
            "a compiler that is a folder",
            CPU,
            (0, 2),
            variables={"CC": "/", "XDG_CACHE_HOME": "{folder}/cache"},
        ),
        Fault("an empty PATH", "devices", (0,), variables={"PATH": ""}),
        Fault(
            "a PATH with a closed folder",
            "doctor",
            (0,),
            variables={"PATH": "/root/nothing:/proc/1/root"},
            wrapper="",
        ),
        Fault("an unknown locale", PROFILE, (0,), variables={"LC_ALL": "xx_YY.ISO-8859-99"}),
        Fault(
            "ASCII output", PROFILE, (0,), variables={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
        ),
        Fault(
            "a folder whose name is not UTF-8",
            "profile {folder}/$'caf\\xe9'/net.onnx --device virtual --budget 1",
            (0, 2),
            "mkdir {folder}/$'caf\\xe9'; cp {folder}/net.onnx {folder}/$'caf\\xe9'",
        ),
        Fault(
            "a terminal of no width", PROFILE, (0,), variables={"COLUMNS": "0", "TERM": "nothing"}
        ),
        Fault("an unknown time zone", PROFILE, (0,), variables={"TZ": "Nowhere/Nothing"}),
    ]


@dataclass(frozen=True)
class Trial:
    """What came of a fault.

    Attributes:
        fault: The fault.
        code: Exit code.
        wrong: What is wrong with it; empty if nothing is.
        line: What it said.
        seconds: How long it took.
    """

    fault: Fault
    code: int
    wrong: str
    line: str
    seconds: float


class Place:
    """Folders with models, a store that holds one record, and the library of the clock.

    Args:
        folder: Where to make them.
    """

    def __init__(self, folder: Path) -> None:
        self.template = folder / "template"
        self.template.mkdir()
        (self.template / "net.onnx").write_bytes(conv_net((16, 16), size=8))
        (self.template / "slower.onnx").write_bytes(conv_net((64, 64), size=8))
        source = self.template / "clock.c"
        source.write_text(CLOCK)
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-o", self.template / "clock.so", source, "-ldl"], check=True
        )
        done = self._run(Fault("none", CPU), self.template)
        if done.returncode:
            raise RuntimeError(f"hwbench does not work here: {done.stderr}")

    def try_fault(self, fault: Fault) -> Trial:
        """Make a fault in a fresh folder, and judge what comes of it."""
        folder = Path(tempfile.mkdtemp(prefix="trial", dir=self.template.parent))
        folder.chmod(0o755)
        shutil.copytree(self.template, folder, dirs_exist_ok=True)
        begun_s = time.monotonic()
        try:
            done = self._run(fault, folder)
        except subprocess.TimeoutExpired:
            return Trial(fault, -1, f"hangs for {LIMIT_S} s", "", LIMIT_S)
        seconds = time.monotonic() - begun_s
        wrong = self._judge(fault, folder, done)
        return Trial(fault, done.returncode, wrong, done.stderr.strip()[-300:], seconds)

    def _run(self, fault: Fault, folder: Path) -> subprocess.CompletedProcess[str]:
        place = str(folder)
        environment = {**os.environ, "HWBENCH_STORE": f"{place}/store.db", "COLUMNS": "200"}
        environment["XDG_CACHE_HOME"] = f"{place}/cache"
        (folder / "temporary").mkdir(exist_ok=True)
        (folder / "temporary").chmod(0o777)
        environment["TMPDIR"] = f"{place}/temporary"
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        inner = dict(fault.variables)
        assignments = []
        for name, value in inner.items():
            if value is None:
                assignments.append(f"-u {name}")
        for name, value in inner.items():
            if value is not None:
                assignments.append(f"{name}='{value.replace('{folder}', place)}'")
        env = shutil.which("env") or "env"
        words = [fault.wrapper, env, *assignments, sys.executable, "-m hwbench"]
        line = " ".join([*words, fault.command.replace("{folder}", place), fault.after])
        script = f"{fault.before.replace('{folder}', place)}\n{line}"
        shell = ["bash", "-c", script]
        if fault.own_mounts:
            shell = ["unshare", "--mount", "--propagation", "private", *shell]
        kept = KEPT_COMMANDS.replace("{folder}", place)
        if fault.own_mounts and "disk" in str(fault.variables.get("HWBENCH_STORE", "")):
            # What is said to be kept there can only be looked at inside the namespace.
            shell[-1] = kept.replace("{script}", script).replace("{python}", sys.executable)
        return subprocess.run(
            shell,
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )

    def _judge(self, fault: Fault, folder: Path, done: subprocess.CompletedProcess[str]) -> str:
        """What is wrong with an outcome; empty if nothing is."""
        errors = [line for line in done.stderr.splitlines() if line.strip()]
        if done.returncode not in fault.codes:
            return f"code {done.returncode}, not {' or '.join(map(str, fault.codes))}"
        if "Traceback" in done.stderr or "a fault of hwbench" in done.stderr:
            return "a traceback or a fault"
        if done.returncode in {2, 3, 4} and "2>" not in fault.after and "2<" not in fault.after:
            told = [line for line in errors if line.startswith("hwbench: error: ")]
            warned = [line for line in errors if line.startswith("hwbench: no home folder")]
            if len(told) != 1 or len(errors) != 1 + len(warned):
                return f"{len(errors)} lines"
        if "KEPT-MISSING" in done.stdout:
            return "what is said to be kept is not there"
        if fault.said and fault.said not in done.stderr + done.stdout:
            return f"does not say {fault.said!r}"
        return self._find_lost(fault, folder, done)

    def _find_lost(self, fault: Fault, folder: Path, done: subprocess.CompletedProcess[str]) -> str:
        """Whether a record that was kept before, or is said to be kept now, is not there."""
        with open_store(f"{folder}/store.db") as store_of_before:
            if not store_of_before.list():
                return "the record of before is lost"
        changed = fault.variables.get("HWBENCH_STORE")
        store = (changed or f"{folder}/store.db").replace("{folder}", str(folder))
        if fault.own_mounts or ("HWBENCH_STORE" in fault.variables and changed is None):
            return ""
        said = re.findall(
            r"(?:record|store show) ([0-9a-f]{12})(?! is not kept)", done.stdout + done.stderr
        )
        for record_id in said:
            try:
                with open_store(store) as kept:
                    samples = len(kept.get(record_id).series)
            except HwbenchError as error:
                return f"record {record_id} is not there: {error}"
            if not samples:
                return f"record {record_id} is empty"
        return ""


KEPT_COMMANDS = """
( {script}
) 2>{folder}/said
code=$?
cat {folder}/said >&2
for record in $(grep -o 'store show [0-9a-f]*' {folder}/said | cut -d' ' -f3); do
  {python} -m hwbench store show $record --store {folder}/disk/store.db --json - \
    >{folder}/shown 2>&1 || echo KEPT-MISSING
  grep -q samples_s {folder}/shown || echo KEPT-MISSING
done
exit $code
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="repeat faults whose name holds this")
    only = parser.parse_args().only
    rows = {}
    if only:
        with (RESULTS / "surroundings" / "data.csv").open(newline="") as file:
            rows = {row["fault"]: row for row in csv.DictReader(file)}
    with tempfile.TemporaryDirectory(prefix="hwbench-surroundings-") as folder:
        Path(folder).chmod(0o755)
        place = Place(Path(folder))
        chosen = [fault for fault in faults() if only in fault.name]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for last in pool.map(place.try_fault, chosen):
                fault = last.fault
                rows[fault.name] = {
                    "fault": fault.name,
                    "command": fault.command.split()[0],
                    "code": str(last.code),
                    "right": " or ".join(map(str, fault.codes)),
                    "wrong": last.wrong or "nothing",
                }
                print(f"{last.seconds:5.1f} s  {last.code:3d}  {fault.name}: {last.wrong or 'ok'}")
                if last.wrong or only:
                    print(f"         {last.line}")
                sys.stdout.flush()
    bad = sum(row["wrong"] != "nothing" for row in rows.values())
    save_study(
        "surroundings",
        question="Does hwbench end in one line and the right exit code whatever is wrong around it,"
        " and is what it says is kept really there?",
        rows=list(rows.values()),
        command="python -m runners.studies.surroundings",
        answer=f"{len(rows) - bad} of {len(rows)} faults do.",
        notes="After each fault a record that was kept before it is looked for, and every record"
        " that the output says is kept. The clock's jumps are made by a library that is loaded"
        " before the C library's `clock_gettime` and moves the clock after 200 looks at it; the"
        " monotonic clock cannot jump on Linux. The rest are limits of the shell, mounts in a"
        " namespace of its own, a control group, dropped capabilities, and a user id without an"
        " entry in /etc/passwd.",
    )


if __name__ == "__main__":
    main()
