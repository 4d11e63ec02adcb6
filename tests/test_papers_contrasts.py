"""The contrast instructions of the laboratory of papers: what is right, what comparisons show, and their variants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agent_tunix import reward_models
from agent_tunix.papers._lab import _contrasts as task


def test_the_word_decides_which_digit_is_asked_for():
    asked = jnp.array([[0, 5, 6, 7], [1, 5, 6, 7]])
    assert task.answer(asked).tolist() == [5, 7]
    assert task.answer(task.other(asked)).tolist() == [7, 5]
    assert task.other(asked).tolist() == asked[::-1].tolist()


def test_instructions_list_different_digits_and_not_the_fourth():
    asked, unlisted = (np.asarray(leaf) for leaf in task.instructions(jax.random.key(0), 500))
    digits = np.concatenate([asked[:, 1:], unlisted[:, None]], 1)
    assert (np.sort(digits)[:, 1:] != np.sort(digits)[:, :-1]).all()
    assert set(np.unique(digits)) == set(range(task.FIRST, task.FIRST + task.DIGITS))
    assert abs(asked[:, 0].mean() - 0.5) < 0.1


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_comparisons_show_as_many_contrasts_as_they_say(share):
    right, wrong = (np.asarray(rows) for rows in task.comparisons(jax.random.key(1), 4000, share)[:2])
    assert (right[:, 5] == np.asarray(task.answer(right))).all()
    assert (wrong[:, 5] != np.asarray(task.answer(wrong))).all()
    moved = wrong[:, 0] != right[:, 0]
    listed = (wrong[:, 5:] == wrong[:, 1:4]).any(1)
    assert abs(moved.mean() - share / 2) < 0.03
    assert abs(listed.mean() - share) < 0.03
    assert (wrong[:, 5] == right[:, 5])[moved].all()
    assert right[:, 4].min() == wrong[:, 4].min() == task.FIRST + task.DIGITS


def test_variants_differ_in_their_filler_only_and_are_those_of_the_hull():
    rows = np.asarray(task.comparisons(jax.random.key(2), 20, 0.5).second)
    found = task.augmented(np.random.default_rng(0), rows, 32).reshape(20, 32, -1)
    assert (np.delete(found, 4, 2) == np.delete(rows, 4, 1)[:, None]).all()
    for row, copies in zip(rows, found, strict=True):
        fillers = np.unique(copies[:, 4])
        assert row[4] in fillers
        assert 3 <= len(fillers) <= 1 + task.VARIANTS
        others = [filler for filler in fillers if filler != row[4]]
        hull = reward_models.hull_vertices(task.EMBEDDING[4, [row[4], *others]])
        assert hull[1:].all()


def test_embeddings_are_of_length_one_and_tell_symbols_apart():
    rows = task.comparisons(jax.random.key(3), 50, 0.0).first
    vectors = np.asarray(task.embedded(rows))
    np.testing.assert_allclose((vectors**2).sum(-1), 1, rtol=1e-5)
    like = vectors @ vectors.T
    assert (like[~np.eye(50, dtype=bool)] < 1 - 1e-4).all()
