"""AMC's agent: deep deterministic policy gradient with the settings of He et al. (2018).

Actor and critic have two hidden layers of 300; exploration draws from a normal distribution
truncated to [0, 1] around the actor's action, whose width decays; the reward of a whole episode
goes to each of its steps, less a moving average of the rewards.

The published agent first draws actions from all of [0, 1]. Within a tight budget nearly all
networks so drawn are bad, and few episodes do not find the way out. So an agent can be given an
action to start from, that of the uniform policy: the search begins with it and explores around it,
and the actor gives it at first, as the last layer's weights are near 0 then (Lillicrap et al. 2016,
section 7).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hwbench.search.costs import Floats


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """As published (paper, section 4; github.com/mit-han-lab/amc).

    Attributes:
        hidden: Neurons of each hidden layer.
        actor_rate: Adam's learning rate for the actor.
        critic_rate: Adam's learning rate for the critic.
        batch: Transitions per update.
        replay: Transitions kept, per step of an episode.
        tau: Share of the networks that goes into their targets at each update.
        discount: Factor of the value of the next state.
        sigma: Width of the exploration after the warm-up; also during it, where there is an action
            to start from.
        decay: Its factor per episode after the warm-up.
        baseline: Weight of a batch's mean reward in the moving average.
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    batch: int = 64
    replay: int = 100
    tau: float = 0.01
    discount: float = 1.0
    sigma: float = 0.5
    decay: float = 0.95
    baseline: float = 0.5


PUBLISHED = AgentSettings()
NEAR = 0.2
"""Width of the exploration around the action to start from.

It was chosen with other seeds than those of `results/search_amc/`; 0.1 and 0.3 were tried on one
only (`DECISIONS.md`, 40).
"""
NARROWED = 0.1
"""The part of that width which is left in the last episode."""
FLAT = 3e-3
"""Largest weight of an actor's last layer that begins near 0 (Lillicrap et al. 2016, section 7)."""


def nearby(episodes: int) -> AgentSettings:
    """Settings for an agent with an action to start from.

    Args:
        episodes: After the warm-up.
    """
    return AgentSettings(sigma=NEAR, decay=NARROWED ** (1 / max(episodes, 1)))


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of an episode: what was seen, what was done (as realised), what was seen next."""

    state: Floats
    action: float
    following: Floats
    last: bool


class _Actor(nn.Sequential):
    def __init__(self, states: int, hidden: int, start: float | None) -> None:
        last = nn.Linear(hidden, 1)
        super().__init__(
            nn.Linear(states, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            last,
            nn.Sigmoid(),
        )
        if start is not None:
            nn.init.uniform_(last.weight, -FLAT, FLAT)
            nn.init.constant_(last.bias, math.log(start / (1 - start)))


class _Critic(nn.Module):
    def __init__(self, states: int, hidden: int) -> None:
        super().__init__()
        self.state, self.action = nn.Linear(states, hidden), nn.Linear(1, hidden)
        self.inner, self.value = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """(n, states) and (n, 1) to values (n, 1)."""
        joined = torch.relu(self.state(states) + self.action(actions))
        found: Tensor = self.value(torch.relu(self.inner(joined)))
        return found


class Ddpg:
    """The agent. All its randomness comes from `seed`; torch's global state is left alone.

    Args:
        states: Number of features of a state.
        steps: Number of steps of an episode.
        warm_up: Number of episodes during which nothing is learnt.
        seed: Seed of weights, exploration and replay.
        start: Action that the warm-up explores around, and the actor's first, in (0, 1); None to
            draw all uniformly.
        settings: All else.
    """

    def __init__(
        self,
        states: int,
        steps: int,
        *,
        warm_up: int,
        seed: int,
        start: float | None = None,
        settings: AgentSettings = PUBLISHED,
    ) -> None:
        self.settings, self._steps, self._warm_up, self.start = settings, steps, warm_up, start
        self._random = np.random.default_rng(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor, self.critic = (
                _Actor(states, settings.hidden, start),
                _Critic(states, settings.hidden),
            )
        self._actor_target, self._critic_target = deepcopy(self.actor), deepcopy(self.critic)
        self._actor_steps = torch.optim.Adam(self.actor.parameters(), settings.actor_rate)
        self._critic_steps = torch.optim.Adam(self.critic.parameters(), settings.critic_rate)
        self._memory: deque[tuple[Transition, float]] = deque(maxlen=settings.replay * steps)
        self._baseline: float | None = None
        self.episodes = 0

    @property
    def still_exploring(self) -> int:
        """Episodes that are left from which nothing is learnt yet."""
        return max(self._warm_up - self.episodes, 0)

    def act(self, state: Floats) -> float:
        """An action in [0, 1], with exploration."""
        if self.still_exploring:
            if self.start is None:
                return float(self._random.uniform())
            return _truncated_normal(self._random, self.start, self.settings.sigma)
        with _one_thread(), torch.no_grad():
            mean = float(self.actor(torch.as_tensor(state, dtype=torch.float32)))
        sigma = self.settings.sigma * self.settings.decay ** (self.episodes - self._warm_up)
        return _truncated_normal(self._random, mean, sigma)

    def learn(self, episode: Sequence[Transition], reward: float) -> None:
        """Take in a whole episode, then update once for each of its steps.

        During the warm-up only remember.
        """
        self._memory.extend((transition, reward) for transition in episode)
        self.episodes += 1
        if self.still_exploring:
            return
        with _one_thread():
            for _ in episode:
                self._update()

    def _update(self) -> None:
        settings = self.settings
        drawn = self._random.integers(len(self._memory), size=settings.batch)
        picked = [self._memory[int(index)] for index in drawn]
        states = _tensor([transition.state for transition, _ in picked])
        following = _tensor([transition.following for transition, _ in picked])
        actions = _tensor([transition.action for transition, _ in picked])[:, None]
        rewards = _tensor([reward for _, reward in picked])[:, None]
        goes_on = _tensor([not transition.last for transition, _ in picked])[:, None]
        # Rewards are all of one sign and close together; what counts is how much better an episode
        # was than usual, so a moving average of the rewards is taken off.
        mean = float(rewards.mean())
        known = mean if self._baseline is None else self._baseline
        self._baseline = known + settings.baseline * (mean - known)
        with torch.no_grad():
            ahead = self._critic_target(following, self._actor_target(following))
            target = rewards - self._baseline + settings.discount * goes_on * ahead
        _descend(
            self._critic_steps,
            self.critic,
            nn.functional.mse_loss(self.critic(states, actions), target),
        )
        _descend(self._actor_steps, self.actor, -self.critic(states, self.actor(states)).mean())
        _follow(self._actor_target, self.actor, settings.tau)
        _follow(self._critic_target, self.critic, settings.tau)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core.

    The agent's networks are so small that threads mostly wait for each other: where other programs
    want the cores as well, two threads took 25 times as long as one. With one thread an agent also
    learns the same on machines of any number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _follow(target: nn.Module, network: nn.Module, share: float) -> None:
    """Move a target network a share of the way to the network it follows.

    Values that change slowly make the critic's own predictions a target that can be learnt.
    """
    with torch.no_grad():
        for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
            slow.lerp_(fast, share)


def _descend(optimizer: torch.optim.Optimizer, net: nn.Module, loss: Tensor) -> None:
    """One step of gradient descent of a network, and of no other that the loss depends on."""
    optimizer.zero_grad()
    loss.backward(inputs=list(net.parameters()))  # type: ignore[no-untyped-call]
    optimizer.step()


def _tensor(values: Sequence[object]) -> Tensor:
    return torch.as_tensor(np.array(values, np.float32))


def _truncated_normal(random: np.random.Generator, mean: float, sigma: float) -> float:
    """A draw from N(mean, sigma) on [0, 1], by the inverse of its distribution."""
    from scipy.special import ndtr, ndtri

    low, high = ndtr((0 - mean) / sigma), ndtr((1 - mean) / sigma)
    drawn = mean + sigma * ndtri(low + random.uniform() * (high - low))
    return float(min(max(drawn, 0.0), 1.0))
