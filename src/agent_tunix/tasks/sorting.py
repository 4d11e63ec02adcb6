"""Digits in ascending order; the default task.

Sample row, level 1::

    {"prompt": "3 1 4 1 5=", "answer": "1 1 3 4 5", "demonstration": "<answer>1 1 3 4 5</answer>",
     "task": "sorting", "level": 1}

Level n sorts 4 + n digits.
"""

from typing import Any

import numpy as np

from agent_tunix.tasks._task import Task, digits, make_row


def row(random: np.random.Generator, level: int) -> dict[str, Any]:
    """One row: 4 + level digits in any order, and in ascending order."""
    drawn = digits(random, 4 + level)
    prompt = " ".join(map(str, drawn)) + "="
    return make_row("sorting", level, prompt, " ".join(map(str, sorted(drawn))))


TASK = Task("sorting", row, "digits in ascending order; level n: 4 + n digits")
"""The task."""
