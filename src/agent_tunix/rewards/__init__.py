"""Rewards: graders of one completion, lifted to batches, combined and shaped.

A grader is a pure function of strings; `per_completion`, `from_lists` and `as_reward` lift functions to a `Reward`,
`weighted_sum` combines rewards, and a `Shaping` transforms the resulting scores. A reward to start from::

    from agent_tunix import rewards

    reward = rewards.weighted_sum(
        (0.3, rewards.per_completion(rewards.tag_format, name="format", bounds=(0, 1))),
        (0.7, rewards.per_completion(rewards.exact_answer, "answer", name="correctness", bounds=(0, 1))),
    )

which is `rewards.default()`.
"""

from agent_tunix.rewards._compose import default, flat_groups, mixed_groups, weighted_sum
from agent_tunix.rewards._graders import exact_answer, tag_format
from agent_tunix.rewards._interop import as_tunix
from agent_tunix.rewards._lift import as_reward, from_lists, per_completion
from agent_tunix.rewards._numbers import answer_key
from agent_tunix.rewards._shaping import RunningMean, center_running, chain, identity

__all__ = [
    "RunningMean",
    "answer_key",
    "as_reward",
    "as_tunix",
    "center_running",
    "chain",
    "default",
    "exact_answer",
    "flat_groups",
    "from_lists",
    "identity",
    "mixed_groups",
    "per_completion",
    "tag_format",
    "weighted_sum",
]
