"""Making, taking and joining rollouts and scores; what dynamic sampling and minibatches are made of."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Int

from agent_tunix.types import Failure, Rollouts, Score

NO_TOKEN = -1
"""Stands where the ids of tokens are not known; rewards that read ids refuse it."""

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
      Rollouts whose masks have the given lengths, and whose tokens are all `NO_TOKEN` with log-probability 0.
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
        completion_ids=np.full(mask.shape, NO_TOKEN, np.int32),
        completion_mask=mask,
        truncated=np.zeros(shape, bool) if truncated is None else truncated,
        logprobs=np.zeros(mask.shape, np.float32),
        old_logprobs=np.zeros(mask.shape, np.float32),
    )


def check_tokens(rollouts: Rollouts, name: str) -> None:
    """Refuses rollouts whose token ids are not known, for a reward that reads them.

    Raises:
      ValueError: The ids are not known, as in rollouts that a run has stored.
    """
    if np.size(rollouts.completion_ids) and (np.asarray(rollouts.completion_ids) == NO_TOKEN).any():
        raise ValueError(f"reward `{name}` reads token ids, which these rollouts do not have: only texts are stored")


def take(batch: Batch, prompts: Sequence[int]) -> Batch:
    """The given prompts of a batch, in the given order.

    Args:
      batch: Rollouts or a score.
      prompts: Indices along the prompt axis.
    """

    index = np.asarray(prompts, int)

    def pick(name: str, value: Any) -> Any:
        if value is None:
            return None
        if name == "failures":
            return _failures_of(value, prompts)
        if isinstance(value, Mapping):
            return {key: pick("", part) for key, part in value.items()}
        return value[index] if hasattr(value, "shape") else [value[prompt] for prompt in prompts]

    return _map(pick, batch)


def _failures_of(failures: Sequence[Failure], prompts: Sequence[int]) -> tuple[Failure, ...]:
    by_prompt: dict[int, list[Failure]] = {}
    for failure in failures:
        by_prompt.setdefault(failure.prompt_index, []).append(failure)
    return tuple(
        failure._replace(prompt_index=new)
        for new, prompt in enumerate(prompts)
        for failure in by_prompt.get(int(prompt), ())
    )


def join(batches: Sequence[Batch]) -> Batch:
    """Batches one after the other along the prompt axis; all must have the same parts and columns."""
    offsets = np.cumsum([0, *(_prompts(batch) for batch in batches)]).tolist()

    def merge(name: str, *values: Any) -> Any:
        first = values[0]
        if first is None:
            return None
        if name == "failures":
            return tuple(_moved(failure, by) for part, by in zip(values, offsets, strict=False) for failure in part)
        if isinstance(first, Mapping):
            return {key: merge("", *(value[key] for value in values)) for key in first}
        return np.concatenate(values) if hasattr(first, "shape") else [item for value in values for item in value]

    return _map(merge, *batches)


def _moved(failure: Failure, by: int) -> Failure:
    return failure._replace(prompt_index=failure.prompt_index + by)


def _prompts(batch: Rollouts | Score) -> int:
    return (batch.truncated if isinstance(batch, Rollouts) else batch.value).shape[0]


def _map(function: Any, *batches: Any) -> Any:
    fields = {
        field.name: function(field.name, *(getattr(batch, field.name) for batch in batches))
        for field in dataclasses.fields(batches[0])
    }
    return type(batches[0])(**fields)
