"""The design patterns of the documented API.

Each is a few lines over the helpers of its examples, to be used as it is or copied and changed. All are functions of
one completion that also take arrays; `as_reward` makes any of them a reward.
"""

from numbers import Number
from typing import Any

from agent_tunix.rewards._answers.numbers import quantity
from agent_tunix.rewards._aspects import (
    check_correctness,
    check_format,
    close_match,
    evaluate_clarity,
    evaluate_conciseness,
    evaluate_correctness,
    evaluate_relevance,
    exact_match,
    extract_number,
    has_hallucination,
    has_reasoning_steps,
    is_correct,
    is_partially_correct,
)
from agent_tunix.rewards._universal import universal


@universal(bounds=(0, 1))
def binary_reward(response: str, ground_truth: str | float) -> float:
    """Pays 1.0 for a right answer, else 0.0: for tasks with clear right and wrong answers.

    Examples:
      >>> binary_reward(["The answer is 4.", "The answer is 5."], 4)
      array([1., 0.])
    """
    return 1.0 if is_correct(response, ground_truth) else 0.0


@universal(bounds=(0, 1))
def graduated_reward(response: str, ground_truth: str | float) -> float:
    """Pays 1.0 for a right answer, 0.5 for a partly right one, else 0.0.

    Examples:
      >>> graduated_reward(["The answer is 100.", "The answer is 95.", "The answer is 50."], 100)
      array([1. , 0.5, 0. ])
    """
    if is_correct(response, ground_truth):
        return 1.0
    return 0.5 if is_partially_correct(response, ground_truth) else 0.0


@universal(bounds=(0, 1))
def continuous_reward(response: str, ground_truth: str | float, *, max_error: float = 100) -> float:
    """Pays by closeness, `1 - error / max_error` and at least 0.0: for numerical tasks.

    Args:
      response: A completion, or an array of them; its number is that of `extract_number`, and without one it gets 0.0.
      ground_truth: A number, or text that is one.
      max_error: Difference from which on nothing is paid, in the unit of the answers, more than 0.

    Returns:
      A reward in [0, 1].

    Raises:
      ValueError: The ground truth is no number, or `max_error` is not positive.

    Examples:
      >>> continuous_reward(["The answer is 80.", "The answer is 300.", "No idea."], 100)
      array([0.8, 0. , 0. ])
    """
    if not max_error > 0:
        raise ValueError(f"continuous_reward got max_error={max_error}; give a positive one")
    error = abs(extract_number(response) - _number(ground_truth))
    return max(0.0, 1.0 - error / max_error)


@universal(bounds=(0, 1))
def composite_reward(response: str, prompt: str, ground_truth: str | float) -> float:
    """Pays for several aspects: `0.4 * correctness + 0.3 * relevance + 0.2 * clarity + 0.1 * conciseness`.

    More than half of it can be had without a right answer, as the documented weights have it; `robust_reward` or
    `gate` make correctness a condition.

    Examples:
      >>> round(composite_reward("2 + 2 = 4. The answer is 4.", "What is 2 + 2?", "4"), 6)
      1.0
    """
    return (
        0.4 * evaluate_correctness(response, ground_truth)
        + 0.3 * evaluate_relevance(response, prompt)
        + 0.2 * evaluate_clarity(response)
        + 0.1 * evaluate_conciseness(response)
    )


@universal
def shaped_reward(response: str, ground_truth: str | float) -> float:
    """Pays correctness with small additions that guide learning.

    Returns:
      `check_correctness`, less 0.1 for every 100 words, plus 0.1 for reasoning steps, less 0.2 for a false equation: at
      most 1.1 and without a lower bound, as the documented length penalty grows without end.

    Examples:
      >>> round(shaped_reward("2 + 2 = 4. The answer is 4.", "4"), 6)  # 9 words, one step
      1.091
    """
    base_reward = check_correctness(response, ground_truth)
    length_penalty = -0.1 * len(response.split()) / 100
    reasoning_bonus = 0.1 if has_reasoning_steps(response) else 0.0
    hallucination_penalty = -0.2 if has_hallucination(response) else 0.0
    return base_reward + length_penalty + reasoning_bonus + hallucination_penalty


@universal(bounds=(0, 1))
def improved_reward(response: str, ground_truth: str | float) -> float:
    """Pays 1.0 for an exact match, 0.5 for a number within 10 %, else 0.0: where binary rewards are too sparse.

    Examples:
      >>> improved_reward(["The answer is 100.", "About 95.", "About 50."], 100)
      array([1. , 0.5, 0. ])
    """
    if exact_match(response, ground_truth):
        return 1.0
    return 0.5 if close_match(response, ground_truth, tolerance=0.1) else 0.0


@universal(bounds=(0, 1))
def stable_reward(response: str, ground_truth: str | float) -> float:
    """Pays correctness, and at least 0.1.

    The floor matters where rewards are multiplied or their logarithm is taken. Advantages relative to a group do not
    feel it: raising all wrong answers alike leaves their order, and a group of wrong answers flat.

    Examples:
      >>> stable_reward(["The answer is 4.", "The answer is 9."], 4)
      array([1. , 0.1])
    """
    return max(check_correctness(response, ground_truth), 0.1)


@universal(bounds=(0, 1))
def robust_reward(response: str, ground_truth: str | float, expected_format: str = "The answer is [NUM].") -> float:
    """Pays correctness only where the format is kept: against rewards that are gamed one part at a time.

    Args:
      response: A completion, or an array of them.
      ground_truth: The reference answer as text or number.
      expected_format: A template as `match_format_exactly` takes it.

    Returns:
      `check_correctness`, or 0.0 where `check_format` is below 0.8.

    Examples:
      >>> robust_reward(["So it is 4. The answer is 4.", "2 plus 2 equals 4."], 4)
      array([1., 0.])
    """
    if check_format(response, expected_format) < 0.8:
        return 0.0
    return check_correctness(response, ground_truth)


def _number(ground_truth: Any) -> float:
    """A reference that has to be a number, as float."""
    if isinstance(ground_truth, Number) and not isinstance(ground_truth, complex):
        return float(ground_truth)  # pyright: ignore[reportArgumentType]
    found = quantity(str(ground_truth))
    if found is None:
        raise ValueError(f"continuous_reward got the ground truth {ground_truth!r:.80}, which is no number; give one")
    return float(found.value)
