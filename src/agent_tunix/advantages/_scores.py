"""Estimators of a whole score, and refusing one that cannot be learned from."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agent_tunix.advantages import _masked as masked
from agent_tunix.advantages._groups import centered
from agent_tunix.types import Advantage, Outcome, Score


def reward_to_go(
    score: Score, *, gamma: float = 1.0
) -> Float[Array, "prompts group"] | Float[Array, "prompts group tokens"]:
    r"""Credits every token with the rewards from it on, above what its group got on average.

    .. math:: A_{i,t} = \sum_{s \ge t} \gamma^{s-t} r_{i,s} - \frac{1}{n} \sum_j \sum_s r_{j,s}

    With rewards per token whose sum over a completion is its value, such as those of
    `agent_tunix.rewards.potential_difference`, the baseline is the mean value of the group. Where the score has no
    rewards per token this is `centered`, for all tokens of a completion alike.

    Args:
      score: `per_token` may be None; its entries behind the end of a completion are 0.
      gamma: Discount per token, in [0, 1].

    Returns:
      Advantages in reward units, 0 where the score is not valid.

    References:
      Schulman et al., 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation, section 2,
      equation 1 with the choice of returns following an action and a baseline (arXiv:1506.02438).
    """
    value, valid = jnp.asarray(score.value), jnp.asarray(score.valid)
    if score.per_token is None:
        return jax.vmap(centered)(value, valid)
    per_token = jnp.asarray(score.per_token)
    baseline = jax.vmap(masked.mean)(value, valid)

    def before(later: Array, reward: Array) -> tuple[Array, Array]:
        returns = reward + gamma * later
        return returns, returns

    _, returns = jax.lax.scan(before, jnp.zeros(value.shape), jnp.moveaxis(per_token, -1, 0), reverse=True)
    advantages = jnp.moveaxis(returns, 0, -1) - baseline[:, None, None]
    return jnp.where(valid[..., None], advantages, 0.0)


def as_given(score: Score) -> Float[Array, "prompts group tokens"]:
    """Takes the rewards of tokens as their credit, for a shaping that has made credit of them already.

    Args:
      score: With `per_token`.

    Returns:
      `per_token`, 0 where the score is not valid.

    Raises:
      ValueError: If the score has no rewards of tokens.
    """
    if score.per_token is None:
        raise ValueError("as_given needs rewards per token, which this score lacks; add a shaping that sets them")
    return jnp.where(jnp.asarray(score.valid)[..., None], jnp.asarray(score.per_token), 0.0)


def per_score(estimator: Callable[..., Array], **arguments: Any) -> Advantage:
    """An estimator that sees the whole score, with its keyword arguments fixed now."""
    return functools.partial(estimator, **arguments)


def refuse_nan(score: Score) -> None:
    """Raises if a value that counts is NaN or infinite. Runs on the host, before anything is compiled.

    Parts are looked at first, since they name the culprit.

    Args:
      score: With arrays that are on the host or can be brought there.

    Raises:
      ValueError: If a part was graded and is not finite, or the reward is valid and is not finite.
    """
    for name, part in score.parts.items():
        if name in score.outcomes:
            _refuse(name, np.asarray(part), np.asarray(score.outcomes[name]) == Outcome.GRADED)
    _refuse("value", np.asarray(score.value), np.asarray(score.valid))
    if score.per_token is not None:
        finite = np.isfinite(np.asarray(score.per_token)).all(-1)
        _refuse("per_token", np.where(finite, 0.0, np.nan), np.asarray(score.valid))


def _refuse(name: str, values: np.ndarray, counts: np.ndarray) -> None:
    culprits = np.argwhere(counts & ~np.isfinite(values))
    if len(culprits):
        prompt, completion = culprits[0]
        raise ValueError(
            f"reward `{name}` returned {values[prompt, completion]} for prompt {prompt}, completion {completion}; "
            "return None to abstain"
        )
