"""Tokens of a bucket between their grid and the row in which they lie one behind the other (`buckets.Packing`)."""

import jax
from jaxtyping import Array, Float

from agent_tunix.buckets import Packing


def spread(x: Float[Array, "room *rest"], packing: Packing) -> Float[Array, "places *rest"]:
    """Packed tokens at their places of the grid, zero elsewhere."""
    return moved(x, packing.order.reshape(-1), packing.places)


def packed(x: Float[Array, "places *rest"], packing: Packing) -> Float[Array, "room *rest"]:
    """Tokens of the grid one behind the other, zero behind the last one."""
    return moved(x, packing.places, packing.order.reshape(-1))


@jax.custom_vjp
def moved(x: Array, there: Array, back: Array) -> Array:
    """Rows by index, zero past the last one. Both ways are known, so the gradient is taken by index too, not added."""
    return taken(x, there)


moved.defvjp(
    lambda x, there, back: (taken(x, there), (there, back)),
    lambda kept, cotangent: (taken(cotangent, kept[1]), None, None),
)


def taken(x: Array, index: Array) -> Array:
    """Rows by index, zero past the last one."""
    return x.at[index].get(mode="fill", fill_value=0)
