"""Putting the weights of a file into a network, whose layers may be wider than they were saved.

Names are matched however the network was wrapped when it was saved. Where the weights are narrower,
the layers are cut to them: every width is read from the tensors, so that it does not matter which
tool pruned the network, nor which channels it took.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwbench.errors import UsageError
from hwbench.records.findings import Finding

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\."
)
"""Parts that torch puts into names when it wraps parts of a network."""
_COUNTERS = re.compile(r"(?:^|\.)(?:total_ops|total_params|n_averaged|num_updates|decay)$")
"""Buffers that counters of operations and averages leave in a network."""
_STATISTICS = re.compile(r"(?:^|\.)(?:num_batches_tracked)$")


@dataclass(frozen=True, slots=True)
class Fit:
    """How the weights of a file go with the names of a network.

    Attributes:
        source: The name in the file, by name in the network.
        stripped: What stands before every name in the file; empty for nothing.
        added: What stands before every name in the network; empty for nothing.
        missing: Names of the network that the file lacks.
        extra: Names of the file that the network lacks.
    """

    source: Mapping[str, str]
    stripped: str
    added: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def match_names(own: Sequence[str], saved: Iterable[str]) -> Fit:
    """Match the names of a network with those of a file.

    Args:
        own: The names of the network's parameters and buffers.
        saved: The names in the file.
    """
    plain = {_plain(name): name for name in own}
    by_name = {_WRAPPERS.sub("", name): name for name in saved}
    stripped = _find_prefix(plain, by_name)
    added = ""
    if not stripped and not plain.keys() & by_name.keys():
        added = _find_prefix(by_name, plain)
    source: dict[str, str] = {}
    for plain_name, name in plain.items():
        looked_up = plain_name.removeprefix(added)
        if stripped + looked_up in by_name and plain_name.startswith(added):
            source[name] = by_name[stripped + looked_up]
    used = set(source.values())
    missing = tuple(name for name in own if name not in source)
    extra = tuple(name for name in by_name.values() if name not in used)
    return Fit(source, stripped, added, missing, extra)


def _plain(name: str) -> str:
    return _WRAPPERS.sub("", name)


def _find_prefix(names: Mapping[str, Any], longer: Mapping[str, Any]) -> str:
    """Find what must be taken from `longer` names so that most of them are among `names`."""
    counts: Counter[str] = Counter()
    for name in longer:
        if name in names:
            counts[""] += 1
        at = name.find(".")
        while at >= 0:
            if name[at + 1 :] in names:
                counts[name[: at + 1]] += 1
            at = name.find(".", at + 1)
    if not counts:
        return ""
    best = max(counts.values())
    return min((prefix for prefix, count in counts.items() if count == best), key=len)


def fold_reparametrised(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Compute the weights that masks, weight norm and spectral norm make of the saved tensors.

    Args:
        weights: Tensors by name, as saved.

    Returns:
        Tensors by name, those of reparametrised weights replaced by what they make; and how many.
    """
    folded = dict(weights)
    count = 0
    for name in list(weights):
        for ending, rule in _FOLDS.items():
            if name.endswith(ending) and name in folded:
                tried = dict(folded)
                try:
                    is_folded = rule(tried, name.removesuffix(ending))
                except (IndexError, RuntimeError, TypeError, ValueError):
                    continue  # tensors of these names whose shapes are not those of factors
                if is_folded:
                    folded = tried
                    count += 1
    return folded, count


def _fold_mask(tensors: dict[str, Tensor], stem: str) -> bool:
    if f"{stem}_orig" not in tensors:
        return False
    tensors[stem] = tensors.pop(f"{stem}_orig") * tensors.pop(f"{stem}_mask")
    return True


def _fold_weight_norm(tensors: dict[str, Tensor], stem: str, size: str, direction: str) -> bool:
    import torch

    if size not in tensors or direction not in tensors:
        return False
    length, direction_tensor = tensors.pop(size), tensors.pop(direction)
    dims = [dim for dim in range(direction_tensor.ndim) if length.shape[dim : dim + 1] == (1,)]
    norm = torch.linalg.vector_norm(direction_tensor.float(), dim=dims or None, keepdim=True)
    tensors[stem] = (length.float() * direction_tensor.float() / norm).to(direction_tensor.dtype)
    return True


def _fold_weight_norm_hook(tensors: dict[str, Tensor], stem: str) -> bool:
    return _fold_weight_norm(tensors, stem, f"{stem}_g", f"{stem}_v")


def _fold_weight_norm_parametrization(tensors: dict[str, Tensor], stem: str) -> bool:
    plain = _unparametrised(stem)
    first = f"{stem}.original"
    return _fold_weight_norm(tensors, plain, f"{first}0", f"{first}1")


def _fold_spectral(
    tensors: dict[str, Tensor], target: str, weight: str, left: str, right: str
) -> bool:
    import torch

    if weight not in tensors or left not in tensors:
        return False
    saved = tensors.pop(weight).float()
    first = tensors.pop(left).float()
    second = tensors.pop(right, None)
    # The vectors belong to the weight with its output dimension first; that of transposed
    # convolutions is the second.
    matrix = saved
    if matrix.shape[0] != len(first) and matrix.ndim > 1:
        matrix = saved.transpose(0, 1)
    matrix = matrix.reshape(matrix.shape[0], -1)
    if second is None:
        second = torch.nn.functional.normalize(first @ matrix, dim=0)
    sigma = first @ (matrix @ second.float())
    tensors[target] = saved / sigma
    return True


def _fold_spectral_hook(tensors: dict[str, Tensor], stem: str) -> bool:
    return _fold_spectral(tensors, stem, f"{stem}_orig", f"{stem}_u", f"{stem}_v")


def _fold_spectral_parametrization(tensors: dict[str, Tensor], stem: str) -> bool:
    plain = _unparametrised(stem)
    return _fold_spectral(tensors, plain, f"{stem}.original", f"{stem}.0._u", f"{stem}.0._v")


def _unparametrised(stem: str) -> str:
    """Give the name of a weight: `conv.weight` for `conv.parametrizations.weight`."""
    owner, _, leaf = stem.rpartition("parametrizations.")
    return owner + leaf


_FOLDS = {
    "_mask": _fold_mask,
    ".original1": _fold_weight_norm_parametrization,
    ".0._u": _fold_spectral_parametrization,
    "_g": _fold_weight_norm_hook,
    "_u": _fold_spectral_hook,
}
"""What is done about a name with this ending."""


def load_into(
    module: nn.Module, weights: Mapping[str, Tensor], name: str, arch: str
) -> tuple[Finding, ...]:
    """Put weights into a network, in place, and cut its layers to narrower ones.

    Args:
        module: The network.
        weights: Tensors by name.
        name: The name of the file, for messages.
        arch: The name of the network, for messages.

    Returns:
        What was stripped, computed, left out and cut.

    Raises:
        UsageError: The weights are of another network; the message says where they differ first.
    """
    findings = []
    own = _own_tensors(module)
    fit = match_names(list(own), weights)
    if fit.missing:
        plain, count = fold_reparametrised(weights)
        folded_fit = match_names(list(own), plain)
        if count and len(folded_fit.missing) < len(fit.missing):
            fit, weights = folded_fit, plain
            findings.append(
                Finding(
                    "weights_folded",
                    f"{count} weights of {name} are saved as factors (masks, weight norm or"
                    " spectral norm); their product is measured",
                )
            )
    _check_fit(module, fit, name, arch)
    if fit.stripped or fit.added:
        what = f"without {fit.stripped!r}" if fit.stripped else f"with {fit.added!r} before them"
        findings.append(
            Finding("names_matched", f"the names in {name} are read {what}, as {arch} has them")
        )
    if fit.extra:
        findings.append(
            Finding(
                "weights_left_out",
                f"{_count_tensors(fit.extra)} of {name} that {arch} has no place for"
                f" {_were(fit.extra)} left out",
            )
        )
    narrower = _find_narrower(own, fit, weights, name, arch)
    _set_tensors(module, own, fit, weights, {key for key, _, _ in narrower})
    if narrower:
        first, old, new = narrower[0]
        findings.append(
            Finding(
                "layers_cut_to_weights",
                f"{len(narrower)} of {len(own)} tensors of {name} are smaller than those of {arch}"
                f" (first {first}: {_shape(new)}, not {_shape(old)}); its layers were cut to them",
            )
        )
    return tuple(findings)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """List the tensors that a network saves."""
    import torch

    saved = module.state_dict(keep_vars=True)
    # `get_extra_state` may give anything.
    return {key: value for key, value in saved.items() if isinstance(value, torch.Tensor)}


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _count_tensors(names: Sequence[str]) -> str:
    listing = ", ".join(name[:60] for name in names[:3])
    if len(names) > 3:
        listing += f" and {len(names) - 3} more"
    return f"{len(names)} tensor{'s' * (len(names) != 1)} ({listing})"


def _check_fit(module: nn.Module, fit: Fit, name: str, arch: str) -> None:
    """Refuse weights of another network.

    Buffers that a network computes for itself may be missing. What lies beside the network in the
    file may be left over, but not a layer among its own.
    """
    own = _own_tensors(module)
    shared = {id(own[key]) for key in fit.source}  # one tensor may have two names
    parameters = {key for key, tensor in module.named_parameters() if id(tensor) not in shared}
    missing = []
    for key in fit.missing:
        is_statistic = key.endswith(("running_mean", "running_var"))
        if key in parameters or is_statistic:
            missing.append(key)
    foreign = [key for key in fit.extra if _is_of_network(module, key, fit)]
    if not fit.source:
        raise UsageError(
            f"the weights of {name} are not those of {arch}: no name of its"
            f" {len(fit.missing)} tensors is in the file, which has {_count_tensors(fit.extra)};"
            " name the code that builds the network that was saved"
        )
    if missing:
        modules = _owners(missing)
        raise UsageError(
            f"{name} has no weights for {modules} of {arch}{_says_what(module, missing[0])};"
            " name the code that builds the network without it, or save all weights"
        )
    if foreign:
        raise UsageError(
            f"{name} has weights for {_owners(foreign)}, which {arch} does not have; name the code"
            " that builds the network that was saved, with its arguments if it takes any"
        )


def _is_of_network(module: nn.Module, key: str, fit: Fit) -> bool:
    """Tell whether a name of the file that is left over belongs to a layer of the network."""
    import torch

    plain = _WRAPPERS.sub("", key)
    if _COUNTERS.search(plain) or _STATISTICS.search(plain) or not plain.startswith(fit.stripped):
        return False
    path = (fit.added + plain.removeprefix(fit.stripped)).split(".")
    # Beside the network's own parts anything may lie; inside one of them it is another network,
    # unless that part has all that a layer of its class can have.
    owner: nn.Module = module
    for part in path[:-1]:
        child = getattr(owner, part, None)
        if not isinstance(child, torch.nn.Module):
            return owner is not module or len(path) > 2 or path[-1] == "weight"
        owner = child
    return path[-1] in {"weight", "bias"} and owner is not module


def _owners(names: Sequence[str]) -> str:
    owners = list(dict.fromkeys(name.rpartition(".")[0] or name for name in names))
    listing = ", ".join(owner[:60] for owner in owners[:3])
    return listing + (f" and {len(owners) - 3} more modules" if len(owners) > 3 else "")


def _says_what(module: nn.Module, key: str) -> str:
    owner = key.rpartition(".")[0]
    try:
        return f" ({' '.join(str(module.get_submodule(owner)).split())[:100]})" if owner else ""
    except AttributeError:
        return ""


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"


def _find_narrower(
    own: Mapping[str, Tensor], fit: Fit, weights: Mapping[str, Tensor], name: str, arch: str
) -> list[tuple[str, Sequence[int], Sequence[int]]]:
    """Find the tensors whose shapes differ, with the shape of the network and that of the file.

    Raises:
        UsageError: Pruning channels cannot have made a shape of the other.
    """
    narrower: list[tuple[str, Sequence[int], Sequence[int]]] = []
    for key, tensor in own.items():
        if key in fit.source and not _is_lazy(tensor):
            old_shape, new_shape = tensor.shape, weights[fit.source[key]].shape
            if old_shape != new_shape:
                _check_narrower(key, old_shape, new_shape, name, arch)
                narrower.append((key, old_shape, new_shape))
    return narrower


def _is_lazy(tensor: Tensor) -> bool:
    """Tell whether a tensor gets its shape with the first input of the network."""
    from torch.nn.parameter import is_lazy

    return bool(is_lazy(tensor))


def _set_tensors(
    module: nn.Module,
    own: Mapping[str, Tensor],
    fit: Fit,
    weights: Mapping[str, Tensor],
    narrower: set[str],
) -> None:
    """Set every tensor of a network that the file has, and bring the sizes of layers in line."""
    import torch

    for key, tensor in own.items():
        if key not in fit.source:
            continue
        saved = weights[fit.source[key]]
        if key in narrower or _is_lazy(tensor):
            _replace_tensor(module, key, tensor, saved)
        else:
            with torch.no_grad():
                tensor.copy_(saved)
    for owner in dict.fromkeys(key.rpartition(".")[0] for key in narrower):
        _update_sizes(module.get_submodule(owner))


def _check_narrower(key: str, old: Sequence[int], new: Sequence[int], name: str, arch: str) -> None:
    """Refuse a shape that pruning channels cannot have made of another."""
    if len(old) != len(new):
        problem = f"has {len(new)} dimensions, not {len(old)}"
    elif tuple(old[2:]) != tuple(new[2:]) and len(old) > 2:
        problem = "has a kernel of another size"
    elif any(after > before for before, after in zip(old, new, strict=True)):
        problem = "is wider"
    elif 0 in new:
        problem = "is empty"
    else:
        return
    raise UsageError(
        f"{key} of {name} ({_shape(new)}) cannot come from pruning channels of {arch}"
        f" ({_shape(old)}): it {problem}; name the code that builds the network that was saved,"
        " with its arguments if it takes any"
    )


def _replace_tensor(module: nn.Module, key: str, old: Tensor, new: Tensor) -> None:
    import torch

    owner_path, _, leaf = key.rpartition(".")
    owner = module.get_submodule(owner_path)
    if isinstance(old, torch.nn.Parameter):
        dtype = old.dtype if new.is_floating_point() else new.dtype
        is_float = new.is_floating_point()
        setattr(owner, leaf, torch.nn.Parameter(new.to(dtype), requires_grad=is_float))
    else:
        setattr(owner, leaf, new.to(old.dtype))


def _update_sizes(layer: nn.Module) -> None:
    """Bring the sizes that a layer keeps as numbers in line with its tensors."""
    from torch import nn

    tensors = layer.state_dict()
    shape = tuple(tensors["weight"].shape) if "weight" in tensors else ()
    sizes: dict[str, Any] = {}
    match layer:
        case nn.modules.conv._ConvNd():  # noqa: SLF001 - the common base has no public name
            _update_convolution(layer, shape)
        case nn.Embedding():
            sizes = {"num_embeddings": shape[0], "embedding_dim": shape[1]}
        case nn.GroupNorm():
            sizes = {"num_channels": shape[0]}
        case nn.LayerNorm() | nn.RMSNorm():
            sizes = {"normalized_shape": shape}
        case nn.PReLU():
            sizes = {"num_parameters": shape[0]}
        case nn.MultiheadAttention() if "in_proj_weight" in tensors:
            width = tensors["in_proj_weight"].shape[1]
            head = width // layer.num_heads
            sizes = {"embed_dim": width, "kdim": width, "vdim": width, "head_dim": head}
        case nn.RNNBase():
            first, second = tensors["weight_ih_l0"], tensors["weight_hh_l0"]
            sizes = {"input_size": first.shape[1], "hidden_size": second.shape[1]}
        case _:
            # Linear layers, normalisation, and layers of other people that keep their sizes under
            # the same names.
            vectors = [len(tensor) for tensor in tensors.values() if tensor.ndim == 1]
            possible = {
                "out_features": shape[:1], "in_features": shape[1:2], "num_features": vectors[:1]
            }  # fmt: skip
            for name, size in possible.items():
                if size and isinstance(getattr(layer, name, None), int):
                    sizes[name] = size[0]
    for name, size in sizes.items():
        setattr(layer, name, size)


def _update_convolution(layer: Any, shape: Sequence[int]) -> None:
    """Bring the channels and groups of a convolution in line with the shape of its weight."""
    # The first dimension of the weight is that of the outputs, of a transposed one the inputs.
    first, second = "out_channels", "in_channels"
    if layer.transposed:
        first, second = second, first
    if layer.groups > 1 and layer.groups == layer.in_channels:
        # Depthwise: a group for each channel that is left.
        layer.groups = max(1, shape[0] * layer.in_channels // getattr(layer, first))
    setattr(layer, first, shape[0])
    setattr(layer, second, shape[1] * layer.groups)
