"""Similarity by embeddings: numbers worked out by hand, laws, and arrays of both kinds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix import rewards
from tests.texts import rollouts

CAT, SAT, DOG, MAT = np.eye(4)


def texts(random, *shape):
    return random.normal(size=(*shape, 8))


def test_both_directions_are_averaged():
    # Each said token is in the reference: 1. Of the four of the reference two are said: 0.5.
    assert rewards.bmas(np.stack([CAT, SAT]), np.stack([CAT, SAT, DOG, MAT])) == 0.75
    # Half of what is said belongs there, all of it is said; lengths of vectors do not count.
    assert rewards.bmas(np.stack([3 * CAT, DOG]), np.stack([0.1 * CAT])) == 0.75
    assert rewards.max_average_similarity(np.stack([CAT, DOG]), np.stack([CAT, MAT])) == 0.5
    assert rewards.bmas(np.stack([-CAT]), np.stack([CAT])) == -1
    assert rewards.bmas(np.zeros((2, 4)), np.stack([CAT])) == 0


def test_a_text_is_like_itself_in_any_order_and_repetition_does_not_make_up_for_what_is_missing():
    random = np.random.default_rng(0)
    one, other = texts(random, 5), texts(random, 7)
    assert rewards.bmas(one, one[::-1]) == pytest.approx(1)
    assert rewards.bmas(one, other) == pytest.approx(rewards.bmas(other, one))
    assert rewards.bmas(np.repeat(one[:1], 9, 0), one) < 0.9


def test_what_is_masked_is_not_there():
    random = np.random.default_rng(1)
    one, other = texts(random, 2, 3, 5), texts(random, 2, 3, 4)
    here, there = np.arange(5) < random.integers(0, 6, (2, 3, 1)), np.arange(4) < random.integers(0, 5, (2, 3, 1))
    here[0, 0], there[0, 1] = False, False
    expected = [[rewards.bmas(a[m], b[n]) for a, m, b, n in zip(*row)] for row in zip(one, here, other, there)]
    assert expected[0][0] == expected[0][1] == 0
    np.testing.assert_allclose(rewards.bmas(one, other, here, there), expected, atol=1e-12)
    traced = jax.jit(rewards.bmas)(*(jnp.asarray(array) for array in (one, other, here, there)))
    np.testing.assert_allclose(traced, expected, atol=1e-6)


def letters(text):
    return np.eye(26)[[ord(letter) - 97 for letter in text]]


def test_completions_are_compared_with_a_column():
    reward = rewards.embedding_similarity(letters, "reference")
    score = reward(rollouts([["ab", "ba", "aa", ""]], reference=["ab"]))
    assert score.value.tolist() == [[1, 1, 0.75, 0]] and score.valid.all()
    assert reward.bounds == (-1, 1) and list(score.parts) == ["embedding_similarity"]
