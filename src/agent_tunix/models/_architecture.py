"""What a decoder's parameters do not tell: its sizes, its family and the constants of its layers."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Llama3Scaling(NamedTuple):
    """How Llama 3.1 and later stretch rotary positions to long contexts: slow frequencies only.

    Attributes:
      factor: What frequencies slower than `original_tokens / low` are divided by.
      low: Turns over the original context below which a frequency counts as slow.
      high: Turns above which it stays as it is; between the two it is interpolated.
      original_tokens: Context that the model was first trained on.
    """

    factor: float
    low: float
    high: float
    original_tokens: int


class Rotary(NamedTuple):
    """Frequencies of rotary positions.

    Attributes:
      theta: Base of the wavelengths.
      factor: What positions are divided by (linear scaling).
      llama3: Scaling by frequency, or None.
      proportion: Share of a head that is rotated, its fastest frequencies; the rest does not know its position.
    """

    theta: float = 1_000_000.0
    factor: float = 1.0
    llama3: Llama3Scaling | None = None
    proportion: float = 1.0

    def frequencies(self, head_dim: int) -> Float[Array, " half"]:
        """Radians per position, from fast to slow, in float32."""
        found = self.theta ** (-2.0 * jnp.arange(head_dim // 2, dtype=jnp.float32) / head_dim)
        if self.proportion != 1.0:
            found = jnp.where(jnp.arange(head_dim // 2) < int(self.proportion * head_dim // 2), found, 0.0)
        if self.factor != 1.0:
            found = found / self.factor
        if self.llama3 is None:
            return found
        factor, low, high, original = self.llama3
        turns = original * found / (2 * jnp.pi)
        kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        return kept * found + (1 - kept) * found / factor


class Experts(NamedTuple):
    """A mixture of experts in every layer.

    Attributes:
      number: Experts of a layer.
      active: Experts that a token is sent to.
      mlp: Hidden units of each.
      normalized: Whether the weights of a token's experts are made to sum to one.
    """

    number: int
    active: int
    mlp: int
    normalized: bool = True


class Architecture(NamedTuple):
    """Sizes and constants of a decoder; by default of a Qwen3 with tied embeddings.

    Attributes:
      vocab_size: Rows of the embedding.
      layers: Number of layers.
      width: Of the residual stream.
      heads: Query heads.
      kv_heads: Key-value heads, a divisor of `heads`.
      head_dim: Of each head.
      mlp: Hidden units of the MLP; where experts take its place, what `config.json` says of it, which nothing reads.
      family: A name in `agent_tunix.models.FAMILIES`.
      tied: Whether embedding and unembedding are one matrix.
      rotary: Positions, of layers that see everything.
      norm_eps: Added to the mean square in norms.
      window: Tokens that local layers see, themselves included; 0 where there are none.
      local: Which layers are local, one entry per layer, or empty.
      local_rotary: Positions in local layers.
      query_scale: What scores are multiplied by; 0 is `head_dim ** -0.5`.
      attention_softcap: Bound of attention scores by a hyperbolic tangent; 0 leaves them.
      softcap: The same for logits.
      experts: A mixture of experts in place of the MLP, or beside it (Gemma 4), or None.
      global_head_dim: Of heads in layers that see everything; 0 is `head_dim`.
      global_kv_heads: Key-value heads there; 0 is `kv_heads`.
      keys_are_values: Whether values there are the projected keys.
      shared: Last layers that attend to the keys and values of the last earlier layer of their kind.
      shared_mlp: Hidden units of the MLP in these; 0 is `mlp`.
      layer_inputs: Width of what every layer is given of each token besides the stream; 0 is nothing.
    """

    vocab_size: int
    layers: int = 2
    width: int = 64
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    mlp: int = 256
    family: str = "qwen3"
    tied: bool = True
    rotary: Rotary = Rotary()
    norm_eps: float = 1e-6
    window: int = 0
    local: tuple[bool, ...] = ()
    local_rotary: Rotary = Rotary(10_000.0)
    query_scale: float = 0.0
    attention_softcap: float = 0.0
    softcap: float = 0.0
    experts: Experts | None = None
    global_head_dim: int = 0
    global_kv_heads: int = 0
    keys_are_values: bool = False
    shared: int = 0
    shared_mlp: int = 0
    layer_inputs: int = 0

    @property
    def scores_scale(self) -> float:
        """What products of queries and keys are multiplied by."""
        return self.query_scale or self.head_dim**-0.5

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees no further back than the window."""
        return bool(self.local) and self.local[layer]

    @property
    def owning(self) -> int:
        """Layers with keys and values of their own; the first ones."""
        return self.layers - self.shared

    def source(self, layer: int) -> int:
        """The layer whose keys and values a layer attends to."""
        if layer < self.owning:
            return layer
        return max(index for index in range(self.owning) if self.is_local(index) == self.is_local(layer))

    def at(self, layer: int) -> "Architecture":
        """The same with the heads and the MLP of one layer."""
        found = self._replace(mlp=self.shared_mlp or self.mlp) if layer >= self.owning else self
        if self.is_local(layer):
            return found
        head_dim, kv_heads = self.global_head_dim or self.head_dim, self.global_kv_heads or self.kv_heads
        return found._replace(head_dim=head_dim, kv_heads=kv_heads)
