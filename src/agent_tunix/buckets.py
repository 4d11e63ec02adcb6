"""Length buckets: a minibatch cut into parts that are computed one after the other, each as long as its completions.

A bucket is a grid of blocks, each some completions of one prompt. Where all completions are about equally long, every
bucket holds some members of every group, so that all of them share the work on their prompt; where they are not,
completions are sorted by length over all groups. A bucket is padded to one of a few lengths: what is not there is
hardly computed, and few programs are compiled.
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


class Bucket(NamedTuple):
    """Part of a minibatch.

    Attributes:
      prompts: The prompt of each block, counted within the chunk.
      members: Which completions of it.
      tokens: Length that completions are cut to; none of them is longer.
    """

    prompts: Int[np.ndarray, " blocks"]
    members: Int[np.ndarray, "blocks members"]
    tokens: int


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
    lengths = np.where(mask.any(-1), mask.shape[2] - np.argmax(mask[:, :, ::-1], axis=-1), 0)
    prompts = len(mask) // cut.prompts
    for start in range(0, len(mask), prompts):
        rows = slice(start, start + prompts)
        together = _within_groups(lengths[rows], cut.members, mask.shape[2])
        sorted_over_all = _over_all(lengths[rows], cut.members, mask.shape[2])
        yield Chunk(rows, sorted_over_all if _padded(sorted_over_all) < SHORTER * _padded(together) else together)


SHORTER = 0.9
"""Completions are sorted over all groups where that leaves less than this fraction of the tokens to compute."""


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


def _padded(buckets: Sequence[Bucket]) -> int:
    return sum(bucket.members.size * bucket.tokens for bucket in buckets)


def rung(least: int, longest: int) -> int:
    """The smallest of the few lengths that is not below a number of tokens."""
    rungs = [-(-longest // 2**halvings) for halvings in range(RUNGS)]
    return min(length for length in rungs if length >= least)


class Stack(NamedTuple):
    """Buckets of one shape.

    Attributes:
      arrays: A pytree of `[buckets blocks members ...]`. There is room for all buckets of the chunk, whatever their
        number, so that a shape is one compiled program.
      prompts: The prompt of each block.
      filled: How many buckets there are.
    """

    arrays: Any
    prompts: Int[np.ndarray, "buckets blocks"]
    filled: int


def stacks(tree: Any, chunk: Chunk) -> list[Stack]:
    """The arrays `[prompts group ...]` of a pytree by buckets, longest first; those with an axis of tokens are cut."""
    found = []
    for same in _by_length(chunk):
        room = [*same, *[same[0]] * (len(chunk.buckets) - len(same))]  # what is beyond the count is never looked at

        def stacked(values: np.ndarray, room: Sequence[Bucket] = room) -> np.ndarray:
            return np.stack([_taken(values, chunk, bucket) for bucket in room])

        found.append(Stack(jax.tree.map(stacked, tree), np.stack([bucket.prompts for bucket in room]), len(same)))
    return found


def unstack(values: Sequence[Any], chunk: Chunk, into: np.ndarray) -> None:
    """Writes arrays `[buckets blocks members tokens]`, one for every stack, to their places in one for all."""
    rows = np.arange(len(into))[chunk.prompts]
    for same, stacked in zip(_by_length(chunk), values, strict=True):
        for bucket, part in zip(same, np.asarray(stacked), strict=False):
            into[rows[bucket.prompts][:, None], bucket.members, : bucket.tokens] = part


def _by_length(chunk: Chunk) -> list[list[Bucket]]:
    lengths: dict[int, list[Bucket]] = {}
    for bucket in chunk.buckets:
        lengths.setdefault(bucket.tokens, []).append(bucket)
    return list(lengths.values())


def _taken(values: np.ndarray, chunk: Chunk, bucket: Bucket) -> np.ndarray:
    values = np.asarray(values)[chunk.prompts][bucket.prompts[:, None], bucket.members]
    return values[:, :, : bucket.tokens] if values.ndim > 2 else values
