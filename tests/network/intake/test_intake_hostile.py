"""Hostile and broken files give one clear error and execute nothing, in every reader."""

import io
import os
import pickle
import struct
import sys
import warnings
import zipfile
from random import Random

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import HwbenchError, SchemaError, UnsafeModelError, UsageError
from hwbench.network.intake import load_workload, reader
from hwbench.network.intake.modules import load_module
from tests.support.hostile_models import BOMBS, members, pack, script_with
from tests.support.hostile_torch import make_mutant
from tests.support.saved_models import TinyNet, plain, save

SHAPES = ["1x3x16x16"]
# What a bomb aims at is not read at all, or is data to its reader; the model around it may still be
# used.
DISARMED = {"program: sample inputs", "script: debug record", "script: traced inputs"}
# Bombs whose readers the installed torch protects by itself; the others must go off in a reader
# that trusts them.
DUDS = {
    "program: operator",
    "program: compiled library",
    "script: data.pkl",
    "script: constants.pkl",
    "script: traced inputs",
    "script: debug record",
    "script: maps a file",
    "program: list of expressions",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_nothing_in_a_model_file_is_executed(bomb, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / "mark"
    path = BOMBS[bomb](tmp_path, mark)
    if bomb in DISARMED:
        assert load_workload(path, inputs=SHAPES).macs > 0
    else:
        with pytest.raises(HwbenchError) as caught:
            load_workload(path, inputs=SHAPES)
        assert isinstance(caught.value, UnsafeModelError | SchemaError)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize("bomb", sorted(set(BOMBS) - DUDS))
def test_the_bombs_are_live(bomb, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    mark = tmp_path / "mark"
    path = BOMBS[bomb](tmp_path, mark)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if bomb.startswith("program"):
                torch.export.load(path)
            elif bomb.startswith("script"):
                torch.jit.load(path)(torch.zeros(1, 3, 16, 16))
            elif bomb.startswith("plain"):
                pickle.loads(path.read_bytes())
            else:
                torch.load(path, weights_only=False)
        except Exception:
            assert mark.exists()
    assert mark.exists()


def test_the_refusal_names_what_the_pickle_would_run(tmp_path):
    path = BOMBS["pickled module"](tmp_path, tmp_path / "mark")
    with pytest.raises(UnsafeModelError, match=r"builtins\.eval.*trust_pickle=True"):
        load_workload(path, inputs=SHAPES)


def test_a_script_that_never_ends_is_stopped(tmp_path, monkeypatch):
    class Endless(torch.nn.Module):
        def forward(self, x):
            while bool(x.sum() < 1e30):
                x = x * 1
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Endless()).save(tmp_path / "m.pt")
    monkeypatch.setattr(reader, "TORCH_S", 3.0)
    with pytest.raises(UnsafeModelError, match=r"within 3 s.*read_limit"):
        load_workload(tmp_path / "m.pt", inputs=["1"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        # What the compiler would leave out, as nothing uses it, is refused by the text alone.
        ("_9 = ops.inductor._reinterpret_tensor({argument}, [4], [1], 300)", "_reinterpret_tensor"),
        ("_9 = torch.as_strided({argument}, [9999], [1])", "aten::as_strided"),
        ("_9 = ops.aten.set_({argument}, {argument})", "aten::set_"),
        ("_9 = torch.native_batch_norm({argument}, None, None, None, None, True, 1., 1.)", "norm"),
        ("ops.prim.Print({argument})", "prim::Print"),
        # These the text does not show as torch writes it.
        ("{argument} = ({argument}).as_strided([1, 3, 16, 16], [1, 1, 1, 1])", "aten::as_strided"),
        ("{argument} = ({argument}) .  resize_([1, 3, 16, 9999])", "aten::resize_"),
        ("print({argument})", "prim::Print"),
        # These run before anything can be compiled and checked.
        ("def __setstate__(self, state: int) -> None:", "__setstate__"),
    ],
)
def test_operators_that_are_not_on_the_list_are_refused(line, says, tmp_path):
    path = script_with(line, tmp_path / "mark")
    with pytest.raises(HwbenchError, match=says) as caught:
        load_workload(path, inputs=SHAPES)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


class Strided(torch.nn.Module):
    def forward(self, x):
        return x.as_strided((1, 1 << 20), (0, 1)).relu()


def test_programs_have_the_same_list(tmp_path):
    program = torch.export.export(Strided(), (torch.zeros(1, 1 << 20),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(UnsafeModelError, match="as_strided"):
        load_workload(tmp_path / "m.pt2")


class Segfault:
    def __reduce__(self):
        return eval, ("__import__('os').kill(__import__('os').getpid(), 11)",)


def test_a_reader_that_dies_is_an_error_and_not_the_end(tmp_path):
    torch.save(Segfault(), tmp_path / "bad.pt")
    with pytest.raises(UnsafeModelError, match="signal 11"):
        load_workload(tmp_path / "bad.pt", trust_pickle=True)
    assert load_workload(save(plain(), "traced", tmp_path / "m.pt")).macs > 0


@pytest.mark.parametrize(
    "name", ["../evil", "m/../../evil", "/etc/evil", "m/a\\..\\b", "C:/evil", "m//evil", "noroot"]
)
def test_members_that_reach_outside_are_refused(name, tmp_path):
    path = save(TinyNet(), "traced", tmp_path / "m.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(UnsafeModelError, match="outside the archive"):
        load_workload(path)
    assert not (tmp_path.parent / "evil").exists()


def test_two_members_of_one_name_are_refused(tmp_path):
    path = save(TinyNet(), "traced", tmp_path / "m.pt")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("m/data.pkl", b"x")
    with pytest.raises(UnsafeModelError, match="two members"):
        load_workload(path)


def test_zip_bombs_are_refused_before_they_unpack(tmp_path):
    with zipfile.ZipFile(tmp_path / "deflate.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(20_000_000))
    with pytest.raises(UnsafeModelError, match="unpack to 20000000"):
        load_workload(tmp_path / "deflate.pt")
    with zipfile.ZipFile(tmp_path / "lzma.pt", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("m/data.pkl", bytes(1000))
    with pytest.raises(UnsafeModelError, match="method 14"):
        load_workload(tmp_path / "lzma.pt")


def test_a_declared_size_does_not_hide_a_bomb(tmp_path):
    path = tmp_path / "liar.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", bytes(20_000_000))
    data = path.read_bytes().replace(struct.pack("<L", 20_000_000), struct.pack("<L", 1000))
    path.write_bytes(data)
    with pytest.raises(SchemaError, match="damaged"):
        load_workload(path)


def _nothing(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("weights: 1, 2, 3\n")


def _other_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/b.txt", "hello")


def _empty_zip(path):
    path.write_bytes(b"PK\x05\x06" + bytes(18))


@pytest.mark.parametrize(
    ("make", "kind", "says"),
    [
        (lambda path: None, UsageError, "no such model file"),
        (lambda path: path.mkdir(), UsageError, "a folder without config.json"),
        (os.mkfifo, UsageError, "not a regular file"),
        (_nothing, UsageError, "0 bytes"),
        (_text, SchemaError, "neither a valid ONNX model nor a file of torch"),
        (_other_zip, SchemaError, "not a model of torch"),
        (_empty_zip, SchemaError, "not a model of torch"),
        (
            lambda path: path.write_bytes(save(plain(), "traced", path).read_bytes()[:-200]),
            SchemaError,
            "damaged",
        ),
        (
            lambda path: path.write_bytes(save(plain(), "onnx", path).read_bytes()[:-200]),
            SchemaError,
            "neither a valid ONNX",
        ),
        (lambda path: torch.save([1, 2], path), SchemaError, "expected a module or a state_dict"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="no mkfifo")
def test_what_is_no_model_gets_one_line(make, kind, says, tmp_path):
    path = tmp_path / "model.pt"
    make(path)
    with pytest.raises(kind) as caught:
        load_workload(path, inputs=SHAPES)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def external(path, location, **facts):
    """An ONNX model that adds a constant whose data lies at `location`."""
    constant = numpy_helper.from_array(np.zeros(4, np.float32), "c")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **facts}.items():
        constant.external_data.add(key=key, value=str(value))
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "c"], ["y"])], "g", value[:1], value[1:], [constant]
    )
    path.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
        ).SerializeToString()
    )
    return path


def test_external_data_in_the_folder_is_taken_in(tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(8) + np.arange(4, dtype=np.float32).tobytes())
    workload = load_workload(external(tmp_path / "m.onnx", "data.bin", offset=8, length=16))
    model = onnx.load_model_from_string(workload.onnx)
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [0, 1, 2, 3]
    assert model.graph.initializer[0].data_location == TensorProto.DEFAULT


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "/etc/hostname",
        "sub/../../secret",
        "link",
        "linked/secret",
        "missing",
        "",
        "C:secret",
    ],
)
def test_external_data_outside_the_folder_is_refused(location, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(UnsafeModelError, match="folder"):
        load_workload(external(folder / "m.onnx", location))


@pytest.mark.parametrize(
    "facts",
    [
        {"offset": -1},
        {"length": 17},
        {"offset": 8, "length": 16},
        {"length": "9" * 30},
        {"offset": "x"},
    ],
)
def test_external_data_beyond_its_file_is_refused(facts, tmp_path):
    (tmp_path / "data.bin").write_bytes(bytes(16))
    with pytest.raises(SchemaError, match=r"offset|needs bytes"):
        load_workload(external(tmp_path / "m.onnx", "data.bin", **facts))


def test_a_model_exported_in_training_mode_is_told(tmp_path):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = torch.onnx.TrainingMode.TRAINING
        torch.onnx.export(
            plain().train(), (torch.zeros(2, 3, 8, 8),), buffer, dynamo=False, training=training
        )
    (tmp_path / "m.onnx").write_bytes(buffer.getvalue())
    findings = {
        finding.code: finding.text for finding in load_workload(tmp_path / "m.onnx").findings
    }
    assert "call .eval()" in findings["exported_in_training"]


def test_a_repacked_archive_is_as_good_as_the_first(tmp_path):
    path = save(plain(), "traced", tmp_path / "m.pt")
    assert (
        load_workload(pack(tmp_path / "again.pt", members(path))).macs
        == load_workload(plain(), inputs=SHAPES).macs
    )


def greedy_weights(path):
    """A file of torch before 1.6, of half a kilobyte, whose one storage says it has 3.4 GB."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, torch.UntypedStorage):
                return ("storage", torch.FloatStorage, "0", "cpu", 850_000_000, None)
            return None

    with path.open("wb") as file:
        for part in (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        Pickler(file, protocol=2).dump({"weight": torch.UntypedStorage(4)})
        pickle.dump(["0"], file, protocol=2)
        file.write((850_000_000).to_bytes(8, "little"))
    return path


@pytest.mark.parametrize("role", ["workload", "module", "weights"])
def test_what_weights_ask_for_is_bounded_wherever_they_are_read(role, tmp_path, monkeypatch):
    path = greedy_weights(tmp_path / "m.pt")
    assert path.stat().st_size < 1000
    read = {
        "workload": lambda: load_workload(path, inputs=SHAPES),
        "module": lambda: load_module(path),
        "weights": lambda: load_module(plain(), weights=path),
    }
    if role != "workload":
        # The reader refuses it: nothing of it may reach this process.
        monkeypatch.setattr(torch, "load", None)
    with pytest.raises(
        (UnsafeModelError, SchemaError), match=r"m\.pt.*(memory|cut short)"
    ) as caught:
        read[role]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ["module", "weights"])
def test_good_modules_and_weights_are_read_after_their_rehearsal(role, tmp_path):
    if role == "module":
        module = load_module(save(plain(), "module", tmp_path / "m.pt"))
    else:
        weights = save(plain(), "state_dict", tmp_path / "m.pt")
        module = load_module(plain(), weights=weights)
    assert module.fc.out_features == 5


def test_mutants_of_torch_files_end_in_a_workload_or_one_line(tmp_path):
    random = Random(3)
    for number in range(12):
        folder, mark = tmp_path / str(number), tmp_path / "mark"
        folder.mkdir()
        _, path = make_mutant(folder, mark, random)
        try:
            load_workload(path, inputs=SHAPES)
        except HwbenchError as error:
            assert error.exit_code in {2, 4}
            assert len(str(error).splitlines()) == 1
        assert not mark.exists()
