"""The ways in which people save a network: each is read at the first try, or by doing what the error
says, and computes what the network computed.
"""

import argparse
import runpy
import sys
import textwrap
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.nn.utils.parametrizations import spectral_norm as spectral_norm_new
from torch.nn.utils.parametrizations import weight_norm as weight_norm_new

from hwbench.errors import HwbenchError, SchemaError, UnsafeModelError, UsageError
from hwbench.network.intake import (
    archives,
    checkpoints,
    fitting,
    load_workload,
    plain_modules,
    structures,
)
from hwbench.network.intake.modules import load_module
from hwbench.network.ort import onnxruntime
from tests.support.saved_models import SHAPE, TinyNet, plain

SHAPES = ["1x3x16x16"]
ARCH = "tests.support.saved_models:TinyNet"


def run(workload, x):
    session = onnxruntime().InferenceSession(workload.onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def assert_computes(workload, module, tolerance=1e-4):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    np.testing.assert_allclose(run(workload, x), expected, rtol=tolerance, atol=tolerance)


def codes(workload):
    return [finding.code for finding in workload.findings]


def prefixed(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def checkpoint(weights):
    """What a training script keeps, with objects of other packages that nothing is made of."""
    return {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(70.1),
        "history": defaultdict(list, loss=[1.0]),
        "folder": Path("runs"),
        "optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1, momentum=0.9).state_dict(),
        "state_dict": weights,
    }


STATE_DICTS = {
    "plain": lambda weights: weights,
    "DataParallel": lambda weights: {"net": prefixed("module.", weights), "acc": 91.2},
    "compiled": lambda weights: prefixed("_orig_mod.", weights),
    "both": lambda weights: prefixed("module._orig_mod.", weights),
    "Lightning": lambda weights: {
        "state_dict": prefixed("model.", weights) | {"loss.weight": torch.ones(5)},
        "pytorch-lightning_version": "2.4.0",
        "optimizer_states": [],
        "hyper_parameters": {"lr": 0.1},
    },
    "average alone": lambda weights: {"ema": prefixed("module.", weights), "n": 3},
    "average too": lambda weights: {
        "model_ema": {name: torch.zeros_like(tensor) for name, tensor in weights.items()},
        "model": weights,
    },
    "nested": lambda weights: {"trainer": {"network": {"weights": weights}}},
    "list": lambda weights: [weights, {"lr": 0.1}],
    "training script": checkpoint,
    "counted operations": lambda weights: weights | {"fc.total_ops": torch.zeros(1)},
    "half": lambda weights: {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
    },
}


@pytest.mark.parametrize("way", STATE_DICTS)
def test_weights_are_found_however_they_are_kept(way, tmp_path):
    torch.save(STATE_DICTS[way](TinyNet(seed=5).state_dict()), tmp_path / "m.pt")
    workload = load_workload(tmp_path / "m.pt", inputs=SHAPES, arch=ARCH)
    assert_computes(workload, TinyNet(seed=5), 2e-2 if way == "half" else 1e-4)
    expected = {
        "DataParallel": ["network_chosen", "names_matched"],
        "Lightning": ["network_chosen", "names_matched", "weights_left_out"],
        "average too": ["network_chosen"],
    }
    if way in expected:
        assert codes(workload) == expected[way]
    if way == "average too":
        assert "left out: 'model_ema'" in workload.findings[0].text


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_safetensors_and_the_format_before_torch_1_6(kind, tmp_path):
    weights = {}
    for name, tensor in TinyNet(seed=5).state_dict().items():
        weights[name] = tensor.to(kind) if tensor.is_floating_point() else tensor
    save_file(weights, tmp_path / "m.safetensors")
    torch.save(weights, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    for file in ("m.safetensors", "m.pth"):
        workload = load_workload(tmp_path / file, inputs=SHAPES, arch=ARCH)
        assert_computes(workload, TinyNet(seed=5), 1e-4 if kind == torch.float32 else 0.2)


FIRST_LAYERS = {
    "a classifier of images": ({"fc": (10, 64), "dw": (32, 1, 3, 3), "conv1": (32, 3, 3, 3), "pw": (64, 32, 1, 1)}, "conv1"),
    "grey images": ({"c2": (64, 32, 3, 3), "fc": (10, 3136), "c1": (32, 1, 5, 5)}, "c1"),
    "grouped": ({"s1.conv": (32, 4, 3, 3), "stem": (32, 3, 3, 3), "head": (9, 32)}, "stem"),
    "features": ({"b.2": (8, 64), "b.10": (4, 8), "b.0": (64, 20)}, "b.0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FIRST_LAYERS)
def test_the_first_layer_is_found_though_safetensors_sorts_by_size(kind, tmp_path):
    shapes, first = FIRST_LAYERS[kind]
    tensors = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    content = structures.read_content(archives.inspect(tmp_path / "m.safetensors"), "m")
    name, _ = checkpoints.find_first_layer(content.root)
    assert name == f"{first}.weight"


@pytest.mark.parametrize("start", [b"\x80\x02", b"PK"])
def test_the_length_of_a_header_is_not_taken_for_the_mark_of_another_kind(start, tmp_path):
    """A file of safetensors begins with a number, whose bytes may be anything."""
    path = tmp_path / "m.safetensors"
    save_file(TinyNet(seed=5).state_dict(), path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    padded = int.from_bytes(start, "little")
    while padded < size:
        padded += 1 << 16
    header = data[8 : 8 + size].ljust(padded)
    path.write_bytes(padded.to_bytes(8, "little") + header + data[8 + size :])
    assert path.read_bytes().startswith(start)
    assert_computes(load_workload(path, inputs=SHAPES, arch=ARCH), TinyNet(seed=5))


def test_names_of_the_network_may_have_more_before_them_than_those_of_the_file():
    own = ["model.conv.weight", "model.conv.bias"]
    fit = fitting.match_names(own, ["conv.weight", "conv.bias"])
    assert (fit.added, fit.missing, fit.extra) == ("model.", (), ())


def whole_modules():
    parallel = nn.DataParallel(plain())
    return {
        "in a dictionary": {"model": plain().half(), "ema": None, "epoch": 1},
        "DataParallel": parallel,
        "beside foreign objects": checkpoint(plain()),
    }


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_paths_are_harmless_whatever_python_called_them(module, tmp_path):
    """Python 3.13 alone pickles paths as `pathlib._local.PosixPath`."""
    path = tmp_path / "m.pt"
    torch.save(checkpoint(plain()), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes().replace(b"cpathlib._local\n", b"cpathlib\n")
    assert b"cpathlib\n" in data
    path.write_bytes(data.replace(b"cpathlib\n", f"c{module}\n".encode()))
    assert load_workload(path, inputs=SHAPES).params


@pytest.mark.parametrize("way", sorted(whole_modules()))
@pytest.mark.parametrize("legacy", [False, True])
def test_whole_modules_of_torch_need_no_trust(way, legacy, tmp_path):
    torch.manual_seed(0)
    content = whole_modules()[way]
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=not legacy)
    workload = load_workload(tmp_path / "m.pt", inputs=SHAPES)
    original = content
    if isinstance(content, dict):
        original = content.get("model", content.get("state_dict"))
    assert_computes(workload, original.float(), 1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_module_is_read_without_its_compiler(tmp_path):
    module = plain()
    torch.save(torch.compile(module), tmp_path / "m.pt")
    assert_computes(load_workload(tmp_path / "m.pt", inputs=SHAPES), module)


SCRIPT = '''
from __future__ import annotations
import pathlib
import sys
import torch
from torch import nn

WIDTH = 6
#
import a_package_that_is_not_installed
pathlib.Path("mark").touch()
arguments = sys.argv.index("--not-given")
#

class Block(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Conv2d(3, width, 3), nn.ReLU())

class Net(nn.Module):
    """The network, saved whole at the end."""
    def __init__(self):
        super().__init__()
        self.block = Block(WIDTH)
        self.fc = nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.block(x).mean((2, 3))) * WIDTH

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.save(Net(), sys.argv[1])
'''


@pytest.fixture
def saved_by_script(tmp_path, monkeypatch):
    """A folder with a script and the module that it saved whole, of its own class Net."""
    head, _, rest = SCRIPT.split("#\n")
    (tmp_path / "train.py").write_text(head + rest)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "net.pt"])
    main = sys.modules["__main__"]
    names = runpy.run_path("train.py")
    for name in ("Net", "Block"):
        names[name].__module__ = "__main__"
        monkeypatch.setattr(main, name, names[name], raising=False)
    torch.manual_seed(0)
    torch.save(names["Net"](), "net.pt")
    (tmp_path / "train.py").write_text(SCRIPT)
    monkeypatch.delattr(main, "Net")
    monkeypatch.delattr(main, "Block")
    return names["Net"]


def test_a_module_of_a_script_is_made_from_the_script_without_running_it(saved_by_script):
    with pytest.raises(UnsafeModelError, match=r"__main__\.Block, __main__\.Net.*main='train\.py'"):
        load_workload("net.pt", inputs=SHAPES)
    torch.manual_seed(0)
    module = saved_by_script()
    for trust in (False, True):
        workload = load_workload("net.pt", inputs=SHAPES, main=["train.py"], trust_pickle=trust)
        assert_computes(workload, module)
    assert not Path("mark").exists()
    assert type(load_module("net.pt", main="train.py")).__name__ == "Net"


def test_what_a_script_lacks_is_named(saved_by_script):
    Path("other.py").write_text("import torch\n")
    with pytest.raises(UsageError, match=r"needs __main__\.Block, .*other\.py does not define"):
        load_workload("net.pt", inputs=SHAPES, main=["other.py"])
    with pytest.raises(UsageError, match="cannot be read as a Python script"):
        load_workload("net.pt", inputs=SHAPES, main=["none.py"])


def test_the_weights_of_a_foreign_module_go_into_an_architecture_without_trust(tmp_path):
    torch.save({"model": TinyNet(seed=5)}, tmp_path / "m.pt")
    with pytest.raises(UnsafeModelError, match=r"saved_models\.TinyNet.*trust_pickle=True"):
        load_workload(tmp_path / "m.pt", inputs=SHAPES)
    assert_computes(load_workload(tmp_path / "m.pt", inputs=SHAPES, arch=ARCH), TinyNet(seed=5))
    trusted = load_workload(tmp_path / "m.pt", inputs=SHAPES, trust_pickle=True)
    assert_computes(trusted, TinyNet(seed=5))


def test_the_architecture_beside_a_file_is_proposed_by_its_layers(tmp_path, monkeypatch):
    source = textwrap.dedent(SCRIPT)
    (tmp_path / "models.py").write_text(source)
    (tmp_path / "others.py").write_text("class Other:\n    def __init__(self): self.x = 1\n")
    monkeypatch.chdir(tmp_path)
    weights = {"block.0.weight": torch.zeros(6, 1, 3, 3), "fc.weight": torch.zeros(5, 6)}
    torch.save(weights, "m.pt")
    with pytest.raises(UsageError) as caught:
        load_workload("m.pt")
    (remedy,) = caught.value.remedies
    assert (remedy.name, remedy.value) == ("arch", "models:Net")
    assert remedy.also == {"inputs": "1x1x32x32"}
    assert not (tmp_path / "mark").exists()


def narrowed(module):
    """A network narrowed as pruning tools leave it: fewer channels, the same names."""
    weights = module.state_dict()
    smaller = OrderedDict()
    for name, tensor in weights.items():
        kept = tensor
        if name.startswith("features.") and tensor.ndim:
            kept = tensor[:5]
        if kept.ndim > 1 and tensor.shape[1] == 8:
            kept = kept[:, :5]
        smaller[name] = kept.clone()
    return smaller


def test_narrower_weights_narrow_the_architecture(tmp_path):
    weights = narrowed(TinyNet(seed=5))
    torch.save({"state_dict": prefixed("module.", weights)}, tmp_path / "m.pt")
    workload = load_workload(tmp_path / "m.pt", inputs=SHAPES, arch=ARCH)
    assert workload.macs == 256 * (5 * 27 + 2 * 5 * 45 + 5 * 9) + 5 * 5
    assert codes(workload) == ["network_chosen", "names_matched", "layers_cut_to_weights"]
    module = load_module(tmp_path / "m.pt", arch=ARCH)
    depthwise = module.get_submodule("features.3.conv")
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (5, 5, 5)
    assert module.get_submodule("fc").in_features == 5
    assert_computes(workload, module)


def other_layers():
    return nn.ModuleDict(
        {
            "up": nn.ConvTranspose2d(8, 6, 2, groups=2),
            "norm": nn.LayerNorm(8),
            "group": nn.GroupNorm(2, 8),
            "table": nn.Embedding(10, 8),
            "slope": nn.PReLU(8),
            "lstm": nn.LSTM(8, 8),
            "attention": nn.MultiheadAttention(8, 2),
        }
    )


def test_layers_keep_their_sizes_in_line_with_their_tensors():
    wide, small = (
        other_layers(),
        nn.ModuleDict(
            {
                "up": nn.ConvTranspose2d(4, 4, 2, groups=2),
                "norm": nn.LayerNorm(4),
                "group": nn.GroupNorm(2, 4),
                "table": nn.Embedding(7, 4),
                "slope": nn.PReLU(4),
                "lstm": nn.LSTM(4, 4),
                "attention": nn.MultiheadAttention(4, 2),
            }
        ),
    )
    fitting.load_into(wide, small.state_dict(), "f", "a")
    assert wide["up"](torch.ones(1, 4, 3, 3)).shape == (1, 4, 4, 4)
    assert wide["norm"](torch.ones(1, 4)).shape == wide["group"](torch.ones(1, 4)).shape == (1, 4)
    assert wide["table"](torch.tensor([6])).shape == (1, 4)
    assert wide["slope"](torch.ones(1, 4)).shape == (1, 4)
    x = torch.ones(2, 1, 4)
    assert torch.equal(wide["lstm"](x)[0], small["lstm"](x)[0])
    assert torch.equal(wide["attention"](x, x, x)[0], small["attention"](x, x, x)[0])


def without(weights, *names):
    return {name: tensor for name, tensor in weights.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: without(w, "fc.weight", "fc.bias"), r"no weights for fc .*Linear"),
        (lambda w: w | {"features.4.conv.weight": torch.ones(2)}, "weights for features.4.conv"),
        (lambda w: w | {"head.weight": torch.ones(2, 2)}, "weights for head, which"),
        (lambda w: w | {"fc.weight": torch.ones(5, 9)}, r"fc\.weight .*5x9.* it is wider"),
        (lambda w: w | {"features.0.conv.weight": torch.ones(8, 3, 5, 5)}, "kernel of another"),
        (lambda w: w | {"fc.bias": torch.ones(5, 1)}, "2 dimensions, not 1"),
        (lambda w: {"a.weight": torch.ones(2, 2)}, "not those of"),
    ],
)
def test_weights_of_another_network_are_refused_by_the_module_that_differs(change, says):
    with pytest.raises(UsageError, match=says) as caught:
        fitting.load_into(TinyNet(), change(TinyNet().state_dict()), "m.pt", "net:Tiny")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def reparametrised(kind):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    torch.manual_seed(0)
    for layer in (net[0], net[2]):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape))
        kind(layer)
    net.train()
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    return net.eval()


KINDS = {
    "masks": lambda layer: prune.l1_unstructured(layer, "weight", 0.6),
    "weight norm": weight_norm_new,
    "spectral norm": spectral_norm_new,
    "old weight norm": weight_norm,
    "old spectral norm": spectral_norm,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_made_from_factors_are_folded_in_modules_and_in_state_dicts(kind, tmp_path):
    net = reparametrised(KINDS[kind])
    workload = load_workload(net, inputs=SHAPES)
    assert codes(workload)[:1] == ["weights_folded"]
    assert_computes(workload, net)
    fresh = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    findings = fitting.load_into(fresh, net.state_dict(), "m.pt", "net")
    assert [finding.code for finding in findings] == ["weights_folded"]
    x = torch.randn(SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(fresh(x), net(x), rtol=1e-4, atol=1e-4)


class Hooked(nn.Module):
    """Keeps what its layers computed, and state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen = []
        self.conv.register_forward_hook(lambda _, __, output: self.seen.append(output))

    def get_extra_state(self):
        return {"seen": len(self.seen)}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def test_tensors_that_hooks_keep_and_extra_state_do_not_matter(tmp_path):
    module = Hooked()
    module(torch.zeros(SHAPE))
    copied = plain_modules.copy_module(module)
    assert copied.seen[0] is not module.seen[0]
    assert_computes(load_workload(module, inputs=SHAPES), module)
    torch.save(module.state_dict(), tmp_path / "m.pt")
    arch = "tests.network.intake.test_saved_ways:Hooked"
    assert_computes(load_workload(tmp_path / "m.pt", inputs=SHAPES, arch=arch), module)


@pytest.mark.filterwarnings("ignore")
def test_what_torch_quantised_is_refused_with_what_to_do_instead(tmp_path):
    quantised = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(16, 4)))
    with pytest.raises(HwbenchError, match=r"quantised by torch.*precision='int8'"):
        load_workload(quantised, inputs=["1x16"])
    torch.save(quantised, tmp_path / "m.pt")
    with pytest.raises(HwbenchError, match="quantised by torch"):
        load_workload(tmp_path / "m.pt", inputs=["1x16"])


def test_an_input_is_guessed_where_only_one_is_possible_and_told(tmp_path):
    flat = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 30 * 30, 4))
    torch.save(flat, tmp_path / "flat.pt")
    workload = load_workload(tmp_path / "flat.pt")
    assert workload.inputs[0].shape == (1, 1, 32, 32)
    assert codes(workload) == ["input_guessed"]
    assert load_workload(nn.Sequential(nn.Linear(12, 4))).inputs[0].shape == (1, 12)
    with pytest.raises(UsageError, match=r"first layer, 0, is 8x1x3x3.*inputs='1x1x32x32'"):
        load_workload(nn.Sequential(nn.Conv2d(1, 8, 3)))


def test_an_input_is_asked_for_before_anything_is_imported(tmp_path):
    torch.save({"conv.weight": torch.ones(32, 1, 3, 3)}, tmp_path / "m.pt")
    with pytest.raises(UsageError, match=r"is 32x1x3x3\); give it: pass inputs='1x1x32x32'"):
        load_workload(tmp_path / "m.pt", arch="a_package_that_is_not_installed:net")
    with pytest.raises(UsageError, match="would be imported"):
        load_workload("a_package_that_is_not_installed:net")


def test_a_file_without_a_network_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "loss": torch.tensor(1.0)}, tmp_path / "m.pt")
    with pytest.raises(SchemaError, match="expected a module or a state_dict"):
        load_workload(tmp_path / "m.pt")
