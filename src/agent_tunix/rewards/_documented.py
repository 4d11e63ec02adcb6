r"""The three graders of the documented API: format, correctness, numbers.

With the default weights their meaning gives the documented totals::

    total = 0.3 * match_format_exactly(response, expected_format) + 0.7 * check_answer(response, ground_truth)

    "2 + 2 = 4. The answer is 4."    1.0 and 1.0    1.0
    "2 plus 2 equals 4."             0.5 and 0.5    0.5

A right number earns half where it is not stated as the answer, and a response earns half of the format where it holds
part of the template. What these look at is bounded, so that a long text costs no more than a short one.
"""

import functools
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from agent_tunix import text
from agent_tunix.rewards._answers.numbers import answer_key, quantity, within
from agent_tunix.rewards._graders import exact_answer
from agent_tunix.rewards._universal import checked_text, content, universal

TAIL = 20_000
"""Characters, from the end of a response, in which templates and unstated numbers are looked for."""
_MAX_ANSWER = 1_000
_MAX_LIST = 2_000

# --- Format -----------------------------------------------------------------------------------------------------------

NUM, TEXT = "[NUM]", "[TEXT]"
_PLACEHOLDER = re.compile(r"(\[[A-Z][A-Z_]+\])")
# Bounded, because it is tried at every position that a [TEXT] before it may end at.
_NUM = re.compile(
    r"[-+\u2212]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,13}(?![0-9])|[0-9]{1,40})?(?:\.[0-9]{1,40})?(?:/[0-9]{1,40})?"
)
_BREAK = re.compile(r"[.!?;]\s|>\s?")


@universal(bounds=(0, 1))
def match_format_exactly(response: str, expected_format: str) -> float:
    """Grades whether a response ends in the expected sentence.

    The template is literal text with the placeholders `[NUM]`, one written number such as `-1,234.5` or `3/4`, and
    `[TEXT]`, at least one character of any kind. Runs of whitespace equal one space; case counts.

    Args:
      response: A completion, or an array of them. Its last 20,000 characters are looked at.
      expected_format: The template, or an array of them; broadcast against `response`.

    Returns:
      1.0 where the response, or what follows the end of one of its sentences, lines or tags, is the template from
      beginning to end; 0.5 where it holds at least one element of the template in any case, an element being a `[NUM]`
      or a piece of literal text that has a letter or digit; else 0.0.

    Raises:
      ValueError: The template is blank or has a placeholder of another name.

    Examples:
      >>> match_format_exactly("2 + 2 = 4. The answer is 4.", "The answer is [NUM].")
      1.0
      >>> match_format_exactly(["2 plus 2 equals 4.", "No idea!"], "The answer is [NUM].")
      array([0.5, 0. ])
    """
    checked_text(response)
    pieces = _pieces(expected_format)
    body, starts = _settled(response)
    if _ends_in(body, starts, pieces):
        return 1.0
    folded = body.casefold()
    return 0.5 if any(_holds(folded, piece) for piece in pieces) else 0.0


@functools.lru_cache(maxsize=1024)
def _pieces(expected_format: str) -> tuple[str, ...]:
    """Literal texts and placeholders of a template, in order."""
    pieces = tuple(piece for piece in _PLACEHOLDER.split(" ".join(expected_format.split())) if piece)
    unknown = [piece for piece in pieces if _PLACEHOLDER.fullmatch(piece) and piece not in (NUM, TEXT)]
    if unknown or not pieces:
        got = f"the placeholder {unknown[0]}" if unknown else "no text"
        raise ValueError(f"expected_format has {got}; write a template with {NUM} or {TEXT}: 'The answer is [NUM].'")
    return pieces


def _settled(response: str) -> tuple[str, set[int]]:
    """The end of a response with single spaces, and where its sentences, lines and what follows a tag begin."""
    lines = [" ".join(words) for line in response[-TAIL:].splitlines() if (words := line.split())]
    body, starts, offset = " ".join(lines), set(), 0
    for line in lines:
        starts.add(offset)
        offset += len(line) + 1
    if len(response) > TAIL:
        starts.discard(0)  # The cut may have fallen into a sentence.
    return body, starts | {mark.end() for mark in _BREAK.finditer(body)}


def _ends_in(body: str, starts: set[int], pieces: Sequence[str]) -> bool:
    """Whether the pieces lead from one of the starts to the end of the text.

    Keeps the set of positions that the pieces so far can end at, instead of trying alternatives one after the other:
    the cost is a product of lengths whatever the text.
    """
    positions = starts
    for piece in pieces:
        if piece == TEXT:
            positions = set(range(min(positions, default=len(body)) + 1, len(body) + 1))
        elif piece == NUM:
            matches = (_NUM.match(body, position) for position in positions)
            positions = {match.end() for match in matches if match and any(map(str.isdigit, match[0]))}
        else:
            positions = {position + len(piece) for position in positions if body.startswith(piece, position)}
        if not positions:
            return False
    return len(body) in positions


def _holds(folded: str, piece: str) -> bool:
    if piece in (NUM, TEXT):
        return piece == NUM and _NUMBER.search(folded) is not None
    literal = piece.strip().casefold()
    return any(map(str.isalnum, literal)) and literal in folded


# --- Correctness ------------------------------------------------------------------------------------------------------


@universal(bounds=(0, 1))
def check_answer(response: str, ground_truth: str | float) -> float:
    """Grades the answer of a response, with partial credit.

    The answer is what `agent_tunix.text.stated_answer` finds, or the whole response where that is nothing but an
    answer.

    Args:
      response: A completion, or an array of them.
      ground_truth: The reference answer as text or number, or an array of them; broadcast against `response`.

    Returns:
      1.0 where the answer equals the ground truth as `exact_answer` compares them. 0.5 where it is one number that
      differs from the ground truth by at most 10 % of it, or where no answer is stated and the last number of the
      response equals the ground truth. Else 0.0; a ground truth of 0 has no neighbourhood.

    Raises:
      TypeError: A response is not text, or a ground truth is neither text nor a number.

    Examples:
      >>> check_answer("2 + 2 = 4. The answer is 4.", "4")
      1.0
      >>> check_answer(["2 plus 2 equals 4.", "The answer is 4.4.", "The answer is 5."], 4)
      array([0.5, 0.5, 0. ])
    """
    truth = str(ground_truth)
    if exact_answer(response, ground_truth) == 1.0 or _is_all_of(response, truth):
        return 1.0
    answer = given_answer(response)
    if answer is None:
        return 0.5 * exact_answer(response, ground_truth, fallback="last_number")
    return 0.5 if within(answer, truth, 0.1) else 0.0


def given_answer(response: str) -> str | None:
    """The stated answer; where none is stated, the response itself if it is one number."""
    stated = text.stated_answer(response)
    if stated is None and quantity(response) is not None:
        return response
    return stated


def _is_all_of(response: str, truth: str) -> bool:
    """Whether the response is the answer and nothing else."""
    if len(response) > _MAX_ANSWER or not response.strip() or text.stated_answer(response) is not None:
        return False
    return answer_key(response) == answer_key(truth)


# --- Numbers ----------------------------------------------------------------------------------------------------------

# The sign belongs to the number where no operand stands before it: `3-5` holds 3 and 5.
_NUMBER = re.compile(
    r"(?:(?<![A-Za-z0-9_)\]}])[-+\u2212]\$?)?"
    r"(?:(?<![A-Za-z_])(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![A-Za-z0-9_.])\.[0-9]+)"
    r"(?:/[0-9]+|[eE][-+]?[0-9]+)?(?:[ ]?%)?"
)


def _column_of_numbers(columns: Mapping[str, Any]) -> Any:
    """The numbers that other trainers pass as the column of answers."""
    if "answer" in columns:
        return columns["answer"]
    raise ValueError(f"check_numbers needs the column `expected_numbers` or `answer`, got {', '.join(sorted(columns))}")


def _over_lists(check: Callable[[str, Any], dict[str, Any]]) -> Callable[..., Any]:
    """Applies a function whose result is a record to lists, and to the columns that other trainers pass."""

    @functools.wraps(check)
    def checked(response: Any = None, expected_numbers: Any = None, **columns: Any) -> Any:
        if "completions" in columns:
            response = [content(completion) for completion in columns["completions"]]
            rows = list(_column_of_numbers(columns) if expected_numbers is None else expected_numbers)
        elif columns or expected_numbers is None:
            raise TypeError(
                f"check_numbers takes response and expected_numbers, got {', '.join(columns) or 'one of them'}"
            )
        elif isinstance(response, str):
            return check(response, expected_numbers)
        else:
            expected = expected_numbers.tolist() if hasattr(expected_numbers, "tolist") else expected_numbers
            each = any(isinstance(row, Sequence) and not isinstance(row, str) for row in expected)
            rows = list(expected) if each else [expected] * len(response)
        if len(rows) != len(response):
            raise ValueError(f"check_numbers got {len(rows)} lists of numbers for {len(response)} responses")
        return [check(one, row) for one, row in zip(response, rows, strict=True)]

    checked.each = check  # pyright: ignore[reportAttributeAccessIssue]
    return checked


@_over_lists
def check_numbers(response: str, expected_numbers: Sequence[float | str]) -> dict[str, Any]:
    """Extracts the numbers of a response and compares them with the expected ones.

    Numbers are those of the stated answer, where one is stated; else the last ones of the response, as many as are
    expected. They are compared exactly, signs included, in any order, each at most once.

    Args:
      response: A completion, or a list of them.
      expected_numbers: Numbers, or texts that are one number each; with a list of responses either one list for all of
        them or one list for each.

    Returns:
      A dictionary, or a list of them: `extracted`, the numbers found, as int where whole, else as float; `matches`, for
      each expected number whether it was found; `score`, the matches as a share of the expected or of the extracted
      numbers, whichever are more, so that listing many numbers does not pay.

    Raises:
      TypeError: A response is not text.
      ValueError: An expected number is none.

    Examples:
      >>> check_numbers("2 + 2 = 4. The answer is 4.", [4])
      {'extracted': [4], 'matches': [True], 'score': 1.0}
      >>> check_numbers("The answer is 3, 4 or 5.5.", [4, 6])["extracted"]
      [3, 4, 5.5]
    """
    checked_text(response)
    expected = [_expected(number) for number in _listed(expected_numbers)]
    found = [entry.value for entry in map(quantity, extracted_numbers(response, len(expected))) if entry is not None]
    left, matches = Counter(found), []
    for number in expected:
        matches.append(left[number] > 0)
        left[number] -= 1
    most = max(len(expected), len(found))
    return {
        "extracted": [int(value) if value == int(value) else float(value) for value in found],
        "matches": matches,
        "score": sum(matches) / most if most else 1.0,
    }


def extracted_numbers(response: str, count: int) -> list[str]:
    """The numbers of the stated answer, or the last ones where none is stated, as written; unreadable ones left out."""
    stated = text.stated_answer(response)
    if stated is None:
        written = [match[0] for match in deque(_NUMBER.finditer(response[-TAIL:]), maxlen=count)]
    elif quantity(stated) is not None:
        return [stated]
    else:
        # Nothing longer names an answer, and reading a number costs microseconds.
        written = [match[0] for match in _NUMBER.finditer(stated)] if len(stated) <= _MAX_LIST else []
    return [number for number in written if quantity(number) is not None]


def _listed(numbers: Any) -> Sequence[Any]:
    return [numbers] if isinstance(numbers, str) or not hasattr(numbers, "__len__") else numbers


def _expected(number: Any) -> Decimal | Fraction:
    found = quantity(str(number))
    if found is None:
        raise ValueError(f"check_numbers expects {number!r:.80}, which is no number; give numbers such as 4 or '1,000'")
    return found.value
