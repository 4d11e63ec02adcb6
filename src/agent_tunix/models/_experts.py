"""Mixtures of experts: every row is sent to a few MLPs of many.

Rows are sorted by expert and multiplied group by group, none is dropped, so that what a row becomes depends on that row
alone: sampling and training agree as they do for other decoders. On TPUs the grouped product is
`jax.lax.ragged_dot`. Elsewhere JAX 0.10 multiplies every row with every expert there, with a copy of the rows for each
(`benchmarks/experts.py` has the numbers); here groups are cut into blocks of equal length instead, and a loop takes a
block and its expert at a time.

Over `tp` every device has some hidden units of every expert. Routers see the same rows everywhere, so all sort alike,
and only the weighted outputs of a layer are added up, as those of a dense MLP.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from agent_tunix.devices import added_along_tp, along_tp, tensor_parallel
from agent_tunix.models._packing import moved

SMALLEST_BLOCK = 8
"""Rows that a product is cheap to be rounded up to."""

Product = Callable[[Array, Array], Array]
"""Rows at their places `[places inputs]` times the matrices `[experts inputs outputs]` of their experts."""


class Mixture(NamedTuple):
    """The experts of one layer, and what chooses among them.

    Attributes:
      router: From rows to a score per expert.
      gate: Of every expert.
      up: Of every expert.
      down: Of every expert.
      router_scale: What normalised rows are multiplied by before the router (Gemma 4), or None.
      output_scale: What the outputs of experts are multiplied by (Gemma 4), or None.
    """

    router: Float[Array, "width experts"]
    gate: Float[Array, "experts width mlp"]
    up: Float[Array, "experts width mlp"]
    down: Float[Array, "experts mlp width"]
    router_scale: Float[Array, " width"] | None = None
    output_scale: Float[Array, " experts"] | None = None


ALONG_TP = Mixture(router=None, gate=2, up=2, down=1)  # pyright: ignore[reportArgumentType]
"""The axes of hidden units."""


class Places(NamedTuple):
    """Where rows lie when they are sorted by expert.

    Attributes:
      pairs: Which pair of row and choice lies at a place; past the last one where none does.
      place: The place of every pair.
      sizes: Places of every expert, whole blocks.
      block: Places of a block.
    """

    pairs: Int[Array, " places"]
    place: Int[Array, " pairs"]
    sizes: Int[Array, " experts"]
    block: int


def mixed(
    x: Float[Array, "rows width"],
    mixture: Mixture,
    weights: Float[Array, "rows active"],
    chosen: Int[Array, "rows active"],
    activation: Callable[[Array], Array],
) -> Float[Array, "rows width"]:
    """The outputs of the chosen experts, weighted."""

    def of_parts(x: Array, mixture: Mixture, weights: Array, chosen: Array) -> Array:
        experts, ragged = mixture.router.shape[1], jax.default_backend() == "tpu"
        places = placed(chosen.reshape(-1), experts, 1 if ragged else block_of(chosen.size, experts))
        product = ragged_product(places) if ragged else blocked_product(places)
        return computed(x, mixture, weights, chosen, activation, places, product)

    if mixture.down.shape[1] % tensor_parallel():  # hidden units that devices do not divide are whole on each
        return along_tp(of_parts(x, mixture, weights, chosen), None)
    return added_along_tp(of_parts, (None, ALONG_TP, None, None), x, mixture, weights, chosen)


def computed(
    x: Float[Array, "rows width"],
    mixture: Mixture,
    weights: Float[Array, "rows active"],
    chosen: Int[Array, "rows active"],
    activation: Callable[[Array], Array],
    places: Places,
    product: Product,
) -> Float[Array, "rows width"]:
    """The same by a given product over given places."""
    rows = moved(jnp.repeat(x, chosen.shape[1], axis=0), places.pairs, places.place)
    inner = activation(product(rows, mixture.gate)) * product(rows, mixture.up)
    outputs = moved(product(inner, mixture.down), places.place, places.pairs).reshape(*chosen.shape, -1)
    if mixture.output_scale is not None:
        weights = weights * mixture.output_scale[chosen]
    return jnp.einsum("rad,ra->rd", outputs, weights.astype(x.dtype))


def routed(
    x: Float[Array, "rows width"], router: Float[Array, "width experts"], active: int, normalized: bool
) -> tuple[Float[Array, "rows active"], Int[Array, "rows active"]]:
    """The weights and the indices of the experts that rows are sent to; a softmax over all of them, in float32.

    Args:
      x: Rows.
      router: From rows to scores.
      active: Experts of a row.
      normalized: Whether the weights of a row are made to sum to one.
    """
    scores = jnp.einsum("rd,de->re", x, router, preferred_element_type=jnp.float32)
    weights, chosen = jax.lax.top_k(jax.nn.softmax(scores, axis=-1), active)
    return weights / weights.sum(-1, keepdims=True) if normalized else weights, chosen


def block_of(pairs: int, experts: int) -> int:
    """Rows of a block: half of what an expert gets on average, so that rounding up adds at most half of the work."""
    block = SMALLEST_BLOCK
    while 4 * block * experts <= pairs:
        block *= 2
    return block


def placed(owners: Int[Array, " pairs"], experts: int, block: int) -> Places:
    """Sorts pairs by expert, each expert beginning a block of its own."""
    pairs = owners.size
    blocks = pairs // block + min(experts, pairs) if block > 1 else pairs
    counts = jnp.bincount(owners, length=experts).astype(jnp.int32)
    sizes = -(-counts // block) * block
    begins, before = jnp.cumsum(sizes) - sizes, jnp.cumsum(counts) - counts
    order = jnp.argsort(owners, stable=True)
    rank = jnp.zeros(pairs, jnp.int32).at[order].set(jnp.arange(pairs, dtype=jnp.int32))
    place = begins[owners] + rank - before[owners]
    lying = jnp.full(blocks * block, pairs, jnp.int32).at[place].set(jnp.arange(pairs, dtype=jnp.int32))
    return Places(lying, place, sizes, block)


def ragged_product(places: Places) -> Product:
    """The grouped product as JAX has it."""
    return lambda rows, matrices: jax.lax.ragged_dot(rows, matrices, places.sizes)


def blocked_product(places: Places) -> Product:
    """The grouped product, a block at a time."""
    ends = jnp.cumsum(places.sizes // places.block)
    owners = jnp.searchsorted(ends, jnp.arange(places.pairs.size // places.block), side="right")

    def product(rows: Array, matrices: Array) -> Array:
        blocks = rows.reshape(-1, places.block, rows.shape[1])
        return _by_block(blocks, matrices, owners, ends[-1]).reshape(rows.shape[0], -1)

    return product


@jax.custom_vjp
def _by_block(blocks: Array, matrices: Array, owners: Array, used: Array) -> Array:
    """Every used block times the matrix of its owner, zero behind the last one: `[blocks places outputs]`."""

    def multiply(index: Array, out: Array) -> Array:
        return out.at[index].set(blocks[index] @ matrices[owners[index]])

    out = jnp.zeros((*blocks.shape[:2], matrices.shape[2]), blocks.dtype)
    return jax.lax.fori_loop(0, used, multiply, out)


def _forward(blocks: Array, matrices: Array, owners: Array, used: Array) -> tuple[Array, tuple]:
    return _by_block(blocks, matrices, owners, used), (blocks, matrices, owners, used)


def _backward(kept: tuple, cotangent: Array) -> tuple[Array, Array, None, None]:
    blocks, matrices, owners, used = kept

    def pull(index: Array, out: Array) -> Array:
        return out.at[index].set(cotangent[index] @ matrices[owners[index]].T)

    def add(index: Array, total: Array) -> Array:
        part = jnp.einsum("pi,po->io", blocks[index], cotangent[index], preferred_element_type=jnp.float32)
        return total.at[owners[index]].add(part)

    # Two loops, so that frozen experts leave the second one dead.
    by_blocks = jax.lax.fori_loop(0, used, pull, jnp.zeros_like(blocks))
    by_matrices = jax.lax.fori_loop(0, used, add, jnp.zeros(matrices.shape, jnp.float32))
    return by_blocks, by_matrices.astype(matrices.dtype), None, None


_by_block.defvjp(_forward, _backward)
