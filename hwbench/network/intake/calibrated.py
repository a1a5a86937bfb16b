"""An fp32 network with known ranges of its activations: its int8 versions, whole or in part."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from hwbench.errors import UsageError
from hwbench.network import graph
from hwbench.network.graph.shapes import drop_runtime_shapes
from hwbench.network.intake import files, onnx_files
from hwbench.network.intake.quantize import Feed, calibrate, quantize_calibrated
from hwbench.network.workload import Workload


class CalibratedNetwork:
    """An fp32 network whose activations' ranges are known.

    The ranges are found once, and serve every version that leaves some layers in fp32.

    Args:
        workload: The network.
        feeds: What its activations' ranges are taken from.

    Raises:
        UsageError: The network is not in fp32.
        WorkloadError: It does not run, or ONNX Runtime's quantiser refuses it.
    """

    def __init__(self, workload: Workload, feeds: Iterable[Feed]) -> None:
        if workload.precision != "fp32":
            raise UsageError(
                f"{workload.name} is in {workload.precision} already; give the fp32 network that"
                " it was made from"
            )
        self.workload = workload
        self._model = graph.load(workload.onnx)
        self._layers = {layer.name: layer for layer in graph.all_layers(self._model)}
        self._ranges = calibrate(self._model, feeds, workload.name)

    @property
    def weighted_layers(self) -> tuple[str, ...]:
        """Names of the convolutions and linear layers, in order."""
        return tuple(name for name, layer in self._layers.items() if layer.macs and layer.params)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers in order, as profiles call them."""
        return tuple(self._layers)

    def quantize(self, name: str, left: Collection[str] = ()) -> Workload:
        """The network in int8.

        Args:
            name: What to call it.
            left: Names of layers that stay in fp32.

        Raises:
            WorkloadError: ONNX Runtime's quantiser refuses the network.
        """
        nodes = {node for layer in left for node in self._layers[layer].nodes}
        model = quantize_calibrated(self._model, self._ranges, self.workload.name, nodes)
        data = onnx_files.serialise(graph.name_nodes(model), name)
        model = files.complete(data, name, 0).model
        drop_runtime_shapes(model)
        data = onnx_files.serialise(model, name)
        return replace(
            self.workload,
            name=name,
            artifact=data,
            inputs=onnx_files.input_specs(model, name),
            precision=graph.find_precision(model),
            file_bytes=len(data),
        )
