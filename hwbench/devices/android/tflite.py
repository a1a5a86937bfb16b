"""TensorFlow Lite on a phone, through the user's own `benchmark_model`.

The program is put on the phone and started, and its log is read.

The program is the user's because its build decides what is measured (delegates, kernels, version).
It lies where hwbench keeps everything on a phone, so `hwbench devices clean` removes it, and ends
with the stream that started it.

Proven with a stand-in that prints, refuses and ignores what the real program of 2019 and of 2024
does, as a program that a real adbd runs; not yet with the real program.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath

from hwbench.devices.android import tflite_log
from hwbench.devices.android.adb.client import Completed
from hwbench.devices.android.adb.link import one_line
from hwbench.devices.android.bundle import Bundle, BundleFile, explain_exit
from hwbench.devices.android.phone import PUSH_S, Phone, PhoneAddress
from hwbench.devices.android.tflite_log import TfliteLog
from hwbench.devices.android.tflite_program import Program
from hwbench.errors import (
    BuildError,
    DeviceCommandError,
    DeviceUnavailableError,
    OutputParseError,
    UsageError,
)
from hwbench.network.workload import Workload
from hwbench.records.device import Conditions, DeviceInfo
from hwbench.records.findings import Finding

PROGRAM = "benchmark_model"
OWN_FLAGS = (
    "graph",
    "num_threads",
    "num_runs",
    "min_secs",
    "max_secs",
    "warmup_runs",
    "warmup_min_secs",
    "enable_op_profiling",
)
"""Flags that the measurement itself sets."""
HELP_S = 60.0
"""Seconds that the program may take to list its flags."""
_REFUSED = (1, 134)
"""Exit statuses of a `benchmark_model` that cannot run a model.

They are EXIT_FAILURE, and SIGABRT in versions before 2020.
"""
_UNREAD = re.compile(r"Failed to parse flag .*")
_USAGE_FLAG = "--"
_TAIL_BYTES = 600
_KIND = "tflite"
"""The kind of its bundles on a phone; those of other kinds stay."""
_CAN_PIN = 'command -v taskset >/dev/null && taskset "$1" true'


@dataclass(frozen=True, slots=True)
class Invocation:
    """One execution of `benchmark_model` that ended well.

    Attributes:
        log: What it measured.
        text: All that it printed, as a lookup table can be imported from it.
        wall_s: Seconds it took as a whole, the way to the phone included.
    """

    log: TfliteLog
    text: str
    wall_s: float


class TflitePhone(Phone):
    """An opened phone with a `benchmark_model` in place of hwbench's own runner; a context manager.

    Args:
        place: Which phone, and which part of it: what follows `android:`, see `phone.PhoneAddress`.
        program: The program to put there.
        threads: Threads of the runtime, pinned to as many cores of the cluster where the phone has
            a `taskset`.
        flags: Further flags of the program, by name.

    Attributes:
        name: Its address, as the user gave it.
        known: Flags that the program knows.
        cores: CPUs it is to run on.
        findings: Reasons to distrust every measurement made with it.

    Raises:
        UsageError: The program is for another processor or no `benchmark_model`, does not know a
            flag, or the cluster has fewer cores.
        DeviceUnavailableError: The program does not run there; says why.
    """

    def __init__(
        self, place: str, program: Program, threads: int = 1, flags: Mapping[str, str] | None = None
    ) -> None:
        address = PhoneAddress.parse(place)
        for option in ("build", "runtime", "kernels"):
            value = getattr(address, option)
            if value != getattr(PhoneAddress(), option):
                raise UsageError(
                    f"{option}={value} is for hwbench's own runners; leave it out for {PROGRAM}"
                )
        self.name = f"android:{place}" if place else "android"
        self.program, self.threads, self.flags = program, threads, dict(flags or {})
        self.findings: tuple[Finding, ...] = ()
        super().__init__(address)

    def __enter__(self) -> TflitePhone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def info(self) -> DeviceInfo:
        """Identity of the phone, with this program as its runtime."""
        details = {
            "program_sha256": self.program.sha256,
            "flags": " ".join(_arguments(self.flags)),
            "pinned_to": " ".join(map(str, self.cores)) if self._pin else "",
        }
        return self.describe(self.name, self.bundle.runtime, details)

    def conditions(self) -> Conditions:
        """Read the state of the phone now."""
        return self.read_state().conditions(self.cluster.cpus, self.caps_hz)

    def place_model(self, model: Workload) -> PurePosixPath:
        """Send a model to the phone if it is not there.

        Models used longest ago are removed to make room.

        Returns:
            Where the model lies on the phone.
        """

        def put(data: bytes, path: PurePosixPath) -> None:
            self.adb.push(data, str(path), timeout_s=PUSH_S)

        def delete(path: PurePosixPath) -> None:
            self.adb.run(["rm", "-f", str(path)])

        return self._send_file(f"{model.sha256}.tflite", model.artifact, put, delete)

    def run(
        self, graph: PurePosixPath, flags: Mapping[str, object], timeout_s: float
    ) -> Invocation:
        """Execute `benchmark_model` once, in a fresh process.

        Args:
            graph: Path of the model on the phone.
            flags: How to measure, at least one warm-up; those that this version does not have are
                left out.
            timeout_s: Seconds it may take.

        Raises:
            UsageError: It ignored a flag, or cannot read the value of one.
            BuildError: TensorFlow Lite cannot run the model.
            DeviceCommandError: It crashed.
            DeviceTimeoutError: It did not end, and was ended.
            OutputParseError: What it printed is no whole log, or one of other settings.
        """
        own = {name: value for name, value in flags.items() if name in self.known}
        all_flags = {"graph": graph, "num_threads": self.threads, **own, **self.flags}
        argv = [*self._pin, self._program, *_arguments(all_flags)]
        started = time.monotonic()
        done = self.adb.run(argv, cwd=str(self.folder), timeout_s=timeout_s, check=False)
        wall_s = time.monotonic() - started
        text = _join_output(done)
        if done.code:
            raise _explain_failure(argv, done)
        log = tflite_log.parse(text, f"what {PROGRAM} printed")
        # There always is a warm-up. In a log that ends early it would pass for the timed runs.
        if log.warm_up is None:
            raise OutputParseError(
                f"what {PROGRAM} printed ends before the timed runs do; it said last:"
                f" {_read_tail(done)}"
            )
        self._check_obeyed(log)
        return Invocation(log, text, wall_s)

    def _check_obeyed(self, log: TfliteLog) -> None:
        """Refuse the log of a program that ignored how it was to run."""
        for finding in log.findings:
            if finding.code == "unknown_flags":
                raise UsageError(f"{finding.text}; leave it out, or give another {PROGRAM}")
        threads = dict(log.parameters).get("Num threads", str(self.threads))
        if threads != str(self.threads):
            raise OutputParseError(
                f"{PROGRAM} ran with {threads} threads, not {self.threads} as it was told; give a"
                " newer one"
            )

    @property
    def _program(self) -> str:
        return str(self._bundle_folder / PROGRAM)

    def _find_bundle(self) -> Bundle:
        """A bundle of one file, which the phone's own C library runs."""
        self.program.check(self.identity.machine)
        self.cores = self.choose_cores(self.threads)
        file = BundleFile(PROGRAM, self.program.sha256, len(self.program.data), 0o755)
        runtime = f"TensorFlow Lite {PROGRAM} {self.program.sha256[:12]}"
        return Bundle(_KIND, self.program.path.parent, (file,), runtime, (f"./{PROGRAM}",), {})

    def _install_bundle(self) -> None:
        file = f"bundle/{self.bundle.name}/{PROGRAM}"
        if self.identity.files.get(file) != len(self.program.data):
            self._make_room()
            self.adb.push(self.program.data, self._program, mode=0o755, timeout_s=PUSH_S)
        self.known = self._list_flags()
        self._check_flags()
        mask = f"{sum(1 << cpu for cpu in self.cores):x}"
        pinned = self.adb.script(_CAN_PIN, mask, check=False).code == 0
        self._pin = ("taskset", mask) if pinned else ()
        if not pinned:
            text = (
                f"no working taskset on the phone: {PROGRAM} ran on any core, not on CPU"
                f" {' '.join(map(str, self.cores))}"
            )
            self.findings = (Finding("not_pinned", text),)

    def _list_flags(self) -> frozenset[str]:
        """Ask the program for its flags.

        The oldest versions ignore a flag that they do not know, and do not say so.
        """
        done = self.adb.run(
            [self._program, "--help"], cwd=str(self.folder), timeout_s=HELP_S, check=False
        )
        if done.code in {126, 127} or done.code > 128:
            raise DeviceUnavailableError(
                f"{self.program.path} does not run on {self.adb.serial}: {explain_exit(done.code)}"
                f" ({_read_tail(done)})"
            )
        flags = set()
        for line in _join_output(done).splitlines():
            if line.strip().startswith(_USAGE_FLAG):
                flags.add(line.strip().partition("=")[0].removeprefix(_USAGE_FLAG))
        if not {"graph", "num_threads", "num_runs", "warmup_runs"} <= flags:
            raise UsageError(
                f"{self.program.path} is no {PROGRAM}: its --help does not list --graph, --num_runs"
                " and the like"
            )
        return frozenset(flags)

    def _check_flags(self) -> None:
        for name in self.flags:
            if name in OWN_FLAGS:
                raise UsageError(
                    f"--{name} is set by the measurement itself, from its threads and its budget;"
                    " leave it out"
                )
            if name not in self.known:
                message = f"{self.program.path} does not know --{name}"
                close_names = get_close_matches(name, self.known, 3)
                if close_names:
                    message += f"; near it are {', '.join(f'--{near}' for near in close_names)}"
                raise UsageError(message)


def _arguments(flags: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def _join_output(done: Completed) -> str:
    """Join both outputs: versions differ in what they print where."""
    outputs = [output for output in (done.stdout, done.stderr) if output]
    return "\n".join(output.decode("utf-8", "replace") for output in outputs)


def _read_tail(done: Completed) -> str:
    """Return the end of the errors, else of the output, in one line."""
    output = done.stderr or done.stdout
    return one_line(output[-_TAIL_BYTES:].decode("utf-8", "replace")) or "it said nothing"


def _explain_failure(
    argv: Sequence[str], done: Completed
) -> UsageError | BuildError | DeviceCommandError:
    """Make the error for a `benchmark_model` that failed."""
    text = _join_output(done)
    tail = _read_tail(done)
    unread_flag = _UNREAD.search(text)
    if unread_flag is not None:
        return UsageError(f"{PROGRAM} cannot read a flag: {one_line(unread_flag[0])}")
    if done.code in _REFUSED:
        return BuildError(f"TensorFlow Lite cannot run the model (exit status {done.code}): {tail}")
    return DeviceCommandError(
        f"{PROGRAM} failed, {explain_exit(done.code)}: {tail}",
        argv,
        done.code,
        text[-_TAIL_BYTES:],
    )
