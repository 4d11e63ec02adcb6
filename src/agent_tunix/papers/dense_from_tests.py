"""Dense rewards from tests: a test counts the more the fewer of the group pass it, beside the outcome of all tests.

Claim: Whether all tests pass is too rare a reward for hard programs, and the share of tests that pass is bought with
  the easy ones. Weighing tests by how few of the group's programs pass them, beside the outcome, rewards progress.
Method: With :math:`\\rho_j` the share of a group that passes test j, :math:`w_j = 1 - \\rho_j`, the dense reward of a
  program is :math:`\\sum_j w_j U_j / \\sum_j w_j`. It and the outcome, whether all tests pass, are normalised in the
  group each by itself; the credit is half of each (`agent_tunix.advantages.per_part`). Stratified, a weight is divided
  by the number of tests whose pass rates lie in the same band, so that many easy tests count as one.
Here: Kept: weights from the group's own pass rates, both levels of credit, halves. The linear weights and halves are
  those others report; five equal bands are our reading of the paper's bias of cardinality. Simplified: a program is a
  special case, which passes 6 of 10 tests for sure, or four choices out of six, each of which passes one of the other
  tests if right, and all tests only if all are right; special cases are likelier at first, by a logit of 1; groups of
  16, four of them, 300 updates at rate 0.5. All these numbers are ours. Left out: several turns, real programs.
  `recipe` does the same with the checks of the text reward, and mixes both rewards before they are normalised.
Run: `agent-tunix papers run dense_from_tests`; a policy: `python run_training.py paper=dense_from_tests`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: 0.985 of the programs pass all tests, against 0.001 under the outcome
  alone and 0 under the share of tests, which teaches special cases in 0.999. Without the group's deviation no arm gets
  anywhere at this rate. With ten copies of the easy tests the weights need the bands: 0.989
  against 0.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from agent_tunix import advantages, rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on, components
from agent_tunix.types import Recipe, Score

EASY, CHOICES, SYMBOLS, UPDATES = 6, 4, 6, 300
SPECIAL, GENERAL, RIGHT = 0, 1, 0
# Exponent of the weights of tests, and how much the credits of the dense reward and of the outcome count.
ARMS = {"outcome": (0, 0, 1), "share": (0, 1, 0), "share_and_outcome": (0, 0.5, 0.5), "weighted": (1, 0.5, 0.5)}


def _step(key: Key[Array, ""], place: Array, action: Array) -> tuple[Array, Array]:
    del key
    return place + 1, (place == CHOICES) | ((place == 0) & (action == SPECIAL))


WORLD = lab.World(lambda key, prompt: jnp.zeros((), jnp.int32), _step, lambda place: place, horizon=CHOICES + 1)


def _passed(sampled: lab.Sampled, copies: int) -> Float[Array, "tests prompts group"]:
    """What each test says; the easy ones are there `copies` times."""
    special = sampled.actions[..., 0] == SPECIAL
    right = (sampled.actions[..., 1:] == RIGHT) & ~special[..., None]
    easy = jnp.repeat((special | right.all(-1))[None], EASY * copies, 0)
    return jnp.concatenate([easy, jnp.moveaxis(right, -1, 0)]).astype(jnp.float32)


@functools.cache
def _trained(estimator: str, copies: int = 1, strata: int | None = None) -> Any:
    def run(key: Key[Array, ""], arm: Float[Array, "3"]) -> dict[str, Array]:
        def reward(key: Key[Array, ""], sampled: lab.Sampled) -> Score:
            del key
            passed = _passed(sampled, copies)
            weights = rewards.difficulty_weights(passed, power=arm[0], strata=strata)
            dense = (weights[..., None] * passed).sum(0)
            return lab.score(dense, dense=dense, outcome=passed.min(0))

        credit = advantages.per_part(getattr(advantages, estimator), {"dense": arm[1], "outcome": arm[2]})

        def measure(params: Any, sampled: lab.Sampled, raw: Score) -> dict[str, Array]:
            return {"passed": raw.parts["outcome"].mean(), "special": (sampled.actions[..., 0] == SPECIAL).mean()}

        logits = jnp.zeros((CHOICES + 1, SYMBOLS)).at[0, GENERAL + 1 :].set(-1e9).at[0, SPECIAL].set(1.0)
        toy = lab.tabular(WORLD, logits, prompts=4, group=16)
        return lab.learn(toy, reward, key=key, steps=UPDATES, rate=0.5, advantage=credit, measure=measure).history

    return jax.jit(jax.vmap(run, (None, 0)))


def reproduce(seed: int) -> Measured:
    """Programs that pass all tests, and special cases, over the last 20 updates of each reward."""
    plain = "group_normalized"
    runs = {"": (plain,), "_leave_one_out": ("leave_one_out",), "_copies": (plain, 10)}
    runs |= {"_strata": (plain, 1, 5), "_strata_copies": (plain, 10, 5)}
    found: dict[str, Any] = {}
    for suffix, arguments in runs.items():
        history = _trained(*arguments)(jax.random.key(seed), jnp.asarray(list(ARMS.values())))
        for place, arm in enumerate(ARMS):
            curves = {name: np.asarray(curve[place]) for name, curve in history.items()}
            found |= {f"{arm}{suffix}/{name}": float(curve[-20:].mean()) for name, curve in curves.items()}
            found[f"{arm}{suffix}/passed_curve"] = curves["passed"]
    return found


def recipe(base: Recipe | None = None, *, power: float = 1.0, outcome: float = 0.5) -> Recipe:
    """Format and correctness as checks: the rarer counts more, beside a reward for both together."""
    base = based_on(base)
    checks = components(base.reward, "correctness", "format")
    dense, whole = rewards.difficulty_weighted(*checks, power=power), rewards.product(*checks, name="outcome")
    return base._replace(reward=rewards.weighted_sum((1.0 - outcome, dense), (outcome, whole)))


def rarer_tests_weigh_no_less(rng: np.random.Generator) -> bool:
    """Weights sum to 1, none is negative, and none grows with the pass rate."""
    passed = rng.integers(0, 2, (6, 3, 8)).astype(np.float32)
    weights, rate = rewards.difficulty_weights(passed), passed.mean(-1)
    ordered = ((rate[:, None] >= rate[None]) <= (weights[:, None] <= weights[None] + 1e-6)).all()
    return bool(ordered and (weights >= 0).all() and np.allclose(weights.sum(0), 1))


def tests_of_one_rate_give_their_share(rng: np.random.Generator) -> bool:
    """Where all tests have one pass rate, the weights are equal, also where all pass."""
    row = rng.permutation(np.arange(8) < rng.integers(0, 9)).astype(np.float32)
    passed = np.stack([rng.permutation(row) for _ in range(5)])[:, None]
    return all(np.allclose(rewards.difficulty_weights(passed, strata=strata), 0.2) for strata in (None, 4))


def copies_of_a_test_count_as_one(rng: np.random.Generator) -> bool:
    """Stratified, tests of one band weigh the same together however many copies there are."""
    hard = rng.permutation(np.arange(8) < rng.integers(0, 4)).astype(np.float32)
    easy, few = 1 - hard, rewards.difficulty_weights(np.stack([hard, 1 - hard])[:, None], strata=2)
    many = rewards.difficulty_weights(np.stack([hard, *[easy] * 9])[:, None], strata=2)
    return bool(np.allclose(many[0], few[0]) and np.allclose(many[1:].sum(0), few[1]))


PAPER = Paper(
    title="VeRPO: Verifiable Dense Reward Policy Optimization for Code Generation",
    authors="Wang, Wu, Hu, and others",
    year=2026,
    arxiv="2601.03525",
    checked="a page about the paper and notes of others",
    comparisons=(
        Comparison("programs that pass all tests, outcome alone", "outcome/passed", "weighted/passed"),
        Comparison("programs that pass all tests, share of tests", "share/passed", "weighted/passed"),
        Comparison("special cases, share of tests", "share/special", "weighted/special"),
        Comparison("pass all, without the deviation", "outcome_leave_one_out/passed", "weighted_leave_one_out/passed"),
        Comparison("pass all, easy tests ten times", "weighted_copies/passed", "weighted_strata_copies/passed"),
    ),
    checks=(
        Check("passes 30 points above the outcome", lambda m: m["weighted/passed"] - m["outcome/passed"], at_least=0.3),
        Check("passes 30 points above the share", lambda m: m["weighted/passed"] - m["share/passed"], 0.3),
        Check("the share teaches special cases, 80 %", lambda m: m["share/special"], at_least=0.8),
        Check(
            "stratified, ten copies of the easy tests change 5 points",
            lambda m: abs(m["weighted_strata_copies/passed"] - m["weighted_strata/passed"]),
            at_most=0.05,
        ),
    ),
    laws=(rarer_tests_weigh_no_less, tests_of_one_rate_give_their_share, copies_of_a_test_count_as_one),
    curves={f"{arm}/passed_curve": arm.replace("_", " ") for arm in ARMS},
)
