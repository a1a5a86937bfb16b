"""However a network was saved, the workload has the same layers under the names of its torch
modules, and computes the same.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwbench.errors import UnsafeModelError, UsageError, WorkloadError
from hwbench.network import graph
from hwbench.network.intake import factories, load_workload
from hwbench.network.intake.torch_onnx import export_program
from hwbench.network.ort import onnxruntime
from tests.support.saved_models import SHAPE, TinyNet, plain, save

MODULES = [
    "features.0.conv",
    "features.1.conv",
    "features.2.conv",
    "features.3.conv",
    "pool/GlobalAveragePool",
    "fc",
]
SHAPES = ["x".join(map(str, SHAPE))]


def rows(workload):
    layers = graph.layers(graph.load(workload.onnx))
    return [
        (layer.name, layer.op, layer.macs, layer.params)
        for layer in layers
        if layer.op != "Reshape"
    ]


def run(workload, *inputs):
    session = onnxruntime().InferenceSession(workload.onnx, providers=["CPUExecutionProvider"])
    feed = {
        known.name: given.numpy() for known, given in zip(session.get_inputs(), inputs, strict=True)
    }
    return session.run(None, feed)[0]


@pytest.fixture(scope="module")
def reference():
    return load_workload(TinyNet(), inputs=SHAPES)


def test_an_in_memory_module_keeps_its_names_and_is_counted_right(reference):
    assert [name for name, *_ in rows(reference)] == MODULES
    pixels = SHAPE[2] * SHAPE[3]
    assert reference.macs == pixels * (8 * 27 + 2 * 8 * 72 + 8 * 9) + 8 * 5
    assert reference.params == (8 * 27 + 8) + 2 * (8 * 72 + 8) + (8 * 9 + 8) + (8 * 5 + 5)
    assert (reference.name, reference.batch, reference.precision, reference.findings) == (
        "TinyNet",
        1,
        "fp32",
        (),
    )
    assert reference.inputs[0].shape == SHAPE


@pytest.mark.parametrize(
    ("how", "file", "inputs"),
    [
        ("program", "under_another_name.pt", ()),
        ("traced", "traced.pt", ()),
        ("scripted", "scripted.onnx", SHAPES),
        ("onnx", "model.pt", ()),
        ("legacy_onnx", "model.bin", ()),
    ],
)
def test_every_format_gives_the_same_layers_and_the_same_outputs(
    how, file, inputs, reference, tmp_path, capfd
):
    path = save(TinyNet(), how, tmp_path / file)
    capfd.readouterr()
    workload = load_workload(path, inputs=inputs)
    assert capfd.readouterr() == ("", ""), "torch's messages must not reach the terminal"
    found = rows(workload)
    if (
        how == "onnx"
    ):  # torch writes the pooling as a mean; a user's own ONNX file is measured as it is
        assert found.pop(4)[0] == "pool/ReduceMean"
        found.insert(4, rows(reference)[4])
    assert found == rows(reference)
    assert (workload.macs, workload.params, workload.findings) == (
        reference.macs,
        reference.params,
        (),
    )
    assert workload.file_bytes == path.stat().st_size
    x = torch.randn(SHAPE)
    np.testing.assert_allclose(
        run(workload, x), TinyNet()(x).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_a_frozen_torchscript_has_lost_its_names_but_not_its_layers(reference, tmp_path):
    workload = load_workload(save(TinyNet(), "frozen", tmp_path / "frozen.pt"), inputs=SHAPES)
    assert [row[1:] for row in rows(workload)] == [row[1:] for row in rows(reference)]
    names = [name for name, *_ in rows(workload)]
    assert len(set(names)) == len(names)


def test_a_pickled_module_of_torch_classes_loads_and_others_are_refused_by_name(tmp_path):
    workload = load_workload(save(plain(), "module", tmp_path / "plain.pt"), inputs=SHAPES)
    assert [name for name, *_ in rows(workload) if "/" not in name] == ["body.conv", "fc"]
    own = save(TinyNet(), "module", tmp_path / "own.pt")
    with pytest.raises(
        UnsafeModelError, match=r"tests\.support\.saved_models\.TinyNet.*trust_pickle=True"
    ):
        load_workload(own, inputs=SHAPES)
    assert rows(load_workload(own, inputs=SHAPES, trust_pickle=True))[3][0] == "features.3.conv"


def test_a_state_dict_needs_its_architecture_and_the_message_says_so(reference, tmp_path):
    path = save(TinyNet(), "state_dict", tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=r"weights\.pt holds weights alone.*pass arch="):
        load_workload(path)
    with pytest.raises(
        UsageError,
        match=r"no weights for body\.conv, body\.bn of tests\.support\.saved_models:plain",
    ):
        load_workload(path, inputs=SHAPES, arch="tests.support.saved_models:plain")


def test_the_weights_of_a_state_dict_are_the_ones_measured(tmp_path):
    checkpoint = {"state_dict": TinyNet(seed=5).state_dict(), "epoch": 3}
    torch.save(checkpoint, tmp_path / "last.ckpt", _use_new_zipfile_serialization=False)
    workload = load_workload(
        tmp_path / "last.ckpt", inputs=SHAPES, arch="tests.support.saved_models:TinyNet"
    )
    x = torch.randn(SHAPE)
    np.testing.assert_allclose(
        run(workload, x), TinyNet(seed=5)(x).detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_a_factory_builds_the_network(reference):
    assert rows(load_workload("tests.support.saved_models:TinyNet", inputs=SHAPES)) == rows(
        reference
    )


def test_a_factory_leaves_the_path_of_modules_as_it_was(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path, "elsewhere"])
    before = list(sys.path)
    factories.call_factory("tests.support.saved_models:TinyNet")
    assert sys.path == before


@pytest.mark.parametrize(
    "text",
    [
        "tests.network.nowhere:x",
        "tests.support.saved_models:Nothing",
        "tests.support.saved_models:SHAPE",
    ],
)
def test_a_factory_that_builds_nothing_is_named(text):
    with pytest.raises(UsageError, match=text):
        load_workload(text, inputs=SHAPES)


def test_the_module_is_left_as_it_was(reference):
    module = TinyNet().train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    assert load_workload(module, example_inputs=torch.zeros(SHAPE)).sha256 == reference.sha256
    assert module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_what_cannot_be_traced_goes_through_torch_export_and_nothing_is_printed(capfd):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ChannelShuffle(2))
    workload = load_workload(module, inputs=SHAPES)
    assert capfd.readouterr() == ("", "")
    x = torch.randn(SHAPE)
    np.testing.assert_allclose(run(workload, x), module(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert rows(workload)[0][:2] == ("0", "Conv")


def test_a_program_exported_in_training_mode_is_refused():
    for module in (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Linear(16, 4), nn.Dropout()),
    ):
        program = torch.export.export(module.train(), (torch.zeros(2, *SHAPE[1:]),))
        with pytest.raises(WorkloadError, match=r"training mode; call \.eval\(\)"):
            export_program(program, (), None, "m")


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


def test_an_export_that_differs_from_torch_is_told():
    found = load_workload(Noisy(), inputs=["1x64"]).findings
    assert [finding.code for finding in found] == ["export_differs"]


def test_half_precision_modules_are_converted_and_that_is_told():
    workload = load_workload(TinyNet().half(), inputs=SHAPES)
    assert workload.precision == "fp32"
    assert [finding.code for finding in workload.findings] == ["converted_to_fp32"]
    assert "float16" in workload.findings[0].text


def test_masked_weights_are_still_dense_and_that_is_told():
    module = TinyNet()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.view(-1)[: int(parameter.numel() * 0.7)] = 0
    found = load_workload(module, inputs=SHAPES).findings
    assert [finding.code for finding in found] == ["zeros_left_dense"]
    assert "70%" in found[0].text


def test_int8_is_put_into_the_model_and_kept_by_a_file_that_has_it(reference, tmp_path):
    workload = load_workload(TinyNet(), inputs=SHAPES, precision="int8")
    assert workload.precision == "int8"
    assert [finding.code for finding in workload.findings] == ["random_calibration"]
    assert (workload.macs, workload.params) == (reference.macs, reference.params)
    model = graph.load(workload.onnx)
    names = {node.name: node.op_type for node in model.graph.node}
    assert {name: names[name] for name in MODULES[:4]} == dict.fromkeys(MODULES[:4], "Conv")
    assert "QuantizeLinear" in names.values()
    (tmp_path / "int8.onnx").write_bytes(workload.onnx)
    again = load_workload(tmp_path / "int8.onnx")
    assert again.precision == "int8"
    assert [finding.code for finding in again.findings] == ["precision_of_file"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "fp8"}, "fp32, fp16, bf16, int8"),
        ({"batch": 0}, "at least 1"),
        ({"inputs": ["1x3xw"]}, "expected 1x3x224x224"),
        ({"inputs": ["1x0x4"]}, "at least 1"),
        ({"inputs": SHAPES, "example_inputs": torch.zeros(SHAPE)}, "leave out"),
        ({}, "inputs='1x3x224x224'"),
        ({"inputs": ["y=1x3x16x16"]}, "takes the inputs x; given were y"),
    ],
)
def test_wrong_options_are_one_clear_line(options, says):
    with pytest.raises(UsageError) as caught:
        load_workload(TinyNet(), **options)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
