"""The layers of a workload, whatever the format of its artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwbench.network.workload import TFLITE, Workload

if TYPE_CHECKING:
    from hwbench.network.graph import PartialLayer


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

    return all_layers(load(workload.onnx))
