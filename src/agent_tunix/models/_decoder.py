"""The forward passes of decoders over the parameter trees of Tunix's modules, written around the group axis.

A prompt is computed once for its whole group: in decoding its keys and values are shared by the group, and in training
the completions attend to them. Tunix's own modules compute every copy. The numbers agree with theirs to 1e-5
(`tests/test_models.py`), and with those of `transformers` where Tunix's are wrong (`tests/test_hugging_face.py`).

Conventions: arrays of tokens are `[prompts tokens]` or `[prompts group tokens]`; keys and values are
`[prompts kv_heads tokens head_dim]`, so that attention is a batched matrix product over prompts and heads (measured
1.4 times faster in decoding than multiply and reduce). The last prompt token is left to the completion pass, which
needs its output; everything before it is "the prefix".

Parameters are cast to the dtype of computation on the way in; norms, softmax and rotations are computed in float32.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.buckets import Packing
from agent_tunix.devices import along_tp, has_cuts, whole
from agent_tunix.models._adapters import Matrix, folded
from agent_tunix.models._architecture import Architecture, Experts, Rotary
from agent_tunix.models._experts import Mixture, mixed, routed
from agent_tunix.models._families import FAMILIES, Family, Layer
from agent_tunix.models._head import capped
from agent_tunix.models._packing import packed, spread, taken
from agent_tunix.models._quantized import QuantizedMatrix, mapped
from agent_tunix.types import Params

MASKED = -1e30

Rotation = tuple[Array, Array]
"""Sine and cosine of rotary positions: `[... 1 head_dim/2]`, with an axis for heads."""


class Shape(NamedTuple):
    """What parameters alone do not tell."""

    architecture: Architecture
    dtype: Any = jnp.dtype("float32")
    """What is computed in; parameters keep their own."""
    remat: bool = False
    """Whether a layer's activations are computed again for the gradient, so that only its input is kept."""

    def saved(self, layer: Callable[..., Any], gathers: bool) -> Callable[..., Any]:
        """A layer, under rematerialisation where that is on; weights that it gathers are gathered again in any case."""
        if self.remat:
            return jax.checkpoint(layer)
        return jax.checkpoint(layer, policy=_not_weights) if gathers else layer

    @property
    def family(self) -> Family:
        """What the family differs in."""
        return FAMILIES[self.architecture.family]

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.architecture.heads

    @property
    def kv_heads(self) -> int:
        """Key-value heads."""
        return self.architecture.kv_heads

    @property
    def head_dim(self) -> int:
        """Of each head."""
        return self.architecture.head_dim

    @property
    def repeats(self) -> int:
        """Query heads that share one key-value head."""
        return self.heads // self.kv_heads

    def at(self, layer: int) -> "Shape":
        """The same with the heads of one layer."""
        return self._replace(architecture=self.architecture.at(layer))

    def window(self, layer: int) -> int:
        """How many tokens a layer sees, the query's own included; 0 where all."""
        return self.architecture.window if self.architecture.is_local(layer) else 0


class KeysValues(NamedTuple):
    """Keys and values of one layer."""

    keys: Float[Array, "rows kv_heads tokens head_dim"]
    values: Float[Array, "rows kv_heads tokens head_dim"]


class Prefix(NamedTuple):
    """All that completions need of their prompts. The leading axis of every array is that of prompts.

    Attributes:
      layers: Keys and values of all but the last prompt token, one entry per layer that has its own.
      mask: Which of these tokens are real.
      last: The last prompt token, the first that a completion feeds.
      position: Its position in the sequence.
    """

    layers: list[KeysValues]
    mask: Bool[Array, "prompts prefix_tokens"]
    last: Int[Array, " prompts"]
    position: Int[Array, " prompts"]


def layers(params: Params, shape: Shape) -> list[Layer]:
    """Joins the projections of every layer; called once per compiled program, outside its loops."""
    return [_ready(tree, shape) for tree in _trees(params)]


def _trees(params: Params) -> list[Params]:
    return [params["layers"][index] for index in sorted(params["layers"])]


def _waiting(params: Params, shape: Shape) -> list[Layer] | list[Params]:
    """The same for training: weights that have to be gathered wait until their layer's turn."""
    trees = _trees(params)
    return trees if has_cuts(trees) else layers(params, shape)


def _ready(layer: Layer | Params, shape: Shape) -> Layer:
    """A layer with its weights gathered, in the type of computation, and its projections joined."""
    if isinstance(layer, Layer):
        return layer
    tree = folded(_gathered(layer, shape), only=jnp.float32) if has_cuts(layer) else whole(layer)
    found = shape.family.layer(tree)
    norms = {name: _norm_weight(value, shape) for name, value in found._asdict().items() if name.endswith("norm")}

    def computed(weight: Any) -> Any:
        return weight if isinstance(weight, QuantizedMatrix) else weight.astype(shape.dtype)

    return mapped(computed, found)._replace(**norms)


def _gathered(tree: Params, shape: Shape) -> Params:
    """Weights travel in the type of computation, unless low-rank updates are added to them in their own."""
    adapted = any("lora" in jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0])
    return whole(tree, None if adapted else shape.dtype)


def _not_weights(primitive: Any, *_: Any, **settings: Any) -> bool:
    """What may be kept for the gradient: everything but weights that are gathered, cast and joined again for it."""
    return primitive.name not in REMADE


REMADE = {"all_gather", "convert_element_type", "concatenate", "reshape", "transpose", "sharding_constraint"}
"""Steps from a part of a weight to what rows are multiplied with; cheap where they are taken for anything else."""


def _norm_weight(weight: Array | None, shape: Shape) -> Array | None:
    """What a norm multiplies by, which stays in float32."""
    offset = shape.family.norm_offset
    return weight if weight is None or not offset else offset + weight.astype(jnp.float32)


def unembedding(params: Params) -> Float[Array, "vocab width"]:
    """The matrix that turns features into logits."""
    if "lm_head" in params:
        return whole(params["lm_head"]["w"]).T
    return whole(params["embedder"]["input_embedding"])


def prefix(
    params: Params,
    shape: Shape,
    prompt_ids: Int[Array, "prompts prompt_tokens"],
    prompt_mask: Bool[Array, "prompts prompt_tokens"],
) -> Prefix:
    """Computes every prompt once, for whatever follows."""
    mask, positions = prompt_mask[:, :-1], _positions(prompt_mask)
    rotations = _rotations(positions[:, :-1], shape)
    x = _embedded(params, shape, prompt_ids[:, :-1])
    given, cache = _layer_inputs(params, shape, prompt_ids[:, :-1], x), []
    stack = _waiting(params, shape)[: shape.architecture.owning]
    for index, layer in enumerate(stack):
        own = shape.at(index)
        if index < len(stack) - 1:
            kind = functools.partial(_prefix_layer, shape=own, window=shape.window(index))
            x, keys_values = shape.saved(kind, has_cuts(layer))(x, layer, rotations[index], mask, given[index])
        else:  # of the last layer only keys and values are read
            kind = functools.partial(_keys_values, shape=own)
            keys_values = (shape.saved(kind, True) if has_cuts(layer) else kind)(x, layer, rotation=rotations[index])
        cache.append(keys_values)
    return Prefix(cache, mask, prompt_ids[:, -1], positions[:, -1])


def _prefix_layer(
    x: Array, layer: Layer | Params, rotation: Rotation, mask: Array, given: Array | None, shape: Shape, window: int
) -> tuple[Array, KeysValues]:
    layer = _ready(layer, shape)
    queries, keys, values = _project(x, layer, shape, rotation)
    cache = KeysValues(_heads_first(keys), _heads_first(values))
    mixed = _prefix_attention(queries, cache, mask, shape, window) @ layer.output
    return _through_mlp(x + _post(mixed, layer.attention_post_norm, shape), layer, shape, given), cache


def _keys_values(x: Array, layer: Layer | Params, shape: Shape, rotation: Rotation) -> KeysValues:
    _, keys, values = _project(x, _ready(layer, shape), shape, rotation)
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
    rotations = _rotations(positions, shape)
    x = _embedded(params, shape, inputs)
    given, sources = _layer_inputs(params, shape, inputs, x), _sources(shape.architecture)
    shared: dict[int, tuple[Array, Array]] = {}
    for index, (layer, source) in enumerate(zip(_waiting(params, shape), sources, strict=True)):
        kind = {"shape": shape.at(index), "grid": (prompts, group), "window": shape.window(index)}
        lends = index in sources[shape.architecture.owning :]
        advance = shape.saved(functools.partial(_completion_layer, **kind, lends=lends), has_cuts(layer))
        borrowed = shared.get(source)
        x, own = advance(
            x, layer, before.layers[source], rotations[index], before.mask, packing, given[index], borrowed
        )
        shared |= {index: own} if lends else {}
    x = _final_norm(x, params, shape)
    return x.reshape(prompts, group, length, -1) if packing is None else x


def _completion_layer(
    x: Array,
    layer: Layer | Params,
    before: KeysValues,
    rotation: Rotation,
    mask: Array,
    packing: Packing | None,
    given: Array | None,
    borrowed: tuple[Array, Array] | None,
    shape: Shape,
    grid: tuple[int, int],
    window: int,
    lends: bool,
) -> tuple[Array, tuple[Array, Array] | None]:
    """The stream behind a layer, and the keys and values of the completions where later layers borrow them."""
    layer = _ready(layer, shape)
    projected = _project(x, layer, shape, rotation)
    if packing is not None:  # attention alone needs to know which tokens belong together
        projected = jax.tree.map(lambda y: spread(y, packing).reshape(grid[0], -1, *y.shape[1:]), projected)
    queries, *own = projected
    keys, values = own if borrowed is None else borrowed
    mixed = _completion_attention(queries, keys, values, before, mask, shape, grid[1], window)
    mixed = (mixed if packing is None else packed(mixed.reshape(-1, mixed.shape[-1]), packing)) @ layer.output
    x = _through_mlp(x + _post(mixed, layer.attention_post_norm, shape), layer, shape, given)
    return x, (keys, values) if lends else None


def _sources(architecture: Architecture) -> list[int]:
    return [architecture.source(layer) for layer in range(architecture.layers)]


# --- Decoding ---------------------------------------------------------------------------------------------------------


def empty_cache(params: Params, shape: Shape, before: Prefix, group: int, slots: int) -> list[KeysValues]:
    """Room for `slots` tokens of every completion.

    Keys are `[prompts group kv_heads head_dim slots]`, so that scores need no transposed copy of them (measured: the
    product takes a fifth of the time), values `[prompts group kv_heads slots head_dim]`.
    """
    rows = (before.mask.shape[0], group)

    def empty(kv_heads: int, head_dim: int) -> KeysValues:
        keys, values = (*rows, kv_heads, head_dim, slots), (*rows, kv_heads, slots, head_dim)
        return KeysValues(along_tp(jnp.zeros(keys, shape.dtype), 2), along_tp(jnp.zeros(values, shape.dtype), 2))

    own = [shape.at(layer) for layer in range(shape.architecture.owning)]
    return [empty(layer.kv_heads, layer.head_dim) for layer in own]


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
    head = unembedding(params).astype(shape.dtype)
    return stepper(params, layers(params, shape), lambda x: _product(x, head), shape, before)


def stepper(
    params: Params,
    stack: Sequence[Layer],
    logits_of: Callable[[Array], Array],
    shape: Shape,
    before: Prefix,
) -> Callable[..., tuple[Array, list[KeysValues]]]:
    """The same from layers that are joined already, and from the function that turns features into logits."""
    prompts = [(layer.keys.swapaxes(2, 3), layer.values) for layer in before.layers]
    # Gathered here: shares of the prompts take as many steps as their completions need, and could not meet in the loop.
    params = params | {"embedder": whole(params["embedder"], shape.dtype)}

    def step(cache: list[KeysValues], tokens: Array, index: Array) -> tuple[Array, list[KeysValues]]:
        rotations = _rotations(before.position[:, None] + index, shape)
        x, new = _embedded(params, shape, tokens), []
        given = _layer_inputs(params, shape, tokens, x)
        for place, (layer, source) in enumerate(zip(stack, _sources(shape.architecture), strict=True)):
            kind = shape.at(place)
            queries, keys, values = _project(x, layer, kind, rotations[place])
            if keys is not None and values is not None:
                new.append(_appended(cache[place], keys, values, index))
            own = new[source]
            visible = _visible_in_decoding(before.mask, own.values.shape[3], index, shape.window(place))
            mixed = _decode_attention(queries, prompts[source], own, *visible, kind) @ layer.output
            x = _through_mlp(x + _post(mixed, layer.attention_post_norm, shape), layer, shape, given[place])
        # Whole on every device along `tp`, so that all of them draw the same token.
        logits = along_tp(logits_of(_final_norm(x, params, shape)), None)
        return capped(logits, shape.architecture.softcap), new

    return step


def _visible_in_decoding(mask: Array, slots: int, index: Array, window: int) -> tuple[Array, Array]:
    """What token number `index` of a completion sees of its prompt `[prompts tokens]`, and of the completion."""
    own = jnp.arange(slots) <= index
    if not window:
        return mask, own
    return mask & (_distances(mask) + index < window), own & (index - jnp.arange(slots) < window)


def _distances(mask: Array) -> Array:
    """How far the last prompt token, the first that completions feed, is behind each token of the prefix."""
    return mask.shape[1] - jnp.arange(mask.shape[1])


def _appended(cache: KeysValues, keys: Array, values: Array, index: Array) -> KeysValues:
    return KeysValues(
        _written(cache.keys, keys[..., None], index, 4), _written(cache.values, values[..., None, :], index, 3)
    )


def _written(cache: Array, new: Array, index: Array, axis: int) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(cache, new, index, axis)


def _product(x: Array, head: Array) -> Array:
    return jnp.einsum("...d,vd->...v", x, head, preferred_element_type=jnp.float32)


def _decode_attention(
    queries: Array, prompt: tuple[Array, Array], own: KeysValues, mask: Array, live: Array, shape: Shape
) -> Array:
    """Attention of one token per completion to its prompt and to itself: `[prompts group heads*head_dim]`."""
    prompts, group = queries.shape[:2]
    queries = queries.reshape(prompts, group, shape.kv_heads, shape.repeats, shape.head_dim)
    queries = queries * shape.architecture.scores_scale
    # On the prompt's side the group becomes further queries of the same keys.
    folded = queries.swapaxes(1, 2).reshape(prompts, shape.kv_heads, -1, shape.head_dim)
    prompt_scores = jnp.where(mask[:, None, None], _scores("pkqd,pkdt->pkqt", folded, prompt[0], shape), MASKED)
    prompt_scores = prompt_scores.reshape(prompts, shape.kv_heads, group, shape.repeats, -1).swapaxes(1, 2)
    own_scores = jnp.where(live, _scores("pgkrd,pgkdt->pgkrt", queries, own.keys, shape), MASKED)
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


def _rotations(positions: Int[Array, "*batch"], shape: Shape) -> list[Rotation]:
    """Rotations of every layer; layers of a kind share them."""
    architecture = shape.architecture
    kinds = [_rotary(architecture, layer) for layer in range(architecture.layers)]
    found = {kind: _rotation(positions, *kind) for kind in set(kinds)}
    return [found[kind] for kind in kinds]


def _rotary(architecture: Architecture, layer: int) -> tuple[Rotary, int]:
    rotary = architecture.local_rotary if architecture.is_local(layer) else architecture.rotary
    return rotary, architecture.at(layer).head_dim


def _rotation(positions: Int[Array, "*batch"], rotary: Rotary, head_dim: int) -> Rotation:
    angle = positions[..., None, None].astype(jnp.float32) * rotary.frequencies(head_dim)
    return jnp.sin(angle), jnp.cos(angle)


def _rotate(x: Float[Array, "*batch heads head_dim"], rotation: Rotation) -> Array:
    sine, cosine = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1).astype(x.dtype)


def _rms_norm(x: Array, weight: Array | float, shape: Shape) -> Array:
    wide = x.astype(jnp.float32)
    normal = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + shape.architecture.norm_eps)
    return (normal * weight).astype(x.dtype)


def _post(x: Array, weight: Array | None, shape: Shape) -> Array:
    """The norm behind attention or MLP, where a family has one."""
    return x if weight is None else _rms_norm(x, weight, shape)


def _embedded(params: Params, shape: Shape, ids: Array) -> Array:
    x = along_tp(whole(params["embedder"]["input_embedding"], shape.dtype)[ids].astype(shape.dtype), None)
    return x * jnp.asarray(shape.architecture.width**0.5, shape.dtype) if shape.family.scaled_embedding else x


def _layer_inputs(params: Params, shape: Shape, ids: Array, x: Array) -> Sequence[Array | None]:
    """What every layer is given of each token besides the stream: by its id, and projected from its embedding."""
    tree, width = params["embedder"], shape.architecture.layer_inputs
    if not width:
        return [None] * shape.architecture.layers
    by_id = along_tp(whole(tree["per_layer_input_embedding"], shape.dtype)[ids].astype(shape.dtype), None)
    by_id = by_id * jnp.asarray(width**0.5, shape.dtype)
    projection = whole(tree["per_layer_model_projection"]["w"], shape.dtype).astype(shape.dtype)
    projected = jnp.einsum("...d,dlp->...lp", x, projection) * jnp.asarray(x.shape[-1] ** -0.5, shape.dtype)
    projected = _rms_norm(projected, tree["per_layer_projection_norm"]["scale"], shape)
    both = (projected + by_id) * jnp.asarray(2.0**-0.5, shape.dtype)
    return [both[..., layer, :] for layer in range(shape.architecture.layers)]


def _final_norm(x: Array, params: Params, shape: Shape) -> Array:
    tree = params["final_norm"]
    weight = _norm_weight(tree["w"] if "w" in tree else tree["scale"], shape)
    return _rms_norm(x, weight, shape)  # pyright: ignore[reportArgumentType]


def _mlp(x: Array, layer: Layer, shape: Shape) -> Array:
    # Rows in one axis and two products instead of a joined one: otherwise XLA transposes and joins activations for the
    # gradient, which took a fifth of the update.
    rows = _rms_norm(x, layer.mlp_norm, shape).reshape(-1, x.shape[-1])
    if layer.mixture is not None and layer.gate is None:
        return _experts(rows, rows, layer.mixture, shape).reshape(x.shape)
    gate, up, down = cast(tuple[Matrix, Matrix, Matrix], (layer.gate, layer.up, layer.down))
    inner = along_tp(shape.family.activation(rows @ gate) * (rows @ up), -1)
    if layer.mixture is None:
        return along_tp((inner @ down).reshape(x.shape), None)
    dense = _post(along_tp(inner @ down, None), layer.dense_post_norm, shape) + _experts_beside(
        x, layer, layer.mixture, shape
    )
    return dense.reshape(x.shape)


def _experts(rows: Array, seen: Array, mixture: Mixture, shape: Shape) -> Array:
    """What experts make of rows, chosen by what the router sees of them."""
    experts = cast(Experts, shape.architecture.experts)
    weights, chosen = routed(seen, mixture.router, experts.active, experts.normalized)
    return mixed(rows, mixture, weights, chosen, shape.family.activation)


def _experts_beside(x: Array, layer: Layer, mixture: Mixture, shape: Shape) -> Array:
    """The experts of Gemma 4, which stand beside the MLP with norms of their own."""
    rows = x.reshape(-1, x.shape[-1])
    seen = _rms_norm(rows, x.shape[-1] ** -0.5 * cast(Array, mixture.router_scale).astype(jnp.float32), shape)
    found = _experts(_rms_norm(rows, cast(Array, layer.expert_norm), shape), seen, mixture, shape)
    return _post(found, layer.expert_post_norm, shape)


def _through_mlp(x: Array, layer: Layer, shape: Shape, given: Array | None) -> Array:
    x = x + _post(_mlp(x, layer, shape), layer.mlp_post_norm, shape)
    if given is not None:
        gate, projection = cast(tuple[Array, Array], (layer.input_gate, layer.input_projection))
        let = shape.family.activation(x @ gate) * given
        x = x + _post(let @ projection, layer.input_post_norm, shape)
    return x if layer.scale is None else x * layer.scale


def _scores(axes: str, queries: Array, keys: Array, shape: Shape) -> Array:
    scores = jnp.einsum(axes, queries, keys, preferred_element_type=jnp.float32)
    return capped(scores, shape.architecture.attention_softcap)


def _project(x: Array, layer: Layer, shape: Shape, rotation: Rotation) -> tuple[Array, Any, Any]:
    """Normalised, rotated queries and keys, and values: `[... heads head_dim]`; None for what a layer has not."""
    rows = _rms_norm(x, layer.attention_norm, shape).reshape(-1, x.shape[-1])
    y = _attended(rows, layer)
    queries, keys, values = _by_head(y, x.shape[:-1], shape)
    queries = _rotate(_post(queries, layer.query_norm, shape), rotation)
    if not keys.shape[-2]:
        return queries, None, None
    values = values if values.shape[-2] else keys
    values = _rms_norm(values, 1.0, shape) if shape.family.value_norm else values
    return queries, _rotate(_post(keys, layer.key_norm, shape), rotation), values


def _by_head(y: Array | Sequence[Array], batch: tuple[int, ...], shape: Shape) -> list[Array]:
    """Queries, keys and values `[... heads head_dim]`, with no heads for what a layer has not."""
    if isinstance(y, Sequence):
        found = [along_tp(one.reshape(*batch, -1, shape.head_dim), -2) for one in y]
        return found + [found[0][..., :0, :]] * (3 - len(found))
    y = y.reshape(*batch, -1, shape.head_dim)
    ends = (0, shape.heads, shape.heads + shape.kv_heads, None)
    return [y[..., start:end, :] for start, end in itertools.pairwise(ends)]


def _attended(rows: Array, layer: Layer) -> Array | Sequence[Array]:
    """Rows times the projections that attention reads; those of queries, keys and values where they are apart."""
    if not isinstance(layer.qkv, Sequence):
        y = rows @ layer.qkv
        return y if layer.bias is None else y + layer.bias  # pyright: ignore[reportOperatorIssue]
    products = [rows @ matrix for matrix in layer.qkv]
    return products if layer.bias is None else [y + bias for y, bias in zip(products, layer.bias, strict=True)]


def _heads_first(x: Float[Array, "rows tokens heads head_dim"]) -> Float[Array, "rows heads tokens head_dim"]:
    return x.transpose(0, 2, 1, 3)


def _joint_softmax(first: Array, second: Array) -> tuple[Array, Array, Array]:
    """Unnormalised weights over two sets of keys and the factor that normalises both."""
    top = jnp.maximum(first.max(-1, keepdims=True), second.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    first, second = jnp.exp(first - top), jnp.exp(second - top)
    return first, second, 1.0 / (first.sum(-1, keepdims=True) + second.sum(-1, keepdims=True))


def _prefix_attention(queries: Array, cache: KeysValues, mask: Array, shape: Shape, window: int) -> Array:
    """Causal attention within the prefix: `[prompts tokens heads*head_dim]`."""
    prompts, length = queries.shape[:2]
    queries = queries.reshape(prompts, length, shape.kv_heads, shape.repeats, shape.head_dim).transpose(0, 2, 3, 1, 4)
    queries = queries.reshape(prompts, shape.kv_heads, -1, shape.head_dim) * shape.architecture.scores_scale
    scores = _scores("pkqd,pktd->pkqt", queries, cache.keys, shape)
    scores = scores.reshape(prompts, shape.kv_heads, shape.repeats, length, length)
    visible = _causal(length, window) & mask[:, None, None, None, :]
    weights = jax.nn.softmax(jnp.where(visible, scores, MASKED), axis=-1).astype(shape.dtype)
    mixed = jnp.einsum("pkqt,pktd->pkqd", weights.reshape(prompts, shape.kv_heads, -1, length), cache.values)
    mixed = mixed.reshape(prompts, shape.kv_heads, shape.repeats, length, shape.head_dim)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(prompts, length, -1)


def _causal(length: int, window: int) -> Bool[Array, "length length"]:
    """Which keys a query sees of as many: those before it and itself, within the window."""
    visible = jnp.ones((length, length), bool)
    return jnp.tril(visible) & jnp.triu(visible, 1 - window) if window else jnp.tril(visible)


def _completion_attention(
    queries: Array, keys: Array, values: Array, before: KeysValues, mask: Array, shape: Shape, group: int, window: int
) -> Array:
    """Attention of completions to their shared prefix and causally to themselves: `[prompts group*tokens ...]`."""
    prompts, length, kv, dim = mask.shape[0], queries.shape[1] // group, shape.kv_heads, shape.head_dim
    queries = queries.reshape(prompts, group, length, kv, shape.repeats, dim).transpose(0, 3, 1, 4, 2, 5)
    queries = queries * shape.architecture.scores_scale
    keys = keys.reshape(prompts, group, length, kv, dim).transpose(0, 3, 1, 2, 4)
    values = values.reshape(prompts, group, length, kv, dim).transpose(0, 3, 1, 2, 4)
    folded = (prompts, kv, group * shape.repeats * length)
    prefix_scores = _scores("pkqd,pktd->pkqt", queries.reshape(*folded, dim), before.keys, shape)
    prefix_scores = jnp.where(mask[:, None, None], prefix_scores, MASKED)
    prefix_scores = prefix_scores.reshape(*queries.shape[:-1], -1)
    if window:
        near = jnp.arange(length)[:, None] + _distances(mask) < window
        prefix_scores = jnp.where(near, prefix_scores, MASKED)
    own_scores = _scores("pkgqd,pkgtd->pkgqt", queries.reshape(prompts, kv, group, -1, dim), keys, shape)
    own_scores = own_scores.reshape(*queries.shape[:-1], length)
    own_scores = jnp.where(_causal(length, window), own_scores, MASKED)
    prefix_weights, own_weights, scale = _joint_softmax(prefix_scores, own_scores)
    prefix_weights = prefix_weights.astype(shape.dtype).reshape(*folded, -1)
    own_weights = own_weights.astype(shape.dtype).reshape(prompts, kv, group, -1, length)
    mixed = jnp.einsum("pkqt,pktd->pkqd", prefix_weights, before.values).reshape(queries.shape)
    own = jnp.einsum("pkgqt,pkgtd->pkgqd", own_weights, values)
    mixed = ((mixed + own.reshape(queries.shape)) * scale).astype(shape.dtype)
    return mixed.transpose(0, 2, 4, 1, 3, 5).reshape(prompts, group * length, -1)
