"""Multi-turn agents: rewards for turns instead of the last one alone, and demonstrations before reinforcement.

Claim: Rewards for intermediate turns speed up training; agents trained in simple worlds act in harder ones; and under a
  fixed budget there is a best ratio of demonstrations to reinforcement learning.
Method: Tokens of turns and of observations lie interleaved. A single reward lies on the last token of the last turn;
  dense ones lie on the last token of each turn k as :math:`r_k / N`, with N the number of positive ones where the
  episode is won and the greatest possible number where it is not. PPO uses generalized advantages that pass over
  observations (`agent_tunix.turns.gae`), whitened over the batch; RLOO and GRPO compare sums of episodes.
Here: Kept: the rewards and their places, the estimators, clipping at 0.2, a discount of 1, 24 turns at most. Ours: a
  text world of w rooms, o things and q steps with twelve observations and an action per turn, softmax tables as policy
  and critic, 64 episodes per update, Adam; demonstrators half of whose actions are drawn evenly, each for the price of
  ten episodes; rewards of the last turn under the budget. Left out: TextWorld, ALFWorld, SWE-Gym, the penalty on the
  divergence (0.01). No `recipe`: the command line samples single turns; the guide on several turns trains a language
  model with such rewards.
Run: `agent-tunix papers run multi_turn_guide`.
Seen: 2 shared cores (AMD EPYC), 2026-12-01, five seeds: updates to half of the success in w4-o4-q6 33 against 150 (not
  reached by the end), in w4-o4-q4 24 against 59, in w2-o3-q4 13 against 14: dense rewards matter where success is rare
  at first, with RLOO and GRPO as much as with PPO. After w2-o4-q2, 0.88 against 0.26 in w3-o4-q3. Under the
  budget 0.99 with a tenth or a quarter of it for demonstrations, 0.37 with all of it, 0.00 with none.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from agent_tunix import advantages, losses, rewards, turns
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper
from agent_tunix.types import Score

HORIZON, UPDATES, PROMPTS, GROUP = 24, 150, 8, 8
WORLDS = {"w2-o3-q4": (2, 3, 4), "w4-o4-q4": (4, 4, 4), "w4-o4-q6": (4, 4, 6)}
HARDEST, SIMPLE, HARDER = WORLDS["w4-o4-q6"], (2, 4, 2), (3, 4, 3)
BUDGET, PRICE, FRACTIONS = 2560, 10, (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
IMITATED = jax.jit(functools.partial(lab.quests.imitated, most=BUDGET // PRICE, errors=0.5, horizon=HORIZON))
SUCCESS = jax.jit(functools.partial(lab.quests.success, sizes=lab.quests.Sizes(*HARDER), horizon=HORIZON))
LOSS = losses.policy_loss(losses.clipped(0.2))
VALUES = (lab.quests.MOST_STEPS + 1) * lab.quests.ROWS
CREDIT = {
    "ppo": (lab.critic(lambda did: did.trail.taken * lab.quests.ROWS + did.states, VALUES), advantages.as_given),
    "rloo": (rewards.identity(), lab.GROUPED["leave_one_out"]),
    "grpo": (rewards.identity(), lab.GROUPED["group_normalized"]),
}


def shares(given: Any, won: Any, most: Array | int) -> Array:
    """Rewards of turns `[... turns]` as shares of 1: of their number if the episode is won, else of the greatest."""
    return given / jnp.maximum(jnp.where(won, jnp.sum(given > 0, -1), most), 1)[..., None]


@functools.cache
def _trained(algorithm: str) -> Any:
    """`(key, sizes, dense, table) -> (success before every update, last table)`, over an axis of problems."""

    def run(key: Key[Array, ""], sizes: Any, dense: Array, table: Array) -> tuple[Array, Array]:
        worlds, learning = jax.random.split(key)
        world = lab.quests.quests(worlds, lab.quests.Sizes(*sizes), HORIZON)

        def reward(_: Key[Array, ""], sampled: lab.Sampled) -> Score:
            mask, won = sampled.completion_mask, ~sampled.truncated
            steps = (lab.quests.progress(sampled.trail, sampled.actions) & mask).astype(jnp.float32)
            last = jnp.arange(HORIZON) == sampled.lengths[..., None] - 1
            return lab.per_token(jnp.where(dense, shares(steps, won, sizes[2]), won[..., None] & last), mask)

        toy, (shaping, advantage) = lab.tabular(world, table, prompts=PROMPTS, group=GROUP), CREDIT[algorithm]
        given = {"shaping": shaping, "advantage": advantage, "loss": LOSS, "optimizer": optax.adam(0.05)}
        given |= {"measure": lambda params, sampled, raw: {"success": 1.0 - sampled.truncated.mean()}}
        found = lab.learn(toy, reward, key=learning, steps=UPDATES, **given)
        return found.history["success"], found.params

    return jax.jit(jax.vmap(run, (None, 0, 0, 0)))


def reproduce(seed: int) -> Measured:
    """Updates to half of the success with both rewards, success in a harder world, success over ratios of a budget."""
    key, (kinds, names) = jax.random.key(seed), (np.repeat(["single", "dense"], len(WORLDS)), [*WORLDS] * 2)
    sizes, found = tuple(jnp.tile(jnp.array(axis), 2) for axis in zip(*WORLDS.values(), strict=True)), {}
    nothing = jnp.zeros((len(kinds), lab.quests.ROWS, lab.quests.ACTIONS))
    for algorithm in CREDIT:
        curves, _ = _trained(algorithm)(key, sizes, jnp.asarray(kinds == "dense"), nothing)
        for kind, name, curve in zip(kinds, names, np.asarray(curves), strict=True):
            reached = np.convolve(curve, np.ones(5) / 5, "valid") >= 0.5
            half = float(np.argmax(reached) + 2 if reached.any() else UPDATES)
            found |= {f"{algorithm}_{kind}/{name}": half, f"{algorithm}_{kind}/curve_{name}": curve}
    found["ppo_dense/relative"] = found["ppo_dense/w4-o4-q6"] / found["ppo_single/w4-o4-q6"]
    return found | _transferred(key) | _budgeted(jax.random.fold_in(key, 1))


def _transferred(key: Key[Array, ""]) -> dict[str, float]:
    """Success in the harder world, of an imitator of four demonstrations and after training it in the simple one."""
    start = IMITATED(key, lab.quests.Sizes(*SIMPLE), 4)
    copies = tuple(jnp.full(len(FRACTIONS), size) for size in SIMPLE)
    _, ends = _trained("ppo")(key, copies, jnp.full(len(FRACTIONS), True), jnp.stack([start] * len(FRACTIONS)))
    before, after = (float(SUCCESS(jax.random.fold_in(key, 2), table)) for table in (start, ends[0]))
    return {"imitated/harder": before, "ppo_dense/harder": after, "ppo_dense/times": after / before}


def _budgeted(key: Key[Array, ""]) -> dict[str, Any]:
    """Success where a fraction of the budget was spent on demonstrations and the rest on training."""
    tables = jnp.stack([IMITATED(key, lab.quests.Sizes(*HARDEST), int(part * BUDGET / PRICE)) for part in FRACTIONS])
    copies = tuple(jnp.full(len(FRACTIONS), size) for size in HARDEST)
    curves, _ = _trained("rloo")(key, copies, jnp.full(len(FRACTIONS), False), tables)
    updates = [round((1 - part) * BUDGET / (PROMPTS * GROUP)) for part in FRACTIONS]
    reached = np.array([np.mean(curve[max(at - 2, 0) : at + 3]) for curve, at in zip(curves, updates, strict=True)])
    alone, best = {"trained/budget": reached[0], "imitated/budget": reached[-1]}, reached[1:-1].max()
    return alone | {"both/budget": best, "both/gain": best - max(alone.values()), "both/curve": reached}


def passing_over_observations_is_leaving_them_out(rng: np.random.Generator) -> bool:
    """Advantages of the interleaved sequence are those of the policy's tokens alone, and 0 on observations."""
    mask, (given, values), (gamma, lam) = rng.random(16) < 0.6, rng.normal(size=(2, 16)), rng.random(2)
    whole = np.asarray(turns.gae(jnp.float32(given), jnp.float32(values), jnp.asarray(mask), gamma=gamma, lam=lam))
    kept = jnp.float32(given[mask]), jnp.float32(values[mask]), jnp.ones(mask.sum(), bool)
    return np.allclose(whole[mask], turns.gae(*kept, gamma=gamma, lam=lam), atol=1e-5) and not whole[~mask].any()


def dense_rewards_sum_to_one_when_won(rng: np.random.Generator) -> bool:
    """An episode that is won has 1 in all, one that is not at most 1."""
    given = np.maximum(rng.random((32, 9)) < 0.5, np.arange(9) == 0).astype(np.float32)
    won, lost = (np.asarray(shares(given, np.full(32, which), 9)).sum(-1) for which in (True, False))
    return np.allclose(won, 1.0, atol=1e-6) and bool((lost <= 1 + 1e-6).all())


FASTER = [*((world, "ppo") for world in reversed(WORLDS)), ("w4-o4-q6", "rloo"), ("w4-o4-q6", "grpo")]
PAPER = Paper(
    title="A Practitioner's Guide to Multi-turn Agentic Reinforcement Learning",
    authors="Wang and Ammanabrolu",
    year=2025,
    arxiv="2510.01132",
    checked="the authors' code",
    comparisons=(
        *(Comparison(f"updates to half, {w}", f"{arm}_single/{w}", f"{arm}_dense/{w}") for w, arm in FASTER),
        Comparison("success in w3-o4-q3 after w2-o4-q2", "imitated/harder", "ppo_dense/harder"),
        Comparison("success, training or the best mixture", "trained/budget", "both/budget"),
        Comparison("success, demonstrations or the best mixture", "imitated/budget", "both/budget"),
    ),
    checks=(
        Check("dense rewards: 0.6 of the updates at most", lambda m: m["ppo_dense/relative"], at_most=0.6),
        Check("harder world: twice the success of the imitator", lambda m: m["ppo_dense/times"], at_least=2.0),
        Check("a mixture: 5 points more than either alone", lambda m: m["both/gain"], at_least=0.05),
    ),
    laws=(passing_over_observations_is_leaving_them_out, dense_rewards_sum_to_one_when_won),
    curves={f"{arm}_{kind}/curve_w4-o4-q6": f"{arm}, {kind}" for kind in ("single", "dense") for arm in CREDIT},
)
