"""The phone as hwbench keeps house on it: addresses, files, and cleaning up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import hwbench
from hwbench.devices import open_device
from hwbench.devices.android import phone as phone_module
from hwbench.devices.android.device import Android, AndroidLitert
from hwbench.devices.android.phone import Phone, PhoneAddress
from hwbench.errors import DeviceCommandError, DeviceUnavailableError, UsageError
from hwbench.records.measurement import Settings
from hwbench.workflows.devices import clean_device, setup_device
from tests.devices.android.phone_support import on, rig
from tests.devices.android.pyadbd_phone import FakePhone, needs_namespace
from tests.devices.android.rig import Rig
from tests.devices.android.rig_support import own_key
from tests.support.models import conv_workload


@pytest.fixture(scope="module")
def phone() -> Iterator[Rig]:
    with rig("amd64") as running:
        yield running


def home(phone: Rig) -> Path:
    return phone.root / "data/local/tmp/hwbench"


def use(phone: Rig) -> None:
    """One inference."""
    with Android(on(phone.address)) as device:
        device.run([device.prepare(conv_workload(), Settings())])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", PhoneAddress()),
        ("R58M12ABCDE", PhoneAddress("R58M12ABCDE")),
        ("192.168.1.7:5555,cluster=little", PhoneAddress("192.168.1.7:5555", "little")),
        ("cluster=all,mode=sustained", PhoneAddress("", "all", "sustained")),
        ("S,build=android,mode=burst", PhoneAddress("S", build="android")),
        ("S,runtime=litert", PhoneAddress("S", runtime="litert")),
        (
            "runtime=litert,kernels=builtin",
            PhoneAddress(runtime="litert", kernels="builtin"),
        ),
    ],
)
def test_addresses(text: str, address: PhoneAddress) -> None:
    assert PhoneAddress.parse(text) == address


@pytest.mark.parametrize(
    "text",
    ["S,cluster=huge", "S,speed=9", "S,cluster", "S,", "S,cluster=big,cluster=big", "big=cluster"],
)
def test_options_that_do_not_exist_are_refused_with_those_that_do(text: str) -> None:
    with pytest.raises(
        UsageError,
        match=r"cluster=big\|middle\|little\|all; mode=burst\|sustained; build=linux\|android",
    ):
        Android(text)


def test_the_address_says_which_runtime() -> None:
    assert type(open_device("android:S")) is Android
    assert type(open_device("android:S,runtime=onnxruntime")) is Android
    assert type(open_device("android:S,runtime=litert")) is AndroidLitert
    with pytest.raises(
        UsageError, match=r"kernels=builtin .* kernels of LiteRT; add runtime=litert"
    ):
        open_device("android:S,kernels=builtin")
    with pytest.raises(UsageError, match=r"'runtime=ncnn'.*one of onnxruntime, litert"):
        open_device("android:S,runtime=ncnn")


def test_a_cluster_that_the_phone_lacks_is_refused(phone: Rig) -> None:
    with pytest.raises(UsageError, match="'middle'; it has big"):
        Phone(PhoneAddress(phone.address, "middle"))


def test_files_are_sent_once(phone: Rig) -> None:
    use(phone)
    files = [path for path in home(phone).rglob("*") if path.is_file()]
    sent = {path: path.stat().st_mtime_ns for path in files}
    assert any(path.parent.name == "models" for path in sent)
    use(phone)
    assert {
        path: path.stat().st_mtime_ns for path in home(phone).rglob("*") if path.is_file()
    } == sent


def test_half_a_file_is_sent_again(phone: Rig) -> None:
    use(phone)
    for pattern in ("bundle/*/libm.so.6", "models/*.onnx"):
        path = next(home(phone).glob(pattern))
        whole = path.read_bytes()
        path.write_bytes(whole[:1000])
        use(phone)
        assert path.read_bytes() == whole


def test_a_bundle_that_does_not_run_says_why(phone: Rig) -> None:
    use(phone)
    runner = next(home(phone).glob("bundle/*/hwbench_runner"))
    whole = runner.read_bytes()
    runner.write_bytes(b"\0" * len(whole))
    try:
        with pytest.raises(
            DeviceUnavailableError, match="the runner does not run on the device: exit status 127"
        ):
            use(phone)
    finally:
        runner.write_bytes(whole)


def test_another_bundle_takes_the_place_of_the_old_one(phone: Rig) -> None:
    use(phone)
    old = home(phone) / "bundle/onnxruntime-0123"
    other = home(phone) / "bundle/litert-0123"
    old.mkdir()
    other.mkdir()
    tested = next(home(phone).glob("bundle/*/tested"))
    tested.unlink()
    use(phone)
    assert {path.name for path in (home(phone) / "bundle").iterdir()} == {
        tested.parent.name,
        other.name,
    }
    assert tested.exists()
    other.rmdir()


def test_models_are_bounded_and_the_one_used_longest_ago_goes_first(
    phone: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    workloads = [conv_workload((width,)) for width in (8, 16, 24, 32)]
    monkeypatch.setattr(
        phone_module, "MODELS_BYTES", sum(len(workload.onnx) for workload in workloads[:3])
    )
    with Android(on(phone.address)) as device:
        for workload in (*workloads[:3], workloads[0], workloads[3]):
            device.release(device.prepare(workload, Settings()))
    kept = {path.stem for path in (home(phone) / "models").iterdir()}
    assert workloads[0].sha256 in kept
    assert workloads[3].sha256 in kept
    assert workloads[1].sha256 not in kept


def test_cleaning_leaves_nothing_and_setting_up_needs_no_measurement(phone: Rig) -> None:
    setup_device(f"android:{on(phone.address)}")
    assert next(home(phone).glob("bundle/*/tested"))
    clean_device(f"android:{phone.address}")
    assert list((phone.root / "data/local/tmp").iterdir()) == []
    clean_device(f"android:{phone.address}")


def test_what_cannot_be_restored_is_not_forgotten(phone: Rig) -> None:
    use(phone)
    note = home(phone) / "restore" / "unknown_setting"
    note.write_text("1\n")
    note.parent.chmod(0o555)
    try:
        with pytest.raises(DeviceCommandError, match="unknown_setting"):
            clean_device(f"android:{phone.address}")
        assert note.exists()
    finally:
        note.parent.chmod(0o755)
    note.unlink()


def test_an_open_device_is_not_cleaned(phone: Rig) -> None:
    with Android(on(phone.address)) as device, pytest.raises(UsageError, match="close it"):
        device.clean()


def test_a_device_on_which_nothing_is_put_says_so() -> None:
    with pytest.raises(UsageError, match="nothing"):
        clean_device("cpu")


def test_only_one_half_of_androids_own_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both aar and ndk"):
        setup_device("android", {"aar": tmp_path})


def test_phones_are_listed_with_what_is_proven() -> None:
    found = [found for found in hwbench.list_devices() if found.address.startswith("android")]
    assert found
    assert all("not yet on a phone in the hand" in one.hint or not one.ready for one in found)


@needs_namespace
def test_a_board_without_androids_tools_is_measured_all_the_same(tmp_path: Path) -> None:
    board = FakePhone(tmp_path)
    for program in (tmp_path / "system/bin").iterdir():
        if program.name != "sh":
            program.unlink()
    with own_key(), board, Android(on(board.address)) as device:
        info = device.info()
        assert info.target
        assert "android" not in dict(info.details)
        conditions = device.conditions()
        assert (conditions.battery, conditions.throttled) == (None, False)
        assert [
            advice.code
            for advice in device.doctor()
            if advice.code != "background" and not advice.ok
        ] == []
        assert device.run([device.prepare(conv_workload(), Settings())]).values_s[0] > 0


def test_the_doctor_looks_at_ten_things(phone: Rig) -> None:
    with Android(on(phone.address)) as device:
        found = {advice.code: advice for advice in device.doctor()}
        assert len(found) == 10
        assert found["thermal_status"].ok
        phone.set_thermal_status(3)
        phone.cap_frequency(0.5)
        try:
            found = {advice.code: advice for advice in device.doctor()}
        finally:
            phone.set_thermal_status(0)
            phone.cap_frequency(1.0)
    assert not found["thermal_status"].ok
    assert not found["frequency"].ok
