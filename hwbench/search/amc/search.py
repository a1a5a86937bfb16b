"""AMC (He et al., ECCV 2018, arXiv 1802.03494): reinforcement learning picks every width.

More exactly it picks the preserve ratio of each group of channels, within a budget.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hwbench.errors import Argument, UsageError
from hwbench.search.amc.agent import PUBLISHED, AgentSettings, Ddpg, Transition, nearby
from hwbench.search.amc.options import EXPLORATIONS, REWARDS
from hwbench.search.amc.walk import SIZE, Walk
from hwbench.search.base import Candidate, Outcome, Search, Trial
from hwbench.search.baselines import uniform
from hwbench.search.costs import WHOLE

if TYPE_CHECKING:
    from hwbench.search.budget import Budget
    from hwbench.search.costs import Floats

EPISODES, WARM_UP = 400, 100
"""As published: 100 episodes of exploration and 300 of exploitation."""


MIDDLE = (0.02, 0.98)
"""The first action of an actor must lie in here, as its sigmoid is flat outside."""


def _error(outcome: Outcome) -> float:
    return 1.0 if outcome.quality is None else 1 - outcome.quality


def _latency(outcome: Outcome) -> float:
    if outcome.latency_s is None:
        raise UsageError(
            "the reward by latency needs a latency, and none is known",
            Argument("table"),
            Argument("device"),
        )
    return outcome.latency_s


REWARD_FUNCTIONS: Mapping[str, Callable[[Outcome], float]] = {
    "error": lambda outcome: -_error(outcome),
    "macs": lambda outcome: -_error(outcome) * math.log(outcome.macs),
    "params": lambda outcome: -_error(outcome) * math.log(outcome.params),
    "latency": lambda outcome: -_error(outcome) * math.log(_latency(outcome) * 1e9),
}
"""The rewards of the paper (section 3.4), by the names in `options.REWARDS`.

R_err is for a search within a budget. R_FLOPs, R_Param and its like for latency trade cost for
error by themselves; latency is in nanoseconds, so that the logarithm is positive and of the size of
the others'.
"""


class Amc(Search):
    """One episode, which is one candidate, at a time; at first all exploring ones at once.

    The agent learns nothing from those before they are over, so they are the same at once as one
    after the other, and can be evaluated at the same time.

    Args:
        budget: Limit and widths; an infinite limit with a reward that knows the cost.
        geometry: Geometry of the layer of each decision, shape (decisions, 6): see
            `walk.channel_geometry`, or `walk.weight_geometry` for single weights.
        seed: Seed of all random choices.
        episodes: Candidates to propose.
        warm_up: Episodes at the start from which nothing is learnt yet; at most a quarter of all.
        reward: One of `REWARDS`.
        single_weights: Whether decisions are shares of the single weights of each layer, not
            widths (the paper's Algorithm 1).
        explore: `nearby`, around uniform pruning, with what an episode leaves of the budget given
            to its last groups, or `everywhere`, as published; without a limit always the latter.
        agent: Settings of the agent; None for those that go with `explore`.

    Raises:
        UsageError: There is no such reward, or nothing to decide.
    """

    name = "amc"

    def __init__(
        self,
        budget: Budget,
        geometry: Floats,
        *,
        seed: int = 0,
        episodes: int = EPISODES,
        warm_up: int = WARM_UP,
        reward: str = REWARDS[0],
        single_weights: bool = False,
        explore: str = EXPLORATIONS[0],
        agent: AgentSettings | None = None,
    ) -> None:
        super().__init__()
        if reward not in REWARDS:
            raise UsageError(f"unknown reward {reward!r}; expected one of {', '.join(REWARDS)}")
        if explore not in EXPLORATIONS:
            known = ", ".join(EXPLORATIONS)
            raise UsageError(f"unknown exploration {explore!r}; expected one of {known}")
        if not len(geometry):
            raise UsageError("the network has no group of channels that can be pruned")
        self._reward, self._episodes = REWARD_FUNCTIONS[reward], episodes
        self._single_weights = single_weights
        self._walk = Walk(budget, geometry)
        first = min(warm_up, episodes // 4)
        start = _uniform_share(budget) if explore == "nearby" and budget.limit < math.inf else None
        settings = agent or (PUBLISHED if start is None else nearby(episodes - first))
        self._fills = start is not None
        self._agent = Ddpg(
            SIZE, len(geometry), warm_up=first, seed=seed, start=start, settings=settings
        )
        self._paths: list[list[Transition]] = []

    @property
    def finished(self) -> bool:
        """Whether all episodes are over."""
        return len(self.trials) >= self._episodes

    def rank(self, outcome: Outcome) -> float:
        """The reward."""
        return self._reward(outcome)

    def _next(self) -> list[Candidate]:
        left = self._episodes - len(self.trials)
        at_once = min(max(self._agent.still_exploring, 1), left)
        self._paths = []
        return [self._walk_through() for _ in range(at_once)]

    def _walk_through(self) -> Candidate:
        """One episode: the candidate that its decisions make; its path is remembered."""
        number = self._number()
        start = self._agent.start if number == 0 else None
        states = [self._walk.reset()]
        while not self._walk.done:
            action = self._agent.act(states[-1]) if start is None else start
            states.append(self._walk.step(action))
        decided = tuple(self._walk.decided)
        if self._fills:
            # What the last wishes left of the budget goes to the last groups, and counts as theirs.
            decided = self._walk.budget.widen(decided, range(len(decided) - 1, -1, -1))
            states = self._walk.retrace(decided)
        path: list[Transition] = []
        for place, (state, following) in enumerate(itertools.pairwise(states), 1):
            is_last = place == len(decided)
            path.append(Transition(state, float(following[-1]), following, is_last))
        self._paths.append(path)
        note = "exploring" if self._agent.still_exploring else "agent"
        if self._single_weights:
            shares = tuple(width / WHOLE for width in decided)
            return Candidate(number, shares=shares, note=note)
        return Candidate(number, decided, note=note)

    def _learn(self, trials: Sequence[Trial]) -> None:
        for path, trial in zip(self._paths, trials, strict=True):
            if trial.outcome is not None:  # a failed trial teaches nothing
                self._agent.learn(path, self.rank(trial.outcome))


def _uniform_share(budget: Budget) -> float:
    """Mean share of the widths that uniform pruning within the budget keeps."""
    widths = uniform(budget)
    share = sum(
        width / int(grid[-1]) for width, grid in zip(widths, budget.choices, strict=True)
    ) / len(widths)
    return min(max(share, MIDDLE[0]), MIDDLE[1])
