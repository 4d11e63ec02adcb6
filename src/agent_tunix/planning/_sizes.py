"""Sizes of decoders, and the sizes of the models that Tunix knows by name."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent_tunix.errors import ConfigError, unknown


class Sizes(NamedTuple):
    """What the arithmetic needs to know of a decoder.

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
    """

    vocab_size: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    tied: bool = True
    experts: int = 1
    active_experts: int = 1
    vectors: int = 0

    @property
    def attention_width(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim

    @property
    def qkv(self) -> int:
        """Entries of the query, key and value projections of a layer."""
        return self.width * (self.attention_width + 2 * self.kv_width)

    @property
    def expert(self) -> int:
        """Entries of the three matrices of an MLP, or of one expert."""
        return 3 * self.width * self.mlp

    @property
    def router(self) -> int:
        """Entries of the matrix that chooses experts."""
        return self.width * self.experts if self.experts > 1 else 0

    @property
    def matrices(self) -> int:
        """Entries of all matrices of a layer."""
        return self.qkv + self.attention_width * self.width + self.experts * self.expert + self.router

    @property
    def active_matrices(self) -> int:
        """Entries of the matrices that one token passes in a layer."""
        return self.qkv + self.attention_width * self.width + self.active_experts * self.expert + self.router

    @property
    def embedding(self) -> int:
        """Entries of the embedding."""
        return self.vocab_size * self.width

    @property
    def parameters(self) -> int:
        """All parameters, a norm at the end included."""
        return self.layers * (self.matrices + self.vectors) + self.width + self.embedding * (1 if self.tied else 2)

    @property
    def projections(self) -> int:
        """Entries of all matrices that low-rank factors stand beside."""
        return self.layers * (self.matrices - self.router)

    def adapters(self, rank: int) -> int:
        """Parameters of low-rank factors beside the seven projections of every layer.

        Args:
          rank: Of the factors.
        """
        attention = 2 * (self.width + self.attention_width) + 2 * (self.width + self.kv_width)
        return self.layers * rank * (attention + 3 * self.experts * (self.width + self.mlp))


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


FAMILIES: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "qwen3": _qwen3,
    "qwen2": _qwen2,
    "llama3": _llama3,
    "gemma": _gemma,
    "gemma3": _gemma3,
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
    return Sizes(**common, **heads, **FAMILIES[family](config))


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
