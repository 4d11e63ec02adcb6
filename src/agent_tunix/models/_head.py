"""Log-probabilities and entropies of tokens without holding logits of the whole batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MAX_LOGITS = 2**24
"""Logits held at once, 64 MiB in float32. Larger batches are cut, and their logits computed again for the gradient."""


def token_logprobs(
    features: Float[Array, "*batch width"],
    unembedding: Float[Array, "vocab width"],
    targets: Int[Array, "*batch"],
    temperature: float = 1.0,
    *,
    max_logits: int = MAX_LOGITS,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Log-probability of each target token and entropy of the distribution it comes from, in nats.

    Args:
      features: What the unembedding turns into logits.
      unembedding: One row per token of the vocabulary.
      targets: Token ids.
      temperature: Divides the logits; must be positive.
      max_logits: Most logits to hold at once; a batch above it is computed in chunks under rematerialisation.

    Returns:
      Log-probabilities and entropies, in the shape of `targets`.
    """
    flat, ids = features.reshape(-1, features.shape[-1]), targets.reshape(-1)
    rows = ids.shape[0]
    chunks = -(-rows * unembedding.shape[0] // max_logits)

    def head(x: Array, y: Array) -> tuple[Array, Array]:
        logits = (x @ unembedding.T) / temperature
        log_total = jax.nn.logsumexp(logits, axis=-1)
        logprobs = jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0] - log_total
        probabilities = jnp.exp(logits - log_total[:, None])
        return logprobs, log_total - jnp.sum(probabilities * logits, axis=-1)

    if chunks <= 1:
        logprobs, entropy = head(flat, ids)
    else:
        size = -(-rows // chunks)
        padding = chunks * size - rows
        flat = jnp.pad(flat, ((0, padding), (0, 0))).reshape(chunks, size, -1)
        ids = jnp.pad(ids, (0, padding)).reshape(chunks, size)
        logprobs, entropy = jax.lax.map(lambda pair: jax.checkpoint(head)(*pair), (flat, ids))
        logprobs, entropy = logprobs.reshape(-1)[:rows], entropy.reshape(-1)[:rows]
    return logprobs.reshape(targets.shape), entropy.reshape(targets.shape)
