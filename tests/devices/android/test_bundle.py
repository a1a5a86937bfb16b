"""Making a bundle: once, whole, bounded; and a clear word for each part that cannot be had."""

from __future__ import annotations

import base64
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from hwbench.devices.android import bundle, bundle_parts
from hwbench.devices.android.bundle import Bundle, build_bundle
from hwbench.devices.android.bundle_runtimes import LITERT, ORT
from hwbench.errors import DeviceTimeoutError, DeviceUnavailableError, UsageError
from hwbench.records.scratch import PREFIX
from tests.needs import needs_arm_compiler, needs_compiler

HERE = platform.machine()
ELF = b"\x7fELF\x02\x01\x01" + bytes(11) + (183).to_bytes(2, "little")
LIBRARY = "onnxruntime/capi/libonnxruntime.so.9.9.9"

pytestmark = needs_compiler


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache/hwbench/bundles"


def is_whole(bundle: Bundle) -> bool:
    names = {file.name for file in bundle.files}
    hashes = all(
        sha256((bundle.folder / file.name).read_bytes()).hexdigest() == file.sha256
        for file in bundle.files
    )
    return (
        hashes
        and {"hwbench_runner", "libonnxruntime.so.1", "libc.so.6", bundle.loader[0][2:]} <= names
    )


def test_it_is_made_once(cache: Path) -> None:
    told: list[str] = []
    first = build_bundle(HERE, progress=told.append)
    assert told
    assert is_whole(first)
    assert first.folder == cache / first.digest
    assert build_bundle(HERE, progress=pytest.fail) == first
    assert [path.name for path in cache.iterdir()] == [first.digest]


@pytest.mark.parametrize(
    "harm", ["change", "cut", "remove", "mode", "manifest", "emptied", "escape"]
)
def test_a_damaged_one_is_made_anew(cache: Path, harm: str) -> None:
    first = build_bundle(HERE)
    victim, manifest = first.folder / "libm.so.6", first.folder / "manifest.json"
    match harm:
        case "change":
            with victim.open("r+b") as file:
                file.seek(5000)
                file.write(b"?!")
        case "cut":
            os.truncate(victim, 100)
        case "remove":
            victim.unlink()
        case "mode":
            victim.chmod(0o600)
        case "manifest":
            manifest.write_text('{"kind": ["half')
        case "emptied":
            manifest.write_text("[]")
        case "escape":
            manifest.write_text(manifest.read_text().replace('"libm.so.6"', '"../libm.so.6"'))
    assert bundle._read_bundle(first.folder) is None
    again = build_bundle(HERE)
    assert again == first
    assert is_whole(again)
    assert [path.name for path in cache.iterdir()] == [first.digest]


def test_old_ones_go_and_the_last_used_stay(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for number in range(4):
        runtime = replace(ORT, env={"NUMBER": str(number)})
        monkeypatch.setattr(bundle, "_LAYOUT", 100 + number)
        made.append(build_bundle(HERE, runtime))
        if number == 2:
            monkeypatch.setattr(bundle, "_LAYOUT", 101)
            assert build_bundle(HERE) == made[1]
    assert {path.name for path in cache.iterdir()} == {made[1].digest, made[3].digest}


def test_what_a_killed_process_left_is_removed(cache: Path) -> None:
    (cache / f"{PREFIX}left/bundle").mkdir(parents=True)
    made = build_bundle(HERE)
    assert [path.name for path in cache.iterdir()] == [made.digest]


def test_two_processes_at_once_make_one(cache: Path) -> None:
    code = (
        "from hwbench.devices.android.bundle import build_bundle as b; import platform;"
        " print(b(platform.machine()).digest)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = {process.communicate(timeout=60)[0].strip() for process in both}
    assert told == {path.name for path in cache.iterdir()}
    assert len(told) == 1


@pytest.mark.parametrize("state", ["whole", "damaged", "file"])
def test_what_another_process_put_there_meanwhile_is_taken_or_moved_away(
    cache: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """The other process is done between our last look at the cache and our own renaming."""
    whole = build_bundle(HERE)
    target = cache / whole.digest
    copy = cache.parent / "copy"
    shutil.copytree(target, copy)
    shutil.rmtree(target)
    rename = Path.rename
    renamed = []

    def rename_late(path: Path, to: Path) -> Path:
        if not renamed:
            if state == "file":
                to.write_text("no folder")
            else:
                shutil.copytree(copy, to)
            if state == "damaged":
                next(to.glob("*.so*")).write_bytes(b"damaged")
        renamed.append(to)
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", rename_late)
    assert build_bundle(HERE).digest == whole.digest
    assert renamed
    assert {path.name for path in cache.iterdir()} == {whole.digest}


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DeviceUnavailableError, match=r"cannot keep.*XDG_CACHE_HOME"):
        build_bundle(HERE)


def test_machines_without_a_bundle_are_named() -> None:
    with pytest.raises(UsageError, match=r"'mips'.*aarch64, x86_64"):
        build_bundle("mips")


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.usefixtures("on_x86")
def test_the_compiler_for_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert bundle_parts.find_compiler("x86_64", ORT) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeviceUnavailableError, match=r"gcc-aarch64-linux-gnu.*pip install ziglang"):
        bundle_parts.find_compiler("aarch64", ORT)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert str(bundle_parts.find_compiler("aarch64", ORT)).endswith(
        "-m ziglang cc -target aarch64-linux-gnu.2.28"
    )
    (tmp_path / "aarch64-linux-gnu-gcc").touch(0o755)
    assert bundle_parts.find_compiler("aarch64", ORT) == "aarch64-linux-gnu-gcc"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(DeviceUnavailableError, match="made on x86_64"):
        bundle_parts.find_compiler("x86_64", ORT)


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No C library for Arm is installed.

    Returns a folder of programs that goes before all others.
    """
    arm = bundle_parts.Machine("ld-linux-aarch64.so.1", 183, ("/usr/none/lib",))
    monkeypatch.setitem(bundle_parts.MACHINES, "aarch64", arm)
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


def fake_apt(programs: Path, script: str) -> None:
    (programs / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "apt-get").chmod(0o755)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb: apt-get install dpkg")
def test_the_c_library_is_fetched_without_being_installed(
    without_packages: Path, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    names = ["ld-linux-aarch64.so.1", *bundle_parts._C_LIBRARY]
    for name in names:
        (tree / "usr/none/lib").mkdir(parents=True, exist_ok=True)
        (tree / f"usr/none/lib/{name}").write_bytes(ELF)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m <m@m>\nDescription: d\n"
    )
    subprocess.run(
        ["dpkg-deb", "-b", tree, tmp_path / "p.deb"], check=True, capture_output=True, timeout=60
    )
    fake_apt(without_packages, f'echo "$@" >{tmp_path}/asked; cp {tmp_path}/p.deb .')
    (tmp_path / "scratch").mkdir()
    found = bundle_parts.find_c_library("aarch64", ORT, tmp_path / "scratch")
    assert [path.name for path in found] == names
    assert all(path.is_relative_to(tmp_path / "scratch") for path in found)
    assert (tmp_path / "asked").read_text().split()[-3:] == [
        "libc6-arm64-cross",
        "libgcc-s1-arm64-cross",
        "libstdc++6-arm64-cross",
    ]


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb: apt-get install dpkg")
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'E: no\nsuch package' >&2; exit 100", "100: E: no such package"),
        ("", "no C library for aarch64"),
    ],
)
def test_a_c_library_that_cannot_be_had(
    without_packages: Path, tmp_path: Path, script: str, told: str
) -> None:
    fake_apt(without_packages, script)
    with pytest.raises(
        DeviceUnavailableError, match=f"{told}.*apt install libc6-arm64-cross.*aar="
    ) as caught:
        bundle_parts.find_c_library("aarch64", ORT, tmp_path)
    assert "\n" not in str(caught.value)


def test_without_apt(
    without_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(without_packages))
    with pytest.raises(DeviceUnavailableError, match=r"no apt-get.*on Debian or Ubuntu.*aar="):
        bundle_parts.find_c_library("aarch64", ORT, tmp_path)


def test_a_download_is_bounded(
    without_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_apt(without_packages, "exec sleep 60")
    monkeypatch.setattr(bundle_parts, "_DOWNLOAD_TIMEOUT_S", 0.3)
    with pytest.raises(DeviceTimeoutError, match="apt-get -q did not finish within"):
        bundle_parts.find_c_library("aarch64", ORT, tmp_path)


@needs_arm_compiler
@pytest.mark.usefixtures("on_x86")
def test_a_wheel_that_cannot_be_had(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(
        DeviceUnavailableError,
        match=r"pip download.* failed.*onnxruntime.*pip download onnxruntime==",
    ) as caught:
        build_bundle("aarch64")
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def wheel(path: Path, *, name: str = LIBRARY, recorded: bytes = ELF) -> Path:
    digest = base64.urlsafe_b64encode(sha256(recorded).digest()).decode().rstrip("=")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, ELF)
        archive.writestr(
            "onnxruntime-9.9.9.dist-info/RECORD", f"{name},sha256={digest},{len(ELF)}\n"
        )
    return path


def test_the_library_is_what_the_wheel_records(tmp_path: Path) -> None:
    assert bundle_parts.read_wheel_library(wheel(tmp_path / "good.whl"), ORT) == ELF
    with pytest.raises(DeviceUnavailableError, match="not what its RECORD says"):
        bundle_parts.read_wheel_library(wheel(tmp_path / "changed.whl", recorded=b"other"), ORT)
    for bad in (
        wheel(tmp_path / "else.whl", name="onnxruntime/capi/onnxruntime.dll"),
        tmp_path / "absent.whl",
    ):
        with pytest.raises(DeviceUnavailableError, match="no wheel of onnxruntime"):
            bundle_parts.read_wheel_library(bad, ORT)


def test_a_c_library_that_is_too_old_is_told(tmp_path: Path) -> None:
    new, old, library = (tmp_path / name for name in ("new", "old", "library"))
    new.write_bytes(b"\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_PRIVATE\0GLIBCXX_3.4.30\0")
    old.write_bytes(b"\0GLIBC_2.17\0GLIBCXX_3.4.30\0")
    library.write_bytes(b"\0GLIBC_2.17\0GLIBC_2.34\0GLIBCXX_3.4.30\0")
    bundle_parts.check_versions(library, [old, new], LITERT)
    with pytest.raises(
        DeviceUnavailableError, match=r"too old for LiteRT: it has no GLIBC_2.34; .*Debian 12.*aar="
    ):
        bundle_parts.check_versions(library, [old], LITERT)


def test_a_program_for_another_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "arm").write_bytes(ELF)
    (tmp_path / "text").write_text("#!/bin/sh\n")
    bundle_parts.check_machine(tmp_path / "arm", "aarch64")
    with pytest.raises(DeviceUnavailableError, match="ELF machine 183; x86_64"):
        bundle_parts.check_machine(tmp_path / "arm", "x86_64")
    with pytest.raises(DeviceUnavailableError, match="no ELF file"):
        bundle_parts.check_machine(tmp_path / "text", "aarch64")
