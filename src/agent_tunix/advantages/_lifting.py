"""From estimators to advantages of a score."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agent_tunix.advantages._batches import decoupled
from agent_tunix.types import Advantage, Outcome, Score


def per_group(estimator: Callable[..., Array], **arguments: Any) -> Advantage:
    """Applies an estimator of one group to every prompt of a score.

    Args:
      estimator: `(rewards[group], valid[group], **arguments) -> advantages[group]`.
      **arguments: Its keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable.

    Examples:
      >>> from agent_tunix.advantages import centered
      >>> score = Score(value=jnp.array([[1.0, 0.0]]), valid=jnp.array([[True, True]]))
      >>> per_group(centered)(score)
      Array([[ 0.5, -0.5]], dtype=float32)
    """
    of_group = functools.partial(estimator, **arguments)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        return jax.vmap(of_group)(jnp.asarray(score.value), jnp.asarray(score.valid))

    return advantage


def per_group_with(estimator: Callable[..., Array], parts: Mapping[str, str], **arguments: Any) -> Advantage:
    """Applies an estimator of one group that looks at more than the reward, such as `discriminative`.

    What else it looks at are parts of the score; `agent_tunix.rewards.annotate` adds facts about rollouts as parts. An
    entry counts if it is valid and none of these parts is NaN.

    Args:
      estimator: `(rewards[group], valid[group], **parts, **arguments) -> advantages[group]`.
      parts: Name of an argument to the part of the score that it gets, `[group]`.
      **arguments: Further keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable. It raises ValueError for a part that the score does not have.
    """

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        columns = {argument: _part(score, part) for argument, part in parts.items()}
        valid = functools.reduce(jnp.logical_and, (_part_valid(score, part) for part in parts.values()))
        of_group = functools.partial(estimator, **arguments)
        return jax.vmap(lambda rewards, valid, columns: of_group(rewards, valid, **columns))(
            jnp.asarray(score.value), valid, columns
        )

    return advantage


def per_batch(estimator: Callable[..., Array], **arguments: Any) -> Advantage:
    """Applies an estimator of a whole batch to a score.

    Args:
      estimator: `(rewards[prompts group], valid[prompts group], **arguments) -> advantages[prompts group]`.
      **arguments: Its keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable.
    """
    of_batch = functools.partial(estimator, **arguments)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        return of_batch(jnp.asarray(score.value), jnp.asarray(score.valid))

    return advantage


def per_part(estimator: Callable[..., Array], weights: Mapping[str, float | Array], **arguments: Any) -> Advantage:
    """Applies an estimator of one group to each of several parts of a score, and adds the results with weights.

    Signals of different levels, such as checks of steps and the outcome, then each count within their group whatever
    their scale. Unlike `decoupled_parts`, nothing is scaled over the batch. Which entries of a part count is as there.

    Args:
      estimator: `(rewards[group], valid[group], **arguments) -> advantages[group]`.
      weights: Name of a part to its weight.
      **arguments: Its keyword arguments, fixed now.

    Returns:
      A function of a `Score`, jittable. It raises ValueError for a part that the score does not have.

    Raises:
      ValueError: If no part is named.
    """
    if not weights:
        raise ValueError("per_part got no weights; name at least one part, such as {'format': 1.0}")
    of_group = functools.partial(estimator, **arguments)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        credit = {name: jax.vmap(of_group)(_part(score, name), _part_valid(score, name)) for name in weights}
        return functools.reduce(jnp.add, (weight * credit[name] for name, weight in weights.items()))

    return advantage


def decoupled_parts(weights: Mapping[str, float], **arguments: Any) -> Advantage:
    """Applies `decoupled` to the named parts of a score instead of to its value.

    A part counts for a completion if the completion is valid, its grader gave a value, and that is not NaN.

    Args:
      weights: Name of a part to its weight.
      **arguments: Keyword arguments of `decoupled`, fixed now.

    Returns:
      A function of a `Score`, jittable. It raises ValueError for a part that the score does not have.

    Raises:
      ValueError: If no part is named.
    """
    if not weights:
        raise ValueError("decoupled_parts got no weights; name at least one part, such as {'format': 1.0}")
    factors = np.asarray(list(weights.values()), np.float32)

    def advantage(score: Score) -> Float[Array, "prompts group"]:
        parts = jnp.stack([_part(score, name) for name in weights])
        valid = jnp.stack([_part_valid(score, name) for name in weights])
        return decoupled(parts, valid, jnp.asarray(factors, parts.dtype), **arguments)

    return advantage


def _part(score: Score, name: str) -> Array:
    if name not in score.parts:
        raise ValueError(f"a weight is given for part `{name}`, but the score has the parts {sorted(score.parts)}")
    return jnp.asarray(score.parts[name])


def _part_valid(score: Score, name: str) -> Array:
    valid = jnp.asarray(score.valid) & ~jnp.isnan(_part(score, name))
    return valid & (score.outcomes[name] == int(Outcome.GRADED)) if name in score.outcomes else valid
