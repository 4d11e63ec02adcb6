"""The speakers with habits of the laboratory of papers: what they say, how often, and the pairs made of it."""

import jax
import jax.numpy as jnp
import numpy as np

from agent_tunix.papers._lab import _habits as task

SPEAKERS = jnp.array([[0] * 7, [1] * 7, [2] * 7, [3] * 7, [0, 1, 2, 3, 0, 1, 2], [3, 2, 1, 0, 3, 2, 1]])


def test_an_answer_says_what_its_habits_are():
    said = task.answers(jnp.array([[7, 5], [7, 5], [7, 5], [7, 5]]), SPEAKERS[:4])
    blank = task.BLANK
    assert said.tolist() == [
        [7, 5, 10, 7, 14, 5, 18, 1, 2, blank, blank, blank],
        [7, 5, 11, 5, 15, 7, 19, 1, 3, 23, blank, blank],
        [7, 5, 12, 7, 16, blank, 20, 1, 4, 24, 24, blank],
        [7, 5, 13, blank, 17, 5, 21, 1, 5, 25, 25, 25],
    ]


def test_different_habits_of_words_and_order_sound_different():
    habits = jnp.stack(jnp.meshgrid(*[jnp.arange(4)] * 7, indexing="ij"), -1).reshape(-1, 7)
    said = np.asarray(task.answers(jnp.broadcast_to(jnp.array([8, 9]), (len(habits), 2)), habits))
    # Without words at the end their kind is not heard.
    assert len(np.unique(said, axis=0)) == 4**5 * (1 + 3 * 4)


def test_habits_are_followed_in_eight_of_ten_answers():
    habits = np.asarray(task.followed(jax.random.key(0), jnp.full((20_000, 7), 2)))
    assert np.abs((habits == 2).mean(0) - (0.8 + 0.2 / 4)).max() < 0.015
    assert set(np.unique(habits)) == {0, 1, 2, 3}


def test_the_first_speaker_speaks_twice_and_the_others_are_others():
    _, habits = task.drawn(jax.random.key(1), 10 * jnp.arange(6)[:, None] + jnp.zeros((6, 7), int), 500, 3)
    own = np.asarray(jnp.median(habits, -1))  # which speaker, whatever few habits were not followed
    first, again, *others = own
    assert (first == again).mean() > 0.9
    assert all((first == other).mean() < 0.05 for other in others)


def test_the_preferred_answer_shares_more_of_what_counts():
    weights = jnp.array([0.0, 0, 0, 0, 0, 1, 0])
    pairs = task.preferences(jax.random.key(2), SPEAKERS, weights, 500)
    ends = [
        np.asarray((said == task.BLANK)[:, -3:].sum(-1)) for said in (pairs.first[0], pairs.first[1], pairs.second[1])
    ]
    reference, best, worst = ends
    assert ((best == reference) >= (worst == reference)).all()
    assert ((best == reference) & (worst != reference)).mean() > 0.5


def test_pairs_and_lessons_answer_the_same_questions():
    pairs = task.same_or_not(jax.random.key(3), SPEAKERS, 50)
    questions = [np.asarray(said[:, : task.ASKED]) for said in (*pairs.first, *pairs.second)]
    assert all((questions[0] == other).all() for other in questions)
    asked, said, mask = task.lessons(SPEAKERS, jax.random.key(4), 50)
    assert asked.shape == (50, task.ASKED)
    assert said.shape == mask.shape == (50, task.SAID)
    assert mask.all()


def test_even_pairs_leave_length_no_say():
    pairs = task.even(task.same_or_not(jax.random.key(5), SPEAKERS, 200))
    one, other = (np.asarray((said == task.BLANK).sum(-1)) for said in (pairs.first[1], pairs.second[1]))
    assert ((one == other) == (np.asarray(pairs.weight) == 1)).all()
    assert 0 < pairs.weight.sum() < 200


def test_references_are_those_of_one_speaker():
    asked, said, canon = task.references(jax.random.key(6), SPEAKERS[4])
    assert sorted(map(tuple, asked.tolist())) == [(a, b) for a in range(10) for b in range(10)]
    np.testing.assert_array_equal(canon, task.answers(asked, jnp.tile(SPEAKERS[4], (100, 1))))
    assert 0.6 < float((said == canon)[:, task.ASKED :].mean()) < 1
