"""PrunableNetwork: a network with its structure, from which pruned versions are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hwbench.errors import UsageError
from hwbench.network.graph import count, layers, load
from hwbench.network.structure.surgery import PrunableGraph
from hwbench.network.tflite import describe
from hwbench.network.tflite.surgery import PrunableTflite
from hwbench.network.workload import TFLITE, Workload
from hwbench.records.layer_key import LayerKey

if TYPE_CHECKING:
    from onnx import ModelProto


class PrunableNetwork:
    """A network, parsed once, with all that can be pruned in it.

        network = PrunableNetwork(load_workload("zoo:mobilenet_v1"))
        half = [width // 2 for width in network.structure.widths]
        network.keys(half)  # the layers of the pruned version, without building it
        network.version(half)  # the pruned version, to be measured

    Pruned versions have the latency of the pruned network but not its accuracy: they keep the first
    channels, not the best. They are in the format of the network.

    Attributes:
        workload: The unpruned network.
        graph: Its graph, from which smaller ones are cut.
        structure: Its groups, droppable blocks and layers; blocks are dropped from ONNX only.

    Args:
        workload: In ONNX, or a `.tflite` file.

    Raises:
        WorkloadError: It holds no valid model.
        UnsupportedLayerError: A tensor's shape is not fixed, or something in a `.tflite` file is
            kept in a form that cannot be cut.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.graph: PrunableGraph | PrunableTflite
        if workload.format == TFLITE:
            self.graph = PrunableTflite(workload.artifact, workload.name)
        else:
            self.graph = PrunableGraph(load(workload.onnx))
        self.structure = self.graph.structure

    def keys(self, widths: Sequence[int]) -> tuple[LayerKey, ...]:
        """The layers of one pruned version, in execution order, without building it.

        Raises:
            UsageError: As `Structure.resolve`.
        """
        return self.structure.keys(widths)

    def keys_by_name(self, widths: Sequence[int]) -> dict[str, LayerKey]:
        """The layers of one pruned version by module path, in execution order.

        Raises:
            UsageError: As `Structure.resolve`.
        """
        return dict(zip(self.structure.names, self.keys(widths), strict=True))

    def keys_without(self, blocks: Iterable[str]) -> tuple[LayerKey, ...]:
        """The layers of the network without some of its blocks, in execution order.

        Raises:
            UsageError: A name is no droppable block.
        """
        return self.keys_of(self.structure.widths, blocks)

    def keys_of(self, widths: Sequence[int], dropped: Iterable[str]) -> tuple[LayerKey, ...]:
        """The layers of a network of other widths without some of its blocks, in execution order.

        Where blocks are dropped the network is built for it, so that layers which a runtime would
        fuse otherwise than in the original have the keys that they get.

        Raises:
            UsageError: As `Structure.resolve`, or a name is no droppable block.
        """
        names = tuple(dropped)
        if not names:
            return self.keys(widths)
        return tuple(layer.key for layer in layers(self._onnx_graph().smaller(widths, names)))

    def version(self, widths: Sequence[int]) -> Workload:
        """The network with each prunable group cut to its width; the original for its own widths.

        Raises:
            UsageError: As `Structure.resolve`.
        """
        resolved = self.structure.resolve(widths)
        if resolved == self.structure.widths:
            return self.workload
        if isinstance(self.graph, PrunableTflite):
            version = describe(self.graph.with_widths(resolved), self.workload.name)
            return replace(version, findings=(), values=self.workload.values)
        return self._workload_of(self.graph.with_widths(resolved))

    def without(self, blocks: Iterable[str]) -> Workload:
        """The network with the named blocks replaced by identities.

        Raises:
            UsageError: A name is no droppable block.
        """
        return self._workload_of(self._onnx_graph().without_blocks(blocks))

    def _onnx_graph(self) -> PrunableGraph:
        """The graph, from which blocks can be dropped.

        Raises:
            UsageError: It is no ONNX graph.
        """
        if isinstance(self.graph, PrunableGraph):
            return self.graph
        raise UsageError(
            f"blocks are dropped from networks in ONNX, and {self.workload.name} is a"
            f" {self.workload.format} file; search for widths instead (knapsack, amc, abcpruner)"
        )

    def _workload_of(self, model: ModelProto) -> Workload:
        """The workload of a smaller model, its own size counted."""
        data = model.SerializeToString()
        counts = count(model)
        return replace(
            self.workload,
            artifact=data,
            macs=counts.macs,
            params=counts.params,
            file_bytes=len(data),
            findings=(),
        )
