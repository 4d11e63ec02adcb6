"""GRPO-lambda: brevity is asked for only where prompts are already solved.

Claim: Charging right answers for their length in every group shortens them until accuracy falls. Charging only the
  fraction lambda of the groups that are solved best keeps accuracy and still shortens.
Method: In the :math:`\\lceil \\lambda B \\rceil` groups of a batch with the greatest share of right completions,
  :math:`r = 1 - \\alpha\\, \\sigma((L - \\bar L) / s_L)` for a right completion, with mean and deviation of the lengths
  of the right ones; 0 for a wrong one; 0 or 1 in all other groups. In the core:
  `agent_tunix.rewards.concise_where_solved`. The baseline, a length penalty, is the same with lambda = 1.
Here: Kept: the charge, the choice of groups, lambda 0.2. Simplified: a policy that only decides when to stop, one logit
  for each of ten prompts; a completion of n tokens is right with probability 1 - exp(-1.5 n / d), d from 0.3 to 5; it
  starts verbose, at some 30 of at most 60 tokens; 1500 updates in groups of 16. alpha is 0.6 (others' code; the
  paper's may be smaller), ties are broken by lot; these sizes are ours. Left out: language models, whose answers get
  no better by their length alone, so that the saving (47 % in the paper) says nothing here.
Run: `agent-tunix papers run top_lambda_length`; a policy: `python run_training.py paper=top_lambda_length`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: right answers 0.996 against 0.932 with the charge everywhere and 0.998
  without any; 46 tokens against 54 without any charge (23 with it everywhere). Without the group's deviation the charge
  everywhere costs less, 0.973 against 0.994, and the fifth saves less, 46 tokens against 49.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import losses, rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on
from agent_tunix.types import Recipe, Score

DIFFICULTY = jnp.linspace(0.3, 5.0, 10)
GROUP, MOST, STRENGTH, UPDATES = 16, 60, 0.6, 1500
FRACTIONS = {"outcome": 0.0, "lambda": 0.2, "everywhere": 1.0}
LOSS = losses.policy_loss(losses.clipped(0.2), aggregation=losses.sequence_mean_token_mean)


def _sample(params: Array, key: Key[Array, ""]) -> lab.Sampled:
    """Lengths are drawn at once: a completion stops at each token with the same probability."""
    stop = jax.nn.softmax(params)[:, 1:]
    drawn = jnp.ceil(jnp.log(jax.random.uniform(key, (len(params), GROUP), minval=1e-7)) / jnp.log1p(-stop))
    length, places = jnp.clip(drawn, 1, MOST).astype(jnp.int32), jnp.arange(MOST)
    actions = (places == length[..., None] - 1) & (drawn <= MOST)[..., None]
    prompts = jnp.broadcast_to(jnp.arange(len(params))[:, None, None], actions.shape)
    return lab.Sampled(actions.astype(jnp.int32), prompts, places < length[..., None], drawn > MOST)


def _reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
    right = jax.random.bernoulli(key, 1 - jnp.exp(-1.5 * sampled.lengths / DIFFICULTY[:, None]))
    return lab.score(right, right=right, length=sampled.lengths)


def _measure(params: Array, sampled: lab.Sampled, raw: Score) -> dict[str, Array]:
    right = raw.parts["right"]
    return {"accuracy": right.mean(), "hardest": right[-3:].mean(), "length": raw.parts["length"].mean()}


@functools.cache
def _trained(arm: str, estimator: str) -> Any:
    def run(key: Key[Array, ""]) -> dict[str, Array]:
        toy = lab.bandit(jnp.tile(jnp.array([0.0, -3.6]), (len(DIFFICULTY), 1)))._replace(sample=_sample)
        shaping = rewards.concise_where_solved(FRACTIONS[arm], STRENGTH)
        given = {"shaping": shaping, "advantage": lab.GROUPED[estimator], "loss": LOSS, "rate": 0.75}
        return lab.learn(toy, _reward, key=key, steps=UPDATES, measure=_measure, **given).history

    return jax.jit(run)


def reproduce(seed: int) -> Measured:
    """Accuracy, also on the three hardest prompts, and length, over the last 40 updates of every arm."""
    found: dict[str, Any] = {}
    for estimator in lab.GROUPED:
        for arm in FRACTIONS:
            history = _trained(arm, estimator)(jax.random.key(seed))
            name = arm if estimator == "group_normalized" else f"{arm}_{estimator}"
            found |= {f"{name}/{quantity}": float(curve[-40:].mean()) for quantity, curve in history.items()}
            found[f"{name}/length_curve"] = history["length"]
    return found


def recipe(base: Recipe | None = None, *, fraction: float = 0.2, strength: float = 0.2) -> Recipe:
    """The charge for length follows whatever shaping the base has; right is what its part `correctness` says."""
    base = based_on(base)
    charge = rewards.concise_where_solved(fraction, strength, part="correctness")
    return base._replace(shaping=rewards.chain(base.shaping, charge))


def what_is_not_solved_best_is_left_alone(rng: np.random.Generator) -> bool:
    """Wrong is 0; the fraction rounded up is charged, and no group better than them; shorter is never charged more."""
    right, lengths = rng.random((10, 8)) < rng.random((10, 1)), rng.integers(1, 60, (10, 8))
    sampled: Any = lab.Sampled(*map(jnp.asarray, (right, right, np.arange(60) < lengths[..., None], right)))
    shaping = rewards.concise_where_solved(0.25, 0.6, seed=int(rng.integers(99)))
    after = np.asarray(shaping.update(lab.score(jnp.asarray(right)), jnp.asarray(0), sampled)[0].value)
    charged, share = (after != right).any(-1), right.mean(-1)
    ordered = all(
        (np.diff(after[group, right[group]][np.argsort(lengths[group, right[group]], kind="stable")]) <= 0).all()
        for group in np.flatnonzero(charged)
    )
    best = charged.sum() == 3 and share[charged].min() >= share[~charged].max()
    return bool(ordered and best and (after[~right] == 0).all() and (after[right] > 0).all())


PAPER = Paper(
    title="Stable Reinforcement Learning for Efficient Reasoning",
    authors="Dai, Liu, and Si",
    year=2025,
    arxiv="2505.18086",
    checked="a page about the paper and notes of others",
    comparisons=(
        Comparison("right answers", "everywhere/accuracy", "lambda/accuracy"),
        Comparison("right answers, hardest prompts", "everywhere/hardest", "lambda/hardest"),
        Comparison("right answers", "outcome/accuracy", "lambda/accuracy"),
        Comparison("tokens", "outcome/length", "lambda/length"),
        Comparison("tokens", "everywhere/length", "lambda/length"),
        Comparison("right answers, no deviation", "everywhere_leave_one_out/accuracy", "lambda_leave_one_out/accuracy"),
        Comparison("tokens, no deviation", "outcome_leave_one_out/length", "lambda_leave_one_out/length"),
    ),
    checks=(
        Check(
            "4 points more right answers than a charge everywhere",
            lambda m: m["lambda/accuracy"] - m["everywhere/accuracy"],
            at_least=0.04,
        ),
        Check(
            "at most 2 points fewer than without a charge",
            lambda m: m["lambda/accuracy"] - m["outcome/accuracy"],
            at_least=-0.02,
        ),
        Check("8 % shorter than without a charge", lambda m: m["lambda/length"] / m["outcome/length"], at_most=0.92),
    ),
    laws=(what_is_not_solved_best_is_left_alone,),
    curves={f"{arm}/length_curve": f"tokens, {arm}" for arm in FRACTIONS},
)
