"""Clipping, of a reward or of a score on its way to the advantage: one name for both."""

import dataclasses
from typing import Any, overload

from agent_tunix.rewards._adjust import adjusted
from agent_tunix.rewards._combining import check_rewards, finished, refuse_per_token, single
from agent_tunix.rewards._sheet import checked_bounds
from agent_tunix.types import Bounds, Reward, Score, Shaping


@overload
def clip(low: float, high: float) -> Shaping: ...


@overload
def clip(reward: Reward, low: float, high: float, *, name: str | None = None) -> Reward: ...


def clip(*arguments: Any, **named: Any) -> Reward | Shaping:
    """Moves values outside of an interval to its nearer end.

    `clip(reward, low, high)` is a reward, `clip(low, high)` a shaping.

    Args:
      *arguments: `reward, low, high` or `low, high`. Either end may be infinite.
      **named: The same by name, and for a reward `name`, by default that of the reward.

    Returns:
      The clipped reward, whose bounds are clipped too and whose parts stay as they were; or the shaping.

    Raises:
      ValueError: `low` is not below `high`.
      TypeError: The arguments are neither; when called: the reward is given per token.

    Examples:
      >>> from agent_tunix.rewards import per_completion
      >>> clip(per_completion(len, bounds=(0, 9)), 2, float("inf")).bounds
      Bounds(low=2.0, high=9.0)
    """
    if "reward" in named or (arguments and (isinstance(arguments[0], Reward) or callable(arguments[0]))):
        return _clipped(*arguments, **named)
    from agent_tunix.rewards._shaping import clip_values

    return clip_values(*arguments, **named)


def _clipped(reward: Reward, low: float, high: float, *, name: str | None = None) -> Reward:
    check_rewards("clip", [reward])
    label = name or reward.name
    limits = checked_bounds(label, (low, high))

    def change(xp: Any, score: Score) -> Score:
        refuse_per_token("clip", [reward], [score])
        value = xp.clip(xp.asarray(score.value), single(limits.low), single(limits.high))
        return dataclasses.replace(score, value=finished(xp, label, value, score.valid))

    return adjusted(reward, Bounds(*(min(max(end, limits.low), limits.high) for end in reward.bounds)), change, label)
