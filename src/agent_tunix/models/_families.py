"""What the families of decoders differ in, over the parameter trees of Tunix's modules.

A family is a record of the few things that are neither sizes nor parameters: where a layer's parameters lie in the tree
of Tunix's module, how its norms and its MLP are meant, and which module of Tunix has that tree.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from tunix.models.gemma import model as tunix_gemma
from tunix.models.gemma3 import model as tunix_gemma3
from tunix.models.gemma4 import model as tunix_gemma4
from tunix.models.llama3 import model as tunix_llama3
from tunix.models.qwen2 import model as tunix_qwen2
from tunix.models.qwen3 import model as tunix_qwen3

from agent_tunix.devices import tensor_parallel
from agent_tunix.models._adapters import Matrix, Piece, heads_first, inputs_first, joined
from agent_tunix.models._architecture import Architecture
from agent_tunix.models._experts import Mixture
from agent_tunix.models._sharding import EINSUMS, GEMMA4, PROJECTIONS, Rules
from agent_tunix.types import Params

LORA_PROJECTIONS = ".*q_proj|.*k_proj|.*v_proj|.*o_proj|.*gate_proj|.*down_proj|.*up_proj"
LORA_EINSUMS = ".*q_einsum|.*kv_einsum|.*qkv_einsum|.*k_einsum|.*attn_vec_einsum|.*gate_proj|.*down_proj|.*up_proj"


class Layer(NamedTuple):
    """One layer's parameters, with the projections that attention reads joined into one product.

    What a family, or a layer, has not is None. A layer whose keys are its values has no matrix for these in `qkv`, one
    that attends to another's has neither. Where heads are dealt over devices, the projections of queries, keys and
    values stay apart, since a joined product would be cut across them.
    """

    attention_norm: Float[Array, " width"]
    qkv: Matrix | Sequence[Matrix]
    bias: Float[Array, " qkv"] | Sequence[Array] | None
    query_norm: Float[Array, " head_dim"] | None
    key_norm: Float[Array, " head_dim"] | None
    output: Matrix
    attention_post_norm: Float[Array, " width"] | None
    mlp_norm: Float[Array, " width"]
    gate: Matrix | None
    up: Matrix | None
    down: Matrix | None
    mlp_post_norm: Float[Array, " width"] | None
    mixture: Mixture | None = None
    dense_post_norm: Float[Array, " width"] | None = None
    expert_norm: Float[Array, " width"] | None = None
    expert_post_norm: Float[Array, " width"] | None = None
    input_gate: Float[Array, "width inputs"] | None = None
    input_projection: Float[Array, "inputs width"] | None = None
    input_post_norm: Float[Array, " width"] | None = None
    scale: Float[Array, " 1"] | None = None


class Family(NamedTuple):
    """One family.

    Attributes:
      module: The module of Tunix for an architecture, in float32, with random parameters.
      layer: A layer's part of its tree, as a `Layer`.
      norm_offset: What is added to the parameters of norms.
      scaled_embedding: Whether embedded tokens are multiplied by the root of the width.
      activation: Of the MLP's gate.
      value_norm: Whether values are normalised, without a weight.
      adapted: Which modules low-rank adapters go to, a regular expression over their paths.
      rules: How its parameters are cut over a mesh.
    """

    module: Callable[[Architecture], nnx.Module]
    layer: Callable[[Params], Layer]
    norm_offset: float = 0.0
    scaled_embedding: bool = False
    activation: Callable[[Array], Array] = jax.nn.silu
    value_norm: bool = False
    adapted: str = LORA_PROJECTIONS
    rules: Rules = PROJECTIONS


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


# --- Trees ------------------------------------------------------------------------------------------------------------


def _projected_layer(tree: Params) -> Layer:
    """A layer of Qwen2, Qwen3 and Llama."""
    attention = tree["attn"]
    width = attention["q_proj"]["w"].shape[0]
    inner = attention["o_proj"]["w"].size // width
    return Layer(
        attention_norm=tree["input_layernorm"]["w"],
        qkv=_attended([inputs_first(attention[f"{name}_proj"], "w", width) for name in "qkv"]),
        bias=_biases([attention[f"{name}_bias"] for name in "qkv"]) if "q_bias" in attention else None,
        query_norm=attention["q_norm"]["w"] if "q_norm" in attention else None,
        key_norm=attention["k_norm"]["w"] if "k_norm" in attention else None,
        output=joined([inputs_first(attention["o_proj"], "w", inner)]),
        attention_post_norm=None,
        mlp_norm=tree["post_attention_layernorm"]["w"],
        **_mlp_or_experts(tree["mlp"], width),
        mlp_post_norm=None,
    )


def _attended(pieces: Sequence[Piece]) -> Matrix | Sequence[Matrix]:
    """Queries, keys and values, one product unless their heads are dealt over devices."""
    return [joined([piece]) for piece in pieces] if tensor_parallel() > 1 else joined(pieces)


def _biases(pieces: Sequence[Array]) -> Array | Sequence[Array]:
    return pieces if tensor_parallel() > 1 else jnp.concatenate(pieces)


def _mlp_or_experts(tree: Params, width: int) -> dict[str, Any]:
    if "router" not in tree:
        return _mlp(tree, width)
    mixture = Mixture(tree["router"]["kernel"], tree["gate_proj"], tree["up_proj"], tree["down_proj"])
    return {"gate": None, "up": None, "down": None, "mixture": mixture}


def _mlp(tree: Params, width: int) -> dict[str, Any]:
    inner = tree["down_proj"]["kernel"].shape[0]
    sizes = {"gate": width, "up": width, "down": inner}
    return {name: joined([inputs_first(tree[f"{name}_proj"], "kernel", size)]) for name, size in sizes.items()}


def _einsum_layer(tree: Params) -> Layer:
    """A layer of Gemma, whose projections lead with heads: `[heads width head_dim]`."""
    attention, mlp = tree["attn"], tree["mlp"]
    stacked = [name for name in ("qkv_einsum", "q_einsum", "kv_einsum", "k_einsum") if name in attention]
    heads, head_dim, width = attention["attn_vec_einsum"]["w"].shape

    def norm(*path: str) -> Array | None:
        found: Any = tree
        for name in path:
            found = found.get(name, {})
        return found.get("scale")

    return Layer(
        attention_norm=tree["pre_attention_norm"]["scale"],
        qkv=_attended([piece for name in stacked for piece in heads_first(attention[name], "w")]),
        bias=None,
        query_norm=norm("attn", "_query_norm"),
        key_norm=norm("attn", "_key_norm"),
        output=joined([inputs_first(attention["attn_vec_einsum"], "w", heads * head_dim)]),
        attention_post_norm=norm("post_attention_norm") if "post_attention_norm" in tree else norm("post_attn_norm"),
        mlp_norm=tree["pre_ffw_norm"]["scale"],
        **_mlp(mlp, width),
        mlp_post_norm=norm("post_ffw_norm"),
    )


def _gemma4_layer(tree: Params) -> Layer:
    """A layer of Gemma 4: perhaps with experts beside the MLP, perhaps with inputs of its own."""

    def scale(name: str) -> Array | None:
        return tree[name]["scale"] if name in tree else None

    mixed, given = "moe" in tree, "per_layer_input_gate" in tree
    return _einsum_layer(tree)._replace(
        mixture=_gemma4_mixture(tree["moe"]) if mixed else None,
        dense_post_norm=scale("dense_post_ffw_norm"),
        expert_norm=scale("moe_pre_ffw_norm"),
        expert_post_norm=scale("moe_post_ffw_norm"),
        input_gate=tree["per_layer_input_gate"]["w"] if given else None,
        input_projection=tree["per_layer_projection"]["w"] if given else None,
        input_post_norm=scale("post_per_layer_input_norm"),
        scale=tree["skip_scale"],
    )


def _gemma4_mixture(tree: Params) -> Mixture:
    gate, up = (tree["gating_einsum"][:, index].swapaxes(1, 2) for index in (0, 1))
    return Mixture(tree["router_logits"], gate, up, tree["linear"], tree["router_scale"], tree["per_expert_scale"])


# --- Modules ----------------------------------------------------------------------------------------------------------


def _sizes(architecture: Architecture, vocab: str = "vocab_size") -> dict[str, Any]:
    return {
        "num_layers": architecture.layers,
        vocab: architecture.vocab_size,
        "embed_dim": architecture.width,
        "hidden_dim": architecture.mlp,
        "num_heads": architecture.heads,
        "head_dim": architecture.head_dim,
        "num_kv_heads": architecture.kv_heads,
    }


def _qwen(library: Any, name: str) -> Callable[[Architecture], nnx.Module]:
    def module(architecture: Architecture) -> nnx.Module:
        config = library.ModelConfig(
            **_sizes(architecture) | _experts(architecture),
            rope_theta=int(architecture.rotary.theta),
            norm_eps=architecture.norm_eps,
            use_tied_embedding=architecture.tied,
        )
        return getattr(library, name)(config, rngs=nnx.Rngs(0))

    return module


def _experts(architecture: Architecture) -> dict[str, Any]:
    if architecture.experts is None:
        return {}
    number, active, mlp, _ = architecture.experts
    return {"hidden_dim": mlp, "num_experts": number, "num_experts_per_tok": active}


def _llama(architecture: Architecture) -> nnx.Module:
    config = tunix_llama3.ModelConfig(
        **_sizes(architecture),
        rope_theta=int(architecture.rotary.theta),
        norm_eps=architecture.norm_eps,
        weight_tying=architecture.tied,
    )
    return tunix_llama3.Llama3(config, rngs=nnx.Rngs(0))


def _gemma(architecture: Architecture) -> nnx.Module:
    kinds, second = tunix_gemma.AttentionType, architecture.family == "gemma2"
    config = tunix_gemma.ModelConfig(
        **_sizes(architecture, "num_embed"),
        final_logit_softcap=architecture.softcap or None,
        use_post_attn_norm=second,
        use_post_ffw_norm=second,
        attention_types=[
            kinds.LOCAL_SLIDING if architecture.is_local(layer) else kinds.GLOBAL
            for layer in range(architecture.layers)
        ],
        attn_logits_soft_cap=architecture.attention_softcap or None,
        sliding_window_size=architecture.window or None,
    )
    return tunix_gemma.Gemma(config, rngs=nnx.Rngs(0))


def _gemma3(architecture: Architecture) -> nnx.Module:
    scales = tunix_gemma3.QueryPreAttentionNormalisation
    by_head = abs(architecture.scores_scale - architecture.head_dim**-0.5) < 1e-9
    config = tunix_gemma3.ModelConfig(
        **_sizes(architecture, "num_embed"),
        sliding_window_size=architecture.window,
        local_base_frequency=int(architecture.local_rotary.theta),
        global_base_frequency=int(architecture.rotary.theta),
        local_scale_factor=architecture.local_rotary.factor,
        global_scale_factor=architecture.rotary.factor,
        query_pre_attn_norm=scales.BY_ONE_OVER_SQRT_HEAD_DIM
        if by_head
        else scales.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS,
        param_dtype=jnp.float32,
    )
    return tunix_gemma3.Gemma3(config, rngs=nnx.Rngs(0))


def _gemma4(architecture: Architecture) -> nnx.Module:
    kinds, experts = tunix_gemma4.AttentionType, architecture.experts
    config = tunix_gemma4.ModelConfig(
        **_sizes(architecture, "num_embed"),
        final_logit_softcap=architecture.softcap or None,  # pyright: ignore[reportArgumentType]
        sliding_window_size=architecture.window,
        per_layer_input_dim=architecture.layer_inputs,
        num_global_kv_heads=architecture.global_kv_heads or None,
        global_key_size=architecture.global_head_dim or architecture.head_dim,
        attention_pattern=tuple(
            kinds.LOCAL_SLIDING if architecture.is_local(layer) else kinds.GLOBAL
            for layer in range(architecture.layers)
        ),
        # Half a layer less, so that rounding down cannot lose one.
        frac_shared_layers=(architecture.shared - 0.5) / architecture.layers if architecture.shared else 0.0,
        global_rope_proportion=architecture.rotary.proportion,
        local_rope_proportion=architecture.local_rotary.proportion,
        k_eq_v_global=architecture.keys_are_values,
        override_kv_shared_ffw_hidden=architecture.shared_mlp or None,
        local_base_frequency=int(architecture.local_rotary.theta),
        global_base_frequency=int(architecture.rotary.theta),
        local_scale_factor=architecture.local_rotary.factor,
        global_scale_factor=architecture.rotary.factor,
        use_sliding_window_kv_cache=False,
        enable_moe=experts is not None,
        num_experts=experts and experts.number,
        num_experts_per_tok=experts and experts.active,
        expert_dim=experts and experts.mlp,
    )
    return tunix_gemma4.Gemma4(config, rngs=nnx.Rngs(0))


_GEMMA = Family(_gemma, _einsum_layer, 1.0, True, _gelu, adapted=LORA_EINSUMS, rules=EINSUMS)

FAMILIES: Mapping[str, Family] = {
    "qwen3": Family(_qwen(tunix_qwen3, "Qwen3"), _projected_layer),
    "qwen3_moe": Family(_qwen(tunix_qwen3, "Qwen3"), _projected_layer),
    "qwen2": Family(_qwen(tunix_qwen2, "Qwen2"), _projected_layer),
    "llama3": Family(_llama, _projected_layer),
    "gemma": _GEMMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA._replace(module=_gemma3),
    "gemma4": Family(_gemma4, _gemma4_layer, 0.0, True, _gelu, value_norm=True, adapted=LORA_EINSUMS, rules=GEMMA4),
}
"""Families that the package has a forward for, named after Tunix's folders."""
