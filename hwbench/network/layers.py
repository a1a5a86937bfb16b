"""The layers of a workload, whatever the format of its artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.errors import UnsupportedLayerError
from hwbench.network.workload import TFLITE, Workload

if TYPE_CHECKING:
    from hwbench.network.graph import Layer, PartialLayer


def layers_of(workload: Workload) -> tuple[PartialLayer, ...]:
    """List the layers of a workload in the order of execution, also those that have no key.

    Raises:
        WorkloadError: Its artifact is damaged.
    """
    if workload.format == TFLITE:
        from hwbench.network.tflite import layers
        from hwbench.network.tflite.graph import TfliteGraph

        return layers(TfliteGraph(workload.artifact, workload.name))
    from hwbench.network.graph import all_layers, load

    return all_layers(load(workload.onnx_graph))


def keyed_layers_of(workload: Workload) -> tuple[Layer, ...]:
    """List the layers of a workload in the order of execution; all of them have a key.

    Raises:
        UnsupportedLayerError: One has none.
        WorkloadError: Its artifact is damaged.
    """
    from hwbench.network.graph import Layer, layers, load

    if workload.format != TFLITE:
        return layers(load(workload.onnx_graph))
    keyed = []
    for layer in layers_of(workload):
        if not isinstance(layer, Layer):
            raise UnsupportedLayerError(
                f"{layer.name} ({layer.op}) of {workload.name} works on something else than"
                " tensors, so no table knows it; measure the model instead"
            )
        keyed.append(layer)
    return tuple(keyed)
