"""Rewards of turns: what an environment gave, and credit that compares turns instead of whole episodes."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from agent_tunix import turns
from agent_tunix.advantages import group_normalized
from agent_tunix.rewards._lift import column_of
from agent_tunix.rewards._shaping import entries
from agent_tunix.rewards._sheet import checked_bounds, refuse_outside
from agent_tunix.types import Outcome, Reward, Rollouts, Score, Shaping


class _Turns(NamedTuple):
    """The turns of a batch, padded to as many as its longest episode has."""

    rewards: Float[np.ndarray, "prompts group turns"]
    ends: Int[np.ndarray, "prompts group turns"]
    there: Bool[np.ndarray, "prompts group turns"]


def _turns(rollouts: Rollouts, name: str) -> _Turns:
    rewards, ends = (column_of(rollouts, column, name) for column in ("turn_rewards", "turn_ends"))
    most = max(len(own) for group in ends for own in group)
    shape = (*rollouts.shape, most)
    given, last = np.zeros(shape, np.float64), np.full(shape, rollouts.completion_mask.shape[-1], np.int32)
    for p, g in np.ndindex(*rollouts.shape):
        own = _checked(rewards[p][g], ends[p][g], name, (p, g))
        given[p, g, : len(own)], last[p, g, : len(own)] = own, ends[p][g]
    return _Turns(given.astype(np.float32), last, last < rollouts.completion_mask.shape[-1])


def _checked(rewards: Sequence[float], ends: Sequence[int], name: str, where: tuple[int, int]) -> Sequence[float]:
    if len(rewards) != len(ends):
        raise ValueError(
            f"reward `{name}` found {len(rewards)} rewards for {len(ends)} turns of prompt {where[0]}, completion "
            f"{where[1]}; give `turn_rewards` and `turn_ends` one entry per turn"
        )
    return rewards


def turn_rewards(*, name: str = "turns", bounds: tuple[float, float] | None = None) -> Reward:
    """What an environment gave for the turns of `conversations.sampler`.

    Args:
      name: Name of the part in metrics.
      bounds: Least and greatest sum over an episode, infinite by default. Given, they are enforced.

    Returns:
      A reward with one part: the sum over the turns of an episode. Its `per_token` has the reward of a turn on the last
      token of it, a token of the policy, so that `reward_to_go` and `turns.gae` find it.

    Raises:
      ValueError: When called: the columns are missing or do not fit each other, or a sum is not finite or out of
        bounds.

    References:
      The place of the rewards: Wang and Ammanabrolu, 2025, A Practitioner's Guide to Multi-turn Agentic Reinforcement
      Learning, arXiv:2510.01132.
    """
    limits = checked_bounds(name, bounds)

    def score(rollouts: Rollouts) -> Score:
        found = _turns(rollouts, name)
        value = found.rewards.sum(-1)
        inside = np.isfinite(found.rewards).all(-1) & (limits.low <= value) & (value <= limits.high)
        if not inside.all():
            refuse_outside(name, limits, value.shape, int(np.argmin(inside)), np.ravel(value).tolist())
        per_token = np.zeros(rollouts.completion_mask.shape, np.float32)
        p, g, turn = np.nonzero(found.there)
        per_token[p, g, found.ends[p, g, turn]] = found.rewards[p, g, turn]
        outcomes = np.full(value.shape, Outcome.GRADED, np.int8)
        return Score(value, np.ones(value.shape, bool), {name: value}, {name: outcomes}, per_token)

    return Reward(name, score, limits)


def turn_credit(*, estimator: Callable[[Array, Array], Array] = group_normalized, gamma: float = 1.0) -> Shaping:
    """Compares the turns of an episode with those of its group instead of whole episodes, by `turns.turn_level`.

    The reward of a turn is the sum of `per_token` over its tokens. What the value of a completion holds beyond that,
    such as the outcome in a `weighted_sum` of outcome and `turn_rewards`, counts for its last turn.

    Args:
      estimator: Of one group.
      gamma: Discount per turn, in [0, 1].

    Returns:
      A stateless shaping whose `per_token` is the credit of the turn that a token belongs to; the advantage that goes
      with it is `advantages.as_given`. Values stay as they are.

    Raises:
      ValueError: A gamma outside of [0, 1], or, in the update, rollouts without turns.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"turn_credit got gamma={gamma}; give a number in [0, 1]")

    level = jax.vmap(functools.partial(turns.turn_level, estimator=estimator, gamma=gamma))

    @jax.jit
    def credit(value: Array, valid: Array, per_token: Array, ends: Array) -> Array:
        tokens = per_token.shape[-1]
        there = (ends < tokens) & valid[..., None]
        last = there & (jnp.cumsum(there[..., ::-1], axis=-1)[..., ::-1] == 1)
        beyond = value - jnp.sum(per_token, axis=-1)
        rewards = turns.of_tokens(per_token, ends) + jnp.where(last, beyond[..., None], 0.0)
        return turns.over_tokens(level(rewards, there), ends, tokens)

    def update(score: Score, state: Any, rollouts: Rollouts) -> tuple[Score, Any]:
        value, valid = entries(score)
        shape = rollouts.completion_mask.shape
        given = jnp.zeros(shape) if score.per_token is None else jnp.asarray(score.per_token)
        given = jnp.where(valid[..., None], given, 0.0)
        found = credit(value, valid, given, jnp.asarray(_turns(rollouts, "turn_credit").ends))
        return dataclasses.replace(score, value=value, per_token=found), state

    return Shaping(init=lambda: (), update=update)
