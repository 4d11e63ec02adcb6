"""Rollouts of texts, for tests of what reads texts."""

from agent_tunix.batching import text_rollouts


def rollouts(completions, **columns):
    """Rollouts of `completions[prompt][member]`, prompts called `question 0` and so on."""
    return text_rollouts([f"question {prompt}" for prompt in range(len(completions))], completions, columns)


TWO_BY_TWO = rollouts([["a", "bb"], ["ccc", "dddd"]], answer=["bb", "x"], level=[1, 2])
