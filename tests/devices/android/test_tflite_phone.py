"""`benchmark_model` on a phone: put there once, pinned, told what to do, ended in time.

Refused with a reason.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from hwbench.devices.android import phone as phone_module
from hwbench.devices.android.tflite import TflitePhone
from hwbench.devices.android.tflite_program import read_program
from hwbench.errors import (
    BuildError,
    DeviceCommandError,
    DeviceTimeoutError,
    DeviceUnavailableError,
    OutputParseError,
    UsageError,
)
from hwbench.network.tflite import read_workload
from hwbench.network.workload import Workload
from hwbench.workflows.devices import clean_device
from tests.devices.android.phone_support import fake, on, rig
from tests.devices.android.pyadbd_phone import FakePhone, needs_namespace
from tests.devices.android.pyadbd_support import soon
from tests.devices.android.rig import Rig
from tests.devices.android.tflite_support import SLEEP_S, model, stand_in
from tests.support.paths import ROOT

FEW = {"num_runs": 5, "min_secs": 0, "warmup_runs": 1, "warmup_min_secs": 0}
FORMS = pytest.mark.parametrize("form", [2019, 2024])


@pytest.fixture(scope="module")
def phone() -> Iterator[Rig]:
    with rig("amd64") as running:
        yield running


@pytest.fixture
def simple() -> Iterator[FakePhone]:
    with fake() as running:
        yield running


@pytest.fixture
def net(tmp_path: Path) -> Workload:
    path = tmp_path / "net.tflite"
    path.write_bytes(model())
    return read_workload(path, str(path))


def opened(place: str, form: int = 2024, **flags: str) -> TflitePhone:
    return TflitePhone(on(place), read_program(stand_in(form)), 1, flags)


def files(home: Path) -> dict[str, int]:
    """Programs and models there, and when each was written."""
    kept = (
        path
        for folder in ("bundle", "models")
        for path in (home / folder).rglob("*")
        if path.is_file()
    )
    return {str(path.relative_to(home)): path.stat().st_mtime_ns for path in kept}


@FORMS
def test_it_times_what_really_passes(phone: Rig, net: Workload, form: int) -> None:
    with opened(phone.address, form) as device:
        done = device.run(device.place_model(net), FEW, 20)
    assert done.log.timed is not None
    assert done.log.timed.count == 5
    assert SLEEP_S < done.log.timed.mean_s < 10 * SLEEP_S
    assert done.wall_s > 6 * SLEEP_S
    assert dict(done.log.parameters)["Num threads"] == "1"


def test_files_are_sent_once_and_cleaned_away(phone: Rig, net: Workload) -> None:
    home = phone.root / "data/local/tmp/hwbench"
    program = read_program(stand_in(2024))
    with opened(phone.address) as device:
        device.run(device.place_model(net), FEW, 20)
        sent = files(home)
    assert any(name.endswith("/benchmark_model") for name in sent)
    assert f"models/{net.sha256}.tflite" in sent
    with opened(phone.address) as device:
        device.place_model(net)
        before = device.adb.trips
        device.place_model(net)
        assert device.adb.trips == before
        assert device.info().runtime == f"TensorFlow Lite benchmark_model {program.sha256[:12]}"
    assert files(home) == sent
    assert not (home / "run").exists()
    assert phone.processes() == []
    clean_device(f"android:{phone.address}")
    assert list(home.parent.iterdir()) == []


def test_another_program_takes_the_place_of_the_last(phone: Rig) -> None:
    kept = phone.root / "data/local/tmp/hwbench/bundle/0123"
    for form in (2019, 2024):
        with opened(phone.address, form):
            kept.mkdir(exist_ok=True)
    assert len(list(kept.parent.glob("tflite-*"))) == 1
    assert kept.exists(), "the other runtime's files are not its business"
    kept.rmdir()


def test_models_used_longest_ago_make_room(
    phone: Rig, net: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.tflite"
    other.write_bytes(model(inputs=(0, 0)))
    monkeypatch.setattr(phone_module, "MODELS_BYTES", len(net.artifact) + 10)
    with opened(phone.address) as device:
        device.place_model(net)
        device.place_model(read_workload(other, "other"))
        left = [path.name for path in (phone.root / "data/local/tmp/hwbench/models").iterdir()]
    assert left == [f"{read_workload(other, 'other').sha256}.tflite"]


def test_it_runs_on_the_cores_of_its_cluster_and_ends_with_its_time(
    phone: Rig, net: Workload
) -> None:
    with opened(phone.address, benchmark_name="hang") as device:
        seen: list[str] = []

        def look() -> None:
            deadline = time.monotonic() + 60
            while not seen and time.monotonic() < deadline:
                time.sleep(0.05)
                seen.extend(_allowed("--benchmark_name=hang"))

        watcher = threading.Thread(target=look)
        watcher.start()
        begun = time.monotonic()
        with pytest.raises(DeviceTimeoutError):
            device.run(device.place_model(net), FEW, 1.5)
        assert time.monotonic() - begun < 60, "it hangs for minutes"
        watcher.join()
        assert seen == [",".join(map(str, device.cores))]
        assert dict(device.info().details)["pinned_to"] == seen[0]
    assert soon(lambda: not phone.processes())
    assert not (phone.root / "data/local/tmp/hwbench/run").exists()


def test_a_killed_hwbench_leaves_nothing_running(phone: Rig, net: Workload) -> None:
    code = "import sys; from hwbench.cli import main; sys.exit(main())"
    words = [
        "profile",
        net.name,
        "--benchmark-model",
        str(stand_in(2024)),
        "--device",
        f"android:{on(phone.address)}",
    ]
    argv = [sys.executable, "-c", code, *words, "--tflite-flag", "benchmark_name=hang", "--no-save"]
    with subprocess.Popen(argv, cwd=ROOT) as hwbench:
        assert soon(
            lambda: any("/benchmark_model --graph" in line for line in phone.processes()), 30
        )
        hwbench.kill()
    assert soon(lambda: not phone.processes())
    clean_device(f"android:{phone.address}")
    assert list((phone.root / "data/local/tmp").iterdir()) == []
    assert phone.settings()["stay_on_while_plugged_in"] == "0"


def _allowed(word: str) -> list[str]:
    """CPUs that a program with this word among its arguments may run on."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            status = (entry / "status").read_text()
        except OSError:
            continue
        if word.encode() in words and words[0].endswith(b"/benchmark_model"):
            return [
                line.split("\t")[1]
                for line in status.splitlines()
                if line.startswith("Cpus_allowed_list")
            ]
    return []


@needs_namespace
def test_without_a_taskset_it_is_not_pinned_and_says_so(simple: FakePhone, net: Workload) -> None:
    (simple.folder / "system/bin/taskset").write_text("#!/bin/sh\nexit 1\n")
    (simple.folder / "system/bin/taskset").chmod(0o755)
    with opened(simple.address) as device:
        assert [finding.code for finding in device.findings] == ["not_pinned"]
        assert "pinned_to" not in dict(device.info().details)
        device.run(device.place_model(net), FEW, 20)


@FORMS
def test_a_flag_that_it_would_ignore_is_refused_before_anything_is_measured(
    phone: Rig, form: int
) -> None:
    with pytest.raises(UsageError, match=r"does not know --use_gpus; near it are --use_gpu"):
        opened(phone.address, form, use_gpus="true")
    if form == 2019:
        with pytest.raises(UsageError, match="does not know --use_xnnpack"):
            opened(phone.address, form, use_xnnpack="false")


def test_a_flag_that_was_ignored_is_an_error(phone: Rig, net: Workload) -> None:
    with opened(phone.address) as device:
        device.known |= {"use_turbo"}  # as if its --help told more than it knows
        with pytest.raises(UsageError, match=r"did not know '--use_turbo=1'.*leave it out"):
            device.run(device.place_model(net), {**FEW, "use_turbo": 1}, 20)


def test_flags_of_the_measurement_and_values_that_are_none_are_refused(
    phone: Rig, net: Workload
) -> None:
    with pytest.raises(UsageError, match="--num_runs is set by the measurement"):
        opened(phone.address, num_runs="7")
    with (
        opened(phone.address, use_gpu="perhaps") as device,
        pytest.raises(UsageError, match=r"'use_gpu' against.*perhaps"),
    ):
        device.run(device.place_model(net), FEW, 20)


@FORMS
def test_a_model_that_it_cannot_run_is_the_models_fault(phone: Rig, form: int) -> None:
    with (
        opened(phone.address, form) as device,
        pytest.raises(BuildError, match="Failed to mmap model /data/nowhere"),
    ):
        device.run(PurePosixPath("/data/nowhere"), FEW, 20)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("crash", "exit status 139 = SIGSEGV"), ("sigsys", "exit status 159 = SIGSYS")],
)
def test_a_crash_is_named(phone: Rig, net: Workload, fault: str, words: str) -> None:
    with opened(phone.address, benchmark_name=fault) as device:
        with pytest.raises(DeviceCommandError, match=words) as caught:
            device.run(device.place_model(net), FEW, 20)
        assert "Running benchmark" in caught.value.output_tail


@FORMS
def test_a_log_that_is_cut_off_is_no_measurement(phone: Rig, net: Workload, form: int) -> None:
    with (
        opened(phone.address, form, benchmark_name="cut") as device,
        pytest.raises(OutputParseError, match="ends before"),
    ):
        device.run(device.place_model(net), {**FEW, "warmup_runs": FEW["num_runs"]}, 20)


def test_other_threads_than_asked_for_are_refused(phone: Rig, net: Workload) -> None:
    with opened(phone.address) as device:
        device.threads = 2
        device.flags["num_threads"] = "1"
        with pytest.raises(OutputParseError, match="ran with 1 threads, not 2"):
            device.run(device.place_model(net), FEW, 20)


def test_more_threads_than_the_cluster_has_cores_are_refused(phone: Rig) -> None:
    with pytest.raises(UsageError, match=r"9 threads .* the \w+ cluster has"):
        TflitePhone(on(phone.address), read_program(stand_in(2024)), 9)


def test_a_program_for_another_processor_is_refused_before_it_is_sent(
    phone: Rig, tmp_path: Path
) -> None:
    clean_device(f"android:{phone.address}")
    other = bytearray(stand_in(2024).read_bytes())
    other[18:20] = (183).to_bytes(2, "little")
    (tmp_path / "benchmark_model").write_bytes(other)
    with pytest.raises(UsageError, match="program for aarch64; the device is x86_64"):
        TflitePhone(on(phone.address), read_program(tmp_path / "benchmark_model"))
    assert list((phone.root / "data/local/tmp").iterdir()) == []


def test_a_program_that_does_not_start_says_why(phone: Rig, tmp_path: Path) -> None:
    broken = stand_in(2024).read_bytes()[:64]
    (tmp_path / "benchmark_model").write_bytes(broken)
    with pytest.raises(DeviceUnavailableError, match=r"does not run on .*exit status 12[67]: "):
        TflitePhone(on(phone.address), read_program(tmp_path / "benchmark_model"))


@needs_namespace
def test_another_program_is_told_apart(simple: FakePhone) -> None:
    with pytest.raises(UsageError, match="is no benchmark_model"):
        TflitePhone(on(simple.address), read_program(Path("/bin/true").resolve()))


def test_the_build_of_the_other_runtime_means_nothing_here() -> None:
    for option in ("build=android", "runtime=litert"):
        with pytest.raises(
            UsageError, match=f"{option} is for hwbench's own runners; leave it out"
        ):
            TflitePhone(f"S,{option}", read_program(stand_in(2024)))
