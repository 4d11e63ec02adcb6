"""Fitting a small model to examples that are drawn anew for every step: reward models, classifiers, regressions."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, Key


def fit(
    objective: Callable[[Any, Key[Array, ""]], Float[Array, ""]],
    params: Any,
    *,
    key: Key[Array, ""],
    steps: int,
    rate: float = 3e-3,
) -> Any:
    """Minimizes an objective by Adam; pure.

    Args:
      objective: `(params, key) -> loss`; the key draws the examples of a step.
      params: Where it starts.
      key: Random key.
      steps: Updates.
      rate: Learning rate.

    Returns:
      Parameters.
    """
    optimizer = optax.adam(rate)

    def update(carry: tuple[Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        changes, state = optimizer.update(jax.grad(objective)(params, key), state, params)
        return (optax.apply_updates(params, changes), state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), jax.random.split(key, steps))
    return params
