from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.lookup_tables.surface import LEAST, Points, Surface, find_step


def blocked(cin: np.ndarray, cout: np.ndarray, step: int) -> np.ndarray:
    full_in, full_out = -(-cin // step) * step, -(-cout // step) * step
    return 2e-6 + 3e-9 * full_in * full_out + 1e-9 * (cin + cout)


def scattered(count: int, law=blocked, step: int = 16, noise: float = 0.0, seed: int = 0) -> Points:
    rng = np.random.default_rng(seed)
    cin, cout = rng.integers(2, 33, (2, count)) * 4
    latency_s = law(cin, cout, step) * np.exp(noise * rng.standard_normal(count))
    return Points(cin.astype(float), cout.astype(float), latency_s, np.ones(count))


@pytest.mark.parametrize("step", [1, 8, 16, 32])
def test_the_step_is_found_and_unseen_layers_are_predicted(step):
    points = scattered(150, step=step, noise=0.01)
    assert find_step([points]) == step
    cin, cout = np.random.default_rng(7).integers(2, 33, (2, 400)) * 4
    latency_s, _ = Surface(points, step).at(cin, cout)
    assert np.abs(latency_s / blocked(cin, cout, step) - 1).mean() < 0.01


def test_no_step_is_claimed_where_there_is_none():
    assert find_step([scattered(60, step=1, noise=0.02, seed=seed) for seed in range(5)]) == 1
    few = Points(*(np.array([8.0, 16.0]),) * 2, np.array([1e-6, 2e-6]), np.ones(2))
    assert find_step([few]) == 1


def test_a_narrower_layer_may_be_slower():
    def law(cin, cout, step):
        return blocked(cin, cout, step) * np.where(cout % step, 1.3, 1.0)

    surface = Surface(scattered(150, law=law, noise=0.005), 16)
    narrow, wide = surface.at(np.array([64, 64]), np.array([24, 32]))[0]
    truth = law(np.array([64, 64]), np.array([24, 32]), 16)
    assert narrow > 1.1 * wide
    np.testing.assert_allclose([narrow, wide], truth, rtol=0.05)


def test_what_no_trend_explains_is_followed_where_it_was_measured():
    def law(cin, cout, step):
        return blocked(cin, cout, step) * (1 + 0.2 * np.exp(-((np.log2(cin) - 5) ** 2)))

    cin, cout = np.random.default_rng(3).integers(2, 33, (2, 200)) * 4
    with_process = Surface(scattered(300, law=law, noise=0.005), 16)
    error = np.abs(with_process.at(cin, cout)[0] / law(cin, cout, 16) - 1).mean()
    assert with_process.shape.ratio > 0
    assert error < 0.015


def test_deviation_grows_away_from_measured_points():
    surface = Surface(scattered(60, noise=0.01), 16)
    _, (near, beyond, far) = surface.at(np.array([64, 256, 1024]), np.array([64, 256, 1024]))
    assert near < beyond <= far * 1.01


def test_one_point_answers_for_itself():
    surface = Surface(Points(*(np.array([value]) for value in (64.0, 32.0, 5e-5, 1.0))), 1)
    latency_s, sd = surface.at(np.array([64]), np.array([32]))
    assert latency_s[0] == pytest.approx(5e-5, rel=0.01)
    assert 0 < sd[0] < 0.05
    assert surface.inside(np.array([64, 64]), np.array([32, 33])).tolist() == [True, False]


def test_a_family_that_costs_nothing_stays_so():
    surface = Surface(
        Points(np.array([8.0, 16.0]), np.array([8.0, 16.0]), np.zeros(2), np.ones(2)), 1
    )
    assert [part.tolist() for part in surface.at(np.array([12]), np.array([12]))] == [[0.0], [0.0]]


@given(
    st.lists(
        st.tuples(st.integers(1, 64), st.integers(1, 64), st.floats(1e-7, 1e-2)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 4096),
    st.integers(1, 4096),
)
def test_whatever_was_measured_predictions_are_positive_and_finite(rows, cin, cout):
    columns = [np.array(column, float) for column in zip(*rows, strict=True)]
    surface = Surface(
        Points(*columns, np.ones(len(rows))), find_step([Points(*columns, np.ones(len(rows)))])
    )
    latency_s, sd = surface.at(np.array([cin]), np.array([cout]))
    assert LEAST * columns[2].min() <= latency_s[0] < np.inf
    assert 0 <= sd[0] < np.inf
