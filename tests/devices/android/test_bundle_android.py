"""Android's own build of ONNX Runtime: an archive and an NDK which the user supplies, and the words
for a runner that fails.

The NDK here is a wrapper around this computer's cross compiler, and the archive holds the Linux
library: enough to show what is taken from them, not that Android's linker likes the result.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from hwbench.devices.android import bundle_parts
from hwbench.devices.android.adb.client import Completed
from hwbench.devices.android.bundle import (
    Bundle,
    build_bundle,
    explain_exit,
    last_ndk_bundle,
    ndk_bundle,
    self_test,
)
from hwbench.devices.android.bundle_runtimes import LITERT, ORT
from hwbench.errors import DeviceCommandError, DeviceUnavailableError, OutputParseError, UsageError
from tests.devices.android import rig_faces
from tests.needs import needs_arm_compiler

MEMBER = "jni/arm64-v8a/libonnxruntime.so"
BIN = "toolchains/llvm/prebuilt/linux-x86_64/bin"


def make_aar(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_ndk(folder: Path, *levels: int, script: str = 'exec aarch64-linux-gnu-gcc "$@"') -> Path:
    (folder / BIN).mkdir(parents=True)
    for level in levels:
        program = folder / BIN / f"aarch64-linux-android{level}-clang"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def library() -> bytes:
    bundle = build_bundle("aarch64")
    return (bundle.folder / bundle.library).read_bytes()


@needs_arm_compiler
def test_it_holds_the_users_library_and_a_runner(
    library: bytes, cache: None, tmp_path: Path
) -> None:
    aar = make_aar(
        tmp_path / "ort.aar", **{MEMBER: library, "../../escaped": b"x", "/etc/escaped": b"x"}
    )
    ndk = make_ndk(tmp_path / "with a space" / "ndk", 21, 26, 34)
    assert last_ndk_bundle() is None
    bundle = ndk_bundle(aar, ndk)
    assert bundle.loader == ("./hwbench_runner",)
    assert bundle.env == {"ORT_DISABLE_TELEMETRY": "1", "LD_LIBRARY_PATH": "."}
    assert bundle.runtime == build_bundle_version()
    assert [file.name for file in bundle.files] == ["hwbench_runner", ORT.library]
    assert (bundle.folder / ORT.library).read_bytes() == library
    assert ndk_bundle(aar, ndk) == bundle == last_ndk_bundle()
    assert not list(tmp_path.rglob("*escaped*"))
    if shutil.which("qemu-aarch64-static"):
        self_test(bundle, under_emulation(bundle, tmp_path))


@needs_arm_compiler
def test_it_holds_litert_likewise_and_takes_the_place_of_no_other(
    library: bytes, cache: None, tmp_path: Path
) -> None:
    """Any library for 64-bit Arm does here: it is not opened."""
    member = "jni/arm64-v8a/libLiteRt.so"
    aar = make_aar(tmp_path / "litert-2.3.0.aar", **{member: library})
    ndk = make_ndk(tmp_path / "ndk", 26)
    other = ndk_bundle(make_aar(tmp_path / "ort.aar", **{MEMBER: library}), ndk)
    bundle = ndk_bundle(aar, ndk, LITERT)
    assert (bundle.runtime, bundle.loader) == ("LiteRT 2.3.0", ("./hwbench_runner",))
    assert bundle.name == f"litert-{bundle.digest}"
    assert bundle.env == {"LD_LIBRARY_PATH": "."}
    assert [file.name for file in bundle.files] == ["hwbench_runner", "libLiteRt.so"]
    assert (last_ndk_bundle(LITERT), last_ndk_bundle()) == (bundle, other)
    renamed = aar.rename(tmp_path / "archive.aar")
    with pytest.raises(UsageError, match=r"archive.aar does not say which LiteRT.*litert-VERSION"):
        ndk_bundle(renamed, ndk, LITERT)
    with pytest.raises(UsageError, match=r"no litert AAR.*jni/arm64-v8a/libLiteRt.so"):
        ndk_bundle(tmp_path / "ort.aar", ndk, LITERT)


def test_a_runner_of_litert_that_answers_otherwise_is_told(tmp_path: Path) -> None:
    bundle = Bundle("litert", tmp_path, (), "LiteRT 2.3.0", ("./runner",), {})
    answer = LIBRARY_EVENT.replace(b"1.2.3", b"LiteRT")
    self_test(bundle, lambda argv, env, stdin: Completed(0, HELLO + answer + BYE, b""))
    with pytest.raises(OutputParseError, match=r"1\.2\.3.*expected LiteRT"):
        self_test(bundle, lambda argv, env, stdin: Completed(0, HELLO + LIBRARY_EVENT + BYE, b""))
    with pytest.raises(DeviceUnavailableError, match=r"SIGSYS.*address='android:runtime=litert'"):
        self_test(bundle, lambda argv, env, stdin: Completed(159, b"", b""))


def build_bundle_version() -> str:
    return f"onnxruntime {ORT.host_version()}"


def under_emulation(bundle: Bundle, tmp_path: Path):
    """Runs it like a phone whose system has Linux's C library in place of Android's."""
    faces = tmp_path / "faces"
    rig_faces.furnish(faces, "arm64", 0)
    rig_faces.write_tree(faces / "proc", {"cpuinfo": rig_faces.cpuinfo()})
    (faces / "usr/lib").symlink_to("/usr/aarch64-linux-gnu/lib")

    def run(argv: list[str], *, env: dict[str, str], stdin: bytes) -> Completed:
        variables = [word for item in env.items() for word in ("-E", "=".join(item))]
        emulator = ["qemu-aarch64-static", "-cpu", "cortex-a76", "-L", str(faces), *variables]
        done = subprocess.run(
            [*emulator, *argv], input=stdin, capture_output=True, timeout=60, cwd=bundle.folder
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    return run


def test_the_oldest_android_that_will_do_is_chosen(tmp_path: Path) -> None:
    ndk = make_ndk(tmp_path / "a b", 21, 34, 26)
    (ndk / BIN / "aarch64-linux-android24-clang").touch(0o644)
    assert shlex.split(bundle_parts.find_ndk_compiler(ndk)) == [
        str(ndk / BIN / "aarch64-linux-android26-clang")
    ]


@pytest.mark.parametrize("levels", [(), (21,)])
def test_what_is_no_ndk(tmp_path: Path, levels: tuple[int, ...]) -> None:
    ndk = make_ndk(tmp_path / "ndk", *levels)
    with pytest.raises(
        UsageError, match=r"no Android NDK.*aarch64-linux-android.*24 or above.*'toolchains'"
    ):
        bundle_parts.find_ndk_compiler(ndk)


def test_what_is_no_aar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.aar").write_text("not a zip")
    other = make_aar(tmp_path / "other.aar", **{"jni/x86_64/libonnxruntime.so": b"x"})
    for bad in (tmp_path / "text.aar", tmp_path / "absent.aar", tmp_path, other):
        with pytest.raises(
            UsageError, match=r"no onnxruntime-android AAR.*jni/arm64-v8a/libonnxruntime.so"
        ):
            ndk_bundle(bad, tmp_path)
    nameless = make_aar(tmp_path / "nameless.aar", **{MEMBER: b"\x7fELF"})
    with pytest.raises(UsageError, match="does not say which ONNX Runtime"):
        ndk_bundle(nameless, tmp_path)
    monkeypatch.setattr(bundle_parts, "_MAX_LIBRARY_BYTES", 1000)
    huge = make_aar(tmp_path / "huge.aar", **{MEMBER: bytes(1001)})
    with pytest.raises(UsageError, match="1001 bytes, more than 1000"):
        ndk_bundle(huge, tmp_path)


@pytest.mark.usefixtures("cache")
def test_a_compiler_that_refuses_or_makes_the_wrong_thing(tmp_path: Path) -> None:
    aar = make_aar(tmp_path / "ort.aar", **{MEMBER: b"\x7fELF\0VERS_1.2.3\0"})
    refusing = make_ndk(
        tmp_path / "refusing",
        24,
        script='case "$*" in --version) ;; *) echo no >&2; exit 1 ;; esac',
    )
    with pytest.raises(DeviceCommandError, match=r"failed \(1\): no"):
        ndk_bundle(aar, refusing)
    wrong = (
        'case "$*" in --version) exit ;; esac; for word; do [ "$last" = -o ] && echo text >"$word";'
        " last=$word; done"
    )
    with pytest.raises(DeviceUnavailableError, match="is no ELF file"):
        ndk_bundle(aar, make_ndk(tmp_path / "wrong", 24, script=wrong))
    assert last_ndk_bundle() is None


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (159, "SIGSYS"),
        (126, "noexec"),
        (127, "missing"),
        (132, "SIGILL"),
        (134, "SIGABRT"),
        (137, "SIGKILL"),
        (139, "SIGSEGV"),
    ],
)
def test_an_exit_status_is_explained(code: int, cause: str) -> None:
    told = explain_exit(code)
    assert told.startswith(f"exit status {code}")
    assert cause in told
    assert "\n" not in told
    assert explain_exit(42) == "exit status 42"


HELLO = b'{"event":"hello","protocol":2,"pid":5,"machine":"aarch64","kernel":"6.1"}\n'
LIBRARY_EVENT = b'{"event":"library","version":"1.2.3"}\n'
BYE = b'{"event":"bye"}\n'


@pytest.mark.parametrize(
    ("ended", "error", "told"),
    [
        (
            Completed(159, b"", b"Bad system\ncall"),
            DeviceUnavailableError,
            r"exit status 159 = SIGSYS.*\(Bad system call\)",
        ),
        (Completed(1, HELLO, b""), DeviceUnavailableError, "exit status 1 .no message"),
        (Completed(0, b"", b""), OutputParseError, "expected ONNX Runtime 1.2.3"),
        (Completed(0, b"WARNING: linker\n" + HELLO, b""), OutputParseError, "not an event"),
        (
            Completed(0, HELLO + LIBRARY_EVENT.replace(b"1.2.3", b"1.2.4") + BYE, b""),
            OutputParseError,
            "1.2.4.*expected.*1.2.3",
        ),
        (Completed(0, HELLO + LIBRARY_EVENT, b""), OutputParseError, "expected ONNX Runtime"),
        (
            Completed(0, HELLO + LIBRARY_EVENT + BYE, b"Failed to initialize PyTorch cpuinfo"),
            DeviceUnavailableError,
            "/proc/cpuinfo",
        ),
    ],
)
def test_a_target_where_it_does_not_run(
    ended: Completed, error: type[Exception], told: str, tmp_path: Path
) -> None:
    bundle = Bundle(
        "onnxruntime", tmp_path, (), "onnxruntime 1.2.3", ("./loader", "./runner"), {"A": "1"}
    )
    with pytest.raises(error, match=told) as caught:
        self_test(bundle, lambda argv, env, stdin: ended)
    assert "\n" not in str(caught.value)


def test_a_target_where_it_runs(tmp_path: Path) -> None:
    asked = []

    def run(argv: list[str], **options: object) -> Completed:
        asked.append((argv, options))
        return Completed(0, HELLO + LIBRARY_EVENT + BYE, b"")

    self_test(
        Bundle(
            "onnxruntime", tmp_path, (), "onnxruntime 1.2.3", ("./loader", "./runner"), {"A": "1"}
        ),
        run,
    )
    assert asked == [
        (["./loader", "./runner"], {"env": {"A": "1"}, "stdin": b"lib libonnxruntime.so.1\nquit\n"})
    ]
