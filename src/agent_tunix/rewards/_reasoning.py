"""A grader of how a response reasons, by phrases that people use when they do; it knows nothing of the answer."""

from collections import Counter
from collections.abc import Sequence

from agent_tunix.rewards._universal import checked_text, universal

_MAX_TEXT = 200_000

PATTERNS = (
    # What is known and what is wanted.
    "i need to", "we need to", "we know that", "we can see ", "we can observe ", "let's focus on", "given there ",
    # One thing after the other.
    "first, ", "firstly, ", "next, ", "finally, ", "let me first", "let us first", "let's first",
    # Trying and doubting.
    "let me try", "let us try", "let's try", "try again", "wait", "alternatively", "let me check", "let me see",
    "makes sense", "still not", "not working", "not correct", "does not work", "doesn't work",
    # What follows from what.
    "if we", "since we ", "because we ", "so that", "thus", "therefore", "hence", "thereby", "consequently",
    "as a result", "for example ", "for instance ",
)  # fmt: skip
"""Phrases of reasoning in English, in lower case."""


@universal(bounds=(0, 1))
def reasoning_patterns(
    response: str, *, phrases: Sequence[str] = PATTERNS, enough: int = 20, n: int = 20, others: str = "user: "
) -> float:
    r"""Grades how many phrases of reasoning a response uses, less what it repeats.

    .. math:: r = \max\left(0, \min\left(1, \frac{\text{phrases found}}{\text{enough}}\right)
        - \frac{\text{n-grams that occur again}}{\text{n-grams}} - \text{turns of others}\right)

    Every phrase counts once. A policy whose answers are better where it reasons improves by this reward alone; any
    other learns to recite the phrases. Give it a small weight, or use it in `calibrated`.

    Args:
      response: A completion, or an array of them. Of more than 200,000 characters the first are read. Case does not
        count.
      phrases: What is looked for, in lower case, anywhere in the text.
      enough: How many of them make a full grade.
      n: Words of the n-grams; a distinct one that occurs several times counts once.
      others: What a turn of somebody else begins with, which ends a response that goes on by itself.

    Returns:
      A grade in [0, 1].

    Raises:
      ValueError: `enough` or `n` is not positive.

    Examples:
      >>> reasoning_patterns("First, add 2 and 2. Therefore it is 4. Wait, let me check.")
      0.2

    References:
      Lv et al., 2025, The Climb Carves Wisdom Deeper Than the Summit, arXiv:2505.22653, whose phrases these are.
    """
    if enough < 1 or n < 1:
        raise ValueError(f"reasoning_patterns got enough={enough} and n={n}; give positive numbers")
    lowered = checked_text(response)[:_MAX_TEXT].lower()
    found = min(1.0, sum(phrase in lowered for phrase in phrases) / enough)
    return max(0.0, found - _repeated(lowered.split(), n) - lowered.count(others))


def _repeated(words: Sequence[str], n: int) -> float:
    """Distinct n-grams that occur again, as a share of all."""
    count = len(words) - n + 1
    if count < 1:
        return 0.0
    grams = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    return sum(times > 1 for times in grams.values()) / count
