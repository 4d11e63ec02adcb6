"""Rewards for other frameworks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agent_tunix.types import Reward, Rollouts


def as_tunix(reward: Reward, *, group_size: int = 1, missing: float | None = None) -> Callable[..., list[float]]:
    """Makes a reward function for Tunix, or for any trainer that takes `(prompts, completions, **columns) -> list`.

    Only texts and columns reach the reward; a reward that reads tokens finds none.

    Args:
      reward: The reward.
      group_size: Consecutive completions that belong to one prompt. 1 shows the reward single completions, which is
        right for every reward that does not compare the members of a group.
      missing: Value of entries without one. By default they raise, since neither NaN nor a silent zero is a reward.

    Returns:
      A function with the reward's name as `__name__` and no named parameters besides the two: Tunix fills in
      algorithm settings where a parameter bears the name of one.

    Raises:
      ValueError: When called: the completions do not divide into groups, or an entry has no value and `missing` is
        not given.
    """

    def reward_function(prompts: Sequence[str], completions: Sequence[str], **kwargs: Any) -> list[float]:
        score = reward(_text_rollouts(prompts, completions, kwargs, group_size))
        value, valid = np.ravel(score.value), np.ravel(score.valid)
        if missing is None and not valid.all():
            reasons = "; ".join(failure.reason for failure in score.failures[:1]) or "it abstained"
            raise ValueError(
                f"reward `{reward.name}` has no value for {np.sum(~valid)} of {valid.size} completions, the first is "
                f"completion {int(np.argmin(valid))} ({reasons}); give as_tunix a value for missing="
            )
        return [float(entry) for entry in np.where(valid, value, missing or 0.0)]

    reward_function.__name__ = reward_function.__qualname__ = reward.name
    return reward_function


def _text_rollouts(
    prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Any], group_size: int
) -> Rollouts:
    """Rollouts of texts alone, from flat lists."""
    total = len(completions)
    if len(prompts) != total or total % group_size:
        raise ValueError(
            f"got {len(prompts)} prompts and {total} completions for group_size={group_size}; "
            "give one prompt per completion and whole groups"
        )
    shape = (total // group_size, group_size)
    no_tokens, no_mask = np.zeros((*shape, 0), np.float32), np.zeros((*shape, 0), bool)
    return Rollouts(
        prompts=list(prompts[::group_size]),
        completions=[list(completions[start : start + group_size]) for start in range(0, total, group_size)],
        columns={name: values[::group_size] for name, values in columns.items() if _is_column(values, total)},
        prompt_ids=np.zeros((shape[0], 0), np.int32),
        prompt_mask=np.zeros((shape[0], 0), bool),
        completion_ids=no_tokens.astype(np.int32),
        completion_mask=no_mask,
        truncated=np.zeros(shape, bool),
        logprobs=no_tokens,
        old_logprobs=no_tokens,
    )


def _is_column(values: Any, total: int) -> bool:
    """Whether a keyword argument is a column; trainers pass settings the same way."""
    if isinstance(values, np.ndarray):
        return values.ndim > 0 and len(values) == total
    return isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) == total
