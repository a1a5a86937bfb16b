"""TensorFlow Lite on a phone: the user's own `benchmark_model`, put there, started, and its log read.

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
from hwbench.devices.android.phone import HOME, MODELS_BYTES, PUSH_S, Phone, PhoneAddress
from hwbench.devices.android.tflite_file import Program, TfliteModel
from hwbench.devices.android.tflite_log import TfliteLog
from hwbench.errors import (
    Argument,
    BuildError,
    DeviceCommandError,
    DeviceUnavailableError,
    OutputParseError,
    UsageError,
)
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
"""Exit status of a `benchmark_model` that cannot run a model: EXIT_FAILURE, and SIGABRT in versions before 2020."""
_UNREAD = re.compile(r"Failed to parse flag .*")
_USAGE_FLAG = "--"
_SAID_BYTES = 600
_MAKE_ROOM = (
    'cd "$1/bundle" && for old in tflite-*; do [ "$old" = "$2" ] || rm -rf "$old"; done; mkdir -p'
    ' "$2"'
)
"""One program of its kind stays; ONNX Runtime's bundle beside it is left alone."""
_CAN_PIN = 'command -v taskset >/dev/null && taskset "$1" true'


@dataclass(frozen=True, slots=True)
class Invocation:
    """One execution of `benchmark_model` that ended well.

    Attributes:
        log: What it measured.
        text: All that it printed: what `hwbench table import` takes.
        wall_s: Seconds it took as a whole, the way to the phone included.
    """

    log: TfliteLog
    text: str
    wall_s: float


class TflitePhone(Phone):
    """An opened phone with a `benchmark_model` in place of hwbench's own runner; a context manager.

    Args:
        place: Which phone, and which part of it: what follows `android:`, see `phone.PhoneAddress`.
        program: What to put there.
        threads: Of the runtime; pinned to as many cores of the cluster where the phone has a
            `taskset`.
        flags: Further flags of the program, by name.

    Attributes:
        name: Its address, as the user gave it.
        known: Flags that the program knows.
        findings: What to know of every measurement made with it.

    Raises:
        UsageError: The program is for another processor or no `benchmark_model`, does not know a
            flag, or the cluster has fewer cores.
        DeviceUnavailableError: The program does not run there; says why.
    """

    def __init__(
        self, place: str, program: Program, threads: int = 1, flags: Mapping[str, str] | None = None
    ) -> None:
        address = PhoneAddress.parse(place)
        if address.build != "linux":
            raise UsageError(
                f"build={address.build} chooses between builds of ONNX Runtime; leave it out for"
                " TensorFlow Lite"
            )
        self.name = f"android:{place}" if place else "android"
        self.program, self.threads, self.flags = program, threads, dict(flags or {})
        self.findings: tuple[Finding, ...] = ()
        super().__init__(address)

    def __enter__(self) -> TflitePhone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def cores(self) -> tuple[int, ...]:
        """CPUs it is to run on."""
        return self.cluster.cpus[-self.threads :]

    def info(self) -> DeviceInfo:
        """Identity of the phone, with this program as its runtime."""
        who, cpus = self.identity, " ".join(map(str, self.cluster.cpus))
        details = {
            "serial": who.serial or self.adb.serial,
            "android": who.android,
            "build": who.build,
            "kernel": who.kernel,
            "cores": who.cores,
            "cluster": f"{self.cluster.name} ({cpus})",
            "mode": self.address.mode,
            "isa": who.features,
            "program_sha256": self.program.sha256,
            "flags": " ".join(_arguments(self.flags)),
            "pinned_to": " ".join(map(str, self.cores)) if self._pin else "",
        }
        return DeviceInfo(
            address=self.name,
            target=", ".join(filter(None, (who.model, who.soc, f"{self.cluster.name} cluster"))),
            target_id="|".join(
                (
                    who.model,
                    who.soc,
                    who.machine,
                    who.cores,
                    f"{self.cluster.name} {cpus}",
                    self.address.mode,
                )
            ),
            runtime=self.bundle.runtime,
            details=tuple((name, value) for name, value in details.items() if value),
        )

    def conditions(self) -> Conditions:
        """How the phone is now."""
        return self.read_state().conditions(self.cluster.cpus, self.caps_hz)

    def place_model(self, model: TfliteModel) -> PurePosixPath:
        """Where a model lies on the phone.

        Sent if it was not there, the ones used longest ago making room.
        """
        name, size = PurePosixPath("models") / f"{model.sha256}.tflite", len(model.data)
        if self._models.get(name) != size:
            self._models.pop(name, None)
            while self._models and sum(self._models.values()) + size > MODELS_BYTES:
                oldest = next(iter(self._models))
                self.adb.run(["rm", "-f", str(HOME / oldest)])
                del self._models[oldest]
            self.adb.push(model.data, str(HOME / name), timeout_s=PUSH_S)
        self._models[name] = self._models.pop(name, size)  # used last
        return HOME / name

    def run(
        self, graph: PurePosixPath, flags: Mapping[str, object], timeout_s: float
    ) -> Invocation:
        """Execute `benchmark_model` once, in a fresh process.

        Args:
            graph: The model, on the phone.
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
        given = {"graph": graph, "num_threads": self.threads, **own, **self.flags}
        argv = [*self._pin, self._program, *_arguments(given)]
        begun = time.monotonic()
        done = self.adb.run(argv, cwd=str(self.folder), timeout_s=timeout_s, check=False)
        wall_s = time.monotonic() - begun
        text = _text(done)
        if done.code:
            raise self._failure(argv, done)
        log = tflite_log.parse(text, f"what {PROGRAM} printed")
        if log.warm_up is None:  # there always is one, and alone it would look like the timed runs
            raise OutputParseError(
                f"what {PROGRAM} printed ends before the timed runs do; it said last:"
                f" {_last_words(done)}"
            )
        self._check_obeyed(log)
        return Invocation(log, text, wall_s)

    def _check_obeyed(self, log: TfliteLog) -> None:
        """Refuse the log of a program that ran otherwise than it was told to."""
        ignored = next(
            (finding for finding in log.findings if finding.code == "unknown_flags"), None
        )
        if ignored is not None:
            raise UsageError(f"{ignored.text}; leave it out, or give another {PROGRAM}")
        told = dict(log.parameters).get("Num threads", str(self.threads))
        if told != str(self.threads):
            raise OutputParseError(
                f"{PROGRAM} ran with {told} threads, not {self.threads} as it was told; give a"
                " newer one"
            )

    def _failure(
        self, argv: Sequence[str], done: Completed
    ) -> UsageError | BuildError | DeviceCommandError:
        text = _text(done)
        said = _last_words(done)
        unread = _UNREAD.search(text)
        if unread is not None:
            return UsageError(f"{PROGRAM} cannot read a flag: {one_line(unread[0])}")
        if done.code in _REFUSED:
            return BuildError(
                f"TensorFlow Lite cannot run the model (exit status {done.code}): {said}"
            )
        return DeviceCommandError(
            f"{PROGRAM} failed, {explain_exit(done.code)}: {said}",
            argv,
            done.code,
            text[-_SAID_BYTES:],
        )

    @property
    def _program(self) -> str:
        return str(self._bundle_folder / PROGRAM)

    @property
    def _bundle_folder(self) -> PurePosixPath:
        return HOME / "bundle" / f"tflite-{self.bundle.digest}"

    def _find_bundle(self) -> Bundle:
        """A bundle of one file, which the phone's own C library runs."""
        self.program.check(self.identity.machine)
        available = len(self.cluster.cpus)
        if not 1 <= self.threads <= available:
            raise UsageError(
                f"{self.threads} threads are wanted where the {self.cluster.name} cluster has"
                f" {available} cores online; name another cluster"
                f" (android:{self.adb.serial},cluster=NAME)",
                Argument("threads", available),
            )
        file = BundleFile(PROGRAM, self.program.sha256, len(self.program.data), 0o755)
        runtime = f"TensorFlow Lite {PROGRAM} {self.program.sha256[:12]}"
        return Bundle(self.program.path.parent, (file,), runtime, (f"./{PROGRAM}",), {})

    def _install_bundle(self) -> None:
        home = self._bundle_folder
        if self.identity.files.get(f"bundle/{home.name}/{PROGRAM}") != len(self.program.data):
            self.adb.script(_MAKE_ROOM, str(HOME), home.name)
            self.adb.push(self.program.data, self._program, mode=0o755, timeout_s=PUSH_S)
        self.known = self._known_flags()
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

    def _known_flags(self) -> frozenset[str]:
        """Ask the program for its flags: the oldest versions ignore one that they do not know without a word."""
        done = self.adb.run(
            [self._program, "--help"], cwd=str(self.folder), timeout_s=HELP_S, check=False
        )
        if done.code in {126, 127} or done.code > 128:
            raise DeviceUnavailableError(
                f"{self.program.path} does not run on {self.adb.serial}: {explain_exit(done.code)}"
                f" ({_last_words(done)})"
            )
        words = (
            line.strip().partition("=")[0]
            for line in _text(done).splitlines()
            if line.strip().startswith(_USAGE_FLAG)
        )
        known = frozenset(word.removeprefix(_USAGE_FLAG) for word in words)
        if not {"graph", "num_threads", "num_runs", "warmup_runs"} <= known:
            raise UsageError(
                f"{self.program.path} is no {PROGRAM}: its --help does not list --graph, --num_runs"
                " and the like"
            )
        return known

    def _check_flags(self) -> None:
        for name in self.flags:
            if name in OWN_FLAGS:
                raise UsageError(
                    f"--{name} is set by the measurement itself, from its threads and its budget;"
                    " leave it out"
                )
            if name not in self.known:
                near = ", ".join(f"--{other}" for other in get_close_matches(name, self.known, 3))
                raise UsageError(
                    f"{self.program.path} does not know"
                    f" --{name}{f'; near it are {near}' if near else ''}"
                )


def _arguments(flags: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def _text(done: Completed) -> str:
    """All that was printed: versions differ in what goes where."""
    return "\n".join(part.decode("utf-8", "replace") for part in (done.stdout, done.stderr) if part)


def _last_words(done: Completed) -> str:
    """What it said last that is an error, in one line."""
    return (
        one_line((done.stderr or done.stdout)[-_SAID_BYTES:].decode("utf-8", "replace"))
        or "it said nothing"
    )
