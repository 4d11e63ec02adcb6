"""Log-probabilities and entropies of tokens, with a gradient of their own.

The gradient of a log-probability by the logits is `onehot - softmax`. Written out, it needs no further pass over the
logits: with `e = exp(logits - max)` kept from the forward pass and `u = softmax @ unembedding`, the features receive
`unembedding[target] - u`, and the unembedding `-e.T @ (features / e.sum())` plus one row per target. The entropy is
`log_total - features . u` without a further pass. Against JAX's own derivative this leaves out two passes over
`[tokens vocab]` and a scatter into it.

Logits that are too many to be held are computed a part of the vocabulary at a time, twice where they are
differentiated. Cutting the vocabulary and not the tokens means that the gradient of each part of the unembedding is
written once instead of added up.

Logits under a softcap (Gemma 2) have neither shortcut: they are computed in parts where they are too many, and
differentiated by JAX.
"""

import functools
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MAX_LOGITS = 2**25
"""Logits that are held for the gradient, 128 MiB in float32; more are computed in parts, and twice."""
PART = 2**23
"""Logits of a part, 32 MiB: of these and of what is made of them a few live at once."""


def token_logprobs(
    features: Float[Array, "*batch width"],
    unembedding: Float[Array, "vocab width"],
    targets: Int[Array, "*batch"],
    temperature: float = 1.0,
    *,
    entropy_gradient: bool = False,
    softcap: float = 0.0,
    max_logits: int = MAX_LOGITS,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Log-probability of each target token and entropy of the distribution it comes from, in nats.

    Args:
      features: What the unembedding turns into logits.
      unembedding: One row per token of the vocabulary.
      targets: Token ids.
      temperature: Divides the logits; must be positive.
      entropy_gradient: Whether entropies are differentiated, which costs another pass over the logits; otherwise no
        gradient flows through them.
      softcap: Bound of the logits by a hyperbolic tangent, before the temperature; 0 leaves them as they are.
      max_logits: Most logits to hold at once; above it the vocabulary is cut into equal parts (`parts_of`).

    Returns:
      Log-probabilities and entropies in float32, in the shape of `targets`.
    """
    flat, ids = features.reshape(-1, features.shape[-1]), targets.reshape(-1)
    parts = parts_of(ids.size, unembedding.shape[0], max_logits)
    if softcap:
        found = _capped_head(flat, unembedding, ids, temperature, entropy_gradient, softcap, parts)
    elif parts == 1:
        found = _head(flat, unembedding, ids, temperature, entropy_gradient)
    else:
        found = _head_in_parts(flat, unembedding, ids, temperature, entropy_gradient, parts)
    logprobs, entropy = cast(tuple[Array, Array], found)
    return logprobs.reshape(targets.shape), entropy.reshape(targets.shape)


def parts_of(tokens: int, vocab: int, max_logits: int = MAX_LOGITS) -> int:
    """Equal parts that a vocabulary is computed in: one where all logits may be held, else parts of at most `PART`.

    Args:
      tokens: Rows of logits.
      vocab: Their columns.
      max_logits: Most logits to hold.
    """
    most = max_logits if tokens * vocab <= max_logits else min(PART, max_logits)
    return next(n for n in range(1, vocab + 1) if vocab % n == 0 and tokens * (vocab // n) <= max(most, tokens))


class _Kept(NamedTuple):
    """What the gradient needs of the forward pass."""

    features: Float[Array, "rows width"]
    unembedding: Float[Array, "vocab width"]
    targets: Int[Array, " rows"]
    weights: Float[Array, "rows vocab"]
    total: Float[Array, " rows"]
    mean: Float[Array, "rows width"]
    entropy: Float[Array, " rows"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _head(
    features: Array, unembedding: Array, targets: Array, temperature: float, entropy_gradient: bool
) -> tuple[Array, Array]:
    logits = _product("nd,vd->nv", features, unembedding) / temperature
    log_total = jax.nn.logsumexp(logits, axis=-1)
    mean = jnp.sum(jnp.exp(logits - log_total[:, None]) * logits, axis=-1)
    return _chosen(logits, targets) - log_total, log_total - mean


def _forward(features: Array, unembedding: Array, targets: Array, temperature: float, entropy_gradient: bool) -> tuple:
    logits = _product("nd,vd->nv", features, unembedding) / temperature
    top = logits.max(-1, keepdims=True)
    weights = jnp.exp(logits - top)
    total = weights.sum(-1)
    log_total = jnp.log(total) + top[:, 0]
    mean = _product("nv,vd->nd", weights.astype(unembedding.dtype), unembedding) / total[:, None]
    entropy = log_total - jnp.sum(features * mean, axis=-1) / temperature
    kept = _Kept(features, unembedding, targets, weights, total, mean, entropy)
    return (_chosen(logits, targets) - log_total, entropy), kept


def _backward(
    temperature: float, entropy_gradient: bool, kept: _Kept, cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None]:
    by_logprob, by_entropy = (cotangent[:, None] / temperature for cotangent in cotangents)
    features, unembedding, dtype = kept.features, kept.unembedding, kept.features.dtype
    if entropy_gradient:  # by the logits: -p (log p + entropy), one more weighing of the same softmax
        softmax = kept.weights / kept.total[:, None]
        logs = jnp.log(jnp.maximum(softmax, jnp.finfo(jnp.float32).tiny))
        pulled = (softmax * (by_logprob + by_entropy * (logs + kept.entropy[:, None]))).astype(dtype)
        mean, minus = _product("nv,vd->nd", pulled, unembedding), _product("nv,nd->vd", pulled, features)
    else:
        scaled = (by_logprob / kept.total[:, None] * features).astype(dtype)
        mean, minus = by_logprob * kept.mean, _product("nv,nd->vd", kept.weights.astype(dtype), scaled)
    by_features = by_logprob * unembedding[kept.targets] - mean
    by_unembedding = (-minus).at[kept.targets].add(by_logprob * features)
    return by_features.astype(dtype), by_unembedding.astype(unembedding.dtype), None


_head.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _head_in_parts(
    features: Array, unembedding: Array, targets: Array, temperature: float, entropy_gradient: bool, parts: int
) -> tuple[Array, Array]:
    return _forward_in_parts(features, unembedding, targets, temperature, entropy_gradient, parts)[0]


def _forward_in_parts(
    features: Array, unembedding: Array, targets: Array, temperature: float, entropy_gradient: bool, parts: int
) -> tuple:
    def add(sums: tuple[Array, Array, Array], part: Array) -> tuple[tuple[Array, Array, Array], None]:
        top, total, weighted = sums
        logits = _product("nd,vd->nv", features, part) / temperature
        new = jnp.maximum(top, logits.max(-1))
        weights, shrink = jnp.exp(logits - new[:, None]), jnp.exp(top - new)
        return (new, total * shrink + weights.sum(-1), weighted * shrink + (weights * logits).sum(-1)), None

    none = jnp.zeros(targets.shape)
    cut = unembedding.reshape(parts, -1, unembedding.shape[1])
    (top, total, weighted), _ = jax.lax.scan(add, (none - jnp.inf, none, none), cut)
    log_total = jnp.log(total) + top
    entropy = log_total - weighted / total
    chosen = _product("nd,nd->n", features, unembedding[targets]) / temperature
    return (chosen - log_total, entropy), (features, unembedding, targets, log_total, entropy)


def _backward_in_parts(
    temperature: float, entropy_gradient: bool, parts: int, kept: tuple, cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None]:
    features, unembedding, targets, log_total, entropy = kept
    by_logprob, by_entropy = (cotangent[:, None] / temperature for cotangent in cotangents)

    def pull(by_features: Array, part: Array) -> tuple[Array, Array]:
        logs = _product("nd,vd->nv", features, part) / temperature - log_total[:, None]
        by_logits = -by_logprob
        if entropy_gradient:
            by_logits = by_logits - by_entropy * (logs + entropy[:, None])
        by_logits = (jnp.exp(logs) * by_logits).astype(features.dtype)
        return by_features + _product("nv,vd->nd", by_logits, part), _product("nv,nd->vd", by_logits, features)

    cut = unembedding.reshape(parts, -1, unembedding.shape[1])
    by_features, by_parts = jax.lax.scan(pull, by_logprob * unembedding[targets], cut)
    by_unembedding = by_parts.reshape(unembedding.shape).at[targets].add(by_logprob * features)
    return by_features.astype(features.dtype), by_unembedding.astype(unembedding.dtype), None


_head_in_parts.defvjp(_forward_in_parts, _backward_in_parts)


def _capped_head(
    features: Array,
    unembedding: Array,
    targets: Array,
    temperature: float,
    entropy_gradient: bool,
    softcap: float,
    parts: int,
) -> tuple[Array, Array]:
    @jax.checkpoint
    def add(sums: tuple[Array, Array, Array], part: Array) -> tuple[tuple[Array, Array, Array], None]:
        top, total, weighted = sums
        logits = capped(_product("nd,vd->nv", features, part), softcap) / temperature
        new = jax.lax.stop_gradient(jnp.maximum(top, logits.max(-1)))
        weights, shrink = jnp.exp(logits - new[:, None]), jnp.exp(top - new)
        return (new, total * shrink + weights.sum(-1), weighted * shrink + (weights * logits).sum(-1)), None

    none = jnp.zeros(targets.shape)
    cut = unembedding.reshape(parts, -1, unembedding.shape[1])
    (top, total, weighted), _ = jax.lax.scan(add, (none - jnp.inf, none, none), cut)
    log_total = jnp.log(total) + top
    chosen = capped(_product("nd,nd->n", features, unembedding[targets]), softcap) / temperature
    entropy = log_total - weighted / total
    return chosen - log_total, entropy if entropy_gradient else jax.lax.stop_gradient(entropy)


def capped(x: Array, bound: float) -> Array:
    """Bounded by a hyperbolic tangent, as Gemma 2 bounds scores and logits; 0 leaves it as it is."""
    return bound * jnp.tanh(x / bound) if bound else x


def _product(axes: str, first: Array, second: Array) -> Array:
    return jnp.einsum(axes, first, second, preferred_element_type=jnp.float32)


def _chosen(logits: Float[Array, "rows vocab"], targets: Int[Array, " rows"]) -> Float[Array, " rows"]:
    return jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
