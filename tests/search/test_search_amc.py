"""AMC: what the agent sees, what it is rewarded for, and how it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from hwbench.errors import UsageError
from hwbench.search.amc.agent import (
    NARROWED,
    NEAR,
    PUBLISHED,
    AgentSettings,
    Ddpg,
    Transition,
    _truncated_normal,
    nearby,
)
from hwbench.search.amc.options import REWARDS
from hwbench.search.amc.search import REWARD_FUNCTIONS, Amc
from hwbench.search.amc.walk import FEATURES, Walk, channel_geometry, weight_geometry
from hwbench.search.base import Outcome, Trial
from hwbench.search.baselines import uniform
from hwbench.search.budget import Budget
from hwbench.search.objective import weights_cost
from tests.support import table_support
from tests.support.search_support import CHOICES, GridCost, Width, budget, drive

SMALL = AgentSettings(hidden=16, batch=8)


def feature(state, name):
    return state[FEATURES.index(name)]


def walk(share: float = 0.6) -> Walk:
    return Walk(budget(share), channel_geometry(table_support.structure()))


def test_states_have_eleven_features_in_the_unit_interval():
    one = walk()
    states = [one.reset()]
    while not one.done:
        states.append(one.step(0.4))
    assert {state.shape for state in states} == {(11,)}
    assert np.min(states) >= 0
    assert np.max(states) <= 1
    assert [feature(state, "t") for state in states[:2]] == [0, pytest.approx(1 / 8)]


def test_states_tell_geometry_and_the_action_as_realised():
    structure = table_support.structure()
    geometry = channel_geometry(structure)
    assert geometry[0].tolist() == [
        16,
        16,
        32,
        32,
        1,
        3,
    ]  # layer1.0.conv2 reads what layer1.0.conv1 makes
    one = walk(1.0)
    state = one.step(0.9)  # 14.4 channels of 16, rounded up to the step
    assert one.decided == [16]
    assert feature(state, "a") == 1
    assert feature(one.step(0.45), "a") == 0.5


def test_cost_features_add_up():
    cost = GridCost(CHOICES, 0)
    one = Walk(Budget(cost, np.inf, CHOICES), np.ones((4, 6)))
    total = sum(grid.flat[-1] for grid in cost.grids.values())
    first = one.reset()
    assert feature(first, "reduced") == 0
    assert feature(first, "cost") == pytest.approx(
        sum(g.flat[-1] for s, g in cost.grids.items() if 0 in s) / total
    )
    assert feature(first, "rest") == pytest.approx(
        sum(g.flat[-1] for s, g in cost.grids.items() if s and 0 not in s) / total
    )
    saved = cost.grids[0,][-1] - cost.grids[0,][0]
    assert feature(one.step(0.0), "reduced") == pytest.approx(max(saved / total, 0))


def test_rewards():
    outcome = Outcome(quality=0.75, latency_s=1e-3, macs=1000, params=100, size_bytes=400)
    assert REWARD_FUNCTIONS["error"](outcome) == -0.25
    assert REWARD_FUNCTIONS["macs"](outcome) == pytest.approx(-0.25 * math.log(1000))
    assert REWARD_FUNCTIONS["params"](outcome) == pytest.approx(-0.25 * math.log(100))
    faster, better = (Outcome(0.75, 1e-4, 1, 1, 1), Outcome(0.8, 1e-3, 1, 1, 1))
    assert REWARD_FUNCTIONS["latency"](faster) > REWARD_FUNCTIONS["latency"](outcome)
    assert REWARD_FUNCTIONS["latency"](better) > REWARD_FUNCTIONS["latency"](outcome)
    with pytest.raises(
        UsageError, match=r"needs a latency, and none is known; pass table=..., or pass device=..."
    ):
        REWARD_FUNCTIONS["latency"](Outcome(0.5, None, 1, 1, 1))


def test_exploration_is_a_truncated_normal():
    random = np.random.default_rng(0)
    drawn = np.array([_truncated_normal(random, 0.8, 0.3) for _ in range(4000)])
    expected = truncnorm((0 - 0.8) / 0.3, (1 - 0.8) / 0.3, 0.8, 0.3)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / 4000**0.5)


def test_agent_only_remembers_during_the_warm_up():
    agent = Ddpg(11, 2, warm_up=2, seed=0, settings=SMALL)
    before = [value.clone() for value in agent.actor.parameters()]
    path = [Transition(np.zeros(11), 0.5, np.ones(11), last=place == 1) for place in range(2)]
    agent.learn(path, -0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.actor.parameters(), strict=True))
    agent.learn(path, -0.4)
    assert not agent.still_exploring
    assert not all(torch.equal(a, b) for a, b in zip(before, agent.actor.parameters(), strict=True))


def test_agent_learns_which_actions_pay():
    """A bandit whose reward falls with the distance to 0.8: the actor ends near it."""
    agent = Ddpg(11, 1, warm_up=60, seed=3, settings=AgentSettings(hidden=32, actor_rate=1e-3))
    state = np.full(11, 0.5)
    for _ in range(500):
        action = agent.act(state)
        agent.learn([Transition(state, action, state, last=True)], -abs(action - 0.8))
    with torch.no_grad():
        assert float(agent.actor(torch.full((11,), 0.5))) == pytest.approx(0.8, abs=0.12)


def test_agent_with_a_start_explores_around_it():
    agent = Ddpg(11, 1, warm_up=400, seed=0, start=0.3, settings=nearby(100))
    with torch.no_grad():
        assert torch.allclose(agent.actor(torch.rand(20, 11)), torch.tensor(0.3), atol=0.02)
    path = [Transition(np.zeros(11), 0.3, np.ones(11), last=True)]
    drawn = []
    for _ in range(400):
        agent.learn(path, -0.5)
        drawn.append(agent.act(np.zeros(11)))
    expected = truncnorm((0 - 0.3) / NEAR, (1 - 0.3) / NEAR, 0.3, NEAR)
    assert np.mean(drawn) == pytest.approx(expected.mean(), abs=4 * NEAR / 20)
    assert nearby(100).sigma * nearby(100).decay ** 100 == pytest.approx(NARROWED * NEAR)


def test_search_begins_at_uniform_pruning_unless_it_explores_everywhere_or_has_no_limit():
    geometry, limit = channel_geometry(table_support.structure()), budget()
    search = Amc(limit, geometry, seed=1)
    shares = [width / grid[-1] for width, grid in zip(uniform(limit), limit.choices, strict=True)]
    assert search._agent.start == pytest.approx(np.mean(shares))
    assert limit.fits(search.propose()[0].widths)
    free = Budget(limit.cost, math.inf, limit.choices)
    for elsewhere in (
        Amc(limit, geometry, seed=1, explore="everywhere"),
        Amc(free, geometry, seed=1),
    ):
        assert elsewhere._agent.settings == PUBLISHED
        assert elsewhere._agent.start is None
    with pytest.raises(
        UsageError, match="unknown exploration 'here'; expected one of nearby, everywhere"
    ):
        Amc(limit, geometry, explore="here")


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    drive(
        Amc(
            budget(),
            channel_geometry(table_support.structure()),
            episodes=6,
            warm_up=2,
            agent=SMALL,
        )
    )
    assert torch.equal(before, torch.random.get_rng_state())


def test_episodes_use_the_budget_up_and_learn_from_what_became_of_them():
    limit = budget()
    search = Amc(limit, channel_geometry(table_support.structure()), episodes=12, agent=SMALL)
    for trial in drive(search):
        cost = float(limit.cost.of(np.array([trial.candidate.widths]))[0])
        assert 0.97 * limit.limit <= cost <= limit.limit * (1 + 1e-9)
    whole = [int(grid[-1]) for grid in limit.choices]
    kept = np.array(search.trials[-1].candidate.widths) / whole
    (path,) = search._paths
    assert [step.action for step in path] == pytest.approx(kept.tolist())
    assert [step.last for step in path] == [False] * (len(path) - 1) + [True]
    published = Amc(
        limit,
        channel_geometry(table_support.structure()),
        episodes=12,
        agent=SMALL,
        explore="everywhere",
    )
    costs = [
        float(limit.cost.of(np.array([trial.candidate.widths]))[0]) for trial in drive(published)
    ]
    assert min(costs) < 0.95 * limit.limit


@pytest.mark.parametrize("fails", [frozenset(), frozenset({0, 3})])
def test_exploring_episodes_at_once_are_those_one_after_the_other(fails, monkeypatch):
    """The random numbers of all of them are drawn before any of them is learnt from."""

    def make():
        geometry = channel_geometry(table_support.structure())
        return Amc(budget(), geometry, episodes=16, warm_up=4, agent=SMALL)

    at_once = make()
    sizes = []
    propose = at_once.propose
    monkeypatch.setattr(at_once, "propose", lambda: sizes.append(len(propose())) or propose())
    drive(at_once, Width(fails=fails))
    one_by_one = make()
    monkeypatch.setattr(
        type(one_by_one._agent), "still_exploring", property(lambda agent: agent.episodes < 4)
    )
    drive(one_by_one, Width(fails=fails))
    assert sizes[0] == 4
    assert sum(sizes) == 16
    assert at_once.trials == one_by_one.trials


def test_failed_trial_teaches_nothing_and_is_not_tried_again():
    search = Amc(
        budget(), channel_geometry(table_support.structure()), episodes=8, warm_up=4, agent=SMALL
    )
    while not search.finished:
        search.observe([Trial(candidate, error="x") for candidate in search.propose()])
    assert len(search.trials) == 8
    assert search._agent.episodes == 0
    assert len({trial.candidate.network for trial in search.trials}) > 4


def test_rewards_that_know_the_cost_need_no_limit():
    structure = table_support.structure()
    free = Budget(budget().cost, math.inf, budget().choices)
    search = Amc(free, channel_geometry(structure), episodes=6, reward="macs", agent=SMALL)
    assert len(drive(search)) == 6
    with pytest.raises(UsageError, match="unknown reward"):
        Amc(free, channel_geometry(structure), reward="speed")


def test_single_weights_keep_to_a_size():
    structure = table_support.structure()
    geometry = weight_geometry(structure)
    cost = weights_cost(structure)
    shares = np.arange(20, 1001, 20)
    full = float(cost.of(np.array([[1000] * len(geometry)]))[0])
    limit = Budget(cost, full / 5, tuple(shares for _ in geometry))
    for trial in drive(Amc(limit, geometry, episodes=4, single_weights=True, agent=SMALL)):
        assert float(cost.of(np.array([trial.candidate.shares]) * 1000)[0]) <= full / 5 * (1 + 1e-9)
    assert full == 4 * sum(slot.layer.params for slot in structure.slots)


def test_rewards_are_those_that_can_be_chosen():
    assert tuple(REWARD_FUNCTIONS) == REWARDS


def test_reward_call_asks_the_table_once():
    from hwbench.network import zoo
    from hwbench.search.objective import KeptWeight, Prices

    class Counting:
        calls = 0

        def predict(self, keys):
            raise AssertionError("whole networks only")

        def predict_widths(self, widths):
            self.calls += 1
            assert widths.shape == (1, 9)
            return np.array([1.0])

    source, structure = Counting(), table_support.structure()
    objective = KeptWeight(zoo.build("resnet20"), Prices(structure, source))
    candidate = drive(Amc(budget(), channel_geometry(structure), episodes=1, agent=SMALL), Width())[
        0
    ].candidate
    for _ in range(5):
        REWARD_FUNCTIONS["latency"](objective.evaluate(candidate))
    assert source.calls == 5


def test_the_agent_learns_on_one_core_and_leaves_the_others_to_the_rest(monkeypatch):
    seen: list[int] = []
    update = Ddpg._update

    def note(agent: Ddpg) -> None:
        seen.append(torch.get_num_threads())
        update(agent)

    monkeypatch.setattr(Ddpg, "_update", note)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        agent = Ddpg(2, 2, warm_up=0, seed=0)
        step = Transition(np.zeros(2), 0.5, np.ones(2), last=True)
        agent.learn([step, step], -0.5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]
