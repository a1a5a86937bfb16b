from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hwbench import errors
from hwbench.devices.virtual.device import Fault, Throttling
from hwbench.errors import (
    BuildError,
    DeviceError,
    DeviceLostError,
    SchemaError,
    UnsupportedLayerError,
    error_to_dict,
)
from hwbench.lab.bench import Bench
from hwbench.lab.tasks import (
    Task,
    TaskKind,
    describe_workload,
    rebuild_workload,
    task_result,
)
from hwbench.records.measurement import Measurement, Settings
from runners.studies._lab_simulation import Specimen
from tests.lab.lab_support import LAW, SETTINGS, task
from tests.support.models import conv_workload

NET = conv_workload((16, 24, 32))
MODELS = {NET.sha256: NET.onnx}
NETWORK = Task(
    "3",
    TaskKind.NETWORK,
    (describe_workload(NET),),
    SETTINGS,
    60.0,
    {"number": 3, "widths": [8, 12, 16], "effort": {"turns": 3, "runs": 4}, "anchor_every": 2},
)


def test_tasks_and_workloads_survive_json():
    told = json.loads(json.dumps(NETWORK.to_dict()))
    assert json.loads(json.dumps(Task.from_dict(told).to_dict())) == told
    assert rebuild_workload(told["workloads"][0], NET.onnx) == NET
    assert "values" not in told["workloads"][0]


def test_a_workload_arrives_with_the_values_of_its_inputs():
    ids = np.arange(6, dtype=np.int64).reshape(2, 3)
    sent = json.loads(json.dumps(describe_workload(replace(NET, values={"ids": ids}))))
    arrived = rebuild_workload(sent, NET.onnx)
    assert arrived.values["ids"].dtype == np.int64
    assert arrived.values["ids"].tolist() == ids.tolist()
    for damage in ({"dtype": "O"}, {"shape": [7]}, {"base64": "?"}, {"more": 1}):
        damaged = {**sent, "values": {"ids": {**sent["values"]["ids"], **damage}}}
        with pytest.raises(SchemaError, match="description of a workload"):
            rebuild_workload(damaged, NET.onnx)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "shell"},
        {"run": "rm"},
        {"settings": {"threads": 1, "program": "sh"}},
        {"arguments": {"call": print}},
        {"workloads": [3]},
        {"limit_s": "long"},
    ],
)
def test_whatever_is_none_of_hwbenchs_tasks_is_refused(change):
    with pytest.raises(SchemaError, match="hosts do nothing but measure, network, steps"):
        Task.from_dict(NETWORK.to_dict() | change)


def test_another_model_than_was_meant_is_refused():
    with pytest.raises(SchemaError, match=rf"not {NET.sha256[:12]}\.\.\., and was refused"):
        rebuild_workload(describe_workload(NET), NET.onnx + b"\0")
    with Specimen(law=LAW) as device:
        outcome = Bench(device, "d").carry_out(NETWORK, {NET.sha256: NET.onnx[:-1]})
    with pytest.raises(SchemaError, match="was refused"):
        task_result(outcome)


@pytest.mark.parametrize(
    "error", [BuildError("no kernel"), UnsupportedLayerError("no Conv"), DeviceLostError("gone")]
)
def test_an_error_arrives_as_what_it_was(error):
    with pytest.raises(type(error), match=str(error)):
        task_result(error_to_dict(error))


def test_an_error_that_is_none_of_hwbenchs_arrives_as_one_of_the_device():
    for name in ("SystemExit", "DeviceCommandError", "__doc__", "Sequence"):
        assert hasattr(errors, name) or name == "SystemExit"
        with pytest.raises(DeviceError, match="text"):
            task_result({"error": name, "text": "text"})


def test_a_network_is_measured_beside_an_anchor_that_stays_for_a_while():
    with Specimen(law=LAW) as device:
        bench = Bench(device, "d")
        numbers = [
            [
                one["number"]
                for one in task_result(
                    bench.carry_out(
                        replace(NETWORK, arguments={**NETWORK.arguments, "number": number}), MODELS
                    )
                )["samples"]
            ]
            for number in range(4)
        ]
        assert numbers == [[-1, 0], [1], [-3, 2], [3]]
        assert len(device._live) == 1
        bench.clear()
        assert not device._live


def test_a_measurement_and_the_channel_steps():
    measure = Task("m", TaskKind.MEASURE, (describe_workload(NET),), Settings(budget_s=2.0), 60.0)
    steps = replace(measure, kind=TaskKind.STEPS)
    with Specimen(law=LAW) as device:
        bench = Bench(device, "d")
        bench.carry_out(NETWORK, MODELS)
        (record,) = task_result(bench.carry_out(measure, MODELS))["records"]
        assert Measurement.from_dict(json.loads(json.dumps(record))).model_sha256 == NET.sha256
        assert task_result(bench.carry_out(steps, MODELS))["steps"]["Conv@fp32"] == LAW.channel_step
        assert not device._live  # the anchor would disturb others' work


@pytest.mark.parametrize("kind", ["lost", "timeout", "nan", "zero", "miscount"])
def test_a_device_that_fails_or_answers_nonsense_is_at_fault_and_not_the_task(kind):
    with Specimen(law=LAW, faults=[Fault(kind)]) as device, pytest.raises(DeviceError):
        Bench(device, "d").carry_out(NETWORK, MODELS)


def test_a_model_that_cannot_be_built_is_the_tasks_fault():
    with Specimen(law=LAW, faults=[Fault("build")]) as device:
        outcome = Bench(device, "d").carry_out(NETWORK, MODELS)
        with pytest.raises(BuildError):
            task_result(outcome)
        assert device.usable


def test_what_a_device_measured_while_it_became_hot_is_not_believed():
    with Specimen(law=LAW, noise=[Throttling(after_s=0.1, recovery_s=3)]) as device:
        bench = Bench(device, "d")
        assert bench.carry_out(NETWORK, MODELS) is None
        assert bench.hot()
        bench.rest(5.0)
        assert not bench.hot()


def test_damaged_arguments_are_the_tasks_fault():
    with Specimen(law=LAW) as device:
        outcome = Bench(device, "d").carry_out(replace(NETWORK, arguments={"number": "x"}), MODELS)
    with pytest.raises(SchemaError, match="damaged task"):
        task_result(outcome)


def test_a_task_names_its_models():
    assert NETWORK.models == (NET.sha256,)
    assert task("t").models == ("0" * 64,)
