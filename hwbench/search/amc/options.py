"""What can be chosen about AMC."""

from __future__ import annotations

from dataclasses import dataclass

from hwbench.network.widths import DEFAULT_LOWER
from hwbench.search.options import WidthOptions, option

EXPLORATIONS = ("nearby", "everywhere")
"""Where the agent explores at first: around uniform pruning, or among all widths, as published."""
REWARDS = ("error", "macs", "params", "latency")
"""What the agent is rewarded for, see `search.REWARD_FUNCTIONS`; all but the first know a cost."""


@dataclass(frozen=True)
class AmcOptions(WidthOptions):
    """Options of AMC, and those of every search over widths.

    Attributes:
        reward: What the agent is rewarded for, one of `REWARDS`.
        single_weights: Whether single weights are pruned, not channels.
        explore: Where the agent explores at first, one of `EXPLORATIONS`.
        lower: Smallest share of a width, or of the single weights of a layer.
    """

    reward: str = option(
        "What the agent is rewarded for: error (few errors within a budget), or macs, params or"
        " latency, which trade errors for that cost and need no budget.",
        default=REWARDS[0],
        choices=REWARDS,
    )
    single_weights: bool = option(
        "Prune single weights, not channels: that saves bytes, but no time. It needs a limit on"
        " the parameters or the size, or the reward params.",
        default=False,
    )
    explore: str = option(
        "Where the agent explores at first: nearby (around uniform pruning) or everywhere (as"
        " published).",
        default=EXPLORATIONS[0],
        choices=EXPLORATIONS,
        noun="exploration",
    )
    lower: float = option(
        "Smallest share of a width, or of the single weights of a layer, that is kept.",
        default=DEFAULT_LOWER,
        is_share=True,
    )
