"""From rewards to credit: how much better each completion was than its group.

A group-level estimator is a function of one group, `(rewards[group], valid[group]) -> advantages[group]`, and
`per_group` lifts it over prompts; a batch-level one sees `[prompts group]` and is lifted by `per_batch`.

All of them keep the same laws. Where `valid` is False the advantage is 0 and the reward may hold anything, NaN as well:
it is removed, not counted as 0. A group with one valid completion, or none, has nothing to compare and gets 0 (verl's
GRPO and RLOO give a lone completion its raw reward instead). A group of equal rewards gets exactly 0: rewards are
measured from the least of their group before anything is averaged, so that equal rewards become zeros and a mean leaves
no rounding for a small deviation to blow up (in float32, `(r - mean) / (std + 1e-6)` of seven rewards of 0.3 is 0.03).
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.types import Advantage, Outcome, Score

# --- Masked arithmetic ------------------------------------------------------------------------------------------------


def _raised(rewards: Array, valid: Array) -> Array:
    """Rewards above the least valid one; 0 where not valid."""
    low = jnp.where(jnp.any(valid), jnp.min(jnp.where(valid, rewards, jnp.inf)), 0.0)
    # Selected before subtracting, so that no NaN or infinity of an invalid entry is ever computed with.
    return jnp.where(valid, rewards, low) - low


def _mean(values: Array, valid: Array) -> Array:
    """Mean of the valid values; 0 if there are none."""
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def _centred(rewards: Array, valid: Array) -> Array:
    raised = _raised(rewards, valid)
    return jnp.where(valid, raised - _mean(raised, valid), 0.0)


def _deviation(rewards: Array, valid: Array, ddof: int) -> Array:
    """Standard deviation of the valid rewards; exactly 0 if they are equal or fewer than two."""
    squares = jnp.sum(jnp.square(_centred(rewards, valid)))
    return jnp.sqrt(squares / jnp.maximum(jnp.sum(valid) - ddof, 1))


def _quotient(numerator: Array, denominator: Array) -> Array:
    """The quotient, and the numerator itself where the denominator is 0."""
    return numerator / jnp.where(denominator > 0, denominator, 1.0)


# --- Estimators of one group ------------------------------------------------------------------------------------------


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
    return _centred(rewards, valid)


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
    return _quotient(_centred(rewards, valid), _deviation(rewards, valid, ddof) + eps)


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
    return _centred(rewards, valid) * (count / jnp.maximum(count - 1, 1))


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
    deviation = jax.vmap(lambda members: _deviation(rewards, members, 1))(others)
    return _quotient(leave_one_out(rewards, valid), jnp.where(deviation > 0, deviation + eps, 1.0))


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
    return _quotient(_centred(rewards, valid), _mean(jnp.abs(rewards), valid) + eps)


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
    return _quotient(credit, _deviation(rewards, valid, 1) + eps) if normalized else credit


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
    below, count = -_raised(-rewards, valid), jnp.sum(valid)
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
    return _quotient(shares, jnp.sum(shares))


# --- Estimators of a batch --------------------------------------------------------------------------------------------


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
    return _quotient(jax.vmap(_centred)(rewards, valid), _deviation(rewards, valid, ddof) + eps)


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
    differences = jax.vmap(_centred)(rewards, valid)
    weights = jnp.where(valid, 1 if lengths is None else lengths, 0)
    total = jnp.sum(weights)
    mean = jnp.sum(weights * differences) / jnp.maximum(total, 1)
    variance = jnp.sum(weights * jnp.square(differences - mean)) / jnp.maximum(total - ddof, 1)
    return jnp.where(valid, _quotient(differences - mean * recentre, jnp.sqrt(variance) + eps), 0.0)


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
    return _quotient(total, _deviation(total, jnp.any(valid, axis=0), ddof) + eps)


# --- From estimators to advantages ------------------------------------------------------------------------------------


def per_group(estimator: Callable[..., Array], **arguments: Any) -> Advantage:
    """Applies an estimator of one group to every prompt of a score.

    Args:
      estimator: `(rewards[group], valid[group], **arguments) -> advantages[group]`.
      **arguments: Its keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable.

    Examples:
      >>> score = Score(value=jnp.array([[1.0, 0.0]]), valid=jnp.array([[True, True]]))
      >>> per_group(centered)(score)
      Array([[ 0.5, -0.5]], dtype=float32)
    """
    of_group = functools.partial(estimator, **arguments)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        return jax.vmap(of_group)(jnp.asarray(score.value), jnp.asarray(score.valid))

    return advantage


def per_group_with(estimator: Callable[..., Array], parts: Mapping[str, str], **arguments: Any) -> Advantage:
    """Applies an estimator of one group that looks at more than the reward, such as `discriminative`.

    What else it looks at are parts of the score; `agent_tunix.rewards.annotate` adds facts about rollouts as parts. An
    entry counts if it is valid and none of these parts is NaN.

    Args:
      estimator: `(rewards[group], valid[group], **parts, **arguments) -> advantages[group]`.
      parts: Name of an argument to the part of the score that it gets, `[group]`.
      **arguments: Further keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable. It raises ValueError for a part that the score does not have.
    """

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        columns = {argument: _part(score, part) for argument, part in parts.items()}
        valid = functools.reduce(jnp.logical_and, (_part_valid(score, part) for part in parts.values()))
        of_group = functools.partial(estimator, **arguments)
        return jax.vmap(lambda rewards, valid, columns: of_group(rewards, valid, **columns))(
            jnp.asarray(score.value), valid, columns
        )

    return advantage


def per_batch(estimator: Callable[..., Array], **arguments: Any) -> Advantage:
    """Applies an estimator of a whole batch to a score.

    Args:
      estimator: `(rewards[prompts group], valid[prompts group], **arguments) -> advantages[prompts group]`.
      **arguments: Its keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable.
    """
    of_batch = functools.partial(estimator, **arguments)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        return of_batch(jnp.asarray(score.value), jnp.asarray(score.valid))

    return advantage


def per_part(estimator: Callable[..., Array], weights: Mapping[str, float | Array], **arguments: Any) -> Advantage:
    """Applies an estimator of one group to each of several parts of a score, and adds the results with weights.

    Signals of different levels, such as checks of steps and the outcome, then each count within their group whatever
    their scale. Unlike `decoupled_parts`, nothing is scaled over the batch. Which entries of a part count is as there.

    Args:
      estimator: `(rewards[group], valid[group], **arguments) -> advantages[group]`.
      weights: Name of a part to its weight.
      **arguments: Its keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable. It raises ValueError for a part that the score does not have.

    Raises:
      ValueError: If no part is named.
    """
    if not weights:
        raise ValueError("per_part got no weights; name at least one part, such as {'format': 1.0}")
    of_group = functools.partial(estimator, **arguments)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        credit = {name: jax.vmap(of_group)(_part(score, name), _part_valid(score, name)) for name in weights}
        return functools.reduce(jnp.add, (weight * credit[name] for name, weight in weights.items()))

    return advantage


def decoupled_parts(weights: Mapping[str, float], **arguments: Any) -> Advantage:
    """Applies `decoupled` to the named parts of a score instead of to its value.

    A part counts for a completion if the completion is valid, its grader gave a value, and that is not NaN.

    Args:
      weights: Name of a part to its weight.
      **arguments: Keyword arguments of `decoupled`, fixed now.

    Returns:
      A function of a `Score`, jittable. It raises ValueError for a part that the score does not have.

    Raises:
      ValueError: If no part is named.
    """
    if not weights:
        raise ValueError("decoupled_parts got no weights; name at least one part, such as {'format': 1.0}")
    factors = np.asarray(list(weights.values()), np.float32)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        parts = jnp.stack([_part(score, name) for name in weights])
        valid = jnp.stack([_part_valid(score, name) for name in weights])
        return decoupled(parts, valid, jnp.asarray(factors, parts.dtype), **arguments)

    return advantage


def _part(score: Score, name: str) -> Array:
    if name not in score.parts:
        raise ValueError(f"a weight is given for part `{name}`, but the score has the parts {sorted(score.parts)}")
    return jnp.asarray(score.parts[name])


def _part_valid(score: Score, name: str) -> Array:
    valid = jnp.asarray(score.valid) & ~jnp.isnan(_part(score, name))
    return valid & (score.outcomes[name] == int(Outcome.GRADED)) if name in score.outcomes else valid


# --- Estimators of a whole score --------------------------------------------------------------------------------------


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
    baseline = jax.vmap(_mean)(value, valid)

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


# --- Refusing what cannot be learned from -----------------------------------------------------------------------------


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
