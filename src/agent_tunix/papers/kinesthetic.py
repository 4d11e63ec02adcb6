"""Kinesthetic reward combination: a geometric mean with a sign, for aims that have to be met at once.

Claim: Rewards that must hold together, such as being near, aligned and moving the right way, are better combined by the
  geometric mean of their magnitudes, negative where any of them is, than by their sum or their product.
Method: Components :math:`c_i \\in [-1, 1]`: :math:`r = s (\\prod_i |c_i|)^{1/N}` with s = 1 if all are at least 0, -1
  otherwise. In the core: `agent_tunix.rewards.signed_geometric_mean`. The baselines are the mean and the product.
Here: Kept: the combination, and three components of the authors' offensive potential: alignment of car, ball and goal
  (cosine), speed towards the ball (cosine), nearness to it, exp(-d / 2). Simplified: a car, a ball and a goal in the
  plane; no learning: at each of 150 turns the car takes the best of 16 headings, by the reward summed over 6 steps
  straight ahead, so that only the reward decides; 60 episodes per seed. World, planner and sizes are ours. Left out:
  Rocket League, PPO, auxiliary tasks, the other components and their dispersion and density. `recipe` combines format
  and correctness, each stretched to [-1, 1].
Run: `agent-tunix papers run kinesthetic`; a policy: `python run_training.py paper=kinesthetic`.
Seen: 2 cores (AMD EPYC), 2026-12-01, five seeds: episodes with a goal 0.71, against 0.08 with the mean and 0.09 with
  the product.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from agent_tunix import rewards
from agent_tunix.papers import _lab as lab
from agent_tunix.papers._frame import Check, Comparison, Measured, Paper, based_on, components
from agent_tunix.types import Recipe, Reward

EPISODES, TURNS, AHEAD, STRIDE = 60, 150, 6, 0.06
ANGLES = jnp.arange(16) * (2 * jnp.pi / 16)
HEADINGS, GOAL = jnp.stack([jnp.cos(ANGLES), jnp.sin(ANGLES)], -1), jnp.array([1.5, 0.0])


class Scene(NamedTuple):
    """Where things are, `[... 2]`, and the heading of the car as a unit vector."""

    car: Array
    heading: Array
    ball: Array


def _unit(vector: Array) -> Array:
    return vector / (jnp.linalg.norm(vector, axis=-1, keepdims=True) + 1e-9)


def _aligned(scene: Scene) -> Array:
    return jnp.sum(_unit(scene.ball - scene.car) * _unit(GOAL - scene.ball), -1)


def _speed(scene: Scene) -> Array:
    return jnp.sum(scene.heading * _unit(scene.ball - scene.car), -1)


def _near(scene: Scene) -> Array:
    return jnp.exp(-0.5 * jnp.linalg.norm(scene.ball - scene.car, axis=-1))


PARTS = [
    Reward(f.__name__, functools.partial(lambda f, scene: lab.score(f(scene)), f)) for f in (_aligned, _speed, _near)
]
REWARDS = {
    "sum": rewards.weighted_sum(*((1 / 3, part) for part in PARTS)),
    "product": rewards.product(*PARTS),
    "kinesthetic": rewards.signed_geometric_mean(*PARTS),
}


@functools.cache
def _played(arm: str) -> Any:
    """Key to whether each episode ended with a goal, and the number of goals after each turn."""

    def turn(carry: tuple[Array, ...], _: None) -> tuple[tuple[Array, ...], Array]:
        car, ball, velocity, scored = carry
        ahead = car[:, None, None] + STRIDE * (1 + jnp.arange(AHEAD))[:, None] * HEADINGS[:, None]
        straight = jnp.broadcast_to(HEADINGS[:, None], ahead.shape)
        seen = Scene(ahead, straight, jnp.broadcast_to(ball[:, None, None], ahead.shape))
        worth = REWARDS[arm](seen).value.sum(-1)  # pyright: ignore[reportArgumentType]
        car = car + STRIDE * HEADINGS[worth.argmax(-1)]
        hit = jnp.linalg.norm(ball - car, axis=-1, keepdims=True) < 0.12
        velocity = jnp.where(hit, 0.1 * _unit(ball - car), velocity)
        ball = jnp.clip(ball + velocity, -1.5, 1.5)
        scored = scored | ((ball[:, 0] > 1.35) & (jnp.abs(ball[:, 1]) < 0.4))
        return (car, ball, 0.95 * velocity, scored), scored.mean()

    def play(key: Key[Array, ""]) -> Array:
        places = jax.random.uniform(key, (2, EPISODES, 2), minval=-1.0)
        start = (places[0], 0.6 * places[1], jnp.zeros((EPISODES, 2)), jnp.zeros(EPISODES, bool))
        return jax.lax.scan(turn, start, length=TURNS)[1]

    return jax.jit(play)


def reproduce(seed: int) -> Measured:
    """Share of episodes with a goal within 150 turns, for every combination."""
    curves = {arm: _played(arm)(jax.random.key(seed)) for arm in REWARDS}
    goals = {f"{arm}/goals": float(curve[-1]) for arm, curve in curves.items()}
    return goals | {f"{arm}/curve": curve for arm, curve in curves.items()}


def recipe(base: Recipe | None = None, *, weight: float = 0.5) -> Recipe:
    """Format and correctness, each from -1 to 1, combined; the weight is that of the format."""
    base = based_on(base)
    parts = [rewards.scale(part, 2, offset=-1) for part in components(base.reward, "format", "correctness")]
    return base._replace(reward=rewards.signed_geometric_mean(*parts, weights=[weight, 1 - weight]))


def all_of_them_have_to_be_good(rng: np.random.Generator) -> bool:
    """The order does not matter; ones make 1, a zero makes 0, two negatives stay negative; t scales by t^(1/N)."""

    def combined(*values: Any) -> np.ndarray:
        parts = [Reward(str(k), lambda scene, v=value: lab.score(jnp.asarray(v))) for k, value in enumerate(values)]
        return np.asarray(rewards.signed_geometric_mean(*parts)(PARTS).value)  # pyright: ignore[reportArgumentType]

    a, b, c = rng.uniform(0.1, 1, size=(3, 8))
    size = combined(a, b, c)
    return bool(
        np.allclose(combined(c, a, b), size)
        and np.allclose(size, (a * b * c) ** (1 / 3), atol=1e-6)
        and np.allclose(combined(-a, -b, c), -size)
        and np.allclose(combined(0.25 * a, b, c), 0.25 ** (1 / 3) * size, atol=1e-6)
        and not combined(0 * a, -b, c).any()
        and (combined(a / a, a / a) == 1).all()
    )


PAPER = Paper(
    title="Lucy-SKG: Learning to Play Rocket League Efficiently Using Deep Reinforcement Learning",
    authors="Moschopoulos, Kyriakidis, Lazaridis, and Vlahavas",
    year=2023,
    arxiv="2305.15801",
    checked="the authors' code",
    comparisons=(
        Comparison("episodes with a goal", "sum/goals", "kinesthetic/goals"),
        Comparison("episodes with a goal", "product/goals", "kinesthetic/goals"),
    ),
    checks=(
        Check(
            "30 points more goals than the sum and than the product",
            lambda m: m["kinesthetic/goals"] - max(m["sum/goals"], m["product/goals"]),
            at_least=0.3,
        ),
    ),
    laws=(all_of_them_have_to_be_good,),
    curves={f"{arm}/curve": arm for arm in REWARDS},
    axis="turn",
)
