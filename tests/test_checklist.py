"""Checks of one completion weighed by how few of the group pass each, beside a loop of plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_tunix import rewards
from agent_tunix.types import Bounds, Score
from tests.reference import rewards as twin
from tests.texts import TWO_BY_TWO

eighths = st.integers(0, 8).map(lambda number: number / 8)
groups = st.lists(st.lists(st.none() | eighths, min_size=4, max_size=4), min_size=1, max_size=5)


def fixed(values, name, bounds=(0, 1)):
    """A reward that gives these numbers whatever it sees; None is no value."""
    numbers = iter([*values] * 9)
    return rewards.per_completion(lambda text: next(numbers), name=name, bounds=bounds)


@given(columns=groups, power=st.sampled_from([0.0, 0.5, 1.0, 3.0]), strata=st.sampled_from([None, 1, 2, 4]))
@settings(deadline=None, max_examples=100)
def test_weights_are_those_of_the_loop(columns, power, strata):
    valid = np.array([[value is not None for value in column] for column in columns])[:, None]
    passed = np.array([[np.nan if value is None else value for value in column] for column in columns])[:, None]
    got = rewards.difficulty_weights(passed, valid, power=power, strata=strata)
    np.testing.assert_allclose(got[:, 0], twin.difficulty_weights(columns, power, strata), atol=1e-12)


def test_traced_weights_are_those_on_the_host():
    passed = np.random.default_rng(0).integers(0, 2, (5, 3, 8)).astype(np.float32)
    traced = jax.jit(functools.partial(rewards.difficulty_weights, strata=3))(jnp.asarray(passed))
    np.testing.assert_allclose(traced, rewards.difficulty_weights(passed, strata=3), atol=1e-6)


def test_what_few_of_a_group_pass_counts_more():
    # Rates of the first group 1 and 1/2, so that only the second check counts; of the second 1/2 and 0.
    easy, hard = fixed([1, 1, 1, 0], "easy"), fixed([1, 0, 0, 0], "hard")
    score = rewards.difficulty_weighted(easy, hard)(TWO_BY_TWO)
    np.testing.assert_allclose(score.value, [[1, 0], [1 / 3, 0]], rtol=1e-6)
    assert set(score.parts) == {"easy", "hard"}


def test_a_missing_check_makes_the_entry_invalid_and_enters_no_rate():
    easy, hard = fixed([1, None, 1, 1], "easy"), fixed([1, 0, 1, 0], "hard")
    score = rewards.difficulty_weighted(easy, hard)(TWO_BY_TWO)
    np.testing.assert_array_equal(score.valid, [[True, False], [True, True]])
    np.testing.assert_allclose(score.value, [[1, 0], [1, 0]])


def test_bounds_and_settings_are_checked():
    check = fixed([1], "a", bounds=(0.25, 0.5))
    assert rewards.difficulty_weighted(check, fixed([1], "b")).bounds == Bounds(0.0, 1.0)
    for wrong in ({"power": -1.0}, {"strata": 0}):
        with pytest.raises(ValueError, match="give at least"):
            rewards.difficulty_weighted(check, **wrong)
    with pytest.raises(ValueError, match=r"`c` has bounds"):
        rewards.difficulty_weighted(fixed([1], "c", bounds=(-1, 1)))
    with pytest.raises(ValueError, match="no rewards"):
        rewards.difficulty_weighted()


def test_a_score_knows_the_parts_as_they_were():
    score = rewards.difficulty_weighted(fixed([1, 0, 1, 0], "a"), power=2.0)(TWO_BY_TWO)
    assert isinstance(score, Score)
    np.testing.assert_array_equal(score.parts["a"], [[1, 0], [1, 0]])
