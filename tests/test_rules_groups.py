"""The rule about groups whose completions are all paid the same."""

import numpy as np
import pytest

from agent_tunix.diagnostics._intake import read_signals
from agent_tunix.diagnostics.rules import variance_collapse

N = 200
T = np.linspace(0, 1, N)


def noise(size, seed=0):
    return np.random.default_rng(seed).normal(0, size, N)


def seen(size=None, **series):
    return read_signals(series, bounds=(0, 1), group_size=size)


def test_flat_groups_count_only_between_too_hard_and_solved():
    flat = 0.2 + 0.65 * np.minimum(T * 2, 1) + noise(0.02)
    found = variance_collapse(seen(zero_std=flat, reward=0.5 + noise(0.02)))
    # p^8 + (1 - p)^8 at one half
    assert found.evidence["floor_of_8"] == pytest.approx(2 / 256, rel=0.15)
    assert variance_collapse(seen(zero_std=flat, reward=np.minimum(0.3 + T, 0.97) + noise(0.01))) is None
    assert variance_collapse(seen(zero_std=flat, reward=0.02 + np.abs(noise(0.01)))) is None


def test_a_deviation_that_vanishes_stands_for_flat_groups():
    assert variance_collapse(seen(reward_std=0.4 * np.exp(-T * 5), reward=0.5 + noise(0.02))) is not None
    assert variance_collapse(seen(reward_std=0.4 - 0.3 * T, reward=0.5 + noise(0.02))) is None


def test_groups_of_two_that_never_differ_are_too_small():
    found = variance_collapse(seen(2, zero_std=0.9 + noise(0.02), reward=0.06 + noise(0.01)))
    assert found.evidence["group_size"] == 2
    # 0.06^2 + 0.94^2 in groups of two, 0.06^8 + 0.94^8 in groups of eight
    assert found.evidence["floor"] == pytest.approx(0.887, abs=0.005)
    assert found.evidence["floor_of_8"] == pytest.approx(0.61, abs=0.015)
    assert "too small" in found.remedy


def test_small_groups_that_learn_are_left_alone():
    rising = {"reward": 0.05 + 0.2 * T + noise(0.02), "zero_std": 0.72 + noise(0.02)}
    assert variance_collapse(seen(2, **rising)) is None
    # At a level of 0.23 chance makes 65 % of groups of two flat, and 12 % of groups of eight.
    assert variance_collapse(seen(8, **rising)) is not None


def test_a_low_level_flattens_groups_of_eight_by_itself():
    assert variance_collapse(seen(8, zero_std=0.65 + noise(0.02), reward=0.06 + noise(0.01))) is None


def test_a_late_learner_has_time_unless_its_groups_are_small():
    series = {"zero_std": np.full(60, 0.93), "reward": np.full(60, 0.06)}
    early = {size: read_signals(series, bounds=(0, 1), group_size=size, planned_steps=240) for size in (2, 8)}
    assert variance_collapse(early[2]) is not None
    assert variance_collapse(early[8]) is None
