"""Models as torch modules, for pruning: that needs the layers, not only what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.errors import UsageError
from hwbench.network.intake import reader, torch_files
from hwbench.network.intake.archives import inspect
from hwbench.network.intake.torch_files import ReadRequest

if TYPE_CHECKING:
    from torch import nn

KINDS_WITHOUT_MODULES = {
    "onnx": "an ONNX graph",
    "program": "an exported program (torch.export)",
    "script": "TorchScript",
}
"""Kinds of files whose networks run, but have no modules left that could be pruned."""


def load_module(
    model: str | Path | nn.Module,
    *,
    weights: str | Path | None = None,
    arch: str | None = None,
    trust_pickle: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Load the torch module of a model, in eval mode.

    Args:
        model: `zoo:NAME`, `package.module:factory`, the path of a pickled module of torch.nn
            classes or of a state dict (with `arch`), or an nn.Module, which is copied.
        weights: The path of a file with a state dict to load into the module.
        arch: `package.module:factory` that builds the network of a bare state dict.
        trust_pickle: Whether pickles may run code.
        seed: The seed of the zoo's weights.

    Raises:
        UsageError: The model holds no layers that could be pruned, or the weights do not fit it.
        UnsafeModelError: A file would execute code.
        SchemaError: A file is damaged.
    """
    import copy

    import torch

    if isinstance(model, torch.nn.Module):
        module = copy.deepcopy(model)
    elif not isinstance(model, str | Path):
        raise UsageError(
            f"cannot load a {type(model).__name__}; expected zoo:NAME, package.module:factory, a"
            " file or an nn.Module"
        )
    elif str(model).startswith("zoo:"):
        from hwbench.network import zoo

        module = zoo.build(str(model).removeprefix("zoo:"), seed)
    elif ":" in str(model) and not Path(model).exists():
        module = torch_files.call_factory(str(model))
    else:
        module = _from_file(Path(model), arch, trust_pickle=trust_pickle)
    if weights is not None:
        _load_weights(module, Path(weights), trust_pickle=trust_pickle)
    return module.eval()


def _from_file(path: Path, arch: str | None, *, trust_pickle: bool) -> nn.Module:
    import torch

    reader.rehearse(path, trust_pickle=trust_pickle)
    file = inspect(path, trust_pickle=trust_pickle)
    if file.kind in KINDS_WITHOUT_MODULES:
        raise UsageError(
            f"{path} holds {KINDS_WITHOUT_MODULES[file.kind]}, whose layers cannot be pruned any"
            " more; give the module itself: zoo:NAME, package.module:factory with a file of"
            " weights, or a pickled module"
        )
    content = torch_files.unpickle(file.payload, str(path), trust=trust_pickle)
    if isinstance(content, torch.nn.Module):
        return content
    return torch_files.build_architecture(content, ReadRequest(str(path), arch=arch))


def _load_weights(module: nn.Module, path: Path, *, trust_pickle: bool) -> None:
    reader.rehearse(path, trust_pickle=trust_pickle)
    file = inspect(path, trust_pickle=trust_pickle)
    if file.kind in KINDS_WITHOUT_MODULES:
        raise UsageError(
            f"{path} holds {KINDS_WITHOUT_MODULES[file.kind]}; weights are read from a state dict,"
            " saved by torch.save(module.state_dict(), FILE)"
        )
    content = torch_files.unpickle(file.payload, str(path), trust=trust_pickle)
    torch_files.load_weights(module, content, str(path), type(module).__name__)
