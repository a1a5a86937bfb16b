"""A network of one layer."""

from __future__ import annotations

from hwbench.network.graph import load
from hwbench.network.graph.build import layer_model
from hwbench.network.workload import Workload
from hwbench.records.layer_key import LayerKey
from hwbench.records.tensors import TensorSpec


def single_layer_workload(key: LayerKey) -> Workload:
    """A network of one layer with random weights.

    Args:
        key: The layer.

    Raises:
        UnsupportedLayerError: There is no recipe for such a layer.
    """
    from onnx.helper import tensor_dtype_to_np_dtype

    data = layer_model(key)
    inputs = tuple(
        TensorSpec(
            value.name,
            tuple(size.dim_value for size in value.type.tensor_type.shape.dim),
            tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in load(data).graph.input
    )
    return Workload(
        str(key), data, inputs, key.output[0], key.precision, key.macs, key.weights, len(data)
    )
