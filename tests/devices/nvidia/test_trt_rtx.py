"""Every network of the zoo, in every precision, parsed and built for real by TensorRT-RTX, which
needs no GPU for that.

Big networks at quarter width and 64 pixels (VGG-16, whose classifier fixes the size, at 224). Each
layer that multiplies is found again in the engine, under its module's name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hwbench.devices.nvidia.trt_layers import join_profile, read_engine_layers
from hwbench.devices.nvidia.trt_onnx import for_tensorrt
from hwbench.network.graph import layers, load
from hwbench.network.intake import load_workload
from hwbench.network.workload import Workload
from hwbench.network.zoo import NETWORKS
from tests.devices.nvidia import wheels
from tests.support.models import conv_workload

PRECISIONS = ("fp32", "fp16", "int8")
BUILD_S = 600


def workloads(network: str) -> dict[str, Workload]:
    """One network in every precision."""
    small = NETWORKS[network].size == 32
    side = {"vgg16": 224}.get(network, 32 if small else 64)
    spec = f"zoo:{network}" if small else f"zoo:{network}@0.25"
    return {
        precision: load_workload(spec, inputs=[f"1x3x{side}x{side}"], precision=precision)
        for precision in PRECISIONS
    }


def build(requests: dict[str, Workload], folder: Path) -> dict[str, dict]:
    """What TensorRT-RTX made of each workload."""
    lines = []
    for name, workload in requests.items():
        model = folder / f"{name}.onnx"
        model.write_bytes(for_tensorrt(workload)[0])
        lines.append(
            json.dumps({"name": name, "model": str(model), "precision": workload.precision})
        )
    done = subprocess.run(
        [sys.executable, "-m", "tests.devices.nvidia.rtx_build"],
        input="\n".join(lines),
        env=wheels.environment(wheels.rtx(), wheels.cuda()),
        capture_output=True,
        text=True,
        timeout=BUILD_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {answer["name"]: answer for answer in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_build_in_every_precision_and_join_back(network, tmp_path):
    requests = workloads(network)
    answers = build(requests, tmp_path)
    assert answers.keys() == requests.keys()
    for precision, workload in requests.items():
        answer = answers[precision]
        assert "error" not in answer, answer["error"]
        assert answer["version"].startswith("TensorRT-RTX 1.")
        model = load(workload.onnx)
        engine = read_engine_layers(answer["engine"], [node.name for node in model.graph.node])
        rows = join_profile(engine, layers(model), [[(layer.name, 1e-6) for layer in engine]])
        weighted = [layer for layer in layers(model) if layer.macs]
        keys = {row.name: row.key for row in rows}
        assert {layer.name: keys.get(layer.name) for layer in weighted} == {
            layer.name: layer.key for layer in weighted
        }
        assert {layer.key.precision for layer in weighted} == {precision}
        assert len(weighted) / 2 < sum(row.key is not None for row in rows) <= len(layers(model))


def test_what_tensorrt_cannot_parse_is_named(tmp_path):
    import onnx

    model = onnx.load_from_string(conv_workload().onnx)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Unheard", "elsewhere"
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    answers = build(
        {
            "bad": replace(conv_workload(), artifact=model.SerializeToString()),
            "good": conv_workload(),
        },
        tmp_path,
    )
    assert answers["bad"]["error"].startswith("UnsupportedLayerError: TensorRT-RTX 1.")
    assert "features.0.conv (Unheard)" in answers["bad"]["error"]
    assert "error" not in answers["good"]
