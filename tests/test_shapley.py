"""Shapley's and Owen's values on games whose values are known, and beside a loop over all orders."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix import advantages, rewards
from agent_tunix.batching import text_rollouts


def rollouts_of(ids, mask):
    whole = text_rollouts(["a"], [["", ""]], {}, lengths=mask.sum(-1))
    return dataclasses.replace(whole, completion_ids=ids.astype(np.int32), completion_mask=mask)


def game_of(seed, players):
    """A game with a random worth for every coalition, and that worth as a table."""
    table = np.random.default_rng(seed).normal(size=2**players).astype(np.float32)
    powers = 2 ** np.arange(players)
    return lambda members: jnp.asarray(table)[jnp.sum(members * powers)], table


def averaged(table, orders):
    values = np.zeros(len(orders[0]))
    for order in orders:
        there = 0
        for player in order:
            values[player] += (table[there | 1 << player] - table[there]) / len(orders)
            there |= 1 << player
    return values


@pytest.mark.parametrize("players", [1, 2, 5])
def test_exact_values_are_averages_over_all_orders(players):
    worth, table = game_of(players, players)
    values = rewards.shapley_values(worth, players)
    np.testing.assert_allclose(values, averaged(table, list(itertools.permutations(range(players)))), atol=1e-5)
    np.testing.assert_allclose(values.sum(), table[-1] - table[0], atol=1e-5)


def test_estimates_are_averages_over_their_orders_and_unbiased():
    worth, table = game_of(0, 5)
    orders = rewards.joining_orders(jax.random.key(0), 5, 200)
    values = rewards.shapley_values(worth, 5, orders)
    np.testing.assert_allclose(values, averaged(table, np.asarray(orders).tolist()), atol=1e-5)
    np.testing.assert_allclose(values.sum(), table[-1] - table[0], atol=1e-5)
    # Pairs of an order and its reverse are independent of each other.
    pairs = np.array([averaged(table, [np.asarray(o), np.asarray(o)[::-1]]) for o in orders[:200]])
    error = pairs.std(0, ddof=1) / np.sqrt(len(pairs))
    assert (np.abs(values - rewards.shapley_values(worth, 5)) < 3 * error).all()


def test_equal_players_share_equally_and_one_who_adds_nothing_gets_nothing():
    # Gloves: two players with a left one and one with a right one; the fourth player has none.
    def pairs(members):
        return jnp.minimum(members[0] + members[1], members[2].astype(jnp.int32)).astype(jnp.float32)

    np.testing.assert_allclose(rewards.shapley_values(pairs, 4), [1 / 6, 1 / 6, 2 / 3, 0], atol=1e-6)


def test_blocks_join_together():
    orders = np.asarray(rewards.joining_orders(jax.random.key(1), 6, 50, jnp.array([0, 0, 0, 1, 1, 2])))
    assert all(len(list(itertools.groupby(order >= 3))) <= 3 for order in orders)
    assert {tuple(sorted(order[:3])) for order in orders if order[0] < 3} == {(0, 1, 2)}
    assert (np.sort(orders, 1) == np.arange(6)).all()

    # Three players, the first two of a block, where all pairs of players are worth 1: Owen's value is known.
    def worth(members):
        return (jnp.sum(members) >= 2).astype(jnp.float32)

    values = rewards.shapley_values(worth, 3, rewards.joining_orders(jax.random.key(2), 3, 400, jnp.array([0, 0, 1])))
    np.testing.assert_allclose(values, [0.5, 0.5, 0.0], atol=0.1)
    assert values[2] == 0.0  # alone it has a third


def test_a_reward_is_paid_at_the_end_of_each_piece():
    # Symbol 0 separates; the reward is the number of different symbols, separators included.
    def worth(ids, mask):
        return sum((mask & (ids == symbol)).any(-1).astype(jnp.float32) for symbol in range(4)) + 0.25

    def pieces(ids, mask):
        return jnp.cumsum(ids == 0, -1) - (ids == 0)

    ids = np.array([[[1, 0, 1, 2, 0, 3], [2, 2, 0, 1, 3, 3]]])
    mask = np.ones(ids.shape, bool)
    mask[0, 1, 4:] = False
    reward = rewards.shapley(worth, pieces, 3, bounds=(0.25, 4.25))
    score = reward(rollouts_of(ids, mask))
    np.testing.assert_allclose(score.value, [[4.25, 3.25]])
    # Pieces 1 0 | 1 2 0 | 3: both 1 and 0 are shared by the first two. Pieces 2 2 0 | 1.
    np.testing.assert_allclose(score.per_token[0, 0], [0, 1, 0, 0, 2, 1.25], atol=1e-6)
    np.testing.assert_allclose(score.per_token[0, 1], [0, 0, 2, 1.25, 0, 0], atol=1e-6)
    half = rewards.shapley(worth, pieces, 3, share=0.5)(rollouts_of(ids, mask))
    np.testing.assert_allclose(half.per_token[0, 0], [0, 0.5, 0, 0, 1, 2.75], atol=1e-6)
    np.testing.assert_allclose(advantages.reward_to_go(score)[0, :, 0], [0.5, -0.5], atol=1e-6)


def test_too_many_players_are_refused():
    with pytest.raises(ValueError, match="give orders"):
        rewards.shapley_values(lambda members: members.sum(), 13)
    with pytest.raises(ValueError, match="1 to 12"):
        rewards.shapley(lambda ids, mask: mask.sum(-1), lambda ids, mask: ids, 13)
