"""Rewards of sets: measures, what a member adds, pairs sorted into two sets."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix import rewards
from agent_tunix.batching import text_rollouts

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(6, 2)).astype(np.float32)
ALL = np.ones(6, bool)
MEASURES = {
    "frechet": rewards.frechet(RNG.normal(size=(20, 2))),
    "discrepancy": rewards.discrepancy(RNG.normal(size=(20, 2)), rewards.gaussian_kernel(0.7)),
    "vendi": rewards.vendi(rewards.gaussian_kernel(0.7)),
}


@pytest.mark.parametrize("name", MEASURES)
def test_absent_members_are_as_if_removed(name):
    present = np.array([True, True, False, True, False, True])
    moved = np.where(present[:, None], POINTS, 99.0)
    whole = MEASURES[name](jnp.asarray(POINTS[present]), np.ones(4, bool))
    assert float(MEASURES[name](jnp.asarray(moved), present)) == pytest.approx(float(whole), abs=1e-4)


@pytest.mark.parametrize("name", MEASURES)
def test_the_order_of_members_does_not_matter(name):
    turned = MEASURES[name](jnp.asarray(POINTS[::-1]), ALL)
    assert float(MEASURES[name](jnp.asarray(POINTS), ALL)) == pytest.approx(float(turned), abs=1e-5)


def test_the_frechet_distance_of_normals_along_the_axes():
    # Means (0, 0) and (3, 0), deviations 1 and 2 in both directions: 9 + 2 * (2 - 1)^2.
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    found = rewards.frechet(2 * square + np.array([3, 0]), shrinkage=0.0)(jnp.asarray(square), np.ones(4, bool))
    assert float(found) == pytest.approx(-11.0, abs=1e-4)


def test_shrinking_helps_small_sets():
    sample = RNG.normal(size=(400, 8)).astype(np.float32)
    small, everyone = sample[:4], np.ones(4, bool)
    plain, shrunk = (-float(rewards.frechet(sample, shrinkage=by)(small, everyone)) for by in (0.0, 0.5))
    assert shrunk < plain


def test_discrepancy_by_hand():
    # Kernel of 0 and 1 with bandwidth 1 is exp(-1/2); examples {0}, set {0, 1}: (1 - k) / 2.
    measure = rewards.discrepancy(np.zeros((1, 1)), rewards.gaussian_kernel(1.0))
    found = measure(jnp.array([[0.0], [1.0]]), np.ones(2, bool))
    assert float(found) == pytest.approx(-(1 - np.exp(-0.5)) / 2, abs=1e-6)


def test_vendi_counts_kinds():
    kinds = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    assert float(rewards.vendi()(jnp.asarray(kinds), ALL)) == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize("name", MEASURES)
def test_contributions_are_what_is_missing_without(name):
    found = rewards.set_contributions(MEASURES[name], POINTS, ALL)
    for member in range(6):
        rest = np.arange(6) != member
        slow = MEASURES[name](jnp.asarray(POINTS), ALL) - MEASURES[name](jnp.asarray(POINTS[rest]), np.ones(5, bool))
        assert float(found[member]) == pytest.approx(float(slow), abs=1e-4)


def test_absent_and_lonely_members_add_nothing():
    present = np.array([True, True, False, False, False, False])
    found = rewards.set_contributions(MEASURES["vendi"], POINTS, present)
    assert (np.asarray(found)[2:] == 0).all() and (np.asarray(found)[:2] != 0).all()
    alone = rewards.set_contributions(MEASURES["frechet"], POINTS, present & (np.arange(6) == 0))
    assert (np.asarray(alone) == 0).all()


def test_swapping_ends_no_worse_and_near_the_best():
    first, second = POINTS[:3], POINTS[3:]
    measure, everyone = MEASURES["frechet"], np.ones(3, bool)

    def worth(swapped):
        return float(measure(jnp.where(jnp.array(swapped)[:, None], second, first), everyone))

    found = jax.jit(lambda *pairs: rewards.greedy_swap(measure, *pairs))(first, second)
    every = [worth(choice) for choice in itertools.product((False, True), repeat=3)]
    assert worth(found) >= max(worth([False] * 3), worth(~np.asarray(found))) - 1e-5
    assert worth(found) >= np.median(every)


def test_a_set_turned_round_is_found_where_single_swaps_stop():
    # Both members of one set are 0, both of the other 1; one swap makes a mixed set, which this measure likes least.
    def measure(embeddings, present):
        return jnp.where(embeddings.mean() == 1, 2.0, jnp.where(embeddings.mean() == 0, 1.0, 0.0))

    assert np.asarray(rewards.greedy_swap(measure, jnp.zeros((2, 1)), jnp.ones((2, 1)))).all()


def test_what_is_rare_in_its_group_is_paid_for_variety():
    reward = rewards.of_sets(rewards.vendi(), rewards.hashed_ngrams(), name="variety")
    score = reward(text_rollouts(["?", "?"], [["four", "four", "4"], ["a b c", "x y z", "x y z"]], {}))
    assert score.value[0].argmax() == 2 and score.value[1].argmax() == 0
    assert score.valid.all() and list(score.parts) == ["variety"]


def test_over_the_batch_groups_are_one_set():
    batch = text_rollouts(["?", "?"], [["four", "five"], ["four", "four"]], {})
    reward = rewards.of_sets(rewards.vendi(), rewards.hashed_ngrams(), over="batch")
    assert reward(batch).value.argmax() == 1
    with pytest.raises(ValueError, match="group or batch"):
        rewards.of_sets(rewards.vendi(), rewards.hashed_ngrams(), over="prompt")
    with pytest.raises(ValueError, match="positive distance"):
        rewards.gaussian_kernel(0.0)
