"""The likeliest continuation of a small autoregressive policy."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from agent_tunix.papers._lab._sequences import Transformer


def likeliest(
    model: Transformer, params: Any, prompts: Int[Array, "rows prompt_tokens"], length: int
) -> Int[Array, "rows length"]:
    """Continues prompts by the most probable symbol each time; pure.

    Args:
      model: From `transformer`, for at least the length of a prompt and a continuation.
      params: Its parameters.
      prompts: Symbols.
      length: Of the continuation.
    """
    count = prompts.shape[1]

    def extend(place: Array, canvas: Array) -> Array:
        logits = jnp.take(model.logits(params, canvas), place - 1, axis=1)
        return canvas.at[:, place].set(jnp.argmax(logits, -1))

    canvas = jnp.pad(prompts, ((0, 0), (0, length)))
    return jax.lax.fori_loop(count, count + length, extend, canvas)[:, count:]
