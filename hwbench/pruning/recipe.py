"""What was taken from a network, as data: enough to take it again, without tracing, from the same original.

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
from hwbench.pruning.dropping import Replacement, replace_modules
from hwbench.pruning.surgeon import IN, Place, cut, size_of

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class GroupCut:
    """What stays of one group.

    Attributes:
        name: Of the group.
        width: Its original number of channels.
        kept: Indices of the channels that stay, ascending.
        places: Where the channels lie.
    """

    name: str
    width: int
    kept: tuple[int, ...]
    places: tuple[Place, ...]

    @property
    def removed(self) -> tuple[int, ...]:
        """Indices of the channels that go."""
        kept = set(self.kept)
        return tuple(index for index in range(self.width) if index not in kept)


@dataclass(frozen=True, slots=True)
class Recipe:
    """From an original network to a smaller one.

    Attributes:
        original: Name of the original.
        sha256: Fingerprint of its weights.
        groups: Those that got narrower.
        dropped: By name of a dropped block, what replaces its modules.
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
            module: The original.
            other_weights: Accept an original of the same architecture with other weights.

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
            for (path, side), kept in self.kept_positions(smaller).items():
                cut(smaller, path, side, kept)
            for replaced in self.dropped.values():
                replace_modules(smaller, replaced)
        except (AttributeError, IndexError) as error:
            raise UsageError(
                f"the module has not the architecture of {self.original}: {error}; give that"
                " original"
            ) from error
        return smaller

    def kept_positions(self, module: nn.Module) -> dict[tuple[str, str], Tensor]:
        """Positions that stay, ascending, by path and side of every tensor dimension that is cut.

        `module` is the original.
        """
        gone: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for group in self.groups:
            for place in group.places:
                gone[place.path, place.side] += place.positions(group.removed)
        kept = {}
        for (path, side), removed in gone.items():
            stays = torch.ones(size_of(module, path, side), dtype=torch.bool)
            stays[removed] = False
            kept[path, side] = stays.nonzero().flatten()
        return kept

    def consumers(self) -> tuple[str, ...]:
        """Layers that lose inputs."""
        return tuple(
            dict.fromkeys(
                place.path for group in self.groups for place in group.places if place.side == IN
            )
        )

    def to_json(self) -> str:
        """As text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read `to_json` back.

        Raises:
            SchemaError: It is no recipe.
        """
        try:
            raw = json.loads(text)
            if raw.pop("schema") != SCHEMA:
                raise SchemaError(
                    f"not a recipe of schema {SCHEMA}; it was written by another version of hwbench"
                )
            groups = tuple(map(_group, raw.pop("groups")))
            dropped = {
                name: tuple(Replacement(**item) for item in items)
                for name, items in raw.pop("dropped").items()
            }
            return cls(groups=groups, dropped=dropped, **raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SchemaError(
                f"not a recipe: {type(error).__name__} {error}; expected what `pruning.save` writes"
            ) from error


def _group(raw: dict[str, Any]) -> GroupCut:
    places = tuple(Place(**place) for place in raw["places"])
    return GroupCut(str(raw["name"]), int(raw["width"]), tuple(map(int, raw["kept"])), places)


@dataclass(frozen=True)
class Pruned:
    """A smaller network, and how it was made."""

    module: nn.Module
    recipe: Recipe


def fingerprint(module: nn.Module) -> str:
    """Hexadecimal SHA-256 of names, types, shapes and values of all parameters and buffers."""
    digest = sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
