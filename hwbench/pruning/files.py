"""A pruned network in a folder.

`network.pt2` holds architecture and weights, `network.onnx` the same network as a graph,
`state_dict.pt` the weights alone, and `recipe.json` how it was made from its original.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hwbench.errors import SchemaError, UsageError, WorkloadError
from hwbench.network.intake import load_workload, reader
from hwbench.network.intake.archives import inspect
from hwbench.network.intake.failures import FAILURES, reason
from hwbench.network.intake.torch_onnx import quiet
from hwbench.pruning.recipe import Pruned, Recipe

PROGRAM, GRAPH, STATE = "network.pt2", "network.onnx", "state_dict.pt"
RECIPE = "recipe.json"


def save(pruned: Pruned, folder: str | Path, example_inputs: Tensor | Sequence[Tensor]) -> None:
    """Write a pruned network so that it runs anywhere without the code that defined it.

    Args:
        pruned: The network; it is left as it is.
        folder: The folder to write into. It is made if need be, and files of the same names are
            replaced.
        example_inputs: One tensor per argument of the network. The first entry of each is the
            static batch of 1 that both files are exported at.

    Raises:
        WorkloadError: The network cannot be exported.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).write_text(pruned.recipe.to_json())
    write_network(pruned.module, folder, example_inputs)


def write_network(
    module: nn.Module, folder: Path, example_inputs: Tensor | Sequence[Tensor]
) -> None:
    """Write a module in eval mode as `network.pt2`, `network.onnx` and `state_dict.pt`.

    Args:
        module: The network; it is left as it is.
        folder: The folder to write into; it is made if need be.
        example_inputs: One tensor per argument; the first entry of each is the batch of 1 that both
            files are exported at.

    Raises:
        WorkloadError: The network cannot be exported.
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
    written = io.BytesIO()
    torch.save(own.state_dict(), written)
    (folder / STATE).write_bytes(written.getvalue())


def load(folder: str | Path, original: nn.Module) -> Pruned:
    """Read a pruned network back as a module that can be trained further.

    Args:
        folder: A folder written by `save`.
        original: The network it was made from; its weights do not matter.

    Raises:
        UsageError: There is no such folder, or the original has another architecture.
        SchemaError: A file is damaged.
        UnsafeModelError: A file would run code when it is read.
    """
    folder = Path(folder)
    try:
        recipe = Recipe.from_json((folder / RECIPE).read_text())
    except OSError as error:
        raise UsageError(
            f"{folder} holds no {RECIPE}: {error.strerror}; expected a folder written by a search"
        ) from error
    module = recipe.apply(original, other_weights=True)
    # A hostile `.pt2` runs code when torch loads it: only bytes that passed inspection are read,
    # and what they ask for is met by the reader process first.
    reader.rehearse(folder / PROGRAM, trust_pickle=False)
    checked = inspect(folder / PROGRAM)
    with quiet():
        try:
            state = torch.export.load(io.BytesIO(checked.payload)).state_dict
        except FAILURES as error:
            raise SchemaError(
                f"{folder / PROGRAM} cannot be read: {reason(error)}; save the network anew"
            ) from error
    try:
        module.load_state_dict(state)
    except FAILURES as error:
        text = " ".join(str(error).split())[:300]
        raise UsageError(
            f"the weights in {folder} do not fit the pruned {recipe.original}: {text}; give its"
            " original"
        ) from error
    return Pruned(module, recipe)
