"""The reward of the public GRPO demonstrations on `<reasoning>...</reasoning><answer>...</answer>`.

Four list-style functions `(prompts, completions, answer, **kwargs) -> list[float]`, as TRL and Tunix take them, on the
scales that the demonstrations made common::

    match_format_exactly          3.0 for the format, else 0.0
    match_format_approximately   +0.5 for each of the four tags that stands there once, else -0.5
    check_answer                  3.0 the answer; 1.5 the answer with something around it; 0.5 within 10 %;
                                  0.25 within 20 %; -1.0 another number; -0.5 no number; 0.0 no answer block
    check_numbers                 1.5 where the first number of the answer is right, else 0.0

They differ from the demonstrations where those are wrong: signs count, commas are read on both sides, a reference of 0
can be met, several numbers are not one, and no regular expression runs over the text, whose backtracking took seconds
on a few thousand tags. `check_numbers` pays again for what `check_answer` has paid for, so `reward` leaves it out of
the total unless asked. What is kept is part of the scale and worth knowing: saying nothing (0.0) beats a wrong number.

References:
  Tunix 0.1.7, `tunix/cli/reward_fn/gsm8k.py`, for the scales; its notebooks and those of Unsloth gave the 1.5 for an
  answer that is right once stripped.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent_tunix import text
from agent_tunix.rewards._answers.numbers import quantity, within
from agent_tunix.rewards._documented import extracted_numbers
from agent_tunix.rewards._graders import exact_answer
from agent_tunix.rewards._universal import content

if TYPE_CHECKING:
    from agent_tunix.types import Reward

_PLAIN_NUMBER = re.compile(r"[-+\u2212]?[0-9][0-9,]*(?:\.[0-9]+)?|[-+\u2212]?\.[0-9]+")


def match_format_exactly(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """Pays 3.0 where a completion is one reasoning block and one answer block, neither blank, with nothing around them.

    Args:
      prompts: Not used.
      completions: Texts, or lists of messages of which the last counts.
      **kwargs: Further columns, not used.

    Returns:
      3.0 or 0.0 for each completion.

    Examples:
      >>> match_format_exactly([""], ["<reasoning>2 + 2</reasoning><answer>4</answer>"])
      [3.0]
    """
    return [3.0 if _is_whole(content(completion)) else 0.0 for completion in completions]


def match_format_approximately(prompts: Sequence[Any], completions: Sequence[Any], **kwargs: Any) -> list[float]:
    """Pays 0.5 for each of the four tags that stands in a completion exactly once, and takes 0.5 for each other one.

    Args:
      prompts: Not used.
      completions: Texts, or lists of messages of which the last counts.
      **kwargs: Further columns, not used.

    Returns:
      A number in [-2, 2] for each completion.

    Examples:
      >>> match_format_approximately(["", ""], ["<answer>4</answer>", "4"])
      [0.0, -2.0]
    """
    counts = [text.tag_counts(content(completion)) for completion in completions]
    return [sum(0.5 if count == 1 else -0.5 for count in counted.values()) for counted in counts]


def check_answer(
    prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any
) -> list[float]:
    """Pays for what stands in the last complete answer block.

    Args:
      prompts: Not used.
      completions: Texts, or lists of messages of which the last counts.
      answer: The reference answers, as texts or numbers, one for each completion.
      **kwargs: Further columns, not used.

    Returns:
      For each completion: 3.0 where the block is the reference, or the same number in other digits (`1,000`, `1000.0`);
      1.5 where it is so once whitespace, currency, units and markup are stripped; 0.5 for one number within 10 % of the
      reference, 0.25 within 20 %, -1.0 for another one; -0.5 where it is not one number; 0.0 without a block, or where
      it is blank.

    Raises:
      ValueError: There are more or fewer answers than completions.

    Examples:
      >>> check_answer([""] * 3, ["<answer>72</answer>", "<answer>$72</answer>", "<answer>-72</answer>"], ["72"] * 3)
      [3.0, 1.5, -1.0]
    """
    return [_answer_points(content(one), truth) for one, truth in zip(completions, answer, strict=True)]


def check_numbers(
    prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any], **kwargs: Any
) -> list[float]:
    """Pays 1.5 where the first number after the last `<answer>`, closed or not, is the reference.

    Args:
      prompts: Not used.
      completions: Texts, or lists of messages of which the last counts.
      answer: The reference answers, as texts or numbers, one for each completion.
      **kwargs: Further columns, not used.

    Returns:
      1.5 or 0.0 for each completion.

    Raises:
      ValueError: There are more or fewer answers than completions.

    Examples:
      >>> check_numbers(["", ""], ["<answer>It is -5 degrees", "<answer>5</answer>"], ["-5", "-5"])
      [1.5, 0.0]
    """
    return [_number_points(content(one), truth) for one, truth in zip(completions, answer, strict=True)]


def reward(*, double_count: bool = False) -> "Reward":
    """Returns the sum of the four functions, each a part of the score.

    Args:
      double_count: Whether `check_numbers` enters the total, as in the demonstrations. By default it is recorded as a
        part and has no weight.

    Returns:
      A reward in [-3, 8], or [-3, 9.5] with double counting; it needs the column `answer`.
    """
    # Lifting needs arrays, which a process that only grades text does without.
    from agent_tunix.rewards._compose import weighted_sum
    from agent_tunix.rewards._lift import from_lists

    return weighted_sum(
        (1.0, from_lists(match_format_exactly, bounds=(0, 3))),
        (1.0, from_lists(match_format_approximately, bounds=(-2, 2))),
        (1.0, from_lists(check_answer, bounds=(-1, 3))),
        (float(double_count), from_lists(check_numbers, bounds=(0, 1.5))),
        name="reasoning_tags",
    )


def _is_whole(completion: str) -> bool:
    """Whether a completion is the tagged format with a reasoning block that is not blank."""
    if not text.is_tagged(completion):
        return False
    head, _, _ = completion.partition(text.REASONING_CLOSE)
    return bool(head.partition(text.REASONING_OPEN)[2].strip())


def _answer_points(completion: str, truth: Any) -> float:
    if not text.has_answer_block(completion):
        return 0.0
    stated = text.stated_answer(completion) or ""
    if exact_answer(completion, truth) == 1.0:
        return 3.0 if _is_bare(completion, stated, str(truth)) else 1.5
    if quantity(stated) is None:
        return -0.5
    near = (points for points, share in ((0.5, 0.1), (0.25, 0.2)) if within(stated, str(truth), share))
    return next(near, -1.0)


def _is_bare(completion: str, stated: str, truth: str) -> bool:
    """Whether the block holds the answer without anything around it, whitespace included."""
    is_tight = f"{text.ANSWER_OPEN}{stated}{text.ANSWER_CLOSE}" in completion
    return is_tight and (stated == truth or _PLAIN_NUMBER.fullmatch(stated) is not None)


def _number_points(completion: str, truth: Any) -> float:
    _, opening, rest = completion.rpartition(text.ANSWER_OPEN)
    expected = quantity(str(truth))
    if not opening or expected is None:
        return 0.0
    inner = rest.partition(text.ANSWER_CLOSE)[0]
    # A block of its own, so that nothing else in the text can state another answer.
    found = extracted_numbers(f"{text.ANSWER_OPEN}{inner}{text.ANSWER_CLOSE}", 1)
    return 1.5 if found and quantity(found[0]) == expected else 0.0
