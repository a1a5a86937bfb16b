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
    options = {"device": "virtual", "save": False, "settings": Settings(budget_s=8)} | options
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
