"""The on-device bundle: a native runner and its runtime in one self-contained folder.

It holds the runner, the C library of ONNX Runtime or LiteRT out of the wheel of the host's version,
and the system's C library that both need, with its loader. So it needs nothing from the target, and
runs on any 64-bit Arm Linux kernel, a phone's included, from `adb shell` and without root.
`bundle_parts` finds the parts, `bundle_runtimes` has what differs between runtimes. A bundle is
made once and kept in the user's cache; its files are checked against their SHA-256 at each use.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from hwbench.devices.android import bundle_parts as parts
from hwbench.devices.android.bundle_runtimes import ORT, RUNTIMES, Runtime
from hwbench.devices.shared.runner.build import build_runner, runner_sources
from hwbench.devices.shared.runner.protocol import expect, one_line, parse_event, plan_line
from hwbench.errors import DeviceUnavailableError, OutputParseError, UsageError
from hwbench.records.scratch import scratch_folder
from hwbench.user_folders import cache_folder

BundleProgress = Callable[[str], None]
"""A callback that gets a few words on what is being done, for people."""

RUNNER = "hwbench_runner"
_MANIFEST = "manifest.json"
_LAYOUT = 2
"""Version of the manifest and of what goes into a bundle; a new one makes every bundle anew."""
ANDROID = "android"
"""The system of bundles that need Android's C library; others are named after their machine."""
_MOST_CACHED = 2
"""How many bundles of a runtime stay in the cache for each system."""
_NAMING_ATTEMPTS = 4
"""Attempts to give a bundle its name: others may be at it, and a damaged one in the way."""


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file of a bundle.

    Attributes:
        name: Its name inside the folder.
        sha256: Its SHA-256 in hexadecimal.
        bytes: Its length in bytes.
        mode: Its permissions.
    """

    name: str
    sha256: str
    bytes: int
    mode: int


@dataclass(frozen=True)
class Bundle:
    """A complete bundle on the host.

    Attributes:
        kind: The name of the runtime in it (`bundle_runtimes`), or of another program.
        folder: The folder with its files.
        files: The files, sorted by name.
        runtime: The name and version of the runtime inside, `onnxruntime 1.32.0`.
        loader: The command that starts its runner, inside the folder it was copied to.
        env: The environment variables that its runner needs.
    """

    kind: str
    folder: Path
    files: tuple[BundleFile, ...]
    runtime: str
    loader: tuple[str, ...]
    env: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """The identity of the bundle, 32 hexadecimal digits.

        It is a hash over all files, names and permissions, and the way to start it.
        """
        files = [asdict(file) for file in self.files]
        facts = [files, self.runtime, self.loader, sorted(self.env.items())]
        return sha256(json.dumps(facts).encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """The name of its folder on a phone."""
        return f"{self.kind}-{self.digest}"

    @property
    def library(self) -> Path:
        """The path of the runtime's library inside the folder it was copied to."""
        return Path(RUNTIMES[self.kind].library)

    @property
    def size_bytes(self) -> int:
        """The length of all files together."""
        return sum(file.bytes for file in self.files)


def build_bundle(
    machine: str = "aarch64", runtime: Runtime = ORT, *, progress: BundleProgress | None = None
) -> Bundle:
    """Find the bundle for a Linux kernel in the cache, or make it; it is never half of one.

    The runtime comes from its wheel (through pip) and the C library from Debian's packages for
    cross compilation, or both from this computer if `machine` is its own.

    Args:
        machine: The processor, as `uname -m` says it: `aarch64` or `x86_64`.
        runtime: The runtime in it, of the version that is installed here.
        progress: Called before whatever takes more than a moment.

    Raises:
        UsageError: There are no bundles for such a machine.
        DeviceUnavailableError: A part cannot be had; the message says which, and what to install.
        DeviceTimeoutError: pip, apt-get or the compiler did not finish.
        DeviceCommandError: The compiler refused.
    """
    if machine not in parts.MACHINES:
        raise UsageError(
            f"no bundle for the machine {machine!r}; there are {', '.join(sorted(parts.MACHINES))}"
        )
    version = runtime.host_version()
    recipe = _hash_recipe(runtime, machine, version)
    loader = parts.MACHINES[machine].loader
    command = (f"./{loader}", "--library-path", ".", f"./{RUNNER}")

    def report(text: str) -> None:
        if progress is not None:
            progress(text)

    def fill(folder: Path, scratch: Path) -> str:
        report(f"compiling the runner for {machine}")
        compiler = parts.find_compiler(machine, runtime)
        _copy_file(build_runner(compiler, runtime.runner), folder / RUNNER)
        report(f"fetching the C library for {machine}")
        c_library = parts.find_c_library(machine, runtime, scratch)
        for path in c_library:
            _copy_file(path, folder / path.name, mode=0o755 if path.name == loader else 0o644)
        report(f"fetching {runtime.distribution} {version} for {machine}")
        library = parts.find_library(machine, runtime, version, scratch)
        _copy_file(library, folder / runtime.library, mode=0o644)
        for path in folder.iterdir():
            parts.check_machine(path, machine)
        parts.check_versions(library, c_library, runtime)
        return f"{runtime.record_name} {version}"

    bundle = _find_cached(runtime, machine, recipe)
    if bundle is None:
        bundle = _make_bundle(runtime, machine, recipe, command, env=runtime.env, fill=fill)
    return bundle


def ndk_bundle(aar: Path, ndk: Path, runtime: Runtime = ORT) -> Bundle:
    """Find or make a bundle of Android's own build of a runtime, for arm64.

    Its runner is compiled against Android's C library.

    Args:
        aar: The path of the runtime's archive as Maven has it, `onnxruntime-android-VERSION.aar` or
            `litert-VERSION.aar`; the library in it is under `jni/arm64-v8a`.
        ndk: The folder of Android's NDK which holds `toolchains`.
        runtime: The runtime.

    Raises:
        UsageError: One of them is not what it should be; the message says what is missing in it.
        DeviceCommandError: The NDK's compiler refused.
    """
    library = parts.read_aar_library(aar, runtime)
    version = runtime.aar_version(library, aar)
    compiler = parts.find_ndk_compiler(ndk)
    recipe = _hash_recipe(runtime, ANDROID, sha256(library).hexdigest(), version, compiler)

    def fill(folder: Path, _scratch: Path) -> str:
        _copy_file(build_runner(compiler, runtime.runner), folder / RUNNER)
        (folder / runtime.library).write_bytes(library)
        (folder / runtime.library).chmod(0o644)
        for path in folder.iterdir():
            parts.check_machine(path, "aarch64")
        return f"{runtime.record_name} {version}"

    env = {**runtime.env, "LD_LIBRARY_PATH": "."}
    bundle = _find_cached(runtime, ANDROID, recipe)
    if bundle is None:
        bundle = _make_bundle(runtime, ANDROID, recipe, (f"./{RUNNER}",), env=env, fill=fill)
    return bundle


def last_ndk_bundle(runtime: Runtime = ORT) -> Bundle | None:
    """Find the bundle of a runtime that `ndk_bundle` made last, if it is still in the cache."""
    return _find_cached(runtime, ANDROID, None)


class CompletedProcess(Protocol):
    """How a command on the target ended."""

    @property
    def code(self) -> int:
        """Its exit status as a shell gives it: 128 + n for signal n."""

    @property
    def stdout(self) -> bytes:
        """All of its output."""

    @property
    def stderr(self) -> bytes:
        """All of its messages."""


def self_test(bundle: Bundle, run: Callable[..., CompletedProcess]) -> None:
    """Start the runner on the target, open its runtime there, and end it.

    Args:
        bundle: The bundle that was copied there.
        run: A function that runs a command inside the bundle's folder on the target to its end. It
            is called as `run(argv, env=..., stdin=...)`.

    Raises:
        DeviceUnavailableError: The runner does not run there; the message says why, and what to do.
        OutputParseError: The runner printed something that is no event of it.
    """
    completed = run(
        list(bundle.loader),
        env=dict(bundle.env),
        stdin=plan_line("lib", bundle.library) + plan_line("quit"),
    )
    runtime = RUNTIMES[bundle.kind]
    messages = one_line(completed.stderr[-500:].decode("utf-8", "replace")) or "no message"
    # A runner that could not open the library says so in an event, which is raised below.
    if completed.code != 0 and b'"error"' not in completed.stdout:
        remedies = (
            [runtime.android_build] if completed.code - 128 in _CURED_BY_ANDROID_BUILD else []
        )
        raise DeviceUnavailableError(
            f"the runner does not run on the device: {explain_exit(completed.code)} ({messages})",
            *remedies,
        )
    events = [parse_event(line) for line in completed.stdout.splitlines()]
    for event, kind in zip(events, ("hello", "library", "bye"), strict=False):
        expect(event, kind)
    version = bundle.runtime.partition(" ")[2]
    answer = version if runtime.tells_version else runtime.title
    if len(events) != 3 or events[1]["version"] != answer:
        raise OutputParseError(
            f"the runner on the device answered {events[1:]!r}; expected {runtime.title} {version};"
            " push it again"
        )
    if b"cpuinfo" in completed.stderr:
        raise DeviceUnavailableError(
            f"{runtime.title} cannot read the device's /proc/cpuinfo or /sys, and would choose"
            f" other code than for its processor ({messages}); look whether `adb shell` may read"
            " them"
        )


_SIGNALS = {
    4: "SIGILL: the processor lacks an instruction that the bundle uses; 64-bit Armv8 is needed",
    6: "SIGABRT: it gave up by itself; its last words say why",
    9: "SIGKILL: ended from outside, mostly for want of memory; close apps and try again",
    11: "SIGSEGV: it crashed; Android's own build of the runtime may run",
    31: (
        "SIGSYS: the seccomp policy forbids a system call; start it by `adb shell` rather than in"
        " an app, or use Android's own build of the runtime"
    ),
}
_CURED_BY_ANDROID_BUILD = {11, 31}
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
    """Explain what an exit status of the bundle's runner means on a phone, and what to do.

    Shells report a death by signal n as 128 + n (POSIX, Shell Command Language 2.8.2, says only
    "greater than 128"; mksh and adbd both do this).

    Returns:
        The explanation in one line.
    """
    if code in _CODES:
        return f"exit status {code}: {_CODES[code]}"
    if code - 128 in _SIGNALS:
        return f"exit status {code} = {_SIGNALS[code - 128]}"
    return f"exit status {code}"


def _copy_file(source: Path, target: Path, *, mode: int = 0o755) -> None:
    shutil.copyfile(source, target)
    target.chmod(mode)


def _hash_recipe(runtime: Runtime, *ingredients: str) -> str:
    """Hash what a bundle is made of, so that one that was made of the same can be found."""
    sources = [sha256(path.read_bytes()).hexdigest() for path in runner_sources(runtime.runner)]
    return sha256(json.dumps([_LAYOUT, *sources, *ingredients]).encode()).hexdigest()


def _cache_folder() -> Path:
    return cache_folder() / "bundles"


def _make_bundle(
    runtime: Runtime,
    system: str,
    recipe: str,
    loader: Sequence[str],
    *,
    env: Mapping[str, str],
    fill: Callable[[Path, Path], str],
) -> Bundle:
    """Make a bundle in the cache, whole or not at all.

    It is filled in a folder of its own, which gets its final name last: a process that is killed
    meanwhile leaves nothing that could be taken for a bundle.

    Args:
        runtime: What is in it.
        system: What it is for: a machine, or `android`.
        recipe: The hash of what it is made of.
        loader: The command that starts its runner.
        env: The environment variables that its runner needs.
        fill: A function that puts the files into a folder (its first argument; the second is a
            folder for temporary files), and returns the name and version of the runtime.
    """
    cache = _cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with scratch_folder(cache) as scratch:
            folder = scratch / "bundle"
            folder.mkdir()
            version = fill(folder, scratch)
            files = tuple(_describe_file(path) for path in sorted(folder.iterdir()))
            bundle = Bundle(runtime.name, folder, files, version, tuple(loader), env)
            manifest = json.dumps(_make_manifest(bundle, system, recipe), indent=1)
            (folder / _MANIFEST).write_text(manifest, encoding="utf-8")
            finished = _finish_bundle(folder, cache / bundle.digest)
    except OSError as error:
        raise DeviceUnavailableError(
            f"cannot keep a bundle in {cache} ({error}); make room, or set XDG_CACHE_HOME"
        ) from error
    for old in _list_folders(cache, runtime, system)[_MOST_CACHED:]:
        shutil.rmtree(old, ignore_errors=True)
    return finished


def _finish_bundle(folder: Path, target: Path) -> Bundle:
    """Give a filled folder its final name, unless another process has just done the same.

    A folder cannot take the name of one that is there and not empty. What is there is then the
    other process's bundle, or a damaged one that is moved out of the way. Nothing is deleted under
    the final name, where another process may just be reading it.
    """
    for attempt in range(_NAMING_ATTEMPTS):
        bundle = _read_bundle(target)
        if bundle is not None:
            return bundle
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                raise
            if _read_bundle(target) is None:
                with contextlib.suppress(FileNotFoundError):
                    target.rename(folder.with_name(f"damaged-{attempt}"))
    raise DeviceUnavailableError(f"the bundle in {target} was changed while it was made; try again")


def _describe_file(path: Path) -> BundleFile:
    data = path.read_bytes()
    return BundleFile(path.name, sha256(data).hexdigest(), len(data), path.stat().st_mode & 0o777)


def _make_manifest(bundle: Bundle, system: str, recipe: str) -> dict[str, Any]:
    return {
        "kind": bundle.kind,
        "system": system,
        "recipe": recipe,
        "files": [asdict(file) for file in bundle.files],
        "runtime": bundle.runtime,
        "loader": bundle.loader,
        "env": dict(bundle.env),
    }


def _load_manifest(folder: Path) -> dict[str, Any]:
    """Load the manifest of a folder of the cache; it is empty if it cannot be read."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _read_bundle(folder: Path) -> Bundle | None:
    """Read the bundle in a folder of the cache; None if any file is not what it was made as."""
    manifest = _load_manifest(folder)
    try:
        files = tuple(BundleFile(**file) for file in manifest["files"])
        bundle = Bundle(
            manifest["kind"],
            folder,
            files,
            manifest["runtime"],
            tuple(manifest["loader"]),
            manifest["env"],
        )
        if bundle.digest != folder.name:
            return None
        for file in files:
            if _describe_file(folder / file.name) != file:
                return None
    except (OSError, KeyError, TypeError, AttributeError):
        return None
    return bundle


def _list_folders(cache: Path, runtime: Runtime, system: str) -> list[Path]:
    """List a runtime's bundles for a system, whole or not, the one used last first."""
    with contextlib.suppress(OSError):
        folders = []
        for path in cache.iterdir():
            manifest = _load_manifest(path)
            if manifest.get("kind") == runtime.name and manifest.get("system") == system:
                folders.append(path)
        return sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path), reverse=True)
    return []


def _find_cached(runtime: Runtime, system: str, recipe: str | None) -> Bundle | None:
    """Find a runtime's whole bundle for a system in the cache, of this recipe or (None) of any."""
    for folder in _list_folders(_cache_folder(), runtime, system):
        if recipe is not None and _load_manifest(folder).get("recipe") != recipe:
            continue
        bundle = _read_bundle(folder)
        if bundle is not None:
            with contextlib.suppress(OSError):
                os.utime(folder)  # marks it as the one used last
            return bundle
    return None
