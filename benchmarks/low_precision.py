"""Decoders whose matrix products are computed from 8-bit weights, for `low_precision_rollouts.py`.

Prompts, attention, norms and the embedding lookup stay in float32, as does what is drawn from; only the products of a
decoded token with weights change. Weights are quantised per output channel, once per compiled segment of decoding and
outside of its loop.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from agent_tunix import models
from agent_tunix.models import Architecture, Policy, _decoder
from agent_tunix.types import Params

INT8_MOST = 127.0
FP8_MOST = 448.0
"""Largest finite number of float8_e4m3fn."""
LEAST_SCALE = 1e-12
"""Of a channel that holds zeros only."""
WEIGHTS = ("qkv", "output", "gate", "up", "down")
"""Fields of a layer that tokens are multiplied with."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Product:
    """Weights in int8; what is multiplied with them is quantised row by row, and products are added up in int32."""

    values: Int8[Array, "inputs outputs"]
    scales: Float[Array, " outputs"]

    def __rmatmul__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """`x @ weights`."""
        rows, scales = int8(x.reshape(-1, x.shape[-1]), axis=1)
        contracted = (((1,), (0,)), ((), ()))
        sums = jax.lax.dot_general(rows, self.values, contracted, preferred_element_type=jnp.int32)
        return (sums * scales[:, None] * self.scales).reshape(*x.shape[:-1], -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dequantised:
    """Weights in 8 bits that become float32 again for every product."""

    values: Array
    scales: Float[Array, " outputs"]

    def __rmatmul__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """`x @ weights`."""
        # The barrier keeps the conversion within the decoding loop, where XLA would be free to take it out and leave
        # float32 with rounded weights.
        values, x = jax.lax.optimization_barrier((self.values, x))
        return (x @ values.astype(x.dtype)) * self.scales


def int8(values: Array, axis: int) -> tuple[Array, Array]:
    """Values in -127 to 127 and the scales that give them back, one for all entries along an axis."""
    scales = jnp.maximum(jnp.abs(values).max(axis) / INT8_MOST, LEAST_SCALE)
    return jnp.round(values / jnp.expand_dims(scales, axis)).astype(jnp.int8), scales


def fp8(values: Array, axis: int) -> tuple[Array, Array]:
    """The same in float8_e4m3fn, whose largest number is 448."""
    scales = jnp.maximum(jnp.abs(values).max(axis) / FP8_MOST, LEAST_SCALE)
    return (values / jnp.expand_dims(scales, axis)).astype(jnp.float8_e4m3fn), scales


Stored = Callable[[Array], Any]
"""From weights `[inputs outputs]` to what stands for them on the right of `@`."""


def int8_products(weights: Array) -> Int8Product:
    """Weights and activations in int8."""
    return Int8Product(*int8(weights, axis=0))


def int8_weights(weights: Array) -> Dequantised:
    """Weights in int8, products in float32."""
    return Dequantised(*int8(weights, axis=0))


def fp8_weights(weights: Array) -> Dequantised:
    """Weights in float8, products in float32."""
    return Dequantised(*fp8(weights, axis=0))


def decoder(stored: Stored, shape: _decoder.Shape) -> Callable[[Params, Any], models.DecodeStep]:
    """The `decoder` of a policy whose weights are stored in another way; otherwise as `_decoder.decoder`."""

    def begin(params: Params, before: _decoder.Prefix) -> models.DecodeStep:
        layers, head = _decoder.layers(params, shape), stored(_decoder.unembedding(params).T)
        stack = [layer._replace(**{name: stored(getattr(layer, name)) for name in WEIGHTS}) for layer in layers]
        return _decoder.stepper(params, stack, lambda x: x @ head, shape, before)

    return begin


def policies(architecture: Architecture) -> dict[str, Policy]:
    """The policy as it is, in bfloat16, and with weights or products in 8 bits."""
    own = models.policy(architecture)
    shape = _decoder.Shape(architecture)
    stored = {"int8_products": int8_products, "int8_weights": int8_weights, "fp8_weights": fp8_weights}
    return {
        "float32": own,
        "bfloat16": models.policy(architecture, dtype="bfloat16"),
        **{name: own._replace(decoder=decoder(how, shape)) for name, how in stored.items()},
    }
