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


class Decoding(NamedTuple):
    """Completions on their way, on a grid of blocks that share a prompt times completions of it.

    Attributes:
      prefix: Of the policy, one prompt per block.
      cache: Of the policy.
      tokens: The newest tokens.
      done: Whether a completion has met a stop token, or there is none.
      rows: Which completion of the batch each one is; past the last one for none.
    """

    prefix: Any
    cache: Any
    tokens: Int[Any, "blocks width"]
    done: Bool[Any, "blocks width"]
    rows: Int[Any, "blocks width"]


class Drawn(NamedTuple):
    """What a compiled segment writes for every completion: tokens, whether they are real, their log-probabilities."""

    completion_ids: Int[Any, "tokens blocks width"]
    completion_mask: Bool[Any, "tokens blocks width"]
    logprobs: Float[Any, "tokens blocks width"]
    old_logprobs: Float[Any, "tokens blocks width"]


class Completions(NamedTuple):
    """A whole batch; fields as in `Rollouts`."""

    completion_ids: Int[np.ndarray, "prompts group tokens"]
    completion_mask: Bool[np.ndarray, "prompts group tokens"]
    logprobs: Float[np.ndarray, "prompts group tokens"]
    old_logprobs: Float[np.ndarray, "prompts group tokens"]
    truncated: Bool[np.ndarray, "prompts group"]


def decode(
    policy: Policy,
    parameters: Parameters,
    state: Decoding,
    key: Key[Array, ""],
    *,
    start: int,
    end: int,
    total_rows: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    distribution: Distribution,
) -> tuple[Decoding, Drawn]:
    """Draws the tokens from `start` to `end` of every completion, or until each has met a stop token.

    Args:
      policy: Model functions.
      parameters: Its parameters.
      state: The completions so far.
      key: Random key of this batch; the token index is folded in.
      start: Index of the first token.
      end: Index behind the last one.
      total_rows: Completions of the batch; each draws with the same noise whichever others are still on their way.
      stop_ids: Tokens that end a completion; the stop token belongs to it.
      pad_id: Fills the slots behind the stop token.
      distribution: Temperature and filters.

    Returns:
      The state after them and what was drawn, zero behind the stop token.
    """
    step = policy.decoder(merged(parameters), state.prefix)
    stops, shape = jnp.asarray(stop_ids, jnp.int32), (end - start, *state.rows.shape)
    empty = Drawn(jnp.full(shape, pad_id, jnp.int32), jnp.zeros(shape, bool), jnp.zeros(shape), jnp.zeros(shape))

    def unfinished(carry: tuple) -> Bool[Array, ""]:
        index, _, _, done, _ = carry
        return (index < end) & ~jnp.all(done)

    def advance(carry: tuple) -> tuple:
        index, tokens, cache, done, written = carry
        logits, cache = step(cache, tokens, index)
        noise = jax.random.uniform(jax.random.fold_in(key, index), (total_rows,))[state.rows]
        drawn = draw(noise.reshape(-1), logits.reshape(-1, logits.shape[-1]), distribution)
        tokens, logprobs, old_logprobs = (value.reshape(done.shape) for value in drawn)
        tokens = jnp.where(done, pad_id, tokens).astype(jnp.int32)
        new = Drawn(tokens, ~done, jnp.where(done, 0.0, logprobs), jnp.where(done, 0.0, old_logprobs))
        written = jax.tree.map(lambda old, value: old.at[index - start].set(value), written, new)
        return index + 1, tokens, cache, done | jnp.isin(tokens, stops), written

    carry = (jnp.int32(start), state.tokens, state.cache, state.done, empty)
    _, tokens, cache, done, written = jax.lax.while_loop(unfinished, advance, carry)
    return state._replace(tokens=tokens, cache=cache, done=done), written


class Regrouping(NamedTuple):
    """Which completions go on, by their place in the present grid.

    Attributes:
      blocks: The present block that each new block takes its prompt from.
      members: The present completions of that block, by their place in it.
      real: False where there is none left and a place stays empty.
    """

    blocks: Int[np.ndarray, " blocks"]
    members: Int[np.ndarray, "blocks width"]
    real: Bool[np.ndarray, "blocks width"]


def regrouping(done: Bool[np.ndarray, "blocks width"], most_blocks: int) -> Regrouping | None:
    """A smaller grid for the completions that are not done, or None where none is smaller by a quarter.

    Every block has the same width and one prompt, so a prompt with more completions left than that takes several.
    Numbers of blocks are rounded up to powers of two, so that few programs are compiled.

    Args:
      done: Which completions have ended.
      most_blocks: Blocks at most, which bounds the copies of prompts.
    """
    alive = [np.flatnonzero(~row) for row in done]
    candidates = []
    for width in range(1, done.shape[1] + 1):
        blocks = _rung(sum(-(-len(members) // width) for members in alive))
        if done.shape[1] % width == 0 and blocks <= most_blocks and blocks * width <= 0.75 * done.size:
            candidates.append((blocks * width, blocks, width))
    if not candidates:
        return None
    _, blocks, width = min(candidates)
    pieces = [(p, part[i : i + width]) for p, part in enumerate(alive) for i in range(0, len(part), width)]
    members, real = np.zeros((blocks, width), int), np.zeros((blocks, width), bool)
    for place, (_, piece) in enumerate(pieces):
        members[place, : len(piece)], real[place, : len(piece)] = piece, True
    prompts = np.zeros(blocks, int)
    prompts[: len(pieces)] = [prompt for prompt, _ in pieces]
    return Regrouping(prompts, members, real)


def _rung(least: int) -> int:
    """The smallest power of two, from 8, that is not below a number."""
    return max(8, 1 << max(least - 1, 0).bit_length())


def regrouped(state: Decoding, to: Regrouping, total_rows: int) -> Decoding:
    """The state on another grid."""

    def pick(values: Array) -> Array:
        return values[to.blocks[:, None], to.members]

    return Decoding(
        prefix=jax.tree.map(lambda values: values[to.blocks], state.prefix),
        cache=jax.tree.map(pick, state.cache),
        tokens=pick(state.tokens),
        done=~to.real,
        rows=jnp.where(to.real, pick(state.rows), total_rows),
    )


FIRST_SEGMENT = 64
"""Tokens decoded before the cache grows and finished completions are dropped for the first time."""


def segments(max_tokens: int) -> list[int]:
    """Where decoding pauses to enlarge the cache and to drop what has ended: at 64 tokens, 128, 256 and so on.

    A cache that grows is no faster for short completions, and a pause costs a compiled program; for long ones attention
    to slots that hold nothing yet, and rows that have ended, would be most of the work.
    """
    ends = [min(FIRST_SEGMENT, max_tokens)]
    while ends[-1] < max_tokens:
        ends.append(min(max_tokens, 2 * ends[-1]))
    return ends


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
    stop_ids = (tokenizer.eos_id(), *(tokenizer.token_id(text) for text in stop))
    decoded = decoding(
        policy,
        max_tokens=max_completion_tokens,
        stop_ids=stop_ids,
        pad_id=tokenizer.pad_id(),
        distribution=distribution,
    )

    def sample(parameters: Parameters, rows: Sequence[Row], group_size: int, key: Key[Array, ""]) -> Rollouts:
        prompts = [row["prompt"] for row in rows]
        encoded = data.encode_prompts(tokenizer, prompts, max_tokens=max_prompt_tokens, overlong=overlong_prompts)
        drawn = decoded(parameters, encoded.ids, encoded.mask, group_size, jax.random.fold_in(key, 0))
        return Rollouts(
            prompts=prompts,
            completions=[
                [tokenizer.decode(ids[mask]) for ids, mask in zip(*group, strict=True)]
                for group in zip(drawn["completion_ids"], drawn["completion_mask"], strict=True)
            ],
            columns=columns(rows),
            prompt_ids=encoded.ids,
            prompt_mask=encoded.mask,
            **drawn,
        )

    return sample


def decoding(
    policy: Policy, *, max_tokens: int, stop_ids: tuple[int, ...], pad_id: int, distribution: Distribution = SOFTMAX
) -> Callable[..., dict[str, np.ndarray]]:
    """The function that completes tokens.

    Args:
      policy: Model functions.
      max_tokens: Token budget of a completion.
      stop_ids: Tokens that end a completion.
      pad_id: Fills the slots behind.
      distribution: Temperature and filters.

    Returns:
      `(parameters, prompt_ids, prompt_mask, group_size, key) -> arrays`, by the names of `Completions`.
    """
    ends = segments(max_tokens)

    @functools.partial(jax.jit, static_argnames="group_size")
    def begin(parameters: Parameters, prompt_ids: Array, prompt_mask: Array, group_size: int) -> Decoding:
        params = merged(parameters)
        prefix, grid = policy.prefix(params, prompt_ids, prompt_mask), (prompt_ids.shape[0], group_size)
        return Decoding(
            prefix=prefix,
            cache=policy.cache(params, prefix, group_size, ends[0]),
            tokens=jnp.broadcast_to(prompt_ids[:, -1:], grid).astype(jnp.int32),
            done=jnp.zeros(grid, bool),
            rows=jnp.arange(grid[0] * grid[1]).reshape(grid),
        )

    settings = {"stop_ids": stop_ids, "pad_id": pad_id, "distribution": distribution}
    segment = jax.jit(
        functools.partial(decode, policy, **settings),
        static_argnames=("start", "end", "total_rows"),
        donate_argnames="state",
    )
    enlarge, regroup = jax.jit(policy.grown, static_argnums=1), jax.jit(regrouped, static_argnums=2)

    def decoded(
        parameters: Parameters,
        prompt_ids: Int[Any, "prompts prompt_tokens"],
        prompt_mask: Bool[Any, "prompts prompt_tokens"],
        group_size: int,
        key: Key[Array, ""],
    ) -> dict[str, np.ndarray]:
        state, start = begin(parameters, prompt_ids, prompt_mask, group_size=group_size), 0
        total, pieces = state.rows.size, []
        for end in ends:
            rows = np.asarray(state.rows)
            state, drawn = segment(parameters, state, key, start=start, end=end, total_rows=total)
            pieces.append((rows, drawn))
            done, start = np.asarray(state.done), end
            if done.all() or end == max_tokens:
                break
            smaller = regrouping(done, most_blocks=2 * len(prompt_ids))
            if smaller is not None:
                state = regroup(state, smaller, total)
            state = state._replace(cache=enlarge(state.cache, ends[len(pieces)]))
        return _assembled(pieces, (len(prompt_ids), group_size, max_tokens), np.asarray(stop_ids), pad_id)

    return decoded


def _assembled(
    pieces: Sequence[tuple[np.ndarray, Drawn]], shape: tuple[int, int, int], stop_ids: np.ndarray, pad_id: int
) -> dict[str, np.ndarray]:
    """The segments put together, every completion in its place."""
    rows = shape[0] * shape[1]
    out = Drawn(
        np.full((rows, shape[2]), pad_id, np.int32),
        np.zeros((rows, shape[2]), bool),
        np.zeros((rows, shape[2]), np.float32),
        np.zeros((rows, shape[2]), np.float32),
    )
    start = 0
    for places, drawn in pieces:
        real = places < rows
        for whole, part in zip(out, map(np.asarray, drawn), strict=True):
            whole[places[real], start : start + len(part)] = part[:, real].T
        start += len(drawn.completion_ids)
    ended = (np.isin(out.completion_ids, stop_ids) & out.completion_mask).any(-1)
    whole = (value.reshape(shape) for value in out)
    return Completions(*whole, truncated=~ended.reshape(shape[:2]))._asdict()


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
    heaviest token takes its place, for about one draw in ten million. It is looked for only then: always looking took
    3 % of a rollout.
    """
    index = jnp.sum(cumulative <= (fraction * cumulative[:, -1])[:, None], axis=-1)
    index = jnp.minimum(index, weights.shape[-1] - 1)
    possible = _chosen(weights, index) > 0
    return jax.lax.cond(
        jnp.all(possible), lambda: index, lambda: jnp.where(possible, index, jnp.argmax(weights, axis=-1))
    )
