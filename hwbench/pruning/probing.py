"""Trying out, before a search relies on it, that torch and the ONNX graph prune alike."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hwbench.network.intake.failures import FAILURES, reason
from hwbench.network.intake.torch_onnx import quiet
from hwbench.network.ort import onnxruntime
from hwbench.network.structure.blocks import Block
from hwbench.network.structure.surgery import PrunableGraph
from hwbench.pruning.dropping import SKIP, SKIP_TUPLE, VANISH, Replacement, replace_modules
from hwbench.pruning.surgeon import CONVOLUTIONS, IN, OUT, is_dense, size_of

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-3
"""Largest accepted difference of outputs, over the largest output; the same as for exports."""


def outputs_of(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run a network in eval mode and collect the tensors it returns, in order.

    Args:
        module: The network, on the CPU. It stays in eval mode.
        inputs: One tensor per argument.
    """
    with torch.no_grad(), quiet():
        return list(_iterate_tensors(module.eval()(*inputs)))


def _iterate_tensors(value: Any) -> Iterator[Tensor]:
    """Find the tensors in nested mappings, lists and tuples; anything else is passed over."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _iterate_tensors(item)


class GroupProbe:
    """Finds out by trying whether torch, pruned, is what the graph is, pruned alike.

    Args:
        graph: The ONNX graph of the network.
        inputs: Example inputs, one tensor per argument, on the CPU.
        values: Whether both must compute the same; they need not where torch computes weights from
            all of a layer's inputs anew.

    Attributes:
        rescaled: Names of groups whose pruning may rescale what is computed in torch: attention
            divides by the root of how many channels its heads have, which is a constant of the
            graph.
    """

    def __init__(self, graph: PrunableGraph, inputs: Sequence[Tensor], *, values: bool) -> None:
        self.graph, self.inputs, self.values = graph, inputs, values
        self.structure = graph.structure
        self.rescaled: set[str] = set()
        for layout in graph.channels.summed.values():
            for number in graph.channels.groups_in(layout):
                self.rescaled.add(graph.structure.groups[number].name)

    def describe_misfit(self, pruned: nn.Module, widths: Sequence[int]) -> str:
        """Describe how a pruned network differs from what the graph says about it.

        Args:
            pruned: The network on the CPU, with the first channels of every group.
            widths: The width of every group, in channels.

        Returns:
            The difference in words; empty if there is none.
        """
        try:
            torch_outputs = outputs_of(pruned, self.inputs)
        except FAILURES as error:
            return f"once it is pruned, the network does not run ({reason(error)})"
        modules = dict(pruned.named_modules())
        for slot in self.structure.slots:
            name = slot.layer.name
            if name not in modules or not is_dense(modules[name]) or not slot.inputs:
                continue
            if isinstance(modules[name], CONVOLUTIONS) and slot.inputs[0].axis > 1:
                continue  # it slides over the channels, and its own are others
            for side, dimension in ((IN, slot.inputs[0]), (OUT, slot.output)):
                in_torch, in_graph = size_of(pruned, name, side), dimension.size(widths)
                if dimension.terms and in_torch != in_graph:
                    return (
                        f"layer {name} has {in_torch} channels {side} where the graph has"
                        f" {in_graph}"
                    )
        smaller = self.graph.with_widths(widths)
        graph_outputs = run_graph(smaller, self.inputs)
        for output, expected in zip(torch_outputs, graph_outputs, strict=False):
            if output.shape != expected.shape:
                return "once it is pruned, the network has outputs of another shape than its graph"
        if not self.values or _are_close(torch_outputs, graph_outputs):
            return ""
        if self._rescale_products(smaller, widths) and _are_close(
            torch_outputs, run_graph(smaller, self.inputs)
        ):
            return ""
        return "once it is pruned, the network computes something else than its graph"

    def _rescale_products(self, model: ModelProto, widths: Sequence[int]) -> bool:
        """Let products be divided by the root of the channels that are left, in place.

        The graph divides by the root of those that there were.

        Returns:
            Whether any lost channels.
        """
        from onnx import numpy_helper
        from onnx.helper import make_node

        factors: dict[str, float] = {}
        for name, layout in self.graph.channels.summed.items():
            left = len(self.graph.channels.kept_entries(layout, widths))
            if left < layout.size:
                factors[name] = math.sqrt(layout.size / left)
        nodes = list(model.graph.node)
        del model.graph.node[:]
        for node in nodes:
            model.graph.node.append(node)
            for position, name in enumerate(node.output):
                if name not in factors:
                    continue
                model.graph.node[-1].output[position] = f"{name} unscaled"
                factor = numpy_helper.from_array(
                    np.array(factors[name], np.float32), f"{name} factor"
                )
                model.graph.initializer.append(factor)
                model.graph.node.append(make_node("Mul", [f"{name} unscaled", factor.name], [name]))
        return bool(factors)


def run_graph(model: ModelProto, inputs: Sequence[Tensor]) -> list[Any]:
    """Run a graph; the outputs are NumPy arrays.

    Args:
        model: The graph.
        inputs: One tensor per input, on the CPU.
    """
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime().InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {}
    for graph_input, tensor in zip(session.get_inputs(), inputs, strict=True):
        feeds[graph_input.name] = tensor.numpy()
    outputs: list[Any] = session.run(None, feeds)
    return outputs


class BlockProbe:
    """Finds out by trying how the blocks of a structure are dropped in torch.

    Args:
        module: The network, on the CPU.
        graph: The ONNX graph of the network.
        inputs: Example inputs, one tensor per argument, on the CPU.
    """

    def __init__(self, module: nn.Module, graph: PrunableGraph, inputs: Sequence[Tensor]) -> None:
        self.module, self.graph, self.inputs = module, graph, inputs
        self.structure = graph.structure
        self._modules = dict(module.named_modules())
        self._layers = [
            slot.layer.name for slot in self.structure.slots if slot.layer.name in self._modules
        ]

    def find_replacements(self) -> dict[str, tuple[Replacement, ...]]:
        """Find what replaces the modules of each block that can be dropped, by its name.

        The best replacements of all blocks are tried together first, as that nearly always works
        and costs one run; only if it does not are the blocks tried one by one.
        """
        options = {}
        for block in self.structure.blocks:
            replacements = self._list_replacements(block)
            if replacements:
                options[block.name] = replacements
        best = {name: replacements[0] for name, replacements in options.items()}
        if self._matches_graph(best):
            return best
        working = {}
        for name, replacements in options.items():
            for replacement in replacements:
                if self._matches_graph({name: replacement}):
                    working[name] = replacement
                    break
        return working

    def _list_replacements(self, block: Block) -> list[tuple[Replacement, ...]]:
        """List the replacements to try, best first, that touch no layer outside the block."""
        own = bool(block.name) and block.name in self._modules
        inside = {name for name in self._layers if name.startswith(f"{block.name}.")}
        options: list[tuple[Replacement, ...]] = []
        if own and inside == set(block.layers):
            # Where the block's addition lies inside the module, the module is the block, shortcut
            # included; else it is only the branch, and the addition stands in its parent.
            prefixes = (f"{block.name}.", f"{block.name}/")
            if all(node.startswith(prefixes) for node in block.nodes):
                options.append((Replacement(block.name, SKIP),))
                options.append((Replacement(block.name, SKIP_TUPLE),))
            else:
                options.append((Replacement(block.name, VANISH),))
        if set(block.layers) <= set(self._modules):
            # A layer inside another layer of the block goes with it.
            inner = tuple(f"{layer}." for layer in block.layers)
            outer = [layer for layer in block.layers if not layer.startswith(inner)]
            options.append(tuple(Replacement(layer, VANISH) for layer in outer))
        return options

    def _matches_graph(self, replacements: Mapping[str, tuple[Replacement, ...]]) -> bool:
        """Tell whether torch without these blocks computes what the graph without them does."""
        if not replacements:
            return True
        smaller = copy.deepcopy(self.module)
        for replaced in replacements.values():
            replace_modules(smaller, replaced)
        try:
            torch_outputs = outputs_of(smaller, self.inputs)
        except FAILURES:
            return False
        graph_outputs = run_graph(self.graph.without_blocks(list(replacements)), self.inputs)
        if len(torch_outputs) != len(graph_outputs):
            return False
        for in_torch, in_graph in zip(torch_outputs, graph_outputs, strict=True):
            if not _is_close(in_torch.numpy(), in_graph):
                return False
        return True


def _are_close(in_torch: Sequence[Tensor], in_graph: Sequence[Any]) -> bool:
    """Tell whether outputs of torch and of a graph agree, as far as there are both."""
    for output, expected in zip(in_torch, in_graph, strict=False):
        if not _is_close(output.numpy(), expected):
            return False
    return True


def _is_close(in_torch: Any, in_graph: Any) -> bool:
    if in_torch.shape != in_graph.shape:
        return False
    if not np.isfinite(in_graph).all():
        return bool(np.array_equal(np.isfinite(in_torch), np.isfinite(in_graph)))
    scale = float(np.abs(in_graph).max(initial=0.0)) or 1.0
    return bool(np.abs(in_torch - in_graph).max(initial=0.0) <= TOLERANCE * scale)
