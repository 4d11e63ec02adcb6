"""`config.json` of a model folder as an `Architecture`, and back."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent_tunix.errors import ModelError, unknown
from agent_tunix.models import Architecture, Llama3Scaling, Rotary

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
    if kind == "gemma3" and "text_config" in config:
        return architecture_of({"tie_word_embeddings": True, **config["text_config"], "model_type": "gemma3_text"})
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
        (config.get("use_bidirectional_attention"), "use_bidirectional_attention=true"),
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
    if kind == "linear":
        return Rotary(theta, factor=float(parameters["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return Rotary(theta, llama3=Llama3Scaling(*(parameters[name] for name in names)))
    raise ModelError(unknown("kind of rotary positions in config.json", kind, ("default", "linear", "llama3")))


def _global_rotary(config: Mapping[str, Any], default: float) -> Rotary:
    parameters = config.get("rope_parameters") or {}
    if FULL in parameters:
        return _rotary(parameters[FULL], default)
    return _rotary(parameters or config.get("rope_scaling") or {}, config.get("rope_theta") or default)


def _projected(config: Mapping[str, Any], layers: int) -> dict[str, Any]:
    return {"tied": bool(config.get("tie_word_embeddings", False)), "rotary": _global_rotary(config, 10_000.0)}


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
    "qwen2": ("qwen2", _projected),
    "llama": ("llama3", _projected),
    "gemma": ("gemma", _gemma),
    "gemma2": ("gemma2", _gemma2),
    "gemma3_text": ("gemma3", _gemma3),
}
"""`model_type` to the family, and to what else the family reads."""

CLASSES: Mapping[str, str] = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama3": "LlamaForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
"""Classes of transformers."""


# --- Writing ----------------------------------------------------------------------------------------------------------


def _parameters(rotary: Rotary) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": rotary.theta}
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


def _gemma_entries(architecture: Architecture) -> dict[str, Any]:
    config: dict[str, Any] = {"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"}
    if architecture.family == "gemma":
        return config | _rotary_entries(architecture.rotary)
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
