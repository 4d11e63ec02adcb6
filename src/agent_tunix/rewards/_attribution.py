"""Rewards of completions taken apart into what their tokens contribute."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from agent_tunix.rewards._shaping import entries
from agent_tunix.types import Rollouts, Score, Shaping


def attributed(*, alpha: float = 1.0, rate: float = 1.0, size: int = 1024) -> Shaping:
    r"""Rewards of tokens by a table that learns to write the value of a completion as a sum over its tokens.

    .. math:: r_t = \alpha\, c(y_t) + 1[t = T] \Big( R - \alpha \sum_s c(y_s) \Big)

    The rest, what the sum lacks, lies on the last token, so that `per_token` adds up to the value whatever was learned.
    After a batch is credited the table moves towards smaller squared differences of sums and values, on average over
    the batch. With `advantages.reward_to_go` a token is credited with what it and those behind it contribute. Tokens
    outside of the mask, such as observations of `conversations.sampler`, have no part in it.

    Args:
      alpha: Weight of contributions; 0 leaves all of the value on the last token.
      rate: Step of the table, in [0, 2), as a share of the largest that is sure not to diverge being 2.
      size: Entries of the table; ids of tokens are taken modulo that.

    Returns:
      A shaping that sets `per_token` and remembers the table, float32 `[size]`; 0 where the score is not valid.

    Raises:
      ValueError: A rate or a size out of range.

    References:
      Wang et al., 2025, SPA-RL, arXiv:2505.20732, whose estimator is a language model with a linear head over steps;
      the table, fitting it while training, and the rest on the last token are ours.
    """
    if not 0 <= rate < 2 or size < 1:
        raise ValueError(f"attributed got rate={rate}, size={size}; give a rate in [0, 2) and at least one entry")

    def update(score: Score, table: Array, rollouts: Rollouts) -> tuple[Score, Array]:
        value, valid = entries(score)
        mask = jnp.asarray(rollouts.completion_mask) & valid[..., None]
        places = jnp.asarray(rollouts.completion_ids) % size
        parts = jnp.where(mask, table[places], 0.0)
        last = mask & (jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1] == 1)
        rest = (value - alpha * parts.sum(-1))[..., None]
        error = (value - parts.sum(-1))[..., None] * mask
        step = rate * error / jnp.maximum(jnp.sum(jnp.square(mask.sum(-1))), 1)
        given = alpha * parts + jnp.where(last, rest, 0.0)
        return dataclasses.replace(score, value=value, per_token=given), table.at[places].add(step)

    def init() -> Any:
        return jnp.zeros(size, jnp.float32)

    return Shaping(init, update)
