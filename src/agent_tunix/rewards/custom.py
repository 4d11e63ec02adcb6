"""The place for reward functions of your own.

Write a function into this file, or into any other, and name it in the settings: a bare name is looked up here and among
the functions of `agent_tunix.rewards`, anything else is an import path or a file::

    agent-tunix train training.reward_function=custom_reward_function
    agent-tunix train training.reward_function=my_package.my_module:my_reward
    agent-tunix train training.reward_function=my_rewards.py:my_reward

What a function gets is decided by the names of its parameters: `response` first, then any of `prompt` (the text of the
prompt), `metadata` (a dictionary of all columns of the data), `ground_truth` (the reference answer) and names of
columns; see `agent_tunix.rewards.as_reward`. It returns a number, or None to abstain. An exception is recorded as a
failure of that completion and never counts as a zero.

A function stays easy to debug, test and run in another process if it is pure: text in, number out.
"""

from typing import Any

from agent_tunix.rewards._aspects import evaluate_completeness, evaluate_correctness, evaluate_format


def custom_reward_function(response: str, prompt: str, metadata: dict[str, Any]) -> float:
    """Computes a reward from format, correctness and completeness: an example to change.

    Args:
      response: A completion.
      prompt: The text of its prompt, not used here.
      metadata: Columns of the data: `answer`, and where there is one `format`, a template as `match_format_exactly`
        takes it. Without a `format` the tagged format is expected.

    Returns:
      `0.3 * format + 0.5 * correctness + 0.2 * completeness`, in [0, 1].

    Examples:
      >>> row = {"answer": "4", "format": "The answer is [NUM]."}
      >>> custom_reward_function("2 + 2 = 4. The answer is 4.", "What is 2 + 2?", row)
      1.0
    """
    expected = metadata.get("answer", "")
    format_score = evaluate_format(response, metadata.get("format"))
    correctness_score = evaluate_correctness(response, expected)
    completeness_score = evaluate_completeness(response)
    return 0.3 * format_score + 0.5 * correctness_score + 0.2 * completeness_score
