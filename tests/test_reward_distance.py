"""How far two rewards are apart: on rollouts, and in decision processes that are solved exactly."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import advantages, rewards
from agent_tunix.papers._lab import _processes as processes
from agent_tunix.types import Score


def score(rows, valid=None):
    value = np.array(rows, np.float32)
    return Score(value, np.ones(value.shape, bool) if valid is None else np.array(valid))


def test_a_distance_worked_out_by_hand():
    # Credit (1, -1, 0, 0) and (1, -1, 1, -1): a cosine of 1 / sqrt 2, so half of sqrt(2 - sqrt 2).
    first, second = score([[2, 0], [5, 5]]), score([[3, 1], [2, 0]])
    assert rewards.distance(first, second) == pytest.approx(np.sqrt(2 - np.sqrt(2)) / 2, abs=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.1, 50), st.floats(-50, 50))
def test_what_training_cannot_see_is_no_distance(seed, scale, shift):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, 3, 4))
    moved = scale * second + shift * rng.normal(size=(3, 1))
    apart = rewards.distance(score(first), score(second))
    assert rewards.distance(score(first), score(moved)) == pytest.approx(apart, abs=1e-4)
    assert rewards.distance(score(second), score(-moved)) == pytest.approx(1.0, abs=1e-4)
    assert rewards.distance(score(second), score(first)) == pytest.approx(apart, abs=1e-12)


def test_flat_scores_are_halfway_from_others():
    flat, other = score([[1, 1], [0, 0]]), score([[1, 0], [0, 0]])
    assert rewards.distance(flat, flat) == 0.0
    assert rewards.distance(flat, other) == pytest.approx(0.5)


def test_missing_values_are_left_out_of_both():
    first = score([[1, 0, 9], [2, 0, 1]], [[True, True, False], [True, True, True]])
    second = score([[1, 0, 0], [2, 0, 1]])
    assert rewards.distance(first, second) == pytest.approx(0.0, abs=1e-7)


def test_normalisation_by_group_hides_the_size_of_groups():
    first, second = score([[1, 0], [10, 0]]), score([[10, 0], [1, 0]])
    normalized = advantages.per_group(advantages.group_normalized)
    assert rewards.distance(first, second) > 0.6
    assert rewards.distance(first, second, advantage=normalized) < 1e-4


def test_scores_of_other_rollouts_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(1, 3\)"):
        rewards.distance(score([[0, 1]]), score([[0, 1, 2]]))


def test_the_best_policy_is_the_best_of_all():
    process = processes.random_process(np.random.default_rng(0), states=4, actions=3)
    reward = np.random.default_rng(1).normal(size=(4, 3))
    every = [np.eye(3)[list(choice)] for choice in itertools.product(range(3), repeat=4)]
    found = [float(processes.worth(process, reward, policy)) for policy in every]
    assert float(processes.worth(process, reward, processes.best(process, reward))) == pytest.approx(max(found))
    assert float(processes.regret(process, reward, -reward)) == pytest.approx(1.0)


def test_values_are_those_of_long_walks():
    process = processes.random_process(np.random.default_rng(0), states=4, actions=3)
    reward, policy = np.random.default_rng(1).normal(size=(4, 3)), np.full((4, 3), 1 / 3)
    walked = np.zeros(4)
    for _ in range(400):
        walked = (policy * processes.action_values(process, reward, walked)).sum(-1)
    np.testing.assert_allclose(processes.values(process, reward, policy), walked, rtol=1e-12)
