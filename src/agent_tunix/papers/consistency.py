"""Reward consistency: a reward model may rank answers well and still not see what a changed instruction asks for.

Claim: Reward models that rank well are near chance on contrast instructions, which differ in a word and want different
  answers; the policy inherits it. Trained on contrasts, or averaged over similar examples, they are more consistent.
Method: With answers :math:`r_1, r_2` to :math:`I_1, I_2`, consistency is how often :math:`R(I_1, r_1) > R(I_1, r_2)`
  (response) or :math:`> R(I_2, r_1)` (instruction). RewardFusion averages over similar training examples, by softmax.
Here: Kept: both measures, the format of contrasts, the averaging. Ours: "first" or "last" of three different digits of
  ten as instruction, one as answer; negatives of the common model are unlisted digits, half of those of the contrast
  model the answer to the other word, or the other instruction with this answer; 8 nearest of 512 examples, temperature
  0.1; policies that first name any listed digit, 200 updates. Left out: language models, mined pairs, and ConvexDA.
Run: `agent-tunix papers run consistency`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: both rank at 1.00; response consistency 0.60 and 1.00, accuracy of the
  policy 0.45 and 0.82 (without deviation 0.43, 0.83). RewardFusion is not reproduced: 0.56 against 0.60 without.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper
from agent_tunix.types import Score

DIGITS, FIRST, NEAREST = 10, 2, 8
MODEL = lab.transformer(FIRST + DIGITS, 5)


def _instructions(key: Key[Array, ""], count: int) -> tuple[Array, Array]:
    """Words 0 (first) or 1 (last), each with three different digits, `[count 4]`; and a digit that is not listed."""
    digits = jnp.argsort(jax.random.uniform(key, (count, DIGITS))) + FIRST
    words = jax.random.bernoulli(jax.random.fold_in(key, 1), shape=(count, 1)).astype(int)
    return jnp.concatenate([words, digits[:, :3]], -1), digits[:, 3]


def _answer(asked: Array) -> Array:
    return jnp.where(asked[..., 0] == 0, asked[..., 1], asked[..., 3])


def _other(asked: Array) -> Array:
    return asked.at[..., 0].set(1 - asked[..., 0])


def _reward(params: Any, asked: Array, answer: Array) -> Array:
    return MODEL.logits(params, jnp.column_stack([asked, answer]))[:, -1, 0]


def _features(params: Any, asked: Array, answer: Array) -> Array:
    hidden = MODEL.hidden(params, jnp.column_stack([asked, answer]))[:, -1]
    return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


@jax.jit
def _reward_model(key: Key[Array, ""], contrast: Array) -> Any:
    """Trained on comparisons; of a share of them the negative is a contrast."""

    def objective(params: Any, key: Key[Array, ""]) -> Array:
        asked, unlisted = _instructions(key, 128)
        hard, moved = jnp.arange(128) < 64 * contrast, jnp.arange(128) >= 128 - 64 * contrast
        negative = jnp.where(hard, _answer(_other(asked)), jnp.where(moved, _answer(asked), unlisted))
        bad = _reward(params, jnp.where(moved[:, None], _other(asked), asked), negative)
        return -jax.nn.log_sigmoid(_reward(params, asked, _answer(asked)) - bad).mean()

    return lab.fit(objective, MODEL.init(key), key=key, steps=1500)


def consistency(reward: Any, asked: Array) -> dict[str, Array]:
    """How often the reward is consistent on instructions and their contrasts; ties count as misses."""
    own, theirs = reward(asked, _answer(asked)), reward(asked, _answer(_other(asked)))
    return {"response": (own > theirs).mean(), "instruction": (own > reward(_other(asked), _answer(asked))).mean()}


@jax.jit
def _measured(key: Key[Array, ""], params: Any) -> dict[str, Array]:
    """Accuracy on common comparisons, and consistency with and without fusion."""
    (asked, unlisted), (known, _) = _instructions(key, 512), _instructions(jax.random.fold_in(key, 2), 512)
    plain, near = functools.partial(_reward, params), _features(params, known, _answer(known))

    def fused(asked: Array, answer: Array) -> Array:
        like, rows = jax.lax.top_k(_features(params, asked, answer) @ near.T, NEAREST)
        weights = jax.nn.softmax(jnp.pad(like, ((0, 0), (1, 0)), constant_values=1.0) / 0.1)
        return (weights * jnp.column_stack([plain(asked, answer), plain(known, _answer(known))[rows]])).sum(-1)

    both = {**consistency(plain, asked), **{f"fused_{name}": x for name, x in consistency(fused, asked).items()}}
    return both | {"ranking": (plain(asked, _answer(asked)) > plain(asked, unlisted)).mean()}


@jax.jit
def _policies(key: Key[Array, ""], params: Any) -> dict[str, Array]:
    """Accuracy over updates of policies that start with any listed digit."""

    def lessons(key: Key[Array, ""]) -> tuple[Array, Array, Array]:
        asked, column = _instructions(key, 64)[0], jax.random.randint(key, (64, 1), 1, 4)
        return asked, jnp.take_along_axis(asked, column, -1), jnp.ones((64, 1), bool)

    def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
        value = jax.vmap(functools.partial(_reward, params, sampled.trail), 1, 1)(sampled.last)
        return lab.score(value, right=1.0 * (sampled.last == _answer(sampled.trail)[:, None]))

    toy = lab.sequences(MODEL, lambda key: _instructions(key, 16)[0], length=1)
    given = {"start": lab.imitate(MODEL, MODEL.init(key), lessons, key=key, steps=500), "steps": 200, "key": key}
    given |= {"optimizer": optax.adam(1e-3), "measure": lambda _, __, raw: {"right": raw.parts["right"].mean()}}
    return {name: lab.learn(toy, reward, advantage=way, **given).history["right"] for name, way in lab.GROUPED.items()}


def reproduce(seed: int) -> Measured:
    """Accuracy and consistency of reward models with common and with contrast negatives, and policies of both."""
    key, found = jax.random.key(seed), {}
    for name, share in (("common", 0.0), ("contrast", 0.5)):
        model = _reward_model(key, jnp.asarray(share))
        found |= {f"{name}/{what}": float(x) for what, x in _measured(jax.random.fold_in(key, 7), model).items()}
        for estimator, curve in _policies(key, model).items():
            full = name + f"_{estimator}" * (estimator != "group_normalized")
            found |= {f"{full}/policy": float(curve[-20:].mean()), f"{full}/curve": curve}
    return found


def a_reward_of_right_answers_is_consistent(rng: np.random.Generator) -> bool:
    """It tells the answers apart, both ways and always."""
    asked, _ = _instructions(jax.random.key(int(rng.integers(1 << 30))), 64)
    return bool(min(consistency(lambda asked, said: 1.0 * (said == _answer(asked)), asked).values()) == 1)


PAPER = Paper(
    title="The Trickle-down Impact of Reward (In-)consistency on RLHF",
    authors="Shen, Chen, Song, and others",
    year=2023,
    arxiv="2309.16155",
    checked="the authors' code and pages about the paper",
    comparisons=(
        Comparison("response consistency", "common/response", "contrast/response"),
        Comparison("response consistency, RewardFusion", "common/response", "common/fused_response"),
        Comparison("accuracy of the policy", "common/policy", "contrast/policy"),
        Comparison("instruction consistency", "common/instruction", "contrast/instruction"),
        Comparison("the same, without deviation", "common_leave_one_out/policy", "contrast_leave_one_out/policy"),
    ),
    checks=(
        Check("the common model ranks well", lambda m: m["common/ranking"], at_least=0.9),
        Check("and is not consistent", lambda m: m["common/response"], at_most=0.7),
        Check("the contrast model is", lambda m: m["contrast/response"], at_least=0.9),
        Check("its policy is 15 points better", lambda m: m["contrast/policy"] - m["common/policy"], at_least=0.15),
        Check("fusion: 2 points", lambda m: m["common/fused_response"] - m["common/response"], at_least=0.02),
    ),
    laws=(a_reward_of_right_answers_is_consistent,),
    curves={f"{arm}/curve": f"{arm} reward model" for arm in ("common", "contrast")},
)
