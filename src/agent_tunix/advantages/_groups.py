"""Estimators of one group."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from agent_tunix.advantages import _masked as masked


def centered(rewards: Float[Array, " group"], valid: Bool[Array, " group"]) -> Float[Array, " group"]:
    r"""Subtracts the mean of the group, the Dr.GRPO advantage.

    .. math:: A_i = r_i - \bar r

    Args:
      rewards: One scalar per completion of the same prompt. Any scale.
      valid: False where no reward could be given.

    Returns:
      Advantages in reward units; they sum to 0.

    Examples:
      >>> centered(jnp.array([1.0, 0.0, 0.5, 0.0]), jnp.full(4, True))
      Array([ 0.625, -0.375,  0.125, -0.375], dtype=float32)

    References:
      Liu et al., 2025, Understanding R1-Zero-Like Training, arXiv:2503.20783.
    """
    return masked.centred(rewards, valid)


def group_normalized(
    rewards: Float[Array, " group"], valid: Bool[Array, " group"], *, ddof: int = 1, eps: float = 1e-6
) -> Float[Array, " group"]:
    r"""Standardizes rewards within their group, the GRPO advantage.

    .. math:: A_i = \frac{r_i - \bar r}{s_r + \epsilon}

    Args:
      rewards: One scalar per completion of the same prompt. Any scale.
      valid: False where no reward could be given.
      ddof: 1 for the sample deviation (verl, TRL, Tunix, OpenRLHF), 0 for the population's (open-instruct, EasyDeL).
      eps: Added to the deviation, in reward units.

    Returns:
      Advantages, unitless.

    Examples:
      >>> group_normalized(jnp.array([1.0, 0.0]), jnp.array([True, True])).round(3)
      Array([ 0.707, -0.707], dtype=float32)

    References:
      Shao et al., 2024, DeepSeekMath, section 4.1.2, arXiv:2402.03300. The paper leaves ddof and flat groups open; both
      are choices of ours.
    """
    return masked.quotient(masked.centred(rewards, valid), masked.deviation(rewards, valid, ddof) + eps)


def leave_one_out(rewards: Float[Array, " group"], valid: Bool[Array, " group"]) -> Float[Array, " group"]:
    r"""Subtracts the mean of the others, the RLOO advantage.

    .. math:: A_i = r_i - \frac{1}{n-1} \sum_{j \ne i} r_j = \frac{n}{n-1} (r_i - \bar r)

    Unlike the mean of the whole group, this baseline does not depend on the completion it is subtracted from, so the
    policy gradient stays unbiased.

    Args:
      rewards: One scalar per completion of the same prompt. Any scale.
      valid: False where no reward could be given; n counts the valid ones.

    Returns:
      Advantages in reward units; they sum to 0.

    Examples:
      >>> leave_one_out(jnp.array([1.0, 0.0]), jnp.array([True, True]))
      Array([ 1., -1.], dtype=float32)

    References:
      Ahmadian et al., 2024, Back to Basics, arXiv:2402.14740.
    """
    count = jnp.sum(valid)
    return masked.centred(rewards, valid) * (count / jnp.maximum(count - 1, 1))


def leave_one_out_normalized(
    rewards: Float[Array, " group"], valid: Bool[Array, " group"], *, eps: float = 1e-6
) -> Float[Array, " group"]:
    r"""Subtracts the mean of the others and divides by their deviation, NeMo-RL's default.

    .. math:: A_i = \frac{r_i - \bar r_{-i}}{s_{-i} + \epsilon}

    where :math:`s_{-i}` (ddof = 1) is not 0, and the numerator alone where it is. The others' deviation is 0 when all
    but one reward are equal, which is common with rewards of 0 and 1; computed in float32 in the usual way it comes out
    as a rounding residue instead, and an advantage of thousands follows (3692 for one 0.95 among seven 0.35). Here each
    set of others is measured from its own least reward, which makes their deviation exactly 0. Others that really
    differ, however little, do give large advantages: that is the estimator.

    Args:
      rewards: One scalar per completion of the same prompt. Any scale.
      valid: False where no reward could be given.
      eps: Added to the deviation, in reward units.

    Returns:
      Advantages, unitless where the others differ and in reward units where they are equal.

    Examples:
      >>> leave_one_out_normalized(jnp.array([1.0, 0.0, 0.5, 0.0]), jnp.full(4, True)).round(3)
      Array([ 2.887, -1.   ,  0.289, -1.   ], dtype=float32)

    References:
      NVIDIA NeMo-RL, `advantage_estimator.py` (`GRPOAdvantageEstimator`), its default.
    """
    others = valid & ~jnp.eye(rewards.shape[0], dtype=bool)
    deviation = jax.vmap(lambda members: masked.deviation(rewards, members, 1))(others)
    return masked.quotient(leave_one_out(rewards, valid), jnp.where(deviation > 0, deviation + eps, 1.0))


def mean_normalized(
    rewards: Float[Array, " group"], valid: Bool[Array, " group"], *, eps: float = 1e-6
) -> Float[Array, " group"]:
    r"""Subtracts the mean of the group and divides by the mean magnitude, the MaxRL advantage.

    .. math:: A_i = \frac{r_i - \bar r}{\overline{|r|} + \epsilon}

    For rewards of 0 and 1 the divisor is the success rate, which weighs a prompt as maximum likelihood would. The paper
    divides by the mean, the same for rewards that are not negative; the mean of magnitudes goes on to work for others,
    where a negative mean would turn every sign around.

    Args:
      rewards: One scalar per completion of the same prompt, meant to be at least 0.
      valid: False where no reward could be given.
      eps: Added to the mean magnitude, in reward units.

    Returns:
      Advantages, unitless.

    Examples:
      >>> mean_normalized(jnp.array([1.0, 0.0, 0.0, 0.0]), jnp.full(4, True), eps=0.0)
      Array([ 3., -1., -1., -1.], dtype=float32)

    References:
      Tajwar et al., 2026, Maximum Likelihood Reinforcement Learning, arXiv:2602.02710.
    """
    return masked.quotient(masked.centred(rewards, valid), masked.mean(jnp.abs(rewards), valid) + eps)


@functools.cache
def _best_of_others(group: int, k: int) -> np.ndarray:
    """`[n, below]`: chance that, of the n - 1 others, k - 1 are drawn whose best is one with `below` others under it.

    In exact integers: the binomials of a group of 64 are beyond what float32 logarithms resolve.
    """
    table = np.zeros((group + 1, group))
    for n in range(2, group + 1):
        drawn = min(k, n) - 1
        for below in range(n - 1):
            table[n, below] = math.comb(below, drawn - 1) / math.comb(n - 1, drawn)
    return table


def pass_at_k(
    rewards: Float[Array, " group"],
    valid: Bool[Array, " group"],
    *,
    k: int = 4,
    normalized: bool = False,
    eps: float = 1e-6,
) -> Float[Array, " group"]:
    r"""What each completion adds to the best of k, the unbiased pass@k advantage.

    .. math:: A_i = \operatorname*{mean}_{S \ni i,\ |S| = k}
       \Big[ \max_{j \in S} r_j - \max_{j \in S \setminus i} r_j \Big]

    over all subsets of k valid completions, in closed form. The baseline is the best of the other k - 1, which does not
    depend on completion i: with a loss that averages over the group, the gradient is an unbiased estimate of that of
    :math:`\tfrac1k E[\max]`. Credit is never negative; completions that were never the best of any subset get 0.

    With k equal to the group size only the best completion is credited, by its lead over the second; with
    `normalized=True` this is verl's `grpo_passk`.

    Args:
      rewards: One scalar per completion of the same prompt. Any scale.
      valid: False where no reward could be given.
      k: Size of the subsets, at least 2 (with 1, the plain expected reward, use `leave_one_out`). Where fewer
        completions are valid, their number.
      normalized: Whether to divide by the sample deviation of the group.
      eps: Added to that deviation, in reward units.

    Returns:
      Advantages in reward units, or unitless if normalized.

    Raises:
      ValueError: If k is below 2.

    Examples:
      >>> pass_at_k(jnp.array([1.0, 0.0, 0.5, 0.0]), jnp.full(4, True), k=4)
      Array([0.5, 0. , 0. , 0. ], dtype=float32)

    References:
      Walder and Karkhanis, 2025, Pass@K Policy Optimization, arXiv:2505.15201, the leave-one-out-minus-one estimator,
      times n / k. Chen et al., 2025, Pass@k Training, arXiv:2508.10751, derive the related form that subtracts the mean
      over all subsets and divides by their deviation.
    """
    if k < 2:
        raise ValueError(f"pass_at_k got k={k}, which leaves no others to compare with; use leave_one_out for k=1")
    group = rewards.shape[0]
    pairs, known = valid[:, None] & valid, jnp.where(valid, rewards, 0.0)
    lead = jnp.where(pairs, known[:, None] - known, 0.0)
    # Ties are ordered by position; equal rewards share their sum of weights, so the order does not show.
    under = pairs & ((lead > 0) | ((lead == 0) & jnp.tri(group, k=-1, dtype=bool)))
    table = jnp.asarray(_best_of_others(group, k), rewards.dtype)
    weight = table[jnp.sum(valid), jnp.sum(under, axis=1)]
    credit = jnp.sum(jnp.maximum(lead, 0.0) * weight, axis=1)
    return masked.quotient(credit, masked.deviation(rewards, valid, 1) + eps) if normalized else credit


def rank(rewards: Float[Array, " group"], valid: Bool[Array, " group"]) -> Float[Array, " group"]:
    r"""Share of the others that a completion beats, less the share that beats it.

    .. math:: A_i = \frac{\#\{j : r_j < r_i\} - \#\{j : r_j > r_i\}}{n - 1}

    Only the order of the rewards matters, so one outlier cannot take the whole signal and any increasing transformation
    of the reward changes nothing.

    Args:
      rewards: One scalar per completion of the same prompt. Any scale.
      valid: False where no reward could be given; n counts the valid ones.

    Returns:
      Advantages in [-1, 1]; they sum to 0 and tied rewards share theirs.

    Examples:
      >>> rank(jnp.array([9.0, 0.0, 1.0]), jnp.full(3, True))
      Array([ 1., -1.,  0.], dtype=float32)

    References:
      The rank-based fitness shaping of Wierstra et al., 2014, Natural Evolution Strategies, with linear utilities.
    """
    pairs = valid[:, None] & valid
    wins = jnp.sum(pairs & (rewards[:, None] > rewards), axis=1)
    losses = jnp.sum(pairs & (rewards[:, None] < rewards), axis=1)
    return ((wins - losses) / jnp.maximum(jnp.sum(valid) - 1, 1)).astype(rewards.dtype)


def log_mean_gain(rewards: Float[Array, " group"], valid: Bool[Array, " group"]) -> Float[Array, " group"]:
    r"""What each completion adds to the logarithm of the mean of exponentials, the JEPO advantage.

    .. math:: A_i = \log \frac{1}{n} \sum_j e^{r_j} - \log \frac{1}{n-1} \sum_{j \ne i} e^{r_j}

    With the log-probabilities of a reference answer after several chains of thought as rewards, the first term bounds
    the log-probability of the answer after any of them more tightly than the mean of the logarithms does.

    Args:
      rewards: One scalar per completion of the same prompt, such as log-probabilities in nats. Any scale; a few hundred
        apart the least ones add nothing.
      valid: False where no reward could be given; n counts the valid ones.

    Returns:
      Advantages; at least log((n - 1) / n), and 0 for fewer than two valid completions.

    Examples:
      >>> credit = log_mean_gain(jnp.log(jnp.array([0.8, 0.2])), jnp.full(2, True))
      >>> [round(float(each), 2) for each in credit]
      [0.92, -0.47]

    References:
      Tang et al., 2025, Beyond Verifiable Rewards (JEPO), arXiv:2503.19618, as Kwiatkowski et al., 2026,
      arXiv:2602.03979, compare it.
    """
    # Measured from the greatest: those near it decide, and would lose digits above a far lower one.
    below, count = -masked.raised(-rewards, valid), jnp.sum(valid)
    others = valid & ~jnp.eye(rewards.shape[0], dtype=bool)
    tops = jnp.max(jnp.broadcast_to(below, others.shape), axis=1, where=others, initial=-jnp.inf)
    tops = jnp.where(count > 1, tops, 0.0)
    rest = jnp.sum(jnp.where(others, jnp.exp(below - tops[:, None]), 0.0), axis=1)
    # The whole over the rest is one plus the own share, which has digits left where the two logarithms have none.
    gain = jax.nn.softplus(below - tops - jnp.log(rest)) - jnp.log(count / (count - 1))
    return jnp.where(valid & jnp.any(below < 0), gain, 0.0)


def discriminative(
    rewards: Float[Array, " group"],
    valid: Bool[Array, " group"],
    scores: Float[Array, " group"],
    preference: Float[Array, " group"] | None = None,
    *,
    temperature: Float[Array, ""] | float = 0.1,
    tau: float = 10.0,
    threshold: float = 0.5,
) -> Float[Array, " group"]:
    r"""Raises right completions, the preferred ones most, against the likeliest wrong ones: DRPO, and DisCO without
    preference.

    .. math:: A_i = n \cdot \begin{cases}
       e^{p_i / \lambda} / \sum_{j \in S^+} e^{p_j / \lambda} & i \in S^+ \\
       -e^{s_i / \tau} / \sum_{j \in S^-} e^{s_j / \tau} & i \in S^-
       \end{cases}

    The two sides are weighed apart, so that no right completion is ever pushed down, however long or otherwise
    unwelcome; a penalty inside the reward does that as soon as it takes one below the mean of its group.

    With s the mean log-probability of a completion's tokens under the policy, a loss that averages over tokens and then
    over completions has the gradient of
    :math:`-\sum_{S^+} w_i s_i + \tau \log \sum_{S^-} e^{s_j / \tau}`, w the weights of the right ones. Taken under the
    policy that sampled, the weights of the wrong ones are exact in the first update of a batch, and lag in later ones.

    Args:
      rewards: What tells right from wrong.
      valid: False where no reward could be given; n counts the valid ones.
      scores: Score s, nats. Entries that are not valid may be anything.
      preference: What is preferred among right ones, p, such as one minus the share of the token budget; None prefers
        none.
      temperature: Of the preference, :math:`\lambda`, in its units; the smaller, the more only the best counts.
      tau: Of the scores, nats; the smaller, the more only the likeliest wrong completion counts.
      threshold: Least reward of a right completion.

    Returns:
      Advantages, unitless: those of right completions sum to n, those of wrong ones to -n. All 0 where there are no
      right ones, or no wrong ones.

    Examples:
      >>> rewards, length = jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.array([0.2, 0.8, 0.5, 0.5])
      >>> discriminative(rewards, rewards < 2, jnp.full(4, -0.7), 1 - length, temperature=0.3).round(2)
      Array([ 3.52,  0.48, -2.  , -2.  ], dtype=float32)

    References:
      DRPO, 2025, arXiv:2510.04474, with its divergence constraint left out, which is 0 in the first update of a batch.
    """
    right, wrong = valid & (rewards >= threshold), valid & (rewards < threshold)
    wanted = jnp.zeros_like(scores) if preference is None else preference
    credit = _shares(wanted / temperature, right) - _shares(scores / tau, wrong)
    return jnp.where(jnp.any(right) & jnp.any(wrong), jnp.sum(valid) * credit, 0.0)


def _shares(logits: Array, members: Array) -> Array:
    """Softmax over some entries; 0 elsewhere, and everywhere if there are none."""
    above = jnp.where(members, logits, -jnp.inf)
    shares = jnp.exp(above - jnp.where(jnp.any(members), jnp.max(above), 0.0))
    return masked.quotient(shares, jnp.sum(shares))
