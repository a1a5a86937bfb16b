"""A workload is a model file and its format: only who reads the format runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from hwbench.devices.virtual.device import Virtual
from hwbench.errors import WorkloadError
from hwbench.lab.tasks import describe_workload, rebuild_workload
from hwbench.records.measurement import Settings
from tests.support.models import conv_workload

NET = conv_workload()
OTHER = replace(NET, name="net.tflite", artifact=b"TFL3", format="tflite")


def test_a_workload_is_known_by_the_hash_of_its_artifact():
    assert NET.format == "onnx"
    assert NET.onnx == NET.artifact
    assert NET.sha256 == sha256(NET.artifact).hexdigest()
    assert OTHER.sha256 == sha256(b"TFL3").hexdigest()


def test_another_format_is_not_taken_for_onnx():
    with pytest.raises(WorkloadError, match=r"net\.tflite is a tflite file where an ONNX model"):
        _ = OTHER.onnx


def test_a_device_refuses_formats_it_does_not_read_and_stays_usable():
    with Virtual() as device:
        with pytest.raises(WorkloadError, match=r"virtual does not run tflite files .* runs onnx"):
            device.prepare(OTHER, Settings())
        assert device.usable
        device.release(device.prepare(NET, Settings()))


@pytest.mark.parametrize("workload", [NET, OTHER])
def test_a_format_survives_the_way_through_the_lab(workload):
    facts = json.loads(json.dumps(describe_workload(workload)))
    assert rebuild_workload(facts, workload.artifact) == workload
