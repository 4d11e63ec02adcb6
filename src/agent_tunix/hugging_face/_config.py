"""`config.json` of a model folder as an `Architecture`, and back."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent_tunix.errors import ModelError, unknown
from agent_tunix.models import Architecture, Experts, Llama3Scaling, Rotary

SLIDING = "sliding_attention"
FULL = "full_attention"


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
      ModelError: If there is none, or it is not JSON.
    """
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} has no config.json; give a folder as `save_pretrained` of transformers writes it"
        ) from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a config describes.

    Both spellings of rotary positions are read: `rope_theta` and `rope_scaling` (transformers 4), and
    `rope_parameters` (transformers 5).

    Args:
      config: As `config.json` holds it; of a model that also sees images, its text part is taken.

    Raises:
      ModelError: If the family, or what the config asks of it, has no forward here.
    """
    kind = str(config.get("model_type"))
    if kind in ("gemma3", "gemma4") and "text_config" in config:
        return architecture_of({"tie_word_embeddings": True, **config["text_config"], "model_type": f"{kind}_text"})
    if kind not in KINDS:
        raise ModelError(unknown("model_type of config.json", kind, KINDS))
    family, details = KINDS[kind]
    heads = _needed(config, "num_attention_heads")
    sizes = {
        "vocab_size": _needed(config, "vocab_size"),
        "layers": _needed(config, "num_hidden_layers"),
        "width": _needed(config, "hidden_size"),
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or _needed(config, "hidden_size") // heads,
        "mlp": _needed(config, "intermediate_size"),
    }
    _check(config, kind)
    found = details(config, sizes["layers"])
    return Architecture(**sizes, family=family, norm_eps=config.get("rms_norm_eps", 1e-6), **found)


def config_of(architecture: Architecture) -> dict[str, Any]:
    """A `config.json` for an architecture, in the spelling of transformers 5; older readers find theirs besides."""
    kind = next(name for name, (family, _) in KINDS.items() if family == architecture.family)
    config: dict[str, Any] = {
        "architectures": [CLASSES[architecture.family]],
        "model_type": kind,
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.width,
        "intermediate_size": architecture.mlp,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "rms_norm_eps": architecture.norm_eps,
        "tie_word_embeddings": architecture.tied,
        "attention_bias": architecture.family == "qwen2",
    }
    if architecture.family.startswith("gemma"):
        config |= _gemma_entries(architecture)
    else:
        config |= {"hidden_act": "silu", **_rotary_entries(architecture.rotary)}
    if architecture.family == "qwen3_moe" and architecture.experts is not None:
        config |= _experts_entries(architecture.experts)
    return config


# --- Reading ----------------------------------------------------------------------------------------------------------


def _needed(config: Mapping[str, Any], key: str) -> Any:
    if config.get(key) is None:
        raise ModelError(f"config.json has no {key}, which the sizes of the model need")
    return config[key]


def _check(config: Mapping[str, Any], kind: str) -> None:
    """Refuses what would change the numbers and has no forward here."""
    gemma = kind.startswith("gemma")
    activation = (
        config.get("hidden_activation") or config.get("hidden_act") or ("gelu_pytorch_tanh" if gemma else "silu")
    )
    for wrong, what in (
        (kind != "qwen2" and config.get("attention_bias"), "attention_bias=true"),
        (config.get("mlp_bias"), "mlp_bias=true"),
        (config.get("use_sliding_window"), "use_sliding_window=true"),
        (config.get("mlp_only_layers"), "layers without experts (mlp_only_layers)"),
        (config.get("decoder_sparse_step", 1) != 1, "layers without experts (decoder_sparse_step)"),
        # "vision" means tokens of images, which are never shown here.
        (config.get("use_bidirectional_attention") not in (None, False, "vision"), "use_bidirectional_attention"),
        # The first configs of Gemma say "gelu" and mean the approximation, as transformers does.
        (activation not in (("gelu_pytorch_tanh", "gelu") if gemma else ("silu",)), f"the activation {activation}"),
        (gemma and not config.get("tie_word_embeddings", True), "an unembedding of its own"),
    ):
        if wrong:
            raise ModelError(f"config.json of this {kind} asks for {what}, which has no forward here")


def _rotary(parameters: Mapping[str, Any], theta: float) -> Rotary:
    """Rotary positions from `rope_parameters`, or from `rope_scaling` with the base beside it."""
    theta = float(parameters.get("rope_theta", theta))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return Rotary(theta)
    if kind == "proportional":
        return Rotary(
            theta, float(parameters.get("factor", 1.0)), proportion=parameters.get("partial_rotary_factor", 1.0)
        )
    if kind == "linear":
        return Rotary(theta, factor=float(parameters["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return Rotary(theta, llama3=Llama3Scaling(*(parameters[name] for name in names)))
    raise ModelError(
        unknown("kind of rotary positions in config.json", kind, ("default", "linear", "llama3", "proportional"))
    )


def _global_rotary(config: Mapping[str, Any], default: float) -> Rotary:
    parameters = config.get("rope_parameters") or {}
    if FULL in parameters:
        return _rotary(parameters[FULL], default)
    return _rotary(parameters or config.get("rope_scaling") or {}, config.get("rope_theta") or default)


def _projected(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    return {"tied": bool(config.get("tie_word_embeddings", False)), "rotary": _global_rotary(config, 10_000.0)}


def _qwen3_moe(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    number = config.get("num_experts") or _needed(config, "num_local_experts")
    experts = Experts(
        number=number,
        active=_needed(config, "num_experts_per_tok"),
        mlp=_needed(config, "moe_intermediate_size"),
        normalized=bool(config.get("norm_topk_prob", False)),
    )
    return {**_projected(config, layers), "experts": experts}


def _gemma(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    return {"rotary": _global_rotary(config, 10_000.0)}


def _gemma2(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    return {
        **_windows(config, layers, every=2),
        "rotary": _global_rotary(config, 10_000.0),
        "local_rotary": _global_rotary(config, 10_000.0),
        "attention_softcap": float(config.get("attn_logit_softcapping") or 0.0),
        "softcap": float(config.get("final_logit_softcapping") or 0.0),
    }


def _gemma3(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    local = (config.get("rope_parameters") or {}).get(SLIDING) or {}
    return {
        **_windows(config, layers, every),
        "rotary": _global_rotary(config, 1_000_000.0),
        "local_rotary": _rotary(local, config.get("rope_local_base_freq") or 10_000.0),
        "attention_softcap": float(config.get("attn_logit_softcapping") or 0.0),
        "softcap": float(config.get("final_logit_softcapping") or 0.0),
    }


def _gemma4(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    # Values that transformers 5 leaves out where they are its own.
    rotaries = config.get("rope_parameters") or {
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    }
    same, shared = bool(config.get("attention_k_eq_v")), int(config.get("num_kv_shared_layers") or 0)
    wide = bool(config.get("use_double_wide_mlp")) and shared > 0
    found = {
        **_windows({"sliding_window": 512, **config}, layers, every=6),
        "rotary": _rotary(rotaries[FULL], 1_000_000.0),
        "local_rotary": _rotary(rotaries[SLIDING], 10_000.0),
        "query_scale": 1.0,
        "softcap": float(config.get("final_logit_softcapping") or 0.0),
        "global_head_dim": config.get("global_head_dim", 512) or 0,
        "global_kv_heads": (same and config.get("num_global_key_value_heads")) or 0,
        "keys_are_values": same,
        "shared": shared,
        "shared_mlp": 2 * _needed(config, "intermediate_size") if wide else 0,
        "layer_inputs": int(config.get("hidden_size_per_layer_input", 256) or 0),
        "experts": _gemma4_experts(config),
    }
    _check_gemma4(config, found["local"], shared, found["layer_inputs"])
    return found


def _gemma4_experts(config: Mapping[str, Any]) -> Experts | None:
    if not config.get("enable_moe_block"):
        return None
    names = ("num_experts", "top_k_experts", "moe_intermediate_size")
    return Experts(*(_needed(config, name) for name in names))


def _check_gemma4(config: Mapping[str, Any], local: tuple[bool, ...], shared: int, layer_inputs: int) -> None:
    vocab, own = config.get("vocab_size_per_layer_input", 262_144), len(local) - shared
    if layer_inputs and vocab != config["vocab_size"]:
        raise ModelError(
            f"config.json has vocab_size_per_layer_input={vocab} beside vocab_size={config['vocab_size']}; layers can "
            "be given inputs of the whole vocabulary only"
        )
    if not set(local[own:]) <= set(local[:own]):
        raise ModelError(
            f"config.json shares keys and values over its last {shared} of {len(local)} layers, but no layer before "
            "them is of the kind of each; num_kv_shared_layers or layer_types is wrong"
        )


def _windows(config: Mapping[str, Any], layers: int, every: int) -> dict[str, Any]:
    """Which layers are local, and how scores are scaled; without `layer_types` every `every`-th layer is global."""
    kinds = config.get("layer_types") or [FULL if (layer + 1) % every == 0 else SLIDING for layer in range(layers)]
    return {
        "window": int(config.get("sliding_window") or 4096),
        "local": tuple(kind == SLIDING for kind in kinds),
        "query_scale": float(config.get("query_pre_attn_scalar") or 256) ** -0.5,
    }


KINDS: Mapping[str, tuple[str, Callable[[Mapping[str, Any], int], dict[str, Any]]]] = {
    "qwen3": ("qwen3", _projected),
    "qwen3_moe": ("qwen3_moe", _qwen3_moe),
    "qwen2": ("qwen2", _projected),
    "llama": ("llama3", _projected),
    "gemma": ("gemma", _gemma),
    "gemma2": ("gemma2", _gemma2),
    "gemma3_text": ("gemma3", _gemma3),
    "gemma4_text": ("gemma4", _gemma4),
}
"""`model_type` to the family, and to what else the family reads."""

CLASSES: Mapping[str, str] = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama3": "LlamaForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gemma4": "Gemma4ForCausalLM",
}
"""Classes of transformers."""


# --- Writing ----------------------------------------------------------------------------------------------------------


def _parameters(rotary: Rotary) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.theta}
    if rotary.proportion != 1.0:
        return found | {
            "rope_type": "proportional", "partial_rotary_factor": rotary.proportion, "factor": rotary.factor,
        }  # fmt: skip
    if rotary.factor != 1.0:
        found |= {"rope_type": "linear", "factor": rotary.factor}
    if rotary.llama3 is not None:
        factor, low, high, original = rotary.llama3
        found |= {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high}
        found["original_max_position_embeddings"] = original
    return found


def _rotary_entries(rotary: Rotary) -> dict[str, Any]:
    parameters = _parameters(rotary)
    scaling = {key: value for key, value in parameters.items() if key != "rope_theta"}
    older = {"rope_theta": rotary.theta, "rope_scaling": scaling if len(scaling) > 1 else None}
    return {"rope_parameters": parameters, **older}


def _experts_entries(experts: Experts) -> dict[str, Any]:
    return {
        "num_experts": experts.number,
        "num_local_experts": experts.number,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.mlp,
        "norm_topk_prob": experts.normalized,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gemma_entries(architecture: Architecture) -> dict[str, Any]:
    config: dict[str, Any] = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}
    if architecture.family == "gemma":
        return config | _rotary_entries(architecture.rotary)
    if architecture.family == "gemma4":
        return config | _gemma4_entries(architecture)
    config |= {
        "query_pre_attn_scalar": round(architecture.scores_scale**-2),
        "sliding_window": architecture.window,
        "layer_types": [SLIDING if architecture.is_local(layer) else FULL for layer in range(architecture.layers)],
        "attn_logit_softcapping": architecture.attention_softcap or None,
        "final_logit_softcapping": architecture.softcap or None,
    }
    if architecture.family == "gemma2":
        return config | _rotary_entries(architecture.rotary)
    both = {FULL: _parameters(architecture.rotary), SLIDING: _parameters(architecture.local_rotary)}
    older = _rotary_entries(architecture.rotary)
    older["rope_local_base_freq"] = architecture.local_rotary.theta
    return config | older | {"rope_parameters": both}


def _gemma4_entries(architecture: Architecture) -> dict[str, Any]:
    experts = architecture.experts
    return {
        "sliding_window": architecture.window,
        "layer_types": [SLIDING if architecture.is_local(layer) else FULL for layer in range(architecture.layers)],
        "rope_parameters": {
            FULL: _parameters(architecture.rotary),
            SLIDING: _parameters(architecture.local_rotary),
        },
        "final_logit_softcapping": architecture.softcap or None,
        "global_head_dim": architecture.global_head_dim,
        "num_global_key_value_heads": architecture.global_kv_heads or None,
        "attention_k_eq_v": architecture.keys_are_values,
        "num_kv_shared_layers": architecture.shared,
        "use_double_wide_mlp": bool(architecture.shared_mlp),
        "hidden_size_per_layer_input": architecture.layer_inputs,
        "vocab_size_per_layer_input": architecture.vocab_size,
        "enable_moe_block": experts is not None,
        "num_experts": experts and experts.number,
        "top_k_experts": experts and experts.active,
        "moe_intermediate_size": experts and experts.mlp,
    }
