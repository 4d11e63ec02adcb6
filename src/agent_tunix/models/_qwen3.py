"""The forward passes of Qwen3 over the parameter tree of Tunix's module, written around the group axis.

A prompt is computed once for its whole group: in decoding its keys and values are shared by the group, and in training
the completions attend to them. Tunix's own module computes every copy. The numbers agree with it to 1e-5
(`tests/test_models.py`).

Conventions: arrays of tokens are `[prompts tokens]` or `[prompts group tokens]`; keys and values are
`[prompts kv_heads tokens head_dim]`, so that attention is a batched matrix product over prompts and heads (measured
1.4 times faster in decoding than multiply and reduce). The last prompt token is left to the completion pass, which
needs its output; everything before it is "the prefix".

Parameters are cast to the dtype of computation on the way in; norms, softmax and rotations are computed in float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.buckets import Packing
from agent_tunix.models._packing import packed, spread, taken
from agent_tunix.types import Params

ROPE_THETA = 1_000_000.0
"""Tunix 0.1.7 ignores `rope_theta` of its config and always rotates with this base; so do we, to stay equal."""
NORM_EPS = 1e-6
MASKED = -1e30


class Shape(NamedTuple):
    """What parameters alone do not tell."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: Any = jnp.dtype("float32")
    """What is computed in; parameters keep their own."""
    remat: bool = False
    """Whether a layer's activations are computed again for the gradient, so that only its input is kept."""

    def saved(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """A layer, under rematerialisation where that is on."""
        return jax.checkpoint(layer) if self.remat else layer

    @property
    def repeats(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.kv_heads


class KeysValues(NamedTuple):
    """Keys and values of one layer."""

    keys: Float[Array, "rows kv_heads tokens head_dim"]
    values: Float[Array, "rows kv_heads tokens head_dim"]


class Prefix(NamedTuple):
    """All that completions need of their prompts. The leading axis of every array is that of prompts.

    Attributes:
      layers: Keys and values of all but the last prompt token, one entry per layer.
      mask: Which of these tokens are real.
      last: The last prompt token, the first that a completion feeds.
      position: Its position in the sequence.
    """

    layers: list[KeysValues]
    mask: Bool[Array, "prompts prefix_tokens"]
    last: Int[Array, " prompts"]
    position: Int[Array, " prompts"]


class Layer(NamedTuple):
    """One layer's parameters, with the projections that attention reads joined into one product."""

    attention_norm: Float[Array, " width"]
    qkv: Float[Array, "width qkv"]
    query_norm: Float[Array, " head_dim"]
    key_norm: Float[Array, " head_dim"]
    output: Float[Array, "heads_times_head_dim width"]
    mlp_norm: Float[Array, " width"]
    gate: Float[Array, "width mlp"]
    up: Float[Array, "width mlp"]
    down: Float[Array, "mlp width"]


def layers(params: Params, dtype: jnp.dtype) -> list[Layer]:
    """Joins the projections of every layer; called once per compiled program, outside its loops."""

    def joined(tree: Params) -> Layer:
        attention, mlp = tree["attn"], tree["mlp"]
        width = attention["q_proj"]["w"].shape[0]
        flat = [attention[name]["w"].reshape(width, -1) for name in ("q_proj", "k_proj", "v_proj")]
        layer = Layer(
            attention_norm=tree["input_layernorm"]["w"],
            qkv=jnp.concatenate(flat, axis=1),
            query_norm=attention["q_norm"]["w"],
            key_norm=attention["k_norm"]["w"],
            output=attention["o_proj"]["w"].reshape(-1, width),
            mlp_norm=tree["post_attention_layernorm"]["w"],
            gate=mlp["gate_proj"]["kernel"],
            up=mlp["up_proj"]["kernel"],
            down=mlp["down_proj"]["kernel"],
        )
        return jax.tree.map(lambda weight: weight.astype(dtype), layer)

    return [joined(params["layers"][index]) for index in sorted(params["layers"])]


def unembedding(params: Params) -> Float[Array, "vocab width"]:
    """The matrix that turns features into logits."""
    if "lm_head" in params:
        return params["lm_head"]["w"].T
    return params["embedder"]["input_embedding"]


def prefix(
    params: Params,
    shape: Shape,
    prompt_ids: Int[Array, "prompts prompt_tokens"],
    prompt_mask: Bool[Array, "prompts prompt_tokens"],
) -> Prefix:
    """Computes every prompt once, for whatever follows."""
    mask, positions = prompt_mask[:, :-1], _positions(prompt_mask)
    rotation = _rotation(positions[:, :-1], shape.head_dim)
    x = _embedded(params, shape, prompt_ids[:, :-1])
    cache, stack = [], layers(params, shape.dtype)
    advance = shape.saved(functools.partial(_prefix_layer, shape=shape))
    for index, layer in enumerate(stack):
        # Of the last layer only keys and values are read.
        x, keys_values = advance(x, layer, rotation, mask) if index < len(stack) - 1 else (x, None)
        cache.append(keys_values or _keys_values(x, layer, shape, rotation))
    return Prefix(cache, mask, prompt_ids[:, -1], positions[:, -1])


def _prefix_layer(
    x: Array, layer: Layer, rotation: tuple[Array, Array], mask: Array, shape: Shape
) -> tuple[Array, KeysValues]:
    queries, keys, values = _project(x, layer, shape, rotation)
    cache = KeysValues(_heads_first(keys), _heads_first(values))
    x = x + _prefix_attention(queries, cache, mask, shape) @ layer.output
    return x + _mlp(x, layer), cache


def _keys_values(x: Array, layer: Layer, shape: Shape, rotation: tuple[Array, Array]) -> KeysValues:
    _, keys, values = _project(x, layer, shape, rotation)
    return KeysValues(_heads_first(keys), _heads_first(values))


def features(
    params: Params,
    shape: Shape,
    before: Prefix,
    completion_ids: Int[Array, "prompts group tokens"],
    packing: Packing | None = None,
) -> Float[Array, "prompts group tokens width"] | Float[Array, "room width"]:
    """Teacher-forced features: entry `t` predicts completion token `t`; of packed tokens only, if they are packed."""
    prompts, group, length = completion_ids.shape
    last = jnp.broadcast_to(before.last[:, None, None], (prompts, group, 1))
    inputs = jnp.concatenate([last, completion_ids[:, :, :-1]], axis=2).reshape(prompts, -1)
    positions = before.position[:, None] + jnp.tile(jnp.arange(length), group)
    if packing is not None:
        inputs, positions = (taken(values.reshape(-1), packing.places) for values in (inputs, positions))
    rotation = _rotation(positions, shape.head_dim)
    x = _embedded(params, shape, inputs)
    advance = shape.saved(functools.partial(_completion_layer, shape=shape, grid=(prompts, group)))
    for layer, keys_values in zip(layers(params, shape.dtype), before.layers, strict=True):
        x = advance(x, layer, keys_values, rotation, before.mask, packing)
    x = _final_norm(x, params)
    return x.reshape(prompts, group, length, -1) if packing is None else x


def _completion_layer(
    x: Array,
    layer: Layer,
    before: KeysValues,
    rotation: tuple[Array, Array],
    mask: Array,
    packing: Packing | None,
    shape: Shape,
    grid: tuple[int, int],
) -> Array:
    queries, keys, values = _project(x, layer, shape, rotation)
    if packing is not None:  # attention alone needs to know which tokens belong together
        queries, keys, values = (spread(y, packing).reshape(grid[0], -1, *y.shape[1:]) for y in (queries, keys, values))
    mixed = _completion_attention(queries, keys, values, before, mask, shape, grid[1])
    x = x + (mixed if packing is None else packed(mixed.reshape(-1, mixed.shape[-1]), packing)) @ layer.output
    return x + _mlp(x, layer)


# --- Decoding ---------------------------------------------------------------------------------------------------------


def empty_cache(params: Params, shape: Shape, before: Prefix, group: int, slots: int) -> list[KeysValues]:
    """Room for `slots` tokens of every completion.

    Keys are `[prompts group kv_heads head_dim slots]`, so that scores need no transposed copy of them (measured: the
    product takes a fifth of the time), values `[prompts group kv_heads slots head_dim]`.
    """
    rows = (before.mask.shape[0], group, shape.kv_heads)
    keys, values = (*rows, shape.head_dim, slots), (*rows, slots, shape.head_dim)
    return [KeysValues(jnp.zeros(keys, shape.dtype), jnp.zeros(values, shape.dtype)) for _ in params["layers"]]


def grown(cache: list[KeysValues], slots: int) -> list[KeysValues]:
    """The cache with room for `slots` tokens in all."""
    more = slots - cache[0].values.shape[3]
    still = ((0, 0),) * 3
    return [
        KeysValues(jnp.pad(k, (*still, (0, 0), (0, more))), jnp.pad(v, (*still, (0, more), (0, 0)))) for k, v in cache
    ]


def decoder(params: Params, shape: Shape, before: Prefix) -> Callable[..., tuple[Array, list[KeysValues]]]:
    """The function that feeds one more token of every completion.

    Returns:
      `(cache, tokens, index) -> (logits, cache)` with tokens `[prompts group]`, their slot in the cache, and logits
      `[prompts group vocab]` in float32.
    """
    stack, head = layers(params, shape.dtype), unembedding(params).astype(shape.dtype)
    prompts = [(layer.keys.swapaxes(2, 3), layer.values) for layer in before.layers]

    def step(cache: list[KeysValues], tokens: Array, index: Array) -> tuple[Array, list[KeysValues]]:
        rotation = _rotation(before.position[:, None] + index, shape.head_dim)
        live = jnp.arange(cache[0].values.shape[3]) <= index
        x, new = _embedded(params, shape, tokens), []
        for layer, prompt, own in zip(stack, prompts, cache, strict=True):
            queries, keys, values = _project(x, layer, shape, rotation)
            own = KeysValues(
                _written(own.keys, keys[..., None], index, 4), _written(own.values, values[..., None, :], index, 3)
            )
            new.append(own)
            x = x + _decode_attention(queries, prompt, own, before.mask, live, shape) @ layer.output
            x = x + _mlp(x, layer)
        return _product(_final_norm(x, params), head), new

    return step


def _written(cache: Array, new: Array, index: Array, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis)


def _product(x: Array, head: Array) -> Array:
    return jnp.einsum("...d,vd->...v", x, head, preferred_element_type=jnp.float32)


def _decode_attention(
    queries: Array, prompt: tuple[Array, Array], own: KeysValues, mask: Array, live: Array, shape: Shape
) -> Array:
    """Attention of one token per completion to its prompt and to itself: `[prompts group heads*head_dim]`."""
    prompts, group = queries.shape[:2]
    queries = queries.reshape(prompts, group, shape.kv_heads, shape.repeats, shape.head_dim) * shape.head_dim**-0.5
    # On the prompt's side the group becomes further queries of the same keys.
    folded = queries.swapaxes(1, 2).reshape(prompts, shape.kv_heads, -1, shape.head_dim)
    prompt_scores = jnp.where(mask[:, None, None], _scores("pkqd,pkdt->pkqt", folded, prompt[0]), MASKED)
    prompt_scores = prompt_scores.reshape(prompts, shape.kv_heads, group, shape.repeats, -1).swapaxes(1, 2)
    own_scores = jnp.where(live, _scores("pgkrd,pgkdt->pgkrt", queries, own.keys), MASKED)
    prompt_weights, own_weights, scale = _joint_softmax(prompt_scores, own_scores)
    prompt_weights = prompt_weights.swapaxes(1, 2).reshape(prompts, shape.kv_heads, group * shape.repeats, -1)
    mixed = jnp.einsum("pkqt,pktd->pkqd", prompt_weights.astype(shape.dtype), prompt[1])
    mixed = mixed.reshape(prompts, shape.kv_heads, group, shape.repeats, -1).swapaxes(1, 2)
    mixed = mixed + jnp.einsum("pgkrt,pgktd->pgkrd", own_weights.astype(shape.dtype), own.values)
    return (mixed * scale).astype(shape.dtype).reshape(prompts, group, -1)


# --- Pieces -----------------------------------------------------------------------------------------------------------


def _positions(mask: Bool[Array, "prompts tokens"]) -> Int[Array, "prompts tokens"]:
    """Positions of left-padded tokens, counted from the first real one."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def _rotation(positions: Int[Array, "*batch"], head_dim: int) -> tuple[Array, Array]:
    """Sine and cosine of the rotary embedding with an axis for heads."""
    frequency = ROPE_THETA ** (-2.0 * jnp.arange(head_dim // 2, dtype=jnp.float32) / head_dim)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.sin(angle), jnp.cos(angle)


def _rotate(x: Float[Array, "*batch heads head_dim"], rotation: tuple[Array, Array]) -> Array:
    sine, cosine = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


def _rms_norm(x: Array, weight: Array) -> Array:
    wide = x.astype(jnp.float32)
    normal = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + NORM_EPS)
    return (normal * weight).astype(x.dtype)


def _embedded(params: Params, shape: Shape, ids: Array) -> Array:
    return params["embedder"]["input_embedding"][ids].astype(shape.dtype)


def _final_norm(x: Array, params: Params) -> Array:
    return _rms_norm(x, params["final_norm"]["w"])


def _mlp(x: Array, layer: Layer) -> Array:
    # Rows in one axis and two products instead of a joined one: otherwise XLA transposes and joins activations for the
    # gradient, which took a fifth of the update.
    rows = _rms_norm(x, layer.mlp_norm).reshape(-1, x.shape[-1])
    return ((jax.nn.silu(rows @ layer.gate) * (rows @ layer.up)) @ layer.down).reshape(x.shape)


def _scores(axes: str, queries: Array, keys: Array) -> Array:
    return jnp.einsum(axes, queries, keys, preferred_element_type=jnp.float32)


def _project(x: Array, layer: Layer, shape: Shape, rotation: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    """Normalised, rotated queries and keys, and values: `[... heads head_dim]`."""
    rows = _rms_norm(x, layer.attention_norm).reshape(-1, x.shape[-1])
    y = (rows @ layer.qkv).reshape(*x.shape[:-1], -1, shape.head_dim)
    queries = y[..., : shape.heads, :]
    keys = y[..., shape.heads : shape.heads + shape.kv_heads, :]
    values = y[..., shape.heads + shape.kv_heads :, :]
    queries = _rotate(_rms_norm(queries, layer.query_norm), rotation)
    return queries, _rotate(_rms_norm(keys, layer.key_norm), rotation), values


def _heads_first(x: Float[Array, "rows tokens heads head_dim"]) -> Float[Array, "rows heads tokens head_dim"]:
    return x.transpose(0, 2, 1, 3)


def _joint_softmax(first: Array, second: Array) -> tuple[Array, Array, Array]:
    """Unnormalised weights over two sets of keys and the factor that normalises both."""
    top = jnp.maximum(first.max(-1, keepdims=True), second.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    first, second = jnp.exp(first - top), jnp.exp(second - top)
    return first, second, 1.0 / (first.sum(-1, keepdims=True) + second.sum(-1, keepdims=True))


def _prefix_attention(queries: Array, cache: KeysValues, mask: Array, shape: Shape) -> Array:
    """Causal attention within the prefix: `[prompts tokens heads*head_dim]`."""
    prompts, length = queries.shape[:2]
    queries = queries.reshape(prompts, length, shape.kv_heads, shape.repeats, shape.head_dim).transpose(0, 2, 3, 1, 4)
    queries = queries.reshape(prompts, shape.kv_heads, -1, shape.head_dim) * shape.head_dim**-0.5
    scores = _scores("pkqd,pktd->pkqt", queries, cache.keys)
    scores = scores.reshape(prompts, shape.kv_heads, shape.repeats, length, length)
    visible = jnp.tril(jnp.ones((length, length), bool)) & mask[:, None, None, None, :]
    weights = jax.nn.softmax(jnp.where(visible, scores, MASKED), axis=-1).astype(shape.dtype)
    mixed = jnp.einsum("pkqt,pktd->pkqd", weights.reshape(prompts, shape.kv_heads, -1, length), cache.values)
    mixed = mixed.reshape(prompts, shape.kv_heads, shape.repeats, length, shape.head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(prompts, length, -1)


def _completion_attention(
    queries: Array, keys: Array, values: Array, before: KeysValues, mask: Array, shape: Shape, group: int
) -> Array:
    """Attention of completions to their shared prefix and causally to themselves: `[prompts group*tokens ...]`."""
    prompts, length, kv, dim = mask.shape[0], queries.shape[1] // group, shape.kv_heads, shape.head_dim
    queries = queries.reshape(prompts, group, length, kv, shape.repeats, dim).transpose(0, 3, 1, 4, 2, 5) * dim**-0.5
    keys = keys.reshape(prompts, group, length, kv, dim).transpose(0, 3, 1, 2, 4)
    values = values.reshape(prompts, group, length, kv, dim).transpose(0, 3, 1, 2, 4)
    folded = (prompts, kv, group * shape.repeats * length)
    prefix_scores = _scores("pkqd,pktd->pkqt", queries.reshape(*folded, dim), before.keys)
    prefix_scores = jnp.where(mask[:, None, None], prefix_scores, MASKED)
    prefix_scores = prefix_scores.reshape(*queries.shape[:-1], -1)
    own_scores = _scores("pkgqd,pkgtd->pkgqt", queries.reshape(prompts, kv, group, -1, dim), keys)
    own_scores = own_scores.reshape(*queries.shape[:-1], length)
    own_scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), own_scores, MASKED)
    prefix_weights, own_weights, scale = _joint_softmax(prefix_scores, own_scores)
    prefix_weights = prefix_weights.astype(shape.dtype).reshape(*folded, -1)
    own_weights = own_weights.astype(shape.dtype).reshape(prompts, kv, group, -1, length)
    mixed = jnp.einsum("pkqt,pktd->pkqd", prefix_weights, before.values).reshape(queries.shape)
    own = jnp.einsum("pkgqt,pkgtd->pkgqd", own_weights, values)
    mixed = ((mixed + own.reshape(queries.shape)) * scale).astype(shape.dtype)
    return mixed.transpose(0, 2, 4, 1, 3, 5).reshape(prompts, group * length, -1)
