"""`hwbench quantize`: files, document, gates, bad input."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.cli_support import hwb
from tests.workflows.test_quantize import DATA

pytestmark = pytest.mark.slow

__all__ = ["hwb"]
QUICK = ("--device", "virtual", "--budget", "8", "--no-save")


@pytest.fixture
def images(hwb):
    (hwb.folder / "some_images.py").write_text(DATA.replace("net.onnx", "big.onnx"))
    yield "some_images:Images"
    sys.modules.pop("some_images", None)


def test_it_says_what_int8_gains_and_costs_and_what_it_wrote(hwb, images):
    made = hwb("quantize", "big.onnx", "--data", images, *QUICK, "--json", "made.json")
    assert made.code == 0, made.err
    assert "faster" in made.out.splitlines()[0]
    assert "every layer" in made.out
    assert "written to big.int8.onnx, with" in made.out
    document = json.loads((hwb.folder / "made.json").read_text())
    assert document["comparison"]["speedup"] > 1
    assert document["comparison"]["accuracy_drop"] is not None
    assert document["versions"][0]["left_in_fp32"] == []
    assert document["recipe"]["activations"] == "uint8"
    assert (hwb.folder / "big.int8.onnx").is_file()


def test_rules_hold_for_the_network_that_is_kept(hwb, images):
    rule = ("--fail-on", "speedup<100")
    made = hwb("quantize", "big.onnx", "--data", images, *QUICK, *rule, "-o", "other.onnx")
    assert made.code == 1
    assert "speedup is" in made.err
    assert (hwb.folder / "other.json").is_file()


def test_the_users_own_measure_is_named(hwb, images):
    (hwb.folder / "some_measure.py").write_text(
        "import torch\n"
        "def spread(network):\n"
        "    with torch.no_grad():\n"
        "        return float(network(torch.ones(8, 3, 16, 16)).std() < 1e9)\n"
    )
    words = ("--evaluate", "some_measure:spread", "--budget", "30", "--json", "made.json")
    made = hwb("quantize", "big.onnx", "--data", images, *QUICK, *words)
    sys.modules.pop("some_measure", None)
    assert made.code == 0, made.err
    assert "quality lost" in made.out
    quality = json.loads((hwb.folder / "made.json").read_text())["comparison"]["quality"]
    assert quality["measure"] == "some_measure:spread"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--evaluate", "absent_module:f", "--no-save"), "absent_module"),
        (("--max-drop", "2"), "not between 0 and 100 %"),
        (("--fail-on", "load_s>1"), "unknown field; known: speedup, accuracy_drop, agreement"),
        (("--tail",), "compare --tail"),
        (("-o", "missing/x.onnx"), "does not exist"),
    ],
)
def test_bad_options_are_refused_at_once(hwb, words, said):
    made = hwb("quantize", "big.onnx", "--data", "digits", *words)
    assert made.code == 2
    assert said in made.err


def test_data_is_needed(hwb):
    assert "--data" in hwb("quantize", "big.onnx").err
