"""Tagged models come back as they were, or not at all."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import numpy as np
import pytest
from onnx import helper

from hwbench.errors import SchemaError, UsageError
from hwbench.store import open_store
from hwbench.workflows.tags import RECORD, load_tagged, tag_model
from tests.support.hostile_onnx import make_model
from tests.support.models import conv_net


@pytest.fixture
def store(tmp_path):
    (tmp_path / "net.onnx").write_bytes(conv_net())
    return str(tmp_path / "store.db")


def test_a_tagged_model_is_the_same_workload(tmp_path, store):
    tagged = tag_model("release/1.0", tmp_path / "net.onnx", store=store)
    loaded = load_tagged("release/1.0", store=store)
    assert loaded.artifact == tagged.artifact
    assert (loaded.inputs, loaded.batch, loaded.macs) == (tagged.inputs, 1, tagged.macs)
    assert loaded.name.endswith("net.onnx (release/1.0)")


def test_a_damaged_one_is_refused(tmp_path, store):
    tag_model("main", tmp_path / "net.onnx", store=store)
    with open_store(store) as opened:
        (data,) = opened.records(RECORD).values()
        opened.save_record(RECORD, data | {"tag": "other", "sha256": "0" * 64})
        opened.save_record(RECORD, {"tag": "empty"})
    with pytest.raises(SchemaError, match="not the one that was tagged"):
        load_tagged("other", store=store)
    with pytest.raises(SchemaError, match="damaged"):
        load_tagged("empty", store=store)
    with pytest.raises(UsageError, match="known: main, other, empty"):
        load_tagged("absent", store=store)


def test_a_model_that_somebody_put_into_a_shared_store_is_read_within_limits(tmp_path, store):
    tag_model("main", tmp_path / "net.onnx", store=store)
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[2**40] * 2)
    artifact = make_model([node], [], (1, 3, 8, 8)).SerializeToString()
    with open_store(store) as opened:
        (data,) = opened.records(RECORD).values()
        forged = {"artifact": b64encode(artifact).decode(), "sha256": sha256(artifact).hexdigest()}
        opened.save_record(RECORD, data | forged)
    with pytest.raises(SchemaError, match=r"net\.onnx.* window of MaxPool") as refused:
        load_tagged("main", store=store)
    assert "scratch" not in str(refused.value)


def test_values_of_inputs_are_not_kept(tmp_path, store):
    values = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    with pytest.raises(UsageError, match="cannot be tagged"):
        tag_model("main", tmp_path / "net.onnx", values=values, store=store)
