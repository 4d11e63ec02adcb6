"""Simple rewards: what was achieved, times what was not violated, instead of a weighted sum of everything desirable.

Claim: A reward that adds terms for progress and for manners has a local optimum of doing nothing, politely; policy
  gradients end there, the more surely the larger the batch. Progress times a factor for every violation has not, and
  gains from large batches.
Method: :math:`r = \\text{progress} \\cdot \\prod_i p_i` with soft factors :math:`p_i \\in [0, 1]`. The baseline adds,
  :math:`(5\\, \\text{progress} + 5 q_1 + 4 q_2 + 2 q_3) / 16`, with the weights of a reward that is popular in driving.
Here: An analogue in text of a method for driving. Kept: the product, soft factors of 0.5, the weights of the sum.
  Simplified: a completion solves six parts one by one; each part violates each of three rules with probability 0.08
  where it was checked just before, with 0.5 where not, so that under the sum a first part costs more than it pays and
  all six pay; first tried at 0 instead of 0.08, both rewards learned alike. The policy sees whether it just checked,
  and may check, solve, fill or stop, 16 actions at most. The score, parts solved times 0.5 per rule violated, is what
  the product pays. Batches of 32 and of 1024 completions over the same samples, 1600 and 50 updates of Adam at 0.02 and
  0.1. World and sizes are ours. Left out: driving, PPO, hard violations that end an episode. `recipe` multiplies
  correctness by a factor for the format.
Run: `agent-tunix papers run simple_rewards`; a policy: `python run_training.py paper=simple_rewards`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: in batches of 1024 the product scores 0.51 and the sum 0.36, in
  batches of 32 both 0.51; without the group's deviation 0.51 and 0.002 in batches of 1024, where the sum ends in doing
  nothing, which earns it 0.69 of 1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from agent_tunix import rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on, components
from agent_tunix.types import Recipe, Reward, Score

CHECK, SOLVE, FILL, STOP = range(4)
NEEDED, FACTOR, GROUP, SAMPLES = 6, 0.5, 16, 51_200
CARELESS, CAREFUL = 0.5, 0.08
BATCHES = {"small": (2, 0.02), "large": (64, 0.1)}


def _step(key: Key[Array, ""], state: tuple[Array, Array, Array], action: Array) -> tuple[Any, Array]:
    checked, solved, violated = state
    solves = (action == SOLVE) & (solved < NEEDED)
    slips = solves & jax.random.bernoulli(key, jnp.where(checked, CAREFUL, CARELESS), (3,))
    return (action == CHECK, solved + solves, violated | slips), action == STOP


WORLD = lab.World(
    start=lambda key, prompt: (jnp.zeros((), bool), jnp.zeros((), jnp.int32), jnp.zeros(3, bool)),
    step=_step,
    observe=lambda state: state[0].astype(jnp.int32),
    horizon=16,
)


def _part(name: str, of: Any) -> Reward:
    return Reward(name, lambda seen: lab.score(of(*seen)))  # pyright: ignore


PROGRESS = _part("progress", lambda solved, violated: solved / NEEDED)
KEPT = [_part(f"rule {rule}", lambda solved, violated, rule=rule: 1.0 - violated[..., rule]) for rule in range(3)]
SOFT = [rewards.scale(kept, 1 - FACTOR, offset=FACTOR) for kept in KEPT]
REWARDS = {
    "sum": rewards.weighted_sum((5 / 16, PROGRESS), *zip((5 / 16, 4 / 16, 2 / 16), KEPT, strict=True)),
    "product": rewards.product(PROGRESS, *SOFT),
}


@functools.cache
def _trained(arm: str, batch: str, estimator: str) -> Any:
    prompts, rate = BATCHES[batch]

    def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
        seen: Any = tuple(state[:, :, -1] for state in sampled.trail[1:])  # before the last action, which stops
        clean = (seen[0] == NEEDED) & ~seen[1].any(-1)
        parts = {"score": REWARDS["product"](seen).value, "solved": seen[0] / NEEDED, "clean": clean}
        return lab.score(REWARDS[arm](seen).value, **parts)

    def run(key: Key[Array, ""]) -> dict[str, Array]:
        toy = lab.tabular(WORLD, jnp.zeros((2, 4)), prompts=prompts, group=GROUP)
        given: Any = {"advantage": lab.GROUPED[estimator], "optimizer": optax.adam(rate)}
        given |= {"steps": SAMPLES // (prompts * GROUP), "measure": lambda params, sampled, raw: raw.parts}
        return jax.tree.map(lambda curve: curve.mean((1, 2)), lab.learn(toy, reward, key=key, **given).history)

    return jax.jit(run)


def reproduce(seed: int) -> Measured:
    """Score, parts solved and clean completions over the last twentieth of training, and the score as it goes."""
    found: dict[str, Any] = {}
    for batch, estimator in (("small", "group_normalized"), ("large", "group_normalized"), ("large", "leave_one_out")):
        for arm in REWARDS:
            history = _trained(arm, batch, estimator)(jax.random.key(seed))
            name = f"{arm}_{batch}" + ("" if estimator == "group_normalized" else f"_{estimator}")
            last = max(len(history["score"]) // 20, 2)
            found |= {f"{name}/{quantity}": float(curve[-last:].mean()) for quantity, curve in history.items()}
            found[f"{name}/curve"] = history["score"].reshape(50, -1).mean(-1)
    idle: Any = (jnp.zeros(1, jnp.int32), jnp.zeros((1, 3), bool))
    return found | {f"{arm}/idle": float(reward(idle).value[0]) for arm, reward in REWARDS.items()}


def recipe(base: Recipe | None = None, *, factor: float = 0.5) -> Recipe:
    """Correctness, times the factor where the format is violated, and times 1 where it is kept."""
    base = based_on(base)
    correctness, layout = components(base.reward, "correctness", "format")
    return base._replace(reward=rewards.product(correctness, rewards.scale(layout, 1 - factor, offset=factor)))


def a_product_is_what_was_achieved_less_what_was_violated(rng: np.random.Generator) -> bool:
    """It lies between 0 and the progress, which it is where every rule is kept; nothing achieved is worth nothing."""
    solved, violated = jnp.asarray(rng.integers(0, NEEDED + 1, 32)), jnp.asarray(rng.random((32, 3)) < 0.5)
    seen: Any = (solved, violated)
    value, progress = np.asarray(REWARDS["product"](seen).value), np.asarray(solved) / NEEDED
    kept = ~np.asarray(violated).any(-1)
    inside = (value >= 0).all() and (value <= progress + 1e-6).all() and not value[progress == 0].any()
    return bool(inside and np.allclose(value[kept], progress[kept], atol=1e-6))


PAPER = Paper(
    title="CaRL: Learning Scalable Planning Policies with Simple Rewards",
    authors="Jaeger, Dauner, Beißwenger, and others",
    year=2025,
    arxiv="2504.17838",
    checked="the authors' code",
    comparisons=(
        Comparison("score, batches of 1024", "sum_large/score", "product_large/score"),
        Comparison("parts solved, batches of 1024", "sum_large/solved", "product_large/solved"),
        Comparison("score, batches of 32", "sum_small/score", "product_small/score"),
        Comparison("score, 1024, no deviation", "sum_large_leave_one_out/score", "product_large_leave_one_out/score"),
        Comparison("reward of doing nothing", "sum/idle", "product/idle"),
    ),
    checks=(
        Check(
            "product scores 10 points more in large batches",
            lambda m: m["product_large/score"] - m["sum_large/score"],
            at_least=0.1,
        ),
        Check(
            "product loses at most 2 points in large batches",
            lambda m: m["product_large/score"] - m["product_small/score"],
            at_least=-0.02,
        ),
        Check("doing nothing earns more than half of the sum", lambda m: m["sum/idle"], at_least=0.5),
        Check("doing nothing earns nothing of the product", lambda m: m["product/idle"], at_most=0.0),
    ),
    laws=(a_product_is_what_was_achieved_less_what_was_violated,),
    curves={f"{arm}_{batch}/curve": f"{arm}, {batch} batches" for batch in BATCHES for arm in REWARDS},
    axis="fiftieth of the samples",
)
