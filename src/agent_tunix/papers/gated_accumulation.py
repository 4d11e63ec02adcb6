"""Gated reward accumulation: rewards for steps count only once the outcome has reached a threshold.

Claim: An agent that is paid for valid steps besides the outcome learns to make steps and never to finish. Adding the
  rewards of steps only where the outcome reaches a threshold keeps their help without that way out.
Method: With an outcome :math:`R^{high}` of ordered values and step rewards :math:`r_t`,
  :math:`R = R^{high} + 1[R^{high} \\ge \\delta] \\sum_t r_t`. The baseline, direct accumulation, leaves the gate out.
Here: Kept: the two levels, the gate on the outcome of the episode before any normalisation, an ordered outcome (a group
  whose gates are all closed would otherwise teach nothing). Simplified: an agent of two observations (file changed or
  not) that may call a tool, edit, submit or do something invalid, at most 20 actions; outcomes -1, 0, 0.5 and 1 for no
  submission, an empty one, one that fails and one that passes the tests; gate at 0.5; 0.2 per valid step; groups of 16,
  300 updates. The outcomes and all these numbers are ours, the paper's are not known to us. Left out: software
  repositories and language models. `recipe` gates the reward it is put on by its part `correctness`, with
  the combinator `agent_tunix.rewards.hierarchy`.
Run: `agent-tunix papers run gated_accumulation`; a policy: `python run_training.py paper=gated_accumulation`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: episodes that submit 0.85 against 0.09, that submit a change 0.83
  against 0.09; without the group's deviation 0.85 against 0.16. While direct accumulation trains, its reward rises and
  its outcome falls.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import losses, rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on, components
from agent_tunix.types import Recipe, Score

TOOL, EDIT, SUBMIT, INVALID = range(4)
NOTHING, EMPTY, FAILING, PASSING = -1.0, 0.0, 0.5, 1.0
STEP_REWARD, THRESHOLD, UPDATES = 0.2, 0.5, 300
LOSS = losses.policy_loss(losses.clipped(0.2), aggregation=losses.sequence_mean_token_mean)


def _step(key: Key[Array, ""], changed: Array, action: Array) -> tuple[Array, Array]:
    return changed | ((action == EDIT) & jax.random.bernoulli(key, 0.5)), action == SUBMIT


WORLD = lab.World(
    start=lambda key, prompt: jnp.zeros((), bool),
    step=_step,
    observe=lambda changed: changed.astype(jnp.int32),
    horizon=20,
)


def accumulated(outcome: Array, steps: Array, threshold: float) -> Array:
    """The outcome, and the sum of the steps where it reaches the threshold; minus infinity accumulates always."""
    return outcome + jnp.where(outcome >= threshold, steps, 0.0)


@functools.cache
def _trained(threshold: float, estimator: str) -> Any:
    def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
        valid = (sampled.actions == TOOL) | (sampled.actions == EDIT)
        steps = STEP_REWARD * jnp.sum(valid & sampled.completion_mask, -1)
        outcome = _outcome(key, sampled)
        return lab.score(accumulated(outcome, steps, threshold), outcome=outcome)

    def measure(params: Any, sampled: lab.Sampled, raw: Score) -> dict[str, Array]:
        outcome = raw.parts["outcome"]
        shares = {"finished": outcome > NOTHING, "modified": outcome >= FAILING}
        return {name: value.mean() for name, value in (shares | {"outcome": outcome, "reward": raw.value}).items()}

    def run(key: Key[Array, ""]) -> dict[str, Array]:
        toy = lab.tabular(WORLD, jnp.zeros((2, 4)).at[:, SUBMIT].set(-1.0), prompts=2, group=16)
        given = {"advantage": lab.GROUPED[estimator], "loss": LOSS, "steps": UPDATES}
        return lab.learn(toy, reward, key=key, measure=measure, **given).history

    return jax.jit(run)


def _outcome(key: Key[Array, ""], sampled: lab.Sampled) -> Array:
    """What the submission of an episode was worth; whether tests pass is drawn."""
    changed = sampled.trail[..., -1]
    passed = jax.random.bernoulli(key, 0.3, changed.shape)
    submitted = jnp.where(changed, jnp.where(passed, PASSING, FAILING), EMPTY)
    return jnp.where(sampled.last == SUBMIT, submitted, NOTHING)


def reproduce(seed: int) -> Measured:
    """Shares of finished and of modified episodes at the start and over the last 20 updates, of both rewards."""
    found: dict[str, Any] = {}
    for estimator in lab.GROUPED:
        for arm, threshold in (("direct", -np.inf), ("gated", THRESHOLD)):
            history = _trained(threshold, estimator)(jax.random.key(seed))
            name = arm if estimator == "group_normalized" else f"{arm}_{estimator}"
            found |= {f"{name}/{quantity}": float(curve[-20:].mean()) for quantity, curve in history.items()}
            found |= {
                f"{name}/finished_curve": history["finished"],
                f"{name}/modified_start": float(history["modified"][:5].mean()),
            }
            half = slice(UPDATES // 2, None)
            found[f"{name}/correlation"] = float(np.corrcoef(history["reward"][half], history["outcome"][half])[0, 1])
    return found


def recipe(base: Recipe | None = None, *, weight: float = 0.3, threshold: float = 1.0) -> Recipe:
    """Correctness first; the rest of the reward is added only where the answer is right."""
    base = based_on(base)
    outcome, rest = components(base.reward, "correctness", base.reward.name)
    return base._replace(reward=rewards.hierarchy((1.0 - weight, outcome, threshold), (weight, rest, 0.0)))


def an_open_gate_accumulates_directly(rng: np.random.Generator) -> bool:
    """Above the threshold the reward is the plain sum, below it the outcome alone."""
    outcome, steps = rng.normal(size=(2, 64)).astype(np.float32)
    both = accumulated(outcome, steps, 0.0)
    return bool(np.array_equal(both, np.where(outcome >= 0, outcome + steps, outcome)))


PAPER = Paper(
    title="Stabilizing Long-term Multi-turn Reinforcement Learning with Gated Rewards",
    authors="Sun, Li, Chen, and others",
    year=2025,
    arxiv="2508.10548",
    checked="a page about the paper and notes of others",
    comparisons=(
        Comparison("episodes that submit", "direct/finished", "gated/finished"),
        Comparison("episodes that submit a change", "direct/modified", "gated/modified"),
        Comparison("outcome", "direct/outcome", "gated/outcome"),
        Comparison(
            "submit, without the group's deviation", "direct_leave_one_out/finished", "gated_leave_one_out/finished"
        ),
    ),
    checks=(
        Check("gated submits 40 points more often", lambda m: m["gated/finished"] - m["direct/finished"], at_least=0.4),
        Check("gated submits in 75 % of episodes", lambda m: m["gated/finished"], at_least=0.75),
        Check("direct submits in half of them at most", lambda m: m["direct/finished"], at_most=0.5),
        Check(
            "gated changes files 20 points more often than at first",
            lambda m: m["gated/modified"] - m["gated/modified_start"],
            at_least=0.2,
        ),
        Check(
            "under direct accumulation the reward rises while the outcome falls",
            lambda m: m["direct/correlation"],
            at_most=0.0,
        ),
    ),
    laws=(an_open_gate_accumulates_directly,),
    curves={"direct/finished_curve": "direct", "gated/finished_curve": "gated"},
)
