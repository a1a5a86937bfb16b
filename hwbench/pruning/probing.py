"""What a pruned torch network has in common with the ONNX graph of the same structure, tried out before a search relies on it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hwbench.network.intake.torch_onnx import FAILURES, quiet, reason
from hwbench.network.ort import onnxruntime
from hwbench.network.structure import Structure
from hwbench.network.structure.blocks import Block
from hwbench.network.structure.surgery import without_blocks
from hwbench.pruning.dropping import SKIP, VANISH, Replacement, replace_modules
from hwbench.pruning.surgeon import IN, OUT, is_dense, size_of

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-3
"""Largest difference of outputs over the largest output; as for exports."""


def outputs_of(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors a network returns in eval mode.

    The module is on the CPU and its mode is not restored.
    """
    with torch.no_grad(), quiet():
        return list(_tensors(module.eval()(*inputs)))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def misfit(
    pruned: nn.Module, inputs: Sequence[Tensor], structure: Structure, widths: Sequence[int]
) -> str:
    """How a pruned network differs from what the structure says about it; empty if it does not."""
    try:
        outputs_of(pruned, inputs)
    except FAILURES as error:
        return f"once it is pruned, the network does not run ({reason(error)})"
    modules = dict(pruned.named_modules())
    for slot in structure.slots:
        name = slot.layer.name
        if name not in modules or not is_dense(modules[name]) or not slot.inputs:
            continue
        for side, dimension in ((IN, slot.inputs[0]), (OUT, slot.output)):
            made, said = size_of(pruned, name, side), dimension.size(widths)
            if dimension.terms and made != said:
                return f"layer {name} has {made} channels {side} where the graph has {said}"
    return ""


class Blocks:
    """Finds out how the blocks of a structure are dropped in torch.

    Args:
        module: The network, on the CPU.
        model: Its ONNX graph.
        structure: Of that graph.
        inputs: Example inputs, on the CPU.
    """

    def __init__(
        self, module: nn.Module, model: ModelProto, structure: Structure, inputs: Sequence[Tensor]
    ) -> None:
        self.module, self.model, self.structure, self.inputs = module, model, structure, inputs
        self._modules = dict(module.named_modules())
        self._layers = [
            slot.layer.name for slot in structure.slots if slot.layer.name in self._modules
        ]

    def find(self) -> dict[str, tuple[Replacement, ...]]:
        """By name of each block that can be dropped, what replaces its modules: tried all together, and one by one if need be."""
        ways = {block.name: self._ways(block) for block in self.structure.blocks}
        first = {name: found[0] for name, found in ways.items() if found}
        if self._agrees(first):
            return first
        found = {}
        for name, candidates in ways.items():
            way = next((way for way in candidates if self._agrees({name: way})), None)
            if way is not None:
                found[name] = way
        return found

    def _ways(self, block: Block) -> list[tuple[Replacement, ...]]:
        """Replacements to try, best first; only such as touch no layer outside the block."""
        own = bool(block.name) and block.name in self._modules
        inside = {name for name in self._layers if name.startswith(f"{block.name}.")}
        ways: list[tuple[Replacement, ...]] = []
        if own and inside == set(block.layers):
            whole = all(
                node.startswith((f"{block.name}.", f"{block.name}/")) for node in block.nodes
            )
            ways += [
                (Replacement(block.name, by),)
                for by in ((SKIP, f"{SKIP}-tuple") if whole else (VANISH,))
            ]
        if set(block.layers) <= set(self._modules):
            outer = [
                name
                for name in block.layers
                if not any(name.startswith(f"{other}.") for other in block.layers)
            ]
            ways.append(tuple(Replacement(name, VANISH) for name in outer))
        return ways

    def _agrees(self, ways: Mapping[str, tuple[Replacement, ...]]) -> bool:
        """Whether torch without these blocks computes what the graph without them does."""
        if not ways:
            return True
        smaller = copy.deepcopy(self.module)
        for replaced in ways.values():
            replace_modules(smaller, replaced)
        try:
            ours = outputs_of(smaller, self.inputs)
        except FAILURES:
            return False
        theirs = self._graph_outputs(list(ways))
        return len(ours) == len(theirs) and all(
            _close(a.numpy(), b) for a, b in zip(ours, theirs, strict=True)
        )

    def _graph_outputs(self, dropped: Sequence[str]) -> list[Any]:
        options = onnxruntime().SessionOptions()
        options.log_severity_level = 4
        data = without_blocks(self.model, dropped).SerializeToString()
        session = onnxruntime().InferenceSession(data, options, providers=["CPUExecutionProvider"])
        given = zip(session.get_inputs(), self.inputs, strict=True)
        outputs: list[Any] = session.run(
            None, {known.name: tensor.numpy() for known, tensor in given}
        )
        return outputs


def _close(ours: Any, theirs: Any) -> bool:
    scale = float(np.abs(theirs).max(initial=0.0)) or 1.0
    return ours.shape == theirs.shape and bool(
        np.abs(ours - theirs).max(initial=0.0) <= TOLERANCE * scale
    )
