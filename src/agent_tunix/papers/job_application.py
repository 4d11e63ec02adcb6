"""Gentle penalties: a model of job applications that is charged too much for a wrong acceptance rejects everyone.

Claim: After supervised training, GRPO with a reward of several components improves the decisions; with aggressive
  penalties it is hacked by rejecting everyone, which gentle ones, small steps and a divergence penalty prevent.
Method: :math:`R = \\sum_k w_k c_k` over format, decision, nearness of the stated score, and skills that the application
  really has. Decisions pay tp, tn, fp and fn; the best policy selects where the chance of being suitable exceeds
  :math:`(tn - fp) / ((tn - fp) + (tp - fn))`, which a large penalty moves beyond every applicant.
Here: Kept: two stages, four components, mild and aggressive penalties, the divergence from the first stage. Components
  and weights are ours, the paper's are not known to us: 0.5, 1, 0.5 and 0.5; tp = tn = 1, fn = -0.5, fp = -0.5 or -10.
  Simplified: a table policy that writes four symbols for each of 20 kinds of applicants, solved exactly for noisy
  demonstrations (a fifth of decisions wrong, a fifth of symbols random); then 300 updates, 8 groups of 8 per kind, each
  about one applicant whose suitability is drawn. Kinds are clear (chances 0.01 and 0.99, but for two) or unclear (0.05
  to 0.85). Left out: language models, texts. `recipe`: a wrong answer is a wrong acceptance.
Run: `agent-tunix papers run job_application`; a policy: `python run_training.py paper=job_application`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: with aggressive penalties 0.01 of the suitable unclear applicants are
  selected, with gentle ones 0.67, from a chance of 0.50 on; 0.96 of clear ones are decided rightly, 0.74 at the first
  stage. With the group's deviation nothing of this shows (0.66 against 0.67): it brings every group to one scale.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from agent_tunix import losses, rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on, components
from agent_tunix.types import Recipe, Score

KINDS, REPEATS, GROUP, SYMBOLS, UPDATES, SELECT, END = 20, 8, 8, 6, 300, 1, 5
CLEAR, UNCLEAR = jnp.array([0.01] * 9 + [0.3, 0.7] + [0.99] * 9), jnp.linspace(0.05, 0.85, KINDS)
PENALTIES, SKILL = {"gentle": -0.5, "aggressive": -10.0}, jnp.arange(KINDS) % 5
LOSS = losses.policy_loss(losses.clipped(0.2), kl_coefficient=0.02, aggregation=losses.sequence_mean_token_sum)
WORLD = lab.World(
    start=lambda key, prompt: (prompt % KINDS, jnp.zeros((), jnp.int32)),
    step=lambda key, state, action: ((state[0], state[1] + 1), state[1] == 3),
    observe=lambda state: state[0] * 4 + state[1],
    horizon=4,
)


def _demonstrated(chances: Array) -> Array:
    """Logits of the supervised stage, the frequencies of symbols in the demonstrations."""
    select = 0.8 * chances + 0.2 * (1 - chances)
    decisions = jnp.pad(jnp.stack([1 - select, select], -1), ((0, 0), (0, SYMBOLS - 2)))
    scores = jax.nn.one_hot(jnp.round(4 * chances).astype(int), SYMBOLS)
    written = [decisions, scores, jax.nn.one_hot(SKILL, SYMBOLS), jnp.tile(jnp.eye(SYMBOLS)[END], (KINDS, 1))]
    return jnp.log(0.8 * jnp.stack(written, 1) + 0.2 / SYMBOLS).reshape(KINDS * 4, SYMBOLS)


def rewarded(said: Array, kind: Array, suitable: Array, fp: Array) -> Array:
    """The sum of the components, for what was written, `[prompts group 4]`, about whom, and whether that one suits."""
    payoffs = jnp.stack([jnp.array([1.0, -0.5]), jnp.stack([fp, jnp.ones(())])])
    readable, stated = said[..., 0] <= SELECT, jnp.minimum(said[..., 1], 4)
    decision = jnp.where(readable, payoffs[jnp.minimum(said[..., 0], SELECT), suitable], -0.5)
    nearness, grounded = 1 - jnp.abs(stated - 4 * suitable) / 4, said[..., 2] == SKILL[kind]
    return 0.5 * (readable & (said[..., 3] == END)) + decision + 0.5 * nearness + 0.5 * grounded


@functools.cache
def _trained(estimator: str) -> Any:
    def run(key: Key[Array, ""], chances: Array, fp: Array) -> tuple[Array, Array]:
        toy = lab.tabular(WORLD, _demonstrated(chances), prompts=KINDS * REPEATS, group=GROUP)

        def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
            kind = sampled.trail[0][:, :1, 0]
            return lab.score(rewarded(sampled.actions, kind, 1 * jax.random.bernoulli(key, chances[kind]), fp))

        given = {"advantage": lab.GROUPED[estimator], "loss": LOSS, "optimizer": optax.adam(0.05), "steps": UPDATES}
        learned = lab.learn(toy, reward, key=key, measure=lambda now, *_: {"selected": _selects(now).mean()}, **given)
        return learned.params, learned.history["selected"]

    return jax.jit(run)


def _selects(params: Array) -> Array:
    """Chance that each kind is selected, among readable decisions."""
    return jax.nn.softmax(params.reshape(KINDS, 4, SYMBOLS)[:, 0, :2])[:, SELECT]


def _decisions(chances: Array, selects: Array) -> dict[str, float]:
    hit, reach = jnp.sum(chances * selects), chances[-1] - chances[0]
    return {
        "accuracy": float(jnp.mean(chances * selects + (1 - chances) * (1 - selects))),
        "recall": float(hit / chances.sum()),
        "precision": float(hit / selects.sum()),
        "threshold": float(chances[0] + reach * jnp.mean(1 - selects)),
    }


def reproduce(seed: int) -> Measured:
    """Decisions after both stages, exact from the policy; the threshold is where an unclear applicant is selected."""
    found: dict[str, Any] = {}
    for who, chances in (("clear", CLEAR), ("unclear", UNCLEAR)):
        found |= {f"{who}_first/{k}": v for k, v in _decisions(chances, _selects(_demonstrated(chances))).items()}
        for arm, fp in PENALTIES.items():
            for estimator in ("leave_one_out", "group_normalized"):
                params, curve = _trained(estimator)(jax.random.key(seed), chances, jnp.asarray(fp))
                name = f"{who}_{arm}" + ("" if estimator == "leave_one_out" else "_normalized")
                found |= {f"{name}/{k}": v for k, v in _decisions(chances, _selects(params)).items()}
                found[f"{name}/curve"] = curve
    return found


def recipe(base: Recipe | None = None, *, weight: float = 0.3, wrong: float = -0.5, kl: float = 0.04) -> Recipe:
    """Format and correctness, with what a wrong answer costs, and a divergence from the supervised policy."""
    base = based_on(base)
    layout, correctness = components(base.reward, "format", "correctness")
    decision = rewards.scale(correctness, 1 - wrong, offset=wrong)
    reward = rewards.weighted_sum((weight, layout), (1 - weight, decision))
    return base._replace(reward=reward, loss=losses.policy_loss(losses.clipped(0.2), kl_coefficient=kl))


def selecting_pays_from_the_threshold_on(rng: np.random.Generator) -> bool:
    """With any payoffs that prefer right decisions, selecting pays more than rejecting exactly above the threshold."""
    tp, tn, fp, fn = *rng.uniform(0.1, 2, 2), *-rng.uniform(0, 10, 2)
    chance = rng.uniform(size=100)
    selecting, rejecting = chance * tp + (1 - chance) * fp, chance * fn + (1 - chance) * tn
    return bool(np.array_equal(selecting > rejecting, chance > (tn - fp) / ((tn - fp) + (tp - fn))))


PAPER = Paper(
    title="A Mathematical Framework for Custom Reward Functions in Job Application Evaluation using Reinforcement "
    "Learning",
    authors="Jain, Singhvi, Jain, and others",
    year=2025,
    arxiv="2511.16073",
    checked="pages about the paper",
    comparisons=(
        Comparison("suitable ones selected, unclear", "unclear_aggressive/recall", "unclear_gentle/recall"),
        Comparison("chance from which it selects", "unclear_aggressive/threshold", "unclear_gentle/threshold"),
        Comparison("right decisions, clear", "clear_first/accuracy", "clear_gentle/accuracy"),
        Comparison(
            "selected, with deviation", "unclear_aggressive_normalized/recall", "unclear_gentle_normalized/recall"
        ),
    ),
    checks=(
        Check("aggressive selects a tenth at most", lambda m: m["unclear_aggressive/recall"], at_most=0.1),
        Check("gentle selects from a chance of 0.5 on", lambda m: m["unclear_gentle/threshold"], 0.45, 0.55),
        Check("gentle finds 75 % of the suitable, clear", lambda m: m["clear_gentle/recall"], at_least=0.75),
        Check("95 % of those it selects are, clear", lambda m: m["clear_gentle/precision"], at_least=0.95),
        Check("it gains 5 points", lambda m: m["clear_gentle/accuracy"] - m["clear_first/accuracy"], at_least=0.05),
    ),
    laws=(selecting_pays_from_the_threshold_on,),
    curves={f"unclear_{arm}/curve": f"selected, {arm}" for arm in PENALTIES},
)
