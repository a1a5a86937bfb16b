"""Folders of Hugging Face, alone and in its cache: read by the library they are for, which sees
nothing but facts of the network and checked weights.

A stand-in for transformers and timm is imported in most tests; the last ones use the libraries
themselves.
"""

import json
import textwrap
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hwbench.errors import HwbenchError, SchemaError, UnsafeModelError, UsageError
from hwbench.network.intake import hugging_face, load_workload, neighbours
from hwbench.network.intake.modules import load_module
from hwbench.network.ort import onnxruntime
from tests.support.hostile_models import Bomb
from tests.support.saved_models import SHAPE, TinyNet

CONFIG = {"model_type": "tiny", "architectures": ["TinyForImages"], "torch_dtype": "float32"}
SHAPES = ["x".join(map(str, SHAPE))]
STAND_IN = '''
"""Loads what it is shown, and nothing but what it should be shown."""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tests.support.saved_models import TinyNet

__version__ = "0"


class TinyForImages:
    @staticmethod
    def from_pretrained(
        folder, *, local_files_only, trust_remote_code, ignore_mismatched_sizes,
        output_loading_info, torch_dtype,
    ):
        assert (local_files_only, trust_remote_code, torch_dtype) == (True, False, "auto")
        assert ignore_mismatched_sizes and output_loading_info
        config = json.loads((Path(folder) / "config.json").read_text())
        assert "auto_map" not in config and not any(key.startswith("_") for key in config)
        tensors = {}
        for path in sorted(Path(folder).iterdir()):
            if path.suffix == ".safetensors":
                tensors |= load_file(path)
            elif path.suffix == ".bin":
                tensors |= torch.load(path, weights_only=True)
        network = TinyNet()
        own = network.state_dict()
        report = {
            "missing_keys": sorted(own.keys() - tensors.keys()),
            "unexpected_keys": sorted(tensors.keys() - own.keys()),
            "mismatched_keys": [
                key for key in own if key in tensors and own[key].shape != tensors[key].shape
            ],
        }
        if not report["mismatched_keys"]:
            network.load_state_dict(tensors, strict=False)
        return network, report


def create_model(name, pretrained, num_classes):
    assert (name, pretrained, num_classes) == ("tiny_net.v1", False, 5)
    return TinyNet()
'''


@pytest.fixture
def libraries(tmp_path_factory, monkeypatch):
    """Stand-ins for transformers and timm, which the reader finds first."""
    folder = tmp_path_factory.mktemp("libraries")
    for name in ("transformers", "timm"):
        (folder / f"{name}.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.syspath_prepend(folder)


def write_config(folder, config=CONFIG):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def weights(seed=5):
    return dict(TinyNet(seed).state_dict())


def in_one_part(folder):
    save_file(weights(), folder / "model.safetensors")


def pickled(folder):
    torch.save(weights(), folder / "pytorch_model.bin")


def in_parts(folder, ending="safetensors"):
    names = sorted(weights())
    stem = {"safetensors": "model", "bin": "pytorch_model"}[ending]
    parts = {f"{stem}-{at + 1:05}-of-00002.{ending}": names[at::2] for at in range(2)}
    weight_map = {}
    for file, part in parts.items():
        content = {name: weights()[name] for name in part}
        if ending == "safetensors":
            save_file(content, folder / file)
        else:
            torch.save(content, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


def pickled_in_parts(folder):
    in_parts(folder, "bin")


def put_into_cache(folder, root):
    """Move the files of a folder to where Hugging Face's cache keeps them."""
    snapshot, blobs = root / "snapshots" / "0123abc", root / "blobs"
    for made in (snapshot, blobs, root / "refs"):
        made.mkdir(parents=True)
    (root / "refs" / "main").write_text("0123abc")
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / f"{number:064}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064}")
    return snapshot


def run(workload):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).numpy()
    session = onnxruntime().InferenceSession(workload.onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def assert_computes(workload, module):
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_allclose(run(workload), module(x).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("save", [in_one_part, in_parts, pickled, pickled_in_parts])
def test_weights_are_read_from_one_file_or_several(save, libraries, tmp_path):
    folder = write_config(tmp_path / "net", CONFIG | {"auto_map": {}, "_name_or_path": "x/y"})
    save(folder)
    workload = load_workload(folder, inputs=SHAPES)
    assert_computes(workload, TinyNet(5))
    assert (workload.name, workload.findings) == (str(folder), ())
    files = [path for path in folder.iterdir() if path.suffix in {".safetensors", ".bin"}]
    assert workload.file_bytes >= sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("named", ["the folder of all revisions", "the revision"])
def test_links_of_the_cache_are_followed(named, libraries, tmp_path):
    in_parts(write_config(tmp_path / "net"))
    snapshot = put_into_cache(tmp_path / "net", tmp_path / "models--x--net")
    folder = snapshot if named == "the revision" else tmp_path / "models--x--net"
    assert_computes(load_workload(folder, inputs=SHAPES), TinyNet(5))


def test_other_links_are_not(libraries, tmp_path):
    folder = write_config(tmp_path / "net")
    in_one_part(tmp_path)
    (folder / "model.safetensors").symlink_to(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"no weights .*links that lead out of the folder"):
        load_workload(folder, inputs=SHAPES)


@pytest.mark.parametrize(
    ("place", "is_found"),
    [("blobs/a", True), ("blobs/sub/a", False), ("refs/a", False), ("../a", False)],
)
def test_a_link_in_the_cache_leads_to_its_contents_alone(place, is_found, tmp_path):
    root = tmp_path / "models"
    target = root / place
    for folder in (root / "snapshots" / "1" / "onnx", target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"data")
    (root / "snapshots" / "1" / "onnx" / "link").symlink_to(target)
    found = neighbours.find_neighbour(root / "snapshots" / "1", "onnx/link")
    assert (found is not None) == is_found
    # A content that is itself a link is no content.
    (root / "blobs").mkdir(exist_ok=True)
    (root / "blobs" / "link").symlink_to("/etc/hostname")
    (root / "snapshots" / "1" / "evil").symlink_to("../../blobs/link")
    assert neighbours.find_neighbour(root / "snapshots" / "1", "evil") is None


def test_what_fits_only_in_part_is_said(libraries, tmp_path):
    folder = write_config(tmp_path / "net")
    content = weights()
    del content["fc.bias"]
    save_file(content | {"head.weight": torch.ones(2)}, folder / "model.safetensors")
    findings = {each.code: each.text for each in load_workload(folder, inputs=SHAPES).findings}
    assert findings.keys() == {"weights_left_out", "weights_drawn"}
    assert findings["weights_left_out"].endswith("left out: head.weight")
    assert findings["weights_drawn"].endswith("fc.bias")


def test_layers_are_cut_to_pruned_weights(libraries, tmp_path):
    folder = write_config(tmp_path / "net")
    save_file(
        weights() | {"fc.weight": torch.ones(3, 8), "fc.bias": torch.ones(3)},
        folder / "model.safetensors",
    )
    workload = load_workload(folder, inputs=SHAPES)
    assert [finding.code for finding in workload.findings] == ["layers_cut_to_weights"]
    assert run(workload).shape == (1, 3)


def test_the_code_that_builds_the_network_can_be_named(tmp_path):
    (tmp_path / "net").mkdir()
    in_parts(tmp_path / "net")
    workload = load_workload(
        tmp_path / "net", inputs=SHAPES, arch="tests.support.saved_models:TinyNet"
    )
    assert_computes(workload, TinyNet(5))


def test_a_folder_of_timm_says_its_input(libraries, tmp_path):
    config = {
        "architecture": "tiny_net.v1",
        "num_classes": 5,
        "pretrained_cfg": {"input_size": [3, 16, 16]},
    }
    folder = write_config(tmp_path / "net", config)
    in_one_part(folder)
    workload = load_workload(folder)
    assert_computes(workload, TinyNet(5))
    assert [finding.code for finding in workload.findings] == ["input_guessed"]


def test_a_missing_library_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "find_spec", lambda name: None)
    folder = write_config(tmp_path / "net")
    in_one_part(folder)
    request = hugging_face.ReadRequest(str(folder))
    with pytest.raises(UsageError, match=r"of transformers.*not installed; try: .* transformers$"):
        hugging_face.inspect_folder(folder, request)


@pytest.mark.parametrize(
    ("facts", "suggested"),
    [
        ({"vocab_size": 30522}, "input_ids=1x128:int64"),
        ({"vocab_size": 50, "n_positions": 64}, "input_ids=1x64:int64"),
        (
            {"vocab_size": 50, "is_encoder_decoder": True},
            ("input_ids=1x128:int64", "decoder_input_ids=1x128:int64"),
        ),
        ({"num_channels": 1}, "1x1x224x224"),
        ({"num_mel_bins": 80, "vocab_size": 9}, "1x80x3000"),
        ({"vocab_size": 32, "conv_stride": [5]}, "1x16000"),
        ({}, "1x3x224x224"),
    ],
)
def test_the_input_is_asked_for_before_anything_is_built(facts, suggested, tmp_path, monkeypatch):
    monkeypatch.setattr(hugging_face, "find_spec", lambda name: name)
    folder = write_config(tmp_path / "net", CONFIG | facts)
    in_one_part(folder)
    with pytest.raises(UsageError, match="does not say the shape of its input") as refused:
        hugging_face.inspect_folder(folder, hugging_face.ReadRequest(str(folder)))
    assert [remedy.value for remedy in refused.value.remedies] == [suggested]


def test_the_size_of_images_is_taken_from_the_configuration(libraries, tmp_path):
    folder = write_config(tmp_path / "net", CONFIG | {"image_size": 16, "num_channels": 3})
    in_one_part(folder)
    workload = load_workload(folder)
    assert workload.inputs[0].shape == SHAPE
    assert [finding.code for finding in workload.findings] == ["input_guessed"]


OTHER_FOLDERS = {
    "empty": ({}, "without config.json; expected a model file"),
    "a file of another kind": ({"net.onnx": ""}, "a folder with net.onnx; name the file"),
    "an adapter": ({"adapter_config.json": "{}"}, "merge_and_unload"),
    "a pipeline": ({"model_index.json": "{}"}, "a pipeline of several networks"),
    "no weights": ({"config.json": CONFIG}, "no weights"),
    "TensorFlow": ({"config.json": CONFIG, "tf_model.h5": ""}, "weights of TensorFlow alone"),
    "ONNX": ({"config.json": CONFIG, "model.onnx": ""}, "but model.onnx; name that file"),
    "no network": ({"config.json": {"a": 1}, "model.safetensors": ""}, "names no network"),
    "its own code": (
        {"config.json": {"auto_map": {"AutoModel": "m.M"}}, "m.py": "", "model.safetensors": ""},
        "code in the folder, which is never run",
    ),
    "quantised": (
        {"config.json": CONFIG | {"quantization_config": {"quant_method": "gptq"}}},
        "quantised by gptq",
    ),
    "diffusers": (
        {"config.json": {"_class_name": "UNet", "_diffusers_version": "0.30"}},
        r"diffusers:UNet.from_pretrained",
    ),
    "damaged": ({"config.json": "{"}, "config.json is damaged"),
    "a list": ({"config.json": "[]"}, "expected an object"),
    "nested": ({"config.json": '{"a":' * 9999 + "1" + "}" * 9999}, "damaged"),
    "a class that is none": ({"config.json": CONFIG | {"architectures": ["os.x"]}}, "no class"),
    "parts elsewhere": (
        {
            "config.json": CONFIG,
            "model.safetensors.index.json": {"weight_map": {"a": "../../secret"}},
        },
        "names '../../secret', which is no file in the folder",
    ),
    "no parts": (
        {"config.json": CONFIG, "model.safetensors.index.json": {"weight_map": []}},
        "no weight_map",
    ),
    "an unknown class": (
        {"config.json": CONFIG | {"architectures": ["Missing"]}, "model.safetensors": None},
        "needs Missing, which transformers 0 does not have",
    ),
    "no safetensors": ({"config.json": CONFIG, "model.safetensors": "x"}, "holds no weights"),
}


@pytest.mark.parametrize("kind", OTHER_FOLDERS)
def test_other_folders_are_named_for_what_they_are(kind, libraries, tmp_path):
    files, says = OTHER_FOLDERS[kind]
    folder = tmp_path / "net"
    folder.mkdir()
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
        if content is None:
            in_one_part(folder)
    with pytest.raises(HwbenchError, match=says) as refused:
        load_workload(folder, inputs=SHAPES)
    assert isinstance(refused.value, UsageError | SchemaError | UnsafeModelError)
    assert len(str(refused.value).splitlines()) == 1


def test_a_pickle_that_would_run_code_is_refused(libraries, tmp_path):
    folder = write_config(tmp_path / "net")
    torch.save({"fc.bias": Bomb(tmp_path / "mark")}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModelError):
        load_workload(folder, inputs=SHAPES)
    assert not (tmp_path / "mark").exists()


def test_what_prunes_asks_for_the_code_of_the_network(tmp_path):
    folder = write_config(tmp_path / "net")
    with pytest.raises(UsageError, match=r"transformers:AutoModel\.from_pretrained"):
        load_module(folder)


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs: pip install transformers")
@pytest.mark.parametrize("most_bytes", ["5GB", "20KB"])
def test_a_network_of_transformers_computes_what_it_computed(most_bytes, tmp_path):
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=40,
    )  # fmt: skip
    network = transformers.BertForSequenceClassification(config).eval()
    network.save_pretrained(tmp_path / "bert", max_shard_size=most_bytes)
    workload = load_workload(tmp_path / "bert", inputs=["input_ids=1x16:int64"])
    ids = np.arange(16).reshape(1, 16)
    with torch.no_grad():
        expected = network(torch.from_numpy(ids)).logits.numpy()
    session = onnxruntime().InferenceSession(workload.onnx, providers=["CPUExecutionProvider"])
    found = session.run(None, {"input_ids": ids})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert [each.code for each in workload.findings] == ["indices_drawn"]


@pytest.mark.skipif(find_spec("timm") is None, reason="needs: pip install timm")
def test_a_network_of_timm_is_read(tmp_path):
    import timm

    network = timm.create_model("resnet10t", num_classes=7)
    (tmp_path / "net").mkdir()
    save_file(network.state_dict(), tmp_path / "net" / "model.safetensors")
    config = {
        "architecture": "resnet10t",
        "num_classes": 7,
        "pretrained_cfg": {"input_size": [3, 64, 64]},
    }
    write_config(tmp_path / "net", config)
    assert load_workload(tmp_path / "net").inputs[0].shape == (1, 3, 64, 64)
