"""Rollouts: a group of completions for every prompt, drawn in one compiled program per shape.

Prompts are computed once and their keys and values shared by the group; decoding is one loop that ends when every
completion has. The caller folds the key from (seed, batch, refill, part), the sampler folds in the token index, so no
two draws of a run share noise.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import data
from agent_tunix.models import Parameters, Policy, merged
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Rollouts, Row

Sample = Callable[[Parameters, Sequence[Row], int, Key[Array, ""]], Rollouts]
"""`(parameters, rows, group_size, key) -> Rollouts`."""

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


class Drawn(NamedTuple):
    """What the compiled rollout returns; fields as in `Rollouts`."""

    completion_ids: Int[Any, "prompts group tokens"]
    completion_mask: Bool[Any, "prompts group tokens"]
    truncated: Bool[Any, "prompts group"]
    logprobs: Float[Any, "prompts group tokens"]
    old_logprobs: Float[Any, "prompts group tokens"]


def draw(
    key: Key[Array, ""], logits: Float[Array, "rows vocab"], distribution: Distribution
) -> tuple[Int[Array, " rows"], Float[Array, " rows"], Float[Array, " rows"]]:
    """Draws one token per row.

    Args:
      key: Random key.
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
    tokens = _inverse_cdf(jax.random.uniform(key, logits.shape[:1]), weights)
    old_logprobs = _chosen(logits, tokens) - jax.nn.logsumexp(logits, axis=-1)
    if not distribution.filtered:
        return tokens, old_logprobs, old_logprobs
    return tokens, _chosen(kept, tokens) - jax.nn.logsumexp(kept, axis=-1), old_logprobs


def rollout(
    policy: Policy,
    parameters: Parameters,
    prompt_ids: Int[Array, "prompts prompt_tokens"],
    prompt_mask: Bool[Array, "prompts prompt_tokens"],
    key: Key[Array, ""],
    *,
    group_size: int,
    max_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    distribution: Distribution,
) -> Drawn:
    """Samples `group_size` completions per prompt until each has met a stop token or `max_tokens`.

    Args:
      policy: Model functions.
      parameters: Its parameters.
      prompt_ids: Left-padded prompts.
      prompt_mask: True on real prompt tokens.
      key: Random key of this batch; the token index is folded in.
      group_size: Completions per prompt.
      max_tokens: Token budget of a completion.
      stop_ids: Tokens that end a completion; the stop token belongs to it.
      pad_id: Fills the slots behind the stop token.
      distribution: Temperature and filters.

    Returns:
      Tokens, masks and log-probabilities, zero behind the stop token.
    """
    prompts, rows = prompt_ids.shape[0], prompt_ids.shape[0] * group_size
    cache, step = policy.decoder(merged(parameters), prompt_ids, prompt_mask, group_size, max_tokens)
    stops = jnp.asarray(stop_ids, jnp.int32)
    first = jnp.repeat(prompt_ids[:, -1], group_size)
    slots = (max_tokens, rows)
    empty = jnp.full(slots, pad_id, jnp.int32), jnp.zeros(slots, bool), jnp.zeros(slots), jnp.zeros(slots)

    def unfinished(state: tuple) -> Bool[Array, ""]:
        index, _, _, done, _ = state
        return (index < max_tokens) & ~jnp.all(done)

    def advance(state: tuple) -> tuple:
        index, tokens, cache, done, written = state
        logits, cache = step(cache, tokens, index)
        tokens, logprobs, old_logprobs = draw(jax.random.fold_in(key, index), logits, distribution)
        tokens = jnp.where(done, pad_id, tokens).astype(jnp.int32)
        new = tokens, ~done, jnp.where(done, 0.0, logprobs), jnp.where(done, 0.0, old_logprobs)
        written = tuple(old.at[index].set(value) for old, value in zip(written, new, strict=True))
        return index + 1, tokens, cache, done | jnp.isin(tokens, stops), written

    state = (jnp.int32(0), first.astype(jnp.int32), cache, jnp.zeros(rows, bool), empty)
    _, _, _, done, written = jax.lax.while_loop(unfinished, advance, state)
    ids, mask, logprobs, old_logprobs = (part.T.reshape(prompts, group_size, max_tokens) for part in written)
    return Drawn(ids, mask, ~done.reshape(prompts, group_size), logprobs, old_logprobs)


def sampler(
    policy: Policy,
    tokenizer: Tokenizer,
    *,
    max_prompt_tokens: int,
    max_completion_tokens: int,
    overlong_prompts: str = "raise",
    stop: Sequence[str] = (),
    distribution: Distribution = SOFTMAX,
) -> Sample:
    """The function that turns rows of a task into rollouts.

    Args:
      policy: Model functions.
      tokenizer: Between text and tokens.
      max_prompt_tokens: Width that prompts are padded to.
      max_completion_tokens: Token budget of a completion.
      overlong_prompts: `raise` or `truncate` (from the left) prompts above their budget.
      stop: Single-token strings that end a completion besides the end-of-sequence token.
      distribution: Temperature and filters.

    Raises:
      ValueError: If a stop string is not a single token.
    """
    compiled = jax.jit(
        functools.partial(
            rollout,
            policy,
            max_tokens=max_completion_tokens,
            stop_ids=(tokenizer.eos_id(), *(tokenizer.token_id(text) for text in stop)),
            pad_id=tokenizer.pad_id(),
            distribution=distribution,
        ),
        static_argnames="group_size",
    )

    def sample(parameters: Parameters, rows: Sequence[Row], group_size: int, key: Key[Array, ""]) -> Rollouts:
        prompts = [row["prompt"] for row in rows]
        encoded = data.encode_prompts(tokenizer, prompts, max_tokens=max_prompt_tokens, overlong=overlong_prompts)
        drawn = compiled(parameters, encoded.ids, encoded.mask, jax.random.fold_in(key, 0), group_size=group_size)
        drawn = Drawn(*map(np.asarray, drawn))
        return Rollouts(
            prompts=prompts,
            completions=[
                [tokenizer.decode(ids[mask]) for ids, mask in zip(*group, strict=True)]
                for group in zip(drawn.completion_ids, drawn.completion_mask, strict=True)
            ],
            columns=columns(rows),
            prompt_ids=encoded.ids,
            prompt_mask=encoded.mask,
            **drawn._asdict(),
        )

    return sample


def columns(rows: Sequence[Row]) -> Mapping[str, Sequence[Any]]:
    """The rows' columns besides `prompt` and `demonstration`, None where a row has no such column."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("prompt", "demonstration"))
    return {name: [row.get(name) for row in rows] for name in names}


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
    heaviest token takes its place, for about one draw in ten million.
    """
    index = jnp.sum(cumulative <= (fraction * cumulative[:, -1])[:, None], axis=-1)
    index = jnp.minimum(index, weights.shape[-1] - 1)
    return jnp.where(_chosen(weights, index) > 0, index, jnp.argmax(weights, axis=-1))
