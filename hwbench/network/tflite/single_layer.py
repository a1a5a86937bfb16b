"""Networks of one layer as `.tflite` files."""

from __future__ import annotations

from math import prod

import numpy as np

from hwbench.errors import UnsupportedLayerError
from hwbench.network.layers import keyed_layers_of
from hwbench.network.tflite import describe
from hwbench.network.tflite.writing import NewOperator, NewTensor, write_model
from hwbench.network.workload import Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import Shape

VALID = 1
"""Padding that adds nothing, by the schema's `Padding`."""
_FUSED = {"": 0, "Relu": 1, "Clip": 3}
"""Activations that an operator has fused in, by the schema's `ActivationFunctionType`."""


def single_layer_tflite(key: LayerKey) -> Workload:
    """A network of one layer in fp32, with random weights.

    Args:
        key: A convolution, depth-wise or of one group, or a linear layer.

    Raises:
        UnsupportedLayerError: There is no recipe for such a layer.
    """
    recipes = {"Conv": _write_convolution, "Linear": _write_linear}
    recipe = recipes.get(key.op)
    if recipe is None or key.precision != "fp32" or key.attr("act") not in _FUSED:
        raise UnsupportedLayerError(
            f"no one-layer tflite file for {key}; measure it inside its network"
        )
    workload = describe(recipe(key), str(key))
    found = [layer.key for layer in keyed_layers_of(workload)]
    if found != [key]:
        raise UnsupportedLayerError(
            f"no one-layer tflite file for {key}: it becomes {', '.join(map(str, found))}; measure"
            " it inside its network"
        )
    return workload


def _write_convolution(key: LayerKey) -> bytes:
    """Write a convolution, with a pad before it where it pads."""
    (read,) = key.inputs
    kernel, strides = _sizes(key, "kernel"), _sizes(key, "strides")
    dilations = _sizes(key, "dilations") or (1, 1)
    groups = key.groups
    top, left, bottom, right = _sizes(key, "pads")
    depthwise = groups > 1
    if depthwise and groups != read[1]:
        raise UnsupportedLayerError(
            f"no one-layer tflite file for {key}, whose channels come in groups; measure it inside"
            " its network"
        )
    image = (read[0], read[2], read[3], read[1])
    padded = (image[0], image[1] + top + bottom, image[2] + left + right, image[3])
    output = (key.output[0], key.output[2], key.output[3], key.output[1])
    shape = (output[3], *kernel, image[3])
    if depthwise:
        shape = (1, *kernel, output[3])
    pads = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    tensors = [
        NewTensor("input", image),
        NewTensor("pads", (4, 2), "int32", pads.tobytes()),
        NewTensor("padded", padded),
        NewTensor("weights", shape, data=_draw(shape, prod(shape[1:]))),
        NewTensor("bias", (output[3],), data=np.zeros(output[3], np.float32).tobytes()),
        NewTensor("layer", output),
    ]
    activation = _FUSED[key.attr("act")]
    options: tuple[int, ...] = (VALID, strides[1], strides[0], activation, *dilations[::-1])
    kind = "CONV_2D"
    if depthwise:
        kind = "DEPTHWISE_CONV_2D"
        options = (*options[:3], output[3] // image[3], *options[3:])
    operators = []
    if any((top, left, bottom, right)):
        operators.append(NewOperator("PAD", (0, 1), (2,)))
    source = 2 if operators else 0
    operators.append(NewOperator(kind, (source, 3, 4), (5,), options))
    return write_model(tensors, operators, (0,), (5,))


def _write_linear(key: LayerKey) -> bytes:
    (read,) = key.inputs
    shape = (key.output[-1], read[-1])
    tensors = [
        NewTensor("input", read),
        NewTensor("weights", shape, data=_draw(shape, shape[1])),
        NewTensor("bias", shape[:1], data=np.zeros(shape[0], np.float32).tobytes()),
        NewTensor("layer", key.output),
    ]
    options = (_FUSED[key.attr("act")],)
    return write_model(
        tensors, [NewOperator("FULLY_CONNECTED", (0, 1, 2), (3,), options)], (0,), (3,)
    )


def _sizes(key: LayerKey, name: str) -> tuple[int, ...]:
    """Read sizes from an attribute of a key, `3x3` or `1.1.1.1`."""
    text = key.attr(name).replace("x", ".")
    return tuple(int(part) for part in text.split(".")) if text else ()


def _draw(shape: Shape, inputs: int) -> bytes:
    """Draw weights whose products keep their size."""
    values = np.random.default_rng(0).normal(0, inputs**-0.5, shape)
    return values.astype(np.float32).tobytes()
