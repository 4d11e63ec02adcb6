"""Rewards from rewards where something else decides: a condition, earlier levels, the task; and changes of one reward.

They work on the arrays of their children, those of NumPy or traced ones of JAX.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix.batching import take
from agent_tunix.rewards._combining import (
    added,
    check_rewards,
    combination,
    failures_of,
    finished,
    finite,
    hull,
    joined,
    namespace,
    parts_of,
    refuse_per_token,
    scaled,
    single,
)
from agent_tunix.rewards._sheet import checked_bounds, is_number, refuse_outside
from agent_tunix.types import Bounds, Outcome, Reward, Rollouts, Score

# --- What a condition decides -----------------------------------------------------------------------------------------


def gate(
    condition: Reward, reward: Reward, threshold: float = 0.5, *, otherwise: float = 0.0, name: str | None = None
) -> Reward:
    """Pays a reward only where a condition is met.

    An entry is invalid where the condition has no value, and where the gate is open and the reward has none. A gated
    reward is at most the reward itself as long as that is not negative. One that can be negative is better escaped
    than earned: set `otherwise` to its lower bound.

    Args:
      condition: Opens the gate where it reaches the threshold. It is recorded, not paid.
      reward: What is paid where the gate is open. Rewards per token are 0 where it is closed.
      threshold: Least value of the condition that opens the gate, compared in float32.
      otherwise: Value where the gate is closed.
      name: Name of the gated reward; by default `REWARD_if_CONDITION`.

    Returns:
      A reward with the parts of both; its bounds are those of the reward and `otherwise`, as far as both can occur.

    Raises:
      ValueError: Both have one name, or a number is not finite.
      TypeError: An argument is not a `Reward`; when called: `otherwise` is not 0 for a reward given per token.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion, tag_format
      >>> layout = per_completion(tag_format, name="format", bounds=(0, 1))
      >>> correctness = per_completion(exact_answer, "answer", name="correctness", bounds=(0, 1))
      >>> gate(layout, correctness, 1.0, otherwise=-0.5).bounds
      Bounds(low=-0.5, high=1.0)
    """
    check_rewards("gate", (condition, reward))
    least, closed = finite("the threshold of gate", threshold), finite("otherwise of gate", otherwise)

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        is_open = _reached(xp, values[0], least)
        return xp.where(is_open, values[1], closed), valid[0] & (valid[1] | ~is_open)

    def per_token(xp: Any, scores: Sequence[Score]) -> Any:
        tokens = scores[1].per_token
        if tokens is not None and closed:
            raise TypeError(f"reward `{reward.name}` is given per token, to which otherwise={closed} does not belong")
        is_open = _reached(xp, xp.asarray(scores[0].value), least)
        return None if tokens is None else xp.where(is_open[..., None], tokens, 0)

    opens, closes = _either(condition.bounds, least)
    bounds = hull(*([reward.bounds] if opens else []), *([Bounds(closed, closed)] if closes else []))
    label = name or f"{reward.name}_if_{condition.name}"
    return combination("gate", (condition, reward), bounds, merge, name=label, per_token=per_token)


def hierarchy(*levels: tuple[float, Reward, float], name: str = "hierarchy") -> Reward:
    r"""Adds rewards in order of priority, each only where all before it reached their thresholds.

    .. math:: r = \sum_k w_k r_k \prod_{j<k} \mathbf{1}[r_j \ge t_j]

    A level without a value makes the entry invalid where it is reached, and does not matter where it is not. Levels
    that can be negative after the first make reaching them a risk; a shaping term that should always count belongs
    into a `weighted_sum` around the hierarchy.

    Args:
      *levels: Triples of a finite weight, a reward and the threshold it has to reach for the next level to count, in
        units of that reward before its weight, compared in float32. That of the last level is not used.
      name: Name of the sum, the prefix of its parts in a further combination.

    Returns:
      The sum; its bounds follow the levels, knowing on which side of its threshold each reward then is.

    Raises:
      ValueError: No levels, a name twice, or a number that is not finite.
      TypeError: A level is not such a triple; when called: a reward is given per token.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion, tag_format
      >>> layout = per_completion(tag_format, name="format", bounds=(0, 1))
      >>> correctness = per_completion(exact_answer, "answer", name="correctness", bounds=(0, 1))
      >>> hierarchy((0.2, layout, 1.0), (0.8, correctness, 1.0)).bounds
      Bounds(low=0.0, high=1.0)

    References:
      Sun et al., 2025, gated reward accumulation (arXiv 2508.10548), which has two levels, the low one a sum over
      steps; any number of levels and their weights are ours.
    """
    weights, rewards, thresholds = _checked_levels(levels)

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        total, present, reached = xp.zeros_like(values[0]), xp.ones_like(valid[0]), xp.ones_like(valid[0])
        for weight, value, given, threshold in zip(weights, values, valid, thresholds, strict=True):
            present = present & (given | ~reached)
            total = total + xp.where(reached, weight * value, 0)
            reached = reached & _reached(xp, value, threshold)
        return total, present

    bounds = Bounds(0.0, 0.0)
    for weight, reward, threshold in zip(weights[::-1], rewards[::-1], thresholds[::-1], strict=True):
        bounds = _level_bounds(weight, reward.bounds, threshold, bounds)
    return combination("hierarchy", rewards, bounds, merge, name=name)


def calibrated(
    reward: Reward, pattern: Reward, threshold: float = 0.5, strength: float = 0.1, *, name: str | None = None
) -> Reward:
    r"""Adds to low rewards what a second reward says: for a learned reward that misses good completions.

    .. math:: r' = \min(1, r + \alpha q) \text{ where } r < \tau, \quad r' = r \text{ elsewhere}

    An entry is invalid where the reward has no value, or is low and the second one has none.

    Args:
      reward: Such as a reward model with values in [0, 1].
      pattern: :math:`q`, such as `reasoning_patterns`.
      threshold: :math:`\tau`, below which a reward counts as low, compared in float32.
      strength: :math:`\alpha`, finite and not negative.
      name: Name of the result; by default that of the reward.

    Returns:
      A reward with the parts of both.

    Raises:
      ValueError: Both have one name, a number is not finite, or the strength is negative.
      TypeError: An argument is not a `Reward`; when called: a reward is given per token.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion, reasoning_patterns
      >>> pattern = per_completion(reasoning_patterns, name="pattern", bounds=(0, 1))
      >>> judge = per_completion(exact_answer, "answer", name="judge", bounds=(0, 1))
      >>> calibrated(judge, pattern).bounds
      Bounds(low=0.0, high=1.0)

    References:
      Lv et al., 2025, The Climb Carves Wisdom Deeper Than the Summit, arXiv:2505.22653.
    """
    check_rewards("calibrated", (reward, pattern))
    least, by = finite("the threshold of calibrated", threshold), finite("the strength of calibrated", strength)
    if by < 0:
        raise ValueError(f"the strength of calibrated is {strength}; give a number of at least 0")

    def merge(xp: Any, values: Sequence[Any], valid: Sequence[Any]) -> tuple[Any, Any]:
        high = _reached(xp, values[0], least)
        lifted = xp.minimum(1, values[0] + by * values[1])
        return xp.where(high, values[0], lifted), valid[0] & (valid[1] | high)

    below = Bounds(reward.bounds.low, min(reward.bounds.high, least))
    bounds = hull(reward.bounds, Bounds(*(min(1.0, end) for end in added(below, scaled(pattern.bounds, by)))))
    return combination("calibrated", (reward, pattern), bounds, merge, name=name or reward.name)


def route(by: str, routes: Mapping[Any, Reward], *, default: Reward | None = None, name: str = "route") -> Reward:
    """Gives each prompt to the reward that a column of the dataset names: several tasks in one batch.

    A reward sees only its own prompts. Its parts are NaN with the outcome `ABSTAINED` for the others, and so are the
    seconds, so that the parts are always the same. To know them, a reward without prompts in the batch is called with
    none.

    Args:
      by: Column whose value for the prompt is looked up in `routes`.
      routes: From values of the column to rewards; several values may share one reward.
      default: Reward of prompts with any other value.
      name: Name of the choice, the prefix of its parts in a further combination.

    Returns:
      A reward whose parts are those of all routes, and whose bounds span all of theirs.

    Raises:
      ValueError: No routes, or two rewards of one name; when called: the column is missing, or has a value without a
        route while there is no default.
      TypeError: A route is not a `Reward`; when called: a reward is given per token.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion, tag_format
      >>> layout = per_completion(tag_format, name="format", bounds=(0, 1))
      >>> correctness = per_completion(exact_answer, "answer", name="correctness", bounds=(-1, 1))
      >>> route("task", {"math": correctness, "chat": layout}).bounds
      Bounds(low=-1.0, high=1.0)
    """
    rewards: list[Reward] = []
    for reward in [*routes.values(), *([] if default is None else [default])]:
        if not any(reward is known for known in rewards):
            rewards.append(reward)
    check_rewards("route", rewards)
    place = {id(reward): index for index, reward in enumerate(rewards)}
    chosen = {value: place[id(reward)] for value, reward in routes.items()}
    other = None if default is None else place[id(default)]

    def score(rollouts: Rollouts) -> Score:
        destinations = _destinations(rollouts, by, chosen, other, name)
        members = [np.flatnonzero(destinations == index) for index in range(len(rewards))]
        scores = [reward(take(rollouts, prompts.tolist())) for reward, prompts in zip(rewards, members, strict=True)]
        refuse_per_token("route", rewards, scores)
        return _gathered(name, rewards, members, scores)

    return Reward(name, score, hull(*(reward.bounds for reward in rewards)), parts_of(rewards))


# --- What changes one reward ------------------------------------------------------------------------------------------


def scale(reward: Reward, by: float, offset: float = 0.0, *, name: str | None = None) -> Reward:
    """Multiplies a reward by a number and adds another; its parts stay as they were.

    Args:
      reward: What is scaled. Rewards per token are scaled too; an offset belongs to no token and is refused for them.
      by: Finite factor of either sign.
      offset: Finite number that is added, in units of the result.
      name: Name of the result; by default that of the reward.

    Raises:
      ValueError: A number is not finite.
      TypeError: The first argument is not a `Reward`; when called: an offset for a reward given per token.

    Examples:
      >>> from agent_tunix.rewards import exact_answer, per_completion
      >>> scale(per_completion(exact_answer, "answer", bounds=(0, 1)), 2, offset=-1).bounds
      Bounds(low=-1.0, high=1.0)
    """
    check_rewards("scale", [reward])
    factor, shift = finite("the factor of scale", by), finite("the offset of scale", offset)
    label = name or reward.name

    def change(xp: Any, score: Score) -> Score:
        if score.per_token is not None and shift:
            raise TypeError(f"reward `{reward.name}` is given per token, to which offset={shift} does not belong")
        value = finished(xp, label, xp.asarray(score.value, dtype=float) * factor + shift, score.valid)
        tokens = None if score.per_token is None else factor * xp.asarray(score.per_token)
        return dataclasses.replace(score, value=value, per_token=tokens)

    return adjusted(reward, added(scaled(reward.bounds, factor), Bounds(shift, shift)), change, label)


def bounded(reward: Reward, low: float, high: float, *, name: str | None = None) -> Reward:
    """Declares the bounds of a reward and refuses values outside of them; `clip` is what moves them inside.

    For rewards whose bounds are not known, or wider than what really occurs. Values may be outside by the rounding of
    float32. Values of traced arrays cannot be looked at and are trusted.

    Args:
      reward: Its values, parts and rewards per token are passed on as they are.
      low: Least value, in units of the reward; may be infinite.
      high: Greatest value; may be infinite.
      name: Name of the result; by default that of the reward.

    Raises:
      ValueError: `low` is not below `high`; when called: a value is outside.
      TypeError: The first argument is not a `Reward`.

    Examples:
      >>> from agent_tunix.rewards import per_completion
      >>> bounded(per_completion(len), 0, float("inf")).bounds
      Bounds(low=0.0, high=inf)
    """
    check_rewards("bounded", [reward])
    label = name or reward.name
    bounds = checked_bounds(label, (low, high))
    least = np.nextafter(single(bounds.low), single(-np.inf))
    greatest = np.nextafter(single(bounds.high), single(np.inf))

    def change(xp: Any, score: Score) -> Score:
        if xp is np:
            outside = np.asarray(score.valid) & ~((least <= score.value) & (score.value <= greatest))
            if outside.any():
                refuse_outside(label, bounds, outside.shape, int(np.argmax(outside)), np.ravel(score.value).tolist())
        return dataclasses.replace(score, value=finished(xp, label, xp.asarray(score.value), score.valid))

    return adjusted(reward, bounds, change, label)


def adjusted(reward: Reward, bounds: Bounds, change: Callable[[Any, Score], Score], name: str) -> Reward:
    """One reward with its score changed by `(namespace, score) -> score`."""

    def score(rollouts: Rollouts) -> Score:
        before = reward(rollouts)
        return change(namespace(before), before)

    return Reward(name, score, bounds, reward.parts)


# --- Details ----------------------------------------------------------------------------------------------------------


def _reached(xp: Any, value: Any, threshold: float) -> Any:
    """Where a value reaches a threshold. In float32: there 0.7 reaches 0.7, which it does not once it is widened."""
    return value.astype(xp.float32) >= single(threshold)


def _either(bounds: Bounds, threshold: float) -> tuple[bool, bool]:
    """Whether a value within bounds can reach a threshold, and whether it can miss it."""
    least = single(threshold)
    return bool(single(bounds.high) >= least), bool(single(bounds.low) < least)


def _level_bounds(weight: float, bounds: Bounds, threshold: float, rest: Bounds) -> Bounds:
    """The range of a level of a hierarchy with all that follow it, whose range is `rest`."""
    reaches, misses = _either(bounds, threshold)
    parts = []
    if reaches:
        parts.append(added(scaled(Bounds(max(bounds.low, min(threshold, bounds.high)), bounds.high), weight), rest))
    if misses:
        parts.append(scaled(Bounds(bounds.low, min(bounds.high, max(threshold, bounds.low))), weight))
    return hull(*parts)


def _checked_levels(levels: Sequence[tuple[float, Reward, float]]) -> tuple[list[float], list[Reward], list[float]]:
    for level in levels:
        if not (isinstance(level, tuple) and len(level) == 3 and is_number(level[0]) and is_number(level[2])):
            raise TypeError(f"hierarchy got {level!r:.80}; give (weight, reward, threshold)")
    rewards = [reward for _, reward, _ in levels]
    check_rewards("hierarchy", rewards)
    weights = [finite(f"the weight of reward `{reward.name}`", weight) for weight, reward, _ in levels]
    return weights, rewards, [finite(f"the threshold of reward `{reward.name}`", least) for _, reward, least in levels]


def _destinations(
    rollouts: Rollouts, by: str, chosen: Mapping[Any, int], other: int | None, name: str
) -> np.ndarray[Any, np.dtype[np.int_]]:
    """The index of the reward of each prompt."""
    if by not in rollouts.columns:
        known = ", ".join(sorted(rollouts.columns)) or "none"
        raise ValueError(f"reward `{name}` routes by the column `{by}`, which the data lacks; there are: {known}")
    found = [chosen.get(value, other) for value in rollouts.columns[by]]
    if None in found:
        prompt = found.index(None)
        value, known = rollouts.columns[by][prompt], ", ".join(map(repr, chosen))
        raise ValueError(
            f"reward `{name}` has no route for {by}={value!r:.80} of prompt {prompt}, only for {known}; add one, or "
            "give default="
        )
    return np.array(found, int)


def _gathered(name: str, rewards: Sequence[Reward], members: Sequence[np.ndarray], scores: Sequence[Score]) -> Score:
    """Scores of different prompts as one score, in the order of the prompts."""
    xp = namespace(*scores)
    order = np.argsort(np.concatenate(members))

    def together(pieces: Sequence[Any]) -> Any:
        return xp.concatenate([xp.asarray(piece) for piece in pieces])[order]

    def spread(field: str, missing: float) -> dict[str, Any]:
        """A mapping by part of each score, with the other prompts filled in."""
        shapes = [score.value.shape for score in scores]

        def filled(index: int, values: Any) -> Any:
            blank = [np.full(shape, missing, values.dtype) for shape in shapes]
            return together([*blank[:index], values, *blank[index + 1 :]])

        return joined(
            "route",
            rewards,
            [
                {part: filled(index, values) for part, values in getattr(score, field).items()}
                for index, score in enumerate(scores)
            ],
        )

    valid = together([score.valid for score in scores])
    return Score(
        value=finished(xp, name, together([score.value for score in scores]), valid),
        valid=valid,
        parts=spread("parts", np.nan),
        outcomes=spread("outcomes", int(Outcome.ABSTAINED)),
        failures=tuple(
            failure._replace(prompt_index=int(prompts[failure.prompt_index]))
            for reward, prompts, score in zip(rewards, members, scores, strict=True)
            for failure in failures_of(reward, score)
        ),
        seconds=spread("seconds", np.nan),
    )
