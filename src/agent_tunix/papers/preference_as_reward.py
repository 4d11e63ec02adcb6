"""Preference as reward: the chance that a response beats a reference, instead of the raw score of a reward model.

Claim: A policy trained on the score of a reward model finds what the model overrates: the score rises and the true
  reward falls. The same score put through a bounded function of its distance from a reference response, steep at first
  and flat above, is exploited far less.
Method: :math:`r = \\frac{1}{M} \\sum_m \\sigma(k (R - R_m))` over references :math:`m` of the prompt, drawn from the
  policy before training and scored once. The ten rivals are those of `shapings`, the last of them, a sigmoid that
  starts 3 above the references, meant as how not to do it.
Here: Kept: all of these, M = 10, k = 1, the quantile, the polynomial's degree, interval and points, the clip at one
  running deviation, as in the authors' code. Ours: a bandit of 64 arms, gold N(0, 1), proxy within 0.3 of it but for 4
  exploits (proxy 5 to 8, gold -2, rare in the reference); the ceiling of 2; optimal policies at equal divergence, so
  that no scale is favoured; training with 8 arms per update, rate 0.3, exact divergence penalty 0.3, exploits a fifth
  as likely as other arms; 16 bandits per seed. Left out: language models, reward models and remedies inside of these.
Run: `agent-tunix papers run preference_as_reward`; a policy: `python run_training.py paper=preference_as_reward`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: gold of the best policy at 2 nats 1.14 against -0.09 of the raw
  reward, 1.43 of running clipping and 1.58 of the ceiling, which here lies where gold ends; trained without the group's
  deviation 0.36 against -1.51 (clipping 1.61: at one penalty a small scale learns less), with it 2.10 against 1.60.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on
from agent_tunix.types import Recipe, Score, Shaping

BANDITS, REFERENCES, UPDATES, PENALTY, CEILING = 16, 10, 800, 0.3, 2.0
NATS = (0.5, 1.0, 2.0)
FITTED = np.polyfit(np.linspace(-5, 5, 100), 1 / (1 + np.exp(-np.linspace(-5, 5, 100))), 5).astype(np.float32)


def shapings(references: Array) -> dict[str, Shaping]:
    """The raw reward, preference as reward and its rivals, for a prompt whose references have these rewards."""

    def known(sampled: Any) -> Score:
        return lab.score(references[None])

    return {
        "raw": rewards.identity(),
        "preference": rewards.preference(known),
        "standardized": rewards.standardize("running"),
        "clipped": rewards.clip_running(),
        "range": rewards.min_max(),
        "ceiling": rewards.clip(-np.inf, CEILING),
        "centered": rewards.center_on(known),
        "tanh": rewards.over_references(known, jnp.tanh),
        "arctan": rewards.over_references(known, jnp.arctan),
        "polynomial": rewards.over_references(known, lambda x: jnp.where(abs(x) < 5, jnp.polyval(FITTED, x), x > 0)),
        "log_sigmoid": rewards.log_sigmoid_centered(known),
        "late": rewards.over_references(known, lambda x: jax.nn.sigmoid(3 * (x - 3))),
    }


def _drawn(key: Key[Array, ""], problem: lab.Planted, count: int = REFERENCES) -> Array:
    return problem.proxy[jax.random.categorical(key, jnp.log(problem.reference), shape=(count,))]


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, None))
def _optimal(key: Key[Array, ""], arm: Array) -> Array:
    """Gold of the best policies for a shaped reward at each divergence; running statistics are the reference's."""
    problem, (mine, seen) = lab.planted(key), jax.random.split(jax.random.fold_in(key, 1))
    batch = lab.score(jnp.concatenate([_drawn(seen, problem, 4096), problem.proxy])[None])
    shaping = lab.chosen(shapings(_drawn(mine, problem)), arm)
    shaped, _ = shaping.update(batch, shaping.init(), None)  # pyright: ignore[reportArgumentType]
    reward = shaped.value[0, 4096:]
    return jnp.stack([lab.at_divergence(reward, problem.reference, nats) @ problem.gold for nats in NATS])


@functools.partial(jax.jit, static_argnums=2)
@functools.partial(jax.vmap, in_axes=(0, None, None))
def _trained(key: Key[Array, ""], arm: Array, estimator: str) -> dict[str, Array]:
    """Gold and share of exploits over updates."""
    problem, (mine, run) = lab.planted(key, rarity=0.2), jax.random.split(jax.random.fold_in(key, 1))
    arms = {"gold": problem.gold, "exploits": problem.exploit}
    return lab.learn(
        lab.bandit(jnp.log(problem.reference)),
        lambda key, sampled: lab.score(problem.proxy[sampled.last]),
        key=run,
        steps=UPDATES,
        shaping=lab.chosen(shapings(_drawn(mine, problem)), arm),
        advantage=lab.GROUPED[estimator],
        penalty=lambda params: PENALTY * lab.divergence(jax.nn.softmax(params[0]), problem.reference),
        measure=lambda params, *_: {what: jax.nn.softmax(params[0]) @ each for what, each in arms.items()},
    ).history


def reproduce(seed: int) -> Measured:
    """Gold of optimal policies at equal divergence, and gold and share of exploits in training, of every shaping."""
    keys, found = jax.random.split(jax.random.key(seed), BANDITS), {}
    for arm, name in enumerate(shapings(jnp.zeros(1))):
        gold = np.asarray(_optimal(keys, jnp.asarray(arm))).mean(0)
        found |= {f"{name}/gold_at_{nats:g}": value for nats, value in zip(NATS, gold, strict=True)}
        found[f"{name}/least_fall"] = -np.diff(gold).max()
        for estimator in lab.GROUPED:
            history = {what: np.mean(x, 0) for what, x in _trained(keys, jnp.asarray(arm), estimator).items()}
            full = name if estimator == "leave_one_out" else f"{name}_{estimator}"
            found |= {f"{full}/{what}": curve[-1] for what, curve in history.items()}
            found |= {f"{full}/peak": history["gold"].max(), f"{full}/gold_curve": history["gold"]}
    return found


def recipe(
    base: Recipe | None = None, *, k: float = 1.0, column: str = "answer", written: str = "<answer>{}</answer>"
) -> Recipe:
    """The reward becomes the chance to beat the references of a column, here the reference answer in its tags."""
    base = based_on(base)
    preferred = rewards.preference(rewards.reference_scores(base.reward, column, written), k)
    return base._replace(shaping=rewards.chain(preferred, base.shaping))


def what_a_prompt_shares_does_not_show(rng: np.random.Generator) -> bool:
    """A constant added to rewards and references changes nothing; values lie in (0, 1), in the order of the rewards."""
    own, theirs = np.sort(rng.normal(size=(1, 16))), jnp.asarray(rng.normal(size=REFERENCES))
    update = {by: shapings(theirs + by)["preference"].update for by in (0, 7)}
    one, two = (update[by](lab.score(own + by), (), None)[0].value for by in update)  # pyright: ignore[reportArgumentType]
    return bool((one > 0).all() and (one < 1).all() and (jnp.diff(one) > 0).all() and np.allclose(one, two, atol=1e-5))


PAPER = Paper(
    title="Reward Shaping to Mitigate Reward Hacking in RLHF",
    authors="Fu, Zhao, Yao, and others",
    year=2025,
    arxiv="2502.18770",
    checked="the authors' code",
    comparisons=(
        *(Comparison(f"gold at {n:g} nats", f"raw/gold_at_{n:g}", f"preference/gold_at_{n:g}") for n in NATS),
        Comparison("gold at 2 nats", "clipped/gold_at_2", "preference/gold_at_2"),
        Comparison("gold after training", "raw/gold", "preference/gold"),
        Comparison("gold after training", "clipped/gold", "preference/gold"),
        Comparison("gold, by normalized advantages", "raw_group_normalized/gold", "preference_group_normalized/gold"),
        Comparison("exploits after training", "raw/exploits", "preference/exploits"),
    ),
    checks=(
        *(
            Check(f"{n:g} nats: 0.3 more", lambda m, at=f"gold_at_{n:g}": m[f"preference/{at}"] - m[f"raw/{at}"], 0.3)
            for n in NATS
        ),
        Check("gold of the raw reward falls with every nat", lambda m: m["raw/least_fall"], at_least=0.0),
        Check("trained on it, gold ends 1 below its peak", lambda m: m["raw/peak"] - m["raw/gold"], at_least=1.0),
        Check("trained on preferences, at most 10 % are exploits", lambda m: m["preference/exploits"], at_most=0.1),
    ),
    curves={f"{arm}/gold_curve": arm for arm in ("raw", "preference", "clipped", "late")},
)
