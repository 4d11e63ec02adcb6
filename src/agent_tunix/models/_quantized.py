"""A frozen backbone in 8 or 4 bits, as QLoRA keeps it (Dettmers et al. 2023, arXiv:2305.14314), with qwix's arrays.

A matrix is kept as codes and one scale per output and block of inputs. A product makes the matrix ready when its turn
comes and keeps nothing of it for the gradient, so that of all layers one is there in full at a time. It is computed in
the data type of the rows that it is multiplied with.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from jaxtyping import Array, Float

from agent_tunix.types import Params

KINDS = ("int8", "int4", "nf4")
"""How weights can be kept. `nf4` has its sixteen levels where those of a normal distribution are."""

BLOCK = 64
"""Inputs that share a scale, as in QLoRA; a matrix whose inputs it does not divide gets the largest divisor below."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix as codes and scales; on the right of `@` it is the matrix.

    Attributes:
      array: Codes `[inputs outputs]`, scales `[blocks outputs]`.
    """

    array: qwix.QArray

    def __rmatmul__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        """`x @ matrix`."""
        return _product(x, self.array)

    def plain(self, dtype: Any) -> Float[Array, "inputs outputs"]:
        """The matrix itself."""
        return qwix.dequantize(self.array.astype(jnp.float32)).astype(dtype)


@jax.custom_vjp
def _product(x: Array, array: qwix.QArray) -> Array:
    return x @ _made_ready(array, x)


def _forward(x: Array, array: qwix.QArray) -> tuple[Array, qwix.QArray]:
    return _product(x, array), array


def _backward(array: qwix.QArray, by_product: Array) -> tuple[Array, Any]:
    frozen = dataclasses.replace(
        array, qvalue=np.zeros(array.qvalue.shape, jax.dtypes.float0), scale=jnp.zeros_like(array.scale)
    )
    return by_product @ _made_ready(array, by_product).T, frozen


_product.defvjp(_forward, _backward)


def _made_ready(array: qwix.QArray, rows: Array) -> Array:
    """The matrix in the type of the rows that are waiting for it, and not before they are there.

    Without the sum, which no compiler takes for a zero because numbers may be infinite, XLA makes every layer's matrix
    ready at once, or before a loop over tokens; a barrier it forgets before it orders its work.
    """
    waited = (0 * rows.reshape(-1)[0]).astype(array.qvalue.dtype)
    return QuantizedMatrix(dataclasses.replace(array, qvalue=array.qvalue + waited)).plain(rows.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """A leaf of a parameter tree: one weight as the matrices it holds.

    Attributes:
      matrices: One, or one for each of several weights that are stacked along a first axis.
      shape: Of the weight.
      heads_first: Whether the weight is `[heads inputs head_dim]`, or a stack of these; else inputs come first.
    """

    matrices: tuple[QuantizedMatrix, ...]
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    heads_first: bool = dataclasses.field(metadata={"static": True})

    @property
    def size(self) -> int:
        """Numbers of the weight."""
        return sum(matrix.array.qvalue.size for matrix in self.matrices)

    def plain(self, dtype: Any = jnp.float32) -> Array:
        """The weight itself."""
        found = [matrix.plain(dtype) for matrix in self.matrices]
        if not self.heads_first:
            return found[0].reshape(self.shape)
        heads, inputs, head_dim = self.shape[-3:]
        weights = [matrix.reshape(inputs, heads, head_dim).swapaxes(0, 1) for matrix in found]
        return jnp.stack(weights).reshape(self.shape)


def side_by_side(matrices: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """Matrices of the same inputs as one."""
    arrays = [matrix.array for matrix in matrices]
    joined = {name: jnp.concatenate([getattr(array, name) for array in arrays], 1) for name in ("qvalue", "scale")}
    return QuantizedMatrix(dataclasses.replace(arrays[0], **joined))


def quantized(weight: Array, kind: str, *, inputs: int, heads_first: bool) -> QuantizedWeight:
    """A weight in fewer bits.

    Args:
      weight: In float32 or bfloat16; scales get its data type.
      kind: One of `KINDS`.
      inputs: Leading axes that its inputs take, where they come first.
      heads_first: As in `QuantizedWeight`.
    """
    if heads_first:
        stack = weight if weight.ndim == 4 else weight[None]
        matrices = [one.swapaxes(0, 1).reshape(one.shape[1], -1) for one in stack]
    else:
        matrices = [weight.reshape(math.prod(weight.shape[:inputs]), -1)]
    found = tuple(QuantizedMatrix(_quantized(matrix, kind)) for matrix in matrices)
    return QuantizedWeight(found, tuple(weight.shape), heads_first)


def _quantized(matrix: Array, kind: str) -> qwix.QArray:
    block = next(size for size in range(min(BLOCK, len(matrix)), 0, -1) if len(matrix) % size == 0)
    return qwix.quantize(matrix, kind, channelwise_axes=(1,), tiled_axes={0: block})


def plain(tree: Params, dtype: Any = jnp.float32) -> Params:
    """A tree with every quantised weight in full."""
    return mapped(lambda leaf: leaf.plain(dtype) if isinstance(leaf, QuantizedWeight) else leaf, tree)


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """A function over the weights of a tree, quantised ones whole."""
    return jax.tree.map(function, tree, is_leaf=lambda leaf: isinstance(leaf, QuantizedWeight | QuantizedMatrix))
