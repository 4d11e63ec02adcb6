"""Noisy rewards: training bears many wrong rewards, and rewards for phrases of reasoning alone already help.

Claim: With 40 % of rewards turned around a model learns nearly what it learns from clean ones, at 50 % nothing. Phrases
  of reasoning alone come near a verifier; added to low grades of a reward model they make up for answers it missed.
Method: One coin per prompt turns the rewards 0 and 1 of its group around. The pattern reward is the share of 20 key
  phrases found, less the share of repeated 20-grams. Calibration: :math:`\\min(1, r + \\alpha q)` where the reward
  model's :math:`r < 0.5`, with the pattern reward :math:`q` and :math:`\\alpha = 0.1`.
Here: Kept: the flips, by prompt and for contrast by completion, both formulas, 0.5 and 0.1. Ours: 20 prompts of 10 arms
  for the flips, groups of 8, 300 updates. For the rest a small transformer, taught that 3 in 10 answers follow three
  different key words, of which 9 in 10 are right, against 1 in 10 without; in the control 34 % either way. Pattern: the
  share of 3 words, less repeats; 8 prompts of 8 answers, 100 updates. The reward model misses 35 % of right answers at
  random, and is compared after 20 updates. Left out: language models, PPO, a trained reward model.
Run: `agent-tunix papers run noisy_rewards`; a policy: `python run_training.py paper=noisy_rewards`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: right arm 0.82 with 40 % of groups flipped (no deviation 0.47), 0.13
  with 50 %, clean 0.99. Patterns alone reach 0.83, a verifier 0.98, then recite and fall to 0.62; the control gains
  nothing. Calibration is not reproduced: 0.881, without 0.879; nor, no deviation, three seeds, with misses fixed to 3
  of 8 prompts or a model that reasons in 1 of 10 or 20 answers.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from agent_tunix import rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on
from agent_tunix.types import Recipe, Score

RATES, PROMPTS, ARMS = (0.0, 0.2, 0.4, 0.5), 20, 10
FLIPS = {f"{per}_{rate:g}": (rate, per) for per in ("group", "completion") for rate in RATES}
ASKED, WORDS, SLOTS, EARLY = 8, 4, 3, slice(18, 23)
WORD, FILLER = 2 * ASKED, 2 * ASKED + WORDS
MODEL = lab.transformer(2 * ASKED + 2 * WORDS, SLOTS + 2)


@functools.partial(jax.jit, static_argnums=2)
def _flipped(key: Key[Array, ""], arm: Array, estimator: str) -> Array:
    """Chance of the right arm over updates."""
    best, seed = jnp.arange(PROMPTS) % ARMS, jax.random.randint(key, (), 0, 1 << 30)
    noises = {name: rewards.noise(rate, seed=seed, per=per) for name, (rate, per) in FLIPS.items()}  # pyright: ignore[reportArgumentType]
    return lab.learn(
        lab.bandit(jnp.zeros((PROMPTS, ARMS))),
        lambda key, sampled: lab.score(sampled.last == best[:, None]),
        key=key,
        steps=300,
        rate=0.2 * PROMPTS,
        shaping=lab.chosen(noises, arm),
        advantage=lab.GROUPED[estimator],
        measure=lambda params, *_: {"right": jax.nn.softmax(params)[jnp.arange(PROMPTS), best].mean()},
    ).history["right"]


def _lessons(correlated: Array, key: Key[Array, ""]) -> tuple[Array, Array, Array]:
    """Prompts, and continuations that reason in 3 of 10 cases and are then more often right, if correlated."""
    ask, choose, pick, chance, miss = jax.random.split(key, 5)
    prompts, thinks = jax.random.randint(ask, (64, 1), 0, ASKED), jax.random.bernoulli(choose, 0.3, (64, 1))
    words = jnp.argsort(jax.random.uniform(pick, (64, WORDS)))[:, :SLOTS] + jnp.where(thinks, WORD, FILLER)
    right = jax.random.bernoulli(chance, jnp.where(correlated, jnp.where(thinks, 0.9, 0.1), 0.34))
    answers = ASKED + jnp.where(right, prompts, jax.random.randint(miss, (64, 1), 0, ASKED))
    whole = jnp.concatenate([words, answers], -1)
    return prompts, whole, jnp.ones(whole.shape, bool)


@jax.jit
def _taught(key: Key[Array, ""], correlated: Array) -> Any:
    return lab.imitate(MODEL, MODEL.init(key), functools.partial(_lessons, correlated), key=key, steps=1000)


@functools.partial(jax.jit, static_argnums=3)
def _reasoned(key: Key[Array, ""], params: Any, weights: Array, estimator: str) -> Array:
    """Accuracy over updates; the weights are those of verifier, pattern, reward model and its calibration."""

    def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
        right = (sampled.last == ASKED + sampled.trail).astype(jnp.float32)
        found = (sampled.actions[..., :SLOTS, None] == WORD + jnp.arange(WORDS)).sum(-2)
        pattern = jnp.maximum(0, (found > 0).sum(-1) - (found > 1).sum(-1)) / SLOTS
        judged = right * jax.random.bernoulli(key, 0.65, right.shape)
        lifted = jnp.where(judged < 0.5, jnp.minimum(1, judged + 0.1 * pattern), judged)
        return lab.score(jnp.stack([right, pattern, judged, lifted], -1) @ weights, right=right)

    toy = lab.sequences(MODEL, lambda key: jnp.arange(ASKED)[:, None], length=SLOTS + 1)
    given = {"advantage": lab.GROUPED[estimator], "optimizer": optax.adam(1e-3), "start": params, "steps": 100}
    right = lab.learn(toy, reward, key=key, measure=lambda _, __, raw: {"right": raw.parts["right"].mean()}, **given)
    return jnp.convolve(right.history["right"], jnp.full(5, 0.2), "valid")


def reproduce(seed: int) -> Measured:
    """Chance of the right arm with flips; accuracy from each reward, of models that reason well and that do not."""
    key, found = jax.random.key(seed), {}
    taught = {name: _taught(key, jnp.asarray(name == "model")) for name in ("model", "control")}
    for estimator in lab.GROUPED:
        suffix = f"_{estimator}" * (estimator != "group_normalized")
        for arm, name in enumerate(FLIPS):
            curve = _flipped(key, jnp.asarray(arm), estimator)
            found |= {f"{name}{suffix}/right": float(curve[-1]), f"{name}{suffix}/curve": curve}
        for model, arm in itertools.product(taught, range(4)):
            right = _reasoned(key, taught[model], jnp.eye(4)[arm], estimator)
            shown = {"peak": right.max(), "end": right[-1], "early": right[20], "gain": right[-1] - right[0]}
            name = f"{model}_{('verifier', 'pattern', 'judge', 'calibrated')[arm]}{suffix}"
            found |= {f"{name}/{what}": float(value) for what, value in shown.items()}
    return found


def recipe(base: Recipe | None = None, *, threshold: float = 0.5, strength: float = 0.1) -> Recipe:
    """Low rewards are lifted by phrases of reasoning: for a reward that misses good completions."""
    base = based_on(base)
    pattern = rewards.per_completion(rewards.reasoning_patterns, name="reasoning", bounds=(0, 1))
    return base._replace(reward=rewards.calibrated(base.reward, pattern, threshold, strength))


def flips_scale_the_expected_advantage(rng: np.random.Generator) -> bool:
    """Whatever coins fall, the mean normalized advantage is the clean one times 1 - 2 (share of groups flipped)."""
    clean = jnp.broadcast_to(jnp.asarray(rng.integers(2, size=8), jnp.float32), (4096, 8))
    seed = int(rng.integers(1 << 30))
    noisy = rewards.noise(0.4, seed=seed, per="group").update(lab.score(clean), 0, None)[0]  # pyright: ignore[reportArgumentType]
    share = (noisy.value[:, 0] != clean[:, 0]).mean()
    before, after = (lab.GROUPED["group_normalized"](each).mean(0) for each in (lab.score(clean), noisy))
    return bool(np.allclose(after, (1 - 2 * share) * before, atol=1e-3) and abs(share - 0.4) < 0.05)


PAPER = Paper(
    title="The Climb Carves Wisdom Deeper Than the Summit: On the Noisy Rewards in Learning to Reason",
    authors="Lv, Xie, Sun, and others",
    year=2025,
    arxiv="2505.22653",
    checked="the authors' code",
    comparisons=(
        Comparison("right, 40 % of groups flipped", "group_0/right", "group_0.4/right"),
        Comparison("the same, without deviation", "group_0_leave_one_out/right", "group_0.4_leave_one_out/right"),
        Comparison("best accuracy by pattern alone", "model_verifier/peak", "model_pattern/peak"),
        Comparison("reward model, update 20", "model_judge/early", "model_calibrated/early"),
        Comparison("accuracy by pattern alone, end", "model_verifier/end", "model_pattern/end"),
        Comparison("right, 40 % of completions flipped", "completion_0/right", "completion_0.4/right"),
    ),
    checks=(
        Check("40 % flips: 0.75 of clean", lambda m: m["group_0.4/right"] / m["group_0/right"], at_least=0.75),
        Check("50 % flips: a quarter at most", lambda m: m["group_0.5/right"], at_most=0.25),
        Check("patterns reach 0.7 of the verifier", lambda m: m["model_pattern/peak"] / m["model_verifier/peak"], 0.7),
        Check("without correlation they gain nothing", lambda m: m["control_pattern/gain"], at_most=0.05),
        Check("calibration: 3 points", lambda m: m["model_calibrated/early"] - m["model_judge/early"], at_least=0.03),
    ),
    laws=(flips_scale_the_expected_advantage,),
    curves={f"group_{rate:g}/curve": f"{rate:.0%} flipped" for rate in RATES},
)
