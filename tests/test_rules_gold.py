"""Rules that compare the reward with held-out accuracy, or see the trick itself."""

import numpy as np
import pytest

from agent_tunix.diagnostics._intake import read_signals
from agent_tunix.diagnostics.rules import answer_spam, length_drift, proxy_gold_divergence

N = 200
T = np.linspace(0, 1, N)


def noise(size, n=N, seed=0):
    return np.random.default_rng(seed).normal(0, size, n)


def seen(**series):
    return read_signals(series, bounds=(0, 1), eval_samples=400)


def test_reward_up_and_accuracy_flat_is_an_error_with_both_numbers():
    found = proxy_gold_divergence(seen(reward=0.3 + 0.5 * T + noise(0.02), gold=0.3 + noise(0.02, 20)))
    assert found.level == "error"
    assert found.evidence["proxy_rise"] > 0.25
    assert abs(found.evidence["gold_change"]) < 0.05


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.0])
def test_accuracy_that_rises_half_as_fast_is_regression_to_the_mean(rate):
    gold = 0.3 + rate * 0.5 * T[::10] + noise(0.02, 20)
    assert proxy_gold_divergence(seen(reward=0.3 + 0.5 * T + noise(0.02), gold=gold)) is None


def test_a_constant_gap_is_no_divergence():
    assert proxy_gold_divergence(seen(reward=0.5 + 0.4 * T, gold=0.2 + 0.4 * T[::10] + noise(0.02, 20))) is None


def test_format_that_lifts_the_total_is_no_divergence():
    layout = 0.1 + 0.85 * np.minimum(T * 5, 1) + noise(0.01)
    task = 0.3 + noise(0.02)
    total = 0.5 * layout + 0.5 * task
    signals = seen(reward=total, format=layout, correctness=task, gold=0.3 + noise(0.02, 20))
    assert proxy_gold_divergence(signals) is None


def test_accuracy_that_is_as_high_as_the_reward_need_not_follow():
    assert proxy_gold_divergence(seen(reward=0.4 + 0.5 * T, gold=0.97 + noise(0.01, 20))) is None


def test_accuracy_that_falls_at_the_best_reward_is_a_divergence():
    reward = 0.3 + 0.5 * np.minimum(T * 2, 1) + noise(0.01)
    gold = 0.3 + 0.4 * np.minimum(T[::5] * 2, 1) - 0.5 * np.clip(T[::5] - 0.5, 0, 1) + noise(0.01, 40)
    assert proxy_gold_divergence(seen(reward=reward, gold=gold)) is not None


def test_accuracy_may_be_in_percent():
    reward, gold = 0.3 + 0.5 * T + noise(0.02), 0.3 + noise(0.02, 20)
    assert proxy_gold_divergence(seen(reward=reward, gold=100 * gold)) is not None
    assert proxy_gold_divergence(seen(reward=reward, gold=100 * (0.25 + 0.5 * T[::10]))) is None


@pytest.mark.parametrize(("factor", "ill"), [(1.45, False), (2.5, True), (0.2, True), (0.6, False)])
def test_length_may_change_by_half_without_better_answers(factor, ill):
    length = 100 * factor**T * (1 + noise(0.03))
    found = length_drift(seen(completion_length=length, gold=0.4 + noise(0.02, 20)))
    assert (found is not None) is ill


def test_reasoning_that_grows_with_accuracy_is_fine():
    assert length_drift(seen(completion_length=100 * 3**T, gold=0.3 + 0.4 * T[::10] + noise(0.02, 20))) is None


def test_accuracy_gained_before_the_length_grew_is_no_excuse():
    gold = 0.2 + 0.4 * np.minimum(T[::8] * 3, 1) + noise(0.01, 25)
    found = length_drift(seen(completion_length=100 * 4 ** np.clip((T - 0.4) / 0.5, 0, 1), gold=gold))
    assert 80 <= found.steps[0] <= 130
    assert found.evidence["ratio"] == pytest.approx(4, rel=0.05)


def test_several_answers_in_more_and_more_completions_are_an_error():
    spam = 0.02 + 0.5 * (T > 0.5) + noise(0.01)
    found = answer_spam(seen(answer_spam=spam))
    assert found.level == "error"
    assert found.evidence["share"] == pytest.approx(0.52, abs=0.02)
    assert 98 <= found.steps[0] <= 102


def test_a_constant_share_of_several_answers_is_the_task():
    assert answer_spam(seen(answer_spam=0.5 + noise(0.02))) is None


def test_several_answers_that_nobody_pays_for_are_no_spam():
    spam = {"spam": 0.02 + 0.3 * T + noise(0.01)}
    assert answer_spam(seen(reward=0.3 + 0.4 * T + noise(0.02), **spam)) is not None
    assert answer_spam(seen(reward=0.3 + 0.3 * (T < 0.1) + noise(0.02), **spam)) is None
    assert answer_spam(seen(reward=0.3 + noise(0.02), gold=0.5 - 0.3 * T[::10], **spam)) is not None


def test_growth_that_costs_reward_is_told_apart_from_growth_that_is_paid():
    longer = {"completion_length": 100 + 100 * np.clip(2 * T - 1, 0, 1) + noise(2)}
    falling, rising = (0.6 + sign * 0.2 * np.clip(2 * T - 1, 0, 1) + noise(0.01) for sign in (-1, 0.2))
    assert length_drift(seen(reward=falling, **longer)).evidence["reward_falls"] == 1
    assert "reward_falls" not in length_drift(seen(reward=rising, **longer)).evidence
