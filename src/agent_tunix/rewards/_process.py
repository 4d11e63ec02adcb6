"""Rewards of a process reward model, which scores the steps of a completion, made fit to be added to its outcome."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agent_tunix.rewards._combining import finite
from agent_tunix.rewards._shaping import entries, token_rewards
from agent_tunix.types import Rollouts, Score, Shaping


def process_reward(
    scores: Callable[[Rollouts], Float[Any, "prompts group tokens"]],
    *changes: Callable[[Array], Array],
    weight: float,
) -> Shaping:
    r"""Adds scores of steps to the rewards of tokens, each at the last token of its step.

    .. math:: r'_t = r_t + \alpha\, f(p)_t, \qquad r' = r + \alpha \sum_t f(p)_t

    Without a change of the scores a completion is paid for the number of its steps, and a policy learns to add steps
    that are easily right. `clip_steps` and `step_differences`, in this order, take that away.

    An advantage of whole completions sees the sum only; under `step_differences` that is the score of the first step.
    `agent_tunix.advantages.reward_to_go` sees the score of every step.

    Args:
      scores: How good the completion is after each step, usually in [0, 1], at the last token of the step; NaN at all
        other tokens. It is called inside the update with the rollouts, and what it says outside of the completion mask
        is ignored.
      *changes: Functions of the scores `[prompts group tokens]`, applied in turn; they keep NaN where it is.
      weight: :math:`\alpha`, in units of the reward per unit of a score.

    Returns:
      A stateless shaping that adds to `value` and sets `per_token`, which adds up to it where the score had no rewards
      per token or those did. Entries that are not valid get 0.

    Raises:
      ValueError: The weight is not finite, or, in the update, scores of another shape.

    Examples:
      >>> import numpy as np
      >>> shaping = process_reward(lambda rollouts: np.array([[[0.9, 0.5, 0.8]]]), step_differences, weight=1.0)

    References:
      Gao et al., 2024, On Designing Effective RL Reward at Training Time for LLM Reasoning (arXiv 2410.15115).
    """
    alpha = finite("the weight of process_reward", weight)

    def update(score: Score, state: Any, rollouts: Rollouts) -> tuple[Score, Any]:
        mask = jnp.asarray(rollouts.completion_mask)
        steps = jnp.where(mask, _scores(scores, rollouts), jnp.nan)
        for change in changes:
            steps = change(steps)
        value, valid = entries(score)
        added = alpha * jnp.where(jnp.isnan(steps) | ~valid[..., None], 0, steps)
        given = jnp.where(valid[..., None] & mask, token_rewards(score, mask), 0)
        return dataclasses.replace(score, value=value + added.sum(-1), per_token=given + added), state

    return Shaping(init=lambda: (), update=update)


def clip_steps(threshold: float) -> Callable[[Array], Array]:
    r"""Takes a threshold from scores of steps and keeps what is negative: :math:`\min(p_k - \eta, 0)`.

    Good steps are worth nothing then, bad ones cost: no number of steps earns anything.

    Args:
      threshold: :math:`\eta`, in units of the scores, which most steps should reach.

    Returns:
      A function of scores, for `process_reward`.

    Raises:
      ValueError: The threshold is not finite.

    Examples:
      >>> clip_steps(0.75)(jnp.array([0.25, jnp.nan, 1.0]))
      Array([-0.5,  nan,  0. ], dtype=float32)

    References:
      Gao et al., 2024, arXiv 2410.15115, the clip mechanism.
    """
    eta = finite("the threshold of clip_steps", threshold)
    return lambda steps: jnp.minimum(steps - eta, 0)


def step_differences(steps: Float[Array, "*axes tokens"]) -> Float[Array, "*axes tokens"]:
    r"""How far the score of each step lies above that of the next one.

    .. math:: p_k - p_{k+1} \;(k < K - 1), \qquad p_{K-1}, \qquad 0 \;(k = K)

    The sum from step k on is :math:`p_k`: the score becomes an estimate of what is to come, and any number of steps is
    worth no more than one. The last step states the answer, which the outcome judges, and gets nothing.

    Args:
      steps: Scores at the last token of each step, NaN at all other tokens.

    Returns:
      The differences at the same tokens, NaN at all others.

    Examples:
      >>> step_differences(jnp.array([0.75, jnp.nan, 0.5, 1.0]))
      Array([0.25,  nan, 0.5 , 0.  ], dtype=float32)

    References:
      Gao et al., 2024, arXiv 2410.15115, the delta mechanism.
    """
    count, is_step = steps.shape[-1], ~jnp.isnan(steps)
    places = jnp.where(is_step, jnp.arange(count), count)
    after = jnp.full((*steps.shape[:-1], 1), count)
    following = jnp.concatenate([jax.lax.cummin(places, axis=steps.ndim - 1, reverse=True)[..., 1:], after], -1)
    kept = jnp.where(is_step & (following < count), steps, 0)
    later = jnp.take_along_axis(jnp.concatenate([kept, jnp.zeros(after.shape)], -1), following, -1)
    return jnp.where(is_step, kept - later, jnp.nan)


def _scores(scores: Callable[[Rollouts], Any], rollouts: Rollouts) -> Array:
    found, wanted = jnp.asarray(scores(rollouts), jnp.float32), rollouts.completion_mask.shape
    if found.shape != wanted:
        raise ValueError(
            f"process_reward got scores of shape {found.shape} for completions of {wanted}; return one per token, NaN "
            "where no step ends"
        )
    return found
