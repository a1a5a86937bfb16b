"""The bundle end to end: under an emulator of 64-bit Arm, and through Google's adbd as Android's
user `shell`.

Equal outputs prove that the runner, the library and the C library in it work together; times under
an emulator prove nothing.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hwbench.devices.android.adb.client import Adb
from hwbench.devices.android.bundle import Bundle, build_bundle, self_test
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.errors import DeviceUnavailableError
from tests.devices.android import rig_faces
from tests.devices.android.rig import Rig
from tests.devices.android.rig_support import HOME, SEED, connected, outputs_on_host, push_bundle
from tests.needs import needs_arm_compiler, needs_compiler
from tests.support.runner_support import dump_outputs

pytestmark = needs_compiler
FORBIDDEN = r"""printf '#!/bin/sh\nkill -SYS $$\n' >"$1" """
"""What the kernel does to a program that makes a system call which a seccomp policy forbids."""
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def same(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    assert [array.shape for array in found] == [array.shape for array in expected]
    assert np.ptp(expected[0]) > 0.1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.qemu
@needs_arm_compiler
@pytest.mark.skipif(
    not shutil.which("qemu-aarch64-static"),
    reason="needs an emulator: apt-get install qemu-user-static",
)
def test_arm_code_computes_what_this_computer_does(tmp_path: Path) -> None:
    bundle = build_bundle("aarch64")
    faces = (
        tmp_path / "faces"
    )  # the emulator opens what is there in place of this computer's own files
    rig_faces.furnish(faces, "arm64", 0)
    rig_faces.write_tree(faces / "proc", {"cpuinfo": rig_faces.cpuinfo()})
    argv = [
        "qemu-aarch64-static",
        "-cpu",
        "cortex-a76",
        "-L",
        str(faces),
        bundle.folder / bundle.loader[0],
    ]
    argv += ["--library-path", bundle.folder, bundle.folder / "hwbench_runner"]
    expected = outputs_on_host(tmp_path)
    arm = tmp_path / "arm"
    arm.mkdir()
    with RunnerProcess.start([str(word) for word in argv]) as runner:
        assert runner.machine == "aarch64"
        assert f"onnxruntime {runner.library(bundle.folder / bundle.library)}" == bundle.runtime
        runner.configure(seed=SEED)
        runner.load("m", tmp_path / "m.onnx")
        assert len(runner.run(["m", "m"]).values_s) == 2
        specs = dump_outputs(runner, "m", arm)
    same(
        [
            np.fromfile(arm / f"m.{i}.bin", spec.dtype).reshape(spec.shape)
            for i, spec in enumerate(specs)
        ],
        expected,
    )


@pytest.mark.parametrize("arch", MACHINES)
def test_it_runs_on_a_phone_and_needs_nothing_from_it(arch: str, tmp_path: Path) -> None:
    with connected(arch) as (rig, adb):
        bundle = build_bundle(MACHINES[arch])
        expected = outputs_on_host(tmp_path)
        before = files(rig)
        folder = push_bundle(adb, bundle)
        adb.push(tmp_path / "m.onnx", f"{HOME}/models/m.onnx")
        self_test(bundle, functools.partial(adb.run, cwd=folder, check=False))
        adb.run(["mkdir", f"{HOME}/run"])
        with RunnerProcess(adb.start(list(bundle.loader), env=bundle.env, cwd=folder)) as runner:
            assert runner.machine == MACHINES[arch]
            runner.library(bundle.library)
            runner.configure(seed=SEED)
            runner.load("m", Path(f"{HOME}/models/m.onnx"))
            assert len(runner.run(["m", "m"], loops=2).values_s) == 2
            specs = dump_outputs(runner, "m", Path(f"{HOME}/run"))
            foreign = libraries(adb, runner.pid) - {
                f"{folder}/{file.name}" for file in bundle.files
            }
            assert [line for line in rig.processes() if "hwbench_runner" in line]
        outputs = [
            np.frombuffer(adb.pull(f"{HOME}/run/m.{i}.bin", limit_bytes=1 << 20), s.dtype)
            for i, s in enumerate(specs)
        ]
        same(
            [array.reshape(spec.shape) for array, spec in zip(outputs, specs, strict=True)],
            expected,
        )
        assert foreign == set()
        # nothing else, anywhere: no telemetry, no cache, no log
        home, own = (
            Path(HOME.lstrip("/")),
            [f"bundle/{bundle.digest}/{file.name}" for file in bundle.files],
        )
        own += ["models/m.onnx", *(f"run/m.{i}.bin" for i in range(len(specs)))]
        assert files(rig) - before == {home / name for name in own}
        assert rig.processes() == []


def files(rig: Rig) -> set[Path]:
    return {path.relative_to(rig.root) for path in rig.root.rglob("*") if path.is_file()}


def libraries(adb: Adb, pid: int) -> set[str]:
    """Files that the process has mapped as code, but the emulator itself."""
    lines = [
        line.split(maxsplit=5)
        for line in adb.run(["cat", f"/proc/{pid}/maps"]).stdout.decode().splitlines()
    ]
    mapped = {words[5] for words in lines if len(words) == 6 and words[5].startswith("/")}
    assert any("libonnxruntime" in path for path in mapped)
    return {path for path in mapped if "qemu" not in path}


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda folder: ["rm", f"{folder}/ld-linux-x86-64.so.2"], "exit status 127: the loader"),
        (
            lambda folder: ["truncate", "-s", "100", f"{folder}/libc.so.6"],
            "exit status 127.*libc.so.6",
        ),
        (
            lambda folder: ["truncate", "-s", "100", f"{folder}/libm.so.6"],
            "'lib'.*libm.so.6: cannot read file data",
        ),
        (
            lambda folder: ["rm", f"{folder}/libonnxruntime.so.1"],
            "libonnxruntime.so.1.*No such file",
        ),
        (
            lambda folder: ["chmod", "644", f"{folder}/ld-linux-x86-64.so.2"],
            "exit status 126: it may not be executed",
        ),
        (lambda folder: ["cp", "/system/bin/svc", f"{folder}/hwbench_runner"], "exit status 127"),
        (
            lambda folder: ["sh", "-c", FORBIDDEN, "sh", f"{folder}/ld-linux-x86-64.so.2"],
            "exit status 159 = SIGSYS",
        ),
    ],
    ids=[
        "no loader",
        "half a C library",
        "half a library",
        "no runtime",
        "not executable",
        "no program",
        "forbidden",
    ],
)
def test_a_spoilt_copy_names_its_cause(
    small_phone: tuple[Adb, Bundle, str], spoil: object, cause: str
) -> None:
    adb, bundle, folder = small_phone
    adb.run(["cp", "-a", folder, f"{folder}.copy"])
    try:
        adb.run(spoil(f"{folder}.copy"))
        with pytest.raises(DeviceUnavailableError, match=cause) as caught:
            self_test(bundle, functools.partial(adb.run, cwd=f"{folder}.copy", check=False))
        assert "\n" not in str(caught.value)
    finally:
        adb.run(["rm", "-rf", f"{folder}.copy"])


@pytest.fixture(scope="module")
def small_phone():
    with connected("amd64") as (_, adb):
        bundle = build_bundle("x86_64")
        yield adb, bundle, push_bundle(adb, bundle)
