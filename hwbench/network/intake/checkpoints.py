"""Finding the network in what a file holds: a module, or weights, alone or in a checkpoint.

Everything here is told from the structure of a file (`structures`), without torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.network.intake.structures import Instance, TensorRecord

_ORDER = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module",
    "weights", "params", "generator", "backbone", "encoder",
)  # fmt: skip
"""Where checkpoints keep the network, the likeliest first."""
_AVERAGED = re.compile(r"(?:^|_)(?:ema|swa|averaged?|shadow|average_model)(?:_|$)", re.IGNORECASE)
_NOT_THE_NETWORK = re.compile(
    r"optim|sched|scaler|(?:^|_)(?:lr|rng|loss|loops|callbacks|hyper|hparams|history|epoch|seed)",
    re.IGNORECASE,
)
_DEPTH = 5
"""How deep in a checkpoint a network is looked for."""
_MODULE_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network in a file.

    Attributes:
        path: The keys that lead to it; empty if it is all of the file.
        tensors: Its weights by name.
        module: The whole module, if it is one; None for weights alone.
    """

    path: tuple[str | int, ...]
    tensors: Mapping[str, TensorRecord]
    module: Instance | None = None

    @property
    def place(self) -> str:
        """The path for people: `'model'`."""
        return " -> ".join(repr(key) for key in self.path)

    @property
    def is_averaged(self) -> bool:
        """Whether it is an average of the weights over training (EMA, SWA)."""
        return any(_AVERAGED.search(str(key)) for key in self.path)


def find_candidates(root: Any) -> list[Candidate]:
    """Find the networks in a file, the likeliest first.

    Args:
        root: What the file holds, as `structures.read_content` gives it.
    """
    candidates = list(_walk(root, ()))
    return sorted(candidates, key=_rank)


def _rank(candidate: Candidate) -> tuple[bool, int, int]:
    position = len(_ORDER)
    for key in candidate.path:
        if key in _ORDER:
            position = min(position, _ORDER.index(str(key)))
    entries = sum(math.prod(tensor.shape) for tensor in candidate.tensors.values())
    return candidate.is_averaged, position, -entries


def _walk(value: Any, path: tuple[str | int, ...]) -> Iterator[Candidate]:
    if isinstance(value, Instance):
        if _is_module(value):
            yield Candidate(path, dict(_module_tensors(value, "", 0)), value)
            return
        # A trainer, or a wrapper such as that of torch.compile, which is made from the network.
        yield from _walk(value.arguments, path)
        value = value.state
    if len(path) > _DEPTH:
        return
    if isinstance(value, Mapping):
        if _is_state_dict(value):
            yield Candidate(path, _tensors_of(value))
            return
        for key, entry in value.items():
            if isinstance(key, str | int) and not _NOT_THE_NETWORK.search(str(key)):
                yield from _walk(entry, (*path, key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value[:64]):
            yield from _walk(entry, (*path, index))


def _is_module(value: Any) -> bool:
    return (
        isinstance(value, Instance)
        and isinstance(value.state, Mapping)
        and {"_parameters", "_buffers", "_modules"} <= value.state.keys()
    )


def _module_tensors(
    module: Instance, prefix: str, depth: int
) -> Iterator[tuple[str, TensorRecord]]:
    """Walk over the parameters and buffers of a module by their names in its state dict."""
    for kind in ("_parameters", "_buffers"):
        held = module.state[kind]
        if isinstance(held, Mapping):
            for name, tensor in held.items():
                if isinstance(tensor, TensorRecord):
                    yield f"{prefix}{name}", tensor
    children = module.state["_modules"]
    if isinstance(children, Mapping) and depth < _MODULE_DEPTH:
        for name, child in children.items():
            if _is_module(child):
                yield from _module_tensors(child, f"{prefix}{name}.", depth + 1)


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping is weights by name; a few entries may be something else."""
    tensors = _tensors_of(value)
    if not any(math.prod(tensor.shape) > 1 for tensor in tensors.values()):
        return False
    # A checkpoint may keep a tensor or two beside the weights; these lie in a mapping there.
    others = len(value) - len(tensors)
    return others <= len(tensors) and not any(
        isinstance(entry, Mapping) and _tensors_of(entry) for entry in value.values()
    )


def _tensors_of(value: Mapping[Any, Any]) -> dict[str, TensorRecord]:
    return {
        key: entry
        for key, entry in value.items()
        if isinstance(key, str) and isinstance(entry, TensorRecord)
    }


def name_tensors(
    value: Any, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, TensorRecord]]:
    """Walk over the tensors of a structure with the keys and attributes that lead to them."""
    if isinstance(value, TensorRecord):
        yield prefix, value
        return
    if isinstance(value, Instance):
        value = value.state
    if isinstance(value, Mapping) and depth < _MODULE_DEPTH:
        for key, entry in value.items():
            yield from name_tensors(entry, f"{prefix}.{key}".lstrip("."), depth + 1)


def follow(content: Any, path: Sequence[str | int]) -> Any:
    """Give what lies at a candidate's path in what torch has read.

    Args:
        content: What torch has read from the same file.
        path: The path of the candidate.
    """
    for key in path:
        if isinstance(content, Mapping):
            content = content[key]
        elif isinstance(content, list | tuple):
            content = content[int(key)]
        elif hasattr(content, str(key)):
            content = getattr(content, str(key))
        else:
            break  # the network is wrapped in what was reached
    return content


def find_classes(value: Any) -> set[str]:
    """Find the classes and functions that a module is made of, as `module.Name`."""
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if id(entry) in seen:
            continue
        seen.add(id(entry))
        if isinstance(entry, Instance):
            names.add(entry.kind)
            waiting += [entry.arguments, entry.state]
        elif isinstance(entry, type) and issubclass(entry, Instance):
            names.add(entry.kind)
        elif isinstance(entry, Mapping):
            waiting += entry.values()
        elif isinstance(entry, list | tuple | set):
            waiting += entry
    return names


def describe_weights(tensors: Mapping[str, TensorRecord]) -> str:
    """Say in a few words what weights are: `12 tensors of conv1, bn1, layer1, .. and fc`."""
    parts = first_parts(tensors)
    if len(parts) > 5:
        parts = [*parts[:3], "..", parts[-1]]
    return f"{len(tensors)} tensors: {', '.join(part[:40] for part in parts)}"


def first_parts(tensors: Mapping[str, Any]) -> list[str]:
    """List the first parts of the names of weights, behind what all of them begin with."""
    names = [name.split(".") for name in tensors]
    while all(len(name) > 1 and name[0] == names[0][0] for name in names) and any(
        len(name) > 2 for name in names
    ):
        names = [name[1:] for name in names]
    return list(dict.fromkeys(name[0] for name in names))


def find_first_layer(tensors: Mapping[str, Any]) -> tuple[str, Any] | None:
    """Find the first tensor that is the weight of a layer, by the order of the file."""
    for name, tensor in tensors.items():
        leaf = name.rpartition(".")[2]
        is_weight = leaf in {"weight", "weight_orig", "weight_v", "original", "original1"}
        if (is_weight or leaf.startswith("weight_ih_l")) and len(tensor.shape) >= 2:
            return name, tensor
    return None
