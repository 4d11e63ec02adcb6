"""What components do to each other: numbers worked out by hand, closed forms of Bernoulli pairs, and laws."""

import json
import math
import subprocess
import sys
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import components, runs, weight_limits
from agent_tunix.components import Limit, Moments, Stored

# One prompt, four completions: f = 1 1 0 0, g = 0 0 1 0.
F, G = np.array([[1.0, 1.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1.0, 0.0]])
ALL = np.ones((1, 4), bool)


def score(parts, weights, valid=None):
    parts = {name: np.asarray(part, np.float32) for name, part in parts.items()}
    value = np.sum([w * np.nan_to_num(part) for w, part in zip(weights, parts.values(), strict=True)], axis=0)
    valid = np.ones(value.shape, bool) if valid is None else valid
    return Stored(np.where(valid, value, 0.0), valid, parts, np.full(value.shape, np.nan), np.zeros(len(value), int))


def bernoulli(joint, prompts, group, seed=0):
    """Draws of (f, g) from the probabilities of 11, 10, 01, 00."""
    codes = np.random.default_rng(seed).choice(4, size=(prompts, group), p=joint)
    return (codes < 2).astype(float), (codes % 2 == 0).astype(float)


def test_moments_are_those_of_the_deviations():
    # f - 1/2 = + + - -, halves; g - 1/4 = -1/4 -1/4 3/4 -1/4. Sums of squares 1 and 3/4, of products -1/2; over 3.
    found = components.moments(F, G, ALL)
    assert found[:4] == pytest.approx((1 / 3, 1 / 4, -1 / 6, -1 / math.sqrt(3)))
    assert found.groups == 1


def test_differences_between_prompts_are_no_covariance():
    f, g = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    assert components.moments(f, g, np.ones((2, 2), bool))[:3] == (0.0, 0.0, 0.0)


def test_measures_of_a_batch_worked_by_hand():
    # r = 4 f + g = 4 4 1 0, deviations 7/4 7/4 -5/4 -9/4, sum of squares 12.75.
    found = components.component_measures(score({"f": F, "g": G}, (4, 1)))
    part = {name: found[f"reward/part/f/{name}"] for name in ("min", "max", "group_std", "weight", "weighted_mean")}
    assert part == pytest.approx({"min": 0, "max": 1, "group_std": 3**-0.5, "weight": 4, "weighted_mean": 2})
    # 4 Cov(f, r) = 4 (7/8 + 7/8 + 5/8 + 9/8) = 14, Cov(g, r) = (-7 - 7 - 15 + 9) / 16 = -5/4.
    assert found["reward/part/f/advantage_share"] == pytest.approx(14 / 12.75)
    assert found["reward/part/g/advantage_share"] == pytest.approx(-1.25 / 12.75)
    assert found["reward/part/f/skewness"] == 0.0
    assert found["tradeoff/f__g/covariance"] == pytest.approx(-1 / 6)
    assert found["tradeoff/f__g/weight_limit"] == pytest.approx(1.5)  # (1/4) / (1/6)
    assert found["tradeoff/g__f/weight_limit"] == pytest.approx(2.0)  # (1/3) / (1/6)
    assert found["tradeoff/f__g/forecast"] == pytest.approx(-4 / 6 + 1 / 4)
    assert found["tradeoff/g__f/forecast"] == pytest.approx(-1 / 6 + 4 / 3)
    shares = {name: found[f"tradeoff/f__g/quadrant_{name}"] for name in ("pm_all", "mp_all", "mm_all", "pp_all")}
    assert shares == {"pm_all": 0.5, "mp_all": 0.25, "mm_all": 0.25, "pp_all": 0.0}
    assert found["tradeoff/f__g/quadrant_pm_positive"] == 1.0
    assert found["tradeoff/f__g/quadrant_mp_negative"] == 0.5
    assert found["tradeoff/f__g/weight_limit_low"] == 0.0 and math.isnan(found["tradeoff/f__g/weight_limit_high"])


def test_one_component_has_no_pair():
    found = components.component_measures(score({"f": F}, (1,)))
    assert not any(name.startswith("tradeoff/") for name in found)
    assert found["reward/part/f/advantage_share"] == pytest.approx(1.0)


def test_a_component_without_any_value_is_nan_and_has_no_pair():
    found = components.component_measures(score({"f": F, "g": np.full((1, 4), np.nan)}, (1, 1)))
    assert math.isnan(found["reward/part/g/max"]) and found["reward/part/f/weight"] == pytest.approx(1.0)
    assert not any(name.startswith("tradeoff/") for name in found)


def test_the_weight_of_what_does_not_vary_is_not_told():
    found = components.component_measures(score({"f": F, "g": np.ones((1, 4))}, (4, 1)))
    assert math.isnan(found["reward/part/g/weight"]) and found["reward/part/f/weight"] == pytest.approx(4.0)
    assert math.isnan(found["tradeoff/f__g/weight_limit"]) and math.isnan(found["tradeoff/f__g/forecast"])
    assert found["reward/part/g/advantage_share"] == 0.0


def test_completions_without_a_value_change_nothing():
    f, g = bernoulli((0.2, 0.3, 0.3, 0.2), 6, 5)
    holes = np.zeros((6, 5), bool)
    holes[:, 4] = True
    whole = components.component_measures(score({"f": f[:, :4], "g": g[:, :4]}, (2, 1)))
    f[holes], g[holes] = 7.0, -3.0
    invalid = components.component_measures(score({"f": f, "g": g}, (2, 1), ~holes))
    for name, number in whole.items():
        if not name.endswith(("/min", "/max", "group_std", "skewness", "weighted_mean")):  # those read parts alone
            assert invalid[name] == pytest.approx(number, nan_ok=True), name
    f[holes] = np.nan
    missing = components.component_measures(score({"f": f, "g": g}, (2, 1)))
    assert missing["tradeoff/f__g/covariance"] == pytest.approx(whole["tradeoff/f__g/covariance"])


def test_an_empty_batch_says_nothing():
    found = components.component_measures(score({"f": F, "g": G}, (1, 1), np.zeros((1, 4), bool)))
    assert math.isnan(found["tradeoff/f__g/covariance"]) and math.isnan(found["reward/part/f/weight"])


@pytest.mark.parametrize("joint", [(0.1, 0.4, 0.4, 0.1), (0.25, 0.25, 0.25, 0.25), (0.3, 0.1, 0.5, 0.1)])
def test_estimates_approach_the_closed_form_of_two_bernoulli(joint):
    f, g = bernoulli(joint, 20_000, 8)
    p, q = joint[0] + joint[1], joint[0] + joint[2]
    found = components.moments(f, g, np.ones(f.shape, bool))
    assert found.covariance == pytest.approx(joint[0] - p * q, abs=0.003)
    assert found.variance_second == pytest.approx(q * (1 - q), abs=0.003)
    assert components.skewness(f, np.ones(f.shape, bool)) == pytest.approx(
        (1 - 2 * p) / math.sqrt(p * (1 - p)), abs=0.02
    )


def test_the_interval_holds_the_true_limit_as_often_as_it_says():
    # Cov = .1 - .25 = -.15, Var(g) = .25: w* = 5/3.
    inside = []
    for seed in range(300):
        f, g = bernoulli((0.1, 0.4, 0.4, 0.1), 64, 8, seed)
        limit = components.weight_limit(f, g, np.ones(f.shape, bool))
        assert limit.low < limit.value < limit.high
        inside.append(limit.low <= 5 / 3 <= limit.high)
    # 95 % of 300 with three standard deviations of 1.26 %.
    assert 0.912 <= np.mean(inside) <= 0.988


def test_without_covariance_there_is_no_limit_but_a_safe_weight():
    f, g = bernoulli((0.25, 0.25, 0.25, 0.25), 64, 8, seed=1)
    limit = components.weight_limit(f, g, np.ones(f.shape, bool))
    assert limit.low > 2 and limit.high == math.inf


def test_helpful_components_are_safe_at_every_weight():
    f, g = bernoulli((0.4, 0.1, 0.1, 0.4), 64, 8)
    assert components.weight_limit(f, g, np.ones(f.shape, bool)) == Limit(math.inf, math.inf, math.inf)


def test_two_groups_give_an_estimate_and_no_interval():
    f, g = np.repeat(F, 2, 0), np.repeat(G, 2, 0)
    assert components.weight_limit(f, g, np.ones((2, 4), bool)) == Limit(1.5, 0.0, math.inf)


def test_equal_groups_leave_no_doubt():
    f, g = np.repeat(F, 5, 0), np.repeat(G, 5, 0)
    assert components.weight_limit(f, g, np.ones((5, 4), bool)) == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize(("freedom", "exact"), [(2, 4.303), (5, 2.571), (10, 2.228), (63, 1.998)])
def test_quantiles_of_student_are_those_of_tables(freedom, exact):
    assert components.student_quantile(0.975, freedom) == pytest.approx(exact, rel=0.01)


def test_lift_compares_with_the_base_rate():
    # Independent f and g with P(f) = .5, P(g) = .2: +u-v is four times as common as +u+v, everywhere.
    f, g = bernoulli((0.1, 0.4, 0.1, 0.4), 4000, 8)
    used = np.ones(f.shape, bool)
    table = components.quadrants(f, g, components.centred(4 * f + g, used), used)
    assert table["pm"].positive > 3 * table["pp"].positive
    assert table["pp"].lift == pytest.approx(table["pm"].lift, abs=0.02)  # the reward prefers neither
    assert table["mm"].lift < 0.02


def test_ties_stand_apart():
    f, g = np.array([[1.0, 0.0, 0.5]]), np.array([[0.0, 1.0, 1.0]])
    table = components.quadrants(f, g, np.array([[1.0, -1.0, np.nan]]), np.ones((1, 3), bool))
    assert table["tie"].all == pytest.approx(1 / 3) and table["tie"].positive == 0.0 and table["pm"].lift == 3.0


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-50, 50), st.integers(2, 9))
@settings(deadline=None)
def test_scale_and_shift_of_components_do_not_matter(seed, scale, shift, group):
    random = np.random.default_rng(seed)
    f, g = random.integers(0, 3, (12, group)) / 2, random.integers(0, 2, (12, group)).astype(float)
    used = random.random((12, group)) < 0.9
    one = components.weight_limit(f, g, used)
    other = components.weight_limit(f * scale + shift, g * scale + shift, used)
    assert other == pytest.approx(one, rel=1e-6, nan_ok=True)
    before, after = (components.moments(a, b, used) for a, b in ((f, g), (f * scale + shift, g * scale + shift)))
    assert after.correlation == pytest.approx(before.correlation, nan_ok=True)
    assert components.skewness(f * scale + shift, used) == pytest.approx(
        components.skewness(f, used), abs=1e-6, nan_ok=True
    )


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_quadrants_add_up_and_members_of_a_group_have_no_order(seed):
    random = np.random.default_rng(seed)
    f, g, used = random.integers(0, 3, (8, 4)), random.integers(0, 2, (8, 4)), random.random((8, 4)) < 0.8
    credit = random.normal(size=(8, 4))
    table = components.quadrants(f, g, credit, used)
    for side in components.SIDES:
        total = sum(getattr(row, side) for row in table.values())
        assert math.isnan(total) or total == pytest.approx(1.0)
    order = random.permutation(4)
    again = components.quadrants(*(x[:, order] for x in (f, g, credit, used)))
    np.testing.assert_equal(again, table)


@given(st.integers(0, 10_000), st.integers(2, 4))
@settings(deadline=None)
def test_shares_of_a_weighted_sum_add_up_to_one(seed, count):
    random = np.random.default_rng(seed)
    parts = {f"p{index}": random.random((6, 5)) for index in range(count)}
    found = components.component_measures(score(parts, random.uniform(0.1, 4, count)))
    assert sum(found[f"reward/part/{name}/advantage_share"] for name in parts) == pytest.approx(1.0, abs=1e-4)


@given(st.lists(st.floats(0.05, 1.0), min_size=4, max_size=4), st.floats(0.1, 10))
def test_the_forecast_is_the_change_along_the_natural_gradient(masses, weight):
    """On a table of outcomes, tilting by a small multiple of the reward changes E g by w Cov + Var."""
    p = np.array(masses) / np.sum(masses)
    f, g = np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 0])
    step = 1e-5
    tilted = p * np.exp(step * (weight * f + g))
    change = (tilted @ g / tilted.sum() - p @ g) / step
    covariance, variance = p @ (f * g) - (p @ f) * (p @ g), p @ g - (p @ g) ** 2
    found = components.forecast(Moments(0.0, variance, covariance, 0.0, 1), weight, 1.0)
    assert found == pytest.approx(change, abs=1e-3)
    if covariance < -1e-3 and abs(found) > 1e-3:
        assert (change < 0) == (weight > -variance / covariance)


def test_stored_rollouts_are_read_back(tmp_path):
    def record(index, reward, **more):
        return {"step": 3, "completion_index": index, "reward": reward, "parts": {"f": reward}, **more}

    groups = [[record(0, 1.0, advantage=0.7), record(1, 0.0, advantage=-0.7)], [record(0, None)]]
    broken = [[{"step": 3, "completion_index": 0}]]
    found = components.stored(runs.groups(json.loads(json.dumps([*groups[0], *groups[1], *broken[0]]))))
    assert found.value.tolist() == [[1.0, 0.0], [0.0, 0.0]] and found.valid.tolist() == [[True, True], [False, False]]
    assert np.isnan(found.parts["f"][1]).all() and found.advantage[0].tolist() == [0.7, -0.7]
    assert found.steps.tolist() == [3, 3]
    assert components.component_measures(found)["reward/part/f/weight"] == pytest.approx(1.0)


def test_nothing_stored_is_an_empty_batch():
    assert components.component_measures(components.stored([])) == {}


class Record(dict):
    """A dictionary that can be watched."""


def test_records_are_let_go_while_they_are_read():
    seen, most = [], 0

    def groups():
        nonlocal most
        for step in range(50):
            group = [Record(step=step, reward=1.0, parts={"f": 1.0}, completion="x" * 100) for _ in range(4)]
            seen.extend(weakref.ref(record) for record in group)
            most = max(most, sum(record() is not None for record in seen))
            yield group

    assert components.stored(groups()).value.shape == (50, 4)
    assert most <= 12  # of 200


def test_a_part_that_comes_late_has_no_value_before():
    first = [{"step": 0, "reward": 1.0, "parts": {"f": 1.0}}]
    later = [{"step": 1, "reward": 0.0, "parts": {"g": 2.0, "f": None}}, {"step": 1, "reward": None, "parts": {}}]
    found = components.stored([first, later])
    assert list(found.parts) == ["f", "g"] and found.steps.tolist() == [0, 1]
    np.testing.assert_equal(found.parts["f"], [[1.0, math.nan], [math.nan, math.nan]])
    np.testing.assert_equal(found.parts["g"], [[math.nan, math.nan], [2.0, math.nan]])
    assert found.valid.tolist() == [[True, False], [True, False]]


def centrings(monkeypatch, parts):
    """How often deviations are taken in measuring a batch with so many parts: what its time grows with."""
    calls = []

    def counted(*args):
        calls.append(args)
        return weight_limits.centred(*args)

    monkeypatch.setattr(components, "centred", counted)
    random = np.random.default_rng(0)
    components.component_measures(score({f"p{index}": random.random((16, 8)) for index in range(parts)}, [1.0] * parts))
    return len(calls)


def test_each_pair_is_centred_once_and_more_than_six_parts_add_no_pairs(monkeypatch):
    # Per part its deviation, skewness and share; per pair both parts and the credit; and the reward once.
    assert [centrings(monkeypatch, parts) for parts in (2, 6, 10)] == [10, 6 * 3 + 15 * 3 + 1, 10 * 3 + 15 * 3 + 1]


def test_of_many_parts_the_pairs_of_those_are_told_that_move_the_reward_most():
    random = np.random.default_rng(0)
    weights = dict(zip("abcdefgh", (1, 0.1, -2, 3, 0.2, 4, 5, 6)))
    parts = {name: random.integers(0, 2, (16, 8)) for name in weights}
    parts["h"] = np.ones((16, 8))  # however heavy, it does not vary
    found = components.component_measures(score(parts, weights.values()))
    pairs = {tuple(name.split("/")[1].split("__")) for name in found if name.endswith("/covariance")}
    assert pairs == {(one, other) for one in "acdefg" for other in "acdefg" if one < other}
    assert found["reward/part/b/weight"] == pytest.approx(0.1, abs=1e-5)


@given(st.integers(0, 10_000))
@settings(deadline=None)
def test_both_orders_of_a_pair_are_what_they_are_alone(seed):
    random = np.random.default_rng(seed)
    f, g = random.integers(0, 3, (12, 5)), random.integers(0, 2, (12, 5))
    batch = score({"f": f, "g": g}, (2, 1), random.random((12, 5)) < 0.9)
    found = components.component_measures(batch)
    for one, other in (("f", "g"), ("g", "f")):
        limit = components.weight_limit(*components.pair(batch, one, other))
        for end, number in zip(("", "_low", "_high"), limit):
            told = found[f"tradeoff/{one}__{other}/weight_limit{end}"]
            assert told == pytest.approx(number if math.isfinite(number) else math.nan, rel=1e-9, nan_ok=True)


def test_it_works_where_jax_cannot_be_imported():
    code = """
import sys
sys.modules.update(dict.fromkeys(("jax", "jaxlib", "flax", "optax")))
from agent_tunix import components
assert components.component_measures(components.stored([])) == {}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
