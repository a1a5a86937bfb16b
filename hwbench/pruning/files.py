"""A pruned network in a folder: `network.pt2` (architecture and weights), `network.onnx`, `recipe.json`."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hwbench.errors import SchemaError, UsageError, WorkloadError
from hwbench.network.intake import load_workload
from hwbench.network.intake.archives import inspect
from hwbench.network.intake.torch_onnx import FAILURES, quiet, reason
from hwbench.pruning.recipe import Pruned, Recipe

PROGRAM, GRAPH, RECIPE = "network.pt2", "network.onnx", "recipe.json"


def save(pruned: Pruned, folder: str | Path, example_inputs: Tensor | Sequence[Tensor]) -> None:
    """Write a pruned network so that it runs anywhere without the code that defined it.

    Args:
        pruned: The network; it is left as it is.
        folder: Made if need be; files of the same names are replaced.
        example_inputs: The first entry of each is the static batch of 1 that both files are
            exported at.

    Raises:
        WorkloadError: It cannot be exported.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_network(pruned.module, place, example_inputs)
    (place / RECIPE).write_text(pruned.recipe.to_json())


def write_network(
    module: nn.Module, folder: Path, example_inputs: Tensor | Sequence[Tensor]
) -> None:
    """Write `network.pt2` and `network.onnx` of a module, in eval mode, on the CPU.

    Both are the same network.

    Raises:
        WorkloadError: It cannot be exported.
    """
    tensors = [example_inputs] if isinstance(example_inputs, Tensor) else list(example_inputs)
    args = tuple(tensor[:1].detach().cpu() for tensor in tensors)
    own = copy.deepcopy(module).cpu().eval()
    with quiet():
        try:
            program = torch.export.export(own, args, strict=False)
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
        except FAILURES as error:
            raise WorkloadError(
                f"{type(module).__name__} cannot be exported by torch.export: {reason(error)}"
            ) from error
    data = load_workload(own, example_inputs=args).onnx
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROGRAM).write_bytes(buffer.getvalue())
    (folder / GRAPH).write_bytes(data)


def load(folder: str | Path, original: nn.Module) -> Pruned:
    """Read a pruned network back as a module that can be trained further.

    Args:
        folder: Written by `save`.
        original: The network it was made from; its weights do not matter.

    Raises:
        UsageError: There is no such folder, or the original has another architecture.
        SchemaError, UnsafeModelError: A file is damaged or hostile.
    """
    place = Path(folder)
    try:
        recipe = Recipe.from_json((place / RECIPE).read_text())
    except OSError as error:
        raise UsageError(
            f"{place} holds no {RECIPE}: {error.strerror}; expected a folder written by a search"
        ) from error
    module = recipe.apply(original, other_weights=True)
    checked = inspect(place / PROGRAM)
    with quiet():
        try:
            state = torch.export.load(io.BytesIO(checked.payload)).state_dict
        except FAILURES as error:
            raise SchemaError(
                f"{place / PROGRAM} cannot be read: {reason(error)}; save the network anew"
            ) from error
    try:
        module.load_state_dict(state)
    except FAILURES as error:
        text = " ".join(str(error).split())[:300]
        raise UsageError(
            f"the weights in {place} do not fit the pruned {recipe.original}: {text}; give its"
            " original"
        ) from error
    return Pruned(module, recipe)
