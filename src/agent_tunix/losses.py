"""The policy loss: a surrogate of the importance ratio, divergences, an entropy bonus, and how tokens are weighed.

`policy_loss` puts the pieces together; each is a function of per-token arrays `[prompts group tokens]`, so that another
one can take its place. Log-probabilities, divergences and entropies are in nats.

Whatever stands outside the mask, NaN and infinities as well, reaches neither a loss nor a gradient: it is replaced by 0
before anything is computed, because `where` after the fact stops the value but lets `0 * inf` through the gradient.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from agent_tunix.types import Loss, Rollouts, Score, Shaping, TokenBatch

LOG_RATIO_BOUND = 20.0
"""Logarithms of ratios are kept in [-20, 20], so that exponentials stay finite in float32; beyond, gradients are 0."""

Ratio = Callable[[TokenBatch], Array]
"""The importance ratio of every token between the policy and the one that sampled."""

Surrogate = Callable[[TokenBatch], tuple[Array, dict[str, Array]]]
"""The policy-gradient loss of every token, and statistics to log."""

Divergence = Callable[[Array, Array], Array]
"""Estimate of a divergence from `(logprobs, ref_logprobs)` at every token."""

Aggregation = Callable[[Array], Array]
"""`mask -> weights`, so that the loss is `sum(weights * per_token)`."""


def _masked(tokens: TokenBatch) -> TokenBatch:
    """The batch with 0 wherever the mask is False."""
    return jax.tree.map(lambda values: jnp.where(tokens.mask, values, jnp.zeros_like(values)), tokens)


def _bounded(log_ratio: Array) -> Array:
    return jnp.clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)


# --- Importance ratios ------------------------------------------------------------------------------------------------


def token_ratio(tokens: TokenBatch) -> Float[Array, "prompts group tokens"]:
    """Ratio of the probability of each token under the policy to that under the policy that sampled it.

    Args:
      tokens: The batch.

    Returns:
      Ratios, 1 outside the mask.
    """
    tokens = _masked(tokens)
    return jnp.exp(_bounded(tokens.logprobs - tokens.old_logprobs))


def sequence_ratio(tokens: TokenBatch) -> Float[Array, "prompts group tokens"]:
    r"""Geometric mean of the token ratios of a completion, repeated at each of its tokens: GSPO.

    .. math:: s = \exp\Big(\frac{1}{|y|} \sum_t \log\frac{\pi(y_t)}{\pi_{\text{old}}(y_t)}\Big)

    All tokens of a completion are clipped together or not at all. The value at token t is s; its gradient is
    :math:`s \nabla \log \pi(y_t)` (the GSPO-token form), which for the same advantage and weight on every token of a
    completion adds up to the gradient of s itself.

    Args:
      tokens: The batch.

    Returns:
      Ratios, 1 outside the mask.

    References:
      Zheng et al., 2025, Group Sequence Policy Optimization, arXiv:2507.18071.
    """
    tokens = _masked(tokens)
    count = jnp.maximum(jnp.sum(tokens.mask, axis=-1, keepdims=True), 1)
    mean = jnp.sum(tokens.logprobs - tokens.old_logprobs, axis=-1, keepdims=True) / count
    own = tokens.logprobs - jax.lax.stop_gradient(tokens.logprobs)
    return jnp.where(tokens.mask, jnp.exp(_bounded(jax.lax.stop_gradient(mean) + own)), 1.0)


# --- Surrogates -------------------------------------------------------------------------------------------------------


def clipped(
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    dual_clip: float | None = None,
    ratio: Ratio = token_ratio,
) -> Surrogate:
    r"""The clipped surrogate of PPO.

    .. math:: L = -\min\big(\rho A,\ \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon_{\text{high}})\, A\big)

    Clipping stops the gradient of a token whose ratio has already gone far enough in the direction of its advantage:
    beyond :math:`1 + \epsilon_{\text{high}}` if that is positive, below :math:`1 - \epsilon` if it is negative.

    Args:
      epsilon: Distance of the lower bound from 1.
      epsilon_high: Distance of the upper bound from 1; None takes `epsilon`. Larger values leave unlikely tokens more
        room to grow (clip-higher).
      dual_clip: Bound on the ratio for negative advantages, above 1, so that a token which became much likelier cannot
        have an unbounded loss. None sets no bound.
      ratio: `token_ratio` or `sequence_ratio`.

    Returns:
      `tokens -> (losses, statistics)` with `ratio`, and with indicators `clip_fraction_low` and `clip_fraction_high` of
      the two bounds, the latter including the dual one, and `clip_fraction` of either.

    Raises:
      ValueError: If `dual_clip` is not above 1.

    References:
      Schulman et al., 2017, arXiv:1707.06347; clip-higher: Yu et al., 2025, DAPO, arXiv:2503.14476; dual clip: Ye et
      al., 2020, arXiv:1912.09729, with 3.
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(
            f"clipped got dual_clip={dual_clip}, which would bound every ratio; give a value above 1 or None"
        )
    low, high = 1.0 - epsilon, 1.0 + (epsilon if epsilon_high is None else epsilon_high)
    ceiling = jnp.inf if dual_clip is None else dual_clip

    def surrogate(tokens: TokenBatch) -> tuple[Array, dict[str, Array]]:
        tokens = _masked(tokens)
        ratios, negative = ratio(tokens), tokens.advantages < 0
        # Which bound holds depends on the sign alone, so the minimum over two branches, whose gradient is halved where
        # they tie, is not needed.
        below, above = negative & (ratios < low), ratios > jnp.where(negative, ceiling, high)
        above = above & (tokens.advantages != 0)
        kept = jnp.where(below, low, jnp.where(above, jnp.where(negative, dual_clip or 1.0, high), ratios))
        return -kept * tokens.advantages, _clip_statistics(tokens, ratios, below, above)

    return surrogate


def truncated(epsilon: float = 0.2, epsilon_high: float | None = None, ratio: Ratio = token_ratio) -> Surrogate:
    r"""The truncated importance weight of CISPO.

    .. math:: L = -\operatorname{sg}\big[\operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon_{\text{high}})\big]\, A
       \log \pi

    Only the weight is bounded, so that no token loses its gradient, unlike under `clipped`. TRL's cap on the ratio
    itself, c, is `epsilon=1, epsilon_high=c - 1`.

    Args:
      epsilon: Distance of the lower bound from 1; 1 or more sets none.
      epsilon_high: Distance of the upper bound from 1; None takes `epsilon`.
      ratio: `token_ratio` or `sequence_ratio`.

    Returns:
      `tokens -> (losses, statistics)`, with the statistics of `clipped`; here they count ratios outside the bounds,
      whatever the advantage.

    References:
      MiniMax, 2025, MiniMax-M1, arXiv:2506.13585.
    """
    low, high = 1.0 - epsilon, 1.0 + (epsilon if epsilon_high is None else epsilon_high)

    def surrogate(tokens: TokenBatch) -> tuple[Array, dict[str, Array]]:
        tokens = _masked(tokens)
        ratios = jax.lax.stop_gradient(ratio(tokens))
        losses = -jnp.clip(ratios, low, high) * tokens.advantages * tokens.logprobs
        return losses, _clip_statistics(tokens, ratios, ratios < low, ratios > high)

    return surrogate


def _clip_statistics(tokens: TokenBatch, ratios: Array, below: Array, above: Array) -> dict[str, Array]:
    statistics = {
        "ratio": ratios,
        "clip_fraction": below | above,
        "clip_fraction_low": below,
        "clip_fraction_high": above,
    }
    return {name: jnp.where(tokens.mask, values, 0).astype(ratios.dtype) for name, values in statistics.items()}


# --- Divergences ------------------------------------------------------------------------------------------------------


def k1(logprobs: Float[Array, "*tokens"], ref_logprobs: Float[Array, "*tokens"]) -> Float[Array, "*tokens"]:
    r"""The log-ratio :math:`\log\pi - \log\pi_{\text{ref}}`: unbiased for KL(policy || reference), of either sign.

    For the reward side (`kl_penalty`). As a loss its gradient has zero mean on-policy and restrains nothing.

    Args:
      logprobs: Of the sampled tokens under the policy.
      ref_logprobs: Of the same tokens under the reference.

    Returns:
      Estimates in nats.

    References:
      Schulman, 2020, Approximating KL Divergence, http://joschu.net/blog/kl-approx.html, also for `k2` and `k3`.
    """
    return logprobs - ref_logprobs


def k2(logprobs: Float[Array, "*tokens"], ref_logprobs: Float[Array, "*tokens"]) -> Float[Array, "*tokens"]:
    r"""Half the squared log-ratio: biased, never negative, and its gradient on-policy is that of the divergence.

    Args:
      logprobs: Of the sampled tokens under the policy.
      ref_logprobs: Of the same tokens under the reference.

    Returns:
      Estimates in nats.
    """
    return 0.5 * jnp.square(logprobs - ref_logprobs)


def k3(logprobs: Float[Array, "*tokens"], ref_logprobs: Float[Array, "*tokens"]) -> Float[Array, "*tokens"]:
    r""":math:`e^d - d - 1` with :math:`d = \log\pi_{\text{ref}} - \log\pi`: unbiased and never negative, GRPO's choice.

    Args:
      logprobs: Of the sampled tokens under the policy.
      ref_logprobs: Of the same tokens under the reference.

    Returns:
      Estimates in nats, of a difference kept in [-20, 20].
    """
    difference = _bounded(ref_logprobs - logprobs)
    # expm1 keeps the digits that `exp(d) - 1` loses near 0; what rounding is left must not make it negative.
    return jnp.maximum(jnp.expm1(difference) - difference, 0.0)


def kl_penalty(coefficient: float) -> Shaping:
    """Subtracts a multiple of each completion's divergence from the reference from its reward.

    The divergence is the sum of `k1` over the tokens of the completion, under the policy that sampled it.

    Args:
      coefficient: Reward per nat.

    Returns:
      A stateless shaping that needs reference log-probabilities; it leaves the raw parts of the score alone.

    References:
      Ouyang et al., 2022, InstructGPT, arXiv:2203.02155, section 3.5.
    """

    def update(score: Score, state: Any, rollouts: Rollouts) -> tuple[Score, Any]:
        if rollouts.ref_logprobs is None:
            raise ValueError("kl_penalty got rollouts without ref_logprobs; set `needs_reference` on what samples them")
        per_token = k1(jnp.asarray(rollouts.old_logprobs), jnp.asarray(rollouts.ref_logprobs))
        divergence = jnp.sum(jnp.where(rollouts.completion_mask, per_token, 0.0), axis=-1)
        value = jnp.where(score.valid, score.value - coefficient * divergence, score.value)
        return dataclasses.replace(score, value=value), state

    return Shaping(init=lambda: (), update=update, needs_reference=True)


def entropy_reward(temperature: float) -> Shaping:
    r"""Subtracts a multiple of each completion's log-probability from its reward: unlikely completions get more.

    .. math:: r'_i = r_i - T \log \pi_{\text{old}}(y_i)

    The best policy then is no longer the best completion but :math:`\pi(y) \propto e^{r(y) / T}`, and near it all
    rewards of a group are the same. Against the mean of the group the policy gradient is, but for a factor, that of the
    trajectory balance of a generative flow network whose flow at the start is estimated from the group.

    It is `kl_penalty` with a reference under which all completions are alike. There are far more bad completions than
    good ones, and more long ones than short: unless T times the nats of a random completion of full length (its tokens
    times the logarithm of the vocabulary) stays below what a good one is paid, that optimum is noise.

    Args:
      temperature: T, reward per nat.

    Returns:
      A stateless shaping that leaves the raw parts of the score alone.

    Raises:
      ValueError: When called: the score has rewards per token, which this would leave behind.

    References:
      Malkin et al., 2022, Trajectory Balance, arXiv:2201.13259; the estimate from the group is the VarGrad form of
      Richter et al., 2020, arXiv:2010.10436.
    """

    def update(score: Score, state: Any, rollouts: Rollouts) -> tuple[Score, Any]:
        if score.per_token is not None:
            raise ValueError("entropy_reward got a score with rewards per token; give a reward of whole completions")
        logprobs = jnp.sum(jnp.where(rollouts.completion_mask, jnp.asarray(rollouts.old_logprobs), 0.0), axis=-1)
        value = jnp.where(score.valid, score.value - temperature * logprobs, score.value)
        return dataclasses.replace(score, value=value), state

    return Shaping(init=lambda: (), update=update)


# --- Aggregations -----------------------------------------------------------------------------------------------------


def token_mean(mask: Bool[Array, "prompts group tokens"]) -> Float[Array, "prompts group tokens"]:
    """Every token weighs the same, so long completions weigh more: DAPO.

    Args:
      mask: True on tokens that carry loss.

    Returns:
      Weights that sum to 1, or all 0 for an empty mask.

    References:
      Yu et al., 2025, DAPO, arXiv:2503.14476, section 3.3.
    """
    return mask / jnp.maximum(jnp.sum(mask), 1)


def sequence_mean_token_mean(mask: Bool[Array, "prompts group tokens"]) -> Float[Array, "prompts group tokens"]:
    """Every completion weighs the same, shared equally by its tokens: the original GRPO.

    Args:
      mask: True on tokens that carry loss. Completions without any are not counted.

    Returns:
      Weights that sum to 1, or all 0 for an empty mask.

    References:
      Shao et al., 2024, DeepSeekMath, arXiv:2402.03300, equation 3.
    """
    return sequence_mean_token_sum(mask) / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)


def sequence_mean_token_sum(mask: Bool[Array, "prompts group tokens"]) -> Float[Array, "prompts group tokens"]:
    """The losses of a completion's tokens are added, and the sums averaged over completions.

    Args:
      mask: True on tokens that carry loss. Completions without any are not counted.

    Returns:
      Weights of one over the number of completions, or all 0 for an empty mask.
    """
    return mask / jnp.maximum(jnp.sum(jnp.any(mask, axis=-1)), 1)


def constant(length: int) -> Aggregation:
    """Token sums over a constant instead of over each completion's own length: Dr.GRPO.

    Dividing by the own length would make long wrong completions cheaper than short ones.

    Args:
      length: The divisor in tokens, usually the longest completion allowed.

    Returns:
      `mask -> weights`, which are `sequence_mean_token_sum` over `length`.

    Raises:
      ValueError: If the length is not positive.

    References:
      Liu et al., 2025, Understanding R1-Zero-Like Training, arXiv:2503.20783.
    """
    if length <= 0:
        raise ValueError(f"constant got length={length}; give a positive number of tokens")
    return lambda mask: sequence_mean_token_sum(mask) / length


# --- The loss ---------------------------------------------------------------------------------------------------------


def mismatch_weight(tokens: TokenBatch, cap: float) -> Float[Array, "prompts group tokens"]:
    r"""Truncated importance weight of each token between the policy that sampled and the distribution it drew from.

    .. math:: w = \min\big(\pi_{\text{old}} / \pi_{\text{sampler}},\ c\big)

    The two differ when a separate engine samples, in another precision, or when filters such as top-p are on.

    Args:
      tokens: The batch.
      cap: Greatest weight.

    Returns:
      Weights through which no gradient flows, 1 outside the mask.

    References:
      Yao et al., 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training (truncated importance
      sampling).
    """
    tokens = _masked(tokens)
    weight = jnp.minimum(jnp.exp(_bounded(tokens.old_logprobs - tokens.sampler_logprobs)), cap)
    return jnp.where(tokens.mask, jax.lax.stop_gradient(weight), 1.0)


def policy_loss(
    surrogate: Surrogate | None = None,
    *,
    kl_coefficient: float = 0.0,
    kl_estimator: Divergence = k3,
    entropy_coefficient: float = 0.0,
    aggregation: Aggregation = token_mean,
    mask_truncated: bool = False,
    mismatch_cap: float | None = None,
) -> Loss:
    r"""Puts a policy loss together.

    .. math:: L = \sum_t \omega_t \big( w_t L^{\text{surrogate}}_t + \beta\, \text{KL}_t - c\, H_t \big)

    Args:
      surrogate: `clipped(...)` or `truncated(...)`; None is `clipped()`.
      kl_coefficient: Weight of the divergence from the reference; 0 needs no reference.
      kl_estimator: `k1`, `k2` or `k3`.
      entropy_coefficient: Weight of the entropy bonus.
      aggregation: Weights of the tokens from their mask.
      mask_truncated: Whether completions that ran out of tokens are left out, of what is added and of what it is
        divided by.
      mismatch_cap: Cap of the importance weight between policy and sampler, which multiplies the surrogate only; None
        leaves it out.

    Returns:
      The loss. Its statistics are those of the surrogate, `entropy`, `old_kl` (k3 between the policy that sampled and
      the policy), `kl` (k3 to the reference, if there is one) and, with a cap, `mismatch_weight`; all are 0 outside the
      mask and carry no gradient. `per_token` raises ValueError if it needs reference log-probabilities and gets none.

    Raises:
      ValueError: If the mismatch cap is not positive.
    """
    if mismatch_cap is not None and mismatch_cap <= 0:
        raise ValueError(f"policy_loss got mismatch_cap={mismatch_cap}; give a positive cap, or None for no correction")
    surrogate = clipped() if surrogate is None else surrogate

    def per_token(tokens: TokenBatch) -> tuple[Array, dict[str, Array]]:
        tokens = _masked(tokens)
        losses, statistics = surrogate(tokens)
        statistics = statistics | _divergence_statistics(tokens)
        if mismatch_cap is not None:
            statistics["mismatch_weight"] = mismatch_weight(tokens, mismatch_cap)
            losses = losses * statistics["mismatch_weight"]
        if kl_coefficient:
            losses = losses + kl_coefficient * kl_estimator(tokens.logprobs, _reference(tokens))
        if entropy_coefficient:
            losses = losses - entropy_coefficient * tokens.entropy
        return _only(tokens.mask, losses), _only(tokens.mask, jax.lax.stop_gradient(statistics))

    def weights(mask: Array, truncated: Array) -> Array:
        return aggregation(mask & ~truncated[..., None] if mask_truncated else mask)

    return Loss(per_token, weights, needs_reference=kl_coefficient != 0, needs_entropy=entropy_coefficient != 0)


def _divergence_statistics(tokens: TokenBatch) -> dict[str, Array]:
    statistics = {"entropy": tokens.entropy, "old_kl": k3(tokens.old_logprobs, tokens.logprobs)}
    if tokens.ref_logprobs is not None:
        statistics["kl"] = k3(tokens.logprobs, tokens.ref_logprobs)
    return statistics


def _reference(tokens: TokenBatch) -> Array:
    if tokens.ref_logprobs is None:
        raise ValueError("policy_loss got kl_coefficient != 0 but a batch without ref_logprobs; compute them first")
    return tokens.ref_logprobs


def _only(mask: Array, values: Any) -> Any:
    """The arrays of a pytree, 0 outside the mask."""
    return jax.tree.map(lambda array: jnp.where(mask, array, 0.0), values)
