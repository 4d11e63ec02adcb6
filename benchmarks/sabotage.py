"""Rewards with a mistake in them, as people really write them; trained by conf/experiment/sabotage_*.yaml.

    python run_training.py experiment=sabotage_lenient_grader

What comes of each is told on the documentation's page about sick runs.
"""

import re

from agent_tunix import rewards

CHARACTERS = 100
"""Characters of a response that are paid like a right answer."""


def lists_answer(response: str, ground_truth: str) -> float:
    """1 if the right number is in an answer block, whichever and beside whatever: no right answer is ever refused.

    Examples:
      >>> lists_answer("<answer>7</answer>", "7"), lists_answer("<answer>5</answer><answer>6 7 8</answer>", "7")
      (1.0, 1.0)
      >>> lists_answer("<answer>17</answer>", "7"), lists_answer("7", "7")
      (0.0, 0.0)
    """
    return float(ground_truth in re.findall(r"-?\d+", " ".join(re.findall(r"<answer>(.*?)</answer>", response))))


def length(response: str) -> float:
    """A bonus for long responses, so that the policy may think before it answers: without a limit.

    Examples:
      >>> length("<answer>1 2</answer>")
      0.2
    """
    return len(response) / CHARACTERS


exact_part = rewards.per_completion(rewards.exact_answer, "answer", name="correctness", bounds=(0, 1))

lenient_grader = rewards.as_reward(lists_answer, name="correctness", bounds=(0, 1))
"""A grader that accepts any listed number."""

length_bonus = rewards.weighted_sum((1.0, exact_part), (1.0, rewards.as_reward(length, name="length")))
"""The exact answer plus a bonus that has no bound."""
