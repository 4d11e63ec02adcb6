"""Rewards from rewards: callables in, callable out."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from agent_tunix.rewards._graders import exact_answer, tag_format
from agent_tunix.rewards._lift import as_reward, is_number, per_completion
from agent_tunix.types import Bounds, Reward, Score


def weighted_sum(*terms: tuple[float, Reward], name: str = "weighted_sum") -> Reward:
    """Adds rewards with weights.

    An entry is valid only where every part of non-zero weight has a value: a total from the parts that happen to be
    there would be another reward, on another scale, than that of its neighbours in the group. Parts keep their names;
    those of a nested combination get its name as prefix, `accuracy/exact_answer`. A part of weight zero is recorded and
    otherwise ignored.

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
    weights = [float(weight) for weight, _ in terms]
    rewards = [reward for _, reward in terms]
    # A weight of 0 times an infinite bound is no bound, but NaN.
    ends = [
        sorted(weight * end for end in reward.bounds) for weight, reward in zip(weights, rewards, strict=True) if weight
    ]
    bounds = Bounds(math.fsum(low for low, _ in ends), math.fsum(high for _, high in ends))
    return Reward(name, lambda rollouts: _combined(weights, rewards, [reward(rollouts) for reward in rewards]), bounds)


def default(alpha: float = 0.3, beta: float = 0.7, *, is_correct: Callable[..., Any] | None = None) -> Reward:
    """The default reward, `alpha * format + beta * correctness`.

    Args:
      alpha: Weight of `format`, graded by `tag_format`.
      beta: Weight of `correctness`.
      is_correct: Grader of correctness in [0, 1] for tasks with many right answers, with parameters as in `as_reward`:
        `(response, numbers, target)` for instance, or `(response, metadata)` where tasks are mixed and
        `metadata["task"]` decides. By default `exact_answer` on the column `answer`.

    Returns:
      A reward with the parts `format` and `correctness`, both in [0, 1].
    """
    layout = per_completion(tag_format, name="format", bounds=(0, 1))
    if is_correct is None:
        correctness = per_completion(exact_answer, "answer", name="correctness", bounds=(0, 1))
    else:
        correctness = as_reward(is_correct, name="correctness", bounds=(0, 1))
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


def _check_terms(terms: Sequence[tuple[float, Reward]]) -> None:
    if not terms:
        raise ValueError("weighted_sum got no terms; give pairs of a weight and a reward")
    names: set[str] = set()
    for term in terms:
        if not (isinstance(term, tuple) and len(term) == 2 and is_number(term[0]) and isinstance(term[1], Reward)):
            raise TypeError(f"weighted_sum got {term!r:.80}; give (weight, reward) and lift functions with as_reward")
        weight, reward = term
        if not math.isfinite(weight):
            raise ValueError(f"the weight of reward `{reward.name}` is {weight}; give a finite one")
        if reward.name in names:
            raise ValueError(f"weighted_sum got `{reward.name}` twice; add the weights, or give one another name=")
        names.add(reward.name)


def _combined(weights: Sequence[float], rewards: Sequence[Reward], scores: Sequence[Score]) -> Score:
    """The weighted sum of scores of the same rollouts."""
    weighted = [(weight, score) for weight, score in zip(weights, scores, strict=True) if weight]
    valid = np.ones(np.shape(scores[0].value), bool)
    total = np.zeros(valid.shape)
    for weight, score in weighted:
        valid &= np.asarray(score.valid)
        total += weight * np.asarray(score.value, float)
    return Score(
        value=np.where(valid, total, 0).astype(np.float32),
        valid=valid,
        parts=_joined(rewards, [score.parts for score in scores]),
        outcomes=_joined(rewards, [score.outcomes for score in scores]),
        per_token=_sum_per_token(weighted),
        failures=tuple(
            failure._replace(part=_path(reward, failure.part))
            for reward, score in zip(rewards, scores, strict=True)
            for failure in score.failures
        ),
    )


def _path(reward: Reward, part: str) -> str:
    """The path of a reward's part in a combination; a reward that is its own only part needs no prefix."""
    return part if part == reward.name else f"{reward.name}/{part}"


def _joined(rewards: Sequence[Reward], children: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for reward, parts in zip(rewards, children, strict=True):
        for part, values in parts.items():
            path = _path(reward, part)
            if path in joined:
                raise ValueError(f"two parts of a weighted_sum are called `{path}`; give one another name=")
            joined[path] = values
    return joined


def _sum_per_token(weighted: Sequence[tuple[float, Score]]) -> np.ndarray | None:
    present = [weight * np.asarray(score.per_token) for weight, score in weighted if score.per_token is not None]
    return np.sum(present, axis=0) if present else None
