"""Building the native runner: once, with any compiler, without a warning, and with a clear error
where there is none.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from hwbench.devices.shared.runner import build
from hwbench.devices.shared.runner.process import build_runner, ort_library, runner_source
from hwbench.errors import DeviceCommandError, DeviceUnavailableError, UsageError
from tests.needs import needs_arm_compiler, needs_compiler
from tests.support.runner_support import conv_model, execute, with_library

VERSION_OR_OUTPUT = """
case "$*" in *--version) cat "{version}"; exit;; esac
for word; do [ "$last" = -o ] && touch "$word"; last="$word"; done; exit 0
"""
RUNNERS = (build.ORT_RUNNER, build.LITERT_RUNNER)
STRICT = ("-O2", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "cache"


def fake_compiler(folder: Path, script: str) -> Path:
    """A compiler that counts its calls in `folder/calls`."""
    path = folder / "fakecc"
    path.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/calls"\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def compile_strictly(compiler: str, program: Path, name: str) -> None:
    argv = [compiler, *STRICT, "-o", str(program), str(runner_source(name)), "-ldl"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_compiler
@pytest.mark.parametrize(
    "compiler", [name for name in ("cc", "gcc", "clang") if shutil.which(name)]
)
@pytest.mark.parametrize("name", RUNNERS)
def test_it_builds_without_a_warning(compiler: str, name: str, tmp_path: Path) -> None:
    compile_strictly(compiler, tmp_path / "runner", name)


@needs_arm_compiler
@pytest.mark.parametrize("name", RUNNERS)
def test_it_builds_for_64_bit_arm(name: str, tmp_path: Path) -> None:
    compile_strictly("aarch64-linux-gnu-gcc", tmp_path / "runner", name)
    elf = (tmp_path / "runner").read_bytes()[:20]
    assert elf[:4] == b"\x7fELF"
    assert int.from_bytes(elf[18:20], "little") == 183  # EM_AARCH64


@needs_compiler
def test_no_memory_error_or_undefined_behaviour(tmp_path: Path) -> None:
    program = tmp_path / "runner"
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        ["cc", *flags, "-o", program, runner_source(), "-ldl"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    if built.returncode != 0:
        pytest.skip("the C compiler has no sanitizers")
    model = conv_model(tmp_path / "m.onnx")
    lines = [
        "seed 5",
        f"graph {tmp_path}/g",
        f"profile {tmp_path}/p",
        f"load a {model}",
        "profile -",
        f"load b {model}",
    ]
    lines += [
        "run 2 a b a",
        f"dump a {tmp_path}",
        "unload a",
        f"load a {model}",
        "run 1 b a",
        "unload b",
        '"\\\x01',
    ]
    done = subprocess.run(
        [program], input=with_library(*lines).encode(), capture_output=True, timeout=60, check=False
    )
    assert len(done.stdout.splitlines()) == len(lines) + 2
    assert done.returncode == 2
    assert b"Sanitizer" not in done.stderr
    assert b"runtime error" not in done.stderr


@needs_compiler
def test_it_is_built_once() -> None:
    first = build_runner()
    before = first.stat().st_mtime_ns
    assert build_runner() == first
    assert first.stat().st_mtime_ns == before
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    assert execute("quit\n")[0] == 0


def test_another_source_compiler_or_version_is_built_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = fake_compiler(tmp_path, VERSION_OR_OUTPUT.format(version=tmp_path / "version"))
    (tmp_path / "version").write_text("1.0")
    first = build_runner(str(compiler))
    assert build_runner(str(compiler)) == first
    assert len((tmp_path / "calls").read_text().splitlines()) == 3
    assert build_runner(f"{compiler} -g") != first
    (tmp_path / "version").write_text("1.1")
    assert build_runner(str(compiler)) != first
    (tmp_path / "version").write_text("1.0")
    other = tmp_path / "other.c"
    other.write_text("int main(void) { return 0; }")
    (tmp_path / "plan.h").touch()
    monkeypatch.setattr(build, "runner_source", lambda _name: other)
    assert build_runner(str(compiler)) != first


@needs_compiler
def test_the_environment_names_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build_runner()
    monkeypatch.setenv("CC", "cc -g")
    assert build_runner() != plain
    assert build_runner("cc") == plain


def test_without_a_compiler_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceUnavailableError, match=r"cc, gcc, clang.*apt install gcc"):
        build_runner()
    with pytest.raises(DeviceUnavailableError, match="nocc"):
        build_runner("nocc -O3")


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    compiler = fake_compiler(
        tmp_path, '[ "$1" = --version ] && exit; echo "disk is\nfull" >&2; exit 3'
    )
    with pytest.raises(DeviceCommandError, match=r"failed \(3\): disk is full$") as caught:
        build_runner(str(compiler))
    assert caught.value.code == 3
    assert list((cache / "hwbench").iterdir()) == []


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DeviceUnavailableError, match="XDG_CACHE_HOME"):
        build_runner()


def test_the_library_is_the_one_of_the_python_package() -> None:
    import onnxruntime

    assert ort_library().parent.parent == Path(onnxruntime.__file__).parent
    assert onnxruntime.__version__ in ort_library().name


def test_a_package_without_the_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Empty:
        __file__ = str(tmp_path / "__init__.py")

    monkeypatch.setattr(build, "onnxruntime", lambda: Empty)
    with pytest.raises(DeviceUnavailableError, match=r"libonnxruntime\.so"):
        ort_library()


def test_an_installed_wheel_has_the_source_beside_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "hwbench" / "devices"
    package.mkdir(parents=True)
    monkeypatch.setattr(build, "__file__", str(package / "_runner_build.py"))
    with pytest.raises(DeviceUnavailableError, match="install hwbench again"):
        runner_source()
    (package / "hwbench_runner.c").write_text("")
    assert runner_source() == package / "hwbench_runner.c"


def test_a_kept_program_that_is_not_what_was_built_is_built_anew(tmp_path: Path) -> None:
    compiler = fake_compiler(tmp_path, VERSION_OR_OUTPUT.format(version=tmp_path / "version"))
    (tmp_path / "version").write_text("1.0")
    program = build_runner(str(compiler))
    whole = program.read_bytes()
    mark = tmp_path / "mark"
    script = f"#!/bin/sh\ntouch {mark}\n".encode()
    outside = tmp_path / "outside"
    outside.write_bytes(whole)

    def change_it() -> None:
        program.write_bytes(whole + b"more")

    def replace_it() -> None:
        program.write_bytes(script)

    def open_it_to_others() -> None:
        program.chmod(0o777)

    def link_it() -> None:
        program.unlink()
        program.symlink_to(outside)

    def put_another_beside_it() -> None:
        program.unlink()
        program.with_name(f"{program.name[:-4]}0000").write_bytes(script)

    for harm in (change_it, replace_it, open_it_to_others, link_it, put_another_beside_it):
        harm()
        assert build_runner(str(compiler)) == program
        assert program.read_bytes() == whole
        assert not program.is_symlink()
        assert program.stat().st_mode & 0o022 == 0
        assert [path.name for path in program.parent.iterdir()] == [program.name]
    assert outside.read_bytes() == whole
    assert not mark.exists()


def test_a_compiler_that_is_no_command_is_a_wrong_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc '")
    with pytest.raises(UsageError, match="No closing quotation"):
        build_runner()
