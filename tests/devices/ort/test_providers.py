"""Other execution providers of ONNX Runtime: what is missing, what fell back, and what layers say.

Providers come with builds of ONNX Runtime of their own. Where OpenVINO's is installed
(`onnxruntime-openvino`), the contract is run on it.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hwbench.devices.base import Device
from hwbench.devices.contract import DeviceContract
from hwbench.devices.ort import providers
from hwbench.devices.ort.cpu import CpuOrt
from hwbench.devices.ort.providers import CPU, Provider
from hwbench.devices.shared.ort.profile import ProfiledRuns
from hwbench.errors import DeviceUnavailableError, UnsupportedLayerError, UsageError
from hwbench.network.graph import all_layers, load
from hwbench.network.ort import onnxruntime
from hwbench.network.workload import Workload
from hwbench.records.measurement import Settings
from tests.support.models import conv_net, conv_workload

OPENVINO = Provider("openvino", "OpenVINOExecutionProvider")
LAYERS = all_layers(load(conv_net()))
NAMES = [layer.name for layer in LAYERS]
has_openvino = pytest.mark.skipif(
    OPENVINO.full_name not in onnxruntime().get_available_providers(),
    reason="needs onnxruntime-openvino in place of onnxruntime",
)


def profiled(**entries: str) -> ProfiledRuns:
    """A profile of two inferences; entry i takes i + 1 us on the provider named."""
    times = {name: ((i + 1) * 1e-6,) * 2 for i, name in enumerate(entries)}
    ops = dict.fromkeys(entries, "Node")
    return ProfiledRuns((1e-4, 1e-4), times, ops, providers=dict(entries))


@pytest.mark.parametrize(
    ("built_with", "has"),
    [
        ([CPU], "none besides its own kernels"),
        ([CPU, "AzureExecutionProvider", "CUDAExecutionProvider"], "none besides its own kernels"),
        (["DnnlExecutionProvider", "XnnpackExecutionProvider", CPU], "dnnl, xnnpack"),
    ],
)
@pytest.mark.parametrize(("name", "advice"), [("openvino", "onnxruntime-openvino"), ("foo", "")])
def test_a_provider_that_is_missing_is_one_line_with_what_there_is(
    built_with, has, name, advice, monkeypatch
):
    fake = SimpleNamespace(__version__="1.99.0", get_available_providers=lambda: built_with)
    monkeypatch.setattr(providers, "onnxruntime", lambda: fake)
    with pytest.raises(DeviceUnavailableError) as caught:
        CpuOrt(f"provider={name}").open()
    text = str(caught.value)
    assert text.startswith(
        f"onnxruntime 1.99.0 here has no provider '{name}' for the CPU; it has {has}"
    )
    assert advice in text
    assert "\n" not in text


def test_an_address_has_one_option_and_no_place():
    assert CpuOrt("provider=openvino").address == "cpu:provider=openvino"
    with pytest.raises(UsageError, match="known: provider=NAME"):
        CpuOrt("vendor=openvino")
    with pytest.raises(UsageError, match="takes no address"):
        CpuOrt("1")


def test_what_fell_back_is_told_by_its_share_of_the_work():
    runs = profiled(**{NAMES[1]: CPU, "subgraph_0": OPENVINO.full_name})
    finding = providers.describe_fallback(OPENVINO, runs, LAYERS)
    share = LAYERS[1].macs / sum(layer.macs for layer in LAYERS)
    assert finding.code == "provider_fell_back"
    assert f"{share:.1%} of the multiply-accumulates, 1 nodes" in finding.text
    assert NAMES[1] in finding.text


def test_a_network_of_which_a_provider_takes_nothing_is_refused():
    runs = profiled(**dict.fromkeys(NAMES, CPU))
    with pytest.raises(UnsupportedLayerError, match="takes no part"):
        providers.describe_fallback(OPENVINO, runs, LAYERS)


def test_what_a_provider_compiled_is_a_group():
    runs = profiled(**{NAMES[-1]: CPU, "subgraph_0": OPENVINO.full_name})
    group, last = sorted(providers.join_profile(runs, LAYERS), key=lambda row: row.key is not None)
    assert (group.op, group.key, group.implementation) == ("Group", None, "OpenVINO")
    assert (last.name, last.implementation) == (NAMES[-1], "CPU")
    assert group.samples_s == (2e-6, 2e-6)


def test_entries_of_single_nodes_are_those_of_their_layers():
    runs = profiled(**dict.fromkeys(NAMES, "XnnpackExecutionProvider"))
    rows = providers.join_profile(runs, LAYERS)
    assert [row.name for row in rows] == NAMES
    assert {row.implementation for row in rows} == {"Xnnpack"}


@has_openvino
class TestOpenVinoProvider(DeviceContract):
    def make_device(self) -> Device:
        return CpuOrt("provider=openvino")

    def make_workload(self) -> Workload:
        return conv_workload((16, 16), size=16)

    def make_slow_workload(self) -> Workload | None:
        return conv_workload((64, 64, 64), size=64, name="slow")

    def test_layer_profile_covers_every_layer_once(self, device: Device) -> None:
        """In one row: OpenVINO compiles the network whole, so no layer has a time of its own."""
        prepared = device.prepare(self.make_workload(), self.settings)
        (row,) = device.profile_layers(prepared, 3).rows
        assert (row.op, row.key, row.implementation) == ("Group", None, "OpenVINO")

    def test_it_says_what_ran(self, device):
        assert device.info().runtime.endswith("with OpenVINOExecutionProvider")
        prepared = device.prepare(self.make_workload(), self.settings)
        assert "provider_fell_back" not in {finding.code for finding in prepared.findings}
        with pytest.raises(UsageError, match="not isolated"):
            device.prepare(self.make_workload(), Settings(isolate=True))
