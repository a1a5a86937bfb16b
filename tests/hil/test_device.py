"""What every driver promises and every workflow does, on a real device: `make hil DEVICE=cuda:0`.

The contract says that the driver keeps the rules; the rest holds its numbers against what must be
true of any device.
"""

from __future__ import annotations

import pytest

from hwbench.devices import open_device
from hwbench.devices.base import Device, ProfilesLayers
from hwbench.devices.contract import DeviceContract
from hwbench.errors import DeviceUnavailableError
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from hwbench.stats import Verdict
from hwbench.workflows.build_table import build_table
from hwbench.workflows.compare import compare
from hwbench.workflows.doctor import doctor
from hwbench.workflows.profile import profile
from hwbench.workflows.selftest import selftest
from tests.devices.nvidia.trt_nets import convolutions
from tests.support.models import conv_workload

pytestmark = [pytest.mark.hil, pytest.mark.timeout(600)]
MODEL = "zoo:resnet18"
SETTINGS = Settings(budget_s=20)


class TestContract(DeviceContract):
    @pytest.fixture(autouse=True)
    def _address(self, address: str) -> None:
        self.address = address

    def make_device(self) -> Device:
        return open_device(self.address)

    def make_workload(self) -> Workload:
        return convolutions((16, 16), 16)  # nothing that a runtime may leave out, such as Flatten

    def make_slow_workload(self) -> Workload | None:
        return conv_workload(
            (256,) * 12, size=112, name="slow"
        )  # a GPU takes the small one in some 10 us


def test_one_user_at_a_time(address):
    with open_device(address), pytest.raises(DeviceUnavailableError, match="in use"):
        open_device(address).open()


def test_doctor_looks_at_everything(address):
    found = doctor(address)
    assert found.device.runtime
    assert all(item.ok or item.remedy for item in found.advice)


def test_a_network_against_itself(address):
    found = selftest(model=MODEL, device=address, runs=3, settings=Settings(budget_s=10))
    assert found.false_verdicts == 0


def test_profile_closes(address):
    with open_device(address) as device:
        has_layers = isinstance(device, ProfilesLayers)
    record = profile(MODEL, device=address, settings=SETTINGS, save=False)
    assert 0 < record.median_s < 1
    assert record.median_ci_s[0] <= record.median_s <= record.median_ci_s[1]
    if has_layers and record.profile is not None:
        assert 0.9 < record.closure < 1.1


def test_half_the_width_is_called_faster(address):
    found = compare("zoo:vgg16", "zoo:vgg16@0.5", device=address, settings=SETTINGS, save=False)
    assert found.verdict is Verdict.FASTER
    assert found.speedup is not None
    assert found.speedup > 1.3


def test_table_predicts_held_out_networks(address):
    built = build_table(
        MODEL, device=address, settings=Settings(budget_s=150), validation=10, save=False
    )
    assert built.validation is not None
    assert built.validation.grade.rmspe < 0.05
