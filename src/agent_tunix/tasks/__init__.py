"""Tasks with verifiable answers: procedural ones generated here, GSM8K and MATH in files, and those of reasoning-gym.

A row is a dictionary with `prompt`, `answer`, `demonstration` (a completion that solves it), `task` and `level`.
Whether a prompt is held out is decided by a hash of the prompt alone, so that the splits never overlap, whatever the
seeds and sizes.
"""

import logging
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agent_tunix.errors import ConfigError, unknown
from agent_tunix.tasks import arithmetic, comparison, countdown, gym, letter_counting, sorting
from agent_tunix.tasks._task import DataError, Task, is_heldout, split_hash

__all__ = [
    "SPLITS", "TASKS", "DataError", "Task", "check_of", "generate", "is_correct", "is_heldout", "names", "split_hash",
]  # fmt: skip

logger = logging.getLogger(__name__)

TASKS: dict[str, Task] = {
    module.TASK.name: module.TASK for module in (arithmetic, comparison, countdown, letter_counting, sorting)
}
"""Procedural tasks by name."""

SPLITS = ("train", "heldout")
"""Names of the splits."""

_PATIENCE = 20_000
"""Draws in a row that bring nothing new before a prompt space counts as exhausted: a held-out row of a task with 4,000
prompts is overlooked with probability exp(-5)."""


def names() -> list[str]:
    """Names of the procedural tasks, in alphabetical order."""
    return sorted(TASKS)


def check_of(row: Mapping[str, Any]) -> Callable[[str, Mapping[str, Any]], bool] | None:
    """The check that the task of a row brings, `(answer, row) -> bool`; None where the answer is compared as it is."""
    name = str(row.get("task", ""))
    if name.startswith(gym.PREFIX):
        return gym.is_correct
    return TASKS[name].is_correct if name in TASKS else None


def is_correct(answer: str, row: Mapping[str, Any]) -> bool:
    """Whether an answer, without its tags, is right for a row: by the task's own check, else by equality."""
    check = check_of(row)
    return answer.strip() == str(row["answer"]).strip() if check is None else check(answer, row)


def generate(name: str, *, level: int, size: int, split: str, seed: int) -> list[dict[str, Any]]:
    """Draws rows of a procedural task.

    The same arguments give the same rows in every process. Held-out rows all differ; training rows may repeat where
    the task has few prompts. A task with fewer held-out prompts than asked for gives those it has, and logs how many.

    Args:
      name: One of `names()`.
      level: Difficulty, from 1; the task's module says what it means.
      size: Number of rows.
      split: `train` or `heldout`.
      seed: Any whole number from 0.

    Raises:
      ConfigError: A wrong name, split, level, size or seed.
    """
    for what, value, allowed in (("task", name, names()), ("split", split, SPLITS)):
        if value not in allowed:
            raise ConfigError(unknown(what, value, allowed))
    for what, value, least in (("level", level, 1), ("size", size, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{what} of task {name!r} is {value}; it must be at least {least}")
    random = np.random.default_rng([seed, level, zlib.crc32(name.encode()), SPLITS.index(split)])
    rows = _draw(TASKS[name], random, level, size, heldout=split == "heldout")
    if len(rows) < size:
        logger.warning(
            "task %r at level %d has only %d of the %d %s rows asked for", name, level, len(rows), size, split
        )
    return rows


def _draw(task: Task, random: np.random.Generator, level: int, size: int, *, heldout: bool) -> list[dict[str, Any]]:
    """Draws until there are enough rows of the split, or a long run of draws brought none."""
    rows, seen, fruitless = [], set(), 0
    while len(rows) < size and fruitless < _PATIENCE:
        row = task.row(random, level)
        prompt = row["prompt"]
        if is_heldout(prompt) != heldout or (heldout and prompt in seen):
            fruitless += 1
            continue
        seen.add(prompt)
        rows.append(row)
        fruitless = 0
    return rows
