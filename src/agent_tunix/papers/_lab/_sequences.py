"""Small autoregressive policies: a transformer over a few symbols, trained from nothing in seconds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix.papers._lab._distributions import entropy
from agent_tunix.papers._lab._learning import Sampled, Toy


class Transformer(NamedTuple):
    """A causal transformer as functions of its parameters.

    Attributes:
      init: Key to parameters.
      hidden: `(params, symbols [... n]) -> [... n width]`, after the last norm.
      logits: `(params, symbols [... n]) -> [... n vocab]`, of the symbol that comes next.
    """

    init: Callable[[Key[Array, ""]], Any]
    hidden: Callable[[Any, Int[Array, "... n"]], Float[Array, "... n width"]]
    logits: Callable[[Any, Int[Array, "... n"]], Float[Array, "... n vocab"]]


def transformer(vocab: int, most: int, *, width: int = 32, layers: int = 2, heads: int = 2) -> Transformer:
    """A pre-norm transformer with learned positions.

    Args:
      vocab: Symbols.
      most: Length of the longest sequence, prompt included.
      width: Of the residual stream; the hidden layer of a block is four times as wide.
      layers: Blocks.
      heads: Of attention.
    """

    def init(key: Key[Array, ""]) -> Any:
        def matrix(key: Key[Array, ""], *shape: int) -> Array:
            return jax.random.normal(key, shape) * shape[-2] ** -0.5

        def block(key: Key[Array, ""]) -> dict[str, Array]:
            q, o, up, down = jax.random.split(key, 4)
            return {
                "qkv": matrix(q, width, 3 * width),
                "out": matrix(o, width, width) * 0.5,
                "up": matrix(up, width, 4 * width),
                "down": matrix(down, 4 * width, width) * 0.5,
            }

        symbols, places, head, *blocks = jax.random.split(key, 3 + layers)
        return {
            "symbols": jax.random.normal(symbols, (vocab, width)) * 0.5,
            "places": jax.random.normal(places, (most, width)) * 0.1,
            "head": matrix(head, width, vocab) * 0.1,
            "blocks": [block(key) for key in blocks],
        }

    def hidden(params: Any, symbols: Array) -> Array:
        count = symbols.shape[-1]
        x = params["symbols"][symbols] + params["places"][:count]
        causal = jnp.tril(jnp.ones((count, count), bool))
        for block in params["blocks"]:
            q, k, v = jnp.split(_norm(x) @ block["qkv"], 3, -1)
            q, k, v = (y.reshape(*y.shape[:-1], heads, -1) for y in (q, k, v))
            weights = jnp.einsum("...qhd,...khd->...hqk", q, k) * q.shape[-1] ** -0.5
            weights = jax.nn.softmax(jnp.where(causal, weights, -1e9))
            x = x + jnp.einsum("...hqk,...khd->...qhd", weights, v).reshape(x.shape) @ block["out"]
            x = x + jax.nn.gelu(_norm(x) @ block["up"]) @ block["down"]
        return _norm(x)

    return Transformer(init, hidden, lambda params, symbols: hidden(params, symbols) @ params["head"])


def _norm(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def sequences(
    model: Transformer,
    prompts: Callable[[Key[Array, ""]], Int[Array, "prompts prompt_tokens"]],
    *,
    length: int,
    group: int = 8,
    stop: int | None = None,
) -> Toy:
    """A transformer that continues prompts.

    Args:
      model: From `transformer`, for at least the length of a prompt and a continuation.
      prompts: Draws the prompts of a batch.
      length: Symbols of a continuation at most.
      group: Continuations per prompt.
      stop: Symbol that ends a continuation; none ends earlier without.

    Returns:
      A toy whose `trail` holds the prompts, `[prompts prompt_tokens]`.
    """

    def sample(params: Any, key: Key[Array, ""]) -> Sampled:
        draw, go = jax.random.split(key)
        given = prompts(draw)
        count = given.shape[1]
        start = jnp.broadcast_to(given[:, None], (len(given), group, count))
        canvas = jnp.concatenate([start, jnp.zeros((len(given), group, length), start.dtype)], -1)

        def extend(canvas: Array, turn: tuple[Array, Array]) -> tuple[Array, None]:
            key, place = turn
            logits = jnp.take(model.logits(params, canvas), place - 1, axis=-2)
            return canvas.at[..., place].set(jax.random.categorical(key, logits)), None

        turns = (jax.random.split(go, length), count + jnp.arange(length))
        canvas, _ = jax.lax.scan(extend, canvas, turns)
        actions, before = canvas[..., count:], canvas[..., count - 1 : -1]
        ended = jnp.cumsum(actions == (-1 if stop is None else stop), -1) > 0
        mask = jnp.concatenate([jnp.ones_like(ended[..., :1]), ~ended[..., :-1]], -1)
        cut = ~ended[..., -1] if stop is not None else jnp.zeros(ended.shape[:2], bool)
        return Sampled(actions, before, mask, cut, given)

    def logprobs(params: Any, sampled: Sampled) -> tuple[Array, Array]:
        logs = next_logprobs(model, params, sampled.trail[:, None], sampled.actions)
        chosen = jnp.take_along_axis(logs, sampled.actions[..., None], -1)[..., 0]
        return chosen, entropy(jnp.exp(logs))

    return Toy(model.init, sample, logprobs)


def next_logprobs(
    model: Transformer, params: Any, prompts: Int[Array, "... prompt_tokens"], continuations: Int[Array, "... tokens"]
) -> Float[Array, "... tokens vocab"]:
    """Log-probabilities of every symbol at every place of given continuations, nats (teacher forcing)."""
    leading = continuations.shape[:-1]
    whole = jnp.concatenate([jnp.broadcast_to(prompts, (*leading, prompts.shape[-1])), continuations], -1)
    return jax.nn.log_softmax(model.logits(params, whole[..., :-1])[..., prompts.shape[-1] - 1 :, :])


def imitate(
    model: Transformer,
    params: Any,
    examples: Callable[
        [Key[Array, ""]], tuple[Int[Array, "rows prompt_tokens"], Int[Array, "rows tokens"], Bool[Array, "rows tokens"]]
    ],
    *,
    key: Key[Array, ""],
    steps: int,
    rate: float = 3e-3,
) -> Any:
    """Supervised training on demonstrations, by Adam; pure.

    Args:
      model: From `transformer`.
      params: Where it starts.
      examples: Draws prompts, continuations and a mask of the symbols that count.
      key: Random key.
      steps: Updates.
      rate: Learning rate.

    Returns:
      Parameters.
    """
    optimizer = optax.adam(rate)

    def objective(params: Any, key: Key[Array, ""]) -> Array:
        prompts, continuations, mask = examples(key)
        logs = next_logprobs(model, params, prompts, continuations)
        chosen = jnp.take_along_axis(logs, continuations[..., None], -1)[..., 0]
        return -jnp.sum(jnp.where(mask, chosen, 0.0)) / jnp.maximum(mask.sum(), 1)

    def update(carry: tuple[Any, Any], key: Key[Array, ""]) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        changes, state = optimizer.update(jax.grad(objective)(params, key), state, params)
        return (optax.apply_updates(params, changes), state), None

    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), jax.random.split(key, steps))
    return params
