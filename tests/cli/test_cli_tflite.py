"""`.tflite` files on the command line: measured on litert, refused elsewhere with what to do."""

from __future__ import annotations

import json

import pytest

from tests.needs import needs_compiler
from tests.support.cli_support import hwb
from tests.support.tflite import depthwise_network

__all__ = ["hwb"]


@pytest.fixture
def nets(tmp_path):
    paths = [tmp_path / "net.tflite", tmp_path / "wide.tflite"]
    for path, width in zip(paths, (8, 16), strict=True):
        path.write_bytes(depthwise_network(width).artifact)
    return [str(path) for path in paths]


@needs_compiler
def test_two_files_are_compared_with_layers_and_outputs(hwb, nets):
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    done = hwb(
        "compare", *nets, "--device", "litert", "--budget", "2", "--no-save", "--json", "-"
    )  # fmt: skip
    compared = json.loads(done.out)
    assert compared["macs_ratio"] < 1
    names = [layer["name"] for layer in compared["layers"]]
    assert {"stem", "block/depthwise", "block/add", "fc"} <= set(names)
    assert all(layer["baseline_s"] and layer["candidate_s"] for layer in compared["layers"])
    codes = {finding["code"] for finding in compared["findings"]}
    assert "outputs_not_compared" not in codes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "virtual"], "runs onnx: measure it on the device litert"),
        (["--device", "litert", "--batch", "2"], "measured as it is"),
        (["--device", "android"], "runtime=litert to the address"),
        (["--device", "litert", "--tflite-flag", "a=1"], "need --benchmark-model FILE"),
        (["--device", "litert:kernels=fast"], "one of delegate, builtin"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(hwb, nets, words, message):
    done = hwb("profile", nets[0], *words)
    assert done.code != 0
    assert message in done.err


def test_what_needs_a_network_says_so(hwb, nets):
    done = hwb("table", "build", nets[0], "--device", "virtual")
    assert done.code != 0
    assert "virtual does not run tflite files" in done.err
