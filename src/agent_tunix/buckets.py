"""Length buckets: a minibatch cut into parts that are computed one after the other, each as long as its completions.

A bucket is a grid of blocks, each some completions of one prompt. Where all completions are about equally long, every
bucket holds some members of every group, so that all of them share the work on their prompt; where they are not,
completions are sorted by length over all groups, and the tokens of a bucket are packed: laid one behind the other for
everything that is done to each by itself, nine tenths of the work, and spread over the grid for attention alone. A
bucket is padded to one of a few lengths: what is not there is hardly computed, and few programs are compiled.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int

RUNGS = 4
"""Lengths that buckets are padded to: the longest, a half, a quarter and an eighth of it."""


class Cut(NamedTuple):
    """Numbers of parts: of the prompts, and of the members of every group; their product is that of all buckets."""

    prompts: int
    members: int


class Packing(NamedTuple):
    """Where the tokens of a bucket lie when they are laid one behind the other.

    Attributes:
      places: The place of each packed token in the grid, counted through; past the last one where there is no token.
      order: The packed token at each place of the grid; past the last one for padding.
    """

    places: Int[Any, " room"]
    order: Int[Any, "blocks members tokens"]


class Bucket(NamedTuple):
    """Part of a minibatch.

    Attributes:
      prompts: The prompt of each block, counted within the chunk.
      members: Which completions of it.
      tokens: Length that completions are cut to; none of them is longer.
      packing: How tokens are packed, if they are; the grid may then have more blocks, which are empty.
    """

    prompts: Int[np.ndarray, " blocks"]
    members: Int[np.ndarray, "blocks members"]
    tokens: int
    packing: Packing | None = None

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return len(self.prompts) if self.packing is None else len(self.packing.order)

    @property
    def computed(self) -> int:
        """Tokens that are computed, padding included."""
        return self.members.size * self.tokens if self.packing is None else len(self.packing.places)


class Chunk(NamedTuple):
    """Prompts that are computed together, and the buckets of their completions."""

    prompts: slice
    buckets: Sequence[Bucket]


def cut_of(parts: int, prompts: int, group_size: int, prompt_tokens: int, completion_tokens: int) -> Cut:
    """The way to make a number of buckets whose prompts are about as much work as their completions, at most.

    Groups are cut first, because then prompts are computed in one piece; long prompts are cut too.

    Args:
      parts: Buckets in all.
      prompts: Prompts of a minibatch.
      group_size: Completions per prompt.
      prompt_tokens: Length of a prompt.
      completion_tokens: Length of a completion.

    Raises:
      ValueError: If neither prompts nor groups can be cut that way.
    """
    ways = [Cut(n, parts // n) for n in range(1, prompts + 1) if parts % n == 0 and prompts % n == 0]
    ways = [way for way in ways if group_size % way.members == 0]
    if not ways:
        raise ValueError(
            f"{parts} buckets of {prompts} prompts x {group_size} completions got no equal parts; give a product of a "
            f"divisor of {prompts} and one of {group_size}"
        )
    for way in ways:
        if prompt_tokens * prompts // way.prompts <= completion_tokens * prompts * group_size // parts:
            return way
    return ways[-1]


def chunks(mask: Bool[np.ndarray, "prompts group tokens"], cut: Cut) -> Iterator[Chunk]:
    """The buckets of a minibatch, by the lengths of its completions."""
    return (chunk for (chunk,) in aligned([mask], cut))


def aligned(masks: Sequence[Bool[np.ndarray, "prompts group tokens"]], cut: Cut) -> Iterator[list[Chunk]]:
    """The buckets of equal parts of a minibatch that run one program side by side, each on a device of its own.

    Every part is sorted by itself; the k-th buckets of all have one shape, the longest of theirs. Packed buckets differ
    in number, so they are for one device alone.

    Args:
      masks: One for each device.
      cut: Of a part.

    Returns:
      A chunk for each device, as often as `cut.prompts` says.
    """
    longest = masks[0].shape[2]
    lengths = [np.where(mask.any(-1), longest - np.argmax(mask[:, :, ::-1], axis=-1), 0) for mask in masks]
    prompts = len(masks[0]) // cut.prompts
    for start in range(0, len(masks[0]), prompts):
        rows = slice(start, start + prompts)
        ways = _within_groups, _packed if len(masks) == 1 else _over_all
        together, other = (_alike([way(part[rows], cut.members, longest) for part in lengths]) for way in ways)
        best = other if _computed(other[0]) < SHORTER * _computed(together[0]) else together
        yield [Chunk(rows, own) for own in best]


def _alike(devices: Sequence[Sequence[Bucket]]) -> list[list[Bucket]]:
    tokens = [max(bucket.tokens for bucket in same) for same in zip(*devices, strict=True)]
    return [[bucket._replace(tokens=most) for bucket, most in zip(own, tokens, strict=True)] for own in devices]


SHORTER = 0.9
"""Completions are sorted over all groups, or packed, where that leaves less than this fraction of the tokens."""


def _within_groups(lengths: Int[np.ndarray, "prompts group"], parts: int, longest: int) -> list[Bucket]:
    """Some members of every group, the longest of each group first."""
    # Completions of equal length keep their order, so nothing moves where all are equally long.
    members = np.split(np.argsort(-lengths, axis=1, kind="stable"), parts, axis=1)
    prompts = np.arange(len(lengths))
    most = [int(np.take_along_axis(lengths, part, 1).max()) for part in members]
    return [Bucket(prompts, part, rung(least, longest)) for part, least in zip(members, most, strict=True)]


def _over_all(lengths: Int[np.ndarray, "prompts group"], parts: int, longest: int) -> list[Bucket]:
    """The longest completions of all groups first, each a block of its own."""
    found = []
    for part in np.split(np.argsort(-lengths, axis=None, kind="stable"), parts):
        prompts, members = np.unravel_index(np.sort(part), lengths.shape)
        found.append(Bucket(prompts, members[:, None], rung(int(lengths[prompts, members].max()), longest)))
    return found


def _packed(lengths: Int[np.ndarray, "prompts group"], parts: int, longest: int) -> list[Bucket]:
    """The longest completions of all groups first, as many as a bucket has room for.

    A bucket has half of the room of one that is padded, so that the last one is not mostly empty, and blocks for
    completions that are on average half as long as the longest may be.
    """
    order = np.argsort(-lengths, axis=None, kind="stable")
    sizes, room, found, start = np.ravel(lengths)[order], max(lengths.size * longest // parts // 2, longest), [], 0
    while start < len(order):
        tokens = rung(int(sizes[start]), longest)
        blocks = min(2 * room // tokens, len(order))
        fit = int((np.cumsum(sizes[start : start + blocks]) <= room).sum())
        prompts, members = np.unravel_index(np.sort(order[start : start + fit]), lengths.shape)
        there = np.arange(tokens) < np.pad(lengths[prompts, members], (0, blocks - fit))[:, None, None]
        found.append(Bucket(prompts, members[:, None], tokens, _packing(there, room)))
        start += fit
    return found


def _packing(there: Bool[np.ndarray, "blocks members tokens"], room: int) -> Packing:
    found = np.flatnonzero(there)
    places, order = np.full(room, there.size, np.int32), np.full(there.shape, room, np.int32)
    places[: len(found)] = found
    order.ravel()[found] = np.arange(len(found))
    return Packing(places, order)


def _computed(buckets: Sequence[Bucket]) -> int:
    return sum(bucket.computed for bucket in buckets)


def rung(least: int, longest: int) -> int:
    """The smallest of the few lengths that is not below a number of tokens."""
    rungs = [-(-longest // 2**halvings) for halvings in range(RUNGS)]
    return min(length for length in rungs if length >= least)


class Stack(NamedTuple):
    """Buckets of one shape.

    Attributes:
      arrays: A pytree of `[buckets blocks members ...]`, zero in empty blocks. There is room for all buckets of the
        chunk, or for `TOGETHER` where they are packed, whatever their number, so that a shape is one compiled program.
      prompts: The prompt of each block.
      packing: Of every bucket, if they are packed.
      filled: How many buckets there are.
    """

    arrays: Any
    prompts: Int[np.ndarray, "buckets blocks"]
    packing: Packing | None
    filled: int


TOGETHER = 4
"""Packed buckets in a stack at most: their number is not known beforehand, and room that is not needed is copied."""


def stacks(tree: Any, chunk: Chunk) -> list[Stack]:
    """The arrays `[prompts group ...]` of a pytree by buckets, longest first; those with an axis of tokens are cut."""
    found = []
    for same in _by_length(chunk):
        room = [*same, *[same[0]] * (_together(chunk) - len(same))]  # what is beyond the count is never looked at

        def stacked(values: np.ndarray, room: Sequence[Bucket] = room) -> np.ndarray:
            return np.stack([_taken(values, chunk, bucket) for bucket in room])

        prompts = np.stack([_filled_up(bucket.prompts, bucket.blocks) for bucket in room])
        packing = jax.tree.map(lambda *parts: np.stack(parts), *(bucket.packing for bucket in room))
        found.append(Stack(jax.tree.map(stacked, tree), prompts, packing, len(same)))
    return found


def dealt(chunk: Chunk, stream: int, streams: int) -> Chunk:
    """The buckets of one of several streams: every so manieth, so that all streams have about as much to do."""
    return chunk._replace(buckets=chunk.buckets[stream::streams])


def unstack(values: Sequence[Any], chunk: Chunk, into: np.ndarray) -> None:
    """Writes arrays `[buckets blocks members tokens]`, one for every stack, to their places in one for all."""
    rows = np.arange(len(into))[chunk.prompts]
    for same, stacked in zip(_by_length(chunk), values, strict=True):
        for bucket, part in zip(same, np.asarray(stacked), strict=False):
            into[rows[bucket.prompts][:, None], bucket.members, : bucket.tokens] = part[: len(bucket.prompts)]


def _together(chunk: Chunk) -> int:
    return len(chunk.buckets) if chunk.buckets[0].packing is None else TOGETHER


def _by_length(chunk: Chunk) -> list[list[Bucket]]:
    lengths: dict[int, list[Bucket]] = {}
    for bucket in chunk.buckets:
        lengths.setdefault(bucket.tokens, []).append(bucket)
    most = _together(chunk) if chunk.buckets else 0
    return [same[first : first + most] for same in lengths.values() for first in range(0, len(same), most)]


def _taken(values: np.ndarray, chunk: Chunk, bucket: Bucket) -> np.ndarray:
    values = np.asarray(values)[chunk.prompts][bucket.prompts[:, None], bucket.members]
    return _filled_up(values[:, :, : bucket.tokens] if values.ndim > 2 else values, bucket.blocks)


def _filled_up(values: np.ndarray, blocks: int) -> np.ndarray:
    return np.pad(values, ((0, blocks - len(values)), *((0, 0),) * (values.ndim - 1)))
