"""Policies: a model of Tunix as pure functions over its parameter tree.

A `Policy` holds functions only; parameters travel beside it as `Parameters`, split into what trains and what does not,
so that full training and LoRA share every path.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from agent_tunix.buckets import Packing
from agent_tunix.devices import has_cuts, on_host, whole
from agent_tunix.errors import ModelError
from agent_tunix.models import _decoder, _module, _quantized
from agent_tunix.models._adapters import FIRST, folded, input_axis, with_factors
from agent_tunix.models._architecture import Architecture, Experts, Llama3Scaling, Rotary
from agent_tunix.models._families import FAMILIES, Family
from agent_tunix.models._head import capped, token_logprobs
from agent_tunix.models._module import logprobs as module_logprobs
from agent_tunix.models._packing import spread
from agent_tunix.models._quantized import BLOCK, QuantizedWeight, plain
from agent_tunix.models._sharding import specs
from agent_tunix.tokenizers import CharacterTokenizer
from agent_tunix.types import Params

__all__ = [
    "BLOCK",
    "FAMILIES",
    "Architecture",
    "Experts",
    "Family",
    "Llama3Scaling",
    "Parameters",
    "Policy",
    "QuantizedWeight",
    "Rotary",
    "folded",
    "full",
    "initial_params",
    "lora",
    "merged",
    "module_logprobs",
    "module_policy",
    "params_sha256",
    "placements",
    "plain",
    "policy",
    "quantizer",
    "tiny",
    "token_logprobs",
    "tunix_module",
]

DecodeStep = Callable[
    [Any, Int[Array, "prompts group"], Int[Array, ""]], tuple[Float[Array, "prompts group vocab"], Any]
]


class Policy(NamedTuple):
    """The functions of one model; `params` is the full tree, as `merged` returns it.

    A prompt is computed once, by `prefix`, and shared by all completions of its group in decoding and in training. The
    leading axis of every array of a prefix is that of prompts, the leading axes of every array of a cache are
    `[prompts group]`, so that prompts and completions can be picked without knowing what a model keeps.

    Attributes:
      prefix: `(params, prompt_ids, prompt_mask) -> prefix`, what completions need of their prompts; a pytree.
      continued: `(params, prefix, completion_ids, packing) -> [prompts group tokens width]`, teacher-forced features:
        entry `t` predicts completion token `t`; with a packing `[room width]`, those of the packed tokens.
      unembedding: `params -> [vocab width]`, the matrix from features to logits.
      decoder: `(params, prefix) -> step`; `step(cache, tokens, index)` feeds tokens `[prompts group]`, number
        `index - 1` of their completions (the last of the prompt at index 0), and gives the logits that follow, and the
        cache.
      cache: `(params, prefix, group_size, slots) -> cache` with room for that many tokens.
      grown: `(cache, slots) -> cache` with more room.
      softcap: Bound of the logits that features and unembedding give; 0 where there is none.
    """

    prefix: Callable[..., Any]
    continued: Callable[..., Float[Array, "prompts group tokens width"]]
    unembedding: Callable[[Params], Float[Array, "vocab width"]]
    decoder: Callable[[Params, Any], DecodeStep]
    cache: Callable[[Params, Any, int, int], Any]
    grown: Callable[[Any, int], Any]
    softcap: float = 0.0

    def features(
        self,
        params: Params,
        prompt_ids: Int[Array, "prompts prompt_tokens"],
        prompt_mask: Bool[Array, "prompts prompt_tokens"],
        completion_ids: Int[Array, "prompts group tokens"],
    ) -> Float[Array, "prompts group tokens width"]:
        """Teacher-forced features of completions from their prompts."""
        return self.continued(params, self.prefix(params, prompt_ids, prompt_mask), completion_ids, None)

    def logits(
        self, params: Params, features: Float[Array, "prompts group tokens width"]
    ) -> Float[Array, "prompts group tokens vocab"]:
        """All logits of features, capped where the model caps them; large, so for a few completions at a time."""
        return capped(features @ self.unembedding(params).T, self.softcap)

    def logprobs(
        self,
        params: Params,
        prompt_ids: Int[Array, "prompts prompt_tokens"],
        prompt_mask: Bool[Array, "prompts prompt_tokens"],
        completion_ids: Int[Array, "prompts group tokens"],
        temperature: float = 1.0,
    ) -> tuple[Float[Array, "prompts group tokens"], Float[Array, "prompts group tokens"]]:
        """Log-probabilities of completion tokens and entropies of the distributions they come from, in nats.

        No gradient flows through the entropies.
        """
        return self.continued_logprobs(
            params, self.prefix(params, prompt_ids, prompt_mask), completion_ids, temperature
        )

    def continued_logprobs(
        self,
        params: Params,
        prefix: Any,
        completion_ids: Int[Array, "prompts group tokens"],
        temperature: float = 1.0,
        entropy_gradient: bool = False,
        packing: Packing | None = None,
    ) -> tuple[Float[Array, "prompts group tokens"], Float[Array, "prompts group tokens"]]:
        """The same from prompts that are computed already; `entropy_gradient` as in `token_logprobs`.

        With a packing only packed tokens are computed; at padding both are 0.
        """
        hidden = self.continued(params, prefix, completion_ids, packing)
        head = self.unembedding(params).astype(hidden.dtype)
        targets = completion_ids if packing is None else completion_ids.reshape(-1)[packing.places]
        found = token_logprobs(
            hidden, head, targets, temperature, entropy_gradient=entropy_gradient, softcap=self.softcap
        )
        if packing is None:
            return found
        logprobs, entropy = (spread(value, packing).reshape(completion_ids.shape) for value in found)
        return logprobs, entropy


@dataclass(frozen=True)
class Parameters:
    """A policy's parameters, split by whether the optimizer sees them. A pytree.

    Attributes:
      trainable: What the optimizer updates and checkpoints hold.
      frozen: The rest; the backbone under LoRA, empty in full training.
      lora_scale: `alpha / rank`; 0 in full training.
    """

    trainable: Params
    frozen: Params
    lora_scale: float = 0.0


jax.tree_util.register_dataclass(Parameters, data_fields=("trainable", "frozen"), meta_fields=("lora_scale",))


def tiny(vocab_size: int = CharacterTokenizer().vocab_size, **sizes: Any) -> Architecture:
    """The built-in small policy: Tunix's Qwen3 with 0.13 million parameters at its default sizes.

    Args:
      vocab_size: By default that of the character-level tokenizer.
      **sizes: Other sizes of `Architecture`.
    """
    return Architecture(vocab_size=vocab_size, **sizes)


def policy(architecture: Architecture, *, dtype: str = "float32", remat: bool = False) -> Policy:
    """The forward functions of an architecture, over the parameter tree of its family's module in Tunix.

    Args:
      architecture: Sizes, family and constants.
      dtype: What is computed in, and what the cache holds. Parameters keep their own, so that `bfloat16` over float32
        parameters trains float32 master weights; norms, softmax, log-probabilities and sums stay in float32.
      remat: Whether activations within a layer are computed again for the gradient instead of kept.
    """
    shape = _decoder.Shape(architecture, jnp.dtype(dtype), remat)

    def bound(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: function(params, shape, *args)

    return Policy(
        prefix=bound(_decoder.prefix),
        continued=bound(_decoder.features),
        unembedding=_decoder.unembedding,
        decoder=bound(_decoder.decoder),
        cache=bound(_decoder.empty_cache),
        grown=_decoder.grown,
        softcap=architecture.softcap,
    )


def module_policy(module: nnx.Module) -> tuple[Policy, Params]:
    """The functions and the parameters of any decoder of Tunix, for families without a forward of their own.

    Each prompt is computed once for its group here too, in decoding and in training. What a module cannot express is
    attention of several completions to one set of keys: each gets a copy of those of its prompt. With a sliding window
    shorter than prompt and completion together, training computes every copy of a prompt in full. What is computed in,
    and rematerialisation, are the module's own settings.

    Args:
      module: `module(tokens, positions, cache, attention_mask) -> (logits, cache)`, with logits from `lm_head` or
        `embedder.decode`, such as Tunix's Qwen2, Qwen3, Llama3, Gemma and Gemma3. It is called on a few tokens and not
        changed.

    Returns:
      The policy, and the parameters in the module's own tree.

    Raises:
      ValueError: If its attention ignores masks (flash attention), if its logits are not a product of features with a
        matrix (Gemma 2 and 4 cap them), or if its cache does not go on with several tokens at once.
    """
    decoder, params = _module.split(module)

    def bound(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: function(params, decoder, *args)

    functions = Policy(
        prefix=bound(_module.prefix),
        continued=bound(_module.features),
        unembedding=_module.unembedding,
        decoder=bound(_module.stepper),
        cache=bound(_module.cache_of),
        grown=_module.grown,
    )
    return functions, params


def tunix_module(architecture: Architecture, params: Params | None = None) -> nnx.Module:
    """Tunix's own module of the same architecture, with our parameters where given.

    Tunix 0.1.7 does not build all that an architecture says: Llama 3 and Qwen 3 rotate with a base of their own
    whatever the config says, Llama 3 does not scale frequencies, and Gemma 3 takes its local layers from a fixed
    pattern. `policy` does what the architecture says.
    """
    module = FAMILIES[architecture.family].module(architecture)
    if params is not None:
        state = nnx.state(module)
        nnx.replace_by_pure_dict(state, params)
        nnx.update(module, state)
    return module


def initial_params(architecture: Architecture, seed: int) -> Params:
    """Random parameters in the tree of Tunix's module.

    Tunix's own initialiser leaves every MLP kernel at zero, where all three gradients vanish and the MLP never moves.
    Here matrices are normal with deviation `1/sqrt(inputs)`, those that write to the residual stream smaller by
    `sqrt(2 * layers)`, embeddings with deviation 0.02, norms one.

    Args:
      architecture: Sizes.
      seed: The tree is a function of it and the sizes alone.
    """
    tree = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.state(tunix_module(architecture))))
    for layer in range(architecture.owning, architecture.layers):  # Tunix keeps weights there that nothing reads
        attention = tree["layers"][layer]["attn"]
        tree["layers"][layer]["attn"] = {name: attention[name] for name in attention if name not in KEYS}
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    depth, family = (2 * architecture.layers) ** -0.5, FAMILIES[architecture.family]

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct, key: Array) -> Array:
        name = jax.tree_util.keystr(path)
        if "norm" in name:
            return jnp.full(leaf.shape, 1.0 - family.norm_offset, leaf.dtype)
        if "bias" in name:
            return jnp.zeros(leaf.shape, leaf.dtype)
        if name.endswith("scale']"):
            return jnp.ones(leaf.shape, leaf.dtype)
        if "embedding" in name:
            return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
        residual = any(module in name for module in ("o_proj", "down_proj", "attn_vec_einsum", "linear"))
        if "gating_einsum" in name:  # experts lead, and inputs come last
            inputs = leaf.shape[-1]
        elif leaf.ndim == 3 and ("mlp" in name or "moe" in name):  # experts lead
            inputs = leaf.shape[1]
        else:
            inputs = np.prod(leaf.shape[:-1]) if residual else leaf.shape[input_axis(name)]
        deviation = float(inputs) ** -0.5 * (depth if residual else 1.0)
        return deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    @jax.jit
    def draw_all(keys: Array) -> Params:
        return structure.unflatten([draw(path, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)])

    return draw_all(keys)


KEYS = ("k_einsum", "kv_einsum", "_key_norm")
"""Modules of attention that a layer has not which attends to the keys and values of another."""


def full(params: Params) -> Parameters:
    """Every parameter trains."""
    return Parameters(trainable=params, frozen={})


def lora(architecture: Architecture, params: Params, *, rank: int, alpha: float, seed: int) -> Parameters:
    """Low-rank factors in float32 beside a frozen backbone, where qwix puts them in Tunix's module.

    Args:
      architecture: Sizes and family; the latter says which modules are adapted.
      params: The backbone.
      rank: Rank of the factors, at least 1.
      alpha: The update is scaled by `alpha / rank`.
      seed: Seed of the first factors, drawn as He et al. do; the second start at zero, so the policy is unchanged.
    """
    tree = jax.eval_shape(lambda: _factors(architecture, rank, alpha))
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct, key: Array) -> Array:
        first = jax.tree_util.keystr(path, simple=True).endswith(FIRST)
        return nnx.initializers.he_uniform()(key, leaf.shape) if first else jnp.zeros(leaf.shape)

    drawn = [draw(path, leaf, key) for (path, leaf), key in zip(leaves, keys, strict=True)]
    return Parameters(structure.unflatten(drawn), params, alpha / rank)


def quantizer(architecture: Architecture, kind: str) -> Callable[[tuple[Any, ...], Any], Any]:
    """The function `(path, weight)` that keeps the weights of adapted modules in fewer bits, and others as they are.

    Args:
      architecture: Family; it says which modules are adapted.
      kind: `int8`, `int4`, or `nf4` as in QLoRA.
    """
    inputs = _adapted_inputs(architecture)

    def keep(path: tuple[Any, ...], weight: Any) -> Any:
        name, weight = "/".join(map(str, path)), jnp.asarray(weight)
        if name not in inputs:
            return weight
        return _quantized.quantized(weight, kind, inputs=inputs[name], heads_first=bool(input_axis(name)))

    return keep


def _adapted_inputs(architecture: Architecture) -> dict[str, int]:
    """Leading axes of the inputs of every weight that gets factors."""
    tree = jax.eval_shape(lambda: _factors(architecture, 1, 1.0))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.ndim - 1 for path, leaf in leaves}
    return {name.removesuffix(FIRST): number for name, number in named.items() if name.endswith(FIRST)}


def placements(architecture: Architecture, parameters: Parameters, axes: Mapping[str, int]) -> Parameters:
    """How parameters are cut over a mesh: a `PartitionSpec` in place of every array, by the rules of the family.

    Heads, hidden units and the vocabulary are cut over `tp`, experts and the other axis of weights over `fsdp`; an axis
    that the devices do not divide stays whole, and so do norms.

    Args:
      architecture: Sizes and family.
      parameters: Arrays, or their shapes.
      axes: Devices along the axes of the mesh.

    Raises:
      ModelError: If `tp` does not divide the query heads, or a parameter has no rule.
    """
    if architecture.heads % axes.get("tp", 1):
        raise ModelError(
            f"mesh has tp = {axes['tp']}, which does not divide {architecture.heads} query heads; choose a divisor"
        )
    rules = FAMILIES[architecture.family].rules
    trainable, frozen = (specs(rules, tree, axes) for tree in (parameters.trainable, parameters.frozen))
    return dataclasses.replace(parameters, trainable=trainable, frozen=frozen)


def _factors(architecture: Architecture, rank: int, alpha: float) -> Params:
    """The factors that qwix makes for Tunix's module; asked for their shapes only."""
    module = tunix_module(architecture)
    provider = qwix.LoraProvider(module_path=FAMILIES[architecture.family].adapted, rank=rank, alpha=alpha)
    inputs: Any = module.get_model_input()  # pyright: ignore[reportAttributeAccessIssue]
    adapted = qwix.apply_lora_to_model(module, provider, rngs=nnx.Rngs(0), **inputs)
    return nnx.to_pure_dict(nnx.state(adapted, nnx.LoRAParam))


def merged(parameters: Parameters) -> Params:
    """The full tree that a policy computes with: what trains, or the backbone with its low-rank updates.

    Updates are added to float32 weights. Beside weights of fewer bits, which could not hold the sum, they stay factors;
    `folded` adds them all the same. Weights that are in parts (`devices.Cut`) stay so until their layer's turn.
    """
    if not has_cuts(parameters):
        parameters = whole(parameters)
    if not parameters.lora_scale:
        return parameters.trainable
    return with_factors(parameters.frozen, parameters.trainable, parameters.lora_scale)


def params_sha256(params: Params) -> str:
    """Hash of names, shapes and bytes of a parameter tree; equal exactly when the trees are equal to the last bit."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = on_host(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
