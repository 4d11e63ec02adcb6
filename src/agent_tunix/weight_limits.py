r"""How large one component of a reward may weigh before another falls: moments within groups, and the limit.

For :math:`r = w_f f + w_g g` the natural gradient changes E[g] at the rate
:math:`w_f \mathrm{Cov}(f, g) + w_g \mathrm{Var}(g)`, so that g falls exactly if the covariance is negative and
:math:`w_f / w_g > w^* = -\mathrm{Var}(g) / \mathrm{Cov}(f, g)`. `agent_tunix.components` says where that comes from.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

TINY = 1e-6
"""Deviations below this share of a group's largest magnitude are rounding: scores are in single precision."""

LEAST_GROUPS = 3
"""With fewer groups no interval is told."""


class Products(NamedTuple):
    """What the moments of two components are made of, per group with two completions or more.

    Attributes:
      sums: Over completions, of the squared deviations of the first, of the second, and of their product.
      freedom: Completions less one.
    """

    sums: Float[np.ndarray, "groups 3"]
    freedom: Float[np.ndarray, " groups"]

    def swapped(self) -> "Products":
        """The same of the second component and the first."""
        return Products(self.sums[:, [1, 0, 2]], self.freedom)


class Moments(NamedTuple):
    """Pooled within-group moments of two components, in their units; nan where no group has two completions.

    Attributes:
      variance_first: Of the first.
      variance_second: Of the second.
      covariance: Unbiased, as the variances are.
      correlation: nan where either does not vary.
      groups: How many groups entered.
    """

    variance_first: float
    variance_second: float
    covariance: float
    correlation: float
    groups: int


class Limit(NamedTuple):
    """How large the weight of one component over that of another may be before the other falls.

    Attributes:
      value: The estimate; infinite where the covariance is not negative, nan where either component does not vary.
      low: Ratios below are safe with the given confidence; 0 if none is known to be, infinite if every one is.
      high: Ratios above lower the other component with the given confidence; infinite if none is known to.
    """

    value: float
    low: float
    high: float


def centred(
    values: Float[np.ndarray, "prompts group"], used: Bool[np.ndarray, "prompts group"]
) -> Float[np.ndarray, "prompts group"]:
    """Deviations from the mean of the group over the entries used, 0 elsewhere and where they are only rounding."""
    count = np.maximum(used.sum(-1, keepdims=True), 1)
    filled = np.where(used, values, 0.0)
    deviations = np.where(used, filled - filled.sum(-1, keepdims=True) / count, 0.0)
    scale = np.abs(filled).max(-1, keepdims=True, initial=0.0)
    return np.where(np.abs(deviations) > TINY * scale, deviations, 0.0)


def moments(
    first: Float[np.ndarray, "prompts group"],
    second: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
) -> Moments:
    """Pooled within-group variances, covariance and correlation over all groups with two completions or more.

    Groups in which one component is constant stay in: their covariance is 0, and leaving them out would overstate both
    what is gained and what is lost.

    Examples:
      >>> moments(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.ones((1, 2), bool))
      Moments(variance_first=0.5, variance_second=0.5, covariance=-0.5, correlation=-1.0, groups=1)
    """
    return moments_of(products(centred(first, used), centred(second, used), used))


def products(
    first: Float[np.ndarray, "prompts group"],
    second: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
) -> Products:
    """Products of two components, from their deviations as `centred` gives them for the same completions."""
    counts = used.sum(-1)
    sums = np.stack([(first * first).sum(-1), (second * second).sum(-1), (first * second).sum(-1)], -1)
    return Products(sums[counts > 1], counts[counts > 1] - 1)


def moments_of(found: Products) -> Moments:
    """Moments from products, for whoever needs the limit as well."""
    if not len(found.sums):
        return Moments(math.nan, math.nan, math.nan, math.nan, 0)
    a, b, covariance = (found.sums.sum(0) / found.freedom.sum()).tolist()
    scale = math.sqrt(a * b)
    return Moments(a, b, covariance, covariance / scale if scale > 0 else math.nan, len(found.sums))


def forecast(found: Moments, weight_first: float, weight_second: float) -> float:
    """First-order change of the second component's mean per unit step of the natural gradient of the weighted sum.

    Args:
      found: Moments of both, as `moments` gives them.
      weight_first: Of the first component in the reward.
      weight_second: Of the second.

    Returns:
      Squared units of the second component times its weight; its sign is what matters. nan where a weight is.

    Examples:
      >>> forecast(Moments(0.25, 0.25, -0.1, -0.4, 64), 4.0, 1.0)  # above the limit of 2.5
      -0.15000000000000002
    """
    return weight_first * found.covariance + weight_second * found.variance_second


def weight_limit(
    first: Float[np.ndarray, "prompts group"],
    second: Float[np.ndarray, "prompts group"],
    used: Bool[np.ndarray, "prompts group"],
    *,
    confidence: float = 0.95,
) -> Limit:
    r"""The weight of the first component over that of the second from which on the second falls, with an interval.

    .. math:: w^* = -\frac{\mathrm{Var}(g)}{\mathrm{Cov}(f, g)}

    The interval is Fieller's, over groups: the ratios w for which the mean over groups of
    :math:`\mathrm{Var}_p(g) + w\,\mathrm{Cov}_p(f, g)` is not distinguishable from zero. Unlike an error propagated
    through the quotient it stays right when the covariance is near zero, where it has no upper end.

    Args:
      first: The component that is pushed.
      second: The component that may fall.
      used: Completions for which both have a value.
      confidence: Of the interval, in (0, 1).

    Returns:
      The limit; for two non-negative weights.

    References:
      Fieller, 1954, Some Problems in Interval Estimation, JRSS B 16(2).

    Examples:
      >>> f = np.array([[1.0, 1.0, 0.0, 0.0]] * 8)
      >>> g = np.array([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 1.0, 1.0]] * 4)
      >>> weight_limit(f, g, np.ones((8, 4), bool))
      Limit(value=1.5, low=1.5, high=1.5)
    """
    return limit_of(products(centred(first, used), centred(second, used), used), confidence=confidence)


def limit_of(found: Products, *, confidence: float = 0.95) -> Limit:
    """The limit of the first component's weight from products, as `weight_limit` tells it."""
    sums, freedom = found
    if not len(sums) or not (sums[:, :2].sum(0) > 0).all():
        return Limit(math.nan, 0.0, math.inf)
    total = sums.sum(0)
    falls = bool(total[2] < -1e-12 * math.sqrt(total[0] * total[1]))  # anything nearer to zero is rounding
    limit = float(-total[1] / total[2]) if falls else math.inf
    if (sums[:, 1:3] != 0).any(-1).sum() < LEAST_GROUPS:
        return Limit(limit, 0.0, math.inf)
    gain, loss = (sums[:, column] / freedom.mean() for column in (1, 2))
    return Limit(limit, *_fieller(gain, loss, falls, student_quantile(0.5 + confidence / 2, len(sums) - 1)))


def _fieller(gain: np.ndarray, loss: np.ndarray, falls: bool, quantile: float) -> tuple[float, float]:
    """Ends of the ratios w >= 0 for which the mean of `gain + w loss` may be zero: roots of a quadratic in w.

    `gain` has a positive mean, that of `loss` is negative if it `falls`. A gain that may be zero itself leaves no ratio
    that is known to be safe.
    """
    spread = np.cov(np.stack([gain, loss])) * quantile**2 / len(gain)
    c, b, a = gain.mean() ** 2 - spread[0, 0], gain.mean() * loss.mean() - spread[0, 1], loss.mean() ** 2 - spread[1, 1]
    if a >= 0 and not falls:
        roots = []
    elif abs(a) <= 1e-14 * spread[1, 1]:
        roots = [-c / (2 * b)] if b else []
    else:
        # The estimate itself lies between the roots, so a negative discriminant is rounding.
        half = math.sqrt(max(b * b - a * c, 0.0))
        roots = [(-b - half) / a, (-b + half) / a]
    positive = [float(root) for root in roots if root > 0]
    low = 0.0 if c <= 0 else min(positive, default=math.inf)
    return low, max(positive, default=math.inf) if a > 0 else math.inf


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion around the normal one; within 1 % from two degrees of freedom on.

    References:
      Abramowitz and Stegun, 1964, Handbook of Mathematical Functions, 26.7.5.

    Examples:
      >>> round(student_quantile(0.975, 10), 3)
      2.228
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
