"""Names and layouts of weights: those of Hugging Face, and those of Tunix's trees.

Hugging Face keeps every projection as a matrix `[outputs inputs]`; Tunix keeps heads on an axis of their own, inputs
first, and Gemma's keys and values in one array. Either is the other with axes moved, so the way there and back changes
no bit.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from agent_tunix.models import Architecture

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
    found = [_same(("embedder", "input_embedding"), "model.embed_tokens.weight", (vocab, width))]
    for layer in range(sizes.layers):
        found += (_gemma_layer if gemma else _projected_layer)(sizes, layer)
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


# --- Layers -----------------------------------------------------------------------------------------------------------


def _projected_layer(sizes: Architecture, layer: int) -> list[Weight]:
    """A layer of Qwen2, Qwen3 or Llama."""
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
    if sizes.family == "qwen3":
        found += [_same((*here, "attn", name, "w"), f"{there}.self_attn.{name}.weight", (dim,)) for name in _QK_NORMS]
    return found + _mlp(sizes, layer)


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


def _gemma_norms(family: str) -> dict[str, str]:
    """Names of a layer's norms here and there; Gemma 1 has one behind neither attention nor MLP."""
    if family == "gemma":
        return {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"}
    behind_attention = "post_attention_norm" if family == "gemma3" else "post_attn_norm"
    return {
        "pre_attention_norm": "input_layernorm",
        behind_attention: "post_attention_layernorm",
        "pre_ffw_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
