"""What token rewards cost a step as programs of their own, against one program for reward, shaping and advantage.

    python benchmarks/token_rewards.py --json docs/results/token_rewards.json

`rewards.from_tokens` called by the loop goes from arrays on the host through the device and back, and so does the
advantage behind it. Timed beside each other: that, and the same functions traced into one program. Both are set against
a step of `training.fit`, timed in the same process with a reward of text that is next to free.
"""

import argparse
import dataclasses
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import memory_flat
import numpy as np
from jaxtyping import Array
from rollouts_ahead import Setting, Shape, measured, saved

from agent_tunix import advantages, losses, rewards
from agent_tunix.batching import text_rollouts
from agent_tunix.types import Recipe, Reward, Rollouts

VOCABULARY = 512
CALLS = 50
"""Calls whose mean is one measurement."""

SHAPES = {
    "W1": Shape(layers=4, width=128, heads=4, kv_heads=2, head_dim=32, mlp=512, prompts=16, group_size=8, tokens=64),
    "default": Shape(),
    "very small": memory_flat.SHAPE,
}
"""The first has the layers and the batch of that workload, over characters and prompts of 16 tokens."""


def low(ids: Array, mask: Array) -> Array:
    """Share of tokens in the lower half of the vocabulary."""
    return jnp.sum((ids < VOCABULARY // 2) & mask, axis=-1) / jnp.maximum(mask.sum(-1), 1)


def repeated(ids: Array, mask: Array) -> Array:
    """Share of tokens that repeat the one before."""
    same = (ids[..., 1:] == ids[..., :-1]) & mask[..., 1:]
    return jnp.sum(same, axis=-1) / jnp.maximum(mask.sum(-1), 1)


def length(ids: Array, mask: Array) -> Array:
    """Share of the token budget that is used."""
    return mask.sum(-1) / ids.shape[-1]


def each_odd(ids: Array, mask: Array) -> Array:
    """A little for every odd token: a reward per token."""
    return jnp.where(ids % 2 == 1, 0.01, 0.0)


FUNCTIONS = (low, repeated, length, each_odd)


def recipe_of(count: int) -> Recipe:
    """GRPO on one reward of token ids, or on the sum of several."""
    parts = [rewards.from_tokens(function) for function in FUNCTIONS[:count]]
    reward = parts[0] if count == 1 else rewards.weighted_sum(*((1.0, part) for part in parts))
    return Recipe(reward, rewards.identity(), advantages.per_group(advantages.group_normalized), losses.policy_loss())


def rollouts_of(shape: Shape) -> Rollouts:
    """Random token ids of random lengths."""
    random = np.random.default_rng(0)
    grid = shape.prompts, shape.group_size
    lengths = random.integers(1, shape.tokens + 1, grid)
    lengths[0, 0] = shape.tokens
    texts = text_rollouts([""] * grid[0], [[""] * grid[1]] * grid[0], {}, lengths=lengths)
    return dataclasses.replace(texts, completion_ids=random.integers(0, VOCABULARY, (*grid, shape.tokens), np.int32))


def separately(recipe: Recipe, rollouts: Rollouts) -> Callable[[], np.ndarray]:
    """The calls of the loop: score, shaping, refusal of what is not finite, advantage."""
    advantage = jax.jit(recipe.advantage)

    def credit() -> np.ndarray:
        score, _ = recipe.shaping.update(recipe.reward(rollouts), recipe.shaping.init(), rollouts)
        advantages.refuse_nan(score)
        return np.asarray(advantage(score))

    return credit


def at_once(recipe: Recipe, rollouts: Rollouts) -> Callable[[], np.ndarray]:
    """The same in one compiled program; the score comes back too, since the loop logs it."""

    @jax.jit
    def program(ids: Array, mask: Array) -> tuple[Any, Array]:
        traced = dataclasses.replace(rollouts, completion_ids=ids, completion_mask=mask)
        score, _ = recipe.shaping.update(recipe.reward(traced), recipe.shaping.init(), traced)
        return score, recipe.advantage(score)

    def credit() -> np.ndarray:
        score, credit = program(rollouts.completion_ids, rollouts.completion_mask)
        advantages.refuse_nan(score)
        return np.asarray(credit)

    return credit


def reward_alone(reward: Reward, rollouts: Rollouts) -> Callable[[], Any]:
    """Only the score."""
    return functools.partial(reward, rollouts)


def mean_seconds(call: Callable[[], Any]) -> float:
    """Mean over several calls in a row."""
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - started) / CALLS


def compared(shape: Shape, count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of the separate calls, of one program and of the reward alone, in turn; medians.

    Raises:
      AssertionError: If the two give different credit.
    """
    recipe, rollouts = recipe_of(count), rollouts_of(shape)
    calls = {
        "separate": separately(recipe, rollouts),
        "one_program": at_once(recipe, rollouts),
        "reward_alone": reward_alone(recipe.reward, rollouts),
    }
    np.testing.assert_allclose(calls["separate"](), calls["one_program"](), atol=1e-5)
    mean_seconds(calls["reward_alone"])
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(mean_seconds(call))
    return {f"{name}_ms": round(1e3 * statistics.median(seconds), 4) for name, seconds in found.items()}


def step_seconds(shape: Shape, steps: int) -> float:
    """Seconds of a step of a run of this shape, as any other run."""
    with tempfile.TemporaryDirectory() as folder:
        return measured(shape, Setting(0, 1, 0.0), steps, Path(folder, "run"))["seconds"] / steps


def benchmark(shape: Shape, steps: int, rounds: int) -> dict[str, Any]:
    """A step, and both ways with one reward and with several; shares are of the step."""
    step = step_seconds(shape, steps)
    counts = {}
    for count in (1, len(FUNCTIONS)):
        found = compared(shape, count, rounds)
        gain = (found["separate_ms"] - found["one_program_ms"]) / (1e3 * step)
        share = found["separate_ms"] / (1e3 * step)
        counts[count] = found | {"share_of_step": round(share, 5), "gain_of_one_program": round(gain, 5)}
    return {"shape": shape._asdict(), "step_s": round(step, 5), "rewards": counts}


def main() -> None:
    """Parses, measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=20, help="of the run a step is taken from")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    shapes = {name: benchmark(shape, arguments.steps, arguments.rounds) for name, shape in SHAPES.items()}
    saved(arguments.json, {"calls": CALLS, "rounds": arguments.rounds, "shapes": shapes})
    for name, found in shapes.items():
        print(f"{name}: a step takes {found['step_s']:.4f} s")
        for count, row in found["rewards"].items():
            numbers = ", ".join(f"{key} {value}" for key, value in row.items())
            print(f"  {count} rewards: {numbers}")


if __name__ == "__main__":
    main()
