"""Rewards from several rewards: callables in, callable out.

They work on the arrays of their children, those of NumPy or traced ones of JAX. What depends on a condition, and what
changes one reward, is in `_adjust`.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from agent_tunix.rewards._calls.running import OnFailure, Runner
from agent_tunix.rewards._combining import (
    Merge,
    added,
    check_rewards,
    combination,
    finite,
    hull,
    multiplied,
    scaled,
)
from agent_tunix.rewards._graders import exact_answer, tag_format
from agent_tunix.rewards._lift import as_reward, per_completion
from agent_tunix.rewards._sheet import is_number, written
from agent_tunix.types import Bounds, Reward, Score


def weighted_sum(*terms: tuple[float, Reward], name: str = "weighted_sum") -> Reward:
    """Adds rewards with weights.

    An entry is valid only where every part of non-zero weight has a value: a total from the parts that happen to be
    there would be another reward, on another scale, than that of its neighbours in the group. Parts keep their names;
    those of a nested combination get its name as prefix, `accuracy/exact_answer`. A part of weight zero is recorded and
    otherwise ignored. Rewards per token are added likewise.

    Args:
      *terms: Pairs of a finite weight, of either sign, and a reward. Names have to differ.
      name: Name of the sum, the prefix of its parts in a further combination.

    Returns:
      The sum; its bounds follow from those of the parts by interval arithmetic.

    Raises:
      ValueError: No terms, a reward or a name twice, or a weight that is not finite.
      TypeError: A term is not a pair of a number and a `Reward`.

    Examples:
      >>> layout = per_completion(tag_format, bounds=(0, 1))
      >>> correctness = per_completion(exact_answer, "answer", bounds=(0, 1))
      >>> weighted_sum((1.0, correctness), (-0.5, layout)).bounds
      Bounds(low=-0.5, high=1.0)
    """
    _check_terms(terms)
    weights = [finite(f"the weight of reward `{reward.name}`", weight) for weight, reward in terms]
    rewards = [reward for _, reward in terms]
    used = [index for index, weight in enumerate(weights) if weight]

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        total, present = xp.zeros_like(values[0]), xp.ones_like(valid[0])
        for index in used:
            total, present = total + weights[index] * values[index], present & valid[index]
        return total, present

    def per_token(xp: Any, scores: Sequence[Score]) -> Any:
        given = [weights[i] * xp.asarray(scores[i].per_token) for i in used if scores[i].per_token is not None]
        return functools.reduce(operator.add, given) if given else None

    bounds = added(*(scaled(reward.bounds, weight) for weight, reward in zip(weights, rewards, strict=True)))
    return combination("weighted_sum", rewards, bounds, merge, name=name, per_token=per_token)


def product(*rewards: Reward, name: str = "product") -> Reward:
    """Multiplies rewards: a zero in any of them is a zero of the whole.

    An entry is valid only where every reward has a value. Two negative rewards give a positive product; give rewards
    that are not negative where that is not meant.

    Args:
      *rewards: At least one; names have to differ.
      name: Name of the product, the prefix of its parts in a further combination.

    Returns:
      The product; its bounds are those of a product of intervals.

    Raises:
      ValueError: No rewards, or a name twice.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.

    Examples:
      >>> layout = per_completion(tag_format, name="format", bounds=(-2, 1))
      >>> product(layout, per_completion(exact_answer, "answer", bounds=(0, 1))).bounds
      Bounds(low=-2.0, high=1.0)
    """
    check_rewards("product", rewards)
    bounds = functools.reduce(multiplied, (reward.bounds for reward in rewards))
    return combination("product", rewards, bounds, _of_all(lambda _, values: _product(values)), name=name)


def geometric_mean(*rewards: Reward, weights: Sequence[float] | None = None, name: str = "geometric_mean") -> Reward:
    r"""Averages rewards that are not negative so that none can make up for another that is zero.

    .. math:: r = \prod_k r_k^{w_k / \sum_j w_j}

    It is a product on the scale of its parts. An entry is valid only where every reward of non-zero weight has a value.

    Args:
      *rewards: At least one; names have to differ. Each declares bounds of which the lower one is not negative.
      weights: One per reward, not negative and not all zero; all the same by default. A part of weight zero is
        recorded and otherwise ignored.
      name: Name of the mean, the prefix of its parts in a further combination.

    Returns:
      The mean; its bounds are the means of those of the parts.

    Raises:
      ValueError: No rewards, a name twice, a reward that may be negative, or weights that do not fit.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.

    Examples:
      >>> layout = per_completion(tag_format, bounds=(0.25, 1))
      >>> geometric_mean(layout, per_completion(exact_answer, "answer", bounds=(0, 4))).bounds
      Bounds(low=0.0, high=2.0)
    """
    check_rewards("geometric_mean", rewards)
    exponents = _exponents(rewards, weights, "geometric_mean")
    used = [index for index, exponent in enumerate(exponents) if exponent]
    for index in used:
        if not rewards[index].bounds.low >= 0:
            raise ValueError(
                f"geometric_mean needs rewards that are never negative, `{rewards[index].name}` has bounds "
                f"{written(rewards[index].bounds)}; declare others with bounds= or bounded(reward, low, high)"
            )

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        present = functools.reduce(operator.and_, (valid[index] for index in used))
        # Only values that count are raised to a power: another may be negative, or NaN.
        kept = (xp.where(present, values[index], 1) ** exponents[index] for index in used)
        return _product(list(kept)), present

    ends = [Bounds(*(end ** exponents[index] for end in rewards[index].bounds)) for index in used]
    return combination("geometric_mean", rewards, functools.reduce(multiplied, ends), merge, name=name)


def signed_geometric_mean(
    *rewards: Reward, weights: Sequence[float] | None = None, name: str = "signed_geometric_mean"
) -> Reward:
    r"""The geometric mean of magnitudes, negative where any reward is negative: all have to be good at once.

    .. math:: r = s \prod_k |r_k|^{w_k / \sum_j w_j}, \qquad s = 1 \text{ if all } r_k \ge 0 \text{, else } -1

    Two negative rewards do not make a positive one, as they would in a `product`. A zero in any of them is a zero of
    the whole. Zero has to mean the same in all of them: center each first, with `scale(reward, 2, -1)` from [0, 1].
    An entry is valid only where every reward of non-zero weight has a value.

    Args:
      *rewards: At least one; names have to differ.
      weights: One per reward, not negative and not all zero; all the same by default. A part of weight zero is
        recorded and otherwise ignored, its sign too.
      name: Name of the mean, the prefix of its parts in a further combination.

    Returns:
      The mean, on the scale of its parts; its bounds follow from theirs.

    Raises:
      ValueError: No rewards, a name twice, or weights that do not fit.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.

    Examples:
      >>> layout = per_completion(tag_format, bounds=(-1, 1))
      >>> signed_geometric_mean(layout, per_completion(exact_answer, "answer", bounds=(0, 4))).bounds
      Bounds(low=-2.0, high=2.0)

    References:
      Moschopoulos, Kyriakidis, Lazaridis and Vlahavas, 2023, Lucy-SKG (arXiv 2305.15801): kinesthetic reward
      combination, the case of equal weights.
    """
    kind = "signed_geometric_mean"
    check_rewards(kind, rewards)
    exponents = _exponents(rewards, weights, kind)
    used = [index for index, exponent in enumerate(exponents) if exponent]

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        present = functools.reduce(operator.and_, (valid[index] for index in used))
        kept = [xp.where(present, values[index], 1) for index in used]
        size = _product([abs(value) ** exponents[index] for index, value in zip(used, kept, strict=True)])
        return xp.where(functools.reduce(xp.minimum, kept) < 0, -size, size), present

    bounds = _signed_bounds([(rewards[index].bounds, exponents[index]) for index in used])
    return combination(kind, rewards, bounds, merge, name=name)


def minimum(*rewards: Reward, name: str = "minimum") -> Reward:
    """The least of several rewards: all have to be good. Valid only where every one has a value.

    Args:
      *rewards: At least one, on one scale; names have to differ.
      name: Name of the minimum, the prefix of its parts in a further combination.

    Raises:
      ValueError: No rewards, or a name twice.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.
    """
    check_rewards("minimum", rewards)
    lows, highs = zip(*(reward.bounds for reward in rewards), strict=True)
    merge = _of_all(lambda xp, values: functools.reduce(xp.minimum, values))
    return combination("minimum", rewards, Bounds(min(lows), min(highs)), merge, name=name)


def maximum(*rewards: Reward, name: str = "maximum") -> Reward:
    """The greatest of several rewards: one good one is enough. Valid only where every one has a value.

    A value that is missing might have been the greatest; `first_valid` is the combination that does without.

    Args:
      *rewards: At least one, on one scale; names have to differ.
      name: Name of the maximum, the prefix of its parts in a further combination.

    Raises:
      ValueError: No rewards, or a name twice.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.
    """
    check_rewards("maximum", rewards)
    lows, highs = zip(*(reward.bounds for reward in rewards), strict=True)
    merge = _of_all(lambda xp, values: functools.reduce(xp.maximum, values))
    return combination("maximum", rewards, Bounds(max(lows), max(highs)), merge, name=name)


def first_valid(*rewards: Reward, name: str = "first_valid") -> Reward:
    """The first reward that has a value, for each completion: later ones stand in where earlier ones abstain or fail.

    All rewards are called, so that the parts are always the same. Completions of one group may get their value from
    different rewards, which therefore have to be on one scale.

    Args:
      *rewards: At least one, the preferred one first; names have to differ.
      name: Name of the choice, the prefix of its parts in a further combination.

    Returns:
      A reward that has a value wherever any of them has; its bounds span all of theirs.

    Raises:
      ValueError: No rewards, or a name twice.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.
    """
    check_rewards("first_valid", rewards)

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        value = values[-1]
        for earlier, present in zip(values[-2::-1], valid[-2::-1], strict=True):
            value = xp.where(present, earlier, value)
        return value, functools.reduce(operator.or_, valid)

    return combination("first_valid", rewards, hull(*(reward.bounds for reward in rewards)), merge, name=name)


def default(
    alpha: float = 0.3,
    beta: float = 0.7,
    *,
    is_correct: Callable[..., Any] | None = None,
    run: Runner | None = None,
    on_failure: str | OnFailure = "abstain",
) -> Reward:
    """The default reward, `alpha * format + beta * correctness`.

    Args:
      alpha: Weight of `format`, graded by `tag_format`.
      beta: Weight of `correctness`.
      is_correct: Grader of correctness in [0, 1] for tasks with many right answers, with parameters as in `as_reward`:
        `(response, numbers, target)` for instance, or `(response, metadata)` where tasks are mixed and
        `metadata["task"]` decides. By default `exact_answer` on the column `answer`.
      run: Where `is_correct` runs, as in `as_reward`.
      on_failure: What its failures lead to, as in `as_reward`.

    Returns:
      A reward with the parts `format` and `correctness`, both in [0, 1].
    """
    layout = per_completion(tag_format, name="format", bounds=(0, 1))
    if is_correct is None:
        how = {"run": run, "on_failure": on_failure}
        correctness = per_completion(exact_answer, "answer", name="correctness", bounds=(0, 1), **how)
    else:
        correctness = as_reward(is_correct, name="correctness", bounds=(0, 1), run=run, on_failure=on_failure)
    return weighted_sum((alpha, layout), (beta, correctness), name="default")


def flat_groups(score: Score) -> Bool[np.ndarray, " prompts"]:
    """True for groups that carry no preference: valid values all equal, or fewer than two of them."""
    value, valid = np.asarray(score.value), np.asarray(score.valid)
    highest = np.where(valid, value, -np.inf).max(-1, initial=-np.inf)
    lowest = np.where(valid, value, np.inf).min(-1, initial=np.inf)
    return highest <= lowest


def mixed_groups(score: Score) -> Bool[np.ndarray, " prompts"]:
    """True for groups worth training on, those that are not flat: the `keep_group` of dynamic sampling.

    References:
      Yu et al., 2025, DAPO, section 3.2 (arXiv 2503.14476), which keeps groups whose accuracy is neither 0 nor 1; for
      a reward of several parts this keeps those whose value differs anywhere.
    """
    return ~flat_groups(score)


def _of_all(function: Callable[[Any, Sequence[Any]], Any]) -> Merge:
    """A merge that is valid where all are."""
    return lambda xp, values, valid: (function(xp, values), functools.reduce(operator.and_, valid))


def _product(values: Sequence[Any]) -> Any:
    return functools.reduce(operator.mul, values)


def _exponents(rewards: Sequence[Reward], weights: Sequence[float] | None, kind: str) -> list[float]:
    """Weights that sum to one."""
    given = [1.0] * len(rewards) if weights is None else [finite(f"a weight of {kind}", w) for w in weights]
    if len(given) != len(rewards) or min(given) < 0 or not any(given):
        raise ValueError(
            f"{kind} got weights {given} for {len(rewards)} rewards; give one each, none negative, not all 0"
        )
    return [weight / math.fsum(given) for weight in given]


def _signed_bounds(terms: Sequence[tuple[Bounds, float]]) -> Bounds:
    """The range of a signed geometric mean of values with these ranges and exponents."""

    def mean(sizes: Sequence[float]) -> float:
        return (
            math.prod(size**exponent for size, (_, exponent) in zip(sizes, terms, strict=True)) if all(sizes) else 0.0
        )

    ranges = [bounds for bounds, _ in terms]
    most = [max(abs(low), abs(high)) for low, high in ranges]
    least = [max(low, -high, 0.0) for low, high in ranges]
    worst = [mean([*most[:k], -low, *most[k + 1 :]]) for k, (low, _) in enumerate(ranges) if low < 0]
    low = -max(worst) if worst else mean([low for low, _ in ranges])
    return Bounds(low, -mean(least) if any(high < 0 for _, high in ranges) else mean([high for _, high in ranges]))


def _check_terms(terms: Sequence[tuple[float, Reward]]) -> None:
    if not terms:
        raise ValueError("weighted_sum got no terms; give pairs of a weight and a reward")
    names: set[str] = set()
    for term in terms:
        if not (isinstance(term, tuple) and len(term) == 2 and is_number(term[0]) and isinstance(term[1], Reward)):
            raise TypeError(f"weighted_sum got {term!r:.80}; give (weight, reward) and lift functions with as_reward")
        name = term[1].name
        if name in names:
            raise ValueError(f"weighted_sum got `{name}` twice; add the weights, or give one another name=")
        names.add(name)
