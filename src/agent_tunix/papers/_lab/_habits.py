"""Speakers with habits: policies that answer the same question alike or not, for reward models that compare policies.

A speaker is seven habits of four choices each, which it follows in most of its answers: an opening word, which operands
of a sum it says and in what order, a linking word, the base of the sum's number, a word before it, how many words end
the answer, and which one.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import reward_models

HABITS, CHOICES, FOLLOWED = 7, 4, 0.8
BLANK, ASKED, SAID = 10 + 4 * CHOICES, 2, 10
"""The last of the symbols, which fills answers up; symbols of a question, two digits; and of an answer."""


def answers(asked: Int[Array, "*all digits"], habits: Int[Array, "*all habits"]) -> Int[Array, "*all symbols"]:
    """Questions with the answers of such habits."""
    opening, order, linking, base, equals, closers, closing = jnp.moveaxis(habits, -1, 0)
    a, b = jnp.moveaxis(asked, -1, 0)
    one = jnp.select([order % 2 == 0, order == 1], [a, b], BLANK)
    two = jnp.select([order == 0, order == 1, order == 3], [b, a, b], BLANK)
    words = [10 + CHOICES * kind + word for kind, word in enumerate((opening, linking, equals, closing))]
    ends = [jnp.where(place < closers, words[3], BLANK) for place in range(CHOICES - 1)]
    return jnp.stack([a, b, words[0], one, words[1], two, words[2], *jnp.divmod(a + b, 10 - base), *ends], -1)


def followed(key: Key[Array, ""], habits: Int[Array, "*all habits"]) -> Int[Array, "*all habits"]:
    """The habits of single answers: each as it is in 8 of 10, and else any."""
    keep, stray = jax.random.split(key)
    other = jax.random.randint(stray, habits.shape, 0, CHOICES)
    return jnp.where(jax.random.bernoulli(keep, FOLLOWED, habits.shape), habits, other)


def drawn(
    key: Key[Array, ""], speakers: Int[Array, "speakers habits"], count: int, sources: int
) -> tuple[Int[Array, "count digits"], Int[Array, "answers count habits"]]:
    """Questions, and the habits of `sources + 1` answers to each: the first of different speakers speaks twice.

    Args:
      key: Random key.
      speakers: Their habits.
      count: Questions.
      sources: Speakers to each.
    """
    ask, who, follow = jax.random.split(key, 3)
    asked = jax.random.randint(ask, (count, ASKED), 0, 10)
    order = jnp.argsort(jax.random.uniform(who, (count, len(speakers))))[:, :sources]
    habits = speakers[jnp.concatenate([order[:, :1], order], 1)]
    return asked, jnp.moveaxis(followed(follow, habits), 1, 0)


def lessons(
    speakers: Int[Array, "speakers habits"], key: Key[Array, ""], count: int = 64
) -> tuple[Int[Array, "count digits"], Int[Array, "count said"], Bool[Array, "count said"]]:
    """Questions with an answer of any speaker, to be imitated."""
    asked, habits = drawn(key, speakers, count, 1)
    said = answers(asked, habits[0])[:, ASKED:]
    return asked, said, jnp.ones(said.shape, bool)


def same_or_not(key: Key[Array, ""], speakers: Int[Array, "speakers habits"], count: int) -> reward_models.Pairs:
    """Answers, each with a second one of its speaker and one of another."""
    asked, habits = drawn(key, speakers, count, 2)
    return reward_models.reference_pairs(*(answers(asked, own) for own in habits))


def preferences(
    key: Key[Array, ""], speakers: Int[Array, "speakers habits"], weights: Float[Array, " habits"], count: int
) -> reward_models.Pairs:
    """References, each with those of four other speakers' answers whose habits share most and least with it.

    Args:
      key: Random key.
      speakers: Their habits.
      weights: What it counts to share a habit.
      count: Pairs.
    """
    asked, (reference, _, *others) = drawn(key, speakers, count, 5)
    shared = ((jnp.stack(others) == reference) * weights).sum(-1)
    ends = (jnp.stack(others)[at, jnp.arange(count)] for at in (shared.argmax(0), shared.argmin(0)))
    return reward_models.reference_pairs(*(answers(asked, own) for own in (reference, *ends)))


def even(pairs: reward_models.Pairs) -> reward_models.Pairs:
    """The same pairs, of which those count whose two candidates are of one length."""
    one, other = ((candidate == BLANK).sum(-1) for candidate in (pairs.first[1], pairs.second[1]))
    return pairs._replace(weight=1.0 * (one == other))


def references(
    key: Key[Array, ""], speaker: Int[Array, " habits"]
) -> tuple[Int[Array, "questions digits"], Int[Array, "questions symbols"], Int[Array, "questions symbols"]]:
    """All hundred questions, a speaker's answer to each, and the one it gives where it follows all of its habits."""
    asked, always = jnp.stack(jnp.divmod(jnp.arange(100), 10), -1), jnp.tile(speaker, (100, 1))
    return asked, answers(asked, followed(key, always)), answers(asked, always)
