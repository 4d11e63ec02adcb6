"""The trainer of reward models."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from agent_tunix.optimizers import adamw
from agent_tunix.reward_models._objectives import Objective
from agent_tunix.types import Params


class Fitted(NamedTuple):
    """What `fit` returns; a pytree.

    Attributes:
      params: Trained parameters.
      optimizer_state: To go on from, in a later call.
      losses: Of the batch of every step, before its update.
    """

    params: Params
    optimizer_state: optax.OptState
    losses: Float[Array, " steps"]


@functools.partial(jax.jit, static_argnames=("objective", "steps", "batch_size"))
def fit(
    key: Key[Array, ""],
    examples: Any,
    params: Params,
    objective: Objective,
    *,
    steps: int,
    batch_size: int | None = None,
    learning_rate: float | Float[Array, ""] = 1e-3,
    weight_decay: float | Float[Array, ""] = 0.0,
    clip_norm: float | Float[Array, ""] = 1.0,
    optimizer_state: optax.OptState | None = None,
) -> Fitted:
    """Minimizes an objective by AdamW at a constant rate; a pure, compiled function.

    It may stand inside `jax.vmap`, `jax.lax.scan` and other compiled functions. Nothing is said if the loss stops being
    finite: look at `losses`.

    Args:
      key: Order of the examples.
      examples: A pytree whose leaves share a leading axis: `Pairs`, `Labeled`, `Triplets` or what the objective takes.
      params: Where to start.
      objective: `(params, batch) -> loss`. Each is compiled once, so do not make it anew for every call.
      steps: Optimizer updates.
      batch_size: Examples per update, cut from one permutation of all after the other; None takes all every time.
      learning_rate: Of AdamW.
      weight_decay: Of AdamW.
      clip_norm: Bound of the global gradient norm.
      optimizer_state: Of an earlier call; None starts anew.

    Returns:
      Parameters, optimizer state and losses.

    Raises:
      ValueError: If the leaves differ in the number of examples, or a batch is larger than that.
    """
    number = _number_of(examples)
    size = number if batch_size is None else batch_size
    if not 0 < size <= number:
        raise ValueError(f"fit got batch_size={size} for {number} examples; give 1 to {number}, or None for all")
    adam = optimizer(learning_rate, weight_decay, clip_norm)

    def step(carry: tuple[Params, optax.OptState], rows: Any) -> tuple[Any, Float[Array, ""]]:
        params, state = carry
        batch = examples if batch_size is None else jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], examples)
        loss, gradient = jax.value_and_grad(objective)(params, batch)
        updates, state = adam.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    rows = None if batch_size is None else _order(key, number, steps, size)
    state = adam.init(params) if optimizer_state is None else optimizer_state
    (params, state), losses = jax.lax.scan(step, (params, state), rows, length=steps)
    return Fitted(params, state, losses)


def optimizer(learning_rate: Any = 0.0, weight_decay: Any = 0.0, clip_norm: Any = 1.0) -> optax.GradientTransformation:
    """The optimizer of `fit`; its state does not depend on the numbers."""
    return adamw(lambda count: learning_rate, weight_decay=weight_decay, clip_norm=clip_norm)


def _number_of(examples: Any) -> int:
    numbers = {np.shape(leaf)[0] for leaf in jax.tree.leaves(examples)}
    if len(numbers) != 1:
        raise ValueError(f"fit got leaves with {sorted(numbers)} examples; they must share their leading axis")
    return numbers.pop()


def _order(key: Key[Array, ""], number: int, steps: int, size: int) -> Int[Array, "steps batch"]:
    """Rows of every batch: permutations of all examples, one after the other."""
    keys = jax.random.split(key, -(-steps * size // number))
    passes = jax.vmap(lambda own: jax.random.permutation(own, number))(keys)
    return passes.reshape(-1)[: steps * size].reshape(steps, size)
