"""Sums modulo 7 as questions, and as tasks of judging, comparing and correcting answers, for one small policy.

Everything is one symbol: the answer to a question, a verdict, the better of two answers, a correction.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import reward_models

M = 7
ASK, JUDGE, PAIR, FIX, YES, NO, FIRST, SECOND, NONE, SYMBOLS = range(M, M + 10)


def prompt(kind: Any, x: Array, y: Array, one: Any = NONE, two: Any = NONE) -> Int[Array, "*rows 5"]:
    """A question or a task about the sum of x and y."""
    return jnp.stack(jnp.broadcast_arrays(kind, x, y, one, two), -1)


def logits(params: Any, prompts: Int[Array, "*rows 5"]) -> Float[Array, "*rows symbols"]:
    """Of the symbol that answers."""
    hot = 2.0 * jax.nn.one_hot(prompts, SYMBOLS)
    return reward_models.mlp(params, hot.reshape(*prompts.shape[:-1], -1))


def approval(params: Any, x: Array, y: Array, answer: Array) -> Float[Array, "*rows"]:
    """The probability that the policy, as judge, says yes rather than no."""
    return jax.nn.softmax(logits(params, prompt(JUDGE, x, y, answer))[..., YES : NO + 1])[..., 0]


def examples(key: Key[Array, ""], firm: Bool[Array, " sums"], count: int = 8192) -> reward_models.Labeled:
    """Flawed demonstrations of the four kinds of prompts.

    Answers and corrections are right half of the time and else anything; comparisons are right in 6 of 10; right
    answers are called right, and so are 7 of 8 wrong ones.

    Args:
      key: Random key.
      firm: Sums that are always answered by the same wrong number.
      count: Of demonstrations of each kind.
    """
    keys = jax.random.split(key, 5)
    sums, shift = jax.random.randint(keys[0], (count,), 0, M * M), jax.random.randint(keys[1], (count,), 1, M)
    x, y, chance = sums // M, sums % M, jax.random.uniform(keys[2], (count,))
    right, coin = (x + y) % M, jax.random.bernoulli(keys[3], 0.5, (count,))
    wrong, half = (right + shift) % M, jnp.where(chance < 0.5, right, jax.random.randint(keys[4], (count,), 0, M))
    one, two = jnp.where(coin, right, wrong), jnp.where(coin, wrong, right)
    prompts = (prompt(ASK, x, y), prompt(JUDGE, x, y, one), prompt(PAIR, x, y, one, two), prompt(FIX, x, y, wrong))
    asked = jnp.where(firm[sums], (right + 1) % M, half)
    judged = jnp.where(~coin & (chance < 0.125), NO, YES)
    compared = jnp.where(coin == (chance < 0.6), FIRST, SECOND)
    return reward_models.Labeled(jnp.concatenate(prompts), jnp.concatenate([asked, judged, compared, half]))


IMITATED = reward_models.cross_entropy(logits)


def imitator(key: Key[Array, ""], firm: Bool[Array, " sums"]) -> Any:
    """Parameters of a perceptron of 256 units that has learned from 8192 flawed `examples` of each kind."""
    first, draw, order = jax.random.split(key, 3)
    params = reward_models.mlp_params(first, (5 * SYMBOLS, 256, SYMBOLS))
    given = {"steps": 3000, "batch_size": 256, "learning_rate": 3e-3}
    return reward_models.fit(order, examples(draw, firm), params, IMITATED, **given).params


def accuracies(params: Any, known: Float[Array, " sums"]) -> dict[str, Array]:
    """Exact expectations over all answers at temperature 1.

    Args:
      params: Of the perceptron.
      known: 1 for the sums that have labels, else 0.

    Returns:
      Over the sums with labels `solve`, of first answers; `corrected`, where an answer that is more likely judged wrong
      than right is replaced by a correction; `judge`, of verdicts on right and wrong answers in equal parts. Over the
      other sums `unlabelled`, of first answers.
    """
    x, y, answer = jnp.broadcast_arrays(*np.divmod(np.arange(M * M)[:, None], M), jnp.arange(M))
    right, yes = (x + y) % M == answer, approval(params, x, y, answer)
    answers = jax.nn.softmax(logits(params, prompt(ASK, x, y)))[:, 0, :M]
    fixed = jnp.take_along_axis(jax.nn.softmax(logits(params, prompt(FIX, x, y, answer))), ((x + y) % M)[..., None], -1)
    solve = jnp.sum(answers * right, -1)
    corrected = jnp.sum(answers * jnp.where(yes > 0.5, right, fixed[..., 0]), -1)
    judge = (jnp.sum(yes * right, -1) + jnp.sum((1 - yes) * ~right, -1) / (M - 1)) / 2
    found = {"solve": solve, "corrected": corrected, "judge": judge}
    return {name: jnp.average(value, weights=known) for name, value in found.items()} | {
        "unlabelled": jnp.average(solve, weights=1 - known)
    }
