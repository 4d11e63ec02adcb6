"""Softmax tables in worlds of a few states: bandits, and episodes of abstract steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from agent_tunix.papers._lab._distributions import entropy
from agent_tunix.papers._lab._learning import Sampled, Toy


class World(NamedTuple):
    """An episodic world with finitely many observations.

    Attributes:
      start: `(key, prompt) -> state`, any pytree of arrays.
      step: `(key, state, action) -> (state, done)`.
      observe: `state -> row` of the policy's table.
      horizon: Actions after which an episode is cut off.
    """

    start: Callable[[Key[Array, ""], Array], Any]
    step: Callable[[Key[Array, ""], Any, Array], tuple[Any, Array]]
    observe: Callable[[Any], Array]
    horizon: int


def bandit(logits: Float[Array, "*contexts arms"], group: int = 8, repeats: int = 1) -> Toy:
    """A table of arms, one row per context; every batch holds `repeats` groups of every context.

    Args:
      logits: What it starts from; a single row is one context.
      group: Completions per prompt.
      repeats: Prompts per context. The prompt of index i has context i modulo their number.
    """
    table = jnp.atleast_2d(logits)
    contexts = jnp.tile(jnp.arange(len(table)), repeats)

    def sample(params: Array, key: Key[Array, ""]) -> Sampled:
        drawn = jax.random.categorical(key, params[contexts][:, None, None, :], shape=(len(contexts), group, 1))
        states = jnp.broadcast_to(contexts[:, None, None], drawn.shape)
        return Sampled(drawn, states, jnp.ones(drawn.shape, bool), jnp.zeros(drawn.shape[:2], bool))

    return Toy(lambda key: table, sample, _table_logprobs)


def tabular(world: World, logits: Float[Array, "rows actions"], *, prompts: int = 4, group: int = 16) -> Toy:
    """A table of actions in a world, one row per observation.

    Args:
      world: How episodes go.
      logits: What the table starts from.
      prompts: Groups per batch; prompt i starts where `world.start` puts i.
      group: Episodes per group.

    Returns:
      A toy whose episodes have the world's full states before each action as `trail`.
    """

    def episode(params: Array, key: Key[Array, ""], prompt: Array) -> Sampled:
        begin, go = jax.random.split(key)

        def act(carry: tuple[Any, Array], key: Key[Array, ""]) -> tuple[tuple[Any, Array], tuple[Any, ...]]:
            state, done = carry
            choose, move = jax.random.split(key)
            row = world.observe(state)
            action = jax.random.categorical(choose, params[row])
            after, ended = world.step(move, state, action)
            after = jax.tree.map(lambda old, new: jnp.where(done, old, new), state, after)
            return (after, done | ended), (action, row, ~done, state)

        first = (world.start(begin, prompt), jnp.zeros((), bool))
        (_, done), (actions, rows, mask, trail) = jax.lax.scan(act, first, jax.random.split(go, world.horizon))
        return Sampled(actions, rows, mask, ~done, trail)

    def sample(params: Array, key: Key[Array, ""]) -> Sampled:
        keys = jax.random.split(key, (prompts, group))
        numbers = jnp.broadcast_to(jnp.arange(prompts)[:, None], (prompts, group))
        return jax.vmap(jax.vmap(episode, (None, 0, 0)), (None, 0, 0))(params, keys, numbers)

    return Toy(lambda key: jnp.asarray(logits, jnp.float32), sample, _table_logprobs)


def _table_logprobs(params: Float[Array, "rows actions"], sampled: Sampled) -> tuple[Array, Array]:
    logs = jax.nn.log_softmax(params)[sampled.states]
    chosen: Int[Array, "prompts group tokens 1"] = sampled.actions[..., None]
    return jnp.take_along_axis(logs, chosen, -1)[..., 0], entropy(jnp.exp(logs))
