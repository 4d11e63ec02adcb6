"""A queue of what happened lately, from which batches are drawn with every class alike."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


class Replay(NamedTuple):
    """The last rows that were put in, the newest first.

    Attributes:
      rows: A pytree of arrays whose leading axis is that of rows.
      kind: Class of each row.
      kept: False where there is no row yet.
    """

    rows: Any
    kind: Int[Array, " rows"]
    kept: Bool[Array, " rows"]


def replay(row: Any, size: int) -> Replay:
    """An empty queue for `size` rows such as the given one."""
    rows = jax.tree.map(lambda leaf: jnp.zeros((size, *jnp.shape(leaf)), jnp.asarray(leaf).dtype), row)
    return Replay(rows, jnp.zeros(size, jnp.int32), jnp.zeros(size, bool))


def remembered(queue: Replay, new: Replay) -> Replay:
    """The queue after rows were put in; those that are not kept are passed over, and the oldest fall out."""
    both = jax.tree.map(lambda first, second: jnp.concatenate([first, second]), new, queue)
    order = jnp.argsort(~both.kept, stable=True)[: len(queue.kept)]
    return jax.tree.map(lambda leaf: leaf[order], both)


def balanced(queue: Replay, key: Key[Array, ""], count: int, kinds: int) -> Any:
    """Rows drawn with replacement, every class that is there with the same chance; the queue must not be empty."""
    present = queue.kept[:, None] & (queue.kind[:, None] == jnp.arange(kinds))
    weight = jnp.sum(present / jnp.maximum(present.sum(0), 1), -1)
    chosen = jax.random.categorical(key, jnp.log(weight), shape=(count,))
    return jax.tree.map(lambda leaf: leaf[chosen], queue.rows)
