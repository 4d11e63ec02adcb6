"""How good a reward model is: accuracy on pairs, area under the curve, calibration."""

from typing import Any

import jax.numpy as jnp
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float

from agent_tunix.reward_models._objectives import weighted_mean


def pair_accuracy(
    first: Float[Any, " pairs"],
    second: Float[Any, " pairs"],
    preference: Float[Any, " pairs"] | None = None,
    weight: Float[Any, " pairs"] | None = None,
) -> Float[Array, ""]:
    """Share of pairs whose better one has the higher score; equal scores are wrong, and pairs without a better one out.

    Args:
      first: Scores.
      second: Scores of what they are compared with.
      preference: As in `Pairs`; pairs at 0.5 are left out.
      weight: As in `Pairs`.

    Returns:
      In [0, 1]; 0 if no pair is left.
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    sign = jnp.ones_like(first) if preference is None else jnp.sign(jnp.asarray(preference, first.dtype) - 0.5)
    decided = jnp.abs(sign) if weight is None else jnp.abs(sign) * weight
    return weighted_mean(((first - second) * sign > 0).astype(first.dtype), decided)


def auc(scores: Float[Any, " examples"], labels: Any) -> Float[Array, ""]:
    """Area under the ROC curve: the chance that a positive scores above a negative, equal scores counting half.

    Args:
      scores: Of any scale.
      labels: True or 1 for positives.

    Returns:
      In [0, 1]; 0.5 is chance. NaN where one class is empty.
    """
    positive = jnp.asarray(labels, bool)
    above, below = positive.sum(), (~positive).sum()
    ranks = jnp.sum(jnp.where(positive, rankdata(scores), 0.0))
    return (ranks - above * (above + 1) / 2) / (above * below)


def calibration_error(probabilities: Float[Any, " examples"], labels: Any, *, bins: int = 10) -> Float[Array, ""]:
    """Mean distance between the predicted probability and the observed frequency, over bins of equal width.

    Args:
      probabilities: Predicted, in [0, 1]; for pairs the logistic function of the difference of scores.
      labels: What happened, 0 or 1.
      bins: Number of bins of [0, 1]; empty ones do not count.

    Returns:
      The expected calibration error, in [0, 1].

    References:
      Guo et al., 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, section 2.
    """
    probabilities = jnp.asarray(probabilities)
    index = jnp.clip((probabilities * bins).astype(int), 0, bins - 1)
    gaps = jnp.zeros(bins).at[index].add(jnp.asarray(labels, probabilities.dtype) - probabilities)
    return jnp.sum(jnp.abs(gaps)) / probabilities.size
