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
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import data, devices, hosts
from agent_tunix.drawing import SOFTMAX, Distribution, draw
from agent_tunix.layouts import Layout, plain
from agent_tunix.models import Parameters, Policy, merged
from agent_tunix.streams import called, side_by_side
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Rollouts, Row

Sample = Callable[[Parameters, Sequence[Row], int, Key[Array, ""]], Rollouts]
"""`(parameters, rows, group_size, key) -> Rollouts`."""


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


def regrouping(done: Sequence[Bool[np.ndarray, "blocks width"]], most_blocks: int) -> list[Regrouping] | None:
    """Smaller grids for the completions that are not done, or None where none is smaller by a quarter.

    Every block has the same width and one prompt, so a prompt with more completions left than that takes several.
    Numbers of blocks are rounded up to powers of two, so that few programs are compiled.

    Args:
      done: Which completions have ended, on every device; the grids of all get one shape.
      most_blocks: Blocks at most of a device, which bounds the copies of prompts.
    """
    alive = [[np.flatnonzero(~row) for row in grid] for grid in done]
    full, candidates = done[0].shape[1], []
    for width in range(1, full + 1):
        blocks = _rung(max(sum(-(-len(members) // width) for members in own) for own in alive))
        if full % width == 0 and blocks <= most_blocks and blocks * width <= 0.75 * done[0].size:
            candidates.append((blocks * width, blocks, width))
    if not candidates:
        return None
    _, blocks, width = min(candidates)
    return [_regrouped_to(own, blocks, width) for own in alive]


def _regrouped_to(alive: Sequence[np.ndarray], blocks: int, width: int) -> Regrouping:
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
    streams: int = 1,
    mesh: Mesh | None = None,
    layout: Layout = plain,
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
      streams: Parts of the prompts that are decoded at the same time (`decoding`).
      mesh: Devices that prompts and their groups are dealt to (`devices`).
      layout: What is encoded of a row (`layouts`); rollouts hold its prompt alone.

    Raises:
      ValueError: If a stop string is not a single token.
    """
    stop_ids = (*tokenizer.stop_ids(), *(tokenizer.token_id(text) for text in stop))
    decoded = decoding(
        policy,
        max_tokens=max_completion_tokens,
        stop_ids=stop_ids,
        pad_id=tokenizer.pad_id(),
        distribution=distribution,
        streams=streams,
        mesh=mesh,
    )

    def sample(parameters: Parameters, rows: Sequence[Row], group_size: int, key: Key[Array, ""]) -> Rollouts:
        prompts = [row["prompt"] for row in rows]
        encoded = data.encode_prompts(
            tokenizer, [layout(row) for row in rows], max_tokens=max_prompt_tokens, overlong=overlong_prompts
        )
        drawn = decoded(parameters, encoded.ids, encoded.mask, group_size, jax.random.fold_in(key, 0))
        own = devices.local(mesh, len(rows))
        texts = [
            [tokenizer.decode(ids[mask]) for ids, mask in zip(*group, strict=True)]
            for group in zip(drawn["completion_ids"][own], drawn["completion_mask"][own], strict=True)
        ]
        return Rollouts(
            prompts=prompts,
            completions=[group for part in hosts.exchanged("texts", texts) for group in part],
            columns=columns(rows),
            prompt_ids=encoded.ids,
            prompt_mask=encoded.mask,
            **drawn,
        )

    return sample


class _Piece(NamedTuple):
    """What one segment drew, from the token `start` on, for the completions `rows` of the batch."""

    start: int
    rows: Int[np.ndarray, "blocks width"]
    drawn: Drawn


def decoding(
    policy: Policy,
    *,
    max_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    distribution: Distribution = SOFTMAX,
    streams: int = 1,
    mesh: Mesh | None = None,
) -> Callable[..., dict[str, np.ndarray]]:
    """The function that completes tokens.

    Args:
      policy: Model functions.
      max_tokens: Token budget of a completion.
      stop_ids: Tokens that end a completion.
      pad_id: Fills the slots behind.
      distribution: Temperature and filters.
      streams: Parts of the prompts that are decoded at the same time, each in a thread; fewer where they do not divide
        the prompts (`streams`). Two make the rollout of W1 take 0.20 instead of 0.40 s
        (`benchmarks/ablation.py`). All draw with the noise of the whole batch.

    Returns:
      `(parameters, prompt_ids, prompt_mask, group_size, key, rows=None) -> arrays`, by the names of `Completions`.
      `rows`, int `[prompts group]`, says which completion of the batch each one is, by default all of them in order;
      where it is past the last one nothing is drawn, and a prompt that only fills up the batch costs no decoding.
    """
    ends = segments(max_tokens)

    def begin(
        parameters: Parameters, prompt_ids: Array, prompt_mask: Array, rows: Array, *, total_rows: int
    ) -> Decoding:
        params = merged(parameters)
        prefix = policy.prefix(params, prompt_ids, prompt_mask)
        return Decoding(
            prefix=prefix,
            cache=policy.cache(params, prefix, rows.shape[1], ends[0]),
            tokens=jnp.broadcast_to(prompt_ids[:, -1:], rows.shape).astype(jnp.int32),
            done=rows >= total_rows,
            rows=rows,
        )

    drawing = functools.partial(decode, policy, stop_ids=stop_ids, pad_id=pad_id, distribution=distribution)
    begun = devices.each(mesh, begin, same=(0,), static=("total_rows",))
    segment = devices.each(mesh, drawing, same=(0, 2), donate=(1,), static=("start", "end", "total_rows"))
    enlarge = devices.each(mesh, lambda cache, *, slots: policy.grown(cache, slots), static=("slots",))
    regroup = devices.each(mesh, regrouped, static=("total_rows",))

    def stream(parameters: Parameters, prompts: tuple[Any, ...], total: int, key: Array) -> list[_Piece]:
        """Some prompts of a batch of `total` completions: ids, mask, and the rows of their completions."""
        start, pieces, most_blocks = 0, [], 2 * len(prompts[0]) // devices.count(mesh)
        dealt = devices.together(mesh, devices.dealt(mesh, prompts))
        state = called(begun, parameters, *dealt, total_rows=total)
        for end in ends:
            rows = np.concatenate(devices.apart(mesh, state.rows))
            state, drawn = called(segment, parameters, state, key, start=start, end=end, total_rows=total)
            pieces.append(_Piece(start, rows, drawn))
            done, start = devices.apart(mesh, state.done), end
            if all(own.all() for own in done) or end == max_tokens:
                return pieces
            smaller = regrouping(done, most_blocks)
            if smaller is not None:
                state = called(regroup, state, devices.together(mesh, smaller), total_rows=total)
            state = state._replace(cache=called(enlarge, state.cache, slots=ends[len(pieces)]))
        return pieces

    def decoded(
        parameters: Parameters,
        prompt_ids: Int[Any, "prompts prompt_tokens"],
        prompt_mask: Bool[Any, "prompts prompt_tokens"],
        group_size: int,
        key: Key[Array, ""],
        rows: Int[np.ndarray, "prompts group"] | None = None,
    ) -> dict[str, np.ndarray]:
        grid = len(prompt_ids), group_size
        rows = np.arange(grid[0] * grid[1], dtype=np.int32).reshape(grid) if rows is None else rows
        size = grid[0] // math.gcd(streams, max(grid[0] // devices.count(mesh), 1))

        def part(first: int) -> list[_Piece]:
            prompts = (values[first : first + size] for values in (prompt_ids, prompt_mask, rows))
            return stream(parameters, tuple(prompts), rows.size, key)

        found = side_by_side(part, range(0, grid[0], size))
        pieces = [piece._replace(drawn=_joined(mesh, piece.drawn)) for pieces in found for piece in pieces]
        return _assembled(pieces, (*grid, max_tokens), np.asarray(stop_ids), pad_id)

    return decoded


def _joined(mesh: Mesh | None, drawn: Drawn) -> Drawn:
    """What all devices drew, on one axis of blocks, on the host."""
    return Drawn(*(np.concatenate(devices.apart(mesh, values), axis=1) for values in drawn))


def _assembled(
    pieces: Sequence[_Piece], shape: tuple[int, int, int], stop_ids: np.ndarray, pad_id: int
) -> dict[str, np.ndarray]:
    """The segments put together, every completion in its place."""
    rows = shape[0] * shape[1]
    out = Drawn(
        np.full((rows, shape[2]), pad_id, np.int32),
        np.zeros((rows, shape[2]), bool),
        np.zeros((rows, shape[2]), np.float32),
        np.zeros((rows, shape[2]), np.float32),
    )
    for start, places, drawn in pieces:
        real = places < rows
        for whole, part in zip(out, drawn, strict=True):
            whole[places[real], start : start + len(part)] = part[:, real].T
    ended = (np.isin(out.completion_ids, stop_ids) & out.completion_mask).any(-1)
    whole = (value.reshape(shape) for value in out)
    return Completions(*whole, truncated=~ended.reshape(shape[:2]))._asdict()


def columns(rows: Sequence[Row]) -> Mapping[str, Sequence[Any]]:
    """The rows' columns besides `prompt` and `demonstration`, None where a row has no such column."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("prompt", "demonstration"))
    return {name: [row.get(name) for row in rows] for name in names}
