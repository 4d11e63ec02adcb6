"""Names and layouts of weights: those of Hugging Face, and those of Tunix's trees.

Hugging Face keeps every projection as a matrix `[outputs inputs]`; Tunix keeps heads on an axis of their own, inputs
first, and Gemma's keys and values in one array. Either is the other with axes moved, so the way there and back changes
no bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from agent_tunix.models import Architecture, Experts

Path = tuple[str | int, ...]
Shape = tuple[int, ...]


class Weight(NamedTuple):
    """One array of a parameter tree.

    Attributes:
      path: Where it lies in the tree.
      names: Of the tensors it is made of.
      shape: Of each of these tensors, as Hugging Face has them.
      ours: The array from the tensors.
      theirs: The tensors from the array.
    """

    path: Path
    names: tuple[str, ...]
    shape: Shape
    ours: Callable[[Sequence[Any]], Any]
    theirs: Callable[[Any], list[Any]]


def weights(architecture: Architecture) -> list[Weight]:
    """Every weight of an architecture, the embedding first."""
    sizes = architecture
    width, vocab = sizes.width, sizes.vocab_size
    gemma = sizes.family.startswith("gemma")
    layer_of = _gemma4_layer if sizes.family == "gemma4" else _gemma_layer if gemma else _projected_layer
    found = [_same(("embedder", "input_embedding"), "model.embed_tokens.weight", (vocab, width))]
    found += _layer_inputs(sizes) if sizes.layer_inputs else []
    for layer in range(sizes.layers):
        found += layer_of(sizes.at(layer), layer)
    found.append(_same(("final_norm", "scale" if gemma else "w"), "model.norm.weight", (width,)))
    if not sizes.tied:
        found.append(_matrix(("lm_head", "w"), "lm_head.weight", (width,), (vocab,)))
    return found


# --- Layouts ----------------------------------------------------------------------------------------------------------


def _same(path: Path, name: str, shape: Shape) -> Weight:
    return Weight(path, (name,), shape, lambda tensors: tensors[0], lambda array: [array])


def _matrix(path: Path, name: str, inputs: Shape, outputs: Shape) -> Weight:
    """`[*inputs *outputs]` here, `[outputs inputs]` there, either as one axis."""
    matrix = int(np.prod(outputs)), int(np.prod(inputs))
    return Weight(
        path,
        (name,),
        matrix,
        lambda tensors: tensors[0].T.reshape(*inputs, *outputs),
        lambda array: [array.reshape(matrix[1], matrix[0]).T],
    )


def _heads_first(path: Path, names: Sequence[str], width: int, heads: int, head_dim: int) -> Weight:
    """`[(names) heads width head_dim]` here, matrices `[heads*head_dim width]` there."""

    def ours(tensors: Sequence[Any]) -> Any:
        parts = [tensor.reshape(heads, head_dim, width).swapaxes(1, 2) for tensor in tensors]
        return np.stack(parts) if len(parts) > 1 else parts[0]

    def theirs(array: Any) -> list[Any]:
        parts = array if len(names) > 1 else array[None]
        return [part.swapaxes(1, 2).reshape(heads * head_dim, width) for part in parts]

    return Weight(path, tuple(names), (heads * head_dim, width), ours, theirs)


def _mlp(sizes: Architecture, layer: int) -> list[Weight]:
    def projection(name: str, inputs: int, outputs: int) -> Weight:
        path = ("layers", layer, "mlp", name, "kernel")
        return _matrix(path, f"model.layers.{layer}.mlp.{name}.weight", (inputs,), (outputs,))

    return [
        projection("gate_proj", sizes.width, sizes.mlp),
        projection("up_proj", sizes.width, sizes.mlp),
        projection("down_proj", sizes.mlp, sizes.width),
    ]


def _experts(sizes: Architecture, experts: Experts, layer: int) -> list[Weight]:
    """Experts stacked along a first axis here, a matrix each there."""

    def projection(name: str, inputs: int, outputs: int) -> Weight:
        names = tuple(f"model.layers.{layer}.mlp.experts.{index}.{name}.weight" for index in range(experts.number))
        return Weight(
            ("layers", layer, "mlp", name),
            names,
            (outputs, inputs),
            lambda tensors: np.stack([tensor.T for tensor in tensors]),
            lambda array: [matrix.T for matrix in array],
        )

    router = ("layers", layer, "mlp", "router", "kernel")
    return [
        _matrix(router, f"model.layers.{layer}.mlp.gate.weight", (sizes.width,), (experts.number,)),
        projection("gate_proj", sizes.width, experts.mlp),
        projection("up_proj", sizes.width, experts.mlp),
        projection("down_proj", experts.mlp, sizes.width),
    ]


# --- Layers -----------------------------------------------------------------------------------------------------------


def _projected_layer(sizes: Architecture, layer: int) -> list[Weight]:
    """A layer of Qwen2, Qwen3, its mixtures of experts, or Llama."""
    here, there = ("layers", layer), f"model.layers.{layer}"
    width, dim = sizes.width, sizes.head_dim
    heads = {"q": sizes.heads, "k": sizes.kv_heads, "v": sizes.kv_heads}
    found = [
        _same((*here, name, "w"), f"{there}.{name}.weight", (width,))
        for name in ("input_layernorm", "post_attention_layernorm")
    ]
    for name, number in heads.items():
        their_name = f"{there}.self_attn.{name}_proj"
        found.append(_matrix((*here, "attn", f"{name}_proj", "w"), f"{their_name}.weight", (width,), (number, dim)))
        if sizes.family == "qwen2":
            found.append(_same((*here, "attn", f"{name}_bias"), f"{their_name}.bias", (number * dim,)))
    found.append(
        _matrix((*here, "attn", "o_proj", "w"), f"{there}.self_attn.o_proj.weight", (sizes.heads, dim), (width,))
    )
    if sizes.family.startswith("qwen3"):
        found += [_same((*here, "attn", name, "w"), f"{there}.self_attn.{name}.weight", (dim,)) for name in _QK_NORMS]
    return found + (_mlp(sizes, layer) if sizes.experts is None else _experts(sizes, sizes.experts, layer))


_QK_NORMS = ("q_norm", "k_norm")


def _gemma_layer(sizes: Architecture, layer: int) -> list[Weight]:
    """A layer of Gemma 1, 2 or 3."""
    here, there = ("layers", layer), f"model.layers.{layer}"
    width, dim = sizes.width, sizes.head_dim
    found = [
        _same((*here, our_name, "scale"), f"{there}.{their_name}.weight", (width,))
        for our_name, their_name in _gemma_norms(sizes.family).items()
    ]
    q, k, v = (f"{there}.self_attn.{name}_proj.weight" for name in "qkv")
    if sizes.heads == sizes.kv_heads:
        found.append(_heads_first((*here, "attn", "qkv_einsum", "w"), (q, k, v), width, sizes.heads, dim))
    else:
        found.append(_heads_first((*here, "attn", "q_einsum", "w"), (q,), width, sizes.heads, dim))
        found.append(_heads_first((*here, "attn", "kv_einsum", "w"), (k, v), width, sizes.kv_heads, dim))
    output = (*here, "attn", "attn_vec_einsum", "w")
    found.append(_matrix(output, f"{there}.self_attn.o_proj.weight", (sizes.heads, dim), (width,)))
    if sizes.family == "gemma3":
        names = {"_query_norm": "q_norm", "_key_norm": "k_norm"}
        found += [
            _same((*here, "attn", ours, "scale"), f"{there}.self_attn.{theirs}.weight", (dim,))
            for ours, theirs in names.items()
        ]
    return found + _mlp(sizes, layer)


def _layer_inputs(sizes: Architecture) -> list[Weight]:
    """What layers of Gemma 4 are given besides the stream; all of them in one tensor there."""
    vocab, outputs = sizes.vocab_size, (sizes.layers, sizes.layer_inputs)
    flat = sizes.layers * sizes.layer_inputs
    table = Weight(
        ("embedder", "per_layer_input_embedding"),
        ("model.embed_tokens_per_layer.weight",),
        (vocab, flat),
        lambda tensors: tensors[0].reshape(vocab, *outputs),
        lambda array: [array.reshape(vocab, flat)],
    )
    projection, norm = "per_layer_model_projection", "per_layer_projection_norm"
    return [
        table,
        _matrix(("embedder", projection, "w"), f"model.{projection}.weight", (sizes.width,), outputs),
        _same(("embedder", norm, "scale"), f"model.{norm}.weight", (sizes.layer_inputs,)),
    ]


def _gemma4_layer(sizes: Architecture, layer: int) -> list[Weight]:
    """A layer of Gemma 4; the last ones may have neither keys nor values."""
    here, there = ("layers", layer), f"model.layers.{layer}"
    width, dim, attention = sizes.width, sizes.head_dim, f"{there}.self_attn"
    names = _gemma_norms("gemma4")
    names |= {"post_per_layer_input_norm": "post_per_layer_input_norm"} if sizes.layer_inputs else {}
    names |= _GEMMA4_EXPERT_NORMS if sizes.experts else {}
    found = [_same((*here, ours, "scale"), f"{there}.{theirs}.weight", (width,)) for ours, theirs in names.items()]
    found.append(_same((*here, "skip_scale"), f"{there}.layer_scalar", (1,)))
    q, k, v = (f"{attention}.{name}_proj.weight" for name in "qkv")
    found.append(_heads_first((*here, "attn", "q_einsum", "w"), (q,), width, sizes.heads, dim))
    found.append(_same((*here, "attn", "_query_norm", "scale"), f"{attention}.q_norm.weight", (dim,)))
    if layer < sizes.owning:
        one = sizes.keys_are_values and not sizes.is_local(layer)
        path, names_there = (*here, "attn", "k_einsum" if one else "kv_einsum", "w"), (k,) if one else (k, v)
        found.append(_heads_first(path, names_there, width, sizes.kv_heads, dim))
        found.append(_same((*here, "attn", "_key_norm", "scale"), f"{attention}.k_norm.weight", (dim,)))
    output = (*here, "attn", "attn_vec_einsum", "w")
    found.append(_matrix(output, f"{attention}.o_proj.weight", (sizes.heads, dim), (width,)))
    if sizes.layer_inputs:
        for name, inputs, outputs in (
            ("per_layer_input_gate", width, sizes.layer_inputs),
            ("per_layer_projection", sizes.layer_inputs, width),
        ):
            found.append(_matrix((*here, name, "w"), f"{there}.{name}.weight", (inputs,), (outputs,)))
    return found + _mlp(sizes, layer) + (_gemma4_experts(sizes, sizes.experts, layer) if sizes.experts else [])


_GEMMA4_EXPERT_NORMS = {
    "moe_pre_ffw_norm": "pre_feedforward_layernorm_2",
    "moe_post_ffw_norm": "post_feedforward_layernorm_2",
    "dense_post_ffw_norm": "post_feedforward_layernorm_1",
}


def _gemma4_experts(sizes: Architecture, experts: Experts, layer: int) -> list[Weight]:
    """Experts of Gemma 4, in one tensor there too."""
    here, there = ("layers", layer, "moe"), f"model.layers.{layer}"
    number, mlp, width = experts.number, experts.mlp, sizes.width
    gate_up = Weight(
        (*here, "gating_einsum"),
        (f"{there}.experts.gate_up_proj",),
        (number, 2 * mlp, width),
        lambda tensors: tensors[0].reshape(number, 2, mlp, width),
        lambda array: [array.reshape(number, 2 * mlp, width)],
    )
    down = Weight(
        (*here, "linear"),
        (f"{there}.experts.down_proj",),
        (number, width, mlp),
        lambda tensors: tensors[0].swapaxes(1, 2),
        lambda array: [array.swapaxes(1, 2)],
    )
    return [
        _matrix((*here, "router_logits"), f"{there}.router.proj.weight", (width,), (number,)),
        _same((*here, "router_scale"), f"{there}.router.scale", (width,)),
        _same((*here, "per_expert_scale"), f"{there}.router.per_expert_scale", (number,)),
        gate_up,
        down,
    ]


def _gemma_norms(family: str) -> dict[str, str]:
    """Names of a layer's norms here and there; Gemma 1 has one behind neither attention nor MLP."""
    if family == "gemma":
        return {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"}
    behind_attention = "post_attention_norm" if family in ("gemma3", "gemma4") else "post_attn_norm"
    return {
        "pre_attention_norm": "input_layernorm",
        behind_attention: "post_attention_layernorm",
        "pre_ffw_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
