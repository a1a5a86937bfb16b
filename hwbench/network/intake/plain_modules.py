"""Plain copies of modules: without wrappers, with weights instead of what makes them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hwbench.errors import Argument, WorkloadError
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from torch import nn

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "OptimizedModule", "AveragedModel")
"""Classes of torch whose one submodule is the network."""
_MAX_DEPTH = 6


def unwrap(module: nn.Module) -> nn.Module:
    """Take a network out of what torch wraps it in for training and compiling."""
    while type(module).__name__ in _WRAPPERS and type(module).__module__.startswith("torch."):
        children = list(module.children())
        if not children:
            break
        module = children[0]
    return module


def check_kind(module: nn.Module, name: str) -> None:
    """Refuse modules that have no weights to compute with, or no way to ONNX.

    Args:
        module: The module.
        name: The name of the model, for messages.

    Raises:
        WorkloadError: It is one of them; the message says what to do.
    """
    for part_name, part in module.named_modules():
        kind = type(part)
        if kind.__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
            raise WorkloadError(
                f"{name} was quantised by torch ({part_name or 'it'} is a {kind.__name__}), which"
                " has no way to ONNX; give the network before that, to be quantised here",
                Argument("precision", "int8"),
            )
    for part_name, tensor in module.named_parameters():
        if tensor.is_meta:
            raise WorkloadError(
                f"{name} has no weights yet ({part_name} is on the device 'meta'); make it on the"
                " CPU, or call .to_empty(device='cpu')"
            )
        if type(tensor).__module__.startswith("torchao"):
            raise WorkloadError(
                f"{name} was quantised by torchao ({part_name} is a {type(tensor).__name__}), which"
                " has no way to ONNX; give the network before that, to be quantised here",
                Argument("precision", "int8"),
            )


def copy_module(module: nn.Module) -> nn.Module:
    """Copy a module; tensors that were computed and hang on it are copied as they are.

    `copy.deepcopy` takes no tensor that remembers how it was computed, as those are that masks,
    weight norm and hooks leave on a module.
    """
    memo: dict[int, Any] = {}
    kept = []
    for part in module.modules():
        for value in _computed_tensors(vars(part), 0):
            memo[id(value)] = value.detach().clone()
            kept.append(value)
    return copy.deepcopy(module, memo)


def _computed_tensors(value: Any, depth: int) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        if not value.is_leaf:
            yield value
    elif depth < _MAX_DEPTH:
        entries: Any = ()
        if isinstance(value, dict):
            entries = list(value.values())
        elif isinstance(value, list | tuple | set):
            entries = value
        elif hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module | type):
            entries = [vars(value)]
        for entry in entries:
            yield from _computed_tensors(entry, depth + 1)


def fold_weights(module: nn.Module) -> tuple[Finding, ...]:
    """Compute the weights of masks, weight norm and spectral norm once, in place.

    That is what whoever uses a network does before it is exported.

    Args:
        module: A module in eval mode.
    """
    import torch
    from torch.nn.utils import parametrize, prune

    if isinstance(module, torch.jit.ScriptModule):
        return ()
    count = 0
    with torch.no_grad():
        for part in list(module.modules()):
            if parametrize.is_parametrized(part):
                count += _fold_parametrizations(part)
            for hook in list(part._forward_pre_hooks.values()):  # noqa: SLF001 - no public way
                count += _fold_hook(part, hook, prune)
    if not count:
        return ()
    text = (
        f"{count} weights are made from factors at every run (masks, weight norm or spectral norm);"
        " their product is measured"
    )
    return (Finding("weights_folded", text),)


def _fold_parametrizations(part: nn.Module) -> int:
    """Give a layer its weights as plain parameters.

    torch's own removal changes the class of the layer, which a copy shares with the original.
    """
    from torch import nn

    names = list(part.parametrizations)  # type: ignore[arg-type]
    weights = {name: getattr(part, name).detach().clone() for name in names}
    part.__class__ = type(part).__bases__[0]
    del part.parametrizations
    for name, weight in weights.items():
        part.register_parameter(name, nn.Parameter(weight))
    return len(names)


def _fold_hook(part: nn.Module, hook: Any, prune: Any) -> int:
    from torch.nn.utils import remove_spectral_norm, remove_weight_norm

    kind = type(hook).__name__
    is_torchs = type(hook).__module__.startswith("torch.nn.utils.")
    if isinstance(hook, prune.BasePruningMethod):
        prune.remove(part, hook._tensor_name)  # noqa: SLF001 - no public way
    elif is_torchs and kind == "WeightNorm":
        remove_weight_norm(part, hook.name)
    elif is_torchs and kind == "SpectralNorm":
        remove_spectral_norm(part, hook.name)
    else:
        return 0
    return 1
