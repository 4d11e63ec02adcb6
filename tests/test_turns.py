"""Credit within an episode: numbers by hand, and the laws of turns and of sequences with holes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from agent_tunix import advantages, rewards, turns
from agent_tunix.types import Outcome, Rollouts, Score

FLOATS = st.floats(-3, 3, width=32)
GAE = jax.jit(turns.gae)
LEVEL = jax.jit(turns.turn_level)
GROUP, TURNS, TOKENS = 4, 3, 12


def test_rewards_from_a_turn_on_by_hand():
    got = turns.to_go(jnp.array([[1.0, 0.0, 4.0], [0.0, 0.0, 0.0]]), gamma=0.5)
    np.testing.assert_allclose(got, [[2.0, 2.0, 4.0], [0.0, 0.0, 0.0]])


# --- Sequences with holes ---------------------------------------------------------------------------------------------


def gae_by_hand(rewards, values, gamma, lam):
    """The recursion, token by token, where all tokens are the policy's."""
    after, later, out = 0.0, 0.0, []
    for reward, value in list(zip(rewards, values))[::-1]:
        later = reward + gamma * after - value + gamma * lam * later
        after = value
        out.append(later)
    return np.array(out[::-1])


def test_two_tokens_around_an_observation_by_hand():
    # The last token: 1 - 0.5 = 0.5. The first: 0 + 0.9 * 0.5 - 0.25 = 0.2, and 0.9 * 0.8 * 0.5 more.
    got = turns.gae(jnp.array([0.0, 9.0, 1.0]), jnp.array([0.25, 9.0, 0.5]), jnp.array([True, False, True]),
                    gamma=0.9, lam=0.8)  # fmt: skip
    np.testing.assert_allclose(got, [0.2 + 0.36, 0.0, 0.5], atol=1e-6)


@given(
    st.lists(st.tuples(FLOATS, FLOATS, st.booleans()), min_size=TOKENS, max_size=TOKENS),
    st.floats(0, 1, width=32), st.floats(0, 1, width=32),
)  # fmt: skip
def test_a_sequence_with_observations_is_the_sequence_without_them(tokens, gamma, lam):
    given_rewards, values, mask = (np.array(column) for column in zip(*tokens))
    got = GAE(jnp.float32(given_rewards), jnp.float32(values), jnp.asarray(mask, bool), gamma=gamma, lam=lam)
    compacted = gae_by_hand(given_rewards[mask.astype(bool)], values[mask.astype(bool)], gamma, lam)
    np.testing.assert_allclose(np.asarray(got)[mask.astype(bool)], compacted, atol=1e-4)
    assert (np.asarray(got)[~mask.astype(bool)] == 0).all()


@given(arrays.arrays(np.float32, TOKENS, elements=FLOATS), arrays.arrays(bool, TOKENS))
def test_with_no_discount_and_no_bootstrapping_it_is_what_is_still_to_come_less_the_value(values, mask):
    given_rewards = np.arange(TOKENS, dtype=np.float32) % 3
    got = np.asarray(GAE(jnp.asarray(given_rewards), jnp.asarray(values), jnp.asarray(mask)))
    rest = np.cumsum(np.where(mask, given_rewards, 0)[::-1])[::-1]
    np.testing.assert_allclose(got[mask], (rest - values)[mask], atol=1e-4)


# --- Turns and their tokens -------------------------------------------------------------------------------------------

ENDS = st.lists(st.integers(0, TOKENS - 1), min_size=0, max_size=TURNS, unique=True).map(
    lambda ends: sorted(ends) + [TOKENS] * (TURNS - len(ends))
)


@given(arrays.arrays(np.float32, TOKENS, elements=FLOATS), ENDS)
def test_sums_over_turns_and_back_are_those_of_slices(values, ends):
    sums = np.asarray(turns.of_tokens(jnp.asarray(values), jnp.array(ends)))
    spread = np.asarray(turns.over_tokens(jnp.asarray(sums), jnp.array(ends), TOKENS))
    start, wanted = 0, np.zeros(TOKENS, np.float32)
    for turn, end in enumerate(ends):
        total = values[start : end + 1].sum() if end < TOKENS else 0.0
        np.testing.assert_allclose(sums[turn], total, atol=1e-5)
        wanted[start : min(end + 1, TOKENS)] = sums[turn] if end < TOKENS else 0.0
        start = end + 1
    np.testing.assert_array_equal(spread, wanted)


@given(arrays.arrays(np.float32, (GROUP, TURNS), elements=FLOATS), arrays.arrays(bool, (GROUP, TURNS)))
def test_credit_of_turns_keeps_the_laws_of_groups(given_rewards, there):
    there = np.logical_and.accumulate(there, axis=1)  # no turn behind one that is missing
    credit = np.asarray(LEVEL(jnp.asarray(given_rewards), jnp.asarray(there)))
    assert (credit[~there] == 0).all()
    lone = there.sum(0) < 2
    assert (credit[:, lone] == 0).all()
    np.testing.assert_allclose(credit.sum(0), 0, atol=1e-4)
    garbage = np.where(there, given_rewards, np.nan)
    np.testing.assert_array_equal(LEVEL(jnp.asarray(garbage), jnp.asarray(there)), credit)
    np.testing.assert_allclose(
        LEVEL(jnp.asarray(given_rewards[::-1]), jnp.asarray(there[::-1])), credit[::-1], atol=1e-5
    )


def test_one_turn_is_the_estimator_itself():
    given_rewards = np.random.default_rng(0).normal(size=(GROUP, 1)).astype(np.float32)
    valid = np.array([True, True, False, True])
    for estimator in (advantages.centered, advantages.leave_one_out, advantages.group_normalized):
        got = turns.turn_level(jnp.asarray(given_rewards), jnp.asarray(valid[:, None]), estimator=estimator)
        np.testing.assert_array_equal(got[:, 0], estimator(jnp.asarray(given_rewards[:, 0]), jnp.asarray(valid)))


def test_a_turn_after_which_all_get_the_same_is_not_credited():
    # The second member earns in its first turn; both then get the same in the second.
    given_rewards = jnp.array([[0.0, 1.0], [1.0, 1.0]])
    credit = turns.turn_level(given_rewards, jnp.full((2, 2), True), estimator=advantages.centered)
    np.testing.assert_array_equal(credit, [[-0.5, 0.0], [0.5, 0.0]])


# --- In rollouts ------------------------------------------------------------------------------------------------------


def rollouts(turn_rewards, turn_ends, tokens=8):
    """Turns of one token where `turn_ends` says, observations elsewhere."""
    shape = (len(turn_ends), len(turn_ends[0]))
    mask = np.zeros((*shape, tokens), bool)
    for p, g in np.ndindex(*shape):
        mask[p, g, turn_ends[p][g]] = True
    zeros = np.zeros(mask.shape, np.float32)
    return Rollouts(
        ["?"] * shape[0], [[""] * shape[1]] * shape[0], {"turn_rewards": turn_rewards, "turn_ends": turn_ends},
        np.zeros((shape[0], 1), np.int32), np.ones((shape[0], 1), bool), np.zeros(mask.shape, np.int32), mask,
        np.zeros(shape, bool), zeros, zeros,
    )  # fmt: skip


EXAMPLE = rollouts([[[0.0, 1.0], [0.5]]], [[[1, 4], [2]]])


def test_rewards_of_turns_lie_on_the_last_tokens_and_add_up_to_the_value():
    score = rewards.turn_rewards(bounds=(0, 1))(EXAMPLE)
    assert score.value.tolist() == [[1.0, 0.5]]
    assert score.per_token.tolist() == [[[0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0.5, 0, 0, 0, 0, 0]]]
    assert (score.outcomes["turns"] == Outcome.GRADED).all()
    assert (score.per_token[~EXAMPLE.completion_mask] == 0).all()


def test_rewards_of_turns_that_do_not_hold_are_refused():
    with pytest.raises(ValueError, match="needs the column `turn_rewards`"):
        rewards.turn_rewards()(Rollouts(**{**vars(EXAMPLE), "columns": {}}))
    with pytest.raises(ValueError, match="2 rewards for 1 turns of prompt 0, completion 1"):
        rewards.turn_rewards()(rollouts([[[0.0], [0.0, 1.0]]], [[[1], [2]]]))
    for wrong in (2.0, float("nan")):
        with pytest.raises(ValueError, match=r"for prompt 0, completion 1, outside its bounds"):
            rewards.turn_rewards(bounds=(0, 1))(rollouts([[[0.0], [wrong]]], [[[1], [2]]]))


def test_credit_of_turns_reaches_all_of_their_tokens():
    score = rewards.turn_rewards()(EXAMPLE)
    shaped, _ = rewards.turn_credit(estimator=advantages.centered).update(score, (), EXAMPLE)
    # First turns have 1 and 0.5 to come, 0.75 on average; the second turn has none to be compared with.
    wanted = [[[0.25, 0.25, 0, 0, 0, 0, 0, 0], [-0.25, -0.25, -0.25, 0, 0, 0, 0, 0]]]
    np.testing.assert_allclose(advantages.as_given(shaped), wanted, atol=1e-6)
    np.testing.assert_array_equal(shaped.value, score.value)


def test_an_outcome_beyond_the_rewards_of_turns_counts_for_the_last_turn():
    both = rollouts([[[0.5, 0.0], [0.5, 0.0]]], [[[1, 4], [2, 3]]])
    dense = rewards.turn_rewards()(both)
    score = Score(dense.value + np.array([[1.0, 0.0]], np.float32), dense.valid, per_token=dense.per_token)
    shaped, _ = rewards.turn_credit(estimator=advantages.centered).update(score, (), both)
    np.testing.assert_allclose(shaped.per_token[0, 0, :5], 0.5)
    np.testing.assert_allclose(shaped.per_token[0, 1, :4], -0.5)
    alone, _ = rewards.turn_credit(estimator=advantages.centered).update(Score(score.value, score.valid), (), both)
    np.testing.assert_allclose(alone.per_token, shaped.per_token, atol=1e-6)  # both earn 0.5 in their first turn


def test_a_completion_without_a_value_gets_no_credit_and_is_compared_with_none():
    score = rewards.turn_rewards()(rollouts([[[1.0], [0.0], [0.5]]], [[[1], [2], [3]]]))
    score = Score(score.value, np.array([[True, True, False]]), per_token=score.per_token)
    batch = rollouts([[[1.0], [0.0], [0.5]]], [[[1], [2], [3]]])
    shaped, _ = rewards.turn_credit(estimator=advantages.centered).update(score, (), batch)
    assert np.asarray(shaped.per_token[0, :, 0]).tolist() == [0.5, -0.5, 0.0]
    assert np.asarray(advantages.as_given(shaped))[0, 2].tolist() == [0.0] * 8


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"gamma=1.5"):
        rewards.turn_credit(gamma=1.5)
    with pytest.raises(ValueError, match="needs rewards per token"):
        advantages.as_given(Score(np.zeros((1, 2), np.float32), np.ones((1, 2), bool)))


# --- Attribution ------------------------------------------------------------------------------------------------------


def attributed_once(table, ids, mask, value, **arguments):
    batch = Rollouts(
        ["?"], [[""] * len(ids)], {}, np.zeros((1, 1), np.int32), np.ones((1, 1), bool), np.array([ids]),
        np.array([mask]), np.zeros((1, len(ids)), bool), np.zeros((1, *np.shape(ids))), np.zeros((1, *np.shape(ids))),
    )  # fmt: skip
    score = Score(np.array([value], np.float32), np.ones((1, len(ids)), bool))
    return rewards.attributed(**arguments).update(score, jnp.float32(table), batch)


def test_contributions_by_hand_and_the_rest_on_the_last_token():
    shaped, moved = attributed_once([0.5, 0.25, 0.0], [[0, 1, 2, 1]], [[True, False, True, False]], [1.0], size=3)
    np.testing.assert_allclose(shaped.per_token, [[[0.5, 0.0, 0.5, 0.0]]])  # 1 less 0.5 is left for the third
    # The sum is 0.5 short of 1, over two tokens: a step of 0.5 / 2 squared for both, and none for the observation.
    np.testing.assert_allclose(moved, [0.625, 0.25, 0.125])


def test_a_table_learns_which_token_is_paid():
    random, table = np.random.default_rng(0), rewards.attributed(size=4).init()
    for _ in range(300):
        ids = random.integers(0, 4, (8, 5))
        shaped, table = attributed_once(table, ids, np.ones(ids.shape, bool), (ids == 2).sum(-1) * 0.2, size=4)
    np.testing.assert_allclose(table, [0.0, 0.0, 0.2, 0.0], atol=1e-3)
    np.testing.assert_allclose(shaped.per_token[0], (ids == 2) * 0.2, atol=1e-2)


def test_an_attribution_that_may_diverge_is_refused():
    with pytest.raises(ValueError, match="rate=2"):
        rewards.attributed(rate=2.0)
