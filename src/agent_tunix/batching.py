"""Taking and joining prompts of rollouts and scores; what dynamic sampling and minibatches are made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from agent_tunix.types import Failure, Rollouts, Score

Batch = TypeVar("Batch", Rollouts, Score)


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
