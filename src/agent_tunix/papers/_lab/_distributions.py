"""Distributions over a few outcomes: divergences, optima in closed form, and a proxy with a planted exploit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def divergence(probs: Float[Array, "*axes arms"], reference: Float[Array, "*axes arms"]) -> Float[Array, "*axes"]:
    """Kullback and Leibler's divergence of a policy from a reference, nats; exact."""
    logs = jnp.log(jnp.maximum(probs, 1e-30)) - jnp.log(jnp.maximum(reference, 1e-30))
    return jnp.sum(probs * logs, -1)


def entropy(probs: Float[Array, "*axes arms"]) -> Float[Array, "*axes"]:
    """Entropy, nats."""
    return -jnp.sum(probs * jnp.log(jnp.maximum(probs, 1e-30)), -1)


def tilted(
    reward: Float[Array, "*axes arms"], reference: Float[Array, "*axes arms"], beta: Float[Array, ""] | float
) -> Float[Array, "*axes arms"]:
    """The policy with the greatest reward less `beta` times its divergence: the reference times exp(reward / beta)."""
    return jax.nn.softmax(jnp.log(reference) + reward / beta)


def at_divergence(
    reward: Float[Array, " arms"], reference: Float[Array, " arms"], nats: float
) -> Float[Array, " arms"]:
    """The best policy at a given divergence from the reference, by bisection over `beta`."""

    def halve(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        low, high = ends
        middle = (low + high) / 2
        far = divergence(tilted(reward, reference, jnp.exp(middle)), reference) > nats
        return (jnp.where(far, middle, low), jnp.where(far, high, middle)), None

    (low, high), _ = jax.lax.scan(halve, (jnp.asarray(-9.0), jnp.asarray(9.0)), length=60)
    return tilted(reward, reference, jnp.exp((low + high) / 2))


class Planted(NamedTuple):
    """A bandit whose proxy reward can be exploited.

    Attributes:
      gold: What is meant, of standard deviation 1.
      proxy: What is paid: the gold with noise, except on the exploits.
      reference: The policy before training, in which exploits are rare.
      exploit: 1 on arms that the proxy pays and the gold does not.
    """

    gold: Float[Array, " arms"]
    proxy: Float[Array, " arms"]
    reference: Float[Array, " arms"]
    exploit: Float[Array, " arms"]


def planted(
    key: Key[Array, ""], arms: int = 64, exploits: int = 4, *, noise: float = 0.3, rarity: float = 0.02
) -> Planted:
    """Draws such a bandit: exploits have a proxy between 5 and 8 and a gold of -2.

    Args:
      key: Random key.
      arms: Their number.
      exploits: How many of them, the last ones, are exploits.
      noise: Standard deviation of the proxy around the gold.
      rarity: Mass of an exploit in the reference, next to 1 for another arm.
    """
    gold_key, noise_key, pay_key = jax.random.split(key, 3)
    exploit = (jnp.arange(arms) >= arms - exploits).astype(jnp.float32)
    gold = jnp.where(exploit > 0, -2.0, jax.random.normal(gold_key, (arms,)))
    honest = gold + noise * jax.random.normal(noise_key, (arms,))
    proxy = jnp.where(exploit > 0, jax.random.uniform(pay_key, (arms,), minval=5.0, maxval=8.0), honest)
    reference = jnp.where(exploit > 0, rarity, 1.0)
    return Planted(gold, proxy, reference / reference.sum(), exploit)
