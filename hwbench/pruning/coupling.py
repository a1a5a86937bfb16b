"""Where the channels of a structure's groups lie in torch: the only door to Torch-Pruning.

Torch-Pruning (Fang et al., CVPR 2023, arXiv 2301.12900) finds by tracing which modules must be cut
together. It is asked once, with three channels per group; its answer is kept as plain
`ChannelPlace`s, checked against the ONNX structure: both must name the same producers, followers
and consumers.
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
from hwbench.optional import import_optional
from hwbench.pruning.surgeon import (
    CHANNELS,
    CONVOLUTIONS,
    IN,
    NORMALIZATIONS,
    OUT,
    ChannelPlace,
    is_dense,
    is_depthwise,
    size_of,
)


class _DisagreementError(Exception):
    """Torch-Pruning and the structure do not agree about a group."""


@dataclass(frozen=True, slots=True)
class Coupled:
    """One group of a structure in torch.

    Attributes:
        group: The group.
        places: Where its channels lie; empty if it cannot be cut.
        problem: Why it cannot be cut; empty if it can.
    """

    group: Group
    places: tuple[ChannelPlace, ...]
    problem: str = ""


def couple(
    module: nn.Module, example_inputs: tuple[Tensor, ...], structure: Structure
) -> tuple[Coupled, ...]:
    """Find where the channels of every group lie.

    Args:
        module: The network; it is left as it is.
        example_inputs: One tensor per argument.
        structure: The structure of the network's ONNX graph.

    Returns:
        One entry per group of the structure, in its order.

    Raises:
        UsageError: Torch-Pruning is not installed, or cannot trace the network.
    """
    graph = _trace_dependencies(module, example_inputs)
    names = {part: path for path, part in graph.model.named_modules()}
    modules = {path: part for part, path in names.items()}
    coupled = []
    for group in structure.groups:
        try:
            places = _find_places(graph, group, names, modules)
        except _DisagreementError as error:
            coupled.append(Coupled(group, (), str(error)))
        else:
            coupled.append(Coupled(group, places))
    return tuple(coupled)


def _trace_dependencies(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> Any:
    """Have Torch-Pruning trace a copy of the network; gives its `DependencyGraph`."""
    torch_pruning = import_optional("torch_pruning", "search", "pruned networks")
    # Torch-Pruning follows the graph of gradients, so every parameter must ask for one.
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


def _find_places(
    graph: Any, group: Group, names: dict[nn.Module, str], modules: dict[str, nn.Module]
) -> tuple[ChannelPlace, ...]:
    """Find where the channels of one group lie, and check them against the structure."""
    for name in (*group.producers, *group.followers, *group.consumers):
        if name not in modules or not (is_dense(modules[name]) or is_depthwise(modules[name])):
            raise _DisagreementError(f"layer {name} is no convolution or linear module of its own")
    first = modules[group.producers[0]]
    if first not in graph.module2node:
        raise _DisagreementError(f"layer {group.producers[0]} was not seen by Torch-Pruning")
    # The first channel shows where the channels begin in every module, the second how many entries
    # each takes, and the last that they lie evenly all the way: three say as much as all.
    probe = sorted({0, min(1, group.width - 1), group.width - 1})
    prune = graph.get_pruner_of_module(first).prune_out_channels
    places = []
    for member in graph.get_pruning_group(first, prune, probe):
        place = _find_place(graph, member, group.width, names)
        if place is not None:
            places.append(place)
    _check_layers(group, places)
    for place in places:
        if place.start + group.width * place.repeat > size_of(graph.model, place.path, place.side):
            raise _DisagreementError(f"its channels do not fit into {place.path}")
    return tuple(places)


def _find_place(
    graph: Any, member: Any, width: int, names: dict[nn.Module, str]
) -> ChannelPlace | None:
    """Find where the channels lie in one member of a pruning group.

    Args:
        graph: The `DependencyGraph`.
        member: An entry of what `get_pruning_group` gives: a module or parameter to be cut.
        width: The number of channels of the group.
        names: The paths of all modules of the traced network.

    Returns:
        The place; None for operators without parameters, in which there is nothing to cut.
    """
    target = member.dep.target.module
    if isinstance(target, nn.Parameter):
        path = graph._param_to_name[target]  # noqa: SLF001 - kept nowhere else
        side = str(member.dep.target.pruning_dim % target.ndim)
        return _fit_place(path, side, member, width)
    if target not in names:
        return None
    path = names[target]
    if isinstance(target, nn.PReLU) and target.num_parameters == 1:
        return None
    if isinstance(target, (*NORMALIZATIONS, nn.PReLU)) or is_depthwise(target):
        return _fit_place(path, CHANNELS, member, width)
    if is_dense(target):
        cuts_outputs = member.dep.handler.__name__ == "prune_out_channels"
        return _fit_place(path, OUT if cuts_outputs else IN, member, width)
    if isinstance(target, CONVOLUTIONS) or list(target.parameters()):
        raise _DisagreementError(
            f"{path} is a {type(target).__name__}, which cannot be cut channel by channel"
        )
    return None


def _fit_place(path: str, side: str, member: Any, width: int) -> ChannelPlace:
    """Find start and stride of channels that lie evenly along a side.

    Torch-Pruning lists, entry by entry, which channel of the group each belongs to (`idxs` and
    `root_idxs`). The first channel's entries give start and stride, and all others must follow.
    """
    entries: dict[int, list[int]] = {}
    for entry, channel in zip(member.idxs, member.root_idxs, strict=True):
        entries.setdefault(channel, []).append(entry)
    uneven = _DisagreementError(f"its {width} channels do not lie evenly in {path}")
    if 0 not in entries:
        raise uneven
    place = ChannelPlace(path, side, min(entries[0]), len(entries[0]))
    for channel, channel_entries in entries.items():
        if sorted(channel_entries) != place.positions([channel]):
            raise uneven
    return place


def _check_layers(group: Group, places: list[ChannelPlace]) -> None:
    """Check that Torch-Pruning cuts the very layers that the structure names for a group."""
    cut_sides = {(place.path, place.side) for place in places}
    if len(cut_sides) < len(places):
        raise _DisagreementError("its channels reach one layer twice")
    expected = {(name, OUT) for name in group.producers}
    expected |= {(name, IN) for name in group.consumers}
    expected |= {(name, CHANNELS) for name in group.followers}
    # Normalizations and bare parameters are no layers of the graph, so only inputs and outputs of
    # convolutions and linear layers can be too many.
    dense_sides = {(path, side) for path, side in cut_sides if side in {IN, OUT}}
    missing = sorted({name for name, _ in expected - cut_sides})
    extra = sorted({name for name, _ in dense_sides - expected})
    differences = []
    if missing:
        differences.append(f"not {', '.join(missing)}")
    if extra:
        differences.append(f"also {', '.join(extra)}")
    if differences:
        raise _DisagreementError(
            f"Torch-Pruning and the ONNX graph disagree about its layers ({'; '.join(differences)})"
        )
