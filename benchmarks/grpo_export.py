"""The initial weights of `grpo_step.py` for engines that are not on JAX, and what shows that they compute the same.

Runs in the environment of this package; the names and layouts are those of `Qwen3ForCausalLM` in Hugging Face's
transformers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from grpo_engines import architecture_of
from grpo_workloads import SEED, Workload, prompt_ids, tensors_sha256
from side_by_side import Turns


def run_export(workload: Workload, folder: Path, turns: Turns) -> None:
    """Writes the initial weights under the names that Hugging Face's Qwen3 gives them.

    Args:
      workload: Shapes.
      folder: Where `model.safetensors`, `config.json` and `origin.json` go. The last has the hash of the weights that
        our engines report, the hash of what was written, and the log-probabilities of one prompt's tokens under Tunix's
        module, by which an engine shows that it computes the same function.
      turns: Handshake; there is no step.
    """
    import jax
    import jax.numpy as jnp
    from safetensors.numpy import save_file

    from agent_tunix import models

    architecture = architecture_of(workload)
    params = models.initial_params(architecture, SEED)
    tensors = hugging_face(jax.tree.map(np.asarray, params))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(hugging_face_config(workload)))
    ids = prompt_ids(workload)
    mask = jnp.tril(jnp.ones((1, len(ids), len(ids)), bool))
    module = models.tunix_module(architecture, params)
    logits, _ = module(jnp.asarray([ids]), jnp.arange(len(ids))[None], None, mask)
    logprobs = jax.nn.log_softmax(logits[0, :-1])[jnp.arange(len(ids) - 1), jnp.asarray(ids[1:])]
    origin = {
        "params_sha256": models.params_sha256(params),
        "tensors_sha256": tensors_sha256(tensors),
        "logprobs": [float(value) for value in logprobs],
    }
    (folder / "origin.json").write_text(json.dumps(origin))
    turns.wait({})
    turns.finish({})


def hugging_face(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our tree of parameters as the tensors of `Qwen3ForCausalLM`, whose matrices are `[outputs inputs]`."""
    tensors = {
        "model.embed_tokens.weight": params["embedder"]["input_embedding"],
        "model.norm.weight": params["final_norm"]["w"],
    }
    for index, layer in params["layers"].items():
        attention, mlp = layer["attn"], layer["mlp"]
        width = attention["q_proj"]["w"].shape[0]
        weights = {
            "input_layernorm": layer["input_layernorm"]["w"],
            "post_attention_layernorm": layer["post_attention_layernorm"]["w"],
            "self_attn.q_norm": attention["q_norm"]["w"],
            "self_attn.k_norm": attention["k_norm"]["w"],
            "self_attn.o_proj": attention["o_proj"]["w"].reshape(-1, width).T,
        }
        weights |= {
            f"self_attn.{name}": attention[name]["w"].reshape(width, -1).T for name in ("q_proj", "k_proj", "v_proj")
        }
        weights |= {f"mlp.{name}": mlp[name]["kernel"].T for name in ("gate_proj", "up_proj", "down_proj")}
        tensors |= {f"model.layers.{index}.{name}.weight": value for name, value in weights.items()}
    return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def hugging_face_config(workload: Workload) -> dict[str, Any]:
    """`config.json` of the same architecture; base of the rotation and epsilon as in Tunix's module."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": workload.vocab_size,
        "hidden_size": workload.width,
        "intermediate_size": workload.mlp,
        "num_hidden_layers": workload.layers,
        "num_attention_heads": workload.heads,
        "num_key_value_heads": workload.kv_heads,
        "head_dim": workload.head_dim,
        "max_position_embeddings": workload.prompt_tokens + workload.completion_tokens,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "dtype": "float32",
    }
