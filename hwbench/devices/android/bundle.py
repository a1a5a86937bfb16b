"""The on-device bundle: the native runner and ONNX Runtime in one folder which needs nothing from the target.

It holds the runner, ONNX Runtime's C library out of the wheel of the host's version, and the C
library both need, with its loader: so it runs on any 64-bit Arm Linux kernel, a phone's included,
from `adb shell` and without root. `_bundle_parts` finds the parts. A bundle is made once and kept
in the user's cache, its files checked against their SHA-256 at each use.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from hwbench.devices.android import bundle_parts as parts
from hwbench.devices.shared.runner.build import build_runner, runner_source
from hwbench.devices.shared.runner.protocol import expect, one_line, parse_event, plan_line
from hwbench.errors import DeviceUnavailableError, OutputParseError, UsageError
from hwbench.network.ort import TELEMETRY_OFF

Progress = Callable[[str], None]
"""Told in a few words what is being done, for people."""

RUNNER, LIBRARY = "hwbench_runner", "libonnxruntime.so.1"
_MANIFEST = "manifest.json"
_UNFINISHED = ".new-"
_LAYOUT = 1
"""Of the manifest, and of what goes into a bundle; another number makes every bundle anew."""
_KEPT = 2
"""Bundles of a kind that stay in the cache."""
_ABANDONED_S = 3600.0
"""Age at which an unfinished bundle is taken for that of a process that was killed."""


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of a bundle: its name inside the folder, SHA-256 in hexadecimal, length in bytes and permissions."""

    name: str
    sha256: str
    bytes: int
    mode: int


@dataclass(frozen=True)
class Bundle:
    """A complete bundle on the host.

    Attributes:
        folder: Where its files are.
        files: Each of them, sorted by name.
        runtime: Name and version of the runtime inside, `onnxruntime 1.32.0`.
        loader: How its runner is started, as an argument list, inside the folder it was copied to.
        env: Environment its runner needs besides.
    """

    folder: Path
    files: tuple[BundleFile, ...]
    runtime: str
    loader: tuple[str, ...]
    env: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """What it is, in 32 hexadecimal digits: over all files, names, permissions and the way to start it."""
        told = json.dumps(
            [
                [asdict(file) for file in self.files],
                self.runtime,
                self.loader,
                sorted(self.env.items()),
            ]
        )
        return sha256(told.encode()).hexdigest()[:32]

    @property
    def library(self) -> Path:
        """ONNX Runtime, inside the folder it was copied to: for `RunnerProcess.library`."""
        return Path(LIBRARY)

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files)


def build_bundle(machine: str = "aarch64", *, progress: Progress | None = None) -> Bundle:
    """The bundle for a Linux kernel on `machine`, from the cache or made now; never half of one.

    ONNX Runtime comes from its wheel (through pip) and the C library from Debian's packages for
    cross compilation, or both from this computer if `machine` is its own.

    Args:
        machine: As `uname -m` says it: `aarch64` or `x86_64`.
        progress: Told what is being done, where it takes more than a moment.

    Raises:
        UsageError: Another machine.
        DeviceUnavailableError: A part cannot be had; says which, and what to install.
        DeviceTimeoutError: pip, apt-get or the compiler did not finish.
        DeviceCommandError: The compiler refused.
    """
    if machine not in parts.MACHINES:
        raise UsageError(
            f"no bundle for the machine {machine!r}; there are {', '.join(sorted(parts.MACHINES))}"
        )
    version = parts.host_version()
    recipe = _recipe(machine, version)
    tell = progress or _ignore
    loader = parts.MACHINES[machine].loader
    command = (f"./{loader}", "--library-path", ".", f"./{RUNNER}")

    def fill(folder: Path, scratch: Path) -> str:
        tell(f"compiling the runner for {machine}")
        _place(build_runner(parts.compiler(machine)), folder / RUNNER)
        tell(f"fetching the C library for {machine}")
        for path in parts.c_library(machine, scratch):
            _place(path, folder / path.name, mode=0o755 if path.name == loader else 0o644)
        tell(f"fetching onnxruntime {version} for {machine}")
        _place(parts.ort_library_for(machine, version, scratch), folder / LIBRARY, mode=0o644)
        for path in folder.iterdir():
            parts.check_machine(path, machine)
        return f"onnxruntime {version}"

    return _cached(machine, recipe) or _make(machine, recipe, command, TELEMETRY_OFF, fill)


def ndk_bundle(aar: Path, ndk: Path) -> Bundle:
    """A bundle of Android's own build of ONNX Runtime, and a runner compiled against Android's C library; for arm64.

    Args:
        aar: `onnxruntime-android-VERSION.aar`, as Maven has it; its library is
            `jni/arm64-v8a/libonnxruntime.so`.
        ndk: Folder of Android's NDK: that which holds `toolchains`.

    Raises:
        UsageError: One of them is not what it should be; says what is missing in it.
        DeviceCommandError: The NDK's compiler refused.
    """
    library = parts.library_of_aar(aar)
    version = parts.library_version(library, aar)
    compiler = parts.ndk_compiler(ndk)
    recipe = _recipe("android", sha256(library).hexdigest(), compiler)

    def fill(folder: Path, _scratch: Path) -> str:
        _place(build_runner(compiler), folder / RUNNER)
        (folder / LIBRARY).write_bytes(library)
        (folder / LIBRARY).chmod(0o644)
        for path in folder.iterdir():
            parts.check_machine(path, "aarch64")
        return f"onnxruntime {version}"

    env = TELEMETRY_OFF | {"LD_LIBRARY_PATH": "."}
    return _cached("android", recipe) or _make("android", recipe, (f"./{RUNNER}",), env, fill)


def last_ndk_bundle() -> Bundle | None:
    """The bundle that `ndk_bundle` made last, if it is still in the cache."""
    return _cached("android", None)


class Ended(Protocol):
    """How a command on the target ended."""

    @property
    def code(self) -> int:
        """Its exit status as a shell tells it: 128 + n for signal n."""

    @property
    def stdout(self) -> bytes:
        """All that it printed."""

    @property
    def stderr(self) -> bytes:
        """All that it said to people."""


def self_test(bundle: Bundle, run: Callable[..., Ended]) -> None:
    """Start the runner on the target, open ONNX Runtime there, and end it.

    Args:
        bundle: The bundle that was copied there.
        run: Called as `run(argv, env=..., stdin=...)`: carries that out inside the bundle's folder
            on the target, to its end.

    Raises:
        DeviceUnavailableError: It does not run there; says why, and what to do.
        OutputParseError: It ran and said something that is no event of the runner.
    """
    ended = run(
        list(bundle.loader),
        env=dict(bundle.env),
        stdin=plan_line("lib", bundle.library) + plan_line("quit"),
    )
    said = one_line(ended.stderr[-500:].decode("utf-8", "replace")) or "it said nothing"
    if ended.code != 0 and b'"error"' not in ended.stdout:
        raise DeviceUnavailableError(
            f"the runner does not run on the device: {explain_exit(ended.code)} ({said})"
        )
    events = [parse_event(line) for line in ended.stdout.splitlines()]
    for event, kind in zip(events, ("hello", "library", "bye"), strict=False):
        expect(event, kind)
    version = bundle.runtime.partition(" ")[2]
    if len(events) != 3 or events[1]["version"] != version:
        raise OutputParseError(
            f"the runner on the device said {events[1:]!r}; expected ONNX Runtime {version}; push"
            " it again"
        )
    if b"cpuinfo" in ended.stderr:
        what = (
            "ONNX Runtime cannot read the device's /proc/cpuinfo or /sys, and would choose other"
            " code than for its processor"
        )
        raise DeviceUnavailableError(f"{what} ({said}); look whether `adb shell` may read them")


_NDK = "hwbench devices setup android --aar .. --ndk .."
_SIGNALS = {
    4: "SIGILL: the processor lacks an instruction that the bundle uses; 64-bit Armv8 is needed",
    6: "SIGABRT: it gave up by itself; its last words say why",
    9: "SIGKILL: ended from outside, mostly for want of memory; close apps and try again",
    11: f"SIGSEGV: it crashed; try Android's own build ({_NDK})",
    31: (
        "SIGSYS: the seccomp policy forbids a system call; not in an app but by `adb shell`, or"
        f" with Android's build ({_NDK})"
    ),
}
_CODES = {
    126: (
        "it may not be executed: the folder is mounted noexec (/sdcard is, /data/local/tmp is not),"
        " SELinux forbids it (see `adb shell dmesg | grep avc`), or it is for another processor"
    ),
    127: (
        "the loader, the runner or a library is missing or damaged; remove the bundle (hwbench"
        " devices clean) and try again"
    ),
}


def explain_exit(code: int) -> str:
    """What an exit status of the bundle's runner means on a phone, and what to do, in one line.

    Shells report a death by signal n as 128 + n (POSIX, Shell Command Language 2.8.2, says only
    "greater than 128"; mksh and adbd both do this).
    """
    if code in _CODES:
        return f"exit status {code}: {_CODES[code]}"
    if code - 128 in _SIGNALS:
        return f"exit status {code} = {_SIGNALS[code - 128]}"
    return f"exit status {code}"


def _ignore(_doing: str) -> None:
    pass


def _place(source: Path, target: Path, *, mode: int = 0o755) -> None:
    shutil.copyfile(source, target)
    target.chmod(mode)


def _recipe(*ingredients: str) -> str:
    told = [_LAYOUT, sha256(runner_source().read_bytes()).hexdigest(), *ingredients]
    return sha256(json.dumps(told).encode()).hexdigest()


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("hwbench")) / "bundles"


def _make(
    kind: str,
    recipe: str,
    loader: Sequence[str],
    env: Mapping[str, str],
    fill: Callable[[Path, Path], str],
) -> Bundle:
    cache = _cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _tidy(cache)
        with tempfile.TemporaryDirectory(dir=cache, prefix=_UNFINISHED) as scratch:
            folder = Path(scratch) / "bundle"
            folder.mkdir()
            runtime = fill(folder, Path(scratch))
            files = tuple(_describe(path) for path in sorted(folder.iterdir()))
            bundle = Bundle(folder, files, runtime, tuple(loader), env)
            (folder / _MANIFEST).write_text(
                json.dumps(_manifest(bundle, kind, recipe), indent=1), encoding="utf-8"
            )
            made = _finish(folder, cache / bundle.digest)
    except OSError as error:
        raise DeviceUnavailableError(
            f"cannot keep a bundle in {cache} ({error}); make room, or set XDG_CACHE_HOME"
        ) from error
    for old in _folders(cache, kind)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return made


def _finish(folder: Path, target: Path) -> Bundle:
    """Give a filled folder its final name, unless another process has just done the same."""
    if _read(target) is None:
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            folder.rename(target)
    made = _read(target)
    if made is None:
        raise DeviceUnavailableError(
            f"the bundle in {target} was changed while it was made; try again"
        )
    return made


def _describe(path: Path) -> BundleFile:
    data = path.read_bytes()
    return BundleFile(path.name, sha256(data).hexdigest(), len(data), path.stat().st_mode & 0o777)


def _manifest(bundle: Bundle, kind: str, recipe: str) -> dict[str, Any]:
    files = [asdict(file) for file in bundle.files]
    how = {"runtime": bundle.runtime, "loader": bundle.loader, "env": dict(bundle.env)}
    return {"kind": kind, "recipe": recipe, "files": files, **how}


def _load_manifest(folder: Path) -> dict[str, Any]:
    """What a folder of the cache says of itself; nothing if it cannot be read."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _read(folder: Path) -> Bundle | None:
    """The bundle in a folder of the cache, if every file of it is what it was when it was made."""
    manifest = _load_manifest(folder)
    try:
        files = tuple(BundleFile(**file) for file in manifest["files"])
        bundle = Bundle(
            folder, files, manifest["runtime"], tuple(manifest["loader"]), manifest["env"]
        )
        whole = bundle.digest == folder.name and all(
            _describe(folder / file.name) == file for file in files
        )
    except (OSError, KeyError, TypeError, AttributeError):
        return None
    return bundle if whole else None


def _folders(cache: Path, kind: str) -> list[Path]:
    """Bundles of a kind, the one used last first; whole or not."""
    with contextlib.suppress(OSError):
        mine = [
            (path.stat().st_mtime_ns, path)
            for path in cache.iterdir()
            if _load_manifest(path).get("kind") == kind
        ]
        return [path for _, path in sorted(mine, reverse=True)]
    return []


def _cached(kind: str, recipe: str | None) -> Bundle | None:
    for folder in _folders(_cache(), kind):
        if recipe in {None, _load_manifest(folder).get("recipe")}:
            bundle = _read(folder)
            if bundle is not None:
                with contextlib.suppress(OSError):
                    os.utime(folder)  # used last
                return bundle
    return None


def _tidy(cache: Path) -> None:
    """Remove what processes left that were killed while they made a bundle."""
    for path in cache.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
