from __future__ import annotations

from dataclasses import replace

import pytest

from hwbench.errors import UsageError
from hwbench.lab.kinds import Selector, kind_id, kind_of, one_kind
from hwbench.records.device import DeviceInfo
from tests.lab.lab_support import PIXEL

TWIN = replace(PIXEL, address="android:A2", details=(("serial", "A2"), ("mode", "burst")))
GPU = DeviceInfo("cuda:0", "H200", "GPU-1|H200", "torch 2", (("uuid", "GPU-1"), ("driver", "580")))


def test_two_specimens_are_of_one_kind():
    assert kind_id(PIXEL) == kind_id(TWIN)
    other = replace(
        GPU,
        address="cuda:1",
        target_id="GPU-2|H200",
        details=(("uuid", "GPU-2"), ("driver", "580")),
    )
    assert kind_id(GPU) == kind_id(other)


@pytest.mark.parametrize(
    "change",
    [
        {"runtime": "onnxruntime 2"},
        {"target": "Pixel 8, Tensor G3, little cluster"},
        {"target_id": "Pixel 8|Tensor G3|little"},
        {"details": (("serial", "A2"), ("mode", "sustained"))},
        {"details": (("serial", "A2"),)},
        {"address": "other:A2"},
    ],
)
def test_any_other_fact_makes_another_kind(change):
    other = replace(TWIN, **change)
    assert kind_id(PIXEL) != kind_id(other)
    with pytest.raises(UsageError, match="means devices of 2 kinds"):
        one_kind({"android:A1@x": PIXEL, "android:A2@x": other}, "android:*")


def test_a_seed_is_no_part_of_a_name_that_happens_to_hold_its_digits():
    virtual = DeviceInfo("virtual:seed=1", "simulated", "Law(step=16)", "law 1", (("seed", "1"),))
    assert kind_of(virtual).target_id == "Law(step=16)"


def test_the_refusal_says_in_what_they_differ():
    with pytest.raises(
        UsageError, match=r"differ in mode: burst and sustained; .*device='soc=Tensor G3'"
    ):
        one_kind(
            {"a": PIXEL, "b": replace(TWIN, details=(("serial", "A2"), ("mode", "sustained")))},
            "android:*",
        )
    with pytest.raises(UsageError, match="no device of the lab is meant by 'cpu'"):
        one_kind({}, "cpu")


@pytest.mark.parametrize(
    "text",
    [
        "android:*",
        "android:A1",
        "android",
        "*",
        "*@rack1",
        "android:A1@rack1",
        "soc=Tensor G3",
        "SOC=Tensor G3".lower(),
        "mode=burst",
        "serial=A*",
        "host=rack1",
        "runtime=onnxruntime*",
    ],
)
def test_a_device_is_meant_by(text):
    assert Selector(text).matches("android:A1@rack1", PIXEL)


@pytest.mark.parametrize(
    "text",
    [
        "android:B*",
        "cpu",
        "*@rack2",
        "soc=Tensor G2",
        "mode=sustained",
        "nothing=burst",
        "runtime=onnx",
    ],
)
def test_a_device_is_not_meant_by(text):
    assert not Selector(text).matches("android:A1@rack1", PIXEL)


def test_the_options_of_an_address_are_no_fact():
    virtual = DeviceInfo("virtual:noise=none,seed=3", "simulated", "law", "law 1")
    assert Selector("virtual:noise=none,seed=3").matches("virtual:noise=none,seed=3@x", virtual)
