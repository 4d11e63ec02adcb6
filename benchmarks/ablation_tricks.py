"""The tricks of the fast loop, and what takes the place of each when it is left out.

A trick is left out from the outside: by other arguments, or by plain code set in the place of the fast one while the
programs of a step are made and run. The package has no switches for this.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from agent_tunix import buckets, devices, models, sampling
from agent_tunix.models import _decoder, token_logprobs

NEVER = 2**30


class Trick(NamedTuple):
    """One thing that makes a step faster or smaller.

    Attributes:
      name: What it is called on the page.
      instead: What takes its place.
      workloads: Where leaving it out is measured.
      patches: Attributes and what they are set to.
      settings: Arguments of `ablation.Step` that differ.
      beside: Arguments that both steps have, the one with all tricks and the one with this left out; where there are
        any, the two are compared by themselves.
      kept: Why it stays although it gains nothing here; empty where it does.
    """

    name: str
    instead: str
    workloads: tuple[str, ...]
    patches: tuple[tuple[Any, str, Any], ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    beside: tuple[tuple[str, Any], ...] = ()
    kept: str = ""

    @contextlib.contextmanager
    def left_out(self) -> Iterator[None]:
        """Sets the patches, and takes them back."""
        kept = [(place, name, getattr(place, name)) for place, name, _ in self.patches]
        for place, name, value in self.patches:
            setattr(place, name, value)
        try:
            yield
        finally:
            for place, name, value in kept:
                setattr(place, name, value)


def categorical(uniform: Any, logits: Any, distribution: Any) -> tuple[Any, Any, Any]:
    """`sampling.draw` with a random number for each token of the vocabulary."""
    key = jax.random.key(jax.lax.bitcast_convert_type(uniform[0], jnp.uint32))
    logits = logits / distribution.temperature
    tokens = jax.random.categorical(key, logits)
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=-1)
    return tokens, chosen, chosen


def reduced_attention(queries: Any, prompt: Any, own: Any, mask: Any, live: Any, shape: Any) -> Any:
    """`_decoder._decode_attention` by multiplying and adding up, without batched products."""
    prompts, group = queries.shape[:2]
    queries = queries.reshape(prompts, group, shape.kv_heads, shape.repeats, shape.head_dim) * shape.head_dim**-0.5
    prompt_scores = (queries[..., None] * prompt[0][:, None, :, None]).sum(-2)
    prompt_scores = jnp.where(mask[:, None, None, None], prompt_scores, _decoder.MASKED)
    own_scores = jnp.where(live, (queries[..., None] * own.keys[:, :, :, None]).sum(-2), _decoder.MASKED)
    weights = jax.nn.softmax(jnp.concatenate([prompt_scores, own_scores], axis=-1), axis=-1)
    first, second = weights[..., : mask.shape[1]], weights[..., mask.shape[1] :]
    mixed = (first[..., None] * prompt[1][:, None, :, None]).sum(-2)
    mixed = mixed + (second[..., None] * own.values[:, :, :, None]).sum(-2)
    return mixed.reshape(prompts, group, -1)


def plain_head(features: Any, unembedding: Any, targets: Any, temperature: float = 1.0, **_: Any) -> tuple[Any, Any]:
    """`models.token_logprobs` with the derivative that JAX finds."""
    logprobs = jax.nn.log_softmax(features @ unembedding.T / temperature)
    entropy = -(jnp.exp(logprobs) * logprobs).sum(-1)
    return jnp.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0], jax.lax.stop_gradient(entropy)


def joined_mlp(x: Any, layer: Any, shape: Any) -> Any:
    """`_decoder._mlp` with one product for gate and up, and rows on several axes."""
    both = _decoder._rms_norm(x, layer.mlp_norm, shape) @ jnp.concatenate([layer.gate, layer.up], axis=1)
    gate, up = jnp.split(both, 2, axis=-1)
    return (jax.nn.silu(gate) * up) @ layer.down


def undonated(function: Callable[..., Any]) -> Callable[..., Any]:
    """`devices.each` or `devices.summed` without reuse of memory."""

    @functools.wraps(function)
    def compiled(*args: Any, donate: Any = (), **settings: Any) -> Any:
        return function(*args, **settings)

    return compiled


def apart(chunk: Any) -> list[list[Any]]:
    """`buckets._by_length` with every bucket in a program of its own."""
    return [[bucket] for bucket in chunk.buckets]


FIXED, ALL = ("W1", "W3"), ("W1", "W3", "W4")

TRICKS = (
    Trick("Prompts shared in their group", "a prompt for every completion", FIXED, settings=(("shared", False),)),
    Trick("Two streams on a CPU", "one", ALL, settings=(("streams", 1),)),
    Trick("Inverse CDF", "`jax.random.categorical`", FIXED, ((sampling, "draw", categorical),)),
    Trick(
        "Attention in decoding by batched products",
        "multiplied and added up",
        FIXED,
        ((_decoder, "_decode_attention", reduced_attention),),
        kept="no more code than what would take its place, and what the matrix units of accelerators are made for",
    ),
    Trick("Ended completions dropped", "kept to the end", ("W4",), ((sampling, "regrouping", lambda *a, **k: None),)),
    Trick("Cache grown in segments", "full from the start", ("W4",), settings=(("full_cache", True),)),
    Trick("Log-probabilities kept from sampling", "computed again", ALL, settings=(("again", True),)),
    Trick("Buckets sized for the cache", "the whole batch at once", ALL, settings=(("microbatches", 1),)),
    Trick(
        "Length buckets",
        "all as long as the longest may be",
        ("W4",),
        ((buckets, "RUNGS", 1), (buckets, "_packed", buckets._over_all)),
    ),
    Trick(
        "Packed buckets",
        "padded ones",
        ("W4",),
        ((buckets, "_packed", buckets._over_all),),
        kept="they gain where buckets are larger, which the next row shows",
    ),
    Trick(
        "Packed buckets, where a bucket is the whole batch, as on accelerators",
        "padded ones",
        ("W4",),
        ((buckets, "_packed", buckets._over_all),),
        beside=(("microbatches", 1),),
    ),
    Trick(
        "Buckets of a length in one program",
        "one program for each",
        ALL,
        ((buckets, "_by_length", apart), (buckets, "_together", lambda chunk: 1)),
    ),
    Trick(
        "Head with a gradient of its own",
        "`jax.nn.log_softmax`",
        FIXED,
        ((models, "token_logprobs", plain_head),),
    ),
    Trick(
        "MLP in two products, rows on one axis",
        "one product, rows on several",
        ("W1",),
        ((_decoder, "_mlp", joined_mlp),),
    ),
    Trick(
        "Memory of arguments used again (donation)",
        "new memory for results",
        ("W1", "W5"),
        ((devices, "each", undonated(devices.each)), (devices, "summed", undonated(devices.summed))),
    ),
    Trick(
        "Vocabulary cut where logits are too many",
        "logits held",
        ("W5",),
        ((models, "token_logprobs", functools.partial(token_logprobs, max_logits=NEVER)),),
    ),
)
"""In the order of the page; `W5` is compared by its memory, each trick in a process of its own."""
