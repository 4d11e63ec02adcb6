"""Rewards: graders of one completion, lifted to batches, combined and shaped.

A grader is a pure function of strings; `per_completion`, `from_lists` and `as_reward` lift functions to a `Reward`,
`weighted_sum` and its relatives combine rewards, and a `Shaping` transforms the resulting scores. A reward to start
from::

    from agent_tunix import rewards

    reward = rewards.weighted_sum(
        (0.3, rewards.per_completion(rewards.tag_format, name="format", bounds=(0, 1))),
        (0.7, rewards.per_completion(rewards.exact_answer, "answer", name="correctness", bounds=(0, 1))),
    )

which is `rewards.default()`.
"""

import importlib
from typing import Any

_HOMES = {
    # Graders: text to a number, without jax.
    "_graders": ("exact_answer", "tag_format"),
    "_answers.numbers": ("answer_key",),
    "_documented": ("check_answer", "check_numbers", "match_format_exactly"),
    "_patterns": (
        "binary_reward", "composite_reward", "continuous_reward", "graduated_reward", "improved_reward",
        "robust_reward", "shaped_reward", "stable_reward",
    ),
    "_aspects": (
        "check_correctness", "check_format", "close_match", "evaluate_clarity", "evaluate_completeness",
        "evaluate_conciseness", "evaluate_correctness", "evaluate_format", "evaluate_relevance", "exact_match",
        "extract_number", "has_hallucination", "has_reasoning_steps", "is_correct", "is_partially_correct",
    ),
    "custom": ("custom_reward_function",),
    "_texts": (
        "equation_errors", "hallucination_penalty", "json_valid", "reasoning_steps", "repetition", "script_consistency",
        "similarity",
    ),
    "_reasoning": ("reasoning_patterns",),
    "_code": ("SandboxError", "passes_tests", "program_of", "sandbox_report"),
    # From functions to rewards, and where they run.
    "_lift": ("as_reward", "from_lists", "per_completion"),
    "_calls.running": ("OnFailure", "Runner", "asynchronous", "inline", "processes", "retry", "threads"),
    "_scorer": ("scorer",),
    "_judge": ("http_judge",),
    "_tokens": ("from_tokens",),
    "_attribution": ("attributed",),
    "_turns": ("turn_credit", "turn_rewards"),
    "_shapley": ("joining_orders", "shapley", "shapley_values"),
    "_tools": ("calculator", "tool_traces"),
    "_interop": ("as_tunix", "from_trl", "from_verl"),
    # What rewards have to do with each other, and completions with their set.
    "_distance": ("distance",),
    "_sets": (
        "cosine_kernel", "discrepancy", "frechet", "gaussian_kernel", "greedy_swap", "hashed_ngrams", "of_sets",
        "set_contributions", "vendi",
    ),
    # From rewards to rewards.
    "_compose": (
        "default", "first_valid", "flat_groups", "geometric_mean", "maximum", "minimum", "mixed_groups", "product",
        "signed_geometric_mean", "weighted_sum",
    ),
    "_checklist": ("difficulty_weighted", "difficulty_weights"),
    "_adjust": ("bounded", "calibrated", "gate", "hierarchy", "route", "scale"),
    "_clip": ("clip",),
    "_embeddings": ("bmas", "embedding_similarity", "max_average_similarity"),
    "_length": ("concise", "cosine_length", "length_budget", "relative_length", "soft_overlong"),
    # From scores to scores.
    "_shaping": (
        "RunningMean", "RunningMoments", "annotate", "center", "center_running", "chain", "identity", "noise", "rank",
        "sigmoid", "standardize", "tanh",
    ),
    "_process": ("clip_steps", "process_reward", "step_differences"),
    "_solved": ("concise_where_solved",),
    "_references": (
        "RunningRange", "center_on", "clip_running", "log_sigmoid_centered", "min_max", "over_references", "preference",
        "reference_scores",
    ),
    "_weights": ("CurriculumState", "Stage", "anneal", "curriculum", "ema_weights", "potential_difference"),
}  # fmt: skip
"""Which file each public name lives in. Files are imported when a name of theirs is first asked for: a process that
only grades then needs no jax."""

_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "presets":
        return importlib.import_module("agent_tunix.rewards.presets")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"agent_tunix.rewards.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "presets"]
