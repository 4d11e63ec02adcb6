"""Conciseness reward function: brevity multiplies the reward of a right answer instead of being charged to every one.

Claim: Charging for length makes answers collapse to the shortest, right or not. Where conciseness multiplies the
  outcome, fades with training and weighs more on easy questions, length falls and accuracy stays.
Method: :math:`\\hat R = R (1 + \\alpha c (s + d))` with the outcome :math:`R`, a conciseness :math:`c` in [0.1, 1]
  from a reward model, :math:`s` annealed over training and :math:`d` of the question's difficulty. The model is trained
  by regression on solutions marked for repetition, relevance and efficiency.
Here: Kept: the product, the range of c, a learned c. Ours, as the paper's are not known to us: s = 1 - update / 400;
  d = share of right answers in the group, so that easy questions weigh more; alpha of 1, 1.5 and 2. 32 policies choose
  among lengths 1 to 8, long at first, for an easy question (right with 0.9 at any length) and a hard one
  (0.95 (L / 8)^1.5); c falls evenly with length; the baseline charges alpha L / 8. The model, tried on its own, reads
  solutions of up to 8 steps, some of which repeat an earlier one in other words, marked by the share that is new, give
  or take 0.05. Left out: language models; in `recipe` words are counted instead.
Run: `agent-tunix papers run conciseness`; a policy: `python run_training.py paper=conciseness`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: hard questions right 0.84 against 0.05 with length charged (normalized
  0.75, 0.04; alpha 2 0.76, 0.05); easy length 5.6 to 1.3; marks correlate at 0.97, those by repeated steps at 0.84.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on, components
from agent_tunix.types import Recipe, Rollouts, Score, Shaping

LENGTHS, UPDATES, POLICIES, STEPS, IDEAS = np.arange(1.0, 9.0), 400, 32, 8, 12
RIGHT = np.stack([np.full(8, 0.9), 0.95 * (LENGTHS / 8) ** 1.5])
READER = lab.transformer(2 * IDEAS + 1, STEPS)


def conciseness_reward(alpha: Any, updates: int) -> Shaping:
    """Multiplies outcomes by one plus their part `conciseness`, weighed by what is left of training and by success."""

    def update(score: Score, done: Array, rollouts: Rollouts) -> tuple[Score, Array]:
        concise = jnp.asarray(score.parts["conciseness"])
        valid = jnp.asarray(score.valid) & jnp.isfinite(concise)
        outcome = jnp.where(valid, jnp.asarray(score.value), 0)
        easy = outcome.sum(-1, keepdims=True) / jnp.maximum(valid.sum(-1, keepdims=True), 1)
        value = jnp.where(valid, outcome * (1 + alpha * concise * (jnp.maximum(1 - done / updates, 0) + easy)), 0)
        return dataclasses.replace(score, value=value, valid=valid), done + 1

    return Shaping(init=lambda: jnp.zeros((), jnp.int32), update=update)


@functools.partial(jax.jit, static_argnums=3)
@functools.partial(jax.vmap, in_axes=(0, None, None, None))
def _trained(key: Key[Array, ""], arm: Array, alpha: Array, estimator: str) -> dict[str, Array]:
    arms = {
        "outcome": rewards.identity(),
        "charged": rewards.anneal({"outcome": lambda batch: 1.0, "length": lambda batch: -alpha}),
        "concise": conciseness_reward(alpha, UPDATES),
    }

    def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
        chance = jnp.take_along_axis(jnp.asarray(RIGHT), sampled.last, -1)
        outcome = jax.random.bernoulli(key, chance).astype(jnp.float32)
        return lab.score(
            outcome, outcome=outcome, conciseness=1 - 0.9 * sampled.last / 7, length=(sampled.last + 1) / 8
        )

    def measure(params: Array, sampled: lab.Sampled, raw: Score) -> dict[str, Array]:
        shown = [(jax.nn.softmax(params) * RIGHT).sum(-1), jax.nn.softmax(params) @ LENGTHS]
        return dict(zip(("easy", "hard", "easy_length", "hard_length"), jnp.concatenate(shown), strict=True))

    given = {"shaping": lab.chosen(arms, arm), "advantage": lab.GROUPED[estimator], "steps": UPDATES, "rate": 2.0}
    toy = lab.bandit(jnp.tile(jnp.linspace(-0.5, 1.0, 8), (2, 1)))
    return lab.learn(toy, reward, key=key, measure=measure, **given).history


def _solutions(key: Key[Array, ""], count: int) -> tuple[Array, Array, Array]:
    """Solutions `[count steps]`, 0 after their end; shares of their steps with a new idea, and with new words."""
    lengths, kinds, says, wording = jax.random.split(key, 4)
    inside = jnp.arange(STEPS) < jax.random.randint(lengths, (count, 1), 2, STEPS + 1)
    ideas = jax.random.randint(says, (count, STEPS), 0, jax.random.randint(kinds, (count, 1), 1, IDEAS + 1))
    words = 1 + ideas + IDEAS * jax.random.bernoulli(wording, shape=ideas.shape)
    old = [jnp.tril(each[:, :, None] == each[:, None], -1).any(-1) for each in (ideas, words)]
    new, different = ((inside & ~each).sum(-1) / inside.sum(-1) for each in old)
    return jnp.where(inside, words, 0), new, different


@jax.jit
def _marks(key: Key[Array, ""]) -> dict[str, Array]:
    """Fits the conciseness reward model; correlations of marks of new solutions with the true ones."""

    def objective(params: Any, key: Key[Array, ""]) -> Array:
        written, marks, _ = _solutions(key, 128)
        marks = jnp.maximum(marks, 0.1) + 0.05 * jax.random.normal(jax.random.fold_in(key, 1), marks.shape)
        return jnp.mean((READER.logits(params, written)[:, -1, 0] - marks) ** 2)

    params = lab.fit(objective, READER.init(key), key=key, steps=600)
    written, marks, words = _solutions(jax.random.fold_in(key, 1), 512)
    ways = {"model": READER.logits(params, written)[:, -1, 0], "repetition": words, "length": -(written > 0).sum(-1)}
    return {f"{way}/correlation": jnp.corrcoef(given, marks)[0, 1] for way, given in ways.items()}


def reproduce(seed: int) -> Measured:
    """Accuracy and length after training with every reward, and how the conciseness reward model ranks solutions."""
    keys, found = jax.random.split(jax.random.key(seed), POLICIES), {}
    for arm, name in enumerate(("outcome", "charged", "concise")):
        for alpha, estimator in itertools.product((1.0, 1.5, 2.0), lab.GROUPED):
            history = _trained(keys, jnp.asarray(arm), jnp.asarray(alpha), estimator)
            full = name + f"_{alpha:g}" * (alpha != 1.5) + f"_{estimator}" * (estimator != "leave_one_out")
            found |= {f"{full}/{what}": float(curve[:, -1].mean()) for what, curve in history.items()}
            found[f"{full}/hard_curve"] = history["hard"].mean(0)
    return found | _marks(jax.random.key(seed))


def recipe(base: Recipe | None = None, *, alpha: float = 0.5, updates: int = 500, words: int = 50) -> Recipe:
    """Right answers are paid more the further they stay below a number of words, less so later on."""
    base = based_on(base)
    grader = functools.partial(rewards.evaluate_conciseness, enough=0, too_many=words)
    brevity = rewards.per_completion(grader, name="conciseness", bounds=(0, 1))
    reward = rewards.weighted_sum((1.0, *components(base.reward, "correctness")), (0.0, brevity))
    return base._replace(reward=reward, shaping=rewards.chain(conciseness_reward(alpha, updates), base.shaping))


def conciseness_pays_only_when_right(rng: np.random.Generator) -> bool:
    """A wrong answer gets 0 however concise; a right one 1 + alpha c (s + d), which rises with c."""
    outcome, concise = jnp.asarray(rng.integers(2, size=(4, 8))), jnp.asarray(rng.uniform(0.1, 1, (4, 8)))
    value = conciseness_reward(1.5, 10).update(lab.score(outcome, conciseness=concise), 3, None)[0].value  # pyright: ignore[reportArgumentType]
    return np.allclose(value, outcome * (1 + 1.5 * concise * (0.7 + outcome.mean(-1, keepdims=True))), rtol=1e-5)


PAPER = Paper(
    title="Efficient Reasoning via Reward Model",
    authors="Wang, Li, Gong, and others",
    year=2025,
    arxiv="2511.09158",
    checked="a review and a note of others that quote the formula",
    comparisons=(
        Comparison("accuracy on hard questions, alpha 1.5", "charged/hard", "concise/hard"),
        Comparison("length on easy questions", "outcome/easy_length", "concise/easy_length"),
        Comparison("hard, by normalized advantages", "charged_group_normalized/hard", "concise_group_normalized/hard"),
        Comparison("correlation with true conciseness", "repetition/correlation", "model/correlation"),
    ),
    checks=(
        Check("hard: 50 points above charging", lambda m: m["concise/hard"] - m["charged/hard"], at_least=0.5),
        Check("easy: a length of at most 2", lambda m: m["concise/easy_length"], at_most=2.0),
    ),
    laws=(conciseness_pays_only_when_right,),
    curves={f"{arm}/hard_curve": arm for arm in ("outcome", "charged", "concise")},
)
