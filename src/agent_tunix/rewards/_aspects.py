"""Aspects of a response that reward patterns are made of: correctness, format, style, steps, hallucination.

All are functions of one completion that also take arrays. None of those that look at style says anything about truth:
they are cheap to satisfy, so they deserve small weights beside a correctness that is not.
"""

import math
import re

from agent_tunix import text
from agent_tunix.rewards._answers.numbers import quantity, within
from agent_tunix.rewards._documented import check_answer, extracted_numbers, given_answer, match_format_exactly
from agent_tunix.rewards._equations import false_statements
from agent_tunix.rewards._graders import tag_format
from agent_tunix.rewards._universal import universal

READ = 20_000
"""Characters, from the beginning of a response, that the helpers about style look at."""

# --- Correctness ------------------------------------------------------------------------------------------------------


@universal(bounds=(0, 1))
def is_correct(response: str, ground_truth: str | float) -> bool:
    """Tells whether the answer of a response is exactly right: whether `check_answer` gives 1.0.

    Args:
      response: A completion, or an array of them.
      ground_truth: The reference answer as text or number, or an array of them.

    Returns:
      True or False; an array of 1.0 and 0.0 where either argument is one.

    Examples:
      >>> is_correct("The answer is 1,000.", 1000), is_correct("The answer is 999.", 1000)
      (True, False)
    """
    return check_answer(response, ground_truth) == 1.0


@universal(bounds=(0, 1))
def is_partially_correct(response: str, ground_truth: str | float) -> bool:
    """Tells whether a response earns partial credit or more: whether `check_answer` gives at least 0.5.

    Examples:
      >>> is_partially_correct("The answer is 950.", 1000), is_partially_correct("The answer is 850.", 1000)
      (True, False)
    """
    return check_answer(response, ground_truth) >= 0.5


@universal(bounds=(0, 1))
def exact_match(response: str, ground_truth: str | float) -> bool:
    """Tells whether the answer equals the ground truth exactly; `is_correct` by the name that examples use.

    Examples:
      >>> exact_match("The answer is 4.0.", 4), exact_match("4.01", 4)
      (True, False)
    """
    return check_answer(response, ground_truth) == 1.0


@universal(bounds=(0, 1))
def close_match(response: str, ground_truth: str | float, tolerance: float = 0.1) -> bool:
    """Tells whether the number that a response gives is close to the true one.

    Args:
      response: A completion, or an array of them; the number is that of `extract_number`.
      ground_truth: A number, or text that is one; anything else is close only to itself.
      tolerance: Greatest difference as a share of the ground truth, 0.1 being 10 %.

    Returns:
      True or False; an array of 1.0 and 0.0 where an argument is one. A ground truth of 0 has no neighbourhood.

    Examples:
      >>> close_match("The answer is 95.", 100), close_match("The answer is 95.", 100, tolerance=0.01)
      (True, False)
    """
    truth, number = str(ground_truth), _one_number(response)
    if quantity(truth) is None:
        return is_correct(response, ground_truth)
    return number is not None and within(number, truth, tolerance)


@universal
def extract_number(response: str) -> float:
    """Extracts the one number that a response gives: its stated answer, else its last number.

    Args:
      response: A completion, or an array of them.

    Returns:
      The number, a percentage in percent; NaN where there is none, where the stated answer holds several, or where it
      is beyond the range of floats. An error computed from NaN is NaN, and `max(0.0, 1.0 - error)` is then 0.0.

    Examples:
      >>> extract_number("2 + 2 = 4. The answer is $1,234.50.")
      1234.5
      >>> extract_number("The answer is 41 or 42.")
      nan
    """
    number = _one_number(response)
    found = None if number is None else quantity(number)
    value = math.nan if found is None else float(found.value)
    return value if math.isfinite(value) else math.nan


@universal(bounds=(0, 1))
def check_correctness(response: str, ground_truth: str | float) -> float:
    """Grades correctness in [0, 1]: `check_answer` by the name that examples use."""
    return check_answer(response, ground_truth)


@universal(bounds=(0, 1))
def evaluate_correctness(response: str, ground_truth: str | float) -> float:
    """Grades correctness in [0, 1]: `check_answer` by the name that examples use. A blank ground truth is never met."""
    return check_answer(response, ground_truth)


def _one_number(response: str) -> str | None:
    """The number of the answer as written, if it is a single one."""
    answer = given_answer(response)
    if answer is not None and quantity(answer) is not None:
        return answer
    found = extracted_numbers(response, 1)
    return found[0] if len(found) == 1 else None


# --- Format -----------------------------------------------------------------------------------------------------------


@universal(bounds=(0, 1))
def check_format(response: str, expected_format: str) -> float:
    """Grades format in [0, 1]: `match_format_exactly` by the name that examples use."""
    return match_format_exactly(response, expected_format)


@universal(bounds=(0, 1))
def evaluate_format(response: str, expected_format: str | None = None) -> float:
    """Grades format in [0, 1].

    Args:
      response: A completion, or an array of them.
      expected_format: A template as `match_format_exactly` takes it. None, for data that names no format, asks for
        `<reasoning>...</reasoning><answer>...</answer>`, the format that `tag_format` grades.

    Returns:
      1.0, 0.5 or 0.0; an array where an argument is one.

    Examples:
      >>> evaluate_format("<answer>4</answer>"), evaluate_format("It is 4.", "The answer is [NUM].")
      (1.0, 0.5)
    """
    return tag_format(response) if expected_format is None else match_format_exactly(response, expected_format)


# --- Style ------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.!?]+(?:\s+|\Z)|\n+")
_SMALL_WORDS = """
    a all also an and any are as at be been but by can did do does each find for from get give had has have he her
    him his how if in into is it its let many me more much my no not of on or our she so some than that the their
    them then there these they this to was we were what when where which who why will with would you your
"""
_SMALL = frozenset(_SMALL_WORDS.split())
_CLOSINGS = frozenset(".!?)]}>\"'”’*`$%")


@universal(bounds=(0, 1))
def evaluate_completeness(response: str) -> float:
    """Grades whether a response is complete: half for a stated answer, half for not breaking off.

    Args:
      response: A completion, or an array of them.

    Returns:
      0.5 where `agent_tunix.text.stated_answer` finds an answer that is not blank, plus 0.5 where the response ends in
      a closing mark or a digit and leaves no tag of the tagged format open.

    Examples:
      >>> evaluate_completeness(["2 + 2 = 4. The answer is 4.", "2 plus 2 equals 4.", "2 plus 2 equals"])
      array([1. , 0.5, 0. ])
    """
    return 0.5 * bool(text.stated_answer(response)) + 0.5 * _is_finished(response)


@universal(bounds=(0, 1))
def evaluate_relevance(response: str, prompt: str) -> float:
    """Grades whether a response is about its prompt: how many of the prompt's words and numbers it uses.

    Words count once, without case and without small words such as "the". Using half of them earns the whole grade: an
    answer need not repeat its question. A verbatim copy of the prompt is taken out of the response first.

    Args:
      response: A completion, or an array of them. Its first 20,000 characters are looked at.
      prompt: The text of the prompt, or an array of them.

    Returns:
      A grade in [0, 1]; 0.0 for a response without any word, else 1.0 where the prompt has no word that counts.

    Examples:
      >>> evaluate_relevance("3 apples and 4 apples make 7.", "Tom has 3 red apples and buys 4 green ones.")
      0.75
    """
    asked = _content_words(prompt)
    used = _content_words(response[: READ + len(prompt)].replace(prompt.strip() or "\0", " "))
    if not asked:
        return float(bool(_WORD.search(response, 0, READ)))
    return min(1.0, 2 * len(asked & used) / len(asked))


@universal(bounds=(0, 1))
def evaluate_clarity(response: str, *, longest: int = 25) -> float:
    """Grades how readable a response is: the share of its sentences that are short and not repeated.

    Args:
      response: A completion, or an array of them. Its first 20,000 characters are looked at.
      longest: Most words of a short sentence, 25 by default: the limit of the style guide of the United Kingdom's
        government for plain English.

    Returns:
      A grade in [0, 1]; 0.0 for a response without any word. A line counts as a sentence.

    Examples:
      >>> evaluate_clarity("Add 2 and 2. The answer is 4.")
      1.0
      >>> evaluate_clarity("It is 4. It is 4. It is 4. It is 4.")
      0.25
    """
    sentences = [words for part in _SENTENCE_END.split(response[:READ]) if (words := part.split())]
    sentences = [words for words in sentences if _WORD.search(" ".join(words))]
    short = {" ".join(words).casefold() for words in sentences if len(words) <= longest}
    return len(short) / len(sentences) if sentences else 0.0


@universal(bounds=(0, 1))
def evaluate_conciseness(response: str, *, enough: int = 50, too_many: int = 500) -> float:
    """Grades brevity: 1.0 up to one number of words, falling in a straight line to 0.0 at another.

    Args:
      response: A completion, or an array of them.
      enough: Words up to which nothing is lost; words are what whitespace separates.
      too_many: Words from which on nothing is left, more than `enough`.

    Returns:
      A grade in [0, 1]; 0.0 for a blank response, which would else be the best one.

    Raises:
      ValueError: `too_many` is not more than `enough`.

    Examples:
      >>> evaluate_conciseness(["The answer is 4.", "so " * 275, ""])
      array([1. , 0.5, 0. ])
    """
    if too_many <= enough:
        raise ValueError(f"evaluate_conciseness got enough={enough} and too_many={too_many}; make too_many the greater")
    words = len(response.split(None, too_many))  # the rest of a long text stays in one piece
    return min(1.0, max(0.0, (too_many - words) / (too_many - enough))) if words else 0.0


def _is_finished(response: str) -> bool:
    end = response[-1_000:].rstrip()[-1:]
    if end not in _CLOSINGS and not end.isdigit():
        return False
    count = text.tag_counts(response)
    reasoning, answer = (text.REASONING_OPEN, text.REASONING_CLOSE), (text.ANSWER_OPEN, text.ANSWER_CLOSE)
    return all(count[opening] == count[closing] for opening, closing in (reasoning, answer))


def _content_words(written: str) -> set[str]:
    return set(map(str.casefold, _WORD.findall(written[:READ]))) - _SMALL


# --- Steps and hallucination ------------------------------------------------------------------------------------------

_CALCULATION = re.compile(r"[0-9)%]\s?[-+*/x×÷·−^]\s?[$(]?[0-9(][^=\n]{0,80}=\s?[-−$(]?[0-9]")
_STEP = re.compile(
    r"(?:^|[.!?:;>])[\s*#_-]{0,8}"
    r"(step\s[0-9]{1,3}|[0-9]{1,2}[.)]\s|first(?:ly)?\b|second(?:ly)?\b|third(?:ly)?\b|next\b|then\b|finally\b|since\b"
    r"|because\b|therefore\b|thus\b|hence\b|so\b)",
    re.IGNORECASE | re.MULTILINE,
)


@universal(bounds=(0, 1))
def has_reasoning_steps(response: str) -> bool:
    """Tells whether a response shows steps of reasoning.

    Args:
      response: A completion, or an array of them. Its first 20,000 characters are looked at.

    Returns:
      True where it writes out a calculation with its result (`48 / 2 = 24`), or where at least two different markers
      such as "Step 1", "2.", "First", "Then" or "Therefore" open its sentences or lines. An array of 1.0 and 0.0 for an
      array. Whether the steps are right is not asked: `has_hallucination` asks.

    Examples:
      >>> has_reasoning_steps("48 / 2 = 24, so it is 24."), has_reasoning_steps("The answer is 24.")
      (True, False)
    """
    read = response[:READ]
    if _CALCULATION.search(read):
        return True
    return len({match[1].casefold().strip() for match in _STEP.finditer(read)}) >= 2


@universal(bounds=(0, 1))
def has_hallucination(response: str) -> bool:
    """Tells whether a response claims something that can be shown to be false: an equation such as `2 + 2 = 5`.

    Every equation between numbers is checked by exact arithmetic, as `equation_errors` does. Nothing else is judged: a
    false fact about the world needs a learned scorer.

    Args:
      response: A completion, or an array of them.

    Returns:
      True or False; an array of 1.0 and 0.0 for an array.

    Examples:
      >>> has_hallucination("2 + 2 = 5. The answer is 5."), has_hallucination("2 + 2 = 4.")
      (True, False)
    """
    return bool(false_statements(response))
