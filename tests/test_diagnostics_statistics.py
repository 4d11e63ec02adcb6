"""Statistics of curves, against numbers worked out by hand and against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_tunix.diagnostics._statistics import (
    block_means,
    deepest_fall,
    departure,
    line_change,
    noise_of,
    smoothed,
    step_noise,
    without_outliers,
)

CURVES = st.lists(st.floats(-100, 100), min_size=3, max_size=60).map(np.array)


def correlated(n, phi, seed=0):
    rng = np.random.default_rng(seed)
    values = np.zeros(n)
    for k in range(1, n):
        values[k] = phi * values[k - 1] + rng.normal() * np.sqrt(1 - phi**2)
    return values


def test_a_straight_line_has_no_noise():
    assert step_noise(3 * np.arange(40.0)) == pytest.approx(0, abs=1e-9)
    assert noise_of(3 * np.arange(100.0)).sigma == pytest.approx(0, abs=1e-9)


def test_noise_of_one_is_found_under_a_trend():
    values = np.random.default_rng(0).normal(0, 1, 2000) + np.linspace(0, 50, 2000)
    assert step_noise(values) == pytest.approx(1, rel=0.05)
    assert noise_of(values).sigma == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("phi", [0.0, 0.4, 0.7])
def test_correlated_noise_spoils_means_as_much_as_it_should(phi):
    inflations = [noise_of(correlated(1000, phi, seed)).inflation for seed in range(20)]
    assert np.mean(inflations) == pytest.approx((1 + phi) / (1 - phi), rel=0.25)


def test_the_error_of_a_mean_never_exceeds_that_of_one_point():
    noise = noise_of(correlated(300, 0.8))
    assert noise.error(1) == pytest.approx(noise.sigma)
    assert noise.error(4) <= noise.sigma


def test_block_means_by_hand():
    assert block_means(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [2, 6]


def test_the_line_through_exact_points_rises_by_the_whole():
    change = line_change(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]), 0.1)
    assert change.delta == pytest.approx(2)
    # error / sqrt(sum of squares 2) times the range 2
    assert change.error == pytest.approx(0.1 / np.sqrt(2) * 2)


def test_departure_is_behind_the_last_point_near_the_start():
    assert departure(np.array([0, 0, 1, 0, 0, 5, 9, 10.0]), 0, 10) == 5


def test_a_single_outlier_disappears():
    assert without_outliers(np.array([1.0, 1, 1, 99, 1, 1, 1])).tolist() == [1] * 7


@given(CURVES)
def test_the_deepest_fall_is_the_largest_difference_of_any_two_in_order(values):
    slow = max(values[i] - values[j] for i in range(values.size) for j in range(i, values.size))
    assert deepest_fall(values).depth == pytest.approx(slow)


@given(CURVES, st.integers(1, 70))
def test_moving_averages_stay_within_the_values(values, width):
    level = smoothed(values, width)
    assert level.size == max(values.size - width, 0) + 1
    assert values.min() - 1e-9 <= level.min() and level.max() <= values.max() + 1e-9


@given(CURVES, st.floats(0.1, 10), st.floats(-5, 5))
def test_noise_scales_with_the_unit_and_ignores_the_zero(values, factor, shift):
    assert step_noise(values * factor + shift) == pytest.approx(factor * step_noise(values), rel=1e-6, abs=1e-9)
