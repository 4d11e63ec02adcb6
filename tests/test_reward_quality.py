"""How far a reward can be trusted."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix.reward_quality import (
    best_of_n,
    best_of_n_divergence,
    fit_overoptimization,
    one_against_many,
    process_reward,
)

ALL = ("min", "max", "mean", "last", "product", "geometric_mean", "mean_logit", "mean_odds")


def test_ties_count_against_the_reward():
    tied = one_against_many(np.array([1.0]), np.array([[1.0, 0.0]]))
    assert tied == (0.0, 0.5, 0.5)


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_to_beat_all_is_hardest(seed):
    rng = np.random.default_rng(seed)
    right, wrong = rng.integers(0, 4, 8), rng.integers(0, 4, (8, 3))
    found = one_against_many(right, wrong)
    assert 0 <= found.accuracy <= min(found.pair_accuracy, found.reciprocal_rank)
    assert 1 / 4 <= found.reciprocal_rank <= 1
    assert all(found.accuracy <= (right > wrong[:, place]).mean() for place in range(3))


@pytest.mark.parametrize(("right", "wrong"), [([1.0], [[]]), ([1.0, 2.0], [[1.0]]), ([np.nan], [[1.0]])])
def test_nothing_to_compare_is_said(right, wrong):
    with pytest.raises(ValueError, match="one_against_many got"):
        one_against_many(np.array(right), np.array(wrong))


def test_steps_worked_out_by_hand():
    steps = np.array([[0.5, 0.8, 0.1]])
    mask = np.array([[True, True, False]])  # odds 1 and 4
    found = {by: float(process_reward(steps, mask, by=by)[0]) for by in ALL}
    expected = {
        "min": 0.5, "max": 0.8, "mean": 0.65, "last": 0.8, "product": 0.4, "geometric_mean": 0.4**0.5,
        "mean_logit": 2 / 3, "mean_odds": 2.5,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)


def test_certain_steps_stay_finite():
    steps, mask = np.array([[0.0, 1.0]]), np.ones((1, 2), bool)
    assert all(np.isfinite(process_reward(steps, mask, by=by)).all() for by in ALL)


def test_unknown_ways_and_empty_solutions_are_refused():
    with pytest.raises(ValueError, match="one of min, max"):
        process_reward(np.ones((1, 1)), np.ones((1, 1), bool), by="median")
    with pytest.raises(ValueError, match="without steps"):
        process_reward(np.ones((1, 1)), np.zeros((1, 1), bool))


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_best_of_n_is_that_of_all_subsets(seed, n):
    rng = np.random.default_rng(seed)
    proxy, gold = rng.integers(0, 3, (2, 5)).astype(float), rng.normal(size=(2, 5))
    slow = []
    for scores, worth in zip(proxy, gold):
        for subset in itertools.combinations(range(5), n):
            chosen = [place for place in subset if scores[place] == scores[list(subset)].max()]
            slow.append(worth[chosen].mean())
    assert best_of_n(proxy, gold, n) == pytest.approx(np.mean(slow), abs=1e-12)


def test_more_samples_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match="n=4 of 3"):
        best_of_n(np.zeros((1, 3)), np.zeros((1, 3)), 4)


def test_choosing_among_one_moves_nothing():
    assert best_of_n_divergence(1) == 0.0
    assert best_of_n_divergence(4) == pytest.approx(np.log(4) - 0.75)


@settings(max_examples=25)
@given(st.floats(-2, 3), st.floats(0.1, 2))
def test_the_law_is_found_again_with_its_peak(alpha, beta):
    d = np.linspace(0, 4, 40)
    gold = np.where(d > 0, d * (alpha - beta * np.log(np.maximum(d, 1e-9))), 0)
    found = fit_overoptimization(d**2, gold)
    assert (found.alpha, found.beta, found.r2) == pytest.approx((alpha, beta, 1.0), abs=1e-6)
    around = found.peak * np.array([0.99, 1.0, 1.01])
    assert (around * (alpha - beta * np.log(around))).argmax() == 1


def test_a_law_that_never_falls_has_no_peak():
    d = np.array([0.5, 1.0, 2.0, 4.0])
    assert fit_overoptimization(d**2, d * (1 + 0.2 * np.log(d))).peak == np.inf
    with pytest.raises(ValueError, match="got 2 points"):
        fit_overoptimization(np.array([0.0, 1.0, 2.0]), np.zeros(3))
