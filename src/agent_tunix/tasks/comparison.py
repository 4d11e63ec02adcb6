"""The greater of two whole numbers.

Sample row, level 1::

    {"prompt": "max 47 82=", "answer": "82", "demonstration": "<answer>82</answer>", "task": "comparison", "level": 1}

Level n: numbers below 10^(n + 1). Every other pair on average differs in one digit only, so that from level 2 on the
first digit rarely decides. Both numbers may be equal.
"""

from typing import Any

import numpy as np

from agent_tunix.tasks._task import Task, digits, make_row


def row(random: np.random.Generator, level: int) -> dict[str, Any]:
    """One row: two numbers and the greater one."""
    first, second = digits(random, level + 1), digits(random, level + 1)
    if random.integers(0, 2):
        place = int(random.integers(0, level + 1))
        second = [*first[:place], second[place], *first[place + 1 :]]
    left, right = (int("".join(map(str, number))) for number in (first, second))
    return make_row("comparison", level, f"max {left} {right}=", str(max(left, right)))


TASK = Task("comparison", row, "the greater of two numbers; level n: up to n + 1 digits")
"""The task."""
