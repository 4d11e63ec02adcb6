"""Low-rank updates: added to their weights, or computed beside them.

Adding them is the cheaper product. Where weights are kept in 16 bits it would lose them: an update of a thousandth of
its weight is below what bfloat16 can tell apart, and a weight that lies on its grid stays where it is. There the
factors travel beside the weight, as its neighbours `w_lora_a` and `w_lora_b` in the tree, where qwix has them, and a
product is taken with each.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from agent_tunix.devices import has_cuts
from agent_tunix.models._quantized import QuantizedMatrix, QuantizedWeight, side_by_side
from agent_tunix.types import Params

INPUT_AXES = {"q_einsum": 1, "k_einsum": 1, "kv_einsum": 2, "qkv_einsum": 2}
"""Where the weights of these modules have their inputs, which else come first."""

FIRST, SECOND = "_lora_a", "_lora_b"
"""Ends of the names of factors `[inputs... rank]` and `[rank outputs...]`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """Matrices side by side with low-rank updates beside them; on the right of `@` it is their sum.

    Attributes:
      weight: All matrices.
      factors: `[inputs rank]` and `[rank outputs]` of each, in order.
    """

    weight: Float[Array, "inputs outputs"] | QuantizedMatrix
    factors: Sequence[tuple[Array, Array]]

    def __rmatmul__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        """`x @ (weight + update)`."""
        return x @ self.weight + jnp.concatenate([(x @ first) @ second for first, second in self.factors], axis=-1)


Matrix = Float[Array, "inputs outputs"] | QuantizedMatrix | Adapted
"""What rows are multiplied with."""


class Piece(NamedTuple):
    """One matrix, and its factors where they are beside it."""

    weight: Float[Array, "inputs outputs"] | QuantizedMatrix
    first: Float[Array, "inputs rank"] | None
    second: Float[Array, "rank outputs"] | None


def joined(pieces: Sequence[Piece]) -> Matrix:
    """Matrices of the same inputs side by side."""
    weight = _side_by_side([piece.weight for piece in pieces])
    factors = [(first, second) for _, first, second in pieces if first is not None and second is not None]
    return Adapted(weight, factors) if factors else weight


def _side_by_side(weights: Sequence[Any]) -> Any:
    if len(weights) == 1:
        return weights[0]
    return side_by_side(weights) if isinstance(weights[0], QuantizedMatrix) else jnp.concatenate(weights, axis=1)


def inputs_first(module: Params, name: str, inputs: int) -> Piece:
    """A weight whose leading axes, of that size together, are its inputs."""
    weight, first, second = _neighbours(module, name)
    matrix = weight.matrices[0] if isinstance(weight, QuantizedWeight) else weight.reshape(inputs, -1)
    if first is None or second is None:
        return Piece(matrix, None, None)
    return Piece(matrix, first.reshape(inputs, -1), second.reshape(second.shape[0], -1))


def heads_first(module: Params, name: str) -> list[Piece]:
    """The matrices of a weight `[heads inputs head_dim]`, or of several of these stacked along a first axis."""
    weight, first, second = _neighbours(module, name)
    stacked = len(weight.shape) == 4
    if isinstance(weight, QuantizedWeight):
        matrices = weight.matrices
    else:
        stack = weight if stacked else weight[None]
        matrices = [one.swapaxes(0, 1).reshape(one.shape[1], -1) for one in stack]
    seconds = [None] * len(matrices)
    if second is not None:
        seconds = list(second.swapaxes(0, 1)) if stacked else [second]
        seconds = [one.reshape(one.shape[0], -1) for one in seconds]
    return [Piece(matrix, first, one) for matrix, one in zip(matrices, seconds, strict=True)]


def _neighbours(module: Params, name: str) -> tuple[Any, Array | None, Array | None]:
    return module[name], module.get(name + FIRST), module.get(name + SECOND)


def input_axis(path: str) -> int:
    """The axis of a module's weight that runs over its inputs, where that is a single one."""
    return next((axis for module, axis in INPUT_AXES.items() if module in path), 0)


def with_factors(base: Mapping, factors: Mapping, scale: float) -> Params:
    """A tree with low-rank updates: added to float32 weights, beside weights of fewer bits or in parts.

    Args:
      base: The backbone.
      factors: The same tree with factors only, in place of weights.
      scale: Of the updates.
    """
    beside = _beside(base, factors, scale)
    return beside if has_cuts(beside) else folded(beside, only=jnp.float32)


def _beside(base: Mapping, factors: Mapping, scale: float) -> Params:
    out = {}
    for name, value in base.items():
        if isinstance(value, Mapping):
            out[name] = _beside(value, factors.get(name, {}), scale)
        else:
            out[name] = value
            if f"{name}{FIRST}" in factors:
                out[f"{name}{FIRST}"] = factors[f"{name}{FIRST}"]
                out[f"{name}{SECOND}"] = jax.tree.map(lambda x: scale * x, factors[f"{name}{SECOND}"])
    return out


def folded(tree: Mapping, module: str = "", only: Any = None) -> Params:
    """A tree with the updates beside its weights added to them.

    Args:
      tree: Weights and factors.
      module: Name of the module that the tree belongs to.
      only: Type of the weights that are added to, or None for all. They keep their type; quantised ones, of no type,
        become float32.
    """
    out = {}
    for name, value in tree.items():
        weight = str(name).removesuffix(FIRST).removesuffix(SECOND)
        adds = f"{weight}{FIRST}" in tree and (only is None or getattr(tree[weight], "dtype", None) == only)
        if isinstance(value, Mapping):
            out[name] = folded(value, str(name), only)
        elif not adds:
            out[name] = value
        elif name == weight:
            out[name] = _added(value, tree[f"{name}{FIRST}"], tree[f"{name}{SECOND}"], input_axis(module))
    return out


def _added(weight: Array | QuantizedWeight, first: Array, second: Array, axis: int) -> Array:
    weight = weight.plain() if isinstance(weight, QuantizedWeight) else weight
    update = jnp.tensordot(first, second, axes=1)
    update = jnp.moveaxis(update, 0, axis) if axis else update
    return (weight + update.reshape(weight.shape)).astype(weight.dtype)
