"""The workloads of `grpo_step.py`: shapes, prompts, lengths, reward, and the arithmetic that a step cannot do without.

Read by the measuring process, by the workers of this package and by those that run in another library's environment, so
it needs NumPy alone.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

KL_COEFFICIENT = 0.04
EPSILON = 0.2
TEMPERATURE = 1.0
SEED = 0
ADAMW = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 1.0}
"""Given to every engine: AdamW behind a clip of the gradient's norm, at a constant rate from the first update on."""

BEGIN = 1
"""Id that begins a prompt; not 0, which Tunix's sampler takes for none."""
PAD, STOP = 0, 2
"""Ids of ragged workloads; with fixed lengths both lie outside the vocabulary and cannot be sampled."""
FIRST_ORDINARY = 3
"""Prompts are made of the ids from here on; the first of them tells which row it is."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """Shapes of one step: a Qwen3 decoder with tied embeddings, and prompts of one length.

    Attributes:
      prompt_tokens: Length of every prompt, beginning-of-sequence token included.
      completion_tokens: Length of every completion, or the longest one if `mean_tokens` is given.
      prompts: Per batch.
      group_size: Completions per prompt.
      mean_tokens: Mean of the geometric lengths of ragged completions, the stop token included; 0 for fixed lengths.
      metric: What the engines are compared by: `seconds` per step, or `peak_memory_gb`.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab_size: int
    prompt_tokens: int
    completion_tokens: int
    prompts: int
    group_size: int
    mean_tokens: int = 0
    metric: str = "seconds"

    @property
    def rows(self) -> int:
        """Different prompts: sixteen batches of them, or as many as have a first token of their own."""
        most = min(16 * self.prompts, self.vocab_size - FIRST_ORDINARY)
        return most // self.prompts * self.prompts

    def batch(self, number: int) -> list[int]:
        """The rows of a batch, counted from 0; they come in order and begin anew after the last."""
        start = number * self.prompts % self.rows
        return list(range(start, start + self.prompts))

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each completion, `[rows group_size]`, stop token included: the same for every engine.

        At every token a ragged completion ends with probability `1 / mean_tokens`, and at `completion_tokens` it is cut
        off. Drawn beforehand, whatever a model says, so that every engine samples and trains on equally many tokens.
        """
        shape = (self.rows, self.group_size)
        if not self.mean_tokens:
            return np.full(shape, self.completion_tokens)
        drawn = np.random.default_rng(SEED + 1).geometric(1 / self.mean_tokens, shape)
        return np.minimum(drawn, self.completion_tokens)

    def tokens(self, number: int) -> dict[str, int]:
        """What every engine has to sample and to train on in a step, counted from 0."""
        completions = self.prompts * self.group_size
        return {
            "completions": completions,
            "prompt_tokens": completions * self.prompt_tokens,
            "completion_tokens": int(self.lengths[self.batch(number)].sum()),
        }


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("tiny", 1, 16, 2, 1, 8, 32, 64, 8, 12, 4, 4),
        Workload("tiny_ragged", 1, 16, 2, 1, 8, 32, 64, 8, 12, 4, 4, mean_tokens=4),
        Workload("W1", 4, 128, 4, 2, 32, 512, 512, 32, 64, 16, 8),
        Workload("W2", 8, 512, 8, 4, 64, 2048, 32_768, 128, 128, 4, 8),
        Workload("W3", 4, 128, 4, 2, 32, 512, 512, 512, 64, 8, 16),
        Workload("W4", 4, 128, 4, 2, 32, 512, 512, 32, 256, 16, 8, mean_tokens=48),
        Workload("W5", 2, 256, 4, 2, 64, 1024, 151_936, 128, 384, 2, 8, metric="peak_memory_gb"),
    )
}


# --- What every engine is given ---------------------------------------------------------------------------------------


class PrivateTokenizer:
    """One character per token id, so that text and ids turn into each other exactly and at once.

    Ids are counted from the first code point above the basic plane, where all are valid. With fixed lengths pad and end
    lie outside the vocabulary: they cannot be sampled, so that every completion uses up its tokens.
    """

    FIRST = 0x10000

    def __init__(self, vocab_size: int, ragged: bool = False):
        self.vocab_size = vocab_size
        self._pad, self._stop = (PAD, STOP) if ragged else (vocab_size, vocab_size + 1)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [ord(character) - self.FIRST for character in text]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of token ids, without pad and end."""
        found = np.asarray(ids, "<u4")
        found = found[(found != self._pad) & (found != self._stop)]
        return (found + np.uint32(self.FIRST)).astype("<u4").tobytes().decode("utf-32-le")

    def bos_id(self) -> int:
        """Id that begins a sequence."""
        return BEGIN

    def pad_id(self) -> int:
        """Id that fills up."""
        return self._pad

    def eos_id(self) -> int:
        """Id that ends a completion."""
        return self._stop

    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: that one."""
        return (self._stop,)

    def token_id(self, text: str) -> int:
        """Id of a single character."""
        (index,) = self.encode(text)
        return index

    def fingerprint(self) -> str:
        """Changes with the vocabulary."""
        return f"private-{self.vocab_size}-{self._stop}"


def tokenizer_of(workload: Workload) -> PrivateTokenizer:
    """The tokenizer of a workload."""
    return PrivateTokenizer(workload.vocab_size, ragged=bool(workload.mean_tokens))


def low_share(middle: str, completion: str) -> float:
    """Share of the characters before `middle`: plain Python and next to free, and hardly ever equal in a group."""
    return sum(character < middle for character in completion) / max(len(completion), 1)


def reward_of(workload: Workload) -> Callable[[str], float]:
    """The reward of one completion: how many of its tokens lie in the lower half of the vocabulary."""
    return functools.partial(low_share, chr(PrivateTokenizer.FIRST + workload.vocab_size // 2))


def rows_of(workload: Workload) -> list[dict[str, str]]:
    """Rows of random prompts, every one of full length behind the beginning-of-sequence token."""
    tokenizer, random = tokenizer_of(workload), np.random.default_rng(SEED)
    ids = random.integers(FIRST_ORDINARY, workload.vocab_size, (workload.rows, workload.prompt_tokens - 1))
    ids[:, 0] = FIRST_ORDINARY + np.arange(workload.rows)
    return [{"prompt": tokenizer.decode(row), "answer": ""} for row in ids]


def prompt_ids(workload: Workload) -> list[int]:
    """The first prompt with the token that begins it."""
    tokenizer = tokenizer_of(workload)
    return [tokenizer.bos_id(), *tokenizer.encode(rows_of(workload)[0]["prompt"])]


class Batches:
    """The batches of a workload in order, without end; every engine sees the same."""

    def __init__(self, workload: Workload):
        self._workload, self._rows, self._next = workload, rows_of(workload), 0

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> list[dict[str, str]]:
        self._next += 1
        return [self._rows[index] for index in self._workload.batch(self._next - 1)]

    def get_state(self) -> dict[str, Any]:
        """How many batches were given."""
        return {"next": self._next}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on behind them."""
        self._next = state["next"]


def tensors_sha256(tensors: Mapping[str, np.ndarray]) -> str:
    """Hash of names, types, shapes and bytes of the tensors that are handed from one library to another."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


# --- The floor --------------------------------------------------------------------------------------------------------


def flops(workload: Workload, lengths: np.ndarray, *, shared: bool = True) -> dict[str, float]:
    """Floating-point operations of the matrix products that one step of GRPO with a reference needs at least.

    Counted are two operations per multiply-add of every projection, of the unembedding at every completion token, and
    of attention: scores and mixing, each query with half of its own sequence on average, a completion with its whole
    prompt besides. The forward pass runs three times (decoding, the reference, the policy), a backward pass costs
    twice a forward. Prompts are computed once per group in each of them. Free are the embedding lookup, norms,
    rotations, softmax, sampling, the loss and the optimizer; nothing is counted for padding.

    Args:
      workload: Shapes.
      lengths: Tokens of the step's completions, `[prompts group_size]`.
      shared: Count a prompt once per group; otherwise once per completion, as an engine without sharing has to.

    Returns:
      `decode` (with the prompts), `reference`, `update`, and `total`.
    """
    heads = workload.heads * workload.head_dim
    projections = 2 * heads + 2 * workload.kv_heads * workload.head_dim + 3 * workload.mlp
    body = 2 * workload.layers * workload.width * projections
    head = 2 * workload.width * workload.vocab_size
    pair = 4 * workload.layers * heads
    prompts = len(lengths) if shared else lengths.size
    own = float(np.sum(lengths * (workload.prompt_tokens + lengths / 2)))
    forward = (
        body * (prompts * workload.prompt_tokens + float(lengths.sum()))
        + head * float(lengths.sum())
        + pair * (prompts * workload.prompt_tokens**2 / 2 + own)
    )
    return {"decode": forward, "reference": forward, "update": 3 * forward, "total": 5 * forward}


def step_flops(workload: Workload, numbers: Sequence[int], *, shared: bool = True) -> list[float]:
    """`flops` of the given steps, counted from 0, in total."""
    return [flops(workload, workload.lengths[workload.batch(n)], shared=shared)["total"] for n in numbers]
