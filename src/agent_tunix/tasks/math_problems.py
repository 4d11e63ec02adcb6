r"""Competition problems in the form of Hendrycks' MATH, with answers in LaTeX.

Sample row, from a line ``{"problem": "What is $3 \\cdot 7$?", "level": "Level 1", "type": "Prealgebra",
"solution": "Three times seven is $\\boxed{21}$."}``::

    {"prompt": "What is $3 \\cdot 7$?", "answer": "21", "subject": "Prealgebra",
     "demonstration": "<reasoning>Three times seven is $\\boxed{21}$.</reasoning><answer>21</answer>",
     "task": "math", "level": 1, "symbolic": False}

The answer is what stands in the last box of the solution; where a record has an `answer` of its own, as in MATH-500, it
is that. `level` is 1 to 5, or 1 where a record gives none.

Hendrycks et al., 2021, Measuring Mathematical Problem Solving With the MATH Dataset (arXiv 2103.03874).
"""

import re
from typing import Any

from agent_tunix.tasks._files import text_of
from agent_tunix.text import boxed_answer

_BARE = re.compile(r"\\(?:boxed|fbox)\s+([^\s$\\{}]+)")
_LEVEL = re.compile(r"(?:level\s*)?(\d+)", re.IGNORECASE)


def row(record: dict[str, Any], *, symbolic: bool = False) -> dict[str, Any]:
    """A row from a record with `problem` and `solution`, or `problem` and `answer`.

    Args:
      record: As published.
      symbolic: Whether answers that are not equal as written are compared as mathematics too.

    Raises:
      ValueError: A key is missing or not text, or the solution has no box.
    """
    problem = text_of(record, "problem")
    solution = text_of(record, "solution") if record.get("solution") is not None or "answer" not in record else ""
    answer = str(record["answer"]).strip() if record.get("answer") is not None else boxed(solution)
    if not answer:
        raise ValueError("`answer` is empty")
    reasoning = f"<reasoning>{solution}</reasoning>" if solution else ""
    return {
        "prompt": problem,
        "answer": answer,
        "demonstration": f"{reasoning}<answer>{answer}</answer>",
        "task": "math",
        "level": _level(record.get("level")),
        "subject": str(record.get("type") or record.get("subject") or ""),
        "symbolic": symbolic,
    }


def boxed(solution: str) -> str:
    r"""What the last box of a solution holds, also `\boxed 4` without braces.

    Raises:
      ValueError: There is none, or an empty one.

    Examples:
      >>> boxed(r"So $x = \boxed{\frac{1}{2}}$."), boxed(r"That is $\boxed 4$.")
      ('\\frac{1}{2}', '4')
    """
    found = boxed_answer(solution)
    if found is None:
        bare = _BARE.findall(solution)
        found = bare[-1] if bare else ""
    if not found.strip():
        raise ValueError(r"`solution` has no answer in \boxed{...}, and the row no `answer`")
    return found.strip()


def _level(value: Any) -> int:
    """`Level 3`, `3` and 3 are 3."""
    match = _LEVEL.fullmatch(str(value).strip())
    return int(match[1]) if match else 1
