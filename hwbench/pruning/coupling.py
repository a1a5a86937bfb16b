"""Where the channels of a structure's groups lie in a torch network: the only door to Torch-Pruning.

Torch-Pruning (Fang et al., CVPR 2023, arXiv 2301.12900) finds by tracing which modules must be cut
together. It is asked once, with three channels per group; what it answers is kept as plain
`Place`s, checked against the ONNX structure: both must name the same producers, followers and
consumers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hwbench.errors import UsageError
from hwbench.network.intake.torch_onnx import FAILURES, quiet, reason
from hwbench.network.structure import Group, Structure
from hwbench.pruning.surgeon import (
    CHANNELS,
    CONVOLUTIONS,
    IN,
    NORMALIZATIONS,
    OUT,
    Place,
    is_dense,
    is_depthwise,
    size_of,
)


class _UncertainError(Exception):
    """Torch-Pruning and the structure do not agree about a group."""


@dataclass(frozen=True, slots=True)
class Coupled:
    """One group of a structure in torch: its places, or why it cannot be cut."""

    group: Group
    places: tuple[Place, ...]
    problem: str = ""


def couple(
    module: nn.Module, example_inputs: tuple[Tensor, ...], structure: Structure
) -> tuple[Coupled, ...]:
    """Find the places of every group.

    Raises:
        UsageError: Torch-Pruning is not installed, or cannot trace the network.
    """
    graph = _traced(module, example_inputs)
    names = {part: path for path, part in graph.model.named_modules()}
    modules = {path: part for part, path in names.items()}
    coupled = []
    for group in structure.groups:
        try:
            places = _places(graph, group, names, modules)
        except _UncertainError as error:
            coupled.append(Coupled(group, (), str(error)))
        else:
            coupled.append(Coupled(group, places))
    return tuple(coupled)


def _traced(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise UsageError("pruning needs Torch-Pruning: pip install 'hwbench[search]'") from error
    own = copy.deepcopy(module).cpu().eval().requires_grad_()
    inputs = tuple(tensor.detach().cpu() for tensor in example_inputs)
    with quiet(), torch.enable_grad():
        try:
            return torch_pruning.DependencyGraph().build_dependency(own, inputs, verbose=False)
        except FAILURES as error:
            raise UsageError(
                f"{type(module).__name__} cannot be traced for pruning: {reason(error)}; its"
                " forward must take tensors"
            ) from error


def _places(
    graph: Any, group: Group, names: dict[nn.Module, str], modules: dict[str, nn.Module]
) -> tuple[Place, ...]:
    for name in (*group.producers, *group.followers, *group.consumers):
        if name not in modules or not (is_dense(modules[name]) or is_depthwise(modules[name])):
            raise _UncertainError(f"layer {name} is no convolution or linear module of its own")
    first = modules[group.producers[0]]
    if first not in graph.module2node:
        raise _UncertainError(f"layer {group.producers[0]} was not seen by Torch-Pruning")
    probe = sorted({0, min(1, group.width - 1), group.width - 1})
    prune = graph.get_pruner_of_module(first).prune_out_channels
    places = []
    for item in graph.get_pruning_group(first, prune, probe):
        place = _place(graph, item, group.width, names)
        if place is not None:
            places.append(place)
    _compare(group, places)
    for place in places:
        if place.start + group.width * place.repeat > size_of(graph.model, place.path, place.side):
            raise _UncertainError(f"its channels do not fit into {place.path}")
    return tuple(places)


def _place(graph: Any, item: Any, width: int, names: dict[nn.Module, str]) -> Place | None:
    """Place of one thing that Torch-Pruning would cut; None for operators without parameters."""
    target = item.dep.target.module
    if isinstance(target, nn.Parameter):
        path, side = graph._param_to_name[target], str(item.dep.target.pruning_dim % target.ndim)  # noqa: SLF001 - kept nowhere else
    elif target not in names:
        return None
    elif isinstance(target, NORMALIZATIONS) or is_depthwise(target) or isinstance(target, nn.PReLU):
        if isinstance(target, nn.PReLU) and target.num_parameters == 1:
            return None
        path, side = names[target], CHANNELS
    elif is_dense(target):
        path, side = names[target], OUT if item.dep.handler.__name__ == "prune_out_channels" else IN
    elif isinstance(target, CONVOLUTIONS) or any(True for _ in target.parameters()):
        raise _UncertainError(
            f"{names[target]} is a {type(target).__name__}, which cannot be cut channel by channel"
        )
    else:
        return None
    return _regular(path, side, item, width)


def _regular(path: str, side: str, item: Any, width: int) -> Place:
    """Start and stride of channels that lie evenly along a side."""
    entries: dict[int, list[int]] = {}
    for entry, channel in zip(item.idxs, item.root_idxs, strict=True):
        entries.setdefault(channel, []).append(entry)
    repeat = len(entries.get(0, ()))
    place = Place(path, side, min(entries.get(0, [0])), repeat)
    if not repeat or any(
        sorted(found) != place.positions([channel]) for channel, found in entries.items()
    ):
        raise _UncertainError(f"its {width} channels do not lie evenly in {path}")
    return place


def _compare(group: Group, places: list[Place]) -> None:
    found = {(place.path, place.side) for place in places}
    if len(found) < len(places):
        raise _UncertainError("its channels reach one layer twice")
    expected = {(name, OUT) for name in group.producers} | {(name, IN) for name in group.consumers}
    expected |= {(name, CHANNELS) for name in group.followers}
    sides = {(path, side) for path, side in found if side in {IN, OUT}}
    followers = {name for name in group.followers if (name, CHANNELS) not in found}
    missing = sorted({name for name, _ in expected - found} | followers)
    more = sorted({name for name, _ in sides - expected})
    if missing or more:
        text = "; ".join(
            f"{what} {', '.join(paths)}"
            for what, paths in (("not", missing), ("also", more))
            if paths
        )
        raise _UncertainError(
            f"Torch-Pruning and the ONNX graph disagree about its layers ({text})"
        )
