r"""Where the components of a reward pull a policy's parameters.

With :math:`u = \nabla E[f]` and :math:`v = \nabla E[g]`, a small step along the gradient of :math:`w f + g` changes
:math:`E[g]` by :math:`\langle v, w u + v\rangle`. It falls exactly if :math:`\cos(u, v) < -\|v\| / (w \|u\|)`. Both are
estimated from samples, whose noise makes every norm too large and every cosine too small; products of gradients of
*different* prompts are free of it.

What it costs to follow them is measured in `agent_tunix.component_walks`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from agent_tunix.component_walks import Asymmetry as Asymmetry
from agent_tunix.component_walks import Ray as Ray
from agent_tunix.component_walks import Read as Read
from agent_tunix.component_walks import Reading as Reading
from agent_tunix.component_walks import asymmetry as asymmetry
from agent_tunix.component_walks import comparison as comparison
from agent_tunix.component_walks import crossing as crossing
from agent_tunix.component_walks import follow as follow
from agent_tunix.component_walks import moved as moved
from agent_tunix.component_walks import random_changes as random_changes
from agent_tunix.component_walks import reader as reader
from agent_tunix.models import Parameters, Policy, merged
from agent_tunix.types import Params, Rollouts
from agent_tunix.weight_limits import centred, student_quantile

BLOCKS = 32
"""Most blocks of prompts whose gradients are held apart."""


class Geometry(NamedTuple):
    """Two gradients, free of the noise of their samples; intervals are jackknife over blocks of prompts.

    Attributes:
      cosine: Of the angle between them; it may leave [-1, 1] by what is left of the noise. nan where a norm is nan.
      low: Lower end of its interval.
      high: Upper end.
      norm_first: Of the first; nan where its square comes out negative: it cannot be told from noise.
      norm_second: Of the second.
      change: First-order change of the second component along the gradient of the weighted sum, per unit step.
      change_low: Lower end of its interval.
      change_high: Upper end; below 0 where the second component surely falls.
      threshold: Cosine below which the second component falls; nan where a norm is.
    """

    cosine: float
    low: float
    high: float
    norm_first: float
    norm_second: float
    change: float
    change_low: float
    change_high: float
    threshold: float


UNKNOWN = Geometry(**dict.fromkeys(Geometry._fields, math.nan))
"""Of two gradients from too few prompts."""


class InnerProducts(NamedTuple):
    """Inner products of the gradients of several components, all that `lying` needs of them.

    Attributes:
      own: Of two components in the same block.
      sums: Of the first component in a block with the sum of the second over all blocks.
    """

    own: Float[np.ndarray, "components components blocks"]
    sums: Float[np.ndarray, "components components blocks"]


class Gradients(NamedTuple):
    """The gradients of several components, without those of single blocks.

    Attributes:
      mean: Over the blocks, in the order of the components.
      plain: Their products.
      scaled: Their products where every parameter has a scale of its own; None without one.
    """

    mean: Float[np.ndarray, "components parameters"]
    plain: InnerProducts
    scaled: InnerProducts | None


def gradients(
    policy: Policy,
    parameters: Parameters,
    rollouts: Rollouts,
    values: Float[np.ndarray, "components prompts group"],
    *,
    scale: Params | None = None,
    temperature: float = 1.0,
    blocks: int = BLOCKS,
) -> Gradients:
    """Policy gradients of the expected components with respect to what trains, and how they lie to each other.

    The baseline of a completion is the mean of the others of its group, so every estimate is unbiased. A completion
    without a value, or alone in its group, counts nothing. Blocks are gone through twice, once for the sum and once for
    its products with each of them, so that a large model needs room for two gradients per component and not for one
    per component and block.

    Args:
      policy: Model functions.
      parameters: Where the gradient is taken; LoRA factors if those are what trains.
      rollouts: Sampled from these parameters.
      values: Components of every completion, NaN where there is none.
      scale: Factor of every parameter in products, a tree like what trains; that of a preconditioner shows the geometry
        that an adaptive optimizer sees.
      temperature: The rollouts were sampled with.
      blocks: Of prompts, as in `block_gradients`.
    """

    each = _blocks(policy, parameters, rollouts, values, temperature, blocks)
    total = None
    for block in each():
        total = block if total is None else jax.tree.map(jnp.add, total, block)
    scales = [None] if scale is None else [None, scale]
    own, sums = [], []
    for block in each():
        own.append([_inner(block, block, factors) for factors in scales])
        sums.append([_inner(block, total, factors) for factors in scales])
    found = [
        InnerProducts(*(np.stack([row[at] for row in rows], -1) for rows in (own, sums))) for at in range(len(scales))
    ]
    return Gradients(_flat(total) / len(own), found[0], found[1] if scale is not None else None)


def _inner(first: Params, second: Params, scale: Params | None) -> Float[np.ndarray, "components components"]:
    """InnerProducts of gradients of all components, added up in double precision."""
    factors = jax.tree.leaves(scale) if scale is not None else [1.0] * len(jax.tree.leaves(first))
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), factors, strict=True)
    rows = (np.asarray(_leaf_products(*leaf), np.float64) for leaf in leaves)
    return np.sum([row.sum(-1) for row in rows], axis=0)


@jax.jit
def _leaf_products(first: Array, second: Array, factor: Array | float) -> Float[Array, "components components rows"]:
    a, b = (x.reshape(len(x), -1, x.shape[-1] if x.ndim > 1 else 1) for x in (first * factor, second))
    return jnp.einsum("irp,jrp->ijr", a, b, precision="highest")


def block_gradients(
    policy: Policy,
    parameters: Parameters,
    rollouts: Rollouts,
    values: Float[np.ndarray, "components prompts group"],
    *,
    temperature: float = 1.0,
    blocks: int = BLOCKS,
) -> Float[np.ndarray, "components blocks parameters"]:
    """The gradients that `gradients` compares, each block's own; for models for which all of them fit into memory.

    Args:
      policy: Model functions.
      parameters: Where the gradient is taken; LoRA factors if those are what trains.
      rollouts: Sampled from these parameters.
      values: Components of every completion, NaN where there is none.
      temperature: The rollouts were sampled with.
      blocks: At most so many, and at least half of that if there are prompts enough: the number that loses the fewest
        prompts. Blocks are of one size, and the few prompts over are left out.
    """
    each = _blocks(policy, parameters, rollouts, values, temperature, blocks)
    return np.stack([_flat(block) for block in each()], 1)


def _blocks(
    policy: Policy,
    parameters: Parameters,
    rollouts: Rollouts,
    values: Float[np.ndarray, "components prompts group"],
    temperature: float,
    blocks: int,
) -> Callable[[], Iterator[Params]]:
    """A pass over the blocks: of each a tree like what trains, whose leaves begin with an axis of the components."""
    count = _block_count(values.shape[1], blocks)
    size = values.shape[1] // count
    credit = np.stack([_leave_one_out(value) for value in values], 1) / size
    batch = rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids, rollouts.completion_mask, credit
    of_block, rest = _block_gradient(policy, temperature), dataclasses.replace(parameters, trainable={})

    def each() -> Iterator[Params]:
        for first in range(0, count * size, size):
            yield of_block(parameters.trainable, rest, tuple(np.asarray(x)[first : first + size] for x in batch))

    return each


def _block_count(prompts: int, blocks: int) -> int:
    most = min(prompts, blocks)
    counts = range(min(most, max(3, blocks // 2)), most + 1)
    return max(counts, key=lambda count: (prompts // count * count, count))


def _block_gradient(policy: Policy, temperature: float) -> Callable[[Params, Parameters, tuple], Params]:
    @jax.jit
    def of_block(trainable: Params, rest: Parameters, part: tuple) -> Params:
        *tokens, mask, credit = part

        def log_likelihoods(trainable: Params) -> Array:
            params = merged(dataclasses.replace(rest, trainable=trainable))
            logprobs = policy.logprobs(params, *tokens, temperature=temperature)[0]
            return jnp.where(mask, logprobs, 0.0).sum(-1)

        pull = jax.vjp(log_likelihoods, trainable)[1]

        def of_component(credit: Array) -> Params:
            return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), pull(credit)[0])

        # One after the other: with vmap XLA's CPU backend gave the second component a wrong gradient at 256 prompts.
        return jax.lax.map(of_component, jnp.moveaxis(credit, 1, 0))

    return of_block


def _flat(gradient: Params) -> Float[np.ndarray, "components parameters"]:
    """In the order of `jax.flatten_util.ravel_pytree`."""
    return np.concatenate([np.asarray(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradient)], 1)


def _leave_one_out(value: Float[np.ndarray, "prompts group"]) -> Float[np.ndarray, "prompts group"]:
    """Value less the mean of the others, over the size of the group."""
    used = ~np.isnan(value)
    return (centred(value, used) / np.maximum(used.sum(-1, keepdims=True) - 1, 1)).astype(np.float32)


def geometry(
    first: Float[np.ndarray, "blocks parameters"],
    second: Float[np.ndarray, "blocks parameters"],
    weight_first: float = 1.0,
    weight_second: float = 1.0,
    *,
    confidence: float = 0.95,
) -> Geometry:
    r"""How two gradients lie to each other.

    Products are taken between different blocks only, over all pairs of them:
    :math:`\langle u, v\rangle \approx \frac{1}{B(B-1)} \sum_{b \ne c} \langle u_b, v_c\rangle`. This is the mean over
    all ways to halve the batch of the product of one half's u with the other half's v. It is about the prompts that the
    batch was drawn from: what only these prompts want, and others do not, is noise here as well.

    Args:
      first: Gradients of the component that is pushed, from `block_gradients`.
      second: Of the component that may fall.
      weight_first: Of the first in the reward.
      weight_second: Of the second.
      confidence: Of the intervals.

    Returns:
      All nan for fewer than three blocks.

    Examples:
      >>> u, v = np.tile([[3.0, 4.0]], (3, 1)), np.tile([[-4.0, -3.0]], (3, 1))
      >>> found = geometry(u, v, weight_first=4.0)
      >>> found.cosine, found.change, found.threshold
      (-0.96, -71.0, -0.25)
    """
    both = np.stack([first, second]).astype(np.float64)
    grams = both[:, None] @ both[None].swapaxes(-1, -2)
    products = InnerProducts(np.diagonal(grams, axis1=-2, axis2=-1), grams.sum(-1))
    return geometry_of(products, 0, 1, weight_first, weight_second, confidence=confidence)


def geometry_of(
    products: InnerProducts,
    first: int,
    second: int,
    weight_first: float = 1.0,
    weight_second: float = 1.0,
    *,
    confidence: float = 0.95,
) -> Geometry:
    """How the gradients of two components lie to each other, as `geometry` says it, from their products.

    Args:
      products: Of all components, from `gradients`.
      first: Index of the component that is pushed.
      second: Index of the one that may fall.
      weight_first: Of the first in the reward.
      weight_second: Of the second.
      confidence: Of the intervals.
    """
    count = products.own.shape[-1]
    if count < 3:
        return UNKNOWN
    rows, columns = [first, first, second], [second, first, second]
    own = products.own[rows, columns]
    forth, back = products.sums[rows, columns] - own, products.sums[columns, rows] - own
    total = forth.sum(-1)
    without = total[:, None] - forth - back
    whole, rest = total / (count * (count - 1)), without / ((count - 1) * (count - 2))

    def change(products: np.ndarray) -> np.ndarray:
        return weight_first * products[0] + weight_second * products[2]

    quantile = student_quantile(0.5 + confidence / 2, count - 1)
    cosine, low, high = _jackknife(_cosine(whole), _cosine(rest), quantile)
    norm_first, norm_second = (math.sqrt(square) if square > 0 else math.nan for square in whole[1:].tolist())
    threshold = -weight_second * norm_second / (weight_first * norm_first) if weight_first * norm_first else math.nan
    fall = _jackknife(change(whole), change(rest), quantile)
    return Geometry(cosine, low, high, norm_first, norm_second, *fall, threshold)


def _cosine(products: np.ndarray) -> np.ndarray:
    """Of `uv, uu, vv`; nan where a square is not positive."""
    square = np.where((products[1] > 0) & (products[2] > 0), products[1] * products[2], np.nan)
    return products[0] / np.sqrt(square)


def _jackknife(whole: np.ndarray, without: np.ndarray, quantile: float) -> tuple[float, float, float]:
    """The estimate and the ends of its interval, from the estimates without one block each."""
    error = math.sqrt((len(without) - 1) * float(np.var(without)))
    return float(whole), float(whole) - quantile * error, float(whole) + quantile * error
