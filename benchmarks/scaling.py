"""How the cost of a step grows: with the group, the completion, the components, the parameters and the devices.

    python benchmarks/scaling.py --json docs/results/scaling.json
    python benchmarks/scaling_page.py

Each sweep changes one size of W1's model and batch. Its cases take one step at a time, in turn, so that a machine that
slows down slows down all of them; medians are told, the first step of each compiles and does not count. Timed are the
functions that the training loop calls, without its files and logs. Devices are simulated by a child process, whose
programs are read instead of timed (`device_programs.py`).
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from grpo_workloads import SEED, TEMPERATURE, WORKLOADS, Batches, Workload, flops, low_share, rows_of, tokenizer_of

FOLDER = Path(__file__).parent
FLOORS = {"rollout": "decode", "reference": "reference", "update": "update"}
"""The phases of a step, by the names that `grpo_workloads.flops` gives their least operations."""
PHASES = (*FLOORS, "total")
BASE = dataclasses.replace(WORKLOADS["W1"], prompts=8)
LONG = dataclasses.replace(WORKLOADS["W3"], prompts=4)
GROUPS, TOKENS, WIDTHS, COMPONENTS = (
    (4, 8, 16, 32, 64),
    (32, 64, 128, 256, 512),
    (64, 128, 256, 512),
    (1, 2, 4, 8, 16, 32),
)
DEVICE_WORDS = ("--workload", "W1", "--set", "layers=2", "completion_tokens=32")


class Sweep(NamedTuple):
    """One size in several values.

    Attributes:
      axis: What changes.
      cases: The workload of each value.
    """

    axis: str
    cases: Mapping[int, Workload]


def sweeps(base: Workload = BASE, long: Workload = LONG) -> dict[str, Sweep]:
    """All that are timed, by name."""

    def varied(workload: Workload, field: str, values: Sequence[int]) -> dict[int, Workload]:
        return {value: dataclasses.replace(workload, **{field: value}) for value in values}

    return {
        "group": Sweep("completions per prompt", varied(base, "group_size", GROUPS)),
        "group_long": Sweep("completions per prompt", varied(long, "group_size", GROUPS)),
        "tokens": Sweep("tokens per completion", varied(base, "completion_tokens", TOKENS)),
        "width": Sweep("width", {width: widened(base, width) for width in WIDTHS}),
    }


def widened(workload: Workload, width: int) -> Workload:
    """The model with another width, and heads and MLP in proportion."""
    heads = width // workload.head_dim
    return dataclasses.replace(workload, width=width, heads=heads, kv_heads=max(heads // 2, 1), mlp=4 * width)


# --- Steps ------------------------------------------------------------------------------------------------------------

Costs = dict[str, dict[str, float]]
"""Seconds and processor seconds of each phase."""


class Stopwatch:
    """Wall and processor seconds of phases."""

    def __init__(self) -> None:
        self.costs: Costs = {}

    def timed(self, phase: str, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function and waits for its arrays."""
        import jax

        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*args)
        jax.block_until_ready([leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jax.Array)])
        self.costs[phase] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        return result


def stepper(workload: Workload) -> Callable[[], Costs]:
    """A function that does one step of a workload as the training loop does, and tells its costs."""
    import jax
    from grpo_engines import (
        architecture_of,
        chosen_microbatches,
        optimizer_of,
        our_recipe,
        our_sampler,
        our_streams,
    )

    from agent_tunix import models, updates

    architecture, (optimizer, _) = architecture_of(workload), optimizer_of(1000)
    policy, params = models.policy(architecture), models.initial_params(architecture, SEED)
    recipe, parts, batches = our_recipe(workload), chosen_microbatches(workload), Batches(workload)
    sample, advantage = our_sampler(policy, workload), jax.jit(recipe.advantage)
    shares = {"temperature": TEMPERATURE, "streams": our_streams(workload)}
    reference = updates.reference_logprobs(policy, models.full(params), parts=parts, **shares)
    update = updates.updater(policy, recipe.loss, optimizer, microbatches=parts, **shares)
    trainable = jax.tree.map(lambda leaf: jax.device_put(np.array(leaf), leaf.sharding), params)
    keys, held = iter(jax.random.split(jax.random.key(SEED), 1000)), [trainable, optimizer.init(trainable)]
    held[1] = jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding), held[1])  # as updates give them back

    def step() -> Costs:
        watch, current = Stopwatch(), models.full(held[0])
        rollouts = watch.timed("rollout", sample, current, next(batches), workload.group_size, next(keys))
        rollouts = dataclasses.replace(rollouts, ref_logprobs=watch.timed("reference", reference, rollouts))
        score = recipe.reward(rollouts)
        credit = updates.per_token(np.asarray(advantage(score)), rollouts)
        ((_, part),) = updates.portions(rollouts, np.asarray(score.valid), credit, 1, 1)
        *held[:], stats = watch.timed("update", update, current, held[1], part)
        assert float(stats["policy/finite"]), workload
        return watch.costs

    return step


def measured(sweep: Sweep, steps: int) -> list[dict[str, Any]]:
    """Medians of every case, and its least operations by phase, 10^9."""
    functions = {value: stepper(workload) for value, workload in sweep.cases.items()}
    for step in functions.values():
        step()
    taken: dict[int, list[Costs]] = {value: [] for value in functions}
    for _ in range(steps):
        for value, step in functions.items():
            taken[value].append(step())
    return [case(value, sweep.cases[value], costs) for value, costs in taken.items()]


def case(value: int, workload: Workload, taken: Sequence[Costs]) -> dict[str, Any]:
    """What is told of one case."""
    floor = flops(workload, workload.lengths[: workload.prompts])
    phases = {
        phase: {
            name: round(statistics.median(costs[phase][name] for costs in taken), 5)
            for name in ("seconds", "cpu_seconds")
        }
        | {"floor_gflop": round(floor[FLOORS[phase]] / 1e9, 4)}
        for phase in FLOORS
    }
    names = ("seconds", "cpu_seconds", "floor_gflop")
    phases["total"] = {name: round(sum(phase[name] for phase in phases.values()), 5) for name in names}
    return {"value": value, "parameters": parameters(workload), "phases": phases}


def parameters(workload: Workload) -> int:
    """Number of the model's parameters."""
    import jax
    from grpo_engines import architecture_of

    from agent_tunix import models

    tree = jax.eval_shape(lambda: models.initial_params(architecture_of(workload), SEED))
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def line(values: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    """A fixed and a proportional part of costs, by least squares of the relative errors, and the exponent of growth.

    Returns:
      `fixed`, `each` (cost is `fixed + each * value`), `error` (the largest relative one), and `exponent`, the slope of
      the logarithm of the cost over that of the value: 1 where all costs are proportional, 0 where all are fixed.
    """
    x, y = np.asarray(values, float), np.asarray(costs, float)
    (fixed, each), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None)
    exponent = np.polyfit(np.log(x), np.log(y), 1)[0]
    error = np.abs((fixed + each * x) / y - 1).max()
    return {"fixed": float(fixed), "each": float(each), "error": float(error), "exponent": float(exponent)}


def lines(cases: Sequence[Mapping[str, Any]], quantity: str) -> dict[str, dict[str, float]]:
    """The `line` of every phase."""
    values = [one["value"] for one in cases]
    return {phase: line(values, [one["phases"][phase][quantity] for one in cases]) for phase in PHASES}


# --- Components -------------------------------------------------------------------------------------------------------


def components(workload: Workload, numbers: Sequence[int], steps: int) -> list[dict[str, float]]:
    """Milliseconds of what a batch costs on the host, by the number of graders, each a component of the reward."""
    from agent_tunix import batching, measures, rewards
    from agent_tunix.components import component_measures

    tokenizer, random = tokenizer_of(workload), np.random.default_rng(SEED)
    shape = workload.prompts, workload.group_size, workload.completion_tokens
    ids = random.integers(0, workload.vocab_size, shape)
    texts = [[tokenizer.decode(row) for row in group] for group in ids]
    prompts = [row["prompt"] for row in rows_of(workload)[: workload.prompts]]
    rollouts = batching.text_rollouts(prompts, texts, {"answer": [""] * workload.prompts})

    def reward_of(number: int) -> Any:
        middles = [chr(tokenizer.FIRST + (k + 1) * workload.vocab_size // (number + 1)) for k in range(number)]
        terms = [rewards.per_completion(_below(middle), name=f"part_{k}") for k, middle in enumerate(middles)]
        return rewards.weighted_sum(*((1 / number, term) for term in terms))

    made = {number: reward_of(number) for number in numbers}
    taken: dict[int, list[Costs]] = {number: [] for number in numbers}
    for _ in range(steps + 1):
        for number, reward in made.items():
            watch = Stopwatch()
            score = watch.timed("scoring", reward, rollouts)
            watch.timed("component measures", component_measures, score)
            watch.timed(
                "records",
                lambda score=score: list(measures.rollout_records(rollouts, score, score, None, step=0, batch=0)),
            )
            taken[number].append(watch.costs)
    return [
        {"value": number}
        | {name: round(1e3 * statistics.median(one[name]["seconds"] for one in costs[1:]), 3) for name in costs[0]}
        for number, costs in taken.items()
    ]


def _below(middle: str) -> Callable[[str], float]:
    return lambda completion: low_share(middle, completion)


# --- The command line -------------------------------------------------------------------------------------------------


def devices(words: Sequence[str]) -> list[dict[str, Any]]:
    """What `device_programs.py` reports, unexpected things included."""
    command = [sys.executable, str(FOLDER / "device_programs.py"), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout)


def benchmark(
    timed: Mapping[str, Sweep], workload: Workload, numbers: Sequence[int], words: Sequence[str], steps: int
) -> dict[str, Any]:
    """Everything, one part after the other.

    Args:
      timed: Sweeps.
      workload: Whose completions are graded.
      numbers: Of components.
      words: For `device_programs.py`.
      steps: That count.
    """
    results = {}
    for name, sweep in timed.items():
        cases = measured(sweep, steps)
        fits = {quantity: lines(cases, quantity) for quantity in ("seconds", "floor_gflop")}
        results[name] = {"axis": sweep.axis, "cases": cases, "lines": fits}
        print(f"{name}: {[one['phases']['total']['seconds'] for one in cases]} s", file=sys.stderr)
    return {
        "workloads": {name: dataclasses.asdict(next(iter(sweep.cases.values()))) for name, sweep in timed.items()},
        "steps": steps,
        "sweeps": results,
        "components": components(workload, numbers, 3 * steps),
        "devices": {"words": list(words), "reports": devices(words)},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, saves or prints; returns 1 if devices say something unexpected."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=3, help="that count, of every case")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(argv)
    if given.quick:
        small = WORKLOADS["tiny"]
        sizes = {2: dataclasses.replace(small, group_size=2), 4: small}
        words = ("--workload", "tiny", "--devices", "1", "2", "--microbatches", "1")
        result = benchmark({"group": Sweep("completions per prompt", sizes)}, small, (1, 2), words, given.steps)
    else:
        result = benchmark(sweeps(), WORKLOADS["W1"], COMPONENTS, DEVICE_WORDS, given.steps)
    if given.json:
        from rollouts_ahead import saved

        saved(given.json, result)
    else:
        print(json.dumps(result, indent=1))
    return int(any(report["unexpected"] for report in result["devices"]["reports"]))


if __name__ == "__main__":
    sys.exit(main())
