"""Numbers of channels that modules keep for their code: `head_dim`, `split_size`.

The code of a network may name numbers that follow from its widths, which cannot be told from its
graph. Where a network does not run once a group is cut, those whole numbers of the modules around
are tried that are as large as the group, or as what it takes of a tensor; whether they were the
right ones shows when the network is compared with its graph.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hwbench.pruning.surgeon import CONVOLUTIONS, NORMALIZATIONS, ChannelPlace

_COUNTED_HERE = (*CONVOLUTIONS, *NORMALIZATIONS, nn.Linear, nn.PReLU, nn.Embedding)
"""Modules whose own numbers are set when they are cut."""


def list_numbers(
    module: nn.Module, places: Sequence[ChannelPlace], width: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the numbers that may follow from the channels of a group.

    Args:
        module: The network.
        places: Where the channels lie.
        width: How many there are.

    Returns:
        Paths of those of modules that hold what is cut; and of these and those of the modules
        around.
    """
    sizes = {width}
    sizes.update(width * _entries_per_channel(places, place) for place in places)
    holders: dict[str, None] = {}
    around: dict[str, None] = {}
    for place in places:
        # A bare parameter lies in a module; other places are modules that lie in one.
        owner = place.path.rpartition(".")[0]
        if place.side.isdigit():
            holders[owner] = None
            around[owner.rpartition(".")[0]] = None
        else:
            around[owner] = None
    return _numbers_of(module, holders, sizes), _numbers_of(module, holders | around, sizes)


def _entries_per_channel(places: Sequence[ChannelPlace], place: ChannelPlace) -> int:
    """Entries that each channel takes along the side that a place lies on."""
    same = (one for one in places if (one.path, one.side) == (place.path, place.side))
    return sum(one.repeat for one in same)


def _numbers_of(module: nn.Module, owners: dict[str, None], sizes: set[int]) -> tuple[str, ...]:
    numbers = []
    for owner in owners:
        part = module.get_submodule(owner)
        if isinstance(part, (*_COUNTED_HERE, nn.MultiheadAttention)):
            continue
        for name, value in vars(part).items():
            # How many heads there are stays the same.
            if type(value) is int and value in sizes and "heads" not in name:
                numbers.append(f"{owner}.{name}" if owner else name)
    return tuple(numbers)


def scale_number(module: nn.Module, path: str, kept: int, width: int) -> None:
    """Set a number of a module to what it is for fewer channels, in place.

    Args:
        module: The network.
        path: Of the number.
        kept: The channels that stay.
        width: The channels that there were.

    Raises:
        AttributeError: The network has no such number.
    """
    owner, _, name = path.rpartition(".")
    part = module.get_submodule(owner)
    value = getattr(part, name)
    if type(value) is not int:
        raise AttributeError(f"{path} is no whole number")
    setattr(part, name, value * kept // width)
