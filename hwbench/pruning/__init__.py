"""Pruning of torch networks: widths per group, or blocks to drop, to a smaller network that stands by itself.

What can be pruned is said by the network's ONNX structure (`hwbench.network.structure`), the same
that tables and searches use; where the channels lie in torch is found by `coupling`, the one door
to Torch-Pruning. Both must agree, and what they agree on is tried out once when a `Prunable` is
made, so that a search never meets a network that does not fit its own layer keys.

    prunable = Prunable(module, (images[:1],))
    pruned = prunable.slim([48] * len(prunable.structure.groups), calibration=[images])
    save(pruned, folder, images[:1])

`surgeon` cuts modules, `recipe` is what was cut, as data, `importance` picks channels,
`reconstruction` and `normalization` make up for those that went, `probing` tries out, `kept` says
what cannot be pruned, `dropping` leaves blocks out, `adaptors` are PRACTISE's, `files` writes and
reads.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from hwbench.errors import UsageError
from hwbench.network import graph
from hwbench.network.intake import load_workload
from hwbench.network.structure import Structure
from hwbench.pruning import importance as importances
from hwbench.pruning.adaptors import Adaptors, adaptor_places
from hwbench.pruning.coupling import Coupled, couple
from hwbench.pruning.files import load, save
from hwbench.pruning.importance import Importance
from hwbench.pruning.kept import Kept, kept_layers
from hwbench.pruning.probing import Blocks, misfit
from hwbench.pruning.recipe import GroupCut, Pruned, Recipe, fingerprint
from hwbench.pruning.reconstruction import POSITIONS, RENORMALIZED, Batch, Calibration
from hwbench.pruning.surgeon import CHANNELS, IN, OUT, weight_of

__all__ = [
    "Adaptors",
    "Batch",
    "Calibration",
    "Importance",
    "Kept",
    "Prunable",
    "Pruned",
    "Recipe",
    "fingerprint",
    "load",
    "save",
]


class Prunable:
    """One network that can be pruned, as often as wanted: every pruned version is cut from the same original.

    Attributes:
        module: The original, a copy of what was given.
        structure: Its groups and droppable blocks, in the order of ONNX execution.
        kept: Layers that keep all their channels and blocks that cannot be dropped, each with its
            reason.
        fixed: By name of each group of `structure` that torch cannot cut, why; its width must stay.

    Args:
        module: Any network whose forward takes tensors; it is not changed.
        example_inputs: One tensor per argument.
        structure: Of a graph that must be that of the module, such as the one a lookup table was
            built for.
        name: For recipes and messages; the class of the module if empty.

    Raises:
        UsageError: The network cannot be traced, or `structure` is another network's.
        WorkloadError: It cannot be exported.
    """

    def __init__(
        self,
        module: nn.Module,
        example_inputs: tuple[Tensor, ...],
        *,
        structure: Structure | None = None,
        name: str = "",
    ) -> None:
        self.module = copy.deepcopy(module)
        self.name = name or type(module).__name__
        self._inputs = tuple(tensor.detach().cpu() for tensor in example_inputs)
        model = graph.load(load_workload(module, example_inputs=self._inputs).onnx)
        found = Structure.from_model(model)
        if structure is not None:
            _check_same(found, structure, self.name)
        on_cpu = copy.deepcopy(module).cpu().eval()
        self._coupled = {one.group.name: one for one in couple(on_cpu, self._inputs, found)}
        self._verify(on_cpu, found)
        self._adaptors = adaptor_places(model, found, on_cpu)
        self._drops = Blocks(on_cpu, model, found, self._inputs).find()
        self.structure = replace(
            found, blocks=tuple(block for block in found.blocks if block.name in self._drops)
        )
        self.fixed = {name: one.problem for name, one in self._coupled.items() if one.problem}
        stuck = [
            Kept(layer, one.problem)
            for one in self._coupled.values()
            if one.problem
            for layer in one.group.producers
        ]
        whole = [
            Kept(block.name, _NOT_DROPPABLE)
            for block in found.blocks
            if block.name not in self._drops
        ]
        self.kept = (*kept_layers(model), *stuck, *whole)

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of the original's weights."""
        return fingerprint(self.module)

    def slim(
        self,
        widths: Sequence[int],
        *,
        importance: Importance = "l1",
        seed: int = 0,
        calibration: Calibration | Iterable[Batch] | None = None,
    ) -> Pruned:
        """Prune every group to its width.

        Layers that meet in an addition keep the same channels, depth-wise layers follow.

        Args:
            widths: One per group of `structure`.
            importance: Which channels stay: those of the largest L1 or L2 norm, or any.
            seed: Of `random`.
            calibration: Images, or what `calibrate` made of them: layers that lost inputs are
                re-fitted by least squares, and batch normalization is corrected.

        Raises:
            UsageError: As `Structure.resolve`; a group of `fixed` is to be pruned; unknown
                importance.
        """
        importances.check(importance)
        resolved = self._resolve(widths)
        generator = torch.Generator().manual_seed(seed)
        kept = {
            group.name: importances.kept_channels(
                self.module,
                self._coupled[group.name].places,
                (width, group.width),
                importance,
                generator,
            )
            for group, width in zip(self.structure.groups, resolved, strict=True)
        }
        recipe = self.recipe(kept, refitted=calibration is not None)
        pruned = recipe.apply(self.module, other_weights=True)
        if calibration is not None:
            known = (
                calibration
                if isinstance(calibration, Calibration)
                else self.calibrate(calibration, seed=seed)
            )
            self._refit(pruned, recipe, known)
            sides = recipe.kept_positions(self.module).items()
            known.renormalize(
                pruned, {path: kept for (path, side), kept in sides if side == CHANNELS}
            )
        return Pruned(pruned, recipe)

    def recipe(self, kept: Mapping[str, Sequence[int]], *, refitted: bool = False) -> Recipe:
        """The recipe that keeps these channels of these groups, by name, ascending, and all others."""
        cuts = tuple(
            GroupCut(name, one.group.width, tuple(kept[name]), one.places)
            for name, one in self._coupled.items()
            if name in kept and len(kept[name]) < one.group.width
        )
        return Recipe(self.name, self.sha256, cuts, refitted=refitted)

    def without(self, blocks: Sequence[str]) -> Pruned:
        """Drop whole blocks; what remains is computed exactly as before.

        Raises:
            UsageError: A name is no droppable block.
        """
        self._check_droppable(blocks)
        chosen = set(blocks)
        dropped = {name: replaced for name, replaced in self._drops.items() if name in chosen}
        recipe = Recipe(self.name, self.sha256, dropped=dropped)
        return Pruned(recipe.apply(self.module, other_weights=True), recipe)

    def adaptors(self, blocks: Sequence[str]) -> Adaptors:
        """Where PRACTISE puts adaptors to recover what dropping these blocks costs.

        See `hwbench.pruning.adaptors`.

        Raises:
            UsageError: A name is no droppable block.
        """
        self._check_droppable(blocks)
        found = [self._adaptors[name] for name in blocks]
        gone = {
            layer
            for block in self.structure.blocks
            if block.name in blocks
            for layer in block.layers
        }
        after = dict.fromkeys(path for one in found for path in one.after if path not in gone)
        before = dict.fromkeys(path for one in found for path in one.before if path not in gone)
        return Adaptors(tuple(after), tuple(before))

    def calibrate(
        self,
        batches: Iterable[Batch],
        *,
        positions: int = POSITIONS,
        renormalized: int = RENORMALIZED,
        seed: int = 0,
    ) -> Calibration:
        """Run the original once on images, for `slim` to re-fit layers as often as wanted.

        Args:
            batches: Input of the network: a tensor per batch, or one per argument.
            positions: Sampled output positions per image and layer.
            renormalized: Images, of those, to correct batch normalization on; 0 leaves it as it is.
            seed: Of the sampling.

        Raises:
            UsageError: There are no images.
        """
        layers = dict.fromkeys(
            place.path for one in self._coupled.values() for place in one.places if place.side == IN
        )
        return Calibration(
            self.module, layers, batches, positions=positions, renormalized=renormalized, seed=seed
        )

    def _check_droppable(self, blocks: Sequence[str]) -> None:
        for name in blocks:
            if name not in self._drops:
                known = ", ".join(self._drops) or "none"
                raise UsageError(
                    f"{name!r} is no droppable block of {self.name}; droppable: {known}"
                )

    def _refit(self, pruned: nn.Module, recipe: Recipe, calibration: Calibration) -> None:
        positions = recipe.kept_positions(self.module)
        for path in recipe.consumers():
            original = self.module.get_submodule(path)
            weight = calibration.refit(
                path, original, positions[path, IN], positions.get((path, OUT))
            )
            if weight is not None:
                with torch.no_grad():
                    weight_of(pruned.get_submodule(path)).copy_(weight)

    def _resolve(self, widths: Sequence[int]) -> tuple[int, ...]:
        resolved = self.structure.resolve(widths)
        for group, width in zip(self.structure.groups, resolved, strict=True):
            if group.name in self.fixed and width < group.width:
                raise UsageError(
                    f"group {group.name} must keep its {group.width} channels:"
                    f" {self.fixed[group.name]}"
                )
        return resolved

    def _verify(self, on_cpu: nn.Module, structure: Structure) -> None:
        """Prune all groups at once on trial.

        If that does not fit, each by itself, and fix those that do not.
        """
        groups = [one.group.name for one in self._coupled.values() if not one.problem]
        if not self._trial(on_cpu, structure, groups):
            return
        for name in groups:
            problem = self._trial(on_cpu, structure, [name])
            if problem:
                self._coupled[name] = Coupled(self._coupled[name].group, (), problem)
        left = [name for name in groups if not self._coupled[name].problem]
        problem = self._trial(on_cpu, structure, left)
        if problem:
            raise UsageError(
                f"{self.name} cannot be pruned: {problem}, although each of its groups alone can be"
            )

    def _trial(self, on_cpu: nn.Module, structure: Structure, names: Sequence[str]) -> str:
        """What goes wrong when these groups lose a third of their channels.

        Empty if nothing does.
        """
        widths = [
            max(1, 2 * g.width // 3) if g.name in names else g.width for g in structure.groups
        ]
        kept = {
            group.name: range(width) for group, width in zip(structure.groups, widths, strict=True)
        }
        cuts = tuple(
            GroupCut(name, one.group.width, tuple(kept[name]), one.places)
            for name, one in self._coupled.items()
            if name in names
        )
        pruned = Recipe(self.name, "", cuts).apply(on_cpu, other_weights=True)
        return misfit(pruned, self._inputs, structure, widths)


_NOT_DROPPABLE = (
    "the block is neither a module of its own nor a branch whose layers can be left out"
)


def _check_same(found: Structure, given: Structure, name: str) -> None:
    pairs = zip(found.groups, given.groups, strict=False)
    other = next((group.name for group, expected in pairs if group != expected), "")
    if (
        other
        or len(found.groups) != len(given.groups)
        or found.keys(found.widths) != given.keys(given.widths)
    ):
        where = (
            f"they differ first at group {other}"
            if other
            else f"{len(found.groups)} groups against {len(given.groups)}"
        )
        raise UsageError(
            f"the structure given is not that of {name}: {where}; build the table for this very"
            " network and input shape"
        )
