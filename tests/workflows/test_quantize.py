"""Quantising: which layers stay in fp32, which version is kept, and what is told of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import hwbench
from hwbench.errors import UnsupportedLayerError, UsageError
from hwbench.measuring.sessions import measure_interleaved
from hwbench.network.intake.calibrated import CalibratedNetwork
from hwbench.records.measurement import Settings
from tests.support.models import conv_net, conv_workload

pytestmark = pytest.mark.slow

WIDTHS = (16, 16, 16, 16)
DATA = """
import numpy as np, onnxruntime, torch

class Images(torch.utils.data.Dataset):
    def __init__(self):
        random = np.random.default_rng(0)
        self.images = random.standard_normal((200, 3, 16, 16)).astype(np.float32)
        session = onnxruntime.InferenceSession("net.onnx")
        outputs = [session.run(None, {"x": image[None]})[0][0] for image in self.images]
        self.targets = [int(output.argmax()) for output in outputs]
    def __len__(self):
        return 200
    def __getitem__(self, number):
        return torch.from_numpy(self.images[number]), self.targets[number]
"""


def blind_to_the_first_channel(data: bytes) -> bytes:
    """The network with a first layer that does not look at the first channel of the image."""
    model = onnx.load_from_string(data)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensor = tensors["features.0.conv.weight"]
    weight = numpy_helper.to_array(tensor).copy()
    weight[:, 0] = 0
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return bytes(model.SerializeToString())


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder with `net.onnx` and images that it knows; gives the name of these."""
    (tmp_path / "net.onnx").write_bytes(conv_net(WIDTHS))
    (tmp_path / "quantized_images.py").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    yield "quantized_images:Images"
    sys.modules.pop("quantized_images", None)


def run(images: str, **options):
    options = {"device": "virtual", "save": False, "settings": Settings(budget_s=30)} | options
    return hwbench.quantize("net.onnx", data=images, **options)


def test_it_writes_a_network_in_int8_that_is_as_accurate_and_its_recipe(images, tmp_path):
    made = run(images)
    assert made.path.name == "net.int8.onnx"
    assert made.comparison.candidate.precision == "int8"
    assert made.comparison.verdict is hwbench.Verdict.FASTER  # a virtual int8 moves fewer bytes
    assert made.comparison.likeness.quality.samples == 40
    assert made.comparison.likeness.accuracy_drop < 0.1
    low, high = made.comparison.likeness.quality.drop_ci
    assert low <= made.comparison.likeness.accuracy_drop <= high
    again = hwbench.load_workload(tmp_path / "net.int8.onnx")
    assert again.precision == "int8"
    recipe = json.loads((tmp_path / "net.int8.json").read_text())
    assert recipe["images"] == 120  # all that are to train on
    assert recipe["left_in_fp32"] == list(made.recipe.left_in_fp32)
    assert recipe["onnx_sha256"] == made.comparison.candidate.model_sha256
    assert sum(tried.is_chosen for tried in made.versions) == 1


def test_a_layer_that_int8_spoils_is_left_in_fp32(images, tmp_path):
    """One pixel is far larger than the rest: the scale of the input is for it alone."""
    (tmp_path / "net.onnx").write_bytes(blind_to_the_first_channel(conv_net(WIDTHS)))
    glaring = DATA.replace("session =", "self.images[:, 0, 0, 0] = 1000\n        session =")
    (tmp_path / "quantized_images.py").write_text(glaring)
    made = run(images)
    (worse,) = [layer for layer in made.layers if layer.is_sensitive]
    assert worse.name == "features.0.conv"
    assert worse.noise_share > 0.6
    whole, spared = made.versions
    assert spared.left == ("features.0.conv",)
    assert spared.snr_db > whole.snr_db + 3


def test_layers_that_are_slower_in_int8_are_proven_so(images, monkeypatch):
    from hwbench.devices.virtual import device as virtual

    law = virtual.Law.layer_s

    def slow_linear(self, key):
        slow = key.op == "Linear" and key.precision == "int8"
        return law(self, key) * (10 if slow else 1)

    monkeypatch.setattr(virtual.Law, "layer_s", slow_linear)
    made = run(images)
    (slow,) = [layer for layer in made.layers if layer.is_slower]
    assert slow.name == "fc"
    assert slow.saved_s < -slow.saved_margin_s < 0
    assert made.recipe.left_in_fp32 == ("fc",)
    chosen = next(tried for tried in made.versions if tried.is_chosen)
    assert chosen.ratio.ratio < made.versions[0].ratio.ratio


def test_where_nothing_is_gained_it_says_so(images, monkeypatch):
    from hwbench.devices.virtual import device as virtual

    monkeypatch.setattr(virtual, "_ELEMENT_BYTES", {"fp32": 4, "fp16": 2, "int8": 4})
    made = run(images)
    assert "nothing_gained" in {finding.code for finding in made.findings}


def test_lost_accuracy_is_told(images):
    made = run(images, max_drop=-0.5)  # less than nothing: no version can keep to it
    finding = next(finding for finding in made.findings if finding.code == "accuracy_lost")
    assert "no version that was tried loses less" in finding.text


JUDGE = (
    DATA
    + """
ASKED = []

def likeness(network, images=200):
    '''How near each output is to that of the fp32 network.'''
    ASKED.append(1)
    session = onnxruntime.InferenceSession("net.onnx")
    samples = Images().images[:images]
    expected = np.concatenate([session.run(None, {"x": image[None]})[0] for image in samples])
    with torch.no_grad():
        outputs = network(torch.from_numpy(samples)).numpy()
    return 1 - np.sqrt(((outputs - expected) ** 2).mean(axis=1))

def one_number(network):
    return float(likeness(network).mean())

def more_each_time(network):
    ASKED.append(1)
    return [0.5] * len(ASKED) * 30
"""
)


def test_the_users_own_measure_replaces_accuracy(images, tmp_path):
    """It is asked once for each network; every other sample chooses, and the others are told."""
    (tmp_path / "quantized_images.py").write_text(JUDGE)
    made = run(images, evaluate="quantized_images:likeness")
    quality = made.comparison.likeness.quality
    assert (quality.measure, quality.samples) == ("quantized_images:likeness", 100)
    assert quality.baseline == 1.0  # the fp32 network is that which is compared with
    assert 0 < quality.drop < 0.2
    low, high = quality.drop_ci
    assert low < quality.drop < high
    assert quality.agreement is None
    first = made.versions[0]
    assert first.agreement is None
    assert 0 < first.accuracy_drop != quality.drop  # of the other samples
    asked = sys.modules["quantized_images"].ASKED
    assert len(asked) == 1 + len(made.versions)
    assert "quality_has_chosen" not in {finding.code for finding in made.findings}


def test_one_number_that_has_also_chosen_is_told_to_be_so(images, tmp_path):
    (tmp_path / "net.onnx").write_bytes(blind_to_the_first_channel(conv_net(WIDTHS)))
    glaring = JUDGE.replace("session =", "self.images[:, 0, 0, 0] = 1000\n        session =", 1)
    (tmp_path / "quantized_images.py").write_text(glaring)
    made = run(images, evaluate="quantized_images:one_number", max_drop=0.0001)
    assert len(made.versions) > 1
    assert made.comparison.likeness.quality.drop_ci is None
    codes = {finding.code: finding.text for finding in made.findings}
    assert "one number, which has also chosen among" in codes["quality_has_chosen"]
    assert (
        "by quantized_images:one_number, more than the 0.0001 that it may"
        in (codes["accuracy_lost"])
    )


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        ("quantized_images:nothing", "nothing"),
        ("quantized_images:ASKED", "not a function"),
        ("quantized_images:more_each_time", "gives 30 numbers for one network and 60"),
    ],
)
def test_measures_that_are_none_are_refused(images, tmp_path, evaluate, said):
    (tmp_path / "quantized_images.py").write_text(JUDGE)
    with pytest.raises(UsageError, match=said):
        run(images, evaluate=evaluate)


class Elsewhere:
    """Measures as the devices of a lab do: nothing but the records comes back."""

    address = "somewhere"

    def __init__(self, device):
        self.device, self.measured = device, []

    def measure(self, workloads, settings, callback):
        self.measured.append([workload.precision for workload in workloads])
        with hwbench.open_device(self.device) as device:
            records = measure_interleaved(device, workloads, settings)
        records = callback.examine(records)
        callback.finished(records)
        return records


def test_what_measures_may_be_anywhere(images):
    meter = Elsewhere("virtual")
    made = run(images, device=meter)
    assert made.comparison.verdict is hwbench.Verdict.FASTER
    assert meter.measured[0] == meter.measured[-1] == ["fp32", "int8"]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"device": "virtual", "out": "net.txt"}, UsageError, "has to end in .onnx"),
        ({"device": "virtual", "out": "missing/net.onnx"}, UsageError, "missing does not exist"),
        ({"device": "virtual", "out": "net.onnx"}, UsageError, "the network that is read"),
        (
            {"device": "virtual", "out": "notes.onnx"},
            UsageError,
            "notes.json, .* exists and is none",
        ),
        ({"data": "nowhere"}, UsageError, "nowhere"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(images, options, error, said):
    Path("notes.json").write_text('{"mine": true}')
    with pytest.raises(error, match=said):
        run(**{"images": options.pop("data", images)} | options)
    assert Path("notes.json").read_text() == '{"mine": true}'


def test_a_recipe_of_an_earlier_run_is_replaced(images):
    first = run(images)
    assert run(images).path == first.path


def test_a_network_that_others_made_is_written_over_only_when_asked(images):
    Path("net.int8.onnx").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists, and no recipe beside it"):
        run(images)
    assert Path("net.int8.onnx").read_bytes() == b"mine"
    assert run(images, out="net.int8.onnx").path.stat().st_size > 4


def test_a_folder_that_may_not_be_written_to_is_refused_first(images, monkeypatch):
    # Root may write everywhere, so the answer of the system is planted.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UsageError, match="nothing can be written to the folder"):
        run(images)


def test_a_device_without_int8_is_named(images, monkeypatch):
    from hwbench.devices.virtual.device import Virtual

    monkeypatch.setattr(Virtual, "precisions", frozenset({"fp32"}))
    with pytest.raises(UnsupportedLayerError, match="virtual does not run int8; it runs fp32"):
        run(images)


def test_a_network_in_int8_is_not_quantised_again(images):
    run(images)
    with pytest.raises(UsageError, match="is in int8 already"):
        hwbench.quantize("net.int8.onnx", data=images, device="virtual", out="x.onnx", save=False)


def test_networks_of_anything_but_images_are_refused(images, tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[1,4] x) => (float[1,4] y) '
        "{ y = Relu(x) }"
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="does not take one batch of images"):
        run(images)


def test_a_calibrated_network_leaves_the_layers_that_it_is_told():
    workload = conv_workload(WIDTHS)
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(4)]
    network = CalibratedNetwork(workload, feeds)
    assert network.weighted_layers == (*(f"features.{n}.conv" for n in range(4)), "fc")
    model = onnx.load_from_string(network.quantize("net", ["features.1.conv"]).onnx)
    quantized = {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and all("DequantizeLinear" in name for name in node.input[:2])
    }
    assert "features.0.conv" in quantized
    assert "features.1.conv" not in quantized
    assert network.quantize("net", network.layers).precision == "fp32"
