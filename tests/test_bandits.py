"""Two rewards on a few outcomes: closed forms, laws and searches."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent_tunix.diagnostics import bandits
from agent_tunix.diagnostics.bandits import PHI, VARPHI

SHARES = st.floats(0.03, 0.97)
WEIGHTS = st.floats(0.1, 20.0)
POLICIES = st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4).map(lambda row: np.array(row) / sum(row))


@given(SHARES, SHARES)
def test_joint_of_independent_rewards_has_their_shares_and_no_covariance(p, q):
    policy = bandits.joint(p, q)
    assert policy.sum() == pytest.approx(1, abs=1e-12)
    assert (float(policy @ PHI), float(policy @ VARPHI)) == pytest.approx((p, q), abs=1e-12)
    assert bandits.covariance(policy, PHI, VARPHI) == pytest.approx(0, abs=1e-12)


def test_a_correlation_that_no_two_events_have_is_refused():
    with pytest.raises(ValueError, match=r"probability 0.1 and 0.9 have the correlation 0.5"):
        bandits.joint(0.1, 0.9, 0.5)


def test_weight_limit_by_hand():
    # Cov = -0.5 sqrt(.3 .7 .8 .2) = -0.09165, Var = .16, so the limit is 1.7457.
    assert float(bandits.weight_limit(bandits.joint(0.3, 0.8, -0.5))) == pytest.approx(1.7457, abs=1e-4)


@given(SHARES, SHARES, WEIGHTS)
def test_no_weight_of_an_independent_reward_is_too_large_for_the_natural_gradient(p, q, weight):
    assert float(bandits.change(bandits.joint(p, q), weight, bandits.natural)) == pytest.approx(q * (1 - q), abs=1e-12)


@given(POLICIES, WEIGHTS)
def test_natural_gradient_lowers_varphi_exactly_above_the_weight_limit(policy, weight):
    limit = float(bandits.weight_limit(policy))
    assume(abs(weight - limit) > 1e-6)
    assert (bandits.change(policy, weight, bandits.natural) < 0) == (weight > limit)


@given(SHARES, SHARES, WEIGHTS)
def test_vanilla_change_of_independent_rewards_is_the_closed_form(p, q, weight):
    exact = float(bandits.change(bandits.joint(p, q), weight, bandits.vanilla))
    assert exact == pytest.approx(float(bandits.independent_change(np.array(p), np.array(q), weight)), abs=1e-12)


@given(SHARES, SHARES, WEIGHTS)
def test_falls_at_first_are_as_frequent_above_one_half_as_below(p, q, weight):
    here, mirrored = (bandits.independent_change(np.array(a), np.array(b), weight) for a, b in ((p, q), (1 - p, 1 - q)))
    assert float(here) == pytest.approx(float(mirrored), abs=1e-12)


def test_vanilla_change_by_hand():
    # p = 1/4, q = 3/4: a(p) = 3/16 * -1/2, a(q) = 3/16 * 1/2, alone = 2 * 9/256 * 10/16; weight 4.
    by_hand = 4 * (-3 / 32) * (3 / 32) + 2 * 9 / 256 * 10 / 16
    assert by_hand == pytest.approx(0.0087890625)
    assert float(bandits.independent_change(np.array(0.25), np.array(0.75), 4)) == pytest.approx(by_hand, abs=1e-15)


@pytest.mark.parametrize("direction", [bandits.vanilla, bandits.natural])
def test_change_is_the_slope_of_training(direction):
    policy = np.array([0.1, 0.4, 0.3, 0.2])
    path = bandits.ascend(policy, 3.0, direction, steps=2, rate=1e-6)
    slope = (path.varphi[1] - path.varphi[0]) / 1e-6
    assert slope == pytest.approx(float(bandits.change(policy, 3.0, direction)), abs=1e-5)


def test_natural_training_moves_the_log_odds_of_independent_rewards_in_straight_lines():
    path = bandits.ascend(bandits.joint(0.3, 0.1), 4, bandits.natural, steps=101, rate=0.01)
    steps = 0.01 * np.arange(101)
    np.testing.assert_allclose(bandits.logit(path.varphi), float(bandits.logit(0.1)) + steps, atol=1e-9)
    np.testing.assert_allclose(bandits.logit(path.phi), float(bandits.logit(0.3)) + 4 * steps, atol=1e-9)


@given(st.floats(0.25, 0.75), SHARES)
def test_good_and_bad_varphi_are_lifted_alike_where_phi_decides(p, q):
    table = bandits.quadrants(bandits.joint(p, q), 4)
    np.testing.assert_allclose(table.positive, [q, 1 - q, 0, 0], atol=1e-12)
    np.testing.assert_allclose(table.lift, [1 / p, 1 / p, 0, 0], atol=1e-9)


def test_coin_divergence_by_hand():
    # .95 ln(.95/.9) + .05 ln(.05/.1) and .85 ln(.85/.9) + .15 ln(.15/.1)
    assert float(bandits.coin_divergence(0.95, 0.9)) == pytest.approx(0.016707, abs=1e-6)
    assert float(bandits.coin_divergence(0.85, 0.9)) == pytest.approx(0.012235, abs=1e-6)


@given(SHARES, st.floats(0.05, 0.95))
def test_raising_a_coin_is_dearer_exactly_above_one_half(p, part):
    assume(abs(p - 0.5) > 1e-3)
    amount = part * min(p, 1 - p)
    dearer = bandits.coin_divergence(p + amount, p) > bandits.coin_divergence(p - amount, p)
    assert dearer == (p > 0.5)


@given(SHARES, SHARES)
def test_divergence_is_not_negative_and_zero_for_itself(p, q):
    assert float(bandits.coin_divergence(p, q)) >= -1e-15
    assert float(bandits.coin_divergence(p, p)) == 0


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("side", [1, -1])
def test_search_finds_the_least_divergence_of_a_coin(p, side):
    amount = side * 0.7 * min(p, 1 - p)
    found = bandits.least_divergence(np.array([p, 1 - p]), np.array([3.0, 1.0]), 2 * amount)
    assert found == pytest.approx(float(bandits.coin_divergence(p + amount, p)), rel=1e-9)


def test_an_expectation_beyond_all_values_is_not_reachable():
    assert math.isnan(bandits.least_divergence(np.array([0.5, 0.5]), np.array([0.0, 1.0]), 0.6))


def test_no_other_policy_with_the_same_expectation_is_nearer():
    rng = np.random.default_rng(0)
    start, values = np.array([0.2, 0.3, 0.5]), np.array([0.0, 1.0, 3.0])
    least = bandits.least_divergence(start, values, 0.4)
    others = rng.dirichlet(np.ones(3), size=20_000)
    same = others[np.abs(others @ values - start @ values - 0.4) < 1e-3]
    assert len(same) > 5
    assert float(bandits.divergence(same, start).min()) > least - 1e-3


def test_first_crossing_is_the_first_of_several():
    # sin reaches 1/2 at pi/6, and again at 5 pi/6 and 13 pi/6.
    assert bandits.first_crossing(np.sin, 0.5, reach=20.0) == pytest.approx(math.pi / 6, abs=1e-9)
    assert bandits.first_crossing(lambda s: -np.sin(s), -0.5, reach=20.0) == pytest.approx(math.pi / 6, abs=1e-9)
    assert math.isnan(bandits.first_crossing(np.sin, 1.5, reach=20.0))


@given(SHARES)
def test_skewness_of_a_coin_is_the_closed_form(p):
    found = bandits.skewness(np.array([p, 1 - p]), np.array([1.0, 0.0]))
    assert found == pytest.approx((1 - 2 * p) / math.sqrt(p * (1 - p)), abs=1e-9)


@pytest.mark.parametrize("weight", [1, 4, 8])
def test_the_best_policy_spends_its_budget_and_tilts_phi_by_the_weight(weight):
    phi, varphi = bandits.within_budget(0.3, 0.7, 0.3, weight)
    spent = bandits.coin_divergence(phi, 0.3) + bandits.coin_divergence(varphi, 0.7)
    assert float(spent) == pytest.approx(0.3, abs=1e-9)
    tilts = [float(bandits.logit(after) - bandits.logit(before)) for after, before in ((phi, 0.3), (varphi, 0.7))]
    assert tilts[0] == pytest.approx(weight * tilts[1], rel=1e-9)


def test_a_sequence_of_one_token_is_a_coin():
    assert bandits.uphill_divergence(0.9, 1, 0.95) == float(bandits.coin_divergence(0.95, 0.9))


def test_random_directions_of_one_binary_token_go_either_way():
    changes = bandits.random_changes(0.9, 1, 2, 0.1, directions=2000, rng=np.random.default_rng(0))
    # Two ends only, both as likely: four standard errors are 0.045. A logit difference near 0 cannot get that far.
    assert (changes < 0).mean() == pytest.approx(0.5, abs=0.045)
    spent = bandits.coin_divergence(0.9 + changes, 0.9)
    assert (np.abs(spent - 0.1) < 1e-4).mean() > 0.995


@pytest.mark.parametrize("budget", [0.02, 0.1])
def test_random_directions_lower_a_long_skill_as_often_as_predicted(budget):
    changes = bandits.random_changes(0.95, 20, 50, budget, directions=1500, rng=np.random.default_rng(0))
    assert (changes < 0).mean() == pytest.approx(bandits.random_fall_share(0.95, 50, budget), abs=0.05)


@given(st.integers(0, 1000))
def test_credit_of_groups(seed):
    rewards = np.random.default_rng(seed).normal(size=(3, 8))
    np.testing.assert_allclose(bandits.centred(rewards).sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(bandits.standardised(rewards).std(-1), 1, atol=1e-2)
    assert bandits.only_positive(rewards).min() == 0


def test_sampled_groups_follow_the_exact_gradient():
    start, rng = bandits.joint(0.3, 0.3), np.random.default_rng(0)
    sampled = bandits.sample_groups(start, 4, bandits.centred, group=512, steps=40, rate=0.2, runs=100, rng=rng)
    exact = bandits.ascend(start, 4, bandits.vanilla, steps=40, rate=0.2 * 511 / 512)
    np.testing.assert_allclose(sampled.phi, exact.phi, atol=0.02)
    np.testing.assert_allclose(sampled.varphi, exact.varphi, atol=0.02)


def test_noise_without_weight_does_not_stop_learning():
    success = bandits.noisy_skill(0.9, 5, 0.0, rate=0.3, steps=50, runs=100, rng=np.random.default_rng(0))
    assert success[0] == pytest.approx(0.9**5, abs=1e-9)
    assert success[-1] > success[0] + 0.05


def test_random_directions_cost_a_long_skill_its_divergence_on_average():
    changes = bandits.random_changes(0.95, 20, 50, 0.02, directions=1500, rng=np.random.default_rng(0))
    lost = np.log1p(changes / 0.95**20)
    assert lost.mean() == pytest.approx(-0.02, abs=4 * lost.std() / math.sqrt(1500))
