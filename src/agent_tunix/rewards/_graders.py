"""Graders: pure Python from the text of a completion to a number.

They behave like NumPy's universal functions: one text gives a float, a list of texts gives an array, and reference
answers broadcast against them. Nothing that a model can write makes one of them raise or take longer than milliseconds,
except where symbolic comparison is asked for, which has its own limit.
"""

import math
from decimal import Decimal
from functools import lru_cache
from numbers import Number
from typing import Any

from agent_tunix import text
from agent_tunix.rewards._answers import numbers
from agent_tunix.rewards._answers.numbers import answer_key
from agent_tunix.rewards._universal import checked_text, universal

_key = lru_cache(maxsize=16_384)(answer_key)


@universal(bounds=(0, 1))
def exact_answer(
    response: str,
    answer: str | float | Decimal,
    *,
    fallback: str | None = None,
    tolerance: float = 0.0,
    symbolic: bool = False,
) -> float:
    r"""Grades 1 where the response states exactly the reference answer, else 0: the strict verifier behind accuracy.

    The stated answer is found by `agent_tunix.text.stated_answer`. Where the reference names one number, the stated
    text has to name one number of exactly equal value, with units, currency, markup and notation left out of account;
    a percentage equals only a percentage. Where it does not, the two texts have to be equal up to markup, whitespace,
    case and a closing period. No tolerance, no partial credit, nothing for several values one of which is right.

    Args:
      response: A completion, or an array of them.
      answer: The reference answer as text or number, or an array of them; broadcast against `response`.
      fallback: What is graded where the response states no answer: None for nothing, `"last_number"` for the last
        number in it.
      tolerance: Greatest difference from a number as a fraction of the reference: 0.01 is one percent. A reference
        of 0 has to be met exactly.
      symbolic: Also grade 1 where the two are equal as mathematics, read as LaTeX by math-verify in a process of its
        own. It is asked only about closed expressions, tuples, intervals, sets, matrices and equations of the
        reference's kind. What cannot be compared in 0.9 s is graded 0: the stated text is what makes a comparison
        long, and a text that could abstain by being unreadable would escape its grade. The first comparison of a
        process waits some seconds until SymPy is loaded; later ones do not, also after one had to be killed, as a
        second process stands by.

    Returns:
      1.0 or 0.0; an array of the broadcast shape where either argument is one.

    Raises:
      TypeError: A response is not text, or a reference is neither text nor a number.
      ValueError: The shapes do not broadcast, or a setting is not one of those above.
      ImportError: `symbolic` without the extra `math`.

    Examples:
      >>> exact_answer("<answer>$1,000</answer>", 1000)
      1.0
      >>> exact_answer(["#### 41", "#### 42.0", "<answer>41 or 42</answer>"], "42")
      array([0., 1., 0.])
      >>> exact_answer("That makes 42 in all.", 42, fallback="last_number")
      1.0
      >>> exact_answer("#### 3.14", "3.14159", tolerance=0.01)
      1.0
    """
    if not isinstance(response, str):
        checked_text(response)  # raises
    stated = text.stated_answer(response)
    if fallback is not None or tolerance or symbolic:
        return _leniently(response, stated, _reference_text(answer), fallback, tolerance, symbolic)
    if isinstance(answer, str):
        if not stated:
            return 0.0
        return 1.0 if stated == answer or _is_same(stated, answer) else 0.0
    return 1.0 if _is_same(stated or "", _reference_text(answer)) else 0.0


@universal(bounds=(0, 1))
def tag_format(response: str) -> float:
    """Grades how well a response keeps to `<reasoning>...</reasoning><answer>...</answer>`.

    Args:
      response: A completion, or an array of them.

    Returns:
      1.0 for at most one reasoning block, then one answer block, with only whitespace around; 0.5 for a complete
      answer block with something around it or repeated tags; 0.0 without a complete answer block, or where the last
      one is blank.

    Raises:
      TypeError: A response is not text.

    Examples:
      >>> tag_format(["<answer>4</answer>", "It is <answer>4</answer>", "It is 4"])
      array([1. , 0.5, 0. ])
    """
    if not isinstance(response, str):
        checked_text(response)  # raises
    if text.is_tagged(response):
        return 1.0
    return 0.5 if text.has_answer_block(response) else 0.0


def _is_same(stated: str, reference: str) -> bool:
    # Most answers are plain integers, and comparing those takes a third of the time.
    if _is_plain(stated) and _is_plain(reference):
        return stated.lstrip("0") == reference.lstrip("0")
    # Normalising a megabyte to compare it with a word is wasted; markup never multiplies a length like this.
    if not stated or len(stated) > 4 * len(reference) + 1000:
        return False
    key = _key(stated) if len(stated) <= numbers.MAX_CHARACTERS else answer_key(stated)
    # `x = 4` states 4, and is not `y = 4`.
    return key == _key(reference) and ("=" not in reference or numbers.is_of_same_name(stated, reference))


def _is_plain(written: str) -> bool:
    return written.isdigit() and written.isascii() and len(written) <= numbers.MAX_CHARACTERS


def _leniently(
    response: str, stated: str | None, reference: str, fallback: str | None, tolerance: float, symbolic: bool
) -> float:
    """Grades with the settings that `exact_answer` leaves off by default."""
    if fallback not in (None, "last_number"):
        raise ValueError(f"`fallback` has to be None or 'last_number', got {fallback!r}")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"`tolerance` has to be a fraction of the reference, zero or more, got {tolerance!r}")
    comparison = _symbolic_comparison() if symbolic else None
    if stated is None and fallback is not None:
        stated = text.last_number(response)
    if not stated:
        return 0.0
    if _is_same(stated, reference) or (tolerance and numbers.within(stated, reference, tolerance)):
        return 1.0
    return 1.0 if comparison is not None and comparison(stated, reference) else 0.0


def _symbolic_comparison() -> Any:
    from agent_tunix.rewards._answers import (
        symbolic as comparison,  # Workers that never compare symbolically need no pool.
    )

    comparison.require()
    return comparison.is_equal


def _reference_text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    if isinstance(answer, Number):
        return str(answer)
    raise TypeError(f"a reference answer has to be text or a number, got {answer!r:.80} ({type(answer).__name__})")
