"""What a procedural task is, and the few things all of them share."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from agent_tunix.errors import AgentTunixError

_HELDOUT_FRACTION = 0.1


class DataError(AgentTunixError, ValueError):
    """Rows that cannot be read or used; the message names the file and line, or the setting."""


class Task(NamedTuple):
    """A procedural task.

    Attributes:
      name: What `data.task` calls it.
      row: `(random, level) -> row`, drawing one row; only integer and uniform draws, whose streams NumPy keeps stable.
      description: One line for people, levels included.
      is_correct: `(answer, row) -> bool` where many answers are right; None where exactly `row["answer"]` is.
    """

    name: str
    row: Callable[[np.random.Generator, int], dict[str, Any]]
    description: str
    is_correct: Callable[[str, Mapping[str, Any]], bool] | None = None


def make_row(task: str, level: int, prompt: str, answer: str, **columns: Any) -> dict[str, Any]:
    """A row of a procedural task, demonstrated by its bare answer."""
    demonstration = f"<answer>{answer}</answer>"
    return {"prompt": prompt, "answer": answer, "demonstration": demonstration, "task": task, "level": level, **columns}


def digits(random: np.random.Generator, count: int) -> list[int]:
    """Independent digits, each from 0 to 9."""
    return random.integers(0, 10, size=count).tolist()


def split_hash(prompt: str) -> float:
    """A fixed pseudo-random number in [0, 1) for each prompt, equal in every process."""
    return int.from_bytes(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48


def is_heldout(prompt: str) -> bool:
    """Whether a prompt belongs to the held-out split, a tenth of all prompts."""
    return split_hash(prompt) < _HELDOUT_FRACTION
