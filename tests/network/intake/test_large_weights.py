"""ONNX files whose weights exceed what one model can hold: they stay in the user's files."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import SchemaError, UnsafeModelError, WorkloadError
from hwbench.lab.tasks import describe_workload
from hwbench.network import graph, weight_files
from hwbench.network.intake import load_workload, onnx_external, reader
from hwbench.network.intake.values import add_values
from hwbench.network.layers import keyed_layers_of, layers_of
from hwbench.network.weight_files import FileStamp, WeightFiles, read_entries
from hwbench.network.workload import LARGE_ONNX, ONNX
from tests.support.large_models import (
    linear_weights,
    place,
    read_as_too_large,
    save_apart,
)

WEIGHTS = linear_weights((32, 48, 16))


@pytest.fixture
def net(tmp_path):
    return save_apart(tmp_path / "net.onnx", WEIGHTS, first_offset=7)


@pytest.mark.parametrize("one_file_each", [False, True])
def test_facts_are_those_of_the_same_model_in_one_piece(tmp_path, monkeypatch, one_file_each):
    path = save_apart(tmp_path / "net.onnx", WEIGHTS, one_file_each=one_file_each)
    whole = load_workload(path)
    large = read_as_too_large(path, monkeypatch)
    assert (whole.format, large.format) == (ONNX, LARGE_ONNX)
    assert large.macs == whole.macs == 32 * 48 + 48 * 16
    assert large.params == whole.params == sum(values.size for values in WEIGHTS.values())
    assert (large.precision, large.inputs) == (whole.precision, whole.inputs)
    content = sum(values.nbytes for values in WEIGHTS.values())
    assert content < large.file_bytes < content + 4000
    assert layers_of(large) == layers_of(whole)
    assert keyed_layers_of(large) == keyed_layers_of(whole)
    assert large.node_names == whole.node_names


def test_only_large_weights_stay_in_their_file(net, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    tensors = {t.name: t for t in onnx.load_model_from_string(large.onnx_graph).graph.initializer}
    apart = {name for name, tensor in tensors.items() if weight_files.is_external(tensor)}
    assert apart == {"fc0.weight", "fc1.weight"}
    assert numpy_helper.to_array(tensors["fc1.bias"]).tolist() == WEIGHTS["fc1.bias"].tolist()
    entries = read_entries(tensors["fc1.weight"])
    offset = 7 + WEIGHTS["fc0.weight"].nbytes + WEIGHTS["fc0.bias"].nbytes
    assert (entries["location"], entries["offset"]) == ("data.bin", str(offset))
    assert entries["checksum"] == sha256(WEIGHTS["fc1.weight"].tobytes()).hexdigest()
    assert large.weights is not None
    assert Path(large.weights.folder) == net.parent.resolve()
    assert [file.name for file in large.weights.files] == ["data.bin"]


def test_identity_is_what_the_weights_hold_and_not_where(tmp_path, monkeypatch):
    identities = []
    for name, changed, offset in (("a", 0.0, 0), ("b", 0.0, 64), ("c", 1.0, 0)):
        (tmp_path / name).mkdir()
        weights = dict(WEIGHTS)
        weights["fc1.weight"] = WEIGHTS["fc1.weight"].copy()
        weights["fc1.weight"][3, 5] += changed
        path = save_apart(tmp_path / name / "net.onnx", weights, first_offset=offset)
        identities.append(read_as_too_large(path, monkeypatch).sha256)
    path = save_apart(tmp_path / "net.onnx", WEIGHTS, one_file_each=True)
    identities.append(read_as_too_large(path, monkeypatch).sha256)
    assert identities[0] == identities[1] == identities[3]
    assert identities[0] != identities[2]


def test_zeros_in_other_files_are_counted(tmp_path, monkeypatch):
    weights = {name: values.copy() for name, values in WEIGHTS.items()}
    weights["fc0.weight"][:24] = 0
    large = read_as_too_large(save_apart(tmp_path / "net.onnx", weights), monkeypatch)
    model = graph.load(large.onnx_graph)
    total = WEIGHTS["fc0.weight"].size + WEIGHTS["fc1.weight"].size
    assert graph.zero_share(model, tmp_path) == pytest.approx(24 * 48 / total)
    weights["fc0.weight"][:] = 0
    large = read_as_too_large(save_apart(tmp_path / "net.onnx", weights), monkeypatch)
    assert "zeros_left_dense" in {finding.code for finding in large.findings}


@given(
    st.sampled_from(["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "INT64", "UINT4", "INT4"]),
    st.integers(1, 300),
    st.integers(1, 64),
    st.integers(0, 40),
)
def test_values_are_read_in_chunks_as_onnx_reads_them(tmp_path_factory, kind, size, chunk, offset):
    number = TensorProto.DataType.Value(kind)
    size += size % 2  # two elements of four bits make a byte
    chunk = 8 * chunk
    tensor = TensorProto(name="w", data_type=number, dims=[size])
    data = np.random.default_rng(size).bytes(weight_files.count_bytes(tensor, size))
    whole = TensorProto(name="w", data_type=number, dims=[size], raw_data=data)
    folder = tmp_path_factory.getbasetemp()
    (folder / "values.bin").write_bytes(bytes(offset) + data + b"more")
    place(tensor, "values.bin", offset, len(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_files, "_CHUNK_BYTES", chunk)
        parts = list(weight_files.read_values(tensor, folder))
    assert np.concatenate(parts).tobytes() == numpy_helper.to_array(whole).tobytes()


@pytest.mark.parametrize(
    ("location", "offset", "length", "kind", "says"),
    [
        (
            "data.bin",
            0,
            4 * 32 * 48 - 4,
            SchemaError,
            "6140 bytes where its shape 32x48 needs 6144",
        ),
        ("data.bin", 10**9, 4 * 32 * 48, SchemaError, "needs bytes 1000000000"),
        ("data.bin", -1, 4 * 32 * 48, SchemaError, "expected whole numbers"),
        ("missing.bin", 0, 4 * 32 * 48, UnsafeModelError, "no regular file"),
        ("../data.bin", 0, 4 * 32 * 48, UnsafeModelError, "expected a file in the model's folder"),
        ("link.bin", 0, 4 * 32 * 48, UnsafeModelError, "no regular file"),
        ("pipe", 0, 4 * 32 * 48, UnsafeModelError, "no regular file"),
    ],
)
def test_bad_places_are_refused(net, monkeypatch, location, offset, length, kind, says):
    (net.parent / "link.bin").symlink_to("/etc/hostname")
    os.mkfifo(net.parent / "pipe")
    model = onnx.load(net, load_external_data=False)
    place(model.graph.initializer[0], location, offset, length)
    net.write_bytes(model.SerializeToString())
    with pytest.raises(kind, match=says):
        read_as_too_large(net, monkeypatch)


def test_a_truncated_file_is_refused(net, monkeypatch):
    with (net.parent / "data.bin").open("r+b") as file:
        file.truncate(9000)
    with pytest.raises(SchemaError, match="which has 9000"):
        read_as_too_large(net, monkeypatch)


def test_small_weights_and_constants_of_nodes_have_to_fit(tmp_path, monkeypatch):
    path = save_apart(tmp_path / "net.onnx", linear_weights([4] * 40))
    with pytest.raises(WorkloadError, match="no initializers of its graph, or smaller ones"):
        read_as_too_large(path, monkeypatch)


def test_links_of_the_cache_of_hugging_face_are_followed(tmp_path, monkeypatch):
    blobs, snapshot = tmp_path / "m" / "blobs", tmp_path / "m" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save_apart(blobs / "net.onnx", WEIGHTS)
    for name in ("net.onnx", "data.bin"):
        (blobs / name).rename(blobs / f"hash-of-{name}")
        (snapshot / name).symlink_to(blobs / f"hash-of-{name}")
    large = read_as_too_large(snapshot / "net.onnx", monkeypatch)
    assert large.weights is not None
    assert Path(large.weights.folder) == blobs.resolve()
    assert [file.name for file in large.weights.files] == ["hash-of-data.bin"]
    onnx_external.check_files(large.weights, large.onnx_graph, snapshot / "net.onnx")


def test_batch_norm_behind_weights_in_a_file_counts_as_folded(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    kernel = random.standard_normal((16, 8, 3, 3)).astype(np.float32)
    norms = [
        numpy_helper.from_array(random.uniform(0.5, 1.5, 16).astype(np.float32), name)
        for name in ("bn.weight", "bn.bias", "bn.mean", "bn.var")
    ]
    (tmp_path / "k.bin").write_bytes(kernel.tobytes())
    weight = TensorProto(name="conv.weight", data_type=TensorProto.FLOAT, dims=kernel.shape)
    place(weight, "k.bin", 0, kernel.nbytes)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["x", "conv.weight"], ["c"]),
                helper.make_node("BatchNormalization", ["c", *(t.name for t in norms)], ["y"]),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 6, 6])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 4, 4])],
            [weight, *norms],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    whole = load_workload(tmp_path / "net.onnx")
    large = read_as_too_large(tmp_path / "net.onnx", monkeypatch)
    assert (large.macs, large.params) == (whole.macs, whole.params)
    assert [layer.key for layer in layers_of(large)] == [layer.key for layer in layers_of(whole)]


def test_shapes_that_only_the_runtime_knows_are_found(tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    (tmp_path / "w.bin").write_bytes(values.tobytes())
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=values.shape)
    bias = numpy_helper.from_array(np.zeros(48, np.float32), "b")
    place(weight, "w.bin", 0, values.nbytes)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node(
                    "FusedMatMul", ["x", "w"], ["p"], domain="com.microsoft", name="fused"
                ),
                helper.make_node("Add", ["p", "b"], ["y"]),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [weight, bias],
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    large = read_as_too_large(tmp_path / "net.onnx", monkeypatch)
    assert large.macs == 32 * 48
    assert all(layer.key is not None for layer in layers_of(large))


def test_indices_are_drawn_from_the_rows_of_a_table_in_a_file(tmp_path, monkeypatch):
    table = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    (tmp_path / "t.bin").write_bytes(table.tobytes())
    weight = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=table.shape)
    place(weight, "t.bin", 0, table.nbytes)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Gather", ["table", "ids"], ["y"])],
            "net",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 8])],
            [weight],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    large = add_values(read_as_too_large(tmp_path / "net.onnx", monkeypatch), (), {}, 0)
    assert 50 < large.values["ids"].max() < 100


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_what_is_not_converted_is_refused(net, monkeypatch, precision):
    with pytest.raises(WorkloadError, match=f"save it in {precision}.*precision='fp32'"):
        read_as_too_large(net, monkeypatch, precision=precision)


def test_what_needs_the_whole_model_refuses_it(net, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    with pytest.raises(WorkloadError, match=r"over 2 GiB.*device cpu"):
        _ = large.onnx
    with pytest.raises(WorkloadError, match="not sent to the hosts of a lab"):
        describe_workload(large)


def test_weights_without_a_checksum_are_no_model(net):
    data = onnx.load(net, load_external_data=False).SerializeToString()
    with pytest.raises(WorkloadError, match="lies in another file"):
        graph.load(data)


def test_a_file_that_changed_is_told(net, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    assert large.weights is not None
    large.weights.require_unchanged("net")
    os.utime(net.parent / "data.bin", ns=(1, 1))
    with pytest.raises(WorkloadError, match=r"data\.bin' have changed since they were read"):
        large.weights.require_unchanged("net")
    (net.parent / "data.bin").unlink()
    with pytest.raises(WorkloadError, match="have changed"):
        large.weights.require_unchanged("net")


def test_a_worker_is_not_believed_about_files_elsewhere(net, tmp_path_factory, monkeypatch):
    large = read_as_too_large(net, monkeypatch)
    assert large.weights is not None
    outside = tmp_path_factory.mktemp("outside")
    (outside / "data.bin").write_bytes(b"secret")
    elsewhere = WeightFiles(str(outside), large.weights.files)
    with pytest.raises(ValueError, match="not in the model's folder"):
        onnx_external.check_files(elsewhere, large.onnx_graph, net)
    (net.parent / "other.bin").write_bytes(b"x")
    others = replace(large.weights, files=(FileStamp("other.bin", 1, 0),))
    with pytest.raises(ValueError, match="in none of the files"):
        onnx_external.check_files(others, large.onnx_graph, net)
    facts = {
        "name": "net", "inputs": [], "batch": 1, "precision": "fp32", "macs": 1, "params": 1,
        "file_bytes": 1, "findings": [], "format": LARGE_ONNX, "node_names": {},
        "weights": {"folder": str(outside), "files": [
            {"name": "data.bin", "size_bytes": 6, "modified_ns": 0}]},
    }  # fmt: skip
    answer = {"workload": facts}, large.onnx_graph
    monkeypatch.setattr(reader, "_ask", lambda *_, **__: answer)
    with pytest.raises(UnsafeModelError, match="the file is hostile"):
        load_workload(net)


def test_below_the_limit_everything_is_taken_in(net):
    whole = load_workload(net)
    assert (whole.weights, whole.format) == (None, ONNX)
    for tensor in onnx.load_model_from_string(whole.onnx).graph.initializer:
        assert not weight_files.is_external(tensor)
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), WEIGHTS[tensor.name])
