"""Rewards that are arrays from the start: computed from token ids by JAX, on the device, inside a compiled step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from agent_tunix.batching import check_tokens
from agent_tunix.rewards._lift import name_of
from agent_tunix.rewards._sheet import checked_bounds, refuse_outside
from agent_tunix.types import Bounds, Outcome, Reward, Rollouts, Score


def from_tokens(
    function: Callable[[Array, Array], Array], *, name: str | None = None, bounds: tuple[float, float] | None = None
) -> Reward:
    """Lifts a function of token ids in `jax.numpy` to a reward.

    Called with rollouts on the host it runs as one compiled program per shape. Called with rollouts whose arrays are
    traced, it becomes part of the program that traces it; combinators of such rewards do too.

    Args:
      function: `(completion_ids, completion_mask) -> values`: int and bool `[prompts group tokens]` to a float for each
        completion, `[prompts group]`, or for each token, `[prompts group tokens]`. Padding is not counted: values of
        tokens outside of the mask are ignored.
      name: Name of the part in metrics; by default that of the function.
      bounds: Least and greatest value of a completion, infinite by default. Given, they are enforced on the host.

    Returns:
      A reward with one part. Where the function gives values for tokens, they are also the score's `per_token`, and
      the value of a completion is their sum.

    Raises:
      ValueError: When called: the result has another shape, or, on the host, is not finite or out of bounds.

    Examples:
      >>> shouting = from_tokens(lambda ids, mask: (ids == 33) * -0.1, name="exclamation_marks")
    """
    label = name or name_of(function)
    limits = checked_bounds(label, bounds)
    compiled = jax.jit(function)

    def score(rollouts: Rollouts) -> Score:
        ids, mask = rollouts.completion_ids, rollouts.completion_mask
        traced = isinstance(ids, Tracer) or isinstance(mask, Tracer)
        if not traced:
            check_tokens(rollouts, label)
        values = compiled(jnp.asarray(ids), jnp.asarray(mask))
        if values.shape not in (ids.shape[:2], ids.shape):
            raise ValueError(
                f"reward `{label}` returned shape {values.shape} for completions {ids.shape[:2]}; return one value per "
                f"completion, or one per token, {ids.shape}"
            )
        if traced:
            return _score(label, values, mask, jnp)
        return _checked(_score(label, np.asarray(values), np.asarray(mask), np), label, limits)

    return Reward(label, score, limits)


def _score(name: str, values: Any, mask: Any, xp: Any) -> Score:
    """The score of one part in the arrays of `xp`, NumPy or `jax.numpy`."""
    values = values.astype(xp.float32)
    per_token = xp.where(mask, values, xp.float32(0)) if values.ndim == 3 else None
    value = values if per_token is None else per_token.sum(-1)
    outcomes = xp.full(value.shape, int(Outcome.GRADED), xp.int8)
    return Score(value, xp.ones(value.shape, bool), {name: value}, {name: outcomes}, per_token)


def _checked(score: Score, name: str, bounds: Bounds) -> Score:
    """The score, if all of its values are finite and within bounds."""
    inside = np.isfinite(score.value) & (bounds.low <= score.value) & (score.value <= bounds.high)
    if not inside.all():
        index, flat = int(np.argmin(inside)), np.ravel(score.value).tolist()
        refuse_outside(name, bounds, score.value.shape, index, flat)
    return score
