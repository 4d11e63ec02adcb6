r"""Two rewards on a softmax over a few outcomes, where every expectation is a sum.

The reward is :math:`r = w \phi + \varphi`. Outcomes are the cases that matter: with two binary rewards the four of
`CASES`. Nothing is sampled unless a function says so, so questions such as "does :math:`\varphi` fall?" have exact
answers here, and a claim about training can be held against them (`agent_tunix.diagnostics.klasym`).

Arrays may have leading axes for many problems at once; the last axis is that of the outcomes.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

CASES = ("+u+v", "+u-v", "-u+v", "-u-v")
"""Both rewards given, only the first, only the second, none."""
PHI = np.array([1.0, 1.0, 0.0, 0.0])
VARPHI = np.array([1.0, 0.0, 1.0, 0.0])

Distribution = Float[np.ndarray, "... outcomes"]
Numbers = Float[np.ndarray, "..."]
Direction = Callable[[Distribution, Distribution], Distribution]
"""From a policy and its advantages to the change of its logits."""
Credit = Callable[[Float[np.ndarray, "runs group"]], Float[np.ndarray, "runs group"]]
"""From rewards of groups to advantages."""


def joint(p_phi: Numbers | float, p_varphi: Numbers | float, correlation: Numbers | float = 0.0) -> Distribution:
    """Probabilities of the four cases.

    Args:
      p_phi: Probability that the first reward is given.
      p_varphi: Probability that the second is.
      correlation: Of the two, 0 if they are independent.

    Raises:
      ValueError: If no distribution has this correlation.

    Examples:
      >>> joint(0.5, 0.8).round(3).tolist()
      [0.4, 0.1, 0.4, 0.1]
    """
    p, q, rho = np.broadcast_arrays(p_phi, p_varphi, correlation)
    extra = rho * np.sqrt(p * (1 - p) * q * (1 - q))
    cases = np.stack([p * q + extra, p * (1 - q) - extra, (1 - p) * q - extra, (1 - p) * (1 - q) + extra], -1)
    if cases.min() < 0:
        raise ValueError(f"no two events of probability {p_phi} and {p_varphi} have the correlation {correlation}")
    return cases


def softmax(logits: Distribution) -> Distribution:
    """Probabilities of logits."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def logit(p: Numbers | float) -> Numbers:
    """Log odds."""
    return np.log(p) - np.log1p(-np.asarray(p))


def mean(policy: Distribution, values: Distribution) -> Numbers:
    """Expectation of `values` under `policy`."""
    return (policy * values).sum(-1)


def covariance(policy: Distribution, first: Distribution, second: Distribution) -> Numbers:
    """Covariance of two values of an outcome.

    Examples:
      >>> float(covariance(joint(0.5, 0.5, -0.4), PHI, VARPHI).round(3))
      -0.1
    """
    return mean(policy, (first - mean(policy, first)[..., None]) * (second - mean(policy, second)[..., None]))


def weight_limit(policy: Distribution, phi: Distribution = PHI, varphi: Distribution = VARPHI) -> Numbers:
    r"""Weight of `phi` above which the natural gradient lowers `varphi`: infinite where no weight does.

    .. math:: w^* = -\mathrm{Var}(\varphi) / \mathrm{Cov}(\phi, \varphi)
    """
    together = covariance(policy, phi, varphi)
    alone = covariance(policy, varphi, varphi)
    return np.where(together < 0, alone / np.where(together < 0, -together, 1.0), np.inf)


def vanilla(policy: Distribution, advantages: Distribution) -> Distribution:
    """The policy gradient in the logits: a likely outcome moves more than a rare one of the same advantage."""
    return policy * advantages


def natural(policy: Distribution, advantages: Distribution) -> Distribution:
    """The natural policy gradient: as fast up the reward as the divergence of a step allows."""
    return advantages


def advantages(policy: Distribution, reward: Distribution) -> Distribution:
    """Reward less its expectation."""
    return reward - mean(policy, reward)[..., None]


def change(
    policy: Distribution,
    weight: float,
    direction: Direction,
    phi: Distribution = PHI,
    varphi: Distribution = VARPHI,
) -> Numbers:
    """Rate at which the expectation of `varphi` changes at the start of training on ``weight * phi + varphi``.

    Examples:
      >>> independent = joint(0.3, 0.8)
      >>> round(float(change(independent, 4.0, natural)), 3), round(float(change(independent, 4.0, vanilla)), 3)
      (0.16, -0.003)
    """
    return mean(policy, advantages(policy, varphi) * direction(policy, advantages(policy, weight * phi + varphi)))


def independent_change(p_phi: Numbers, p_varphi: Numbers, weight: float) -> Numbers:
    r"""What `change` with `vanilla` comes to for two independent binary rewards.

    .. math:: w\,a(p)\,a(q) + 2 q^2 (1-q)^2 (p^2 + (1-p)^2), \qquad a(p) = p (1-p) (2p-1)

    The first term is negative where one of the probabilities is below one half and the other above; there a large
    weight makes the second reward fall, although the two have nothing to do with each other.
    """

    def lopsided(p: Numbers) -> Numbers:
        return p * (1 - p) * (2 * p - 1)

    alone = 2 * (p_varphi * (1 - p_varphi)) ** 2 * (p_phi**2 + (1 - p_phi) ** 2)
    return weight * lopsided(p_phi) * lopsided(p_varphi) + alone


class Path(NamedTuple):
    """Expectations of both rewards over training, ``[steps ...]``; the first row is the start."""

    phi: Numbers
    varphi: Numbers


def ascend(
    policy: Distribution,
    weight: float,
    direction: Direction,
    *,
    steps: int,
    rate: float,
    phi: Distribution = PHI,
    varphi: Distribution = VARPHI,
) -> Path:
    """Trains with exact gradients, without sampling."""
    logits = np.log(policy)
    reward = weight * phi + varphi
    seen = []
    for _ in range(steps):
        policy = softmax(logits)
        seen.append((policy @ phi, policy @ varphi))
        logits = logits + rate * direction(policy, advantages(policy, reward))
    return Path(*map(np.array, zip(*seen, strict=True)))


class Quadrants(NamedTuple):
    """Shares of the four cases (order of `CASES`) among all outcomes and among those of positive advantage.

    `lift` is the second over the first: 1 for a case that is not more frequent there than anywhere.
    """

    everywhere: Distribution
    positive: Distribution
    lift: Distribution


def quadrants(policy: Distribution, weight: float) -> Quadrants:
    """The table of the four cases for one policy."""
    counted = policy * (advantages(policy, weight * PHI + VARPHI) > 0)
    positive = counted / counted.sum(-1, keepdims=True)
    return Quadrants(policy, positive, positive / policy)


def divergence(policy: Distribution, start: Distribution) -> Numbers:
    """Kullback-Leibler divergence of `policy` from `start`, in nats; 0 log 0 is 0."""
    ratio = np.log(np.where(policy > 0, policy, 1.0)) - np.log(np.where(policy > 0, start, 1.0))
    return (policy * ratio).sum(-1)


def coin_divergence(p: Numbers | float, start: Numbers | float) -> Numbers:
    """`divergence` between two coins.

    Examples:
      >>> float(coin_divergence(1.0, 0.5).round(4))
      0.6931
    """
    p, start = np.asarray(p, np.float64), np.asarray(start, np.float64)
    return divergence(np.stack([p, 1 - p], -1), np.stack([start, 1 - start], -1))


def first_crossing(values: Callable[[Numbers], Numbers], target: float, *, reach: float, looks: int = 400) -> float:
    """The least positive `s` up to `reach` at which ``values(s)`` passes `target`; NaN if it never does.

    Looks along the whole way before it closes in: a search that only halves an interval finds some crossing, not the
    first, where the values turn back.

    Examples:
      >>> round(first_crossing(lambda s: s * (3 - s), 2.0, reach=5.0), 6)
      1.0
      >>> first_crossing(lambda s: s * (3 - s), 3.0, reach=5.0)
      nan
    """
    ways = reach * np.linspace(0.0, 1.0, looks + 1) ** 2
    above = values(ways) >= target
    passed = np.flatnonzero(above[1:] != above[0])
    if not len(passed):
        return math.nan
    low, high = ways[passed[0]], ways[passed[0] + 1]
    for _ in range(60):
        middle = (low + high) / 2
        reached = bool(values(np.array([middle]))[0] >= target) != bool(above[0])
        low, high = (low, middle) if reached else (middle, high)
    return float(high)


def least_divergence(policy: Distribution, values: Distribution, amount: float) -> float:
    """The least divergence that changes the expectation of `values` by `amount`; NaN if no policy does.

    Of all policies with one expectation, the nearest is the start tilted by an exponential of the values (Csiszár,
    1975), so only the strength of the tilt is searched.
    """
    sign = math.copysign(1.0, amount)

    def tilted(strength: Numbers) -> Distribution:
        return softmax(np.log(policy) + sign * strength[:, None] * values)

    here = float(policy @ values)
    reach = 60.0 / max(float(values.max() - values.min()), 1e-12)
    strength = first_crossing(lambda s: sign * (tilted(s) @ values - here), abs(amount), reach=reach)
    return float(divergence(tilted(np.array([strength]))[0], policy)) if math.isfinite(strength) else math.nan


def skewness(policy: Distribution, values: Distribution) -> float:
    """Third standardised moment; for a coin ``(1 - 2p) / sqrt(p (1 - p))``."""
    centred = advantages(policy, values)
    return float(mean(policy, centred**3) / mean(policy, centred**2) ** 1.5)


def within_budget(p_phi: float, p_varphi: float, budget: float, weight: float) -> tuple[float, float]:
    """Both probabilities of the best policy for ``weight * phi + varphi`` within a divergence of `budget` nats.

    For independent binary rewards the best policy tilts each of them by itself, the first `weight` times as much.
    """

    def tilt(strength: Numbers) -> tuple[Numbers, Numbers]:
        return (
            1 / (1 + np.exp(-logit(p_phi) - weight * strength)),
            1 / (1 + np.exp(-logit(p_varphi) - strength)),
        )

    def spent(strength: Numbers) -> Numbers:
        phi, varphi = tilt(strength)
        return coin_divergence(phi, p_phi) + coin_divergence(varphi, p_varphi)

    phi, varphi = tilt(np.array([first_crossing(spent, budget, reach=30.0)]))
    return float(phi[0]), float(varphi[0])


def uphill_divergence(p_right: float, tokens: int, success: float) -> float:
    """Divergence that brings the success of a whole sequence to `success` along the gradient.

    The sequence succeeds if each of its independent tokens is right, each with probability `p_right`; the gradient
    moves all of them alike.
    """
    return tokens * float(coin_divergence(success ** (1 / tokens), p_right))


def random_changes(
    p_right: float, tokens: int, vocabulary: int, budget: float, *, directions: int, rng: np.random.Generator
) -> Float[np.ndarray, " directions"]:
    """Changes of a sequence's success along random directions of its logits, each as far as `budget` nats go.

    Wrong tokens start out equally likely.
    """
    start = np.full(vocabulary, (1 - p_right) / (vocabulary - 1))
    start[0] = p_right
    ways = rng.normal(size=(directions, tokens, vocabulary))
    low, high = np.zeros(directions), np.full(directions, 500.0)
    for _ in range(30):
        middle = (low + high) / 2
        moved = softmax(np.log(start) + middle[:, None, None] * ways)
        inside = divergence(moved, start).sum(-1) < budget
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.prod(softmax(np.log(start) + low[:, None, None] * ways)[..., 0], -1) - p_right**tokens


def random_fall_share(p_right: float, vocabulary: int, budget: float) -> float:
    r"""Share of random directions that lower a sequence's success, to second order and for many tokens.

    Along a direction the log of the success changes by a centred normal number less the divergence :math:`K` itself, so
    that the share is :math:`\Phi(\sqrt{K / 2c})`. The ratio c of the variance that moves the right token to the one
    that costs divergence does not depend on the length, and is small where the token is nearly always right.

    Examples:
      >>> round(random_fall_share(0.95, 50, 0.02), 3)
      0.732
    """
    wrong = (1 - p_right) ** 2
    ratio = wrong * vocabulary / (vocabulary - 1) / (1 - p_right**2 - wrong / (vocabulary - 1))
    return 0.5 * (1 + math.erf(math.sqrt(budget / 2 / ratio) / math.sqrt(2)))


def centred(rewards: Float[np.ndarray, "runs group"]) -> Float[np.ndarray, "runs group"]:
    """Rewards less the mean of their group."""
    return rewards - rewards.mean(-1, keepdims=True)


def standardised(rewards: Float[np.ndarray, "runs group"]) -> Float[np.ndarray, "runs group"]:
    """`centred` over the deviation of the group."""
    return centred(rewards) / (rewards.std(-1, keepdims=True) + 1e-4)


def only_positive(rewards: Float[np.ndarray, "runs group"]) -> Float[np.ndarray, "runs group"]:
    """`centred` where that is positive: what happens if only the good completions teach."""
    return np.maximum(centred(rewards), 0.0)


def sample_groups(
    policy: Distribution,
    weight: float,
    credit: Credit,
    *,
    group: int,
    steps: int,
    rate: float,
    runs: int,
    rng: np.random.Generator,
) -> Path:
    """Trains on sampled groups as GRPO does, and averages over `runs` independent runs."""
    logits = np.tile(np.log(policy), (runs, 1))
    reward = weight * PHI + VARPHI
    seen = []
    for _ in range(steps):
        now = softmax(logits)
        seen.append((float((now @ PHI).mean()), float((now @ VARPHI).mean())))
        drawn = (now.cumsum(-1)[:, None, :] < rng.random((runs, group, 1))).sum(-1).clip(0, len(policy) - 1)
        given = credit(reward[drawn])
        moved = (given[..., None] * (np.eye(len(policy))[drawn] - now[:, None, :])).mean(1)
        logits = logits + rate * moved
    return Path(*map(np.array, zip(*seen, strict=True)))


def noisy_skill(
    p_right: float,
    tokens: int,
    weight: float,
    *,
    rate: float,
    steps: int,
    runs: int,
    rng: np.random.Generator,
    p_phi: float = 0.3,
    group: int = 8,
) -> Float[np.ndarray, " steps"]:
    """Success of a sequence while an unrelated reward of some weight shakes its gradient.

    `phi` is a coin that the policy cannot influence: all it adds to the groups is noise.
    """
    logits = np.full((runs, tokens), float(logit(p_right)))
    seen = []
    for _ in range(steps):
        p = 1 / (1 + np.exp(-logits))
        seen.append(p.prod(-1).mean())
        right = (rng.random((runs, group, tokens)) < p[:, None, :]).astype(np.float64)
        given = centred(weight * (rng.random((runs, group)) < p_phi) + right.prod(-1))
        logits = logits + rate * (given[..., None] * (right - p[:, None, :])).mean(1)
    return np.array(seen)
