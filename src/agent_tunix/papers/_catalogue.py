"""The index of published methods: those that are built, with what came out, and those whose place is kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from agent_tunix.papers._frame import find, names

PLANNED, BUILT, REPRODUCED, NOT_REPRODUCED = "planned", "built", "reproduced", "not reproduced"


class Entry(NamedTuple):
    """A line of the index.

    Attributes:
      slug: Name of the file, built or planned.
      title: As published.
      authors: Last names.
      year: Of the first version.
      arxiv: Its number there; empty where it has none or it is not known.
      status: `planned`; `built`, where no results are kept; `reproduced` or `not reproduced` by its kept results.
    """

    slug: str
    title: str
    authors: str
    year: int
    arxiv: str
    status: str


_LATER = (
    (
        "auto_mc_reward",
        "Auto MC-Reward: Automated Dense Reward Design with Large Language Models for Minecraft",
        "Li and others",
        2023,
        "2312.09238",
    ),
    (
        "average_reward_exploration",
        "Sample-efficient Learning of Infinite-horizon Average-reward MDPs with General Function Approximation",
        "He, Zhong, and Yang",
        2024,
        "2404.12648",
    ),
    (
        "behavior_alignment",
        "Behavior Alignment via Reward Function Optimization",
        "Gupta, Chandak, Jordan, and others",
        2023,
        "2310.19007",
    ),
    (
        "behavior_specification",
        "Effective Reward Specification in Deep Reinforcement Learning",
        "Roy",
        2024,
        "2412.07177",
    ),
    (
        "chunk_critic",
        "ALOE: Action-Level Off-Policy Evaluation for Vision-Language-Action Model Post-Training",
        "Yang, Wang, Liu, and others",
        2026,
        "2602.12691",
    ),
    (
        "dynamics_reward",
        "Reward-Consistent Dynamics Models are Strongly Generalizable for Offline Reinforcement Learning",
        "Luo and others",
        2023,
        "2310.05422",
    ),
    ("evolved_rewards", "Differentiable Evolutionary Reinforcement Learning", "Cheng and others", 2025, "2512.13399"),
    ("explicable_rewards", "Reward Design for Reinforcement Learning Agents", "Devidze", 2025, ""),
    (
        "hop_progress",
        "Robo-Dopamine: General Process Reward Modeling for High-Precision Robotic Manipulation",
        "Tan and others",
        2025,
        "2512.23703",
    ),
    (
        "in_context_preference",
        "Few-shot In-Context Preference Learning Using Large Language Models",
        "Yu, Tan, Lu, and others",
        2024,
        "2410.17233",
    ),
    (
        "latent_reward",
        "Latent Reward: LLM-Empowered Credit Assignment in Episodic Reinforcement Learning",
        "Qu and others",
        2024,
        "2412.11120",
    ),
    (
        "objective_expressivity",
        "On the Expressivity of Objective-Specification Formalisms in Reinforcement Learning",
        "Subramani and others",
        2023,
        "2310.11840",
    ),
    (
        "online_intrinsic",
        "Online Intrinsic Rewards for Decision Making Agents from Large Language Model Feedback",
        "Zheng, Henaff, Zhang, and others",
        2024,
        "2410.23022",
    ),
    (
        "perceptual_rewards",
        "Unsupervised Perceptual Rewards for Imitation Learning",
        "Sermanet, Xu, and Levine",
        2016,
        "1612.06699",
    ),
    (
        "preference_context",
        "Beyond Reward: Offline Preference-guided Policy Optimization",
        "Kang and others",
        2023,
        "2305.16217",
    ),
    (
        "quality_diversity",
        "Learning in Sparse Rewards Settings through Quality-Diversity Algorithms",
        "Paolo",
        2022,
        "2203.01027",
    ),
    (
        "regret_preferences",
        "Models of Human Preference for Learning Reward Functions",
        "Knox, Hatgis-Kessell, Booth, and others",
        2022,
        "2206.02231",
    ),
    (
        "reward_backpropagation",
        "Aligning Text-to-Image Diffusion Models with Reward Backpropagation",
        "Prabhudesai and others",
        2023,
        "2310.03739",
    ),
    (
        "text2reward",
        "Text2Reward: Reward Shaping with Language Models for Reinforcement Learning",
        "Xie and others",
        2023,
        "2309.11489",
    ),
    (
        "tri_reward",
        "Large Reward Models: Generalizable Online Robot Reward Generation with Vision-Language Models",
        "Wu, Yuan, Qi, and others",
        2026,
        "2603.16065",
    ),
)
"""Methods of small environments, reward search, offline data and theory."""


TREATS: Mapping[str, Mapping[str, str]] = {
    "format_only": {
        "gated_accumulation": "pays the rest only where the answer is right",
        "simple_rewards": "multiplies what is asked instead of adding it",
    },
    "saturated_low": {
        "likelihood_rewards": "the probability of the reference answer tells completions apart that are all wrong",
        "dense_from_tests": "pays for single tests, rare ones more",
        "multi_turn_guide": "pays for turns, not only for the end",
    },
    "too_noisy": {"noisy_rewards": "how many wrong verdicts are borne, and when not"},
    "length_drift": {
        "conciseness": "shortness multiplies the reward of right answers",
        "top_lambda_length": "charges for length only where prompts are solved",
        "decoupled_efficiency": "weighs right answers by length among themselves",
        "gated_accumulation": "pays bonuses only where the answer is right",
    },
    "truncation": {
        "top_lambda_length": "charges for length only where prompts are solved",
        "decoupled_efficiency": "weighs right answers by length among themselves",
    },
    "entropy_collapse": {"distributional_reward": "pays for what a completion adds to the spread of its set"},
    "collapse": {"job_application": "penalties that do not make refusing everything the best answer"},
    "tradeoff": {
        "kinesthetic": "a mean that is negative as soon as one component is",
        "hierarchical_preference": "compares by the most important component first",
        "mixed_reward": "each kind of task has its own reward",
    },
    "proxy_gold_divergence": {
        "preference_as_reward": "bounds the reward and centres it on references",
        "adversarial_reward": "the discriminator learns what is exploited",
        "clip_delta": "scores of steps cannot be collected by adding steps",
        "reward_model_robustness": "tells before training which reward model will be exploited",
        "consistency": "finds and mends rewards that overlook what was asked",
        "overoptimization": "where the peak lies",
    },
    "variance_collapse": {"likelihood_rewards": "tells completions apart whose verdicts are equal"},
    "explosive_growth": {"preference_as_reward": "bounds the reward and centres it on references"},
    "stagnation": {
        "stepwise_attribution": "learns which steps led to the outcome, and pays for them",
        "multi_turn_guide": "pays for turns, not only for the end",
        "dense_from_tests": "pays for single tests, rare ones more",
        "local_credit": "pays for the pieces of a set as they come",
    },
}
"""Health rules (`agent_tunix.diagnostics.rules`) to the papers that are a remedy for what they find, and why."""


def entries() -> list[Entry]:
    """Every published method of the index, the built ones first."""
    built = []
    for slug in names():
        paper = find(slug).paper
        built.append(Entry(slug, paper.title, paper.authors, paper.year, paper.arxiv, status(slug)))
    return built + [Entry(*later, PLANNED) for later in _LATER]


def status(slug: str) -> str:
    """What is kept of a paper's last run says."""
    found = kept(slug)
    return BUILT if found is None else REPRODUCED if found["reproduced"] else NOT_REPRODUCED


def kept(slug: str) -> dict[str, Any] | None:
    """The results that came with the package, or None."""
    file = folder() / f"{slug}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def folder() -> Path:
    """Where results are kept: `docs/papers` of the checkout, or the copy inside the installed package."""
    here = Path(__file__).resolve().parent
    checkout = here.parents[2]
    return checkout / "docs" / "papers" if (checkout / "pyproject.toml").is_file() else here / "results"
