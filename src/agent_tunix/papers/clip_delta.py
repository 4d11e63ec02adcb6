"""Clip and Delta: rewards for the steps of a solution that cannot be collected by adding steps.

Claim: A process reward model added to the reward at every step is exploited: the policy repeats steps that are easily
  right and stops solving. Clipping the scores from above, and paying differences of consecutive scores, stop this.
Method: Scores :math:`p_k` of steps 1 to K, outcome c. Clip: :math:`\\alpha \\min(p_k - \\eta, 0)`. Delta:
  :math:`\\alpha (p_k - p_{k+1})`, the last but one step keeps its score, the last one gets c alone; what step k then is
  credited with is :math:`\\alpha p_k + c`. Both: clip, then delta. In the core: `agent_tunix.rewards.process_reward`,
  `clip_steps`, `step_differences`. The baseline adds :math:`\\alpha p_k` as it is.
Here: Kept: the two transformations and their order. Simplified: a solution is a sequence of abstract steps that make
  progress, fill, or are bad, scored 0.95, 0.95 and 0.2; an answer, scored 0.95, is right after three that make
  progress; at most 20 steps; groups of 16, 200 updates. alpha is 0.2 and eta 0.9 (others' notes; all else is ours).
  Besides scalar rewards, as GRPO has them, credit per step (`reward_to_go`) is measured: with one scalar, Delta leaves
  the score of the first step alone. Left out: language models, PPO, its divergence penalty. `recipe`: the package has
  no process reward model of text; the reference policy stands in, which scores the completion up to every so many
  tokens by its mean probability per token.
Run: `agent-tunix papers run clip_delta`; a policy: `python run_training.py paper=clip_delta`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: right answers 0.15 with raw scores, 0.96 with clip, 0.95 with delta
  and with both, 0.94 with the outcome alone; filling steps 15.6 raw, 1.1 with both. Without the group's deviation, and
  with credit per step, raw stays at 0.18 and 0.15, and both reach 0.76 and 0.74 in the same 200 updates.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import advantages, losses, rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on
from agent_tunix.types import Recipe, Rollouts, Score

GOOD, FILLER, BAD, ANSWER = range(4)
SCORES, NEEDED = jnp.array([0.95, 0.95, 0.2, 0.95]), 3
WEIGHT, THRESHOLD, UPDATES = 0.2, 0.9, 200
LOSS = losses.policy_loss(losses.clipped(0.2), aggregation=losses.sequence_mean_token_mean)
CREDIT = lab.GROUPED | {"to_go": advantages.per_score(advantages.reward_to_go)}
CLIP, DELTA = rewards.clip_steps(THRESHOLD), rewards.step_differences
ARMS = {"outcome": (), "raw": (), "clip": (CLIP,), "delta": (DELTA,), "both": (CLIP, DELTA)}
WORLD = lab.World(
    start=lambda key, prompt: jnp.zeros((), jnp.int32),
    step=lambda key, progress, action: (jnp.minimum(progress + (action == GOOD), NEEDED), action == ANSWER),
    observe=lambda progress: progress,
    horizon=20,
)


def _reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
    right = (sampled.last == ANSWER) & ~sampled.truncated & (sampled.trail[..., -1] == NEEDED)
    fillers = jnp.sum((sampled.actions == FILLER) & sampled.completion_mask, -1)
    return lab.score(right, success=right, fillers=fillers, steps=sampled.lengths)


@functools.cache
def _trained(arm: str, credit: str) -> Any:
    weight = 0.0 if arm == "outcome" else WEIGHT
    shaping = rewards.process_reward(lambda done: SCORES[done.actions], *ARMS[arm], weight=weight)

    def run(key: Key[Array, ""]) -> dict[str, Array]:
        toy = lab.tabular(WORLD, jnp.zeros((NEEDED + 1, 4)))
        given = {"shaping": shaping, "advantage": CREDIT[credit], "loss": LOSS, "steps": UPDATES}
        return lab.learn(toy, _reward, key=key, measure=lambda _, done, raw: dict(raw.parts), **given).history

    return jax.jit(run)


def reproduce(seed: int) -> Measured:
    """Success, filling steps and length over the last 20 updates, of every arm and credit."""
    found: dict[str, Any] = {}
    arms = [(arm, "group_normalized") for arm in ARMS] + [(arm, "leave_one_out") for arm in ("outcome", "raw", "both")]
    for arm, credit in [*arms, ("raw", "to_go"), ("both", "to_go")]:
        history = _trained(arm, credit)(jax.random.key(seed))
        name = arm if credit == "group_normalized" else f"{arm}_{credit}"
        found |= {f"{name}/{quantity}": float(curve[-20:].mean()) for quantity, curve in history.items()}
        found[f"{name}/success_curve"] = history["success"].mean((1, 2))
    return found


def recipe(base: Recipe | None = None, *, weight: float = 0.02, threshold: float = 0.9, every: int = 4) -> Recipe:
    """The reference scores the completion after every so many tokens; clip, then delta, credited token by token."""
    base = based_on(base)

    def scores(rollouts: Rollouts) -> Array:
        mask, logprobs = rollouts.completion_mask, jnp.asarray(rollouts.ref_logprobs)
        so_far = jnp.cumsum(jnp.where(mask, logprobs, 0.0), -1) / jnp.maximum(jnp.cumsum(mask, -1), 1)
        places = jnp.arange(mask.shape[-1])
        ends = ((places + 1) % every == 0) | (places == mask.sum(-1, keepdims=True) - 1)
        return jnp.where(ends, jnp.exp(so_far), jnp.nan)

    steps = rewards.process_reward(scores, rewards.clip_steps(threshold), DELTA, weight=weight)
    steps = steps._replace(needs_reference=True)
    return base._replace(shaping=rewards.chain(base.shaping, steps), advantage=CREDIT["to_go"])


def what_a_step_is_credited_with_is_its_score(rng: np.random.Generator) -> bool:
    """The sum of the differences from any step but the last on is that step's score, clipped or not."""
    steps = jnp.asarray(rng.uniform(size=rng.integers(2, 65)), jnp.float32)
    for scores in (steps, CLIP(steps)):
        sums = jnp.cumsum(DELTA(scores)[::-1])[::-1]
        if not np.allclose(sums, scores.at[-1].set(0.0), atol=1e-6):
            return False
    return True


def repeating_steps_earns_nothing(rng: np.random.Generator) -> bool:
    """Repeated first steps leave the sum under delta, do not raise it under clip, and raise the raw one each time."""
    steps = jnp.asarray(rng.uniform(0.5, 1.0, size=4), jnp.float32)
    longer = jnp.concatenate([jnp.repeat(steps[:1], 5), steps])
    raw, clip, delta = (float(change(longer).sum() - change(steps).sum()) for change in (lambda s: s, CLIP, DELTA))
    return abs(delta) < 1e-6 and clip <= 1e-6 and bool(np.isclose(raw, 5 * steps[0], atol=1e-5))


PAPER = Paper(
    title="On Designing Effective RL Reward at Training Time for LLM Reasoning",
    authors="Gao, Xu, Ye, and others",
    year=2024,
    arxiv="2410.15115",
    checked="a page about the paper and notes of others",
    comparisons=(
        Comparison("right answers", "raw/success", "both/success"),
        Comparison("right answers, clip alone", "raw/success", "clip/success"),
        Comparison("right answers, delta alone", "raw/success", "delta/success"),
        Comparison("right answers", "outcome/success", "both/success"),
        Comparison("filling steps", "raw/fillers", "both/fillers"),
        Comparison("right answers, no deviation", "raw_leave_one_out/success", "both_leave_one_out/success"),
        Comparison("right answers, credit per step", "raw_to_go/success", "both_to_go/success"),
    ),
    checks=(
        Check("raw loses 50 points to the outcome", lambda m: m["outcome/success"] - m["raw/success"], at_least=0.5),
        Check(
            "none of clip, delta and both loses 3 points to the outcome",
            lambda m: max(m["outcome/success"] - m[f"{arm}/success"] for arm in ("clip", "delta", "both")),
            at_most=0.03,
        ),
        Check(
            "raw fills twice as often as each of them",
            lambda m: min(m["raw/fillers"] / m[f"{arm}/fillers"] for arm in ("clip", "delta", "both")),
            at_least=2.0,
        ),
    ),
    laws=(what_a_step_is_credited_with_is_its_score, repeating_steps_earns_nothing),
    curves={f"{arm}/success_curve": arm for arm in ARMS},
)
