"""AMC's walk as an environment of Gymnasium, for other agents than the one that comes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from hwbench.search.amc.walk import SIZE, Walk

if TYPE_CHECKING:
    from hwbench.search.budget import Budget
    from hwbench.search.costs import Floats

Observation = NDArray[np.float32]


class PruningEnv(gymnasium.Env[Observation, Observation]):
    """One episode is one pruned network: an action per group, the reward of the whole network at the end.

    Observations are the 11 features of `amc_walk.FEATURES`; the action is the preserve ratio wished
    for, shape (1,). The `info` of each step has the realised `width`, that of the last all
    `widths`.

    Args:
        budget: What bounds every action.
        geometry: Of each decision (`amc_walk.channel_geometry`).
        reward: Reward of the network of those widths.
    """

    metadata: Mapping[str, Any] = {"render_modes": []}  # type: ignore[assignment]

    def __init__(
        self, budget: Budget, geometry: Floats, reward: Callable[[tuple[int, ...]], float]
    ) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (SIZE,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._walk, self._reward = Walk(budget, geometry), reward

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin with the first group; nothing here is random."""
        super().reset(seed=seed, options=options)
        return self._walk.reset().astype(np.float32), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Decide one group."""
        state = self._walk.step(float(action[0])).astype(np.float32)
        widths = tuple(self._walk.decided)
        info: dict[str, Any] = {"width": widths[-1]}
        if not self._walk.done:
            return state, 0.0, False, False, info
        return state, float(self._reward(widths)), True, False, info | {"widths": widths}
