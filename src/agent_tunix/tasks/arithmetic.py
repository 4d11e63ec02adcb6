"""Chains of sums, differences and products of whole numbers.

Sample row, level 1::

    {"prompt": "3+4-2=", "answer": "5", "demonstration": "<answer>5</answer>", "task": "arithmetic", "level": 1}

Level 1: three digits joined by + and -. Level 2: also by *, which binds tighter. Level n from 3 on: n + 1 numbers
of up to two digits joined by all three. Answers may be negative.
"""

import math
from typing import Any

import numpy as np

from agent_tunix.tasks._task import Task, make_row


def row(random: np.random.Generator, level: int) -> dict[str, Any]:
    """One row: a chain of numbers and its value."""
    count, bound = (3, 10) if level < 3 else (level + 1, 100)
    numbers = random.integers(0, bound, size=count).tolist()
    signs = ["+-*"[place] for place in random.integers(0, 2 if level == 1 else 3, size=count - 1).tolist()]
    chain = str(numbers[0]) + "".join(f"{sign}{number}" for sign, number in zip(signs, numbers[1:], strict=True))
    return make_row("arithmetic", level, f"{chain}=", str(_value(numbers, signs)))


def _value(numbers: list[int], signs: list[str]) -> int:
    """Value of the chain, as a sum of signed products."""
    products = [[numbers[0]]]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            products[-1].append(number)
        else:
            products.append([number] if sign == "+" else [-1, number])
    return sum(map(math.prod, products))


TASK = Task(
    "arithmetic",
    row,
    "value of a chain; level 1: three digits with + -, 2: with *, n > 2: n + 1 numbers of up to two digits",
)
"""The task."""
