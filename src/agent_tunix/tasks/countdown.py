"""Reach a target with given numbers, each used exactly once, by + - * / and parentheses.

Sample row, level 1::

    {"prompt": "2 5 11:21=", "answer": "5*2+11", "demonstration": "<answer>5*2+11</answer>",
     "task": "countdown", "level": 1, "numbers": [2, 5, 11], "target": 21}

Level 1: three numbers from 1 to 15 with + - *. Level n from 2 on: n + 2 numbers from 1 to 25, also with /. `answer` is
one solution of many; `is_correct` accepts them all. The numbers stand in ascending order in the prompt, so that one
problem is one prompt and cannot fall into both splits.

The rules follow the letters-and-numbers game as used by TinyZero (https://github.com/Jiayi-Pan/TinyZero), where every
number must be used; unlike there, answers are never evaluated by Python.
"""

import operator
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from agent_tunix.tasks._task import Task, make_row

_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2}
_TYPOGRAPHIC = str.maketrans("×÷−", "*/-")
_TOKEN = re.compile(r"\s*(?:([0-9]+)|([-+*/()]))")


def row(random: np.random.Generator, level: int) -> dict[str, Any]:
    """One row: numbers, a target that can be reached, and one way to reach it."""
    numbers = random.integers(1, 16 if level == 1 else 26, size=2 + level).tolist()
    target, expression, loose = numbers[0], str(numbers[0]), False
    for number in numbers[1:]:
        sign = _drawn_sign(random, target, number, level)
        if loose and sign in "*/":
            expression = f"({expression})"
        expression, loose = f"{expression}{sign}{number}", sign in "+-"
        target = int(_OPERATIONS[sign](Fraction(target), number))
    numbers.sort()
    prompt = f"{' '.join(map(str, numbers))}:{target}="
    return make_row("countdown", level, prompt, expression, numbers=numbers, target=target)


def _drawn_sign(random: np.random.Generator, value: int, number: int, level: int) -> str:
    """A sign that keeps the value whole and positive, and below a thousand where it multiplies."""
    sign = "+-*/"[int(random.integers(0, 3 if level == 1 else 4))]
    allowed = {"+": True, "-": value > number, "*": value * number < 1000, "/": value % number == 0}
    return sign if allowed[sign] else "+"


def is_correct(answer: str, row: Mapping[str, Any]) -> bool:
    """Whether an expression reaches the target with every number used exactly once.

    Accepts binary + - * / (also × ÷ −), parentheses, whitespace and whole numbers; intermediate values may be fractions
    or negative. Everything else is wrong, and nothing is executed: powers, names, signs before a number,
    concatenation, `= target`. The numbers are checked before anything is computed, which bounds the cost.

    Args:
      answer: Text between the answer tags.
      row: Columns `numbers` and `target`.

    Examples:
      >>> is_correct("11+5*2", {"numbers": [2, 5, 11], "target": 21})
      True
    """
    numbers = [int(number) for number in row["numbers"]]
    # A sane answer needs a sign, a pair of parentheses and a little space per number.
    if len(answer) > 16 * len(numbers) + 16 * max(map(len, map(str, numbers))):
        return False
    tokens = _tokens(answer.translate(_TYPOGRAPHIC))
    if tokens is None or sorted(token for token in tokens if isinstance(token, int)) != sorted(numbers):
        return False
    return _value(tokens) == Fraction(int(row["target"]))


def _tokens(text: str) -> list[int | str] | None:
    """Numbers and signs of an expression, or None where anything else stands in it."""
    tokens, place, text = [], 0, text.strip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            return None
        tokens.append(match[2] if match[1] is None else int(match[1]))
        place = match.end()
    return tokens


def _value(tokens: list[int | str]) -> Fraction | None:
    """Value of an infix expression, or None where it is malformed or divides by zero.

    Dijkstra's two stacks rather than recursion, so that nesting cannot exhaust Python's stack.
    """
    values: list[Fraction] = []
    pending: list[str] = []
    wants_value = True
    for token in tokens:
        if isinstance(token, int) or token == "(":
            if not wants_value:
                return None
            if token == "(":
                pending.append("(")
            else:
                values.append(Fraction(token))
                wants_value = False
            continue
        if wants_value or not _reduce(values, pending, _BINDING.get(token, 0)):
            return None
        if token == ")":
            if not pending:
                return None
            pending.pop()
        else:
            pending.append(token)
            wants_value = True
    if wants_value or not _reduce(values, pending, 0) or pending:
        return None
    return values[0]


def _reduce(values: list[Fraction], pending: list[str], binding: int) -> bool:
    """Computes pending operations that bind at least as tight, back to a parenthesis; False on division by zero."""
    while pending and pending[-1] != "(" and _BINDING[pending[-1]] >= binding:
        sign, right = pending.pop(), values.pop()
        if sign == "/" and right == 0:
            return False
        values.append(_OPERATIONS[sign](values.pop(), right))
    return True


TASK = Task(
    "countdown",
    row,
    "reach a target with all given numbers; level 1: three up to 15 with + - *, n > 1: n + 2 up to 25, also with /",
    is_correct,
)
"""The task."""
