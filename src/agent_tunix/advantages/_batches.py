"""Estimators of a whole batch."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.advantages import _masked as masked
from agent_tunix.advantages._groups import group_normalized


def batch_normalized(
    rewards: Float[Array, "prompts group"], valid: Bool[Array, "prompts group"], *, ddof: int = 1, eps: float = 1e-6
) -> Float[Array, "prompts group"]:
    r"""Subtracts the mean of the group and divides by the deviation of all rewards of the batch.

    .. math:: A_{pi} = \frac{r_{pi} - \bar r_p}{s_{\text{batch}} + \epsilon}

    Prompts on which rewards hardly differ keep their small advantages instead of being stretched to unit deviation.

    Args:
      rewards: One scalar per completion. Any scale.
      valid: False where no reward could be given.
      ddof: 1 for the sample deviation, 0 for the population's.
      eps: Added to the deviation, in reward units.

    Returns:
      Advantages, unitless; exactly 0 for flat groups, which do enter the deviation.

    References:
      Liu et al., 2025, Tricks or Traps?, arXiv:2508.08221; TRL's `scale_rewards="batch"` (eps 1e-4).
    """
    return masked.quotient(jax.vmap(masked.centred)(rewards, valid), masked.deviation(rewards, valid, ddof) + eps)


def reinforce_plus_plus_baseline(
    rewards: Float[Array, "prompts group"],
    valid: Bool[Array, "prompts group"],
    *,
    lengths: Int[Array, "prompts group"] | None = None,
    recentre: bool = False,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Array, "prompts group"]:
    r"""Subtracts the mean of the group, then divides by the deviation of these differences over the batch.

    .. math:: d_{pi} = r_{pi} - \bar r_p, \qquad A_{pi} = \frac{d_{pi}}{s_d + \epsilon}

    verl and OpenRLHF take mean and deviation of the differences over tokens, so that longer completions weigh more, and
    also subtract that mean. It is not 0 when lengths differ, and groups of equal rewards then get credit, which is
    hardly meant; `lengths` and `recentre=True` reproduce them. Without lengths the mean is 0 anyhow.

    Args:
      rewards: One scalar per completion. Any scale.
      valid: False where no reward could be given.
      lengths: Tokens of each completion as weights; None weighs completions equally.
      recentre: Whether to subtract the weighted mean of the batch. Flat groups then no longer get exactly 0.
      ddof: Subtracted from the number of tokens (or completions) in the variance: 1 in verl, 0 in OpenRLHF.
      eps: Added to the deviation, in reward units.

    Returns:
      Advantages, unitless.

    References:
      Hu et al., 2025, REINFORCE++, arXiv:2501.03262.
    """
    differences = jax.vmap(masked.centred)(rewards, valid)
    weights = jnp.where(valid, 1 if lengths is None else lengths, 0)
    total = jnp.sum(weights)
    mean = jnp.sum(weights * differences) / jnp.maximum(total, 1)
    variance = jnp.sum(weights * jnp.square(differences - mean)) / jnp.maximum(total - ddof, 1)
    return jnp.where(valid, masked.quotient(differences - mean * recentre, jnp.sqrt(variance) + eps), 0.0)


def decoupled(
    parts: Float[Array, "parts prompts group"],
    valid: Bool[Array, "parts prompts group"],
    weights: Float[Array, " parts"],
    *,
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Array, "prompts group"]:
    r"""Standardizes each part within its group, adds them with weights, and scales the sum over the batch: GDPO.

    .. math:: R_{pi} = \sum_k w_k \frac{r^k_{pi} - \bar r^k_p}{s^k_p + \epsilon}, \qquad
       A_{pi} = \frac{R_{pi}}{s_R + \epsilon}

    Parts keep their weight whatever their scale, and completions whose weighted sums coincide stay apart.

    A part that is missing for a completion expresses no preference: it adds 0, and its statistics are those of the
    completions that have it. The sign of the credit then is the sign of what the parts that are there say, each part
    sums to 0 over the group, and no mean of the batch has to be subtracted (the paper and TRL do, where it is 0 too).

    Args:
      parts: Raw rewards of each component. Any scale.
      valid: False where a component gave no value.
      weights: Of the standardized components; negative for penalties.
      ddof: 1 for sample deviations, 0 for the population's.
      eps: Added to every deviation.

    Returns:
      Advantages, unitless; 0 for a completion without any part, which does not enter the deviation of the batch.

    References:
      Liu et al., 2026, GDPO, arXiv:2601.05242; TRL's `multi_objective_aggregation="normalize_then_sum"` (eps 1e-4).
    """

    def weighted(eps: float) -> Array:
        standardize = functools.partial(group_normalized, ddof=ddof, eps=eps)
        return weights[:, None, None] * jax.vmap(jax.vmap(standardize))(parts, valid)

    # Opposed parts that cancel leave a residue of rounding and of eps, which a batch of such groups would blow up to
    # unit deviation; without eps it is rounding alone and can be told.
    exact = weighted(0.0)
    rounding = 32 * jnp.finfo(exact.dtype).eps * jnp.sum(jnp.abs(exact), axis=0)
    total = jnp.where(jnp.abs(jnp.sum(exact, axis=0)) > rounding, jnp.sum(weighted(eps), axis=0), 0.0)
    return masked.quotient(total, masked.deviation(total, jnp.any(valid, axis=0), ddof) + eps)
