"""How much each component of a reward contributes, to its mean and to what credit is made of."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from agent_tunix.components import centred, fitted_weights


class Contribution(NamedTuple):
    """One component's part in a reward.

    Attributes:
      weight: Of the component in the reward, by least squares; exact where the reward is a weighted sum.
      of_mean: Its share of the mean reward; shares add up to 1, and may be negative.
      of_advantage: Its share of the reward's variance within groups, which is all that group-relative credit sees.
    """

    weight: float
    of_mean: float
    of_advantage: float


class Contributions(NamedTuple):
    """All components of a reward.

    Attributes:
      parts: By name.
      explained: Share of the reward's variance that a weighted sum of the components explains; 1 for a weighted sum.
    """

    parts: dict[str, Contribution]
    explained: float


def contributions(
    value: Float[np.ndarray, "prompts group"],
    valid: Bool[np.ndarray, "prompts group"],
    parts: Mapping[str, Float[np.ndarray, "prompts group"]],
    *,
    counted: Bool[np.ndarray, "prompts group"] | None = None,
) -> Contributions:
    r"""Splits a reward into its components, whatever combination made it.

    Weights are fitted to the reward by least squares, with an intercept. With :math:`c_k = w_k r_k`, the share of
    component k in the advantage is :math:`\mathrm{cov}(c_k, r) / \mathrm{var}(r)`, both within groups, which adds up to
    1 for a weighted sum also where components are correlated.

    Args:
      value: The reward.
      valid: Entries that count; those where a component has no value are left out as well.
      parts: Raw components, NaN where there is none.
      counted: Entries whose shares are told; all by default. Weights are fitted to the others as well.

    Returns:
      The contribution of every component that has a value anywhere; nan where nothing can be said, for instance of the
      advantage when all groups are flat.
    """
    present = {name: np.asarray(part, np.float64) for name, part in parts.items() if not np.isnan(part).all()}
    used = np.asarray(valid) & ~np.isnan(np.stack(list(present.values()))).any(0) if present else np.zeros_like(valid)
    if not used.any():
        return Contributions({name: Contribution(math.nan, math.nan, math.nan) for name in present}, math.nan)
    total = np.asarray(value, np.float64)
    table = np.stack([part[used] for part in present.values()], -1)
    weights, explained = fitted_weights(table, total[used])
    used &= True if counted is None else counted
    within = centred(total, used)
    spread = float((within**2).sum())
    mean = float(total[used].mean()) if used.any() else math.nan
    return Contributions(
        {
            name: Contribution(
                float(weight),
                _ratio(float(weight * part[used].mean()), mean) if used.any() else math.nan,
                _ratio(float(weight * (centred(part, used) * within).sum()), spread),
            )
            for weight, (name, part) in zip(weights, present.items(), strict=True)
        },
        explained,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if abs(whole) > 1e-12 else math.nan
