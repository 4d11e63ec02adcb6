"""Charges for length where prompts are solved, and only there."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from agent_tunix import advantages
from agent_tunix.rewards._combining import finite
from agent_tunix.rewards._shaping import entries
from agent_tunix.types import Rollouts, Score, Shaping


def concise_where_solved(
    fraction: float = 0.2,
    strength: float = 0.2,
    *,
    part: str | None = None,
    threshold: float = 0.5,
    seed: int = 0,
) -> Shaping:
    r"""Charges right completions for their length, in those groups of the batch that are solved best.

    .. math:: r'_i = r_i - \alpha\, \sigma\left(\frac{L_i - \bar L}{s_L}\right)

    with mean and standard deviation (ddof = 0) of the lengths of the right completions to the same prompt, and
    :math:`\sigma` the logistic function: the charge of `concise`, which falls on every group. Here it falls on the
    :math:`\lceil \lambda B \rceil` of B groups with the greatest share of right completions, where brevity can be asked
    for; prompts that are still being learned are left alone. Wrong completions are never charged. Groups that are
    solved equally often are chosen among by lot, which depends on the seed and the number of the batch.

    Args:
      fraction: :math:`\lambda`, of the groups, in [0, 1]; 1 charges all.
      strength: :math:`\alpha`, the greatest charge, in reward units, below what a right completion gets.
      part: Part of the score that says which completions are right, such as `correctness`; the score itself without.
      threshold: Least value of it that counts as right.
      seed: Of the lots.

    Returns:
      A shaping whose state is the number of batches seen.

    Raises:
      ValueError: A fraction outside of [0, 1], or a negative strength; in the update: no such part.

    References:
      Dai, Liu and Si, 2025, Stable Reinforcement Learning for Efficient Reasoning (arXiv 2505.18086), with the charge
      of Arora and Zanette, 2025 (arXiv 2502.04463). Breaking ties by lot is ours.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"concise_where_solved got fraction={fraction}; give a fraction in [0, 1]")
    alpha = finite("strength of concise_where_solved", strength)
    if alpha < 0:
        raise ValueError(f"concise_where_solved got strength={strength}; give a number of at least 0")

    def update(score: Score, state: Array, rollouts: Rollouts) -> tuple[Score, Array]:
        value, valid = entries(score)
        right = valid & (_judged(score, part, value) >= threshold)
        share = jnp.where(valid.any(-1), right.sum(-1) / jnp.maximum(valid.sum(-1), 1), -1)
        lots = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), state), share.shape)
        rank = jnp.argsort(jnp.lexsort((lots, -share)))
        chosen = rank < math.ceil(fraction * len(share) - 1e-9)
        charge = alpha * jax.nn.sigmoid(_standardized(jnp.asarray(rollouts.lengths, jnp.float32), right))
        charged = jnp.where(right & chosen[:, None], value - charge, value)
        return dataclasses.replace(score, value=charged), state + 1

    return Shaping(init=lambda: jnp.zeros((), jnp.int32), update=update)


_standardized = jax.vmap(functools.partial(advantages.group_normalized, ddof=0, eps=0.0))


def _judged(score: Score, part: str | None, value: Array) -> Array:
    if part is None:
        return value
    if part not in score.parts:
        raise ValueError(
            f"concise_where_solved names the part `{part}`, but the score has the parts {sorted(score.parts)}"
        )
    return jnp.asarray(score.parts[part])
