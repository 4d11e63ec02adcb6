"""Graders: pure Python from the text of a completion to a number.

They behave like NumPy's universal functions: one text gives a float, a list of texts gives an array, and reference
answers broadcast against them. Nothing that a model can write makes one of them raise or take longer than milliseconds.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import lru_cache
from numbers import Number
from typing import Any, overload

import numpy as np

from agent_tunix import text
from agent_tunix.rewards._numbers import answer_key

_reference_key = lru_cache(maxsize=8192)(answer_key)


@overload
def exact_answer(response: str, answer: str | float | Decimal) -> float: ...
@overload
def exact_answer(response: str, answer: Sequence[Any] | np.ndarray) -> np.ndarray: ...
@overload
def exact_answer(response: Sequence[Any] | np.ndarray, answer: Any) -> np.ndarray: ...
def exact_answer(response: Any, answer: Any) -> Any:
    r"""Grades 1 where the response states exactly the reference answer, else 0: the strict verifier behind accuracy.

    The stated answer is found by `agent_tunix.text.stated_answer`. Where the reference names one number, the stated
    text has to name one number of exactly equal value, with units, currency, markup and notation left out of account;
    a percentage equals only a percentage. Where it does not, the two texts have to be equal up to markup, whitespace,
    case and a closing period. No tolerance, no partial credit, nothing for several values one of which is right.

    Args:
      response: A completion, or an array of them.
      answer: The reference answer as text or number, or an array of them; broadcast against `response`.

    Returns:
      1.0 or 0.0; an array of the broadcast shape where either argument is one.

    Raises:
      TypeError: A response is not text, or a reference is neither text nor a number.
      ValueError: The shapes do not broadcast.

    Examples:
      >>> exact_answer("<answer>$1,000</answer>", 1000)
      1.0
      >>> exact_answer(["#### 41", "#### 42.0", "<answer>41 or 42</answer>"], "42")
      array([0., 1., 0.])
    """
    return _elementwise(_states, response, answer)


@overload
def tag_format(response: str) -> float: ...
@overload
def tag_format(response: Sequence[Any] | np.ndarray) -> np.ndarray: ...
def tag_format(response: Any) -> Any:
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
    return _elementwise(_tagged, response)


def _states(response: Any, answer: Any) -> float:
    stated = text.stated_answer(_checked_text(response))
    return 1.0 if stated and _is_same(stated, _reference_text(answer)) else 0.0


def _is_same(stated: str, reference: str) -> bool:
    if stated == reference:
        return True
    # Normalising a megabyte to compare it with a word is wasted; markup never multiplies a length like this.
    if len(stated) > 4 * len(reference) + 1000:
        return False
    return answer_key(stated) == _reference_key(reference)


def _tagged(response: Any) -> float:
    if text.is_tagged(_checked_text(response)):
        return 1.0
    return 0.5 if text.has_answer_block(response) else 0.0


def _checked_text(response: Any) -> str:
    if isinstance(response, str):
        return response
    raise TypeError(f"a response has to be text, got {response!r:.80} ({type(response).__name__})")


def _reference_text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    if isinstance(answer, Number):
        return str(answer)
    raise TypeError(f"a reference answer has to be text or a number, got {answer!r:.80} ({type(answer).__name__})")


def _elementwise(grade: Callable[..., float], response: Any, *others: Any) -> Any:
    """Applies a grader of one response over broadcast arguments; a float for scalars, else an array."""
    if isinstance(response, str) and all(isinstance(other, str | Number) for other in others):
        return grade(response, *others)
    # Object arrays: NumPy's own text arrays drop trailing null characters.
    arrays = [np.asarray(argument, dtype=object) for argument in (response, *others)]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    entries = zip(*(np.broadcast_to(array, shape).flat for array in arrays), strict=True)
    grades = np.array([grade(*entry) for entry in entries], dtype=float).reshape(shape)
    return grades if shape else grades.item()
