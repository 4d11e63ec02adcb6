"""Making, taking and joining rollouts and scores; what dynamic sampling and minibatches are made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from agent_tunix.types import Failure, Rollouts, Score

Batch = TypeVar("Batch", Rollouts, Score)


def text_rollouts(
    prompts: Sequence[str],
    completions: Sequence[Sequence[str]],
    columns: Mapping[str, Sequence[Any]],
    *,
    lengths: Int[np.ndarray, "prompts group"] | None = None,
    truncated: Bool[np.ndarray, "prompts group"] | None = None,
) -> Rollouts:
    """Rollouts of texts that were not sampled here: what a reward can be asked about them.

    Args:
      prompts: One text per group.
      completions: `completions[prompt][member]`, groups of equal size.
      columns: Dataset columns, one entry per prompt.
      lengths: Tokens of each completion; none by default.
      truncated: True where the token budget ended a completion; nowhere by default.

    Returns:
      Rollouts whose masks have the given lengths, and whose tokens are all 0 with log-probability 0.
    """
    shape = (len(prompts), len(completions[0]) if completions else 0)
    lengths = np.zeros(shape, int) if lengths is None else np.asarray(lengths)
    mask = np.arange(lengths.max(initial=0)) < lengths[..., None]
    return Rollouts(
        prompts=list(prompts),
        completions=completions,
        columns=columns,
        prompt_ids=np.zeros((shape[0], 0), np.int32),
        prompt_mask=np.zeros((shape[0], 0), bool),
        completion_ids=np.zeros(mask.shape, np.int32),
        completion_mask=mask,
        truncated=np.zeros(shape, bool) if truncated is None else truncated,
        logprobs=np.zeros(mask.shape, np.float32),
        old_logprobs=np.zeros(mask.shape, np.float32),
    )


def take(batch: Batch, prompts: Sequence[int]) -> Batch:
    """The given prompts of a batch, in the given order.

    Args:
      batch: Rollouts or a score.
      prompts: Indices along the prompt axis.
    """

    def pick(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Mapping):
            return {name: pick(part) for name, part in value.items()}
        if hasattr(value, "shape"):
            return value[np.asarray(prompts, int)]
        if value and isinstance(value[0], Failure):
            chosen = ((new, f) for new, prompt in enumerate(prompts) for f in value if f.prompt_index == prompt)
            return [f._replace(prompt_index=new) for new, f in chosen]
        return [value[prompt] for prompt in prompts] if value else value

    return _map(pick, batch)


def join(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other along the prompt axis; all must have the same parts and columns."""
    offsets = np.cumsum([0, *(_prompts(batch) for batch in batches)])

    def merge(*values: Any) -> Any:
        first = values[0]
        if first is None:
            return None
        if isinstance(first, Mapping):
            return {name: merge(*(value[name] for value in values)) for name in first}
        if hasattr(first, "shape"):
            return np.concatenate(values)
        return [_moved(item, offset) for value, offset in zip(values, offsets, strict=False) for item in value]

    return _map(merge, *batches)


def _moved(item: Any, offset: int) -> Any:
    return item._replace(prompt_index=item.prompt_index + int(offset)) if isinstance(item, Failure) else item


def _prompts(batch: Rollouts | Score) -> int:
    return (batch.truncated if isinstance(batch, Rollouts) else batch.value).shape[0]


def _map(function: Any, *batches: Any) -> Any:
    fields = {
        field.name: function(*(getattr(batch, field.name) for batch in batches))
        for field in dataclasses.fields(batches[0])
    }
    return type(batches[0])(**fields)
