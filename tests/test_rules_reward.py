"""Rules about the total reward, on curves whose numbers can be checked by eye."""

import numpy as np
import pytest

from agent_tunix.diagnostics._intake import read_signals
from agent_tunix.diagnostics.rules import (
    collapse,
    exceeds_bound,
    explosive_growth,
    saturated_high,
    saturated_low,
    stagnation,
    too_noisy,
)


def noise(n, size, seed=0):
    return np.random.default_rng(seed).normal(0, size, n)


def seen(values, bounds=(0, 1), planned_steps=None, **more):
    return read_signals({"reward": values} | more, bounds=bounds, planned_steps=planned_steps)


def test_stagnation_gives_level_and_gain():
    found = stagnation(seen([0.2] * 100))
    assert found.evidence["level"] == 0.2
    assert found.evidence["gain"] == pytest.approx(0, abs=1e-12)
    assert found.steps == (0, 99)


@pytest.mark.parametrize(("gain", "ill"), [(0.02, True), (0.2, False)])
def test_a_gain_of_a_fifth_is_learning_and_of_a_fiftieth_is_not(gain, ill):
    assert (stagnation(seen(0.2 + np.linspace(0, gain, 200) + noise(200, 0.02))) is not None) is ill


def test_learning_late_is_learning():
    t = np.linspace(0, 1, 300)
    assert stagnation(seen(0.1 + 0.5 / (1 + np.exp(-(t - 0.85) / 0.03)) + noise(300, 0.02))) is None


def test_a_run_that_starts_high_need_not_rise():
    assert stagnation(seen(0.8 + noise(100, 0.02))) is None


def test_stagnation_without_bounds_excuses_a_rise_of_accuracy():
    flat = 700 + noise(100, 30)
    assert stagnation(seen(flat, None)) is not None
    assert stagnation(seen(flat, None, gold=np.linspace(0.2, 0.6, 20))) is None


def test_collapse_says_where_from_and_how_much():
    values = np.concatenate([np.linspace(0.2, 0.8, 60), np.full(40, 0.1)])
    found = collapse(seen(values))
    assert found.level == "error"
    assert 58 <= found.steps[0] <= 66
    assert found.evidence["now"] == pytest.approx(0.1)
    # The peak is the best mean of eight steps: 0.8 less 3.5 steps of 0.6 / 59.
    assert found.evidence["peak"] == pytest.approx(0.8 - 3.5 * 0.6 / 59, rel=1e-3)


@pytest.mark.parametrize("depth", [0.2, 0.5])
def test_a_dip_that_recovers_is_no_collapse(depth):
    t = np.linspace(0, 1, 200)
    assert collapse(seen(0.3 + 0.4 * t - depth * np.exp(-(((t - 0.5) / 0.05) ** 2)) + noise(200, 0.02))) is None


def test_a_wobbling_plateau_is_no_collapse():
    t = np.linspace(0, 1, 200)
    assert collapse(seen(0.7 * np.minimum(3 * t, 1) + 0.05 * np.sin(20 * t) + noise(200, 0.03))) is None


def test_the_lower_bound_counts_as_a_warning():
    found = exceeds_bound(seen([-2.0] * 30))
    assert found.level == "warn"
    assert found.evidence["bound"] == 0


def test_noise_around_the_bound_does_not_exceed_it():
    assert exceeds_bound(seen(0.97 + noise(500, 0.04))) is None


def test_single_completions_beyond_the_bound_show_in_the_greatest_reward():
    best = np.where(np.arange(100) > 50, 1.5, 1.0)
    found = exceeds_bound(read_signals({"reward": [0.5] * 100, "reward/max": best}, bounds=(0, 1)))
    assert found.evidence["first_step"] == 51


def test_bounds_nobody_declared_cannot_be_exceeded():
    assert exceeds_bound(seen([0.5] * 20, None)) is None


def test_growth_that_accuracy_shares_is_no_explosion():
    t = np.linspace(0, 1, 100)
    values = 5 + 500 / (1 + np.exp(-(t - 0.5) / 0.08))
    assert explosive_growth(seen(values, None)).level == "warn"
    assert explosive_growth(seen(values, None, gold=0.1 + 0.7 * t[::5])) is None
    assert explosive_growth(seen(values, None, gold=0.3 + noise(20, 0.02))).level == "error"


def test_growth_that_slows_down_is_no_explosion():
    t = np.linspace(0, 1, 100)
    assert explosive_growth(seen(2 + 200 * (1 - np.exp(-3 * t)), None)) is None


def test_saturation_is_information_unless_accuracy_is_low():
    high = 0.99 + noise(50, 0.002)
    assert saturated_high(seen(high)).level == "info"
    assert saturated_high(seen(high, gold=[0.9] * 5)).level == "info"
    assert saturated_high(seen(high, gold=[0.3] * 5)).level == "warn"


def test_a_task_that_becomes_solved_is_not_saturated_from_the_start():
    assert saturated_high(seen(np.linspace(0.5, 1, 100))) is None


@pytest.mark.parametrize(("low", "high", "level"), [(0, 1, 0.005), (0, 100, 0.5), (-50, 50, -49.5)])
def test_a_reward_near_its_lower_bound_is_saturated(low, high, level):
    found = saturated_low(seen(np.full(60, level), (low, high)))
    assert found.evidence["most"] == pytest.approx(0.005)


def test_a_sparse_reward_that_is_found_is_not_saturated():
    assert saturated_low(seen(np.linspace(0.0, 0.3, 100))) is None


def test_noise_beyond_the_gain_is_too_much():
    found = too_noisy(seen(np.clip(0.4 + 0.05 * np.linspace(0, 1, 200) + noise(200, 0.2), 0, 1)))
    assert 0.17 < found.evidence["relative_sigma"] < 0.23


@pytest.mark.parametrize(("size", "gain"), [(0.06, 0.0), (0.17, 0.5)])
def test_batch_noise_or_a_clear_rise_is_not_too_noisy(size, gain):
    assert too_noisy(seen(0.2 + gain * np.linspace(0, 1, 200) + noise(200, size), (-1, 2) if gain else (0, 1))) is None


def test_what_is_lost_in_the_first_rows_is_a_collapse_from_the_start():
    rows = [0.45, 0.3, 0.25, 0.2, 0.22, 0.1, 0.0, 0.05] + [0.0] * 22
    found = collapse(seen(rows, planned_steps=200))
    assert found.evidence["from_start"] == 1
    assert found.evidence["peak"] == pytest.approx((0.45 + 0.3 + 0.25) / 3, rel=1e-3)


def test_one_high_row_at_the_start_is_no_level_that_was_lost():
    assert collapse(seen(np.concatenate([[0.3], 0.02 + noise(199, 0.005)]))) is None


def test_accuracy_that_is_lost_with_a_part_of_the_reward_is_a_collapse():
    gold = [0.9, 0.5, 0.02, 0.01, 0.0]
    falling = 0.6 - np.linspace(0, 0.15, 100) + noise(100, 0.01)
    assert "held-out accuracy from 0.90 to 0.00" in collapse(seen(falling, gold=gold)).message
    assert collapse(seen(falling)) is None
    assert collapse(seen(0.1 + np.linspace(0, 0.5, 100), gold=gold)) is None


def test_without_bounds_the_deviation_within_batches_is_the_unit():
    # A gain of 0.02 is many deviations of one step, and next to nothing where rewards of a batch differ by 0.4.
    rising = 10 + np.linspace(0, 0.02, 200) + noise(200, 0.002)
    assert stagnation(seen(rising, None)) is None
    assert stagnation(seen(rising, None, reward_std=np.full(200, 0.4))) is not None


@pytest.mark.parametrize("level", [-0.19, 0.0, 0.3, 25.0])
def test_a_constant_without_bounds_stagnates(level):
    assert stagnation(seen([level] * 90, None)) is not None


def test_a_jump_beyond_the_bounds_does_not_hide_in_its_own_noise():
    values = np.where(np.arange(300) < 30, 0.16, 1.05) + noise(300, 0.02)
    assert 30 <= exceeds_bound(seen(values)).steps[0] <= 60


def test_a_percentage_that_is_learned_is_no_explosion():
    t = np.linspace(0, 1, 200)
    learned = 1 / (1 + np.exp(-(t - 0.5) / 0.1))
    assert explosive_growth(seen(5 + 85 * learned + noise(200, 1), None)) is None
    assert explosive_growth(seen(5 + 535 * learned + noise(200, 1), None)) is not None


def test_only_what_is_at_the_very_bottom_is_called_low_early():
    early = {level: seen([level] * 40, planned_steps=200) for level in (0.01, 0.03)}
    assert saturated_low(early[0.01]) is not None
    assert saturated_low(early[0.03]) is None
    assert saturated_low(seen([0.03] * 100, planned_steps=200)) is not None
