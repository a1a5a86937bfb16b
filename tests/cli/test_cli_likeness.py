"""`compare` of networks that compute the same, or not: outputs, accuracy, start; and their gates."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.support.cli_support import hwb
from tests.support.models import conv_net

pytestmark = pytest.mark.slow

__all__ = ["hwb"]
VIRTUAL = ("--device", "virtual", "--budget", "3", "--no-layers")
DATA = """
import numpy as np, onnxruntime, torch

class Images(torch.utils.data.Dataset):
    def __init__(self):
        random = np.random.default_rng(0)
        self.images = random.standard_normal((60, 3, 16, 16)).astype(np.float32)
        session = onnxruntime.InferenceSession("big.onnx")
        outputs = [session.run(None, {"x": image[None]})[0][0] for image in self.images]
        self.targets = [int(output.argmax()) for output in outputs]
    def __len__(self):
        return 60
    def __getitem__(self, number):
        return torch.from_numpy(self.images[number]), self.targets[number]
"""


@pytest.fixture
def models(hwb):
    """`big.onnx`, its copy, the same with its outputs permuted, and images that it knows."""
    data = conv_net((64, 64))
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("fc."):
            values = np.roll(numpy_helper.to_array(tensor), 3, axis=0)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (hwb.folder / "permuted.onnx").write_bytes(model.SerializeToString())
    (hwb.folder / "copy.onnx").write_bytes(data)
    (hwb.folder / "some_images.py").write_text(DATA)
    return hwb


@pytest.mark.parametrize("layout", ["text", "md", "json"])
def test_a_wrong_candidate_is_told_in_every_format_without_any_option(models, layout):
    found = models("compare", "big.onnx", "permuted.onnx", *VIRTUAL, "--format", layout)
    assert "different_outputs" in found.out
    assert found.code in {0, 5}  # what it computes changes no verdict
    same = models("compare", "big.onnx", "copy.onnx", *VIRTUAL, "--format", layout)
    assert "different_outputs" not in same.out


def test_outputs_are_in_the_document(models):
    data = models("compare", "big.onnx", "permuted.onnx", *VIRTUAL, "--json", "-").json
    assert data["outputs"]["snr_db"] < 10
    assert data["agreement"] == data["outputs"]["agreement"] < 1
    assert data["quality"] is None
    assert data["accuracy_drop"] is None


def test_accuracy_is_compared_and_gated(models):
    words = ("compare", "big.onnx", "permuted.onnx", *VIRTUAL, "--data", "some_images:Images")
    found = models(*words, "--fail-on", "accuracy_drop>1%", "--json", "out.json")
    data = json.loads((models.folder / "out.json").read_text())
    assert found.code == 1
    assert "--fail-on accuracy_drop>0.01 forbids" in found.err
    assert data["quality"]["baseline"] == 1
    assert data["accuracy_drop"] == 1 - data["quality"]["candidate"] > 0.5
    low, high = data["quality"]["drop_ci"]
    assert low <= data["accuracy_drop"] <= high
    shown = " ".join(found.out.split())
    assert "On 12 samples of some_images:Images (onnxruntime" in shown
    assert "against 100.0 %, a drop of" in shown


def test_a_copy_keeps_its_accuracy_and_passes(models):
    found = models(
        *("compare", "big.onnx", "copy.onnx", *VIRTUAL, "--data", "some_images:Images"),
        *("--fail-on", "accuracy_drop>1%", "--fail-on", "agreement<99%"),
    )
    assert found.code in {0, 5}
    assert "forbids" not in found.err


def test_a_rule_about_accuracy_needs_images(hwb):
    words = ("compare", "big.onnx", "small.onnx", *VIRTUAL, "--fail-on", "accuracy_drop>1%")
    found = hwb(*words)
    assert found.code == 2
    assert "--data" in found.error


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--data", "nowhere"), "no images at 'nowhere'"),
        (("--evaluate", "nowhere:function"), "cannot be imported"),
    ],
)
def test_data_that_is_not_there_is_one_line(hwb, more, said):
    found = hwb("compare", "big.onnx", "big.onnx", *VIRTUAL, *more)
    assert found.code == 2
    assert said in found.error


def test_load_and_first_inference_are_shown_and_gated(hwb):
    data = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--json", "-").json
    for side in (data["baseline"], data["candidate"]):
        low, high = side["load_ci_s"]
        assert low < side["load_s"] < high
        assert side["peak_memory_ci_bytes"] is None  # the virtual device knows no memory
    assert data["start"]["load_s"]["gain"] == pytest.approx(1, abs=0.5)
    assert data["start"]["peak_memory_bytes"] is None
    shown = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL).out
    assert "first inference" in shown
    gated = hwb("compare", "big.onnx", "small.onnx", *VIRTUAL, "--fail-on", "load_s>0.001")
    assert gated.code == 1
    assert hwb("profile", "big.onnx", *VIRTUAL, "--fail-on", "first_run_s>1").code == 0
    assert hwb("profile", "big.onnx", *VIRTUAL, "--fail-on", "load_s<1").code == 1


def test_the_report_tells_what_the_command_told(models):
    models("compare", "big.onnx", "permuted.onnx", *VIRTUAL)
    assert models("report", "-o", "report.html").code == 0
    page = (models.folder / "report.html").read_text()
    assert "different_outputs" in page
    assert "signal-to-noise" in page


def test_tails_are_shown_and_gated(hwb):
    words = ("compare", "big.onnx", "small.onnx", *VIRTUAL, "--tail")
    found = hwb(*words, "--fail-on", "p99_s>0.000001", "--json", "out.json")
    assert found.code == 1
    assert "p99_s" in found.err
    candidate = json.loads((hwb.folder / "out.json").read_text())["candidate"]
    assert candidate["record"]["loops"] == 1
    low, high = candidate["p90_ci_s"]
    assert candidate["p50_s"] <= low <= candidate["p90_s"] <= high <= candidate["worst_s"]
    assert "worst of" in found.out
    assert "p99" in hwb("profile", "small.onnx", *VIRTUAL, "--tail").out
    assert "p99" not in hwb("profile", "small.onnx", *VIRTUAL).out


def test_a_rule_about_tails_needs_single_inferences(hwb):
    for command in (("profile",), ("compare", "big.onnx")):
        found = hwb(*command, "small.onnx", *VIRTUAL, "--fail-on", "p99_s>0.02")
        assert found.code == 2
        assert "--tail" in found.error


HOT = ("--device", "virtual:noise=white+throttling", "--budget", "3", "--no-layers", "--no-save")


def test_load_without_a_pause_is_told_and_gated(hwb):
    words = ("compare", "big.onnx", "small.onnx", *HOT, "--sustain", "1m")
    found = hwb(*words, "--fail-on", "steady_speedup<1.01", "--json", "load.json")
    assert found.code == 0, found.err
    text = " ".join(found.out.split())
    assert "At the end of load without a pause, by turns, the speed-up is" in text
    assert "Candidate: Without a pause for 60 s:" in text
    document = json.loads((hwb.folder / "load.json").read_text())
    assert document["baseline"]["sustained"]["slowdown"] == pytest.approx(1.3, rel=0.02)
    assert document["steady_speedup"] > 1.01
    profiled = hwb("profile", "big.onnx", *HOT, "--sustain", "60", "--fail-on", "slowdown>1.2")
    assert profiled.code == 1
    assert "slowdown is 1.3" in profiled.err
    assert "slows_down" in profiled.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sustain", "soon"), "is not a time such as 90s, 10m or 1h"),
        (("--sustain", "0m"), "not a positive time"),
        (("--fail-on", "steady_speedup<1"), "--sustain 10m"),
    ],
)
def test_impossible_loads_are_refused(hwb, words, said):
    found = hwb("compare", "big.onnx", "small.onnx", *HOT, *words)
    assert found.code == 2
    assert said in " ".join(found.err.split())
