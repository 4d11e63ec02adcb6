"""Shapings: what they do to a score, and that their state is all they remember."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent_tunix import rewards
from agent_tunix.types import Failure, Score, Shaping


def score_of(value, valid=None):
    value = np.asarray(value, np.float32)
    valid = np.ones(value.shape, bool) if valid is None else np.asarray(valid, bool)
    return Score(
        value=np.where(valid, value, 0), valid=valid, parts={"part": value}, failures=(Failure("part", 0, 0, "why"),)
    )


def run(shaping, scores, state=None):
    """Applies a shaping to one batch after the other."""
    state = shaping.init() if state is None else state
    shaped = []
    for score in scores:
        score, state = shaping.update(score, state, None)
        shaped.append(np.asarray(score.value))
    return shaped, state


def test_identity_changes_nothing():
    score = score_of([[1, 2]])
    assert rewards.identity().update(score, (), None) == (score, ())
    assert rewards.identity().init() == ()


def test_running_mean_is_worked_out_by_hand():
    # Batch means 1 and 4 at decay 0.5: the baseline is 1, then (0.5 * 1 + 4) / (0.5 + 1) = 3.
    shaped, state = run(rewards.center_running(0.5), [score_of([[0, 2]]), score_of([[3, 5]])])
    np.testing.assert_allclose(shaped, [[[-1, 1]], [[0, 2]]], atol=1e-6)
    np.testing.assert_allclose([state.total, state.weight, state.batches], [4.5, 1.5, 2], atol=1e-6)


def test_entries_that_are_not_valid_stay_zero_and_are_not_remembered():
    center = rewards.center_running(0.5)
    shaped, state = run(center, [score_of([[0, 2, 99]], [[1, 1, 0]])])
    np.testing.assert_allclose(shaped, [[[-1, 1, 0]]], atol=1e-6)
    after, unchanged = run(center, [score_of([[7, 7, 7]], [[0, 0, 0]])], state)
    np.testing.assert_array_equal(after, [[[0, 0, 0]]])
    assert [float(x) for x in unchanged] == [float(x) for x in state]
    before_any, _ = run(center, [score_of([[7.0]], [[False]])])
    np.testing.assert_array_equal(before_any, [[[0]]])


def test_parts_validity_and_failures_pass_through():
    score = score_of([[1, 2]], [[True, False]])
    shaped, _ = rewards.center_running(0.9).update(score, rewards.center_running(0.9).init(), None)
    assert shaped.parts is score.parts and shaped.valid is score.valid and shaped.failures == score.failures


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_that_forgets_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="give a number in"):
        rewards.center_running(decay)


def test_chain_applies_the_first_shaping_first():
    double = Shaping(lambda: (), lambda score, state, _: (Score(score.value * 2, score.valid), state))
    first_centered, _ = run(rewards.chain(rewards.center_running(0.0), double), [score_of([[0, 2]])])
    np.testing.assert_allclose(first_centered, [[[-2, 2]]], atol=1e-6)
    shaped, state = run(rewards.chain(double, rewards.center_running(0.0)), [score_of([[0, 2]])])
    np.testing.assert_allclose(shaped, [[[-2, 2]]], atol=1e-6)
    assert state[0] == () and float(state[1].total) == 2.0  # the mean of the doubled batch
    empty = rewards.chain()
    assert empty.init() == () and empty.update("score", (), None) == ("score", ())


def test_chain_needs_the_reference_where_a_member_does():
    needy = rewards.identity()._replace(needs_reference=True)
    assert rewards.chain(rewards.identity(), needy).needs_reference
    assert not rewards.chain(rewards.identity()).needs_reference


def test_chain_refuses_what_is_no_shaping():
    with pytest.raises(TypeError, match="call its factory"):
        rewards.chain(rewards.identity)  # pyright: ignore


BATCHES = st.lists(hnp.arrays(np.float32, (2, 3), elements=st.floats(-10, 10, width=32)), min_size=2, max_size=5)


@settings(deadline=None)  # the first example compiles
@given(BATCHES, st.data())
def test_a_resumed_state_goes_on_as_if_nothing_had_happened(batches, data):
    shaping = rewards.chain(rewards.center_running(0.9), rewards.center_running(0.5))
    scores = [score_of(batch) for batch in batches]
    cut = data.draw(st.integers(0, len(scores)))
    whole, end = run(shaping, scores)
    head, state = run(shaping, scores[:cut])
    leaves, structure = jax.tree.flatten(state)
    restored = jax.tree.unflatten(structure, [np.array(leaf) for leaf in leaves])  # as a checkpoint gives it back
    tail, resumed_end = run(shaping, scores[cut:], restored)
    np.testing.assert_array_equal(whole, head + tail)
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(resumed_end), strict=True):
        np.testing.assert_array_equal(a, b)


@settings(deadline=None)  # the first example compiles
@given(BATCHES)
def test_compiled_and_plain_updates_agree_with_an_obvious_twin(batches):
    decay, shaping = 0.8, rewards.center_running(0.8)
    update = jax.jit(lambda score, state: shaping.update(score, state, None))
    state, means = shaping.init(), []
    for batch in batches:
        score, state = update(score_of(batch), state)
        means.append(batch.mean(dtype=float))
        weights = decay ** np.arange(len(means))[::-1]
        np.testing.assert_allclose(score.value, batch - np.average(means, weights=weights), atol=1e-5)
