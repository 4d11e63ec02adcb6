"""Which axes of a family's parameters are cut over the devices of a mesh.

Tunix's own configurations say the same of weights (`ShardingConfig.get_default_sharding` of its models): heads, hidden
units and the vocabulary over `tp`, the axis of the residual stream over `fsdp`, and experts over `fsdp`, so that a
device keeps some of them. Where the rules are not Tunix's:

- Norms, which Tunix cuts over `tp`, are whole on every device: they are small, and cutting them would mean a message
  for each. So are the routers of experts, which Tunix does not cut either.
- Gemma 4's matrices for the inputs of a layer are whole along `tp`: they are narrow, and cut they would cost a third
  message in every layer. Its experts are cut along their hidden units as those of Qwen 3; Tunix cuts their inputs.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from agent_tunix.errors import ModelError

Rules = Sequence[tuple[str, P]]
"""Patterns of whole paths, such as `layers/0/attn/q_proj/w`, and how what they name is cut; the first that fits."""

SHARED: Rules = (
    (r".*/matrices/.*", P()),  # quantised weights, which are whole on every device
    (r".*norm/(w|scale)", P()),
    (r".*/router/kernel", P()),
    (r"embedder/input_embedding", P("tp", "fsdp")),
    (r".*/(gate|up)_proj/kernel", P("fsdp", "tp")),
    (r".*/(gate|up)_proj/kernel_lora_a", P("fsdp", None)),
    (r".*/(gate|up)_proj/kernel_lora_b", P(None, "tp")),
    (r".*/down_proj/kernel", P("tp", "fsdp")),
    (r".*/down_proj/kernel_lora_a", P("tp", None)),
    (r".*/down_proj/kernel_lora_b", P(None, "fsdp")),
    (r".*/mlp/(gate|up)_proj", P("fsdp", None, "tp")),  # of experts
    (r".*/mlp/down_proj", P("fsdp", "tp", None)),
)

PROJECTIONS: Rules = (
    *SHARED,
    (r"lm_head/w", P("fsdp", "tp")),
    (r".*/[qkv]_proj/w", P("fsdp", "tp", None)),
    (r".*/[qkv]_proj/w_lora_a", P("fsdp", None)),
    (r".*/[qkv]_proj/w_lora_b", P(None, "tp", None)),
    (r".*/[qkv]_bias", P("tp")),
    (r".*/o_proj/w", P("tp", None, "fsdp")),
    (r".*/o_proj/w_lora_a", P("tp", None, None)),
    (r".*/o_proj/w_lora_b", P(None, "fsdp")),
)
"""Of Qwen2, Qwen3 and Llama, `[width heads head_dim]`."""

EINSUMS: Rules = (
    *SHARED,
    (r".*/[qk]_einsum/w", P("tp", "fsdp", None)),
    (r".*/[qk]_einsum/w_lora_b", P(None, "tp", None)),
    (r".*/(kv|qkv)_einsum/w", P(None, "tp", "fsdp", None)),
    (r".*/(kv|qkv)_einsum/w_lora_b", P(None, None, "tp", None)),
    (r".*/(q|k|kv|qkv)_einsum/w_lora_a", P("fsdp", None)),
    (r".*/attn_vec_einsum/w", P("tp", None, "fsdp")),
    (r".*/attn_vec_einsum/w_lora_a", P("tp", None, None)),
    (r".*/attn_vec_einsum/w_lora_b", P(None, "fsdp")),
)
"""Of Gemma, `[heads width head_dim]`."""

GEMMA4: Rules = (
    *EINSUMS,
    (r".*/(skip_scale|router_scale|per_expert_scale|router_logits)", P()),
    (r"embedder/per_layer_input_embedding", P("tp", None, "fsdp")),
    (r"embedder/per_layer_model_projection/w", P("fsdp", None, None)),
    (r".*/per_layer_input_gate/w", P("fsdp", None)),
    (r".*/per_layer_projection/w", P(None, "fsdp")),
    (r".*/moe/gating_einsum", P("fsdp", None, "tp", None)),
    (r".*/moe/linear", P("fsdp", "tp", None)),
)
"""Of Gemma 4, with inputs per layer, and experts `[experts 2 mlp width]` and `[experts mlp width]`."""


def specs(rules: Rules, tree: Any, axes: Mapping[str, int]) -> Any:
    """How the arrays of a tree are cut; an axis that the devices do not divide stays whole.

    Args:
      rules: Of the family.
      tree: Parameters or low-rank factors, or their shapes.
      axes: Devices along the axes of the mesh.

    Returns:
      The tree with a `PartitionSpec` for every array.

    Raises:
      ModelError: If no rule is about a parameter.
    """

    def spec(path: Any, leaf: Any) -> P:
        wanted = rule(rules, jax.tree_util.keystr(path, simple=True, separator="/"))
        return P(*(_fitting(name, size, axes) for name, size in zip(wanted, leaf.shape, strict=False)))

    return jax.tree_util.tree_map_with_path(spec, tree)


def rule(rules: Rules, path: str) -> P:
    """The first rule about a parameter.

    Raises:
      ModelError: If there is none.
    """
    for pattern, wanted in rules:
        if re.fullmatch(pattern, path):
            return wanted
    raise ModelError(
        f"no rule says how `{path}` is cut over a mesh; write one in agent_tunix.models, or take mesh=dataN"
    )


def _fitting(name: str | None, size: int, axes: Mapping[str, int]) -> str | None:
    devices = axes.get(name, 1) if name is not None else 1
    return name if devices > 1 and size % devices == 0 else None
