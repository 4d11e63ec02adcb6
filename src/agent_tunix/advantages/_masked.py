"""Arithmetic over the entries of a group or a batch that are valid."""

import jax.numpy as jnp
from jaxtyping import Array


def raised(rewards: Array, valid: Array) -> Array:
    """Rewards above the least valid one; 0 where not valid."""
    low = jnp.where(jnp.any(valid), jnp.min(jnp.where(valid, rewards, jnp.inf)), 0.0)
    # Selected before subtracting, so that no NaN or infinity of an invalid entry is ever computed with.
    return jnp.where(valid, rewards, low) - low


def mean(values: Array, valid: Array) -> Array:
    """Mean of the valid values; 0 if there are none."""
    return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def centred(rewards: Array, valid: Array) -> Array:
    """Valid rewards above their mean; 0 where not valid."""
    above = raised(rewards, valid)
    return jnp.where(valid, above - mean(above, valid), 0.0)


def deviation(rewards: Array, valid: Array, ddof: int) -> Array:
    """Standard deviation of the valid rewards; exactly 0 if they are equal or fewer than two."""
    squares = jnp.sum(jnp.square(centred(rewards, valid)))
    return jnp.sqrt(squares / jnp.maximum(jnp.sum(valid) - ddof, 1))


def quotient(numerator: Array, denominator: Array) -> Array:
    """The quotient, and the numerator itself where the denominator is 0."""
    return numerator / jnp.where(denominator > 0, denominator, 1.0)
