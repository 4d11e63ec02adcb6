"""FLOPs of matrix products and bytes through memory, on one device and for one batch.

A product of `[m k]` and `[k n]` is 2mnk FLOPs. Elementwise work is left out: XLA counts it, and it adds one or two
percent (`tests/test_planning.py` compares). Prompts are computed once for their group; of the last layer their keys and
values alone are needed. Causal masks save nothing, since the scores of a masked attention are computed whole.

Bytes are those of a program whose every stored intermediate is written once and read once: an idealisation that no
compiler reaches or is bound by, good for telling what is limited by memory.
"""

from dataclasses import dataclass
from itertools import pairwise

from agent_tunix import sampling
from agent_tunix.models._head import MAX_LOGITS
from agent_tunix.planning._setting import Setting

STORED = {"width": 6.0, "queries": 5.5, "keys": 4.0, "mlp": 5.0, "scores": 1.2}
"""Numbers that one layer keeps per token for its gradient, in widths of the stream, of queries, of keys and values, of
the MLP, and in scores. Fitted to what XLA keeps for the gradient of our forward pass over eleven shapes, to 2 %."""
LOGIT_COPIES = 3
"""Arrays of the size of the logits that a step of decoding writes: logits, weights, cumulative weights."""


@dataclass(frozen=True)
class Work:
    """What a device has to do.

    Attributes:
      flops: Of matrix products.
      bytes: To and from memory.
    """

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        """One after the other."""
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, number: float) -> "Work":
        """The same, `number` times."""
        return Work(self.flops * number, self.bytes * number)


def stored(setting: Setting, context: float) -> float:
    """Numbers that one layer computes for one token on one device, and keeps where a gradient follows.

    Args:
      setting: The step.
      context: Tokens it attends to.
    """
    sizes = setting.sizes
    shared = STORED["queries"] * sizes.attention_width + STORED["keys"] * sizes.kv_width
    shared += STORED["mlp"] * sizes.inner + STORED["scores"] * sizes.heads * context
    return STORED["width"] * sizes.width + shared / setting.mesh.tp


def working(setting: Setting, context: float) -> float:
    """Numbers that are alive at once for one token where no gradient follows: in the MLP or in attention.

    Args:
      setting: The step.
      context: Tokens it attends to.
    """
    sizes, tp = setting.sizes, setting.mesh.tp
    attention = sizes.attention_width + 2 * sizes.kv_width + 1.5 * sizes.heads * context
    return sizes.width + max(3 * sizes.inner, attention) / tp


def weight_bytes(setting: Setting) -> float:
    """One device's weights in the data type they are computed in, gathered over `fsdp`."""
    return setting.sizes.parameters * setting.width_bytes / setting.mesh.tp


def prefix_forward(setting: Setting, prompts: float) -> Work:
    """Keys and values of all prompt tokens but the last.

    Args:
      setting: The step.
      prompts: How many.
    """
    sizes, tokens = setting.sizes, setting.prompt_tokens - 1
    layer = 2 * sizes.active_matrices + 4 * sizes.attention_width * tokens
    flops = prompts * tokens * ((sizes.layers - 1) * layer + 2 * sizes.qkv)
    written = prompts * tokens * sizes.layers * stored(setting, tokens)
    return Work(flops / setting.mesh.tp, 2 * written * setting.width_bytes)


def completion_forward(setting: Setting, completions: float) -> Work:
    """Features of teacher-forced completions over the keys and values of their prompts.

    Args:
      setting: The step.
      completions: How many.
    """
    sizes, tokens = setting.sizes, setting.completion_tokens
    context = setting.prompt_tokens - 1 + tokens
    layer = 2 * sizes.active_matrices + 4 * sizes.attention_width * context
    written = completions * tokens * sizes.layers * stored(setting, context)
    return Work(
        completions * tokens * sizes.layers * layer / setting.mesh.tp,
        2 * written * setting.width_bytes,
    )


def head(setting: Setting, tokens: float) -> Work:
    """Logits and log-probabilities of tokens, in float32.

    Args:
      setting: The step.
      tokens: How many.
    """
    sizes, tp = setting.sizes, setting.mesh.tp
    return Work(2 * sizes.embedding * tokens / tp, 2 * 4 * sizes.vocab_size * tokens / tp)


def _touched(setting: Setting, rows: float) -> float:
    """Bytes of the weights that a step of decoding reads: those of the experts that any row visits."""
    sizes = setting.sizes
    visited = sizes.experts * (1 - (1 - sizes.active_experts / sizes.experts) ** rows)
    idle = sizes.layers * (sizes.experts - visited) * sizes.expert
    embedding = 0 if sizes.tied else sizes.embedding
    return (sizes.parameters - embedding - sizes.tables - idle) * setting.width_bytes / setting.mesh.tp


def decode(setting: Setting, prompts: float) -> Work:
    """Every completion of some prompts, token after token.

    Args:
      setting: The step.
      prompts: How many are decoded together.
    """
    sizes, steps, tp = setting.sizes, setting.completion_tokens, setting.mesh.tp
    rows, prefix = prompts * setting.group_size, setting.prompt_tokens - 1
    context = prefix + cached(setting)
    flops = rows * (sizes.layers * (2 * sizes.active_matrices + 4 * sizes.attention_width * context))
    flops += rows * 2 * sizes.embedding
    cache = 2 * sizes.layers * sizes.kv_width * (prompts * prefix + rows * cached(setting)) * setting.width_bytes / tp
    logits = 2 * LOGIT_COPIES * 4 * rows * sizes.vocab_size / tp
    return Work(flops / tp, _touched(setting, rows) + cache + logits).times(steps)


def cached(setting: Setting) -> float:
    """Slots of the completion cache that a step of decoding reads, on average: it grows segment by segment."""
    ends = sampling.segments(setting.completion_tokens)
    return sum((end - start) * end for start, end in pairwise([0, *ends])) / setting.completion_tokens


def rollout(setting: Setting) -> Work:
    """Sampling one batch."""
    parts, prompts = setting.rollout_parts, setting.local_prompts / setting.rollout_parts
    part = prefix_forward(setting, prompts) + Work(0, weight_bytes(setting)) + decode(setting, prompts)
    return part.times(parts)


def forward(setting: Setting) -> Work:
    """Teacher-forced features of one batch, its weights read once per portion."""
    portions = setting.minibatches * setting.microbatches
    completions = setting.local_prompts * setting.group_size
    tokens = prefix_forward(setting, setting.local_prompts) + completion_forward(setting, completions)
    return tokens + Work(0, weight_bytes(setting)).times(portions)


def _batch_head(setting: Setting) -> Work:
    return head(setting, setting.local_prompts * setting.group_size * setting.completion_tokens)


def reference(setting: Setting) -> Work:
    """Log-probabilities of one batch under the reference, where one is needed."""
    return forward(setting) + _batch_head(setting) if setting.reference else Work()


def optimizer(setting: Setting) -> Work:
    """One update of AdamW: parameter, gradient and two moments read, all but the gradient written, in float32."""
    return Work(0, 7 * 4 * setting.trainable / setting.mesh.fsdp / setting.mesh.tp)


def update(setting: Setting) -> Work:
    """All updates made of one batch: the forward pass, its gradient (twice the work), the optimizer.

    Rematerialisation adds one more forward pass through the layers. The head has three products where its logits are
    held (logits, their mean row, the gradient of the unembedding), and the first again where they are too many.
    Gradients are float32; every portion adds to them.
    """
    portions = setting.minibatches * setting.microbatches
    layers = forward(setting).times(4 if setting.remat else 3)
    logits = _batch_head(setting).times(4 if chunked(setting) else 3)
    gradients = Work(0, 2 * 4 * setting.trainable / setting.mesh.tp).times(portions)
    return (layers + logits + gradients + optimizer(setting).times(setting.minibatches)).times(setting.passes)


def chunked(setting: Setting) -> bool:
    """Whether the logits of a bucket are cut, and then computed a second time for their gradient."""
    completions = setting.local_prompts * setting.group_size / setting.minibatches / setting.microbatches
    return completions * setting.completion_tokens * setting.sizes.vocab_size / setting.mesh.tp > MAX_LOGITS
