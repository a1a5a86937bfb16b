"""Layers and keys of `.tflite` graphs: what is fused, what is counted, what things are called."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from hwbench.errors import UnsupportedLayerError, UsageError, WorkloadError
from hwbench.network.intake import load_workload
from hwbench.network.layers import keyed_layers_of, layers_of
from hwbench.network.tflite import describe
from hwbench.network.tflite.writing import SAME, NewOperator, NewTensor, write_model
from hwbench.network.workload import Workload
from tests.support.tflite import VALID, depthwise_network, half_network, int8_network

RELU, RELU6 = 1, 3


def zeros(*shape: int, dtype: str = "float32") -> bytes:
    return np.zeros(shape, dtype).tobytes()


def keys(workload: Workload) -> dict[str, str]:
    return {layer.name: str(layer.key) for layer in layers_of(workload)}


def test_a_pad_before_and_an_activation_behind_belong_to_a_convolution() -> None:
    workload = depthwise_network()
    assert keys(workload) == {
        "stem": "Conv[1x3x16x16->1x8x8x8]{act=Relu,group=1,kernel=3x3,pads=1.1.1.1,strides=2x2}"
        "@fp32",
        "block/depthwise": "Conv[1x8x8x8->1x8x8x8]"
        "{act=Clip,group=8,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32",
        "block/project": "Conv[1x8x8x8->1x8x8x8]{group=1,kernel=1x1,pads=0.0.0.0,strides=1x1}@fp32",
        "block/add": "Add[1x8x8x8+1x8x8x8->1x8x8x8]{act=Relu}@fp32",
        "pool": "GlobalAveragePool[1x8x8x8->1x8x1x1]{}@fp32",
        "fc": "Linear[1x8->1x10]{}@fp32",
        "probs": "Softmax[1x10->1x10]{}@fp32",
    }
    found = {layer.name: layer for layer in layers_of(workload)}
    assert found["stem"].nodes == ("PAD:0", "CONV_2D:1", "RELU:2")
    assert found["block/add"].nodes == ("ADD:5", "RELU:6")
    assert found["block/add"].inputs == (found["block/project"].output, found["stem"].output)
    assert workload.macs == sum(layer.macs for layer in found.values())
    assert workload.macs == 8 * 64 * 27 + 64 * 8 * 9 + 64 * 64 + 80
    assert workload.params == 216 + 72 + 64 + 80 + 8 + 10  # the bias that three share counts once


def test_half_precision_is_how_weights_are_kept_and_not_how_they_are_multiplied() -> None:
    workload = half_network()
    assert workload.precision == "fp16"
    (layer,) = layers_of(workload)
    assert layer.key is not None
    assert layer.key.precision == "fp32"
    assert layer.nodes == ("DEQUANTIZE:0", "CONV_2D:1")
    assert layer.params == 8 * 9 * 3 + 8


def test_quantised_layers_are_int8() -> None:
    workload = int8_network()
    assert workload.precision == "int8"
    assert {layer.key.precision for layer in keyed_layers_of(workload)} == {"int8"}
    assert [finding.code for finding in workload.findings] == ["precision_of_file"]


def test_an_activation_that_two_read_before_it_is_a_layer_of_its_own() -> None:
    tensors = [
        NewTensor("x", (1, 4)),
        NewTensor("w", (4, 4), data=zeros(4, 4)),
        NewTensor("dense", (1, 4)),
        NewTensor("relu", (1, 4)),
        NewTensor("sum", (1, 4)),
    ]
    operators = [
        NewOperator("FULLY_CONNECTED", (0, 1, -1), (2,), (0,)),
        NewOperator("RELU", (2,), (3,)),
        NewOperator("ADD", (2, 3), (4,), (0,)),
    ]
    workload = describe(write_model(tensors, operators, (0,), (4,)), "net")
    assert [layer.op for layer in layers_of(workload)] == ["Linear", "Relu", "Add"]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "pads"),
    [
        (8, 3, 1, SAME, "1.1.1.1"),
        (8, 3, 2, SAME, "0.0.1.1"),  # at the end alone, unlike torch
        (9, 3, 2, SAME, "1.1.1.1"),
        (8, 5, 1, VALID, "0.0.0.0"),
        (8, 1, 1, SAME, "0.0.0.0"),
    ],
)
def test_padding_is_made_explicit(
    size: int, kernel: int, stride: int, padding: int, pads: str
) -> None:
    written = -(-size // stride) if padding == SAME else (size - kernel) // stride + 1
    tensors = [
        NewTensor("x", (1, size, size, 2)),
        NewTensor("w", (4, kernel, kernel, 2), data=zeros(4, kernel, kernel, 2)),
        NewTensor("y", (1, written, written, 4)),
    ]
    operator = NewOperator("CONV_2D", (0, 1, -1), (2,), (padding, stride, stride, 0, 1, 1))
    (layer,) = keyed_layers_of(describe(write_model(tensors, [operator], (0,), (2,)), "net"))
    assert layer.key.attr("pads") == pads
    assert layer.key.macs == layer.macs == written**2 * 4 * 2 * kernel**2


def test_names_that_converters_joined_are_those_of_what_came_first() -> None:
    tensors = [
        NewTensor("x", (1, 4)),
        NewTensor("net/Relu;net/dense/MatMul;net/dense/BiasAdd/ReadVariableOp", (1, 4)),
        NewTensor("", (1, 4)),
        NewTensor("net/dense/MatMul", (1, 4)),
    ]
    operators = [
        NewOperator("RELU", (0,), (1,)),
        NewOperator("RELU", (1,), (2,)),
        NewOperator("RELU", (2,), (3,)),
    ]
    workload = describe(write_model(tensors, operators, (0,), (3,)), "net")
    names = [layer.name for layer in layers_of(workload)]
    assert names == ["net/dense/MatMul", "RELU:1", "net/dense/MatMul_1"]


def test_states_have_no_key_and_what_cannot_be_counted_is_unknown() -> None:
    tensors = [NewTensor("x", (1, 4)), NewTensor("y", (1, 4))]
    workload = describe(
        write_model(tensors, [NewOperator("CUSTOM", (0,), (1,))], (0,), (1,)), "net"
    )
    assert workload.macs is None
    assert [finding.code for finding in workload.findings] == ["macs_unknown"]
    with pytest.raises(UnsupportedLayerError, match="no table knows it"):
        keyed_layers_of(workload)


def test_a_damaged_model_is_read_or_refused_and_never_hangs() -> None:
    whole, chance = depthwise_network().artifact, random.Random(5)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(8, len(data) - 4)
            numbers = [0, 1, 0xFFFFFFFF, 0x7FFFFFFF, len(data), chance.randrange(2**32)]
            data[at : at + 4] = struct.pack("<I", chance.choice(numbers))
        try:
            layers_of(describe(bytes(data), "net.tflite"))
        except WorkloadError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_the_intake_takes_it_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(depthwise_network().artifact)
    workload = load_workload(path)
    assert (workload.format, workload.name) == ("tflite", str(path))
    assert workload.inputs[0].shape == (1, 16, 16, 3)
    for asked in ({"batch": 2}, {"precision": "int8"}, {"inputs": ["1x3x8x8"]}):
        with pytest.raises(UsageError, match="measured as it is"):
            load_workload(path, **asked)
    values = {"image": np.ones((1, 16, 16, 3), np.float32)}
    assert load_workload(path, values=values).values["image"].shape == (1, 16, 16, 3)
    ranged = load_workload(path, inputs=["image=1x16x16x3:float32[2,3]"]).values["image"]
    assert 2 <= ranged.min() <= ranged.max() < 3
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WorkloadError, match="no TensorFlow Lite model"):
        load_workload(path)
