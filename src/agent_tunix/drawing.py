"""Drawing tokens: the distribution of the next token given logits, and one random number per row to draw it with."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

BLOCK = 128
"""Tokens per block of the two-level inverse CDF for large vocabularies."""


class Distribution(NamedTuple):
    """The distribution tokens are drawn from, given logits.

    Attributes:
      temperature: Divides the logits; 0 takes the likeliest token.
      top_k: Only the `top_k` likeliest tokens; 0 keeps all.
      top_p: Only the likeliest tokens that together reach this probability (the one that crosses it is kept).
      min_p: Only tokens with at least this fraction of the likeliest token's probability.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def filtered(self) -> bool:
        """Whether any token can be left out."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


SOFTMAX = Distribution()
"""The policy's own distribution, at temperature 1."""


def draw(
    uniform: Float[Array, " rows"], logits: Float[Array, "rows vocab"], distribution: Distribution
) -> tuple[Int[Array, " rows"], Float[Array, " rows"], Float[Array, " rows"]]:
    """Draws one token per row.

    Args:
      uniform: A random number in [0, 1) for each row.
      logits: Unnormalised log-probabilities.
      distribution: Temperature and filters.

    Returns:
      Tokens, their log-probabilities under the filtered distribution, and under the unfiltered one (temperature only).
      Greedy tokens are reported under temperature 1.
    """
    if distribution.temperature == 0.0:
        tokens = jnp.argmax(logits, axis=-1)
        logprobs = _chosen(jax.nn.log_softmax(logits), tokens)
        return tokens, logprobs, logprobs
    logits = logits / distribution.temperature
    kept = _filtered(logits, distribution) if distribution.filtered else logits
    weights = jnp.exp(kept - kept.max(-1, keepdims=True))
    tokens = _inverse_cdf(uniform, weights)
    old_logprobs = _chosen(logits, tokens) - jax.nn.logsumexp(logits, axis=-1)
    if not distribution.filtered:
        return tokens, old_logprobs, old_logprobs
    return tokens, _chosen(kept, tokens) - jax.nn.logsumexp(kept, axis=-1), old_logprobs


def _chosen(values: Float[Array, "rows vocab"], tokens: Int[Array, " rows"]) -> Float[Array, " rows"]:
    return jnp.take_along_axis(values, tokens[:, None], axis=1)[:, 0]


def _filtered(logits: Float[Array, "rows vocab"], distribution: Distribution) -> Float[Array, "rows vocab"]:
    """Logits with those of left-out tokens at minus infinity. Filters apply one after the other: k, p, min-p."""
    if 0 < distribution.top_k < logits.shape[-1]:
        threshold = jax.lax.top_k(logits, distribution.top_k)[0][:, -1:]
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if distribution.top_p < 1.0:
        ordered = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        threshold = jnp.min(jnp.where(before < distribution.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    if distribution.min_p > 0.0:
        threshold = logits.max(-1, keepdims=True) + math.log(distribution.min_p)
        logits = jnp.where(logits < threshold, -jnp.inf, logits)
    return logits


def _inverse_cdf(uniform: Float[Array, " rows"], weights: Float[Array, "rows vocab"]) -> Int[Array, " rows"]:
    """The token at which the cumulative weight passes `uniform` of the total.

    One random number per row instead of one per token, as `jax.random.categorical` needs: measured 1.2 to 1.35 times
    faster rollouts. Large vocabularies are searched in two levels, first the block, then the token within it.
    """
    rows, vocab = weights.shape
    if vocab <= 8 * BLOCK:
        return _passed(jnp.cumsum(weights, axis=-1), uniform, weights)
    weights = jnp.pad(weights, ((0, 0), (0, -vocab % BLOCK))).reshape(rows, -1, BLOCK)
    sums = weights.sum(-1)
    cumulative = jnp.cumsum(sums, axis=-1)
    block = _passed(cumulative, uniform, sums)
    before = jnp.take_along_axis(cumulative - sums, block[:, None], axis=1)[:, 0]
    inside = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
    rest = (uniform * cumulative[:, -1] - before) / jnp.take_along_axis(sums, block[:, None], axis=1)[:, 0]
    return block * BLOCK + _passed(jnp.cumsum(inside, axis=-1), jnp.clip(rest, 0.0, 1.0), inside)


def _passed(cumulative: Array, fraction: Array, weights: Array) -> Int[Array, " rows"]:
    """First index whose cumulative weight exceeds a fraction of the total.

    A parallel cumulative sum need not be monotone in its last bit, so the index can fall on a token of zero weight; the
    heaviest token takes its place, for about one draw in ten million. It is looked for only then: always looking took
    3 % of a rollout.
    """
    index = jnp.sum(cumulative <= (fraction * cumulative[:, -1])[:, None], axis=-1)
    index = jnp.minimum(index, weights.shape[-1] - 1)
    possible = _chosen(weights, index) > 0
    return jax.lax.cond(
        jnp.all(possible), lambda: index, lambda: jnp.where(possible, index, jnp.argmax(weights, axis=-1))
    )
