"""Credit within episodes as shapings whose `per_token` is the advantage; it goes with `advantages.as_given`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from agent_tunix import turns
from agent_tunix.papers._lab._learning import Sampled
from agent_tunix.types import Score, Shaping


def critic(row: Callable[[Sampled], Int[Array, "prompts group tokens"]], rows: int, *, lam: float = 1.0) -> Shaping:
    """The credit of PPO: generalized advantages by a table of values, whitened over the actions of a batch.

    The table is moved half of the way to the mean return of every row that a batch visits, after the batch is credited.

    Args:
      row: From episodes to the row of the table that each action was taken in.
      rows: Of the table.
      lam: Of `turns.gae`; the discount is 1.
    """

    def update(score: Score, values: Array, sampled: Any) -> tuple[Score, Array]:
        places, mask = row(sampled), sampled.completion_mask
        gae = jax.vmap(jax.vmap(lambda *token: turns.gae(*token, lam=lam)))
        credit = gae(score.per_token, values[places], mask)
        count = jnp.zeros_like(values).at[places].add(mask)
        total = jnp.zeros_like(values).at[places].add(jnp.where(mask, credit + values[places], 0.0))
        white = (credit - jnp.mean(credit, where=mask)) / (jnp.std(credit, where=mask) + 1e-8)
        values = jnp.where(count > 0, (values + total / jnp.maximum(count, 1)) / 2, values)
        return Score(score.value, score.valid, per_token=jnp.where(mask, white, 0.0)), values

    return Shaping(lambda: jnp.zeros(rows), update)


def by_turn(estimator: Callable[[Array, Array], Array]) -> Shaping:
    """What is still to come after each action, compared with the group after as many actions (`turns.turn_level`)."""

    def update(score: Score, state: Any, sampled: Any) -> tuple[Score, Any]:
        level = jax.vmap(lambda given, there: turns.turn_level(given, there, estimator=estimator))
        return Score(score.value, score.valid, per_token=level(score.per_token, sampled.completion_mask)), state

    return Shaping(lambda: (), update)
