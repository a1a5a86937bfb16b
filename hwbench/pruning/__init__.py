"""Pruning of torch networks: widths per group, or blocks to drop, make a smaller network.

The network's ONNX structure (`hwbench.network.structure`), the same that tables and searches use,
says what can be pruned. `coupling` finds where the channels lie in torch, and what it found is
tried out once when a `Prunable` is made, so that a search never meets a network that does not fit
its own layer keys.

    prunable = Prunable(module, (images[:1],))
    pruned = prunable.slim([48] * len(prunable.structure.groups), calibration=[images])
    save(pruned, folder, images[:1])

The modules, one subject each: `surgeon` cuts channels out of modules, `recipe` holds what was cut
as data, `importance` picks the channels that stay, `reconstruction` and `normalization` make up for
those that went, `module_numbers` finds what else follows from widths, `attention` stands in for
torch's, `probing` compares a pruned network with its graph, `kept` explains what cannot be pruned,
`dropping` leaves blocks out, `adaptors` holds PRACTISE's adaptors, `files` writes and reads pruned
networks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from hwbench.errors import UsageError
from hwbench.network.graph import load as load_graph
from hwbench.network.intake import load_workload
from hwbench.network.intake.failures import FAILURES
from hwbench.network.structure import Structure
from hwbench.network.structure.surgery import PrunableGraph
from hwbench.pruning.adaptors import Adaptors, adaptor_places
from hwbench.pruning.coupling import Coupled, couple
from hwbench.pruning.files import load, save
from hwbench.pruning.importance import (
    BY_IMAGES,
    BatchLoss,
    ChannelScores,
    Examples,
    Importance,
    check_importance,
    choose_channels,
    draw_scores,
    score_by_images,
    score_by_normalization,
    score_by_weights,
)
from hwbench.pruning.kept import Kept, find_kept_layers
from hwbench.pruning.module_numbers import list_numbers
from hwbench.pruning.probing import BlockProbe, GroupProbe
from hwbench.pruning.recipe import Pruned, Recipe, fingerprint
from hwbench.pruning.reconstruction import POSITIONS, RENORMALIZED, Batch, CalibrationStatistics
from hwbench.pruning.surgeon import CHANNELS, IN, OUT, weight_of

__all__ = [
    "Adaptors",
    "Batch",
    "CalibrationStatistics",
    "ChannelScores",
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
    """A network that can be pruned any number of times, always from the same original.

    Attributes:
        module: The original network, a copy of the module handed in.
        structure: The groups and the droppable blocks of the network, in the order in which ONNX
            executes them.
        kept: The layers that keep all their channels and the blocks that cannot be dropped, each
            with the reason.
        fixed: The groups of `structure` that torch cannot cut, by name, each with the reason. The
            width of such a group must stay as it is.

    Args:
        module: Any network whose `forward` takes tensors. It is not changed.
        example_inputs: One tensor per argument of `forward`.
        structure: The structure the network is expected to have, such as the one a lookup table
            was built for; None accepts any.
        name: The name used in recipes and messages; the class of the module if empty.

    Raises:
        UsageError: The network cannot be traced, or it does not have the expected `structure`.
        WorkloadError: The network cannot be exported.
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
        graph = PrunableGraph(load_graph(load_workload(module, example_inputs=self._inputs).onnx))
        traced = graph.structure
        if structure is not None:
            _check_same_structure(traced, structure, self.name)
        on_cpu = copy.deepcopy(module).cpu().eval()
        coupling = couple(on_cpu, self._inputs, traced)
        self._derived = set(coupling.derived)
        self._coupled = {coupled.group.name: coupled for coupled in coupling.groups}
        self._try_groups(on_cpu, GroupProbe(graph, self._inputs, values=not coupling.derived))
        self._adaptors = adaptor_places(graph.model, traced, on_cpu)
        self._drops = BlockProbe(on_cpu, graph, self._inputs).find_replacements()
        self.fixed: dict[str, str] = {}
        kept = list(find_kept_layers(graph.model))
        for group_name, coupled in self._coupled.items():
            if coupled.problem:
                self.fixed[group_name] = coupled.problem
                kept += [Kept(layer, coupled.problem) for layer in coupled.group.producers]
        droppable = []
        for block in traced.blocks:
            if block.name in self._drops:
                droppable.append(block)
            else:
                kept.append(Kept(block.name, _NOT_DROPPABLE))
        self.structure = replace(traced, blocks=tuple(droppable))
        self.kept = tuple(kept)

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the original's weights, see `fingerprint`."""
        return fingerprint(self.module)

    def slim(
        self,
        widths: Sequence[int],
        *,
        importance: Importance | ChannelScores = "l1",
        seed: int = 0,
        calibration: CalibrationStatistics | Iterable[Batch] | None = None,
        without: Sequence[str] = (),
    ) -> Pruned:
        """Prune every group to its width, and drop blocks where any are named.

        Layers that meet in an addition keep the same channels, and depthwise layers keep those of
        the layer that feeds them.

        Args:
            widths: The width of every group of `structure`, in channels.
            importance: How the channels that stay are picked, see `hwbench.pruning.importance`:
                its name, or for what images tell, the scores that `score_channels` gave.
            seed: The seed of the importance `random` and of the sampling of `calibrate`.
            calibration: Images, or the statistics that `calibrate` took on them. With these, the
                layers that lost inputs are re-fitted by least squares and batch normalization is
                corrected; without, the weights are simply inherited.
            without: The names of the blocks to drop. What lies inside of them needs no width of
                its own, so its groups may keep theirs.

        Raises:
            UsageError: The widths do not fit (see `Structure.resolve`), a group of `fixed` would
                be pruned, the importance is unknown, or a block cannot be dropped.
        """
        self._check_droppable(without)
        pruned_groups = []
        for group, width in zip(self.structure.groups, self._resolve(widths), strict=True):
            if width < group.width:
                pruned_groups.append((group, width))
        if isinstance(importance, Mapping):
            scores = importance
        elif importance == "random":
            generator = torch.Generator().manual_seed(seed)
            scores = {group.name: draw_scores(group.width, generator) for group, _ in pruned_groups}
        else:
            scores = self.score_channels(importance)
        kept_channels = {}
        for group, width in pruned_groups:
            kept_channels[group.name] = choose_channels(scores[group.name], width)
        recipe = self.recipe(kept_channels, dropped=without, refitted=calibration is not None)
        pruned = recipe.apply(self.module, other_weights=True)
        if calibration is not None:
            if not isinstance(calibration, CalibrationStatistics):
                calibration = self.calibrate(calibration, seed=seed)
            self._refit(pruned, recipe, calibration)
        return Pruned(pruned, recipe)

    def score_channels(
        self,
        importance: Importance,
        examples: Examples = (),
        loss: BatchLoss | None = None,
    ) -> ChannelScores:
        """Tell what every channel of the groups that can be cut matters.

        Args:
            importance: What goes by, see `hwbench.pruning.importance`.
            examples: Batches of images and labels, for what images tell.
            loss: The mean loss of the network on such a batch, for `taylor`.

        Returns:
            The scores of the channels, by name of the group.

        Raises:
            UsageError: There are no images, no loss or no batch normalization where it takes them,
                or the importance is unknown or `random`, which has no scores.
        """
        check_importance(importance)
        if importance == "random":
            raise UsageError("channels chosen at random have no scores")
        places = {name: one.places for name, one in self._coupled.items() if one.places}
        totals = {name: self._coupled[name].group.width for name in places}
        if importance in BY_IMAGES:
            if importance == "taylor" and loss is None:
                raise UsageError(
                    "importance 'taylor' goes by the loss on images; give both to score_channels"
                )
            criterion = loss if importance == "taylor" else None
            return score_by_images(self.module, places, totals, examples, criterion)
        scores = {}
        for name, where in places.items():
            total = totals[name]
            if importance == "batch-norm":
                scores[name] = score_by_normalization(self.module, where, total, name)
            else:
                scores[name] = score_by_weights(
                    self.module, where, total, 1 if importance == "l1" else 2
                )
        return scores

    def recipe(
        self,
        kept: Mapping[str, Sequence[int]],
        *,
        dropped: Sequence[str] = (),
        refitted: bool = False,
    ) -> Recipe:
        """Make the recipe that keeps these channels and drops these blocks.

        Args:
            kept: The indices of the channels that stay, ascending, by name of the group. A group
                that is not named keeps all of its channels.
            dropped: The names of the blocks that are dropped.
            refitted: Whether the recipe says that weights were re-fitted.
        """
        cuts = []
        for name, coupled in self._coupled.items():
            if name in kept and len(kept[name]) < coupled.group.width:
                cuts.append(coupled.cut(kept[name]))
        chosen = set(dropped)
        replaced = {name: places for name, places in self._drops.items() if name in chosen}
        return Recipe(self.name, self.sha256, tuple(cuts), replaced, refitted)

    def without(self, blocks: Sequence[str]) -> Pruned:
        """Drop whole blocks; the rest computes exactly what it computed before.

        Args:
            blocks: The names of the blocks to drop.

        Raises:
            UsageError: A name is not that of a droppable block.
        """
        self._check_droppable(blocks)
        recipe = self.recipe({}, dropped=blocks)
        return Pruned(recipe.apply(self.module, other_weights=True), recipe)

    def adaptors(self, blocks: Sequence[str]) -> Adaptors:
        """Find where PRACTISE puts adaptors to recover what dropping these blocks costs.

        See `hwbench.pruning.adaptors`.

        Args:
            blocks: The names of the blocks that are dropped.

        Raises:
            UsageError: A name is not that of a droppable block.
        """
        self._check_droppable(blocks)
        dropped_layers: set[str] = set()
        for block in self.structure.blocks:
            if block.name in blocks:
                dropped_layers.update(block.layers)
        # Neighbouring blocks ask for the same places: dictionaries keep each once, in order.
        after: dict[str, None] = {}
        before: dict[str, None] = {}
        for name in blocks:
            after.update(dict.fromkeys(self._adaptors[name].after))
            before.update(dict.fromkeys(self._adaptors[name].before))
        return Adaptors(
            tuple(path for path in after if path not in dropped_layers),
            tuple(path for path in before if path not in dropped_layers),
        )

    def calibrate(
        self,
        batches: Iterable[Batch],
        *,
        positions: int = POSITIONS,
        renormalized: int = RENORMALIZED,
        seed: int = 0,
    ) -> CalibrationStatistics:
        """Run the original once on images, so that `slim` can re-fit layers any number of times.

        Args:
            batches: Batches of inputs of the network: each a tensor, or one tensor per argument.
            positions: How many output positions are sampled per image and layer.
            renormalized: On how many of the images batch normalization is corrected; 0 leaves it
                as it is.
            seed: The seed of the sampling.

        Raises:
            UsageError: There are no images.
        """
        layers: dict[str, None] = {}
        for coupled in self._coupled.values():
            for place in coupled.places:
                # Weights that are computed anew from parameters do not stay as they are fitted.
                if place.side == IN and place.path not in self._derived:
                    layers[place.path] = None
        return CalibrationStatistics(
            self.module, layers, batches, positions=positions, renormalized=renormalized, seed=seed
        )

    def _check_droppable(self, blocks: Sequence[str]) -> None:
        for name in blocks:
            if name not in self._drops:
                droppable = ", ".join(self._drops) or "none"
                raise UsageError(
                    f"{name!r} is no droppable block of {self.name}; droppable: {droppable}"
                )

    def _refit(self, pruned: nn.Module, recipe: Recipe, calibration: CalibrationStatistics) -> None:
        """Re-fit the layers of `pruned` that lost inputs, then correct its normalization."""
        positions = recipe.kept_positions(self.module)
        for path in recipe.consumers():
            if recipe.drops(path):
                continue
            original = self.module.get_submodule(path)
            weight = calibration.refit(
                path, original, positions[path, IN], positions.get((path, OUT))
            )
            if weight is not None:
                with torch.no_grad():
                    weight_of(pruned.get_submodule(path)).copy_(weight)
        channels = {
            path: channels for (path, side), channels in positions.items() if side == CHANNELS
        }
        calibration.renormalize(pruned, channels)

    def _resolve(self, widths: Sequence[int]) -> tuple[int, ...]:
        resolved = self.structure.resolve(widths)
        for group, width in zip(self.structure.groups, resolved, strict=True):
            if group.name in self.fixed and width < group.width:
                raise UsageError(
                    f"group {group.name} must keep its {group.width} channels:"
                    f" {self.fixed[group.name]}"
                )
        return resolved

    def _try_groups(self, on_cpu: nn.Module, probe: GroupProbe) -> None:
        """Prune every group once, to find those that torch cannot cut as the graph does.

        All groups are pruned at once first, as that nearly always works and costs one run. Where it
        fails, halves of them are, until those that fail alone are found and marked as fixed; each
        time also with the numbers changed that modules keep of their channels.
        """
        # Those that need not compute the same come last, so that the others are held to it.
        pending: list[list[str]] = [[], []]
        for name, coupled in self._coupled.items():
            if coupled.places:
                pending[name not in probe.rescaled].append(name)
        working: list[str] = []
        while pending:
            names = pending.pop()
            if not names:
                continue
            problem = self._try_cut(on_cpu, probe, working + names)
            if not problem or self._fit_numbers(on_cpu, probe, working, names):
                working += names
            elif len(names) > 1:
                half = len(names) // 2
                pending += [names[half:], names[:half]]
            else:
                self._coupled[names[0]] = Coupled(self._coupled[names[0]].group, (), problem)

    def _fit_numbers(
        self, on_cpu: nn.Module, probe: GroupProbe, working: list[str], names: Sequence[str]
    ) -> bool:
        """Find numbers of modules that must change with some groups, and note them.

        Returns:
            Whether the groups can be cut with these.
        """
        before = {name: self._coupled[name] for name in names}
        for is_wide in (False, True):
            for name, coupled in before.items():
                near, wide = list_numbers(on_cpu, coupled.places, coupled.group.width)
                self._coupled[name] = replace(coupled, numbers=wide if is_wide else near)
            changed = any(self._coupled[name].numbers for name in names)
            if changed and not self._try_cut(on_cpu, probe, working + list(names)):
                return True
        self._coupled.update(before)
        return False

    def _try_cut(self, on_cpu: nn.Module, probe: GroupProbe, names: Sequence[str]) -> str:
        """Cut a third of the channels of the groups named, and describe what goes wrong.

        Returns:
            The problem; empty if there is none.
        """
        widths = []
        cuts = []
        for group in probe.structure.groups:
            width = group.width
            if group.name in names:
                width = max(1, 2 * width // 3)
                cuts.append(self._coupled[group.name].cut(range(width)))
            widths.append(width)
        try:
            pruned = Recipe(self.name, "", tuple(cuts)).apply(on_cpu, other_weights=True)
        except (UsageError, *FAILURES) as error:
            return f"its channels cannot be cut out of the network's modules ({error})"
        return probe.describe_misfit(pruned, widths)


_NOT_DROPPABLE = (
    "the block is neither a module of its own nor a branch whose layers can be left out"
)


def _check_same_structure(traced: Structure, expected: Structure, name: str) -> None:
    """Raise a UsageError if the structure of the network is not the expected one."""
    where = ""
    for group, expected_group in zip(traced.groups, expected.groups, strict=False):
        if group != expected_group:
            where = f"they differ first at group {group.name}"
            break
    if not where:
        same_number = len(traced.groups) == len(expected.groups)
        if same_number and traced.keys(traced.widths) == expected.keys(expected.widths):
            return
        where = f"{len(traced.groups)} groups against {len(expected.groups)}"
    raise UsageError(
        f"the structure given is not that of {name}: {where}; build the table for this very"
        " network and input shape"
    )
