"""The driver `android` with `runtime=litert`: the contract with layers on x86-64 and on real Arm
code, and what its user meets.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from hwbench.devices import open_device
from hwbench.devices.android.bundle import build_bundle
from hwbench.devices.android.bundle_runtimes import LITERT
from hwbench.devices.android.device import Android
from hwbench.devices.base import Device, ProfilesLayers, ReportsMemory
from hwbench.devices.contract import DeviceContract
from hwbench.devices.shared.litert import library
from hwbench.devices.shared.litert.library import litert_library, litert_version
from hwbench.devices.shared.litert.profile import read_profile
from hwbench.devices.shared.runner.build import LITERT_RUNNER, build_runner
from hwbench.devices.shared.runner.process import RunnerProcess
from hwbench.devices.shared.runner.protocol import plan_line
from hwbench.errors import BuildError, DeviceUnavailableError, WorkloadError
from hwbench.network.layers import layers_of
from hwbench.network.tflite.writing import write_convolutions
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.devices.android import rig_faces
from tests.devices.android.phone_support import on, rig
from tests.devices.android.rig import Rig
from tests.needs import needs_arm_compiler
from tests.support.cli_support import CommandLine, hwb  # noqa: F401 - a fixture
from tests.support.models import conv_workload
from tests.support.tflite import depthwise_network, half_network, int8_network

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install ai-edge-litert")


class OfAndroid(DeviceContract):
    place: ClassVar[str] = ""

    def make_device(self) -> Device:
        return open_device(f"android:{on(self.place, 'runtime=litert')}")

    def make_workload(self) -> Workload:
        return write_convolutions("quick", (8, 8), side=16)

    def make_slow_workload(self) -> Workload | None:
        return write_convolutions("slow", (64, 64, 64), side=64)

    def test_it_has_layers(self) -> None:
        assert isinstance(self.make_device(), ProfilesLayers)


class TestGoogleAdbd(OfAndroid):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _phone(cls) -> Iterator[None]:
        with rig("amd64") as phone:
            cls.place = phone.address
            yield


class TestBuiltinKernelsIsolated(TestGoogleAdbd):
    settings = Settings(threads=1, isolate=True)

    def make_device(self) -> Device:
        return open_device(f"android:{on(self.place, 'runtime=litert', 'kernels=builtin')}")


@pytest.mark.qemu
@pytest.mark.slow
class TestArm(OfAndroid):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _phone(cls) -> Iterator[None]:
        with rig("arm64") as phone:
            cls.place = phone.address
            yield

    def make_workload(self) -> Workload:
        return write_convolutions("quick", (4, 4), side=4)

    def make_slow_workload(self) -> Workload | None:
        return write_convolutions("slow", (32, 32, 32), side=16)


@pytest.fixture(scope="module")
def phone() -> Iterator[Rig]:
    with rig("amd64") as running:
        yield running


@pytest.fixture(scope="module", params=["amd64", "arm64"])
def peer(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Both kinds of phones; the latencies of the emulated one are no phone's."""
    with rig(request.param) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A network and one of half its width."""
    paths = []
    for name, width in (("whole", 32), ("half", 16)):
        paths.append(tmp_path / f"{name}.tflite")
        paths[-1].write_bytes(depthwise_network(width).artifact)
    return str(paths[0]), str(paths[1])


def address(phone: Rig, *options: str) -> str:
    return f"android:{on(phone.address, 'runtime=litert', *options)}"


def test_every_layer_has_a_row_with_its_key(peer: Rig) -> None:
    with open_device(address(peer)) as device:
        seen = device.profile_layers(device.prepare(depthwise_network(), Settings()), 5)
        info = device.info()
    assert [(row.name, row.key) for row in seen.rows] == [
        (layer.name, layer.key) for layer in layers_of(depthwise_network())
    ]
    assert {row.name: row.implementation for row in seen.rows}["block/depthwise"].startswith("F32")
    assert info.runtime == f"LiteRT {litert_version()}"
    assert dict(info.details)["bundle"].startswith("linux ")


def test_tensorflow_lites_own_kernels_are_another_runtime(phone: Rig) -> None:
    with open_device(address(phone, "kernels=builtin")) as device:
        rows = device.profile_layers(device.prepare(depthwise_network(), Settings()), 3).rows
        assert device.info().runtime.endswith("without XNNPACK")
    assert {row.implementation for row in rows} == {"TFLite"}


@pytest.mark.parametrize("make", [half_network, int8_network])
def test_other_precisions_run_with_layers(phone: Rig, make: Callable[[], Workload]) -> None:
    with open_device(address(phone)) as device:
        rows = device.profile_layers(device.prepare(make(), Settings()), 3).rows
    assert {row.name for row in rows if row.key} == {layer.name for layer in layers_of(make())}


def test_load_first_inference_and_memory_are_told(phone: Rig) -> None:
    with open_device(address(phone)) as device:
        prepared = device.prepare(depthwise_network(), Settings(isolate=True))
        assert isinstance(device, ReportsMemory)
        memory = device.peak_memory_bytes(prepared)
    assert prepared.load_s
    assert prepared.first_run_s
    assert memory is not None
    assert memory > 5e6


def test_a_file_is_profiled_without_benchmark_model(
    peer: Rig, hwb: CommandLine, files: tuple[str, str]
) -> None:
    done = hwb("profile", files[0], "--device", address(peer), "--budget", "2", "--json", "-")
    assert (done.code, done.err) == (0, "")
    assert done.json["device"]["runtime"] == f"LiteRT {litert_version()}"
    assert [row["name"] for row in done.json["layers"]] == [
        layer.name for layer in layers_of(depthwise_network(32))
    ]


def test_two_files_are_compared(peer: Rig, hwb: CommandLine, files: tuple[str, str]) -> None:
    done = hwb("compare", *files, "--device", address(peer), "--budget", "4", "--json", "-")
    # Which is faster, a busy computer may leave open, and an emulator is not asked.
    assert done.code in ({0, 5} if peer.arch == "amd64" else {0, 1, 5}), done.err
    assert done.json["macs_ratio"] > 1.5
    assert {row["name"] for row in done.json["layers"]} == {
        layer.name for layer in layers_of(depthwise_network(32))
    }
    assert done.json["device"]["runtime"] == f"LiteRT {litert_version()}"


def test_two_runtimes_of_a_phone_take_turns(phone: Rig) -> None:
    """They share the phone: what the first put there stays while the second is used and closed."""
    before = phone.settings()
    with Android(on(phone.address)) as first:
        prepared = first.prepare(conv_workload(), Settings())
        second = open_device(address(phone)).open(beside=first)
        try:
            assert first.info().target_id == second.info().target_id
            other = second.prepare(depthwise_network(), Settings())
            assert first.run([prepared]).values_s[0] > 0
            assert second.run([other]).values_s[0] > 0
        finally:
            second.close()
        assert phone.settings()["stay_on_while_plugged_in"] == "7", "the first still needs it"
        first.profile_layers(prepared, 3)  # writes into the folder of its connection
        with pytest.raises(DeviceUnavailableError, match="mode=burst at the same time"):
            open_device(address(phone, "mode=sustained")).open(beside=first)
    assert phone.settings() == before
    kinds = {path.name.partition("-")[0] for path in home(phone).glob("bundle/*")}
    assert kinds == {"onnxruntime", "litert"}
    assert not (home(phone) / "run").exists()


def home(phone: Rig) -> Path:
    return phone.root / "data/local/tmp/hwbench"


def test_what_the_runtime_cannot_run_is_one_line(phone: Rig) -> None:
    with open_device(address(phone)) as device:
        with pytest.raises(WorkloadError, match=r"does not run onnx files such as .*runs tflite"):
            device.prepare(conv_workload(), Settings())
        broken = replace(depthwise_network(), artifact=b"12345678")
        with pytest.raises(BuildError, match=r"net.tflite.*CreateModelFromFile"):
            device.prepare(broken, Settings())
        assert device.run([device.prepare(depthwise_network(), Settings())]).values_s[0] > 0
    with (
        Android(on(phone.address)) as device,
        pytest.raises(WorkloadError, match=r"does not run tflite files.*,runtime=litert"),
    ):
        device.prepare(depthwise_network(), Settings())


def test_a_version_to_put_there_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "DISTRIBUTION", "ai-edge-nothing")
    with pytest.raises(DeviceUnavailableError, match=r"ai-edge-nothing, which is not installed"):
        build_bundle("aarch64", LITERT)


@pytest.mark.qemu
@needs_arm_compiler
@pytest.mark.skipif(
    not shutil.which("qemu-aarch64-static"),
    reason="needs an emulator: apt-get install qemu-user-static",
)
def test_arm_code_computes_what_this_computer_does(tmp_path: Path) -> None:
    bundle = build_bundle("aarch64", LITERT)
    faces = tmp_path / "faces"  # what the emulator opens in place of this computer's own files
    rig_faces.furnish(faces, "arm64", 0)
    rig_faces.write_tree(faces / "proc", {"cpuinfo": rig_faces.cpuinfo()})
    arm = ["qemu-aarch64-static", "-cpu", "cortex-a76", "-L", faces]
    arm += [bundle.folder / bundle.loader[0], "--library-path", bundle.folder]
    arm += [bundle.folder / "hwbench_runner"]
    here = [build_runner(name=LITERT_RUNNER)]
    path = tmp_path / "net.tflite"
    path.write_bytes(depthwise_network().artifact)
    outputs = []
    for argv, opened in ((arm, bundle.folder / bundle.library), (here, litert_library())):
        with RunnerProcess.start([str(word) for word in argv]) as runner:
            runner.library(opened)
            runner.configure(seed=7)
            runner.load("m", path, tmp_path / "profile")
            runner.run(["m"])
            runner.command(plan_line("dump", "m", tmp_path), "dumped")
            profile = runner.unload("m")
        outputs.append(np.fromfile(tmp_path / "m.0.bin", np.float32))
        assert profile is not None
        assert len(read_profile(Path(profile).read_bytes(), 1)) >= 7
    assert np.ptp(outputs[0]) > 0.01
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-5)
