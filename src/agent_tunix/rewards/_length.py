"""Rewards for length, counted in tokens of the policy's tokenizer with the stop token, never in characters.

A completion that is cut off by the token budget has no length of its own: it would have gone on. Every function here
says what it takes such a completion for, and none of them pays it for being short.

Where a reward says what is right, shortness is never bought with wrong answers: `cosine_length` and `concise` put no
wrong completion above a right one, and `relative_length` pays a wrong one nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from agent_tunix.rewards._combining import check_rewards, failures_of, finite, joined, parts_of
from agent_tunix.rewards._lift import column_of
from agent_tunix.types import Bounds, Outcome, Reward, Rollouts, Score


class Judged(NamedTuple):
    """What a rule of length sees of a batch.

    Attributes:
      lengths: In tokens.
      truncated: Where the token budget ended the completion.
      right: Where the completion was judged right; False where it was not judged.
      valid: Where it was judged.
    """

    lengths: Int[np.ndarray, "prompts group"]
    truncated: Bool[np.ndarray, "prompts group"]
    right: Bool[np.ndarray, "prompts group"]
    valid: Bool[np.ndarray, "prompts group"]


def cosine_length(
    correct: Reward,
    max_tokens: int,
    *,
    correct_range: tuple[float, float] = (0.5, 1.0),
    wrong_range: tuple[float, float] = (-1.0, -0.5),
    threshold: float = 0.5,
    name: str = "cosine_length",
) -> Reward:
    r"""Pays right completions for being short and wrong ones for trying longer, along half a cosine.

    .. math:: r = v_L + \tfrac12 (v_0 - v_L)\left(1 + \cos\frac{\pi \min(L, L_{max})}{L_{max}}\right)

    With the range `(low, high)`, a right completion goes from :math:`v_0` = high to :math:`v_L` = low as it gets
    longer, a wrong one from :math:`v_0` = low to :math:`v_L` = high. One that was cut off gets the low end of its
    range.

    Args:
      correct: Says which completions are right. Where it has no value there is none here either.
      max_tokens: Length at which the far end is reached, usually the token budget.
      correct_range: Least and greatest reward of a right completion.
      wrong_range: Of a wrong one; no part of it may lie above `correct_range`.
      threshold: Least value of `correct` that counts as right.
      name: Name of the part in metrics.

    Returns:
      A reward with the part `name` and those of `correct`.

    Raises:
      ValueError: `max_tokens` is not positive, or a range is upside down or overlaps the other.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion
      >>> cosine_length(per_completion(exact_answer, "answer"), 1024).bounds
      Bounds(low=-1.0, high=1.0)

    References:
      Yeo et al., 2025, Demystifying Long Chain-of-Thought Reasoning in LLMs, section 4.2 (arXiv 2502.03373), with the
      ranges that Open-R1 and TRL use by default. The paper gives completions that exceed the length a reward of their
      own, equal to that of the shortest wrong ones; for wrong completions this is what the low end amounts to.
    """
    limit = _positive("max_tokens", max_tokens)
    good, bad = _range("correct_range", correct_range), _range("wrong_range", wrong_range)
    if bad.high > good.low:
        raise ValueError(f"wrong_range {bad} reaches above the low end of correct_range {good}; keep it below")

    def curve(batch: Judged) -> Float[np.ndarray, "prompts group"]:
        # 1 for no tokens at all, 0 at the limit and beyond.
        shortness = (1 + np.cos(np.pi * np.minimum(batch.lengths / limit, 1))) / 2
        right = good.low + (good.high - good.low) * np.where(batch.truncated, 0, shortness)
        wrong = bad.high + (bad.low - bad.high) * np.where(batch.truncated, 1, shortness)
        return np.where(batch.right, right, wrong)

    return _by_correctness(name, correct, threshold, Bounds(bad.low, good.high), curve)


def soft_overlong(max_tokens: int, cache_tokens: int, *, floor: float = -1.0, name: str = "soft_overlong") -> Reward:
    r"""Charges completions for the last tokens before the limit, in proportion.

    .. math:: r = \max\left(\text{floor},\; \min\left(0,\; \frac{(L_{max} - L_{cache}) - L}{L_{cache}}\right)\right)

    It is 0 up to `max_tokens - cache_tokens` and falls to -1 at `max_tokens`. A completion that was cut off counts as
    at least `max_tokens` long.

    Args:
      max_tokens: Length that costs a whole unit.
      cache_tokens: Over how many tokens before it the charge grows.
      floor: Least reward; `-math.inf` lets the charge grow beyond `max_tokens`.
      name: Name of the part in metrics.

    Returns:
      A reward in `[floor, 0]` with one part, to be added to another.

    Raises:
      ValueError: `cache_tokens` is not between 1 and `max_tokens`, or `floor` is not below 0.

    Examples:
      >>> soft_overlong(1024, 256).bounds
      Bounds(low=-1.0, high=0.0)

    References:
      Yu et al., 2025, DAPO, equation 13 (arXiv 2503.14476), whose last case is `floor=-1`. verl, NeMo-RL and Tunix have
      no floor.
    """
    limit, cache = _positive("max_tokens", max_tokens), _positive("cache_tokens", cache_tokens)
    if cache > limit:
        raise ValueError(f"cache_tokens is {cache}, more than max_tokens={limit}; give a part of it")
    if not floor < 0:
        raise ValueError(f"floor is {floor}; give a number below 0, or -math.inf for none")

    def charge(rollouts: Rollouts) -> Float[np.ndarray, "prompts group"]:
        lengths = np.where(rollouts.truncated, np.maximum(rollouts.lengths, limit), rollouts.lengths)
        return np.maximum(floor, np.minimum(0, (limit - cache - lengths) / cache))

    return _by_length(name, Bounds(float(floor), 0.0), charge)


def length_budget(
    tokens: int | str, *, slope: float = 0.0003, at_budget: float = 0.5, name: str = "length_budget"
) -> Reward:
    r"""Pays for staying within a budget, with a soft edge.

    .. math:: r = \mathrm{clip}(\alpha (n - L) + \delta,\; 0,\; 1)

    with :math:`n` the budget. `product(correct, length_budget(...))` pays right completions only. One that was cut off
    gets 0: how far it would have gone over is not known.

    Args:
      tokens: The budget, or the name of the column that holds that of every prompt.
      slope: :math:`\alpha`, reward per token saved, positive.
      at_budget: :math:`\delta`, the reward at exactly the budget.
      name: Name of the part in metrics.

    Returns:
      A reward in [0, 1] with one part; the upper bound is lower where a fixed budget cannot reach 1.

    Raises:
      ValueError: A setting is out of its range; when called: the column is missing, or has a budget that is not
        positive.

    Examples:
      >>> length_budget(1000, slope=0.0003).bounds
      Bounds(low=0.0, high=0.8)

    References:
      Aggarwal and Welleck, 2025, L1, the LCPO-Max objective (arXiv 2503.04697), which multiplies this with correctness
      and writes the budget into the prompt; slope and offset are the paper's.
    """
    alpha, delta = finite("slope of length_budget", slope), finite("at_budget of length_budget", at_budget)
    if not (alpha > 0 and 0 <= delta <= 1):
        raise ValueError(f"length_budget got slope={slope}, at_budget={at_budget}; slope > 0, 0 <= at_budget <= 1")
    fixed = None if isinstance(tokens, str) else _positive("tokens", tokens)
    high = 1.0 if fixed is None else min(1.0, alpha * fixed + delta)

    def within(rollouts: Rollouts) -> Float[np.ndarray, "prompts group"]:
        budget = fixed if fixed is not None else _budgets(rollouts, str(tokens), name)
        return np.where(rollouts.truncated, 0, np.clip(alpha * (budget - rollouts.lengths) + delta, 0, high))

    return _by_length(name, Bounds(0.0, high), within)


def relative_length(correct: Reward, *, threshold: float = 0.5, name: str = "relative_length") -> Reward:
    r"""Compares the length of each completion with the others of its group.

    .. math:: \lambda = \frac12 - \frac{L - L_{min}}{L_{max} - L_{min}}

    with the shortest and the longest completion of the group. A right completion gets :math:`\lambda`, a wrong one
    :math:`\min(0, \lambda)`: it is charged for length but never paid for brevity. Where all are equally long everyone
    gets 0. A completion that was cut off stands at the token budget, and so is the longest of its group.

    Args:
      correct: Says which completions are right. Where it has no value there is none here either, and the length of
        that completion is not compared with.
      threshold: Least value of `correct` that counts as right.
      name: Name of the part in metrics.

    Returns:
      A reward in [-0.5, 0.5] with the part `name` and those of `correct`, to be added to another.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion
      >>> relative_length(per_completion(exact_answer, "answer")).bounds
      Bounds(low=-0.5, high=0.5)

    References:
      Kimi Team, 2025, Kimi k1.5, section 2.3.3 (arXiv 2501.12599), which adds it with a weight and only after a warm-up
      without it.
    """

    def compare(batch: Judged) -> Float[np.ndarray, "prompts group"]:
        shortest = np.where(batch.valid, batch.lengths, np.inf).min(-1, keepdims=True, initial=np.inf)
        longest = np.where(batch.valid, batch.lengths, -np.inf).max(-1, keepdims=True, initial=-np.inf)
        spread = longest - shortest
        differ = batch.valid & (spread > 0)
        fraction = np.divide(batch.lengths - shortest, spread, out=np.full(differ.shape, 0.5), where=differ)
        return np.where(batch.right, 0.5 - fraction, np.minimum(0, 0.5 - fraction))

    return _by_correctness(name, correct, threshold, Bounds(-0.5, 0.5), compare)


def concise(correct: Reward, *, strength: float = 0.2, threshold: float = 0.5, name: str = "concise") -> Reward:
    r"""Pays right completions more the shorter they are among the right ones of their group; wrong ones get nothing.

    .. math:: r = [\text{right}] \left(1 - \alpha\, \sigma\left(\frac{L - \bar L}{s_L}\right)\right)

    with mean and standard deviation (ddof = 0) of the lengths of the right completions to the same prompt, and
    :math:`\sigma` the logistic function. A right completion gets more than `1 - strength`, so that no wrong one,
    however short, comes near. Hard prompts are not charged for the length they need. Where all right ones are equally
    long, the middle, `1 - strength / 2`, is theirs. One that is right and was cut off counts with the token budget as
    its length.

    Args:
      correct: Says which completions are right. Where it has no value there is none here either. Partial credit below
        `threshold` is not kept; add `correct` itself for that.
      strength: :math:`\alpha` in [0, 1), how much of the reward depends on length.
      threshold: Least value of `correct` that counts as right.
      name: Name of the part in metrics.

    Returns:
      A reward in [0, 1] with the part `name` and those of `correct`, to be used in place of `correct`.

    Raises:
      ValueError: `strength` is not in [0, 1).

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion
      >>> concise(per_completion(exact_answer, "answer")).bounds
      Bounds(low=0.0, high=1.0)

    References:
      Arora and Zanette, 2025, Training Language Models to Reason Efficiently, section 3 (arXiv 2502.04463).
    """
    alpha = finite("strength of concise", strength)
    if not 0 <= alpha < 1:
        raise ValueError(f"strength of concise is {strength}; give a number in [0, 1), at 1 a right answer may get 0")

    def shorter(batch: Judged) -> Float[np.ndarray, "prompts group"]:
        count = np.maximum(batch.right.sum(-1, keepdims=True), 1)
        mean = (batch.lengths * batch.right).sum(-1, keepdims=True) / count
        away = np.where(batch.right, batch.lengths - mean, 0)
        deviation = np.sqrt((away**2).sum(-1, keepdims=True) / count)
        standardized = np.divide(away, deviation, out=np.zeros(away.shape), where=deviation > 0)
        return np.where(batch.right, 1 - alpha / (1 + np.exp(-standardized)), 0)

    return _by_correctness(name, correct, threshold, Bounds(0.0, 1.0), shorter)


# --- Details ----------------------------------------------------------------------------------------------------------


def _by_length(name: str, bounds: Bounds, values: Callable[[Rollouts], Float[np.ndarray, "prompts group"]]) -> Reward:
    """A reward that needs lengths only, and has a value for every completion."""

    def score(rollouts: Rollouts) -> Score:
        return _score(name, values(rollouts), np.ones(rollouts.shape, bool))

    return Reward(name, score, bounds)


def _by_correctness(
    name: str,
    correct: Reward,
    threshold: float,
    bounds: Bounds,
    values: Callable[[Judged], Float[np.ndarray, "prompts group"]],
) -> Reward:
    """A reward that needs lengths and what is right, valid where the latter is; it keeps the parts of its judge."""
    check_rewards(name, [correct])
    if correct.name == name:
        raise ValueError(f"{name} got a reward of the same name; give one of them another name=")
    least = finite(f"threshold of {name}", threshold)

    def score(rollouts: Rollouts) -> Score:
        judge = correct(rollouts)
        valid = np.asarray(judge.valid, bool)
        right = valid & (np.asarray(judge.value) >= least)
        own = _score(name, values(Judged(rollouts.lengths, np.asarray(rollouts.truncated, bool), right, valid)), valid)
        return Score(
            value=own.value,
            valid=valid,
            parts={**own.parts, **joined(name, [correct], [judge.parts])},
            outcomes={**own.outcomes, **joined(name, [correct], [judge.outcomes])},
            failures=tuple(failures_of(correct, judge)),
            seconds=joined(name, [correct], [judge.seconds]),
        )

    return Reward(name, score, bounds, {name: bounds, **parts_of([correct])})


def _score(name: str, values: Float[np.ndarray, "prompts group"], valid: Bool[np.ndarray, "prompts group"]) -> Score:
    """A score of one part."""
    return Score(
        value=np.where(valid, values, 0).astype(np.float32),
        valid=valid,
        parts={name: np.where(valid, values, np.nan).astype(np.float32)},
        outcomes={name: np.where(valid, Outcome.GRADED, Outcome.ABSTAINED).astype(np.int8)},
    )


def _budgets(rollouts: Rollouts, column: str, name: str) -> Float[np.ndarray, "prompts 1"]:
    """The budget of every prompt."""
    budgets = column_of(rollouts, column, name)
    return np.array([[_positive(f"the budget in column `{column}`", budget)] for budget in budgets])


def _positive(what: str, value: float) -> float:
    number = finite(what, value)
    if not number > 0:
        raise ValueError(f"{what} is {value}; give a positive number of tokens")
    return number


def _range(what: str, ends: tuple[float, float]) -> Bounds:
    low, high = (finite(f"an end of {what}", end) for end in ends)
    if low > high:
        raise ValueError(f"{what} is ({low:g}, {high:g}); give the lower end first")
    return Bounds(low, high)
