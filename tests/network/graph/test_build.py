"""One-layer models: the key survives the round trip, and ONNX Runtime runs what was built."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.errors import UnsupportedLayerError
from hwbench.network.graph import count, layers, load
from hwbench.network.graph.build import layer_model
from hwbench.network.ort import onnxruntime
from hwbench.records.layer_key import LayerKey

KEYS = [
    "Conv[1x3x8x8->1x16x4x4]{act=Relu,group=1,kernel=3x3,pads=1.1.1.1,strides=2x2}@fp32",
    "Conv[2x8x7x7->2x8x7x7]{act=Clip,group=8,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32",
    "Conv[1x8x7x7+1x8x7x7->1x8x7x7]{act=Relu,add=1,group=2,kernel=1x1,pads=0.0.0.0,strides=1x1}@fp32",
    "Conv[1x4x9x9->1x4x5x5]{act=Silu,dilations=2x2,group=1,kernel=3x3,pads=0.0.0.0,strides=1x1}@fp32",
    "Conv[1x4x9x9->1x4x9x9]{act=LeakyRelu,group=1,kernel=3x3,pads=1.1.1.1,strides=1x1}@fp32",
    "Conv[1x4x9->1x6x9]{act=HardSwish,group=1,kernel=3,pads=1.1,strides=1}@fp32",
    "ConvTranspose[1x4x5x5->1x6x10x10]{group=2,kernel=3x3,output_padding=1.1,pads=1.1.1.1,strides=2x2}@fp32",
    "Linear[3x10->3x7]{}@fp32",
    "Linear[3x10+3x7->3x7]{act=Tanh,add=1}@fp32",
    "Linear[2x5x10->2x5x7]{act=Sigmoid}@fp32",
    "Add[1x4x5x5+1x4x5x5->1x4x5x5]{}@fp32",
    "Mul[1x4x5x5+1x4x1x1->1x4x5x5]{}@fp32",
    "Add[1x4x5x5->1x4x5x5]{with=1.n.1.1}@fp32",
    "Div[1x4x5x5->1x4x5x5]{with=scalar}@fp32",
    "PRelu[1x4x5x5->1x4x5x5]{with=n.1.1}@fp32",
    "MaxPool[1x4x8x8->1x4x4x4]{kernel=3x3,pads=1.1.1.1,strides=2x2}@fp32",
    "MaxPool[1x4x8x8->1x4x4x4]{ceil_mode=1,kernel=3x3,pads=0.0.0.0,strides=2x2}@fp32",
    "AveragePool[1x4x8x8->1x4x4x4]{count_include_pad=1,kernel=2x2,pads=0.0.0.0,strides=2x2}@fp32",
    "GlobalAveragePool[1x4x8x8->1x4x1x1]{}@fp32",
    "ReduceMean[1x4x8x8->1x4]{axes=2.3,keepdims=0}@fp32",
    "Relu[1x4x8x8->1x4x8x8]{}@fp32",
    "Clip[1x4x8x8->1x4x8x8]{}@fp32",
    "LeakyRelu[1x4x8x8->1x4x8x8]{alpha=0.2}@fp32",
    "Concat[1x4x8x8+1x3x8x8+1x2x8x8->1x9x8x8]{axis=1}@fp32",
    "Softmax[2x10->2x10]{axis=1}@fp32",
    "Transpose[1x4x8x8->1x8x8x4]{perm=0.2.3.1}@fp32",
    "Reshape[1x4x2x2->1x16]{}@fp32",
    "Expand[1x4x1x1->1x4x8x8]{}@fp32",
    "BatchNormalization[1x4x8x8->1x4x8x8]{}@fp32",
    "BatchNormalization[1x4x8x8->1x4x8x8]{act=Relu}@fp32",
    "LayerNormalization[2x5x8->2x5x8]{axis=2,epsilon=1e-06}@fp32",
    "Gelu[2x5x8->2x5x8]{}@fp32",
    "Gelu[2x5x8->2x5x8]{approximate=tanh}@fp32",
    "Conv[1x3x8x8->1x16x4x4]{act=Relu,group=1,kernel=3x3,pads=1.1.1.1,strides=2x2}@int8",
    "Conv[1x8x7x7->1x8x7x7]{group=8,kernel=3x3,pads=1.1.1.1,strides=1x1}@int8",
    "Linear[1x10->1x7]{}@int8",
    "Linear[1x5x10->1x5x7]{}@int8",
    "Add[1x4x5x5+1x4x5x5->1x4x5x5]{act=Relu}@int8",
    "GlobalAveragePool[1x4x8x8->1x4x1x1]{}@int8",
    "QuantizeLinear[1x3x8x8->1x3x8x8]{}@int8",
    "DequantizeLinear[1x10->1x10]{}@fp32",
    "Linear[3x10->3x7]{act=Relu}@fp16",
]


def _run(data: bytes, key: LayerKey) -> list[np.ndarray]:
    session = onnxruntime().InferenceSession(data, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16, "tensor(float)": np.float32}
    rng = np.random.default_rng(0)
    feeds = {
        value.name: (
            (rng.random(shape) * (255 if "int" in value.type else 3) + 0.5).astype(
                dtypes[value.type]
            )
        )
        for value, shape in zip(session.get_inputs(), key.inputs, strict=True)
    }
    return session.run(None, feeds)


@pytest.mark.parametrize("text", KEYS)
def test_key_survives_and_the_model_runs(text: str) -> None:
    key = LayerKey.parse(text)
    data = layer_model(key)
    assert [part.key for part in layers(load(data))] == [key]
    (result,) = _run(data, key)
    assert result.astype(np.float64).std() > 0
    if key.op != "Linear" or len(key.output) != 2:
        assert result.shape == key.output


def test_weights_are_seeded() -> None:
    key = LayerKey.parse(KEYS[0])
    assert layer_model(key, seed=1) == layer_model(key, seed=1)
    assert layer_model(key, seed=1) != layer_model(key, seed=2)


@pytest.mark.parametrize(
    "text",
    [
        "Frobnicate[1x2->1x2]{}@fp32",
        "Relu[1x2->1x3]{}@fp32",
        "Gather[1x2->1x3]{indices=0.1.2}@fp32",
        "Conv[1x3x8x8->1x4x4x4]{group=2,kernel=3x3,pads=1.1.1.1,strides=2x2}@fp32",
        "Conv[1x3x8x8->1x4x8x8]{act=Frobnicate,group=1,kernel=1x1,pads=0.0.0.0,strides=1x1}@fp32",
        "Relu[->1x3]{}@fp32",
    ],
)
def test_impossible_keys_are_refused_by_name(text: str) -> None:
    with pytest.raises(UnsupportedLayerError) as caught:
        layer_model(LayerKey.parse(text))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batch=st.integers(1, 3),
    inner=st.integers(1, 9),
    outer=st.integers(1, 9),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    size=st.integers(5, 12),
    act=st.sampled_from(["", "Relu", "Clip", "Silu"]),
    residual=st.booleans(),
)
def test_convolutions_of_any_geometry(
    batch: int,
    inner: int,
    outer: int,
    kernel: int,
    stride: int,
    size: int,
    act: str,
    residual: bool,
) -> None:
    pad = kernel // 2
    edge = (size + 2 * pad - kernel) // stride + 1
    output = (batch, outer, edge, edge)
    attrs = {
        "group": "1",
        "kernel": f"{kernel}x{kernel}",
        "strides": f"{stride}x{stride}",
        "pads": ".".join([str(pad)] * 4),
    }
    attrs |= ({"act": act} if act else {}) | ({"add": "1"} if residual else {})
    inputs = ((batch, inner, size, size), output) if residual else ((batch, inner, size, size),)
    key = LayerKey("Conv", inputs, output, tuple(attrs.items()))
    model = load(layer_model(key))
    assert [part.key for part in layers(model)] == [key]
    assert count(model).macs == np.prod(output) * inner * kernel**2
    assert count(model).params == outer * inner * kernel**2 + outer
