"""Networks of one layer, once or several times in a row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hwbench.errors import UnsupportedLayerError
from hwbench.network.graph import layers, load
from hwbench.network.graph.build import layer_model
from hwbench.network.intake.half import halve
from hwbench.network.workload import Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto


def single_layer_workload(key: LayerKey, repeats: int = 1) -> Workload:
    """A network of one layer with random weights.

    Args:
        key: The layer.
        repeats: How often it stands in a row, with the same weights; its first input and its output
            have to be of one shape then.

    Raises:
        UnsupportedLayerError: There is no recipe for such a layer.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    model = _make_model(key)
    _repeat_layer(model, repeats)
    data = model.SerializeToString()
    inputs = tuple(
        TensorSpec(
            value.name,
            tuple(size.dim_value for size in value.type.tensor_type.shape.dim),
            tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in model.graph.input
    )
    macs = repeats * key.macs
    return Workload(
        str(key), data, inputs, key.output[0], key.precision, macs, key.weights, len(data)
    )


def _make_model(key: LayerKey) -> ModelProto:
    """A model of one layer; in bf16, which NumPy does not have, that of fp32 is cast."""
    if key.precision != "bf16":
        return load(layer_model(key))
    model = halve(load(layer_model(replace(key, precision="fp32"))), str(key), "bf16")
    if [part.key for part in layers(model)] != [key]:
        raise UnsupportedLayerError(f"no one-layer model for {key}; measure it inside its network")
    return model


def _repeat_layer(model: ModelProto, repeats: int) -> None:
    """Put the only layer of a model several times in a row, in place."""
    graph = model.graph
    once = list(graph.node)
    output = graph.output[0].name
    before = output
    for number in range(1, repeats):
        renamed = {graph.input[0].name: before}
        renamed |= {name: f"{name}_{number}" for node in once for name in node.output}
        for node in once:
            copy = graph.node.add()
            copy.CopyFrom(node)
            copy.name = f"{node.name}_{number}"
            copy.input[:] = [renamed.get(name, name) for name in node.input]
            copy.output[:] = [renamed[name] for name in node.output]
        before = renamed[output]
    graph.output[0].name = before
    if repeats > 1:
        del graph.value_info[:]
