"""What it saves to sample and grade beside the update: the tiny policy with a grader that takes its time.

    python benchmarks/rollouts_ahead.py --json docs/results/rollouts_ahead.json

The same run with `rollouts_ahead` 0 and 1 and with its rollouts in one part or four, in turn, for a grader that takes
0.3 seconds a batch (it sleeps, as one that waits for a server does) and for one that takes none. Told are the seconds
of 20 steps after 3 that do not count, and of the step's stages as the run itself logs them.
"""

import argparse
import contextlib
import datetime
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent_tunix import advantages, data, losses, models, optimizers, rewards, runs, sampling, tasks, training, workshop
from agent_tunix.checkpoints import Checkpoints
from agent_tunix.tokenizers import CharacterTokenizer
from agent_tunix.types import Recipe, Reward, Rollouts, Score

PACKAGES = ("jax", "google-tunix", "flax", "optax", "orbax-checkpoint")
GRADER_S = 0.3
WARM_UP = 3


class Shape(NamedTuple):
    """Sizes of a policy and of its batches; by default those of an ordinary run of `model=tiny`."""

    layers: int = 2
    width: int = 64
    heads: int = 2
    kv_heads: int = 1
    head_dim: int = 32
    mlp: int = 256
    prompts: int = 64
    group_size: int = 8
    tokens: int = 16


class Setting(NamedTuple):
    """How rollouts are collected, and the seconds that grading a batch takes."""

    rollouts_ahead: int
    rollout_microbatches: int
    grader_s: float


SETTINGS = (
    *(Setting(ahead, parts, GRADER_S) for parts in (1, 4) for ahead in (0, 1)),
    *(Setting(ahead, 1, 0.0) for ahead in (0, 1)),
)


def digits(completion: str) -> float:
    """Share of a completion's characters that are digits: next to free, and dense."""
    return sum(character.isdigit() for character in completion) / max(len(completion), 1)


def slow_reward(seconds: float, prompts: int) -> Reward:
    """A reward that sleeps as long as a batch of so many prompts takes, and for a part of one as long as its share."""
    counted = rewards.per_completion(digits, name="digits", bounds=(0, 1))

    def score(rollouts: Rollouts) -> Score:
        time.sleep(seconds * len(rollouts.prompts) / prompts)
        return counted(rollouts)

    return Reward("digits", score, counted.bounds)


@functools.cache
def parts_of(shape: Shape) -> tuple[Any, Any, Any]:
    """Policy, its starting parameters and its sampler: made once, so that programs are compiled once."""
    tokenizer = CharacterTokenizer()
    sizes = {name: getattr(shape, name) for name in ("layers", "width", "heads", "kv_heads", "head_dim", "mlp")}
    architecture = models.tiny(tokenizer.vocab_size, **sizes)
    policy = models.policy(architecture)
    sample = sampling.sampler(policy, tokenizer, max_prompt_tokens=16, max_completion_tokens=shape.tokens)
    return policy, models.initial_params(architecture, seed=0), sample


def train(shape: Shape, setting: Setting, steps: int, folder: Path, show: Callable[..., None]) -> None:
    """A run as any other, with run folder, checkpoints and logged samples; `show` is called after every step."""
    policy, params, sample = parts_of(shape)
    rate = optimizers.learning_rate_schedule(learning_rate=1e-3, warmup_steps=1, steps=steps, schedule="constant")
    plan = training.Plan(
        steps=steps, group_size=shape.group_size, num_iterations=1, minibatches=1, microbatches=1,
        rollout_microbatches=setting.rollout_microbatches, max_refills=0, temperature=1.0, evaluate_every=0,
        patience=0, checkpoint_every=50, seed=0, rollouts_ahead=setting.rollouts_ahead,
    )  # fmt: skip
    recipe = Recipe(
        slow_reward(setting.grader_s, shape.prompts),
        rewards.identity(),
        advantages.per_group(advantages.group_normalized),
        losses.policy_loss(),
    )
    rows = tasks.generate("sorting", level=1, size=4 * shape.prompts, split="train", seed=0)
    with (
        runs.open_run(folder, config={}) as run,
        contextlib.closing(Checkpoints(folder / runs.CHECKPOINTS, keep=1)) as checkpoints,
    ):
        training.fit(
            policy, models.full(params), recipe, optimizers.adamw(rate), rate, sample=sample,
            batches=data.batches(rows, size=shape.prompts, seed=0), plan=plan, run=run, checkpoints=checkpoints,
            evaluate=lambda parameters, key: {"eval/accuracy": 0.0}, show=show,
        )  # fmt: skip


def measured(shape: Shape, setting: Setting, steps: int, folder: Path) -> dict[str, float]:
    """Wall and processor seconds of the steps after the warm-up, and the medians of their stages."""
    marks, stages = [], []

    def show(row: dict[str, Any], timing: dict[str, float]) -> None:
        if row["kind"] == "train":
            marks.append((time.perf_counter(), time.process_time()))
            stages.append(timing)

    train(shape, setting, WARM_UP + steps, folder, show)
    (wall, cpu), (wall_end, cpu_end) = marks[WARM_UP - 1], marks[-1]
    out = {"seconds": wall_end - wall, "cpu_seconds": cpu_end - cpu}
    names = [name for name in stages[-1] if name.startswith("time/")]
    return out | {name: statistics.median(stage[name] for stage in stages[WARM_UP:]) for name in names}


def benchmark(shape: Shape, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Every setting in turn, several times over; medians, and the range of the seconds."""
    collected: dict[Setting, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        workshop.keep_compiled_programs(Path(folder, "cache"))
        for number in range(rounds):
            for index, setting in enumerate(SETTINGS):
                collected[setting].append(measured(shape, setting, steps, Path(folder, f"{number}-{index}")))
    return [
        {
            **setting._asdict(),
            **{name: round(float(np.median([run[name] for run in runs_])), 4) for name in runs_[0]},
            "range": [round(edge(run["seconds"] for run in runs_), 3) for edge in (min, max)],
        }
        for setting, runs_ in collected.items()
    ]


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def saved(path: Path | None, result: dict[str, Any]) -> None:
    """Writes a result with its command and machine, if it is to be written."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"command": " ".join(["python", *sys.argv]), "machine": machine(), **result}
        path.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Parses, measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=20, help="that count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    shape = Shape()
    settings = benchmark(shape, arguments.steps, arguments.rounds)
    saved(arguments.json, {"shape": shape._asdict(), "steps": arguments.steps, "settings": settings})
    for row in settings:
        stages = ", ".join(f"{name.removeprefix('time/')} {row[name]:.3f}" for name in row if name.startswith("time/"))
        print(
            f"ahead {row['rollouts_ahead']}, parts {row['rollout_microbatches']}, grader {row['grader_s']} s: "
            f"{row['seconds']:.2f} s for {arguments.steps} steps ({stages})"
        )


if __name__ == "__main__":
    main()
