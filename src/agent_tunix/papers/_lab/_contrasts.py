"""Contrast instructions: which of three digits is asked for hangs on one word, and comparisons hardly show it.

An instruction is a word, 0 (first) or 1 (last), and three different digits; a response is a filler without meaning and
a digit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from agent_tunix import reward_models

DIGITS, FIRST, FILLERS, VARIANTS = 10, 2, 12, 5
SYMBOLS, LENGTH = FIRST + DIGITS + FILLERS, 6
EMBEDDING = np.random.default_rng(0).normal(size=(LENGTH, SYMBOLS, 8)).astype(np.float32)
"""Of each symbol at each place: random, so that fillers are alike by chance only."""


def instructions(key: Key[Array, ""], count: int) -> tuple[Int[Array, "count 4"], Int[Array, " count"]]:
    """Instructions, and to each a digit that it does not list."""
    digits = jnp.argsort(jax.random.uniform(key, (count, DIGITS))) + FIRST
    words = jax.random.bernoulli(jax.random.fold_in(key, 1), shape=(count, 1)).astype(int)
    return jnp.concatenate([words, digits[:, :3]], -1), digits[:, 3]


def answer(asked: Int[Array, "*all 4"]) -> Int[Array, "*all"]:
    """The digit that is asked for."""
    return jnp.where(asked[..., 0] == 0, asked[..., 1], asked[..., 3])


def other(asked: Int[Array, "*all 4"]) -> Int[Array, "*all 4"]:
    """The contrast instruction, with the other word."""
    return asked.at[..., 0].set(1 - asked[..., 0])


def respond(key: Key[Array, ""], asked: Int[Array, "*all 4"], digit: Int[Array, "*all"]) -> Int[Array, "*all symbols"]:
    """Instructions with responses of any filler and a digit."""
    fillers = jax.random.randint(key, digit.shape, FIRST + DIGITS, SYMBOLS)
    return jnp.concatenate([asked, jnp.stack([fillers, digit], -1)], -1)


def comparisons(key: Key[Array, ""], count: int, share: float) -> reward_models.Pairs:
    """Right responses and others: unlisted digits or, in a share of comparisons, contrasts.

    Half of the contrasts are the other instruction's answer to this one, half are the answer to the other instruction.
    """
    (asked, unlisted), (draw, one, two) = instructions(key, count), jax.random.split(key, 3)
    kind = jax.random.uniform(draw, (count,))
    moved, hard = kind < share / 2, kind < share
    digit = jnp.where(moved, answer(asked), jnp.where(hard, answer(other(asked)), unlisted))
    wrong = respond(one, jnp.where(moved[:, None], other(asked), asked), digit)
    return reward_models.Pairs(respond(two, asked, answer(asked)), wrong)


def augmented(
    rng: np.random.Generator, symbols: Int[np.ndarray, "rows symbols"], copies: int
) -> Int[np.ndarray, "..."]:
    """Copies of every row whose fillers are its own and, in turn, those that ConvexDA keeps of five others.

    Args:
      rng: Draws the five.
      symbols: Instructions with responses.
      copies: Of each row.

    Returns:
      `[rows * copies symbols]`.
    """
    drawn = np.argsort(rng.random((len(symbols), FILLERS)), -1)[:, :VARIANTS] + FIRST + DIGITS
    many = np.repeat(symbols, copies, 0)
    for row, fillers in enumerate(np.concatenate([symbols[:, 4:5], drawn], -1)):
        kept = reward_models.hull_vertices(EMBEDDING[4, fillers])
        many[row * copies : (row + 1) * copies, 4] = np.resize(fillers[kept | (np.arange(VARIANTS + 1) == 0)], copies)
    return many


def embedded(symbols: Int[Array, "rows symbols"]) -> Float[Array, "rows width"]:
    """Embeddings of instructions with responses, of length 1."""
    flat = jnp.asarray(EMBEDDING)[jnp.arange(LENGTH), symbols].reshape(len(symbols), -1)
    return flat / jnp.linalg.norm(flat, axis=-1, keepdims=True)
