"""Trains on ``r = w phi + varphi`` for real and asks why varphi falls where it falls.

    python benchmarks/two_rewards.py --runs FOLDER --train
    python benchmarks/two_rewards.py --runs FOLDER --measure
    python benchmarks/two_rewards.py --draw-only

Three pairs of rewards on sorting five digits, weights 1, 4 and 8, from several starts (`PAIRS`, `STARTS`). Each run is
a process of its own, as a user would start it. `--measure` reads the runs back: the curves, the weight limit w* of the
first batches with its interval, the forecast against what happened, how the good completions lie, and for one run of
each start the cosine of the two gradients and the divergence ratios (`agent_tunix.tradeoffs`). Numbers are saved in
docs/results/two_rewards.json, the figure in docs/images/two_rewards.png.

The file also holds the rewards: ``training.reward_function=benchmarks/two_rewards.py:digits_4``.
"""

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from agent_tunix import (
    checkpoints,
    component_gradients,
    components,
    models,
    recipes,
    rewards,
    runs,
    tasks,
    text,
    workshop,
)
from agent_tunix.plain import plain
from agent_tunix.types import Grader

ROOT = Path(__file__).resolve().parents[1]
SAVED = ROOT / "docs" / "results" / "two_rewards.json"
IMAGE = ROOT / "docs" / "images" / "two_rewards.png"
PACKAGES = ("jax", "google-tunix", "flax", "optax", "orbax-checkpoint")

STEPS = 120
WEIGHTS = (1, 4, 8)
BEGINNING = 10
"""Steps whose rollouts tell the covariance of the start."""
SIZES = ("data.max_prompt_tokens=16", "sampling.max_completion_tokens=16")
FIRST = 5
"""Steps over which the start of a curve is averaged."""
STRETCH, CLEAR = 10, 0.03
"""Steps of a stretch, and the change of varphi from one to the next that counts as clear: four standard errors."""
PARTS = ("phi", "varphi")
PROMPTS, GROUP, STEP_KL, RANDOM = 128, 16, 0.05, 20
"""Of the measurement at the start: prompts, completions of each, nats of a small step, and random directions."""
SMOOTH = 15
"""Steps over which curves are averaged before their lowest point is looked for."""


def stated_digits(response: str) -> list[str]:
    """Digits of the stated answer."""
    return (text.stated_answer(response) or "").split()


def ascending(response: str) -> float:
    """1 for five digits in ascending order, whichever they are."""
    digits = stated_digits(response)
    return float(len(digits) == 5 and all(len(digit) == 1 for digit in digits) and digits == sorted(digits))


def same_digits(response: str, prompt: str) -> float:
    """1 for the digits of the prompt, in any order."""
    return float(sorted(stated_digits(response)) == sorted(prompt.rstrip("=").split()))


def right(response: str, ground_truth: str) -> float:
    """1 for the right digits in the right order, whatever stands around them."""
    return float(stated_digits(response) == ground_truth.split())


def bare(response: str) -> float:
    """1 for an answer in tags with nothing around it."""
    return rewards.tag_format(response)


def copied(response: str, prompt: str) -> float:
    """1 for the digits in the order of the prompt."""
    return float(stated_digits(response) == prompt.rstrip("=").split())


class Pair(NamedTuple):
    """Two rewards that are trained together."""

    phi: Grader
    varphi: Grader
    words: str


PAIRS = {
    "digits": Pair(ascending, same_digits, "ascending order; the prompt's digits (same tokens)"),
    "style": Pair(right, bare, "right answer; nothing around it (other tokens)"),
    "copy": Pair(right, copied, "right answer; order of the prompt (opposites)"),
}


def weighted(pair: str, weight: float) -> Any:
    """The reward of a pair."""
    phi, varphi, _ = PAIRS[pair]
    return rewards.weighted_sum(
        (weight, rewards.as_reward(phi, name="phi", bounds=(0, 1))),
        (1.0, rewards.as_reward(varphi, name="varphi", bounds=(0, 1))),
    )


digits_0, digits_1, digits_4, digits_8 = (weighted("digits", weight) for weight in (0, *WEIGHTS))
style_1, style_4, style_8 = (weighted("style", weight) for weight in WEIGHTS)
copy_1, copy_4, copy_8 = (weighted("copy", weight) for weight in WEIGHTS)


class Start(NamedTuple):
    """Where training begins: how long the warm start, and what part of its demonstrations is of the other kind."""

    pair: str
    name: str
    warm_start: int
    other: float
    seeds: tuple[int, ...]


STARTS = (
    Start("digits", "short", 120, 0.0, (0,)),
    Start("digits", "medium", 165, 0.0, (0, 1)),
    Start("digits", "long", 300, 0.0, (0, 1)),
    Start("style", "rare", 165, 0.7, (0,)),
    Start("style", "common", 165, 0.2, (0,)),
    Start("copy", "half", 400, 0.5, (0,)),
)
CONTROLS = (("digits", "medium"), ("digits", "long"))
"""Starts that are trained again without phi, and with steps of a tenth."""
GRADIENTS = ("medium", "long", "half")
"""Starts whose gradients are measured."""


def rows_file(start: Start, folder: Path) -> Path:
    """Sorting rows of which a part is demonstrated the other way: with words before the answer, or unsorted."""
    path = folder / f"{start.pair}_{start.name}.jsonl"
    random = np.random.default_rng(0)
    with path.open("w") as file:
        for split in tasks.SPLITS:
            for row in tasks.generate(
                "sorting", level=1, size=20_000 if split == "train" else 512, split=split, seed=0
            ):
                if random.random() < start.other:
                    row = row | {"demonstration": other_demonstration(start.pair, row)}
                file.write(json.dumps(row) + "\n")
    return path


def other_demonstration(pair: str, row: dict[str, Any]) -> str:
    """A solution in the other style, or the digits as they came."""
    return f"so {row['demonstration']}" if pair == "style" else f"<answer>{row['prompt'].rstrip('=')}</answer>"


class Run(NamedTuple):
    """One training run."""

    start: Start
    weight: int
    seed: int = 0
    learning_rate: float = 1e-3

    @property
    def name(self) -> str:
        """Of its folder."""
        rate = "" if self.learning_rate == 1e-3 else f"_lr{self.learning_rate:g}"
        return f"{self.start.pair}_{self.start.name}_w{self.weight}_s{self.seed}{rate}"


def plan() -> list[Run]:
    """Every weight with the first seed, weight 4 with the others, and controls: without phi, and with smaller steps."""
    controls = [start for start in STARTS if (start.pair, start.name) in CONTROLS]
    return [
        *(Run(start, weight, start.seeds[0]) for start in STARTS for weight in WEIGHTS),
        *(Run(start, 4, seed) for start in STARTS for seed in start.seeds[1:]),
        *(Run(start, 0) for start in controls),
        *(Run(start, 4, learning_rate=1e-4) for start in controls),
    ]


def train(folder: Path) -> None:
    """All runs that are not there yet, one after the other."""
    for run in plan():
        if (folder / run.name / "summary.json").is_file():
            continue
        start, begin = run.start, time.perf_counter()
        data = ["data=file", f"data.path={rows_file(start, folder)}", *SIZES] if start.other else ["data=sorting"]
        command = [
            *(sys.executable, str(ROOT / "run_training.py"), "+experiment=two_rewards", *data),
            f"training.reward_function={Path(__file__).resolve()}:{start.pair}_{run.weight}",
            *(f"training.steps={STEPS}", f"warm_start.steps={start.warm_start}", f"seed={run.seed}"),
            *(f"optimizer.learning_rate={run.learning_rate}", f"run_dir={folder / run.name}"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"{run.name}: {time.perf_counter() - begin:.0f} s", flush=True)


def measure(folder: Path) -> list[dict[str, Any]]:
    """What every run says, in the order of the plan; runs that are not there are left out."""
    there = [run for run in plan() if (folder / run.name / "summary.json").is_file()]
    return [
        {"pair": run.start.pair, "start": run.start.name}
        | {"weight": run.weight, "seed": run.seed, "learning_rate": run.learning_rate}
        | read(folder / run.name, run.weight)
        for run in there
    ]


def read(run: Path, weight: int) -> dict[str, Any]:
    """Curves, what the first batches foretold, and how often the forecast of each stretch came true."""
    rows = [row for row in runs.read_metrics(run) if row["kind"] == "train"]
    phi, varphi = (np.array([row[f"reward/part/{part}"] for row in rows]) for part in ("phi", "varphi"))
    scores = components.stored(runs.groups(runs.read_samples(run)))
    return {
        "phi": phi.round(4).tolist(),
        "varphi": varphi.round(4).tolist(),
        **fall(phi, varphi),
        **beginning(scores),
        **foretold(scores, weight, varphi),
    }


def fall(phi: np.ndarray, varphi: np.ndarray) -> dict[str, float]:
    """Where varphi started, how low it went, and where both ended, of smoothed curves."""
    smooth = np.convolve(varphi, np.ones(SMOOTH) / SMOOTH, "valid")
    lowest = int(smooth.argmin())
    begin = float(varphi[:FIRST].mean())
    return {
        "phi_start": float(phi[:FIRST].mean()),
        "phi_end": float(phi[-SMOOTH:].mean()),
        "varphi_start": begin,
        "varphi_lowest": min(begin, float(smooth[lowest])),
        "varphi_lowest_step": lowest + SMOOTH // 2,
        "varphi_end": float(smooth[-1]),
    }


def beginning(scores: components.Stored) -> dict[str, Any]:
    """Covariance, weight limit and quadrants of the first batches."""
    first = scores.steps < BEGINNING
    phi, varphi, used, value = (
        x[first] for x in (*map(scores.parts.get, ("phi", "varphi")), scores.valid, scores.value)
    )
    found, limit = components.moments(phi, varphi, used), components.weight_limit(phi, varphi, used)
    table = components.quadrants(phi, varphi, components.centred(value, used)[0], used)
    return {
        "correlation": found.correlation,
        "limit": list(limit),
        "skewness": components.skewness(varphi, used),
        "good_good": [table["pp"].positive, table["pp"].lift],
        "good_bad": [table["pm"].positive, table["pm"].lift],
    }


def foretold(scores: components.Stored, weight: int, varphi: np.ndarray) -> dict[str, int]:
    """Stretches in which varphi clearly moved, and those of them whose direction the covariance had foretold."""
    moved = agreed = 0
    for begin in range(0, len(varphi) - 2 * STRETCH + 1, STRETCH):
        now = (scores.steps >= begin) & (scores.steps < begin + STRETCH)
        found = components.moments(scores.parts["phi"][now], scores.parts["varphi"][now], scores.valid[now])
        change = varphi[begin + STRETCH : begin + 2 * STRETCH].mean() - varphi[begin : begin + STRETCH].mean()
        if abs(change) > CLEAR:
            moved += 1
            agreed += (components.forecast(found, weight, 1.0) > 0) == (change > 0)
    return {"moved": moved, "foretold": int(agreed)}


def gradients(run: Path, start: Start) -> dict[str, Any]:
    """Both gradients where a run began, what following them costs, and what a small step does to both rewards."""
    config = recipes.from_mapping(runs.read_config(run))
    shop = workshop.workshop(config)
    params = checkpoints.load_tree(run / workshop.START, models.initial_params(shop.architecture, config.seed))
    here, sample, score = workshop.parameters(shop, params), workshop.sampler(shop), weighted(start.pair, 4)
    key, rows = jax.random.key(0), shop.dataset.train[:PROMPTS]
    rollouts = sample(here, rows, GROUP, key)
    values = np.stack([np.asarray(score(rollouts).parts[part]) for part in PARTS])
    blocks = np.concatenate([component_gradients.block_gradients(shop.policy, here, rollouts, v[None]) for v in values])
    read = component_gradients.reader(
        shop.policy, here, sample, score, PARTS, rows, jax.random.fold_in(key, 1), group_size=GROUP
    )
    u, v = blocks.mean(1)
    directions = {"phi alone": u, "varphi alone": v} | {f"weight {weight}": weight * u + v for weight in WEIGHTS}
    random = component_gradients.random_changes(read, here, STEP_KL, directions=RANDOM, first_step=0.5)
    means = values.mean((1, 2))
    return {
        "means": means.tolist(),
        "geometry": {
            weight: component_gradients.geometry(*blocks, weight_first=weight, weight_second=1.0)._asdict()
            for weight in WEIGHTS
        },
        "asymmetry": {
            part: dearness(read, here, direction, index, float(means[index]))
            for index, (part, direction) in enumerate(zip(PARTS, (u, v), strict=True))
        },
        "steps": {words: small_step(read, here, direction) for words, direction in directions.items()},
        "random": {"fell": (random < 0).mean(0).tolist(), "change": random.mean(0).tolist()},
    }


def dearness(
    read: component_gradients.Read, here: Any, direction: np.ndarray, index: int, share: float
) -> dict[str, float]:
    """Divergence that raises a reward along its own gradient, over the one that lowers it by as much."""
    amount = min(0.05, 0.5 * share, 0.5 * (1 - share))
    first = amount / (4 * float(np.linalg.norm(direction)))
    up, down = (
        component_gradients.follow(read, here, direction, index, side * amount, first_step=first) for side in (1, -1)
    )
    return component_gradients.asymmetry(up, down)._asdict()


def small_step(read: component_gradients.Read, here: Any, direction: np.ndarray) -> dict[str, Any]:
    """Changes of both rewards, with standard errors over prompts, where a direction has cost a small divergence."""
    distance = 0.05
    for _ in range(4):
        reading = read(component_gradients.moved(here, direction, distance))
        distance *= float(np.clip(math.sqrt(STEP_KL / max(reading.kl.mean(), 1e-9)), 0.1, 10.0))
    reading = read(component_gradients.moved(here, direction, distance))
    return {
        "change": reading.changes.mean(-1).tolist(),
        "error": (reading.changes.std(-1, ddof=1) / math.sqrt(reading.changes.shape[-1])).tolist(),
        "kl": float(reading.kl.mean()),
    }


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def draw(results: list[dict[str, Any]], image: Path) -> None:
    """A panel for each start: varphi thick and phi thin, a colour for each weight."""
    from matplotlib.figure import Figure

    starts = list(dict.fromkeys((result["pair"], result["start"]) for result in results))
    figure = Figure(figsize=(12, 6.6), dpi=110, layout="constrained")
    panels = figure.subplots(2, math.ceil(len(starts) / 2), sharex=True, sharey=True).flat
    for axis, start in zip(panels, starts, strict=False):
        chosen = [result for result in results if (result["pair"], result["start"]) == start]
        for result in chosen:
            curves(axis, result)
        axis.set_title(f"{start[0]}, {start[1]}: {limit_words(chosen)}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7)
    figure.supxlabel("step")
    figure.supylabel("share of completions; thick varphi, thin phi")
    figure.savefig(image)


def curves(axis: Any, result: dict[str, Any]) -> None:
    """Both smoothed curves of one run; runs of further seeds are dashed."""
    kernel = np.ones(FIRST) / FIRST
    slow = result["learning_rate"] < 1e-3
    colour = "#0072B2" if slow else {0: "#777777", 1: "#009E73", 4: "#E69F00", 8: "#D55E00"}[result["weight"]]
    line = "-" if result["seed"] == 0 else "--"
    words = f"weight {result['weight']}" + (", steps of a tenth" if slow else "") + (", seed 1" if line != "-" else "")
    steps = np.arange(FIRST // 2, len(result["phi"]) - FIRST // 2)
    axis.plot(steps, np.convolve(result["varphi"], kernel, "valid"), line, color=colour, linewidth=2, label=words)
    axis.plot(steps, np.convolve(result["phi"], kernel, "valid"), line, color=colour, linewidth=0.7)


def limit_words(results: list[dict[str, Any]]) -> str:
    """The weight limit of the beginning, of all runs of one start."""
    limits = [result["limit"][0] for result in results]
    known = [limit for limit in limits if limit is not None and math.isfinite(limit)]
    return f"w* = {', '.join(f'{limit:.1f}' for limit in known)}" if known else "no weight limit"


def main() -> None:
    """Trains, measures and draws what it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "two_rewards", help="folder of the run folders")
    parser.add_argument("--train", action="store_true", help="train what is not there yet")
    parser.add_argument("--measure", action="store_true", help="read the runs and save the numbers")
    parser.add_argument("--draw-only", action="store_true", help="draw the saved numbers again")
    arguments = parser.parse_args()
    if arguments.train:
        arguments.runs.mkdir(parents=True, exist_ok=True)
        train(arguments.runs)
    if arguments.measure:
        found = {"machine": machine(), "steps": STEPS, "runs": measure(arguments.runs)}
        found["gradients"] = [
            {"pair": start.pair, "start": start.name, **gradients(run, start)}
            for start, run in looked_at(arguments.runs)
        ]
        SAVED.write_text(json.dumps(plain(found), indent=1) + "\n")
    if arguments.measure or arguments.draw_only:
        draw(json.loads(SAVED.read_text())["runs"], IMAGE)


def looked_at(folder: Path) -> list[tuple[Start, Path]]:
    """The run of weight 4 and the first seed of some starts: what holds at the start does not depend on the weight."""
    named = [(start, folder / Run(start, 4, start.seeds[0]).name) for start in STARTS if start.name in GRADIENTS]
    return [(start, run) for start, run in named if (run / "summary.json").is_file()]


if __name__ == "__main__":
    main()
