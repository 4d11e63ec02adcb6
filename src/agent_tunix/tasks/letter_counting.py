"""How often a letter occurs in a word.

Sample row, level 1::

    {"prompt": "a in banaz=", "answer": "2", "demonstration": "<answer>2</answer>", "task": "letter_counting",
     "level": 1}

Level n: made-up words of 4 + n letters. Every count from none to all letters is equally likely, so that guessing the
commonest one does not pay.
"""

from typing import Any

import numpy as np

from agent_tunix.tasks._task import Task, make_row


def row(random: np.random.Generator, level: int) -> dict[str, Any]:
    """One row: a letter, a word and the count."""
    length = 4 + level
    letter, count = int(random.integers(0, 26)), int(random.integers(0, length + 1))
    # Offsets from 1 to 25 never give the letter itself.
    word = [(letter + offset) % 26 for offset in random.integers(1, 26, size=length).tolist()]
    for place in np.argsort(random.random(length), kind="stable")[:count].tolist():
        word[place] = letter
    text = "".join(map(_letter, word))
    return make_row("letter_counting", level, f"{_letter(letter)} in {text}=", str(count))


def _letter(index: int) -> str:
    return chr(ord("a") + index)


TASK = Task("letter_counting", row, "how often a letter occurs in a made-up word; level n: 4 + n letters")
"""The task."""
