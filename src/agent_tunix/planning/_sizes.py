"""Sizes of decoders, and the sizes of the models that Tunix knows by name."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent_tunix.errors import ConfigError, unknown


class Sizes(NamedTuple):
    """What the arithmetic needs to know of a decoder; where layers differ, their mean, since all of it is linear.

    Attributes:
      vocab_size: Tokens of the vocabulary.
      layers: Decoder layers.
      width: Of the residual stream.
      heads: Query heads.
      kv_heads: Heads of keys and values.
      head_dim: Of a head.
      mlp: Inner width of the gated MLP, or of one expert.
      tied: Whether embedding and unembedding are one matrix.
      experts: Experts of a layer; 1 is a dense MLP.
      active_experts: Experts that a token visits.
      vectors: Parameters of a layer that are in no matrix: scales of norms, biases.
      keys_values: Width of what keys and values are projected to, together; 0 is twice the width of all key heads.
      dense: Inner width of an MLP beside the experts.
      beside: Entries of further matrices of a layer.
      tables: Parameters outside of layers besides embedding and unembedding.
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: float
    head_dim: float
    mlp: float
    tied: bool = True
    experts: int = 1
    active_experts: int = 1
    vectors: float = 0
    keys_values: float = 0
    dense: float = 0
    beside: int = 0
    tables: int = 0

    @property
    def attention_width(self) -> float:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> float:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim

    @property
    def qkv(self) -> float:
        """Entries of the query, key and value projections of a layer."""
        return self.width * (self.attention_width + (self.keys_values or 2 * self.kv_width))

    @property
    def inner(self) -> float:
        """Inner width of all that a token passes in place of one MLP."""
        return self.active_experts * self.mlp + self.dense

    @property
    def branches(self) -> int:
        """What a layer adds up over `tp`: attention, the MLP or the experts, and an MLP beside the experts."""
        return 3 if self.experts > 1 and self.dense else 2

    @property
    def expert(self) -> float:
        """Entries of the three matrices of an MLP, or of one expert."""
        return 3 * self.width * self.mlp

    @property
    def router(self) -> int:
        """Entries of the matrix that chooses experts."""
        return self.width * self.experts if self.experts > 1 else 0

    @property
    def matrices(self) -> float:
        """Entries of all matrices of a layer."""
        return self.active_matrices + (self.experts - self.active_experts) * self.expert

    @property
    def active_matrices(self) -> float:
        """Entries of the matrices that one token passes in a layer."""
        attention, mlp = self.qkv + self.attention_width * self.width, 3 * self.width * self.inner
        return attention + mlp + self.router + self.beside

    @property
    def embedding(self) -> int:
        """Entries of the embedding."""
        return self.vocab_size * self.width

    @property
    def parameters(self) -> int:
        """All parameters, a norm at the end included."""
        layers = round(self.layers * (self.matrices + self.vectors))
        return layers + self.width + self.embedding * (1 if self.tied else 2) + self.tables

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes, embedding and unembedding included."""
        return round(self.parameters - self.layers * (self.matrices - self.active_matrices))

    @property
    def projections(self) -> int:
        """Entries of all matrices that low-rank factors stand beside; experts have none."""
        without = self.router + self.beside + (self.experts * self.expert if self.experts > 1 else 0)
        return round(self.layers * (self.matrices - without))

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank factors beside the projections of every layer; experts have none.

        Args:
          rank: Of the factors.
        """
        attention = 2 * (self.width + self.attention_width) + 2 * (self.width + self.kv_width)
        dense = self.mlp if self.experts == 1 else self.dense
        return round(self.layers * rank * (attention + (3 * (self.width + dense) if dense else 0)))


def _qwen3(config: Any) -> dict[str, Any]:
    experts = {"experts": config.num_experts, "active_experts": config.num_experts_per_tok}
    return {
        "tied": config.use_tied_embedding,
        "vectors": 2 * config.embed_dim + 2 * config.head_dim,
        **(experts if config.num_experts else {}),
    }


def _qwen2(config: Any) -> dict[str, Any]:
    biases = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    return {"tied": config.use_tied_embedding, "vectors": 2 * config.embed_dim + biases}


def _llama3(config: Any) -> dict[str, Any]:
    return {"tied": config.weight_tying, "vectors": 2 * config.embed_dim}


def _gemma(config: Any) -> dict[str, Any]:
    return {"vectors": (2 + config.use_post_attn_norm + config.use_post_ffw_norm) * config.embed_dim}


def _gemma3(config: Any) -> dict[str, Any]:
    return {"vectors": 4 * config.embed_dim + 2 * config.head_dim}


def _gemma4(config: Any) -> dict[str, Any]:
    """Means over layers, which differ in heads, in whether they have keys and values, and in their MLP."""
    pattern = [kind.name == "GLOBAL" for kind in config.attention_pattern]
    everywhere = [pattern[layer % len(pattern)] for layer in range(config.num_layers)]
    own = config.num_layers - round(config.frac_shared_layers * config.num_layers)
    dims = [config.global_key_size if sees_all else config.head_dim for sees_all in everywhere]
    kv_heads = [config.num_global_kv_heads or config.num_kv_heads if one else config.num_kv_heads for one in everywhere]
    kv = [dim * heads for dim, heads in zip(dims[:own], kv_heads, strict=False)]
    projected = [
        width if sees_all and config.k_eq_v_global else 2 * width
        for width, sees_all in zip(kv, everywhere, strict=False)
    ]
    hidden = own * config.hidden_dim + (config.num_layers - own) * (
        config.override_kv_shared_ffw_hidden or config.hidden_dim
    )
    inputs, width, layers = config.per_layer_input_dim, config.embed_dim, config.num_layers
    vectors = layers * (4 * width + 1 + (width if inputs else 0)) + sum(dims) + sum(dims[:own])
    experts = {}
    if config.enable_moe:
        vectors += layers * (4 * width + config.num_experts)  # three norms, the scale of the router, those of experts
        experts = {"experts": config.num_experts, "active_experts": config.num_experts_per_tok}
        experts |= {"mlp": config.expert_dim, "dense": hidden / layers}
    return {
        "head_dim": sum(dims) / layers,
        "kv_heads": sum(kv) / sum(dims),
        "mlp": hidden / layers,
        "keys_values": sum(projected) / layers,
        "vectors": vectors / layers,
        "beside": 2 * width * inputs,
        "tables": inputs * (layers * (config.num_embed + width) + 1),
        **experts,
    }


FAMILIES: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "qwen3": _qwen3,
    "qwen2": _qwen2,
    "llama3": _llama3,
    "gemma": _gemma,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
}
"""Modules of `tunix.models`, and what of their sizes is said in another way in each."""


CORRECTED: Mapping[str, Mapping[str, int]] = {"gemma2_9b": {"mlp": 14_336}}
"""Sizes that Tunix 0.1.7 has wrong: its MLP of this model is twice as wide as that of the published weights."""


def from_tunix(family: str, config: Any) -> Sizes:
    """The sizes of one of Tunix's model configs.

    Args:
      family: A key of `FAMILIES`.
      config: A `ModelConfig` of that family.
    """
    vocab = config.num_embed if hasattr(config, "num_embed") else config.vocab_size
    common = {"vocab_size": vocab, "layers": config.num_layers, "width": config.embed_dim, "mlp": config.hidden_dim}
    heads = {"heads": config.num_heads, "kv_heads": config.num_kv_heads, "head_dim": config.head_dim}
    return Sizes(**common | heads | FAMILIES[family](config))


@functools.cache
def tunix_models() -> Mapping[str, tuple[str, Callable[[], Any]]]:
    """Every model that Tunix names: its family and the function that gives its config."""
    found: dict[str, tuple[str, Callable[[], Any]]] = {}
    for family in FAMILIES:
        kind = importlib.import_module(f"tunix.models.{family}.model").ModelConfig
        for name, member in inspect.getmembers(kind, inspect.ismethod):
            if not name.startswith("_"):
                found[name] = family, member
    return found


def model_sizes(name: str) -> Sizes:
    """The sizes of a model, read from Tunix's own config of it.

    Args:
      name: As Tunix has it, such as `qwen3_8b`, `llama3p1_8b` or `gemma2_2b`.

    Raises:
      ConfigError: If Tunix has no model of that name.
    """
    if name not in tunix_models():
        raise ConfigError(unknown("model", name, tunix_models()))
    family, config = tunix_models()[name]
    return from_tunix(family, config())._replace(**CORRECTED.get(name.removesuffix("_it"), {}))
