"""The forward passes of any decoder of Tunix, through the module itself.

For families without a forward of their own. Nothing here knows a family: used are the call that all of them answer,
`module(tokens, positions, cache, attention_mask) -> (logits, cache)`, and what their caches share: every array leads
with the rows of the batch, arrays of two axes and more go on with slots, and a call writes its tokens behind those that
the cache counts.

A prompt is still computed once for its whole group, and gradients flow back to it through the cache. What a module
cannot express is attention to keys that several rows share, so each completion gets a copy of its prompt's keys and
values, in decoding and in training. Rows are padded on the left; all rows of a batch thus write to the same slot, and
positions and mask say which tokens are real.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.buckets import Packing
from agent_tunix.devices import whole
from agent_tunix.models._adapters import folded
from agent_tunix.models._decoder import unembedding
from agent_tunix.models._head import token_logprobs
from agent_tunix.models._packing import packed
from agent_tunix.types import Params


class Decoder(NamedTuple):
    """A module without its parameters.

    Attributes:
      graph: Its structure.
      others: Variables that are no parameters; constants here.
      window: Tokens that its local layers see, or None where all layers see everything.
    """

    graph: Any
    others: Any
    window: int | None

    def module(self, params: Params) -> nnx.Module:
        """The module again. Merged anew wherever it is called, since flax keeps modules to the trace they began in."""
        return nnx.merge(self.graph, folded(whole(params)), self.others)


class Prefix(NamedTuple):
    """All that completions need of their prompts. The leading axis of every array is that of prompts.

    Attributes:
      cache: The module's, holding all but the last prompt token.
      ids: The prompts.
      mask: Which of these tokens are real.
    """

    cache: Any
    ids: Int[Array, "prompts prompt_tokens"]
    mask: Bool[Array, "prompts prompt_tokens"]


class Cache(NamedTuple):
    """Of every completion, with leading axes `[prompts group]`.

    Attributes:
      layers: The module's cache: a copy of the prompt's, and room behind it.
      mask: Which tokens of the prompt's are real; its length also tells where the completion begins.
    """

    layers: Any
    mask: Bool[Array, "prompts group prefix_tokens"]


def split(module: nnx.Module) -> tuple[Decoder, Params]:
    """A module and its parameters, apart.

    Raises:
      ValueError: If its attention leaves out the mask, if its logits are not a product of features with a matrix, or if
        its cache does not go on with several tokens at once.
    """
    config: Any = getattr(module, "config", None)
    if getattr(config, "use_flash_attention", False):
        raise ValueError(f"flash attention of {_name(module)} ignores masks; build it with use_flash_attention=False")
    graph, state, others = nnx.split(module, nnx.Param, ...)
    decoder, params = Decoder(graph, others, getattr(config, "sliding_window_size", None)), nnx.to_pure_dict(state)
    _check_head(decoder, params, _name(module))
    _check_cache(decoder, params, _name(module))
    return decoder, params


def prefix(
    params: Params,
    decoder: Decoder,
    prompt_ids: Int[Array, "prompts prompt_tokens"],
    prompt_mask: Bool[Array, "prompts prompt_tokens"],
) -> Prefix:
    """Computes every prompt once, for whatever follows."""
    rows, length = prompt_ids.shape[0], prompt_ids.shape[1] - 1
    cache = _empty_cache(decoder.module(params), rows, length)
    if length:  # a module cannot be called on nothing
        mask = prompt_mask[:, :-1]
        _, cache, _ = _features(params, decoder, prompt_ids[:, :-1], _positions(mask), cache, _causal(mask, length))
    return Prefix(cache, prompt_ids, prompt_mask)


def features(
    params: Params,
    decoder: Decoder,
    before: Prefix,
    completion_ids: Int[Array, "prompts group tokens"],
    packing: Packing | None = None,
) -> Float[Array, "prompts group tokens width"] | Float[Array, "room width"]:
    """Teacher-forced features: entry `t` predicts completion token `t`; of packed tokens only, if they are packed.

    A module computes the padding too, so packing saves only what is done to features.
    """
    *grid, length = completion_ids.shape
    last = jnp.broadcast_to(before.ids[:, None, -1:], (*grid, 1))
    inputs = _rows(jnp.concatenate([last, completion_ids[:, :, :-1]], axis=2))
    through = decoder.window is None or before.ids.shape[1] - 1 + length <= decoder.window
    found = (_behind_prefix if through else _in_full)(params, decoder, before, inputs, grid[1])
    found = found.reshape(*grid, length, -1)
    return found if packing is None else packed(found.reshape(-1, found.shape[-1]), packing)


def _behind_prefix(params: Params, decoder: Decoder, before: Prefix, inputs: Array, group: int) -> Array:
    """Features of completions that attend to a copy of their prompt's keys and values."""
    length, mask = inputs.shape[1], jnp.repeat(before.mask[:, :-1], group, axis=0)
    cache = _lengthened(jax.tree.map(lambda leaf: jnp.repeat(leaf, group, axis=0), before.cache), 1, length)
    whole = jnp.concatenate([mask, jnp.ones(inputs.shape, bool)], axis=1)
    positions = mask.sum(-1, keepdims=True) + jnp.arange(length)
    return _features(params, decoder, inputs, positions, cache, _causal(whole, length))[0]


def _in_full(params: Params, decoder: Decoder, before: Prefix, inputs: Array, group: int) -> Array:
    """Features of completions with every copy of their prompt computed.

    Tunix's modules count a sliding window from the first token of a call, so that beyond the window a call has to hold
    all of its tokens.
    """
    ids = jnp.concatenate([jnp.repeat(before.ids[:, :-1], group, axis=0), inputs], axis=1)
    mask = jnp.repeat(before.mask[:, :-1], group, axis=0)
    whole = jnp.concatenate([mask, jnp.ones(inputs.shape, bool)], axis=1)
    found, *_ = _features(params, decoder, ids, _positions(whole), None, _causal(whole, ids.shape[1]))
    return found[:, mask.shape[1] :]


# --- Decoding ---------------------------------------------------------------------------------------------------------


def cache_of(params: Params, decoder: Decoder, before: Prefix, group: int, slots: int) -> Cache:
    """Copies of the prompts for their groups, with room for `slots` tokens of every completion."""

    def copied(leaf: Array) -> Array:
        return jnp.repeat(leaf[:, None], group, axis=1)

    return Cache(_lengthened(jax.tree.map(copied, before.cache), 2, slots), copied(before.mask[:, :-1]))


def grown(cache: Cache, slots: int) -> Cache:
    """The cache with room for `slots` tokens in all."""
    return Cache(_lengthened(cache.layers, 2, cache.mask.shape[2] + slots - _slots(cache.layers, 2)), cache.mask)


def stepper(params: Params, decoder: Decoder, before: Prefix) -> Callable[..., tuple[Array, Cache]]:
    """The function that feeds one more token of every completion.

    Returns:
      `(cache, tokens, index) -> (logits, cache)` with tokens `[prompts group]`, their slot in the cache, and logits
      `[prompts group vocab]` in float32.
    """

    def step(cache: Cache, tokens: Array, index: Array) -> tuple[Array, Cache]:
        module: Any = decoder.module(params)
        mask = _rows(cache.mask)
        own = jnp.arange(_slots(cache.layers, 2) - mask.shape[1]) <= index
        visible = jnp.concatenate([mask, jnp.broadcast_to(own, (len(mask), own.size))], axis=1)
        positions = mask.sum(-1, keepdims=True) + index
        layers = jax.tree.map(_rows, cache.layers)
        logits, layers = module(tokens.reshape(-1, 1), positions, layers, visible[:, None])
        layers = jax.tree.map(lambda leaf: leaf.reshape(*tokens.shape, *leaf.shape[1:]), layers)
        return logits.astype(jnp.float32).reshape(*tokens.shape, -1), Cache(layers, cache.mask)

    return step


def logprobs(
    module: nnx.Module,
    prompt_ids: Int[Array, "rows prompt_tokens"],
    prompt_mask: Bool[Array, "rows prompt_tokens"],
    completion_ids: Int[Array, "rows tokens"],
    temperature: float = 1.0,
    *,
    entropy_gradient: bool = False,
    softcap: float = 0.0,
) -> tuple[Float[Array, "rows tokens"], Float[Array, "rows tokens"]]:
    """Log-probabilities of completion tokens and entropies, through a call of a module of Tunix on whole rows.

    The head is applied to the completions alone and in parts (`token_logprobs`), where Tunix's own loss holds the
    logits of prompts and completions in float32. What stands behind the end of a completion changes nothing in front.

    Args:
      module: A decoder of Tunix. Of a trace's own making, since its head is replaced.
      prompt_ids: One prompt per row, left-padded.
      prompt_mask: True on tokens that are not padding.
      completion_ids: Right-padded.
      temperature: Divides the logits.
      entropy_gradient: Whether entropies are differentiated.
      softcap: Of the module's logits; 0 where there is none.
    """
    head = unembedding(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    ids = jnp.concatenate([prompt_ids, completion_ids], axis=1)
    mask = jnp.concatenate([prompt_mask, jnp.ones(completion_ids.shape, bool)], axis=1)
    handed, *_ = _through(module, ids, _positions(mask), None, _causal(mask, ids.shape[1]))
    features = handed[:, prompt_ids.shape[1] - 1 : -1]
    head = head.astype(features.dtype)
    return token_logprobs(
        features, head, completion_ids, temperature, entropy_gradient=entropy_gradient, softcap=softcap
    )


# --- Pieces -----------------------------------------------------------------------------------------------------------


def _features(
    params: Params, decoder: Decoder, ids: Array, positions: Array, cache: Any, visible: Array
) -> tuple[Array, Any, Array]:
    """What a module hands to its head, its cache, and what it would return if the head changed nothing."""
    return _through(decoder.module(params), ids, positions, cache, visible)


def _through(module: Any, ids: Array, positions: Array, cache: Any, visible: Array) -> tuple[Array, Any, Array]:
    handed: list[Array] = []

    def head(x: Array) -> Array:
        handed.append(x)
        return x

    if hasattr(module, "lm_head"):
        module.lm_head = head
    else:
        module.embedder.decode = head
    returned, cache = module(ids, positions, cache, visible)
    return handed[0], cache, returned


def _empty_cache(module: Any, rows: int, slots: int) -> Any:
    """Room for that many tokens: of the module's own making, or as Tunix's sampler makes it for those without."""
    dtype = getattr(module.config, "dtype", None) or module.embedder.input_embedding.dtype
    if hasattr(module, "init_cache"):
        return module.init_cache(rows, slots, dtype)
    config = module.config
    shape = (rows, slots, config.num_kv_heads, config.head_dim)
    return {
        f"layer_{index}": {
            "k": jnp.zeros(shape, dtype),
            "v": jnp.zeros(shape, dtype),
            "end_index": jnp.zeros(rows, jnp.int32),
        }
        for index in range(config.num_layers)
    }


def _lengthened(cache: Any, axis: int, more: int) -> Any:
    """Room for more tokens behind those there are; counters of tokens have no axis of slots and stay."""

    def padded(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, more if place == axis else 0) for place in range(leaf.ndim)])

    return jax.tree.map(lambda leaf: padded(leaf) if leaf.ndim > axis else leaf, cache)


def _slots(cache: Any, axis: int) -> int:
    return max(leaf.shape[axis] for leaf in jax.tree.leaves(cache) if leaf.ndim > axis)


def _rows(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _positions(mask: Bool[Array, "rows tokens"]) -> Int[Array, "rows tokens"]:
    """Positions of left-padded tokens, counted from the first real one."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def _causal(mask: Bool[Array, "rows tokens"], queries: int) -> Bool[Array, "rows queries tokens"]:
    """What the last tokens see of all: the real ones up to themselves."""
    length = mask.shape[1]
    return jnp.tril(jnp.ones((queries, length), bool), length - queries) & mask[:, None, :]


# --- Checks -----------------------------------------------------------------------------------------------------------

OWN_FORWARD = "it needs a forward of its own, as `agent_tunix.models.policy` has for Qwen3"


def _name(module: nnx.Module) -> str:
    return type(module).__name__


def _check_head(decoder: Decoder, params: Params, name: str) -> None:
    """Refuses what features and a matrix cannot express, a softcap over the logits above all."""
    ids = jnp.arange(4)[None]
    mask = jnp.ones(ids.shape, bool)

    @jax.jit
    def found(params: Params) -> tuple[Array, ...]:
        inputs = ids, _positions(mask), None, _causal(mask, ids.shape[1])
        handed, _, returned = _features(params, decoder, *inputs)
        module: Any = decoder.module(params)
        return handed, returned, handed @ unembedding(params).astype(handed.dtype).T, module(*inputs)[0]

    handed, returned, product, logits = found(params)
    # Compared in every digit, since a softcap hardly changes small numbers.
    if not bool(jnp.array_equal(handed, returned)) or not _close(product, logits, handed.dtype):
        raise ValueError(
            f"logits of {name} are not a product of its features with one matrix (a softcap over them?); {OWN_FORWARD}"
        )


def _check_cache(decoder: Decoder, params: Params, name: str) -> None:
    """Refuses a cache that does not go on with several tokens at once, which training behind a prompt needs."""
    ids, completions = jnp.arange(3)[None], jnp.arange(6).reshape(1, 2, 3)

    @functools.partial(jax.jit, static_argnums=1)
    def found(params: Params, way: Callable[..., Array]) -> Array:
        before = prefix(params, decoder, ids, jnp.ones(ids.shape, bool))
        return way(params, decoder, before, _rows(completions), 2)

    whole = found(params, _in_full)
    narrow = decoder.window is not None and decoder.window < ids.size + completions.shape[2]
    if not narrow and not _close(found(params, _behind_prefix), whole, whole.dtype):
        raise ValueError(f"the cache of {name} does not go on with several tokens at once; {OWN_FORWARD}")


def _close(got: Array, wanted: Array, dtype: Any) -> bool:
    """Whether arrays agree to half the digits of a type, measured by the largest entry."""
    limit = float(jnp.finfo(dtype).eps) ** 0.5 * float(jnp.abs(wanted).max())
    return float(jnp.abs(got - wanted).max()) <= limit
