"""What combinations of rewards share.

How parts, failures and times of several scores are joined, which arrays are computed with (those of NumPy, or traced
ones of JAX), and the arithmetic of bounds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix.rewards._sheet import is_number
from agent_tunix.types import Bounds, Failure, Reward, Rollouts, Score

Merge = Callable[[Any, Sequence[Any], Sequence[Any]], tuple[Any, Any]]
"""`(namespace, values, valid) -> (value, valid)`, of arrays `[prompts group]`; values that are not valid may be
anything, and what becomes of them is discarded."""

PerToken = Callable[[Any, Sequence[Score]], Any]
"""`(namespace, scores) -> per_token`, `[prompts group tokens]` or None."""


def combination(
    kind: str,
    rewards: Sequence[Reward],
    bounds: Bounds,
    merge: Merge,
    *,
    name: str,
    per_token: PerToken | None = None,
) -> Reward:
    """A reward whose value is merged from those of others, and whose parts are all of theirs.

    Args:
      kind: What errors call the combination.
      rewards: Its children; each is called once.
      bounds: Attainable range of the merged value.
      merge: From the values of the children to one value. On NumPy's arrays it computes in float64.
      name: Name of the combination.
      per_token: The rewards per token; by default children that have any are refused.
    """

    def score(rollouts: Rollouts) -> Score:
        scores = [reward(rollouts) for reward in rewards]
        if per_token is None:
            refuse_per_token(kind, rewards, scores)
        xp = namespace(*scores)
        valid = [xp.asarray(score.valid, dtype=bool) for score in scores]
        with np.errstate(all="ignore"):  # what is not valid may be anything, and what overflows is refused below
            value, present = merge(xp, [xp.asarray(score.value, dtype=float) for score in scores], valid)
        return Score(
            value=finished(xp, name, value, present),
            valid=present,
            parts=joined(kind, rewards, [score.parts for score in scores]),
            outcomes=joined(kind, rewards, [score.outcomes for score in scores]),
            per_token=per_token(xp, scores) if per_token else None,
            failures=tuple(f for pair in zip(rewards, scores, strict=True) for f in failures_of(*pair)),
            seconds=joined(kind, rewards, [score.seconds for score in scores]),
        )

    return Reward(name, score, bounds, parts_of(rewards))


def namespace(*scores: Score) -> Any:
    """The module to compute with: NumPy if all arrays are its own, else that of the others, which takes NumPy's too."""
    arrays = (array for score in scores for array in (score.value, score.valid))
    return next((found for array in arrays if (found := array.__array_namespace__()) is not np), np)


def finished(xp: Any, name: str, value: Any, valid: Any) -> Any:
    """Values as a score holds them: float32, and 0 where they are not valid.

    Raises:
      ValueError: On the host, a valid value is beyond the range of float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value = xp.where(valid, value, 0).astype(xp.float32)
    if xp is np and not np.isfinite(value).all():
        prompt, member = np.argwhere(~np.isfinite(value))[0].tolist()
        raise ValueError(
            f"reward `{name}` came to {value[prompt, member]} for prompt {prompt}, completion {member}; scale or clip "
            "its parts"
        )
    return value


def joined(kind: str, rewards: Sequence[Reward], children: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several scores hold by part, under the paths of the parts in their combination."""
    together: dict[str, Any] = {}
    for reward, parts in zip(rewards, children, strict=True):
        for part, values in parts.items():
            path = path_of(reward, part)
            if path in together:
                raise ValueError(f"two parts of a {kind} are called `{path}`; give one another name=")
            together[path] = values
    return together


def parts_of(rewards: Sequence[Reward]) -> dict[str, Bounds]:
    """Ranges of the parts of several rewards, under their paths in a combination."""
    return {path_of(reward, part): bounds for reward in rewards for part, bounds in reward.parts.items()}


def failures_of(reward: Reward, score: Score) -> list[Failure]:
    """The failures of a child, under the paths of the parts in the combination."""
    return [failure._replace(part=path_of(reward, failure.part)) for failure in score.failures]


def refuse_per_token(kind: str, rewards: Sequence[Reward], scores: Sequence[Score]) -> None:
    """Raises where a reward is given per token and would be lost."""
    for reward, score in zip(rewards, scores, strict=True):
        if score.per_token is not None:
            raise TypeError(
                f"reward `{reward.name}` is given per token, which {kind} would lose; combine it with weighted_sum, "
                "scale or gate"
            )


def check_rewards(kind: str, rewards: Sequence[Reward]) -> None:
    """Raises where there are no rewards, where they are something else, or where two have one name."""
    if not rewards:
        raise ValueError(f"{kind} got no rewards; give at least one")
    names: set[str] = set()
    for reward in rewards:
        if not isinstance(reward, Reward):
            raise TypeError(f"{kind} got {reward!r:.80}; give rewards, and lift functions with as_reward")
        if reward.name in names:
            raise ValueError(f"{kind} got `{reward.name}` twice; give one another name=")
        names.add(reward.name)


def finite(what: str, value: Any) -> float:
    """A setting as a float.

    Raises:
      TypeError: It is not a number.
      ValueError: It is not finite.
    """
    if not is_number(value):
        raise TypeError(f"{what} is {value!r:.80}; give a number")
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}; give a finite one")
    return float(value)


def path_of(reward: Reward, part: str) -> str:
    """The path of a reward's part in a combination; a reward that is its own only part needs no prefix."""
    return part if part == reward.name else f"{reward.name}/{part}"


def single(number: float) -> np.float32:
    """A setting as what it is compared with: infinite where float32 cannot hold it."""
    with np.errstate(over="ignore"):
        return np.float32(number)


# --- Bounds -----------------------------------------------------------------------------------------------------------


def scaled(bounds: Bounds, weight: float) -> Bounds:
    """The range of a value times a number."""
    return Bounds(*sorted(_times(weight, end) for end in bounds))


def added(*bounds: Bounds) -> Bounds:
    """The range of a sum."""
    return Bounds(math.fsum(low for low, _ in bounds), math.fsum(high for _, high in bounds))


def multiplied(first: Bounds, second: Bounds) -> Bounds:
    """The range of a product."""
    ends = [_times(one, other) for one in first for other in second]
    return Bounds(min(ends), max(ends))


def hull(*bounds: Bounds) -> Bounds:
    """The least range that holds all of several."""
    return Bounds(min(low for low, _ in bounds), max(high for _, high in bounds))


def _times(one: float, other: float) -> float:
    # Values are finite even where their bounds are not, so that 0 times an infinite bound is 0 and not NaN.
    return float(one * other) if one and other else 0.0
