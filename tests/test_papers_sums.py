"""What the laboratory of papers has for co-evolving judges and tools: a queue, the likeliest continuation, sums."""

import jax
import jax.numpy as jnp
import numpy as np

from agent_tunix.papers import _lab as lab
from agent_tunix.papers._lab import _sums as task


def put(queue, numbers, kinds, kept):
    return lab.remembered(queue, lab.Replay(jnp.array(numbers), jnp.array(kinds), jnp.array(kept)))


def test_a_queue_keeps_the_newest_rows_that_count():
    queue = put(lab.replay(jnp.zeros((), jnp.int32), 3), [1, 2], [0, 0], [True, False])
    assert queue.rows[queue.kept].tolist() == [1]
    queue = put(queue, [3, 4, 5], [1, 1, 1], [False, True, True])
    assert queue.rows.tolist() == [4, 5, 1]
    assert put(queue, [6], [0], [True]).rows.tolist() == [6, 4, 5]


def test_kinds_are_drawn_alike_and_empty_places_never():
    queue = put(lab.replay(jnp.zeros((), jnp.int32), 12), list(range(1, 11)), [0] * 9 + [2], [True] * 10)
    drawn = np.asarray(lab.balanced(queue, jax.random.key(0), 4000, 3))
    assert drawn.min() == 1
    assert abs((drawn == 10).mean() - 0.5) < 0.04  # five standard deviations


def test_the_likeliest_continuation_is_that_of_every_single_step():
    model = lab.transformer(vocab=5, most=5, width=8, layers=1)
    params = model.init(jax.random.key(0))
    canvas = prompts = jnp.array([[1, 2], [3, 4]])
    for _ in range(3):
        canvas = jnp.concatenate([canvas, jnp.argmax(model.logits(params, canvas)[:, -1:], -1)], -1)
    np.testing.assert_array_equal(lab.likeliest(model, params, prompts, 3), canvas[:, 2:])


def test_demonstrations_are_as_flawed_as_they_say():
    firm = jnp.arange(task.M**2) < 10
    (kind, x, y, one, two), label = (np.asarray(leaf).T for leaf in task.examples(jax.random.key(0), firm, 8000)[:2])
    right, known = (x + y) % task.M, x * task.M + y >= 10
    asked, judged, pairs = kind == task.ASK, kind == task.JUDGE, kind == task.PAIR
    assert (label == right + 1)[asked & ~known & (right < 6)].all()
    half = 1 / 2 + 1 / 2 / task.M
    for rows, meant, share in (
        (asked & known, right, half),
        (kind == task.FIX, right, half),
        (judged & (one == right), task.YES, 1),
        (judged & (one != right), task.YES, 7 / 8),
        (pairs, np.where(one == right, task.FIRST, task.SECOND), 0.6),
    ):
        assert abs((label == meant)[rows].mean() - share) < 0.03
    assert ((one == right) != (two == right))[pairs].all()
    assert (one != right)[kind == task.FIX].all()


def test_accuracies_are_those_of_answers_that_are_drawn():
    params = task.reward_models.mlp_params(jax.random.key(3), (5 * task.SYMBOLS, 8, task.SYMBOLS))
    x, y = np.divmod(np.arange(task.M**2), task.M)
    logits = task.logits(params, task.prompt(task.ASK, x, y))
    drawn = jax.random.categorical(jax.random.key(1), logits, shape=(4000, task.M**2))
    known = (np.arange(task.M**2) < 30).astype(np.float32)
    found = task.accuracies(params, jnp.asarray(known))
    met = np.asarray(drawn == (x + y) % task.M).mean(0)
    assert abs(float(found["solve"]) - met[:30].mean()) < 0.01
    assert abs(float(found["unlabelled"]) - met[30:].mean()) < 0.01
    assert 0 <= float(found["corrected"]) <= 1
