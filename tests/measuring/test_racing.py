"""A race finds the fastest of many candidates on the virtual device, whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from hwbench.devices.virtual.device import Virtual
from hwbench.measuring.racing import FINALISTS, HEAT, Race
from hwbench.measuring.sessions import measure_interleaved
from hwbench.records.measurement import Settings
from tests.support.models import told

pytestmark = pytest.mark.slow

BASELINE_S = 2e-3
MIN_EFFECT = 0.01


def run_race(
    latencies_s: dict[str, float], budget_s: float, seed: int = 0
) -> tuple[Race, list[int], float]:
    """A race of told workloads; gives it, the sizes of its heats and the seconds they may take."""
    workloads = {name: told(name) for name in ("baseline", *latencies_s)}
    truth = {workloads[name].sha256: value for name, value in latencies_s.items()}
    truth[workloads["baseline"].sha256] = BASELINE_S
    race, sizes, spent_s = Race(tuple(latencies_s), MIN_EFFECT), [], 0.0
    with Virtual(latencies_s=truth, seed=seed) as device:
        for number, (heat, heat_s) in enumerate(race.heats(budget_s)):
            settings = Settings(
                layers=False,
                session_s=0.1,
                target=0.0,
                stop_at_difference=False,
                budget_s=heat_s,
                seed=seed + number,
            )
            group = [workloads["baseline"], *(workloads[name] for name in heat)]
            baseline, *others = measure_interleaved(device, group, settings)
            race.add(
                baseline.series,
                {name: record.series for name, record in zip(heat, others, strict=True)},
            )
            sizes.append(len(heat))
            spent_s += heat_s
    return race, sizes, spent_s


@pytest.mark.parametrize("seed", range(4))
def test_the_fastest_of_a_hundred_is_among_the_first_three(seed):
    random = np.random.default_rng(seed)
    steps = random.permutation(100)
    latencies_s = {f"net{step}": 1e-3 * 1.01**step for step in steps.tolist()}
    race, sizes, spent_s = run_race(latencies_s, budget_s=200.0, seed=seed)
    assert "net0" in race.order()[:3]
    assert len(race.order()) == 100
    assert max(sizes) <= HEAT
    assert spent_s == pytest.approx(200.0)


def test_who_got_further_is_ahead():
    latencies_s = {f"net{step}": 1e-3 * 1.05**step for step in range(20)}
    race, _, _ = run_race(latencies_s, budget_s=100.0)
    assert race.order() == list(latencies_s)


def test_a_clear_winner_is_proven_and_a_close_one_is_not():
    clear, _, _ = run_race({"quick": 1e-3, "slow": 1.2e-3, "slower": 1.5e-3}, budget_s=40.0)
    assert clear.order()[0] == "quick"
    assert clear.find_rivals("quick") == []
    assert clear.find_rivals("slow") == ["quick"]
    close, _, _ = run_race({"one": 1e-3, "other": 1e-3, "slow": 2e-3}, budget_s=3.0)
    assert len(close.find_rivals(close.order()[0])) >= 1


def test_no_rival_of_equals_is_faster_by_what_matters():
    race, _, _ = run_race({"one": 1e-3, "other": 1.001e-3}, budget_s=60.0)
    assert race.find_rivals(race.order()[0]) == []


def test_the_proof_seldom_errs():
    """Where the first of the order is not the fastest, nothing proves that it is."""
    wrong = 0
    for seed in range(25):
        race, _, _ = run_race({"one": 1.02e-3, "other": 1.0e-3}, budget_s=1.5, seed=seed)
        winner = race.order()[0]
        wrong += winner == "one" and race.find_rivals(winner) == []
    assert wrong == 0


def test_few_candidates_run_in_one_heat_and_a_dropped_one_in_none():
    race = Race(("a", "b", "c"), MIN_EFFECT)
    heats = race.heats(10.0)
    heat, heat_s = next(heats)
    assert (list(heat), heat_s) == (["a", "b", "c"], pytest.approx(10.0))
    for name in heat:
        race.drop(name)
    assert list(heats) == []
    assert race.order() == []
    assert len(heat) <= FINALISTS
