"""What was taken from a network, as data: enough to take it again from the same original, untraced.

Every pruned group says which of its channels stay and where they lie in the tensors of the
network's modules; every dropped block says which modules were replaced. Weights are no part of a
recipe: `Recipe.apply` inherits those of the original.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from hwbench.errors import SchemaError, UsageError
from hwbench.pruning.attention import replace_attention
from hwbench.pruning.dropping import Replacement, replace_modules
from hwbench.pruning.module_numbers import scale_number
from hwbench.pruning.surgeon import IN, ChannelPlace, cut, size_of

SCHEMA = 2


@dataclass(frozen=True, slots=True)
class GroupCut:
    """What stays of one group.

    Attributes:
        name: The name of the group.
        width: The original number of channels of the group.
        kept: The indices of the channels that stay, ascending.
        places: Where the channels of the group lie in torch.
        numbers: Paths of whole numbers of modules (`attention.head_dim`) that are so many for each
            channel.
    """

    name: str
    width: int
    kept: tuple[int, ...]
    places: tuple[ChannelPlace, ...]
    numbers: tuple[str, ...] = ()

    @property
    def removed(self) -> tuple[int, ...]:
        """The indices of the channels that go, ascending."""
        kept = set(self.kept)
        return tuple(index for index in range(self.width) if index not in kept)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a smaller network is made from an original.

    Attributes:
        original: The name of the original.
        sha256: The fingerprint of the original's weights, see `fingerprint`.
        groups: The groups that got narrower.
        dropped: What replaces the modules of every dropped block, by name of the block.
        refitted: Whether weights were re-fitted to calibration images, so that they are not simply
            the original's.
    """

    original: str
    sha256: str
    groups: tuple[GroupCut, ...] = ()
    dropped: Mapping[str, tuple[Replacement, ...]] = field(default_factory=dict)
    refitted: bool = False

    def apply(self, module: nn.Module, *, other_weights: bool = False) -> nn.Module:
        """Take the same channels and blocks from `module`, which stays as it is.

        Args:
            module: The original network.
            other_weights: Whether an original of the same architecture with other weights is
                accepted.

        Returns:
            The smaller network, with the weights it inherits.

        Raises:
            UsageError: The module is not the original of this recipe.
        """
        if not other_weights and fingerprint(module) != self.sha256:
            raise UsageError(
                f"the weights differ from those of {self.original} that the recipe was made for;"
                " give that original"
            )
        smaller = copy.deepcopy(module)
        try:
            shared = shared_parameters(smaller)
            positions = self.kept_positions(smaller)
            replace_attention(smaller, (path for path, _ in positions))
            for (path, side), kept in positions.items():
                cut(smaller, path, side, kept)
            for group in self.groups:
                for number in group.numbers:
                    scale_number(smaller, number, len(group.kept), group.width)
            _share_again(smaller, shared)
            for replaced in self.dropped.values():
                replace_modules(smaller, replaced)
        except (AttributeError, IndexError) as error:
            raise UsageError(
                f"the module has not the architecture of {self.original}: {error}; give that"
                " original"
            ) from error
        return smaller

    def kept_positions(self, module: nn.Module) -> dict[tuple[str, str], Tensor]:
        """Find which entries stay along every tensor dimension that is cut.

        Args:
            module: The original network.

        Returns:
            The positions that stay, ascending, by path and side of the module.
        """
        # Several groups may lie along one side (behind a concatenation), so what goes is collected
        # over all groups before anything is cut: cutting one moves the positions of the next.
        removed_positions: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for group in self.groups:
            for place in group.places:
                removed_positions[place.path, place.side] += place.positions(group.removed)
        kept = {}
        for (path, side), removed in removed_positions.items():
            stays = torch.ones(size_of(module, path, side), dtype=torch.bool)
            stays[removed] = False
            kept[path, side] = stays.nonzero().flatten()
        return kept

    def drops(self, path: str) -> bool:
        """Tell whether a module went with a block.

        Args:
            path: The path of the module in the original.
        """
        for replacements in self.dropped.values():
            for replacement in replacements:
                if path == replacement.path or path.startswith(f"{replacement.path}."):
                    return True
        return False

    def consumers(self) -> tuple[str, ...]:
        """List the paths of the layers that lose inputs, each once."""
        paths: dict[str, None] = {}
        for group in self.groups:
            for place in group.places:
                if place.side == IN:
                    paths[place.path] = None
        return tuple(paths)

    def to_json(self) -> str:
        """Write the recipe as JSON text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe back from what `to_json` wrote.

        Raises:
            SchemaError: The text is no recipe.
        """
        try:
            raw = json.loads(text)
            if raw.pop("schema") != SCHEMA:
                raise SchemaError(
                    f"not a recipe of schema {SCHEMA}; it was written by another version of hwbench"
                )
            groups = tuple(_read_group(group) for group in raw.pop("groups"))
            dropped = {}
            for name, replacements in raw.pop("dropped").items():
                dropped[name] = tuple(Replacement(**fields) for fields in replacements)
            return cls(groups=groups, dropped=dropped, **raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SchemaError(
                f"not a recipe: {type(error).__name__} {error}; expected what `pruning.save` writes"
            ) from error


def _read_group(raw: dict[str, Any]) -> GroupCut:
    places = tuple(ChannelPlace(**place) for place in raw["places"])
    kept, numbers = tuple(map(int, raw["kept"])), tuple(map(str, raw["numbers"]))
    width = int(raw["width"])
    if not kept or list(kept) != sorted(set(kept) & set(range(width))):
        raise ValueError(f"the channels that stay are not some of {width} in ascending order")
    return GroupCut(str(raw["name"]), width, kept, places, numbers)


@dataclass(frozen=True)
class Pruned:
    """A smaller network, and the recipe it was made by."""

    module: nn.Module
    recipe: Recipe

    def __repr__(self) -> str:
        cuts = f"{len(self.recipe.groups)} groups cut, {len(self.recipe.dropped)} blocks dropped"
        return f"<Pruned {self.recipe.original}: {cuts}>"


def shared_parameters(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Find parameters that several modules share, as embeddings and output layers do.

    Returns:
        All names of each, by every one of them.
    """
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {name: tuple(same) for same in names.values() if len(same) > 1 for name in same}


def _share_again(module: nn.Module, shared: Mapping[str, tuple[str, ...]]) -> None:
    """Let modules share what they shared before they were cut, in place."""
    for first, *others in dict.fromkeys(shared.values()):
        parameter = module.get_parameter(first)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, parameter)


def fingerprint(module: nn.Module) -> str:
    """Hash the names, types, shapes and values of all parameters and buffers.

    Returns:
        The SHA-256 in hexadecimal.
    """
    digest = sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().view(-1)
        # NumPy lacks some of torch's types (bfloat16): every type can be seen as bytes.
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
