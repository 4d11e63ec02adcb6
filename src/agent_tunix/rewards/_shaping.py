"""What is done to a score between the reward and the advantage, in the manner of optax transformations.

A shaping is a pair `(init, update)`. `update` is called once per batch of rollouts, not once per optimizer step, and
whatever counts or decays here counts batches. It is pure and may be jitted (rollouts hold texts and are closed over).
The state is a pytree of arrays whose shapes and dtypes never change; it is checkpointed beside the optimizer, and a run
resumed from it goes on bit for bit.

Entries that are not valid keep the value 0, whatever they held, and enter no statistic. Parts, outcomes and validity
pass through, so that measures still see the raw reward; `per_token` does too where nothing else is said.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from agent_tunix import advantages
from agent_tunix.types import Rollouts, Score, Shaping

Over = Literal["group", "batch", "running"]
"""What a statistic is taken over: the completions of one prompt, all of a batch, or this batch and earlier ones."""


def identity() -> Shaping:
    """Leaves scores as they are."""
    return Shaping(init=lambda: (), update=lambda score, state, rollouts: (score, state))


def chain(*shapings: Shaping) -> Shaping:
    """Applies shapings one after the other, the first one first.

    Args:
      *shapings: Any number of shapings; none is the identity.

    Returns:
      A shaping whose state is the tuple of theirs.

    Raises:
      TypeError: An argument is not a `Shaping`.
    """
    for shaping in shapings:
        if not isinstance(shaping, Shaping):
            raise TypeError(f"chain takes Shapings, got {shaping!r:.80} ({type(shaping).__name__}); call its factory")

    def update(score: Score, state: tuple, rollouts: Rollouts) -> tuple[Score, tuple]:
        after = []
        for shaping, before in zip(shapings, state, strict=True):
            score, remembered = shaping.update(score, before, rollouts)
            after.append(remembered)
        return score, tuple(after)

    return Shaping(
        init=lambda: tuple(shaping.init() for shaping in shapings),
        update=update,
        needs_reference=any(shaping.needs_reference for shaping in shapings),
    )


def annotate(**facts: Callable[[Rollouts], Any]) -> Shaping:
    """Adds facts about rollouts to the parts of a score, for advantages that look at more than the reward.

    They are not paid: the value stays as it is.

    Args:
      **facts: Name of a part to a function of rollouts that gives a number for each completion, `[prompts group]`. NaN
        where there is none.

    Returns:
      A stateless shaping.

    Raises:
      ValueError: In the update: the score has a part of that name, or a fact has another shape.

    Examples:
      >>> shaping = annotate(length=lambda rollouts: rollouts.lengths)
    """

    def update(score: Score, state: Any, rollouts: Rollouts) -> tuple[Score, Any]:
        added = {name: jnp.asarray(fact(rollouts), jnp.float32) for name, fact in facts.items()}
        for name, values in added.items():
            if name in score.parts:
                raise ValueError(f"annotate would replace part `{name}` of the score; give the fact another name")
            if values.shape != jnp.shape(score.value):
                raise ValueError(
                    f"annotate got `{name}` of shape {values.shape} for completions {jnp.shape(score.value)}; return "
                    "one number per completion"
                )
        return dataclasses.replace(score, parts={**score.parts, **added}), state

    return Shaping(init=lambda: (), update=update)


# --- Baselines and scales ---------------------------------------------------------------------------------------------


class RunningMean(NamedTuple):
    """State of `center_running`, three scalars.

    Attributes:
      total: Decayed sum of batch means, in reward units.
      weight: Decayed number of batches; 0 before the first one.
      batches: Number of batches seen that held a valid entry.
    """

    total: Array
    weight: Array
    batches: Array


def center_running(decay: float = 0.99) -> Shaping:
    r"""Subtracts a running mean of the reward, a baseline that remembers earlier batches.

    .. math:: b_k = \frac{\sum_{j \le k} \gamma^{k-j} \bar r_j}{\sum_{j \le k} \gamma^{k-j}}

    with :math:`\bar r_j` the mean over the valid entries of batch :math:`j`; the present batch counts, so the first
    one is centered on its own mean. A batch without valid entries changes nothing.

    Args:
      decay: Weight :math:`\gamma` of the past per batch, in [0, 1).

    Returns:
      A shaping with a `RunningMean` as state.

    Raises:
      ValueError: The decay lies outside of [0, 1).
    """
    check_decay("center_running", decay)

    def update(score: Score, state: RunningMean, rollouts: Rollouts) -> tuple[Score, RunningMean]:
        del rollouts
        value, valid = entries(score)
        count = valid.sum()
        state, baseline = with_mean(state, value.sum() / jnp.maximum(count, 1), count > 0, decay)
        return dataclasses.replace(score, value=jnp.where(valid, value - baseline, 0)), state

    return Shaping(init=lambda: RunningMean(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32)), update=update)


def center(over: Over = "group", decay: float = 0.99) -> Shaping:
    """Subtracts a mean: of the group, of the batch, or a running one (`center_running`).

    Equal rewards come out as exactly 0, without a rounding residue, over a group and over a batch.

    Args:
      over: What the mean is taken over.
      decay: Weight of the past per batch, in [0, 1); used by `running` only.

    Returns:
      A shaping; its state is a `RunningMean` if running, and empty otherwise. Values stay in reward units.

    Raises:
      ValueError: An unknown `over`, or a decay outside of [0, 1).

    References:
      The mean of the group is the baseline of Liu et al., 2025, Understanding R1-Zero-Like Training, arXiv:2503.20783.
    """
    if _checked(over, "center") == "running":
        return center_running(decay)
    return _stateless(_lifted(advantages.centered, over))


class RunningMoments(NamedTuple):
    """State of `standardize("running")`, four scalars.

    Attributes:
      mean: Decayed mean of the reward, in reward units.
      squares: Decayed sum of squared distances from it, in squared reward units.
      weight: Decayed number of batches; 0 before the first one.
      batches: Number of batches seen that held a valid entry.
    """

    mean: Array
    squares: Array
    weight: Array
    batches: Array


def standardize(over: Over = "group", eps: float = 1e-6, decay: float = 0.99) -> Shaping:
    r"""Subtracts a mean and divides by the standard deviation.

    .. math:: r' = \frac{r - \bar r}{s_r + \epsilon}

    Over a group or a batch, :math:`s_r` is the sample deviation (ddof = 1) and equal rewards come out as exactly 0.
    `running` takes mean and deviation (ddof = 0) of the mixture of all batches up to the present one, where every batch
    weighs :math:`\gamma` times the next one, however many entries it holds. Dividing by the sum of the weights takes
    away the bias towards the start value. A flat batch then shows how far it lies from the past; only rewards that
    never varied come out as 0. A batch without valid entries changes nothing.

    Args:
      over: What the moments are taken over.
      eps: Added to the deviation, in reward units.
      decay: Weight :math:`\gamma` of the past per batch, in [0, 1); used by `running` only.

    Returns:
      A shaping; its state is a `RunningMoments` if running, and empty otherwise. Values are unitless.

    Raises:
      ValueError: An unknown `over`, a negative eps, or a decay outside of [0, 1).

    References:
      Group: Shao et al., 2024, DeepSeekMath, arXiv:2402.03300. Batch: Liu et al., 2025, Tricks or Traps?,
      arXiv:2508.08221. Running: the weighted update of West, 1979, Updating Mean and Variance Estimates, whose sum of
      squares cannot turn negative by cancellation.
    """
    if not eps >= 0:
        raise ValueError(f"standardize got eps={eps}; give a number of at least 0")
    if _checked(over, "standardize") == "running":
        return _standardize_running(eps, decay)

    def normalized(rewards: Array, valid: Array) -> Array:
        return advantages.group_normalized(rewards, valid, eps=eps)

    return _stateless(_lifted(normalized, over))


def _standardize_running(eps: float, decay: float) -> Shaping:
    check_decay("standardize", decay)

    def update(score: Score, state: RunningMoments, rollouts: Rollouts) -> tuple[Score, RunningMoments]:
        del rollouts
        value, valid = entries(score)
        state = with_batch(state, value, valid, decay)
        deviation = jnp.sqrt(state.squares / jnp.maximum(state.weight, 1))
        # Not `+ eps` alone: with eps=0, rewards that never varied would be 0 / 0.
        divisor = jnp.where(deviation > 0, deviation + eps, 1)
        return dataclasses.replace(score, value=jnp.where(valid, (value - state.mean) / divisor, 0)), state

    return Shaping(init=running_start, update=update)


def running_start() -> RunningMoments:
    """Moments of no batch."""
    return RunningMoments(*(jnp.zeros((), dtype) for dtype in (jnp.float32, jnp.float32, jnp.float32, jnp.int32)))


def with_batch(state: RunningMoments, value: Array, valid: Array, decay: float) -> RunningMoments:
    """Moments that include one more batch; the same ones if nothing in it is valid."""
    count = valid.sum()
    # Distances from the least value: a flat batch then has its own value as mean, and no variance, without rounding.
    least = jnp.where(count > 0, jnp.min(jnp.where(valid, value, jnp.inf)), 0)
    above = jnp.where(valid, value - least, 0)
    lead = above.sum() / jnp.maximum(count, 1)
    variance = jnp.square(jnp.where(valid, above - lead, 0)).sum() / jnp.maximum(count, 1)
    weight = decay * state.weight + 1
    step = least + lead - state.mean
    # A weight of 1 is the first batch (or no memory), whose mean is kept as it is.
    mean = jnp.where(weight > 1, state.mean + step / weight, least + lead)
    squares = decay * state.squares + variance + jnp.square(step) * (1 - 1 / weight)
    seen = RunningMoments(mean, squares, weight, state.batches + 1)
    return jax.tree.map(functools.partial(jnp.where, count > 0), seen, state)


def rank() -> Shaping:
    r"""Replaces rewards by their rank within the group, from -0.5 for the worst to 0.5 for the best.

    .. math:: r'_i = \frac{\#\{j : r_j < r_i\} - \#\{j : r_j > r_i\}}{2 (n - 1)}

    Tied rewards share the mean of their ranks; a flat group, or a lone completion, is exactly 0. Only the order counts:
    no outlier takes the whole signal, and no increasing transformation of the reward changes anything.

    Returns:
      A stateless shaping; values are unitless and sum to 0 over a group.

    References:
      Salimans et al., 2017, Evolution Strategies as a Scalable Alternative, arXiv:1703.03864, whose code centers ranks
      to [-0.5, 0.5] too, but breaks ties by position.
    """
    return _stateless(_lifted(lambda rewards, valid: advantages.rank(rewards, valid) / 2, "group"))


# --- Maps of one value ------------------------------------------------------------------------------------------------


def clip_values(low: float = -math.inf, high: float = math.inf) -> Shaping:
    """Moves values outside of an interval to its nearer end.

    Args:
      low: Lower end, in reward units.
      high: Upper end, in reward units.

    Returns:
      A stateless shaping.

    Raises:
      ValueError: The lower end is not at most the upper one.
    """
    if not low <= high:
        raise ValueError(f"clip got the interval [{low}, {high}]; give the lower end first")
    return _stateless(lambda value, valid: jnp.clip(value, low, high))


def sigmoid(scale: float = 1.0, center: float = 0.0) -> Shaping:
    r"""Squeezes rewards of any size into (0, 1), steepest at the center.

    .. math:: r' = \frac{1}{1 + e^{-(r - c) / s}}

    Args:
      scale: The distance :math:`s` from the center at which 0.731 is reached, in reward units; positive.
      center: The reward :math:`c` that becomes 0.5.

    Returns:
      A stateless shaping.

    Raises:
      ValueError: The scale is not positive and finite, or the center not finite.

    References:
      Fu et al., 2025, Reward Shaping to Mitigate Reward Hacking in RLHF, arXiv:2502.18770: bounded, and fast at first
      where rewards are centered on a reference; its k is 1 / scale.
    """
    _check_scale(scale, "sigmoid")
    if not math.isfinite(center):
        raise ValueError(f"sigmoid got center={center}; give a finite number")
    return _stateless(lambda value, valid: jax.nn.sigmoid((value - center) / scale))


def tanh(scale: float = 1.0) -> Shaping:
    r"""Squeezes rewards of any size into (-1, 1), keeping their sign: :math:`\tanh(r / s)`.

    Args:
      scale: The reward :math:`s` that becomes 0.762; positive. Much smaller ones become r / scale.

    Returns:
      A stateless shaping.

    Raises:
      ValueError: The scale is not positive and finite.
    """
    _check_scale(scale, "tanh")
    return _stateless(lambda value, valid: jnp.tanh(value / scale))


def _check_scale(scale: float, name: str) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"{name} got scale={scale}; give a positive number in reward units")


# --- Noise ------------------------------------------------------------------------------------------------------------


def noise(
    rate: float,
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
    per: Literal["completion", "group"] = "completion",
) -> Shaping:
    r"""Turns some rewards upside down, :math:`r' = l + h - r`, to see how much noise training bears.

    Which ones depends on the seed, the number of the batch and the place in it, on nothing else: a completion that is
    not valid shifts no coin of another. Standardized group advantages turn around with the rewards, so that, with one
    coin per group, their expectation is :math:`1 - 2 p` times the clean one and nothing can be learned at 0.5.

    Args:
      rate: Chance :math:`p` of a flip, in [0, 1].
      low: Least reward :math:`l`.
      high: Greatest reward :math:`h`. Rewards outside of [low, high] are reflected to the other side of it.
      seed: Of the coins.
      per: Whether every completion has a coin of its own, or all completions of a prompt share one.

    Returns:
      A shaping whose state is the number of batches seen.

    Raises:
      ValueError: A rate outside of [0, 1], an interval that is empty or infinite, or an unknown `per`.

    References:
      Lv et al., 2025, The Climb Carves Wisdom Deeper Than the Summit, arXiv:2505.22653; its code has a coin per group.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"noise got rate={rate}; give a fraction in [0, 1]")
    if not (-math.inf < low <= high < math.inf):
        raise ValueError(f"noise got the interval [{low}, {high}]; give finite ends, the lower one first")
    if per not in ("completion", "group"):
        raise ValueError(f"noise got per={per!r}; give 'completion' or 'group'")

    def update(score: Score, state: Array, rollouts: Rollouts) -> tuple[Score, Array]:
        del rollouts
        value, valid = entries(score)
        coins = value.shape if per == "completion" else (value.shape[0], 1)
        flipped = jax.random.uniform(jax.random.fold_in(jax.random.key(seed), state), coins) < rate
        noisy = jnp.where(flipped, low + high - value, value)
        return dataclasses.replace(score, value=jnp.where(valid, noisy, 0)), state + 1

    return Shaping(init=lambda: jnp.zeros((), jnp.int32), update=update)


# --- What shapings share ----------------------------------------------------------------------------------------------


def entries(score: Score) -> tuple[Array, Array]:
    """Values and validity on the device; values are 0 where not valid."""
    valid = jnp.asarray(score.valid)
    return jnp.where(valid, jnp.asarray(score.value, jnp.float32), 0), valid


def token_rewards(score: Score, mask: Array) -> Array:
    """The rewards of tokens, `[prompts group tokens]`; without any, the value at the last token of the mask."""
    if score.per_token is not None:
        return jnp.asarray(score.per_token)
    last = mask & (jnp.cumsum(mask[..., ::-1], axis=-1)[..., ::-1] == 1)
    return jnp.where(last, entries(score)[0][..., None], 0)


def with_mean(state: RunningMean, mean: Array, counts: Array, decay: float) -> tuple[RunningMean, Array]:
    """The state with the mean of one more batch, where that counts; and the running mean."""
    seen = RunningMean(decay * state.total + mean, decay * state.weight + 1, state.batches + 1)
    state = jax.tree.map(functools.partial(jnp.where, counts), seen, state)
    return state, state.total / jnp.maximum(state.weight, 1)  # the weight is at least 1 once a batch counted


def check_decay(where: str, decay: float) -> None:
    """Raises where the past would not fade."""
    if not 0 <= decay < 1:
        raise ValueError(f"{where} got decay={decay}; give a number in [0, 1)")


def _stateless(function: Callable[[Array, Array], Array]) -> Shaping:
    """The shaping that applies `(value, valid) -> value`, both `[prompts group]`, to valid entries."""

    def update(score: Score, state: Any, rollouts: Rollouts) -> tuple[Score, Any]:
        del rollouts
        value, valid = entries(score)
        return dataclasses.replace(score, value=jnp.where(valid, function(value, valid), 0)), state

    return Shaping(init=lambda: (), update=update)


def _lifted(estimator: Callable[[Array, Array], Array], over: str) -> Callable[[Array, Array], Array]:
    """An estimator of one group applied to every group, or to the batch as one group."""
    if over == "group":
        return jax.vmap(estimator)
    return lambda value, valid: estimator(value.ravel(), valid.ravel()).reshape(value.shape)


def _checked(over: str, name: str) -> str:
    if over not in ("group", "batch", "running"):
        raise ValueError(f"{name} got over={over!r}; give 'group', 'batch' or 'running'")
    return over
