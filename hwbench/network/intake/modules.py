"""Models as torch modules, for pruning: that needs the layers, not only what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.errors import UsageError
from hwbench.network.intake import reader, torch_files
from hwbench.network.intake.archives import inspect
from hwbench.network.intake.factories import call_factory, is_factory
from hwbench.network.intake.input_texts import InputRequest
from hwbench.network.intake.plain_modules import unwrap
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
    main: Sequence[str | Path] = (),
    trust_pickle: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Load the torch module of a model, in eval mode.

    Args:
        model: `zoo:NAME`, `package.module:factory`, the path of a pickled module of torch.nn
            classes or of a state dict (with `arch`), or an nn.Module, which is copied.
        weights: The path of a file with a state dict to load into the module.
        arch: `package.module:factory` that builds the network of a bare state dict.
        main: Scripts that define classes of `__main__` that a module saved whole is made of.
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
    elif is_factory(str(model)) and not Path(model).exists():
        module = call_factory(str(model))
    else:
        request = _make_request(Path(model), arch, main, trust_pickle=trust_pickle)
        module = _from_file(request)
    if weights is not None:
        request = _make_request(
            Path(weights), type(module).__name__, main, trust_pickle=trust_pickle
        )
        _load_weights(module, request)
    return unwrap(module).eval()


def _make_request(
    path: Path, arch: str | None, main: Sequence[str | Path], *, trust_pickle: bool
) -> ReadRequest:
    scripts = [main] if isinstance(main, str | Path) else main
    # The shape of the input is asked for where the module is run, not here.
    return ReadRequest(
        str(path),
        (InputRequest("", (1,)),),
        arch=arch,
        main=tuple(str(script) for script in scripts),
        trust_pickle=trust_pickle,
        folder=str(Path.cwd()),
    )


def _from_file(request: ReadRequest) -> nn.Module:
    if Path(request.name).is_dir():
        raise UsageError(
            f"{request.name} is a folder; name the code that builds its network and reads its"
            f" weights: 'transformers:AutoModel.from_pretrained(\"{request.name}\")'"
        )
    reader.rehearse(Path(request.name), trust_pickle=request.trust_pickle)
    file = inspect(Path(request.name), trust_pickle=request.trust_pickle)
    if file.kind in KINDS_WITHOUT_MODULES:
        raise UsageError(
            f"{request.name} holds {KINDS_WITHOUT_MODULES[file.kind]}, whose layers cannot be"
            " pruned any more; give the module itself: zoo:NAME, package.module:factory with a file"
            " of weights, or a pickled module"
        )
    module, _ = torch_files.read_module(torch_files.plan_file(file, request), request)
    return module


def _load_weights(module: nn.Module, request: ReadRequest) -> None:
    reader.rehearse(Path(request.name), trust_pickle=request.trust_pickle)
    file = inspect(Path(request.name), trust_pickle=request.trust_pickle)
    if file.kind in KINDS_WITHOUT_MODULES:
        raise UsageError(
            f"{request.name} holds {KINDS_WITHOUT_MODULES[file.kind]}; weights are read from a"
            " state dict, saved by torch.save(module.state_dict(), FILE)"
        )
    torch_files.load_weights(module, torch_files.plan_file(file, request), request)
