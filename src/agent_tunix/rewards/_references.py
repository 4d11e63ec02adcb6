"""Shapings that measure a reward against others: those of reference responses to the same prompt, or all seen so far.

A learned reward says little by itself: what 3.2 means depends on the prompt. Its difference from the reward of a
response to the same prompt is what it was trained to tell, and a bounded function of that difference leaves a policy
little to gain from the places where the learned reward is wrong.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from agent_tunix.batching import join, take, text_rollouts
from agent_tunix.rewards._lift import column_of
from agent_tunix.rewards._shaping import RunningMoments, check_decay, entries, running_start, with_batch
from agent_tunix.types import Reward, Rollouts, Score, Shaping

References = Callable[[Rollouts], Score]
"""Scores of the reference responses to every prompt, `[prompts references]`."""

Curve = Callable[[Array], Array]
"""A function of differences from references, entry by entry."""


def reference_scores(reward: Reward, column: str, written: str = "{}") -> References:
    """Scores the reference responses that a column of the dataset holds, once per row.

    They are scored as if they had been sampled: by the same reward, for the same prompt and columns. What is found is
    kept for the rest of the process, a few numbers per row. A resumed run scores anew, so a reward that answers
    differently when asked again makes it differ.

    Args:
      reward: Of the text and the columns; references have no tokens, so that a length in tokens is 0.
      column: One response per row, or a list of responses, as many for every row; best drawn from the policy before
        training. They are only read.
      written: Format of a response, `{}` for the entry of the column: `"<answer>{}</answer>"` makes one of an answer.

    Returns:
      A function for `preference` and its relatives. It raises ValueError where the column is missing, a row has no
      reference, or rows of one batch have different numbers of them.

    Examples:
      >>> from agent_tunix.rewards import default
      >>> references = reference_scores(default(), "answer", "<answer>{}</answer>")
    """
    known: dict[str, Score] = {}

    def scores(rollouts: Rollouts) -> Score:
        texts = [_texts(entry, column, written) for entry in column_of(rollouts, column, reward.name)]
        if len({len(each) for each in texts}) > 1:
            counts = ", ".join(map(str, sorted({len(each) for each in texts})))
            raise ValueError(f"column `{column}` has {counts} references per row; give as many for every row")
        keys = [_key(rollouts, prompt, each) for prompt, each in enumerate(texts)]
        new = sorted({key: prompt for prompt, key in enumerate(keys) if key not in known}.values())
        if new:
            some = take(rollouts, new)
            found = reward(text_rollouts(some.prompts, [texts[prompt] for prompt in new], some.columns))
            bare = Score(np.asarray(found.value), np.asarray(found.valid))
            known.update({keys[prompt]: take(bare, [place]) for place, prompt in enumerate(new)})
        return join([known[key] for key in keys])

    return scores


def _texts(entry: Any, column: str, written: str) -> list[str]:
    entries = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else [entry]
    if not entries or any(one is None for one in entries):
        raise ValueError(f"column `{column}` has a row without a reference response; leave such rows out")
    return [written.format(one) for one in entries]


def _key(rollouts: Rollouts, prompt: int, texts: Sequence[str]) -> str:
    row = {name: each[prompt] for name, each in rollouts.columns.items()}
    # Arrays as lists: what is written of a long one leaves its middle out.
    whole = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in row.items()}
    return repr((rollouts.prompts[prompt], texts, whole))


# --- Against references -----------------------------------------------------------------------------------------------


def over_references(references: References, curve: Curve) -> Shaping:
    r"""Replaces rewards by the mean of a function of their differences from the rewards of references.

    .. math:: r' = \frac{1}{M} \sum_m f(r - r_m)

    over the references :math:`m` of the prompt that have a value. Where none has, the entry becomes invalid.

    Args:
      references: From `reference_scores`, or any function of rollouts to a score `[prompts references]`.
      curve: :math:`f`, in the units of the reward.

    Returns:
      A stateless shaping.

    Examples:
      >>> from agent_tunix.rewards import default
      >>> late = over_references(reference_scores(default(), "samples"), lambda apart: jax.nn.sigmoid(3 * (apart - 3)))
    """

    def value(rewards: Array, theirs: Array, valid: Array) -> Array:
        curves = curve(rewards[..., None] - theirs[:, None])
        return jnp.sum(jnp.where(valid[:, None], curves, 0), -1) / jnp.maximum(valid.sum(-1), 1)[:, None]

    return _compared(references, value)


def preference(references: References, k: float = 1.0) -> Shaping:
    r"""Preference as reward: the chance that a response is preferred to a reference, by the reward's own reckoning.

    .. math:: r' = \frac{1}{M} \sum_m \sigma\left(k (r - r_m)\right)

    For a reward model trained on comparisons and k = 1 this is its own probability. It lies in (0, 1), rises fast near
    the references and is flat far above them, where a learned reward is least to be trusted. Rewards get smaller by
    this, so the weight of a penalty has to be chosen anew.

    Args:
      references: From `reference_scores`; one per prompt is enough.
      k: Steepness, one over reward units; positive.

    Returns:
      A stateless shaping.

    Raises:
      ValueError: k is not positive and finite.

    References:
      Fu et al., 2025, Reward Shaping to Mitigate Reward Hacking in RLHF, arXiv:2502.18770.
    """
    if not 0 < k < math.inf:
        raise ValueError(f"preference got k={k}; give a positive number, one over reward units")
    return over_references(references, lambda apart: jax.nn.sigmoid(k * apart))


def center_on(references: References) -> Shaping:
    """Subtracts the mean reward of the references of each prompt. Advantages of a group do not see this.

    Args:
      references: From `reference_scores`.

    Returns:
      A stateless shaping; values stay in reward units.
    """
    return over_references(references, lambda apart: apart)


def log_sigmoid_centered(references: References, quantile: float = 0.85) -> Shaping:
    r"""The logarithm of the logistic function of the distance from a high quantile of the references' rewards.

    .. math:: r' = \log \sigma(r - q), \quad q = \bar r_m + (s_m + 10^{-5})\, \Phi^{-1}(p)

    with mean and deviation (ddof = 0) over the references of the prompt that have a value; :math:`q` is the quantile
    of a normal distribution. It is never positive, straight far below the quantile and flat above it. Where no
    reference has a value, the entry becomes invalid.

    Args:
      references: From `reference_scores`; with a single one, the quantile is its reward.
      quantile: :math:`p`, in (0, 1).

    Returns:
      A stateless shaping.

    Raises:
      ValueError: The quantile lies outside of (0, 1).

    References:
      Wang et al., 2024, Transforming and Combining Rewards for Aligning Large Language Models, arXiv:2402.00742; the
      normal quantile is that of the code of Fu et al., 2025, arXiv:2502.18770.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"log_sigmoid_centered got quantile={quantile}; give a fraction in (0, 1)")

    def value(rewards: Array, theirs: Array, valid: Array) -> Array:
        count = jnp.maximum(valid.sum(-1), 1)
        mean = jnp.sum(theirs, -1) / count
        apart = jnp.where(valid, theirs - mean[:, None], 0)
        deviation = jnp.sqrt(jnp.sum(jnp.square(apart), -1) / count)
        return jax.nn.log_sigmoid(rewards - (mean + (deviation + 1e-5) * ndtri(quantile))[:, None])

    return _compared(references, value)


def _compared(references: References, value: Callable[[Array, Array, Array], Array]) -> Shaping:
    """Applies `(rewards, rewards of references, their validity) -> rewards`."""

    def update(score: Score, state: tuple, rollouts: Rollouts) -> tuple[Score, tuple]:
        theirs, known = entries(references(rollouts))
        rewards, valid = entries(score)
        valid = valid & known.any(-1)[:, None]
        return dataclasses.replace(score, value=jnp.where(valid, value(rewards, theirs, known), 0), valid=valid), state

    return Shaping(init=lambda: (), update=update)


# --- Against everything seen ------------------------------------------------------------------------------------------


def clip_running(width: float = 1.0, decay: float = 0.99) -> Shaping:
    r"""Moves rewards into an interval around their running mean, :math:`[\mu - w \sigma, \mu + w \sigma]`.

    Mean and deviation (ddof = 0) are those of `standardize("running")`: of this batch and earlier ones.

    Args:
      width: Half of the interval in deviations; positive.
      decay: Weight of the past per batch, in [0, 1).

    Returns:
      A shaping with a `RunningMoments` as state; values stay in reward units.

    Raises:
      ValueError: The width is not positive and finite, or the decay lies outside of [0, 1).
    """
    check_decay("clip_running", decay)
    if not 0 < width < math.inf:
        raise ValueError(f"clip_running got width={width}; give a positive number of deviations")

    def update(score: Score, state: RunningMoments, rollouts: Rollouts) -> tuple[Score, RunningMoments]:
        del rollouts
        value, valid = entries(score)
        state = with_batch(state, value, valid, decay)
        half = width * jnp.sqrt(state.squares / jnp.maximum(state.weight, 1))
        clipped = jnp.clip(value, state.mean - half, state.mean + half)
        return dataclasses.replace(score, value=jnp.where(valid, clipped, 0)), state

    return Shaping(init=running_start, update=update)


class RunningRange(NamedTuple):
    """State of `min_max`, two scalars in reward units; infinite before the first batch.

    Attributes:
      low: Least reward seen.
      high: Greatest reward seen.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]


def min_max() -> Shaping:
    """Maps the range of all rewards seen so far, this batch included, to [0, 1]; rewards that never varied become 0.

    Returns:
      A shaping with a `RunningRange` as state; values are unitless.
    """

    def update(score: Score, state: RunningRange, rollouts: Rollouts) -> tuple[Score, RunningRange]:
        del rollouts
        value, valid = entries(score)
        low = jnp.minimum(state.low, jnp.min(jnp.where(valid, value, jnp.inf)))
        high = jnp.maximum(state.high, jnp.max(jnp.where(valid, value, -jnp.inf)))
        varied = high > low
        scaled = jnp.where(varied, (value - low) / jnp.where(varied, high - low, 1), 0)
        return dataclasses.replace(score, value=jnp.where(valid, scaled, 0)), RunningRange(low, high)

    return Shaping(
        init=lambda: RunningRange(*(jnp.asarray(end, jnp.float32) for end in (jnp.inf, -jnp.inf))), update=update
    )
