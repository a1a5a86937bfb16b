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
from tests.support.hostile_models import members, pack
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


class ThreeInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(8, 4)
        self.right = nn.Linear(6, 4)
        self.table = nn.Embedding(10, 4)

    def forward(self, x, y, ids):
        return self.left(x) + self.right(y) + self.table(ids)


class OfContainers(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(8, 4)
        self.right = nn.Linear(6, 4)

    def forward(self, batch, mask=None, *, scale):
        return {"out": self.left(batch["x"]) * scale + self.right(batch["y"])}


OLD_SCRIPTS = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
"""Networks are still saved so, though torch advises against it."""
THREE = (torch.ones(1, 8), torch.ones(1, 6), torch.ones(1, dtype=torch.int64))
BATCH = {"x": THREE[0], "y": THREE[1]}


@OLD_SCRIPTS
@pytest.mark.parametrize("how", ["traced", "scripted"])
@pytest.mark.parametrize("inputs", [["1x8", "1x6", "1:int64"], ["ids=1:int64", "y=1x6", "x=1x8"]])
def test_torchscript_takes_several_inputs_in_order_or_by_name(how, inputs, tmp_path):
    network = ThreeInputs().eval()
    script = torch.jit.script(network) if how == "scripted" else torch.jit.trace(network, THREE)
    torch.jit.save(script, tmp_path / "m.pt")
    workload = load_workload(tmp_path / "m.pt", inputs=inputs)
    assert [spec.name for spec in workload.inputs] == ["x", "y", "ids"]
    np.testing.assert_allclose(
        run(workload, *THREE), network(*THREE).detach().numpy(), rtol=1e-4, atol=1e-5
    )


@OLD_SCRIPTS
def test_torchscript_says_the_names_of_its_inputs_whose_shapes_it_lacks(tmp_path):
    torch.jit.save(torch.jit.script(ThreeInputs()), tmp_path / "m.pt")
    with pytest.raises(UsageError, match="takes the inputs x, y, ids and does not say") as refused:
        load_workload(tmp_path / "m.pt")
    assert refused.value.remedies[0].value == ("x=SHAPE", "y=SHAPE", "ids=SHAPE")


@OLD_SCRIPTS
def test_what_torchscript_fails_with_is_told_by_its_end(tmp_path):
    torch.jit.save(torch.jit.script(ThreeInputs()), tmp_path / "m.pt")
    with pytest.raises(WorkloadError, match=r"mat1 and mat2 shapes cannot be multiplied \(1x7"):
        load_workload(tmp_path / "m.pt", inputs=["1x8", "1x7", "1:int64"])


@OLD_SCRIPTS
def test_torchscript_with_numbers_among_its_arguments_is_refused_by_their_names(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor, scale: float = 2.0):
            return self.fc(x) * scale

    torch.jit.save(torch.jit.script(Scaled()), tmp_path / "m.pt")
    with pytest.raises(WorkloadError, match="takes scale beside tensors"):
        load_workload(tmp_path / "m.pt", inputs=["1x8"])


@pytest.mark.parametrize(
    ("network", "positional", "keywords"),
    [
        (ThreeInputs(), (), dict(zip(("x", "y", "ids"), THREE, strict=True))),
        (ThreeInputs(), THREE[:1], {"y": THREE[1], "ids": THREE[2]}),
        (OfContainers(), (BATCH,), {"scale": torch.ones(1)}),
        (OfContainers(), (BATCH,), {"scale": 2.5}),
        (OfContainers(), (BATCH, None), {"scale": 2.5}),
    ],
)
def test_programs_take_keywords_containers_and_numbers(network, positional, keywords, tmp_path):
    program = torch.export.export(network.eval(), positional, keywords)
    torch.export.save(program, tmp_path / "m.pt2")
    workload = load_workload(tmp_path / "m.pt2")
    assert "export_differs" not in {finding.code for finding in workload.findings}
    given = [value for value in (*positional, *keywords.values()) if torch.is_tensor(value)]
    if isinstance(network, OfContainers):
        given = [*BATCH.values(), *given]
    expected = network(*positional, **keywords)
    expected = expected["out"] if isinstance(expected, dict) else expected
    np.testing.assert_allclose(
        run(workload, *given), expected.detach().numpy(), rtol=1e-4, atol=1e-5
    )


def test_an_input_that_nothing_is_computed_from_is_said():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x, mask=None):
            return self.fc(x)

    workload = load_workload(
        Unused(), example_inputs={"x": torch.ones(1, 8), "mask": torch.ones(3)}
    )
    assert [spec.name for spec in workload.inputs] == ["x"]
    (finding,) = workload.findings
    assert finding.code == "inputs_unused"
    assert "from mask" in finding.text


class Quantised(nn.Module):
    """A linear layer as torch's and torchao's quantisation for export writes it."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.register_buffer(
            "weight", torch.randint(-127, 128, (4, 8), dtype=torch.int8, generator=random)
        )
        self.register_buffer("scales", torch.full((4,), 0.01))
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))

    def forward(self, x):
        import torch.ao.quantization.fx._decomposed  # registers the operators

        ops = torch.ops.quantized_decomposed
        x = ops.quantize_per_tensor.default(x, 0.02, 128, 0, 255, torch.uint8)
        x = ops.dequantize_per_tensor.default(x, 0.02, 128, 0, 255, torch.uint8)
        weight = ops.dequantize_per_channel.default(
            self.weight, self.scales, self.zeros, 0, -127, 127, torch.int8
        )
        return nn.functional.linear(x, weight)


def test_a_program_quantised_for_export_is_measured_in_int8(tmp_path):
    network = Quantised().eval()
    x = torch.linspace(-1, 1, 8).reshape(1, 8)
    torch.export.save(torch.export.export(network, (x,)), tmp_path / "m.pt2")
    workload = load_workload(tmp_path / "m.pt2")
    assert (workload.precision, workload.macs) == ("int8", 32)
    np.testing.assert_allclose(run(workload, x), network(x).numpy(), rtol=1e-3, atol=1e-3)


def test_a_program_of_torchao_s_own_operators_is_refused_with_what_to_do(tmp_path):
    path = save(plain(), "program", tmp_path / "m.pt2")
    content = members(path)
    content["models/model.json"] = content["models/model.json"].replace(
        b"torch.ops.aten.conv2d.default", b"torch.ops.torchao.dequantize_affine.default"
    )
    with pytest.raises(UnsafeModelError, match=r"quantised by torchao .*precision='int8'"):
        load_workload(pack(path, content))


def test_normalization_and_embeddings_have_the_names_of_their_modules():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 8)
            self.body = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.PReLU())
            self.norm = nn.BatchNorm1d(4)

        def forward(self, ids):
            return self.norm(self.body(self.table(ids)))

    workload = load_workload(Text(), inputs=["2x4:int64"])
    names = {name for name, *_ in rows(workload)}
    assert {"table", "body.0", "body.1", "norm"} <= names
