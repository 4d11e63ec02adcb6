"""Encoders: functions `(params, inputs) -> outputs` of features, of pairs and of texts, and their first parameters."""

import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from agent_tunix import data
from agent_tunix.models import Policy
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Params

Encoder = Callable[[Params, Any], Float[Array, "examples *outputs"]]
"""`(params, inputs) -> outputs`; inputs are arrays or a pytree of them, with a leading axis of examples."""


def mlp_params(key: Key[Array, ""], sizes: Sequence[int]) -> Params:
    """Random parameters of an `mlp`: matrices normal with deviation `1/sqrt(inputs)`, biases zero.

    Args:
      key: Key of the draw.
      sizes: Width of the inputs, of every hidden layer and of the outputs.
    """
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"kernel": jax.random.normal(own, (rows, columns)) * rows**-0.5, "bias": jnp.zeros(columns)}
        for own, (rows, columns) in zip(keys, itertools.pairwise(sizes), strict=True)
    ]


def mlp(params: Params, inputs: Float[Any, "*examples features"]) -> Float[Array, "*examples outputs"]:
    """A perceptron with `tanh` between its layers; with two sizes it is linear."""
    *inner, last = params
    for layer in inner:
        inputs = jnp.tanh(inputs @ layer["kernel"] + layer["bias"])
    return inputs @ last["kernel"] + last["bias"]


def ngrams(
    texts: Iterable[str], *, places: int, buckets: int, size: int = 3
) -> Int[np.ndarray, "examples places kinds"]:
    """Hashed character n-grams, a frozen reading of texts that needs no tokenizer; one kind of feature at every place.

    Args:
      texts: Longer ones are cut; spaces are put after shorter ones.
      places: Of every text.
      buckets: Ids are below this; the hash (CRC 32) is the same in every process.
      size: Characters of an n-gram.
    """
    padded = (text[: places + size - 1].ljust(places + size - 1) for text in texts)
    rows = [[[zlib.crc32(text[at : at + size].encode()) % buckets] for at in range(places)] for text in padded]
    return np.array(rows, np.int32).reshape(-1, places, 1)


def counted(params: Params, features: Int[Any, "examples places kinds"]) -> Float[Array, "examples places"]:
    """Linear in which features are there: at each place the sum of their weights, and a bias.

    Args:
      params: Of `counted_params`.
      features: Ids of the features at every place.
    """
    return params["weights"][features].sum(-1) + params["bias"]


def counted_params(features: int) -> Params:
    """Parameters of `counted`, zeros, for ids below a number."""
    return {"weights": jnp.zeros(features), "bias": jnp.zeros(())}


def averaged(encoder: Encoder) -> Encoder:
    """The mean output of an encoder, over places or outputs, as a score `[examples]`."""

    def score(params: Params, inputs: Any) -> Float[Array, " examples"]:
        return encoder(params, inputs).mean(-1)

    return score


def scalar(encoder: Encoder) -> Encoder:
    """The first output of an encoder, as a score `[examples]`."""

    def score(params: Params, inputs: Any) -> Float[Array, " examples"]:
        return encoder(params, inputs)[..., 0]

    return score


def compared(features: Encoder) -> Encoder:
    """An encoder of `(reference, candidate)` from features of each: an `mlp` over both, their product and distance.

    Args:
      features: An encoder with features `[examples width]`, shared by the two.

    Returns:
      An encoder whose parameters are `{"features": ..., "head": mlp_params(key, (4 * width, ..., outputs))}`.

    References:
      The four terms are those of Conneau et al., 2017, InferSent, arXiv:1705.02364, section 3.1.
    """

    def encoder(params: Params, inputs: tuple[Any, Any]) -> Float[Array, "examples outputs"]:
        reference, candidate = (features(params["features"], one) for one in inputs)
        both = [reference, candidate, reference * candidate, jnp.abs(reference - candidate)]
        return mlp(params["head"], jnp.concatenate(both, axis=-1))

    return encoder


class Sequences(NamedTuple):
    """Encoded prompts, left-padded, each with one completion, right-padded."""

    prompt_ids: Int[Any, "examples prompt_tokens"]
    prompt_mask: Bool[Any, "examples prompt_tokens"]
    completion_ids: Int[Any, "examples tokens"]
    completion_mask: Bool[Any, "examples tokens"]


def encoded(
    tokenizer: Tokenizer, prompts: Sequence[str], completions: Sequence[str], *, prompt_tokens: int, tokens: int
) -> Sequences:
    """Encodes texts for `sequence`.

    Args:
      tokenizer: Between text and tokens.
      prompts: Texts, one per completion; a longer one keeps its last tokens.
      completions: Texts; a longer one keeps its first tokens.
      prompt_tokens: Width of prompts, beginning-of-sequence token included.
      tokens: Width of completions, end-of-sequence token included.
    """
    before = data.encode_prompts(tokenizer, prompts, max_tokens=prompt_tokens, overlong="truncate")
    after = data.encode_completions(tokenizer, completions, max_tokens=tokens)
    return Sequences(before.ids, before.mask, after.ids, after.mask)


def last_token(
    features: Float[Array, "examples tokens width"], mask: Bool[Array, "examples tokens"]
) -> Float[Array, "examples width"]:
    """The feature of the last token of each example."""
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    return jnp.take_along_axis(features, last[:, None, None], axis=1)[:, 0]


def mean_pool(
    features: Float[Array, "examples tokens width"], mask: Bool[Array, "examples tokens"]
) -> Float[Array, "examples width"]:
    """The mean feature of the tokens of each example."""
    return jnp.sum(jnp.where(mask[..., None], features, 0.0), axis=1) / mask.sum(axis=1, keepdims=True)


def hidden(policy: Policy, pool: Callable[[Array, Array], Array] = last_token) -> Encoder:
    """The hidden state of a policy after it has read a completion, as features `[examples width]`.

    Args:
      policy: Model functions, such as `models.policy(models.tiny())`.
      pool: `(features, mask) -> pooled`, over the last token of the prompt and those of the completion: `last_token`,
        which has read everything, or `mean_pool`.

    Returns:
      An encoder of `Sequences` whose parameters are the policy's.
    """

    def encoder(params: Params, inputs: Sequences) -> Float[Array, "examples width"]:
        # The feature at t has read the tokens before t: one more column has read them all, whatever stands in it.
        ids = jnp.pad(jnp.asarray(inputs.completion_ids), ((0, 0), (0, 1)))
        read = jnp.pad(jnp.asarray(inputs.completion_mask), ((0, 0), (1, 0)), constant_values=True)
        features = policy.features(params, inputs.prompt_ids, inputs.prompt_mask, ids[:, None])
        return pool(features[:, 0], read)

    return encoder


def sequence(policy: Policy, pool: Callable[[Array, Array], Array] = last_token) -> Encoder:
    """A linear head on `hidden`, both of which train: the usual reward model of texts.

    Args:
      policy: Model functions.
      pool: As in `hidden`.

    Returns:
      An encoder of `Sequences` with outputs `[examples outputs]`; its parameters are those of `sequence_params`.
    """
    features = hidden(policy, pool)
    return lambda params, inputs: mlp(params["head"], features(params["backbone"], inputs))


def sequence_params(key: Key[Array, ""], backbone: Params, width: int, outputs: int = 1) -> Params:
    """Parameters of `sequence`: those of a policy, pretrained or not, and a random head.

    Args:
      key: Key of the head.
      backbone: Parameters of the policy.
      width: Of its hidden states, `architecture.width`.
      outputs: Of the head.
    """
    return {"backbone": backbone, "head": mlp_params(key, (width, outputs))}
