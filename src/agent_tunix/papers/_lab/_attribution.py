"""Outcomes of episodes written as sums over their steps."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from agent_tunix.papers._lab._learning import Sampled

WIDTH = 32


def contributions(params: Any, sampled: Sampled) -> Float[Array, "... tokens"]:
    """What each action adds to the outcome, from its observation and itself alone; 0 behind the end of an episode."""
    hidden = params["rows"][sampled.states] + params["actions"][sampled.actions] + params["bias"]
    return jnp.where(sampled.completion_mask, jnp.tanh(hidden) @ params["out"], 0.0)


def attribution(
    key: Key[Array, ""],
    sampled: Sampled,
    outcome: Float[Array, "prompts group"],
    *,
    rows: int,
    actions: int,
    steps: int = 1500,
    rate: float = 2e-2,
) -> Any:
    """Fits a network of one hidden layer whose contributions sum to the outcomes of episodes, by least squares.

    Args:
      key: Random key.
      sampled: Episodes of a table.
      outcome: Of each one.
      rows: Of the table.
      actions: Of the table.
      steps: Updates by Adam on 128 episodes each, with a rate that falls to 0.
      rate: The first one.

    Returns:
      Parameters of `contributions`. They start small: an action that is seldom seen keeps what it starts with.
    """
    draw, go = jax.random.split(key)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (sampled, outcome))
    given = jax.random.normal(draw, (rows + actions + 1, WIDTH))
    params = {"rows": 0.3 * given[:rows], "actions": 0.3 * given[rows:-1], "bias": jnp.zeros(WIDTH)}
    params["out"] = 0.1 * given[-1]
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def update(carry: tuple[Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any], None]:
        chosen = jax.random.randint(key, (128,), 0, outcome.size)
        part, wanted = jax.tree.map(lambda x: x[chosen], flat)

        def objective(params: Any) -> Array:
            parts = contributions(params, part)
            return jnp.mean(jnp.square(parts.sum(-1) - wanted)) + 1e-4 * jnp.mean(jnp.square(parts))

        changes, state = optimizer.update(jax.grad(objective)(carry[0]), carry[1])
        return (optax.apply_updates(carry[0], changes), state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), jax.random.split(go, steps))
    return params


def ranked(
    values: Float[Array, "*axes"], wanted: Bool[Array, "*axes"], counts: Bool[Array, "*axes"]
) -> Float[Array, ""]:
    """How often a wanted entry has a greater value than an unwanted one, of all pairs that count (the area AUC)."""
    pairs = (wanted & counts).ravel()[:, None] & (counts & ~wanted).ravel()
    return jnp.mean(values.ravel()[:, None] > values.ravel(), where=pairs)
