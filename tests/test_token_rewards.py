"""Rewards computed from token ids, on the host and inside a compiled step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix import advantages, losses, rewards
from agent_tunix.batching import text_rollouts
from agent_tunix.types import Bounds, Recipe

LENGTHS = np.array([[3, 1], [2, 0]])
ROLLOUTS = dataclasses.replace(
    text_rollouts(["a", "b"], [["", ""], ["", ""]], {}, lengths=LENGTHS),
    completion_ids=np.array([[[7, 7, 5], [7, 9, 9]], [[5, 7, 7], [7, 7, 7]]], np.int32),  # 9 and later 7s are padding
)


def sevens(ids, mask):
    return jnp.sum((ids == 7) & mask, axis=-1)


def each_seven(ids, mask):
    return jnp.where(ids == 7, 0.5, 0.0)


SEVENS = rewards.from_tokens(sevens, bounds=(0, 3))


def test_a_value_for_every_completion():
    score = SEVENS(ROLLOUTS)
    np.testing.assert_array_equal(score.value, [[2, 1], [1, 0]])
    assert score.value.dtype == np.float32 and score.valid.all() and score.per_token is None
    assert SEVENS.name == "sevens" and SEVENS.bounds == Bounds(0, 3)


def test_a_value_for_every_token_is_summed_and_kept_and_padding_does_not_count():
    score = rewards.from_tokens(each_seven, name="sevens")(ROLLOUTS)
    np.testing.assert_array_equal(score.value, [[1.0, 0.5], [0.5, 0.0]])
    np.testing.assert_array_equal(score.per_token[1, 0], [0.0, 0.5, 0.0])


def test_inside_a_compiled_step_it_is_part_of_the_program():
    both = rewards.weighted_sum((2.0, SEVENS), (-1.0, rewards.from_tokens(each_seven, name="half")))

    @jax.jit
    def step(ids, mask):
        return both(dataclasses.replace(ROLLOUTS, completion_ids=ids, completion_mask=mask)).value

    inside = step(ROLLOUTS.completion_ids, ROLLOUTS.completion_mask)
    np.testing.assert_allclose(inside, [[3.0, 1.5], [1.5, 0.0]], atol=1e-6)
    np.testing.assert_allclose(inside, both(ROLLOUTS).value, atol=1e-6)


def test_gradients_flow_through_a_token_reward():
    def total(scale):
        scaled = rewards.from_tokens(lambda ids, mask: scale * (ids == 7), name="scaled")
        traced = dataclasses.replace(
            ROLLOUTS, completion_ids=jnp.asarray(ROLLOUTS.completion_ids) + 0 * scale.astype(int)
        )
        return scaled(traced).value.sum()

    assert jax.jit(jax.grad(total))(jnp.float32(2.0)) == 4.0


def test_wrong_shapes_and_values_are_named():
    with pytest.raises(ValueError, match=r"reward `flat` returned shape \(2,\).*\(2, 2\)"):
        rewards.from_tokens(lambda ids, mask: jnp.zeros(2), name="flat")(ROLLOUTS)
    with pytest.raises(ValueError, match=r"reward `high` returned 2.0 for prompt 0, completion 0, outside its bounds"):
        rewards.from_tokens(sevens, name="high", bounds=(0, 1))(ROLLOUTS)
    with pytest.raises(ValueError, match=r"reward `odd` returned inf"):
        rewards.from_tokens(lambda ids, mask: 1.0 / jnp.zeros(ids.shape[:2]), name="odd")(ROLLOUTS)


def test_rollouts_without_token_ids_are_refused():
    stored = text_rollouts(["a"], [["x", "y"]], {}, lengths=np.array([[2, 3]]))
    with pytest.raises(ValueError, match="reward `sevens` reads token ids, which these rollouts do not have"):
        SEVENS(stored)


def recipe_of_arrays():
    """A recipe of which no part needs the host: three token rewards, a shaping that remembers, a group's advantage."""
    reward = rewards.weighted_sum(
        (2.0, SEVENS),
        (-1.0, rewards.from_tokens(each_seven, name="half")),
        (0.5, rewards.from_tokens(lambda ids, mask: jnp.where(mask, ids, 0).max(-1), name="greatest")),
    )
    shaping = rewards.chain(rewards.center_running(0.9), rewards.clip(-2.0, 2.0))
    return Recipe(reward, shaping, advantages.per_group(advantages.group_normalized), losses.policy_loss())


def test_reward_shaping_and_advantage_traced_into_one_program_give_the_credit_of_the_loop():
    recipe = recipe_of_arrays()
    advantage = jax.jit(recipe.advantage)

    @jax.jit
    def program(ids, mask, state):
        traced = dataclasses.replace(ROLLOUTS, completion_ids=ids, completion_mask=mask)
        score, state = recipe.shaping.update(recipe.reward(traced), state, traced)
        return recipe.advantage(score), score, state

    random, separate, fused = np.random.default_rng(0), recipe.shaping.init(), recipe.shaping.init()
    for _ in range(3):  # the state goes on from batch to batch in both
        ids = random.integers(5, 9, ROLLOUTS.completion_ids.shape, np.int32)
        rollouts = dataclasses.replace(ROLLOUTS, completion_ids=ids)
        score, separate = recipe.shaping.update(recipe.reward(rollouts), separate, rollouts)
        credit, traced, fused = program(ids, ROLLOUTS.completion_mask, fused)
        np.testing.assert_allclose(credit, np.asarray(advantage(score)), atol=1e-6)
        np.testing.assert_allclose(traced.value, score.value, atol=1e-6)
        assert traced.parts.keys() == score.parts.keys()
        jax.tree.map(lambda mine, own: np.testing.assert_allclose(mine, own, atol=1e-6), fused, separate)
    assert np.abs(credit).max() > 0.1  # groups differ, so that the comparison means something
