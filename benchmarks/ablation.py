"""What each trick of the fast loop is worth: a step with all of them beside steps with one left out.

    python benchmarks/ablation.py --json docs/results/ablation.json      # a quarter of an hour on two quiet cores
    python benchmarks/performance_page.py                                # the table of docs/performance.md

All variants of a workload live in one process and take one step at a time, in turn; told is the median of the quotients
of steps that were taken in the same round. Timed are the functions that the training loop calls: rollout, reference and
update, without files and logs. Where memory is compared, each variant has a process of its own, which reports its
greatest resident memory.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ablation_tricks import TRICKS, Trick
from grpo_engines import architecture_of, chosen_microbatches, optimizer_of, our_recipe, our_streams, ragged_policy
from grpo_workloads import FIRST_ORDINARY, SEED, TEMPERATURE, WORKLOADS, Workload, tokenizer_of

from agent_tunix import models, sampling, updates
from agent_tunix.types import Rollouts

BASE = Trick("all of them", "", tuple(WORKLOADS))
ROUNDS = {"W1": 7, "W3": 3, "W4": 3}
PHASES = ("rollout", "reference", "update")


class Step:
    """A step of GRPO on random prompts, made once and taken many times."""

    def __init__(
        self,
        workload: Workload,
        *,
        shared: bool = True,
        streams: int | None = None,
        microbatches: int | None = None,
        full_cache: bool = False,
        again: bool = False,
    ) -> None:
        self._workload, self._again = workload, again
        self._grid = (workload.prompts, workload.group_size)
        if not shared:
            self._grid = (workload.prompts * workload.group_size, 1)
        architecture, tokenizer = architecture_of(workload), tokenizer_of(workload)
        policy, (optimizer, _) = models.policy(architecture), optimizer_of(1000)
        drawing = ragged_policy(policy, workload) if workload.mean_tokens else policy
        if full_cache:
            drawing = _with_full_cache(drawing, workload.completion_tokens)
        parts, streams = microbatches or chosen_microbatches(workload), streams or our_streams(workload)
        self._parameters = models.full(models.initial_params(architecture, SEED))
        self._sample = sampling.decoding(
            drawing,
            max_tokens=workload.completion_tokens,
            stop_ids=(tokenizer.eos_id(),),
            pad_id=tokenizer.pad_id(),
            streams=streams,
        )
        self._reference = updates.reference_logprobs(policy, self._parameters, TEMPERATURE, parts, streams=streams)
        self._update = updates.updater(
            policy, our_recipe(workload).loss, optimizer, temperature=TEMPERATURE, microbatches=parts, streams=streams
        )
        trainable = jax.tree.map(jax.numpy.copy, self._parameters.trainable)
        self._state = jax.tree.map(lambda x: jax.device_put(x, x.sharding), (trainable, optimizer.init(trainable)))

    def __call__(self, number: int) -> dict[str, float]:
        """Takes the step of a number; seconds of its phases."""
        marks = [time.perf_counter()]
        rollouts = self._rollouts(number)
        marks.append(time.perf_counter())
        rollouts = dataclasses.replace(rollouts, ref_logprobs=self._reference(rollouts))
        if self._again:
            self._reference(rollouts)
        marks.append(time.perf_counter())
        credit = np.random.default_rng(number).normal(size=rollouts.truncated.shape)
        valid = np.ones(credit.shape, bool)
        ((_, batch),) = updates.portions(rollouts, valid, updates.per_token(credit, rollouts), 1, 1)
        trainable, optimizer_state = self._state
        current = dataclasses.replace(self._parameters, trainable=trainable)
        *state, stats = self._update(current, optimizer_state, batch)
        self._state = tuple(jax.block_until_ready(state))
        assert bool(stats["policy/finite"])
        marks.append(time.perf_counter())
        return {name: end - start for name, start, end in zip(PHASES, marks, marks[1:], strict=False)}

    def _rollouts(self, number: int) -> Rollouts:
        workload = self._workload
        ids = np.random.default_rng(number).integers(
            FIRST_ORDINARY, workload.vocab_size, (workload.prompts, workload.prompt_tokens), np.int32
        )
        ids[:, 1] = FIRST_ORDINARY + np.asarray(workload.batch(number))
        ids = np.repeat(ids, self._grid[0] // workload.prompts, axis=0)
        mask, group = np.ones(ids.shape, bool), self._grid[1]
        current = dataclasses.replace(self._parameters, trainable=self._state[0])
        drawn = self._sample(current, ids, mask, group, jax.random.key(number))
        return Rollouts([""] * len(ids), [[""] * group] * len(ids), {}, prompt_ids=ids, prompt_mask=mask, **drawn)


def _with_full_cache(policy: Any, tokens: int) -> Any:
    return policy._replace(
        cache=lambda params, prefix, group, slots: policy.cache(params, prefix, group, tokens),
        grown=lambda cache, slots: cache,
    )


def base_of(trick: Trick) -> Trick:
    """The step with all tricks that a trick is compared with."""
    settings = ", ".join(f"{name}={value}" for name, value in trick.beside)
    return BASE._replace(name=f"{BASE.name}, {settings}", beside=trick.beside) if settings else BASE


def timed(workload: Workload, tricks: Sequence[Trick], rounds: int) -> dict[str, Any]:
    """Quotients of steps with one trick left out over steps with all of them, and seconds of the phases.

    Args:
      workload: Shapes.
      tricks: To be left out, one at a time.
      rounds: Steps that count, of each. One before them compiles, of ragged workloads two, which have more shapes.
    """
    warm_up = 2 if workload.mean_tokens else 1
    every = {one.name: one for one in (BASE, *map(base_of, tricks), *tricks)}
    steps, taken = {}, {name: [] for name in every}
    for trick in every.values():
        with trick.left_out():
            steps[trick.name] = Step(workload, **dict(trick.beside + trick.settings))
    for number in range(warm_up + rounds):
        for trick in every.values():
            with trick.left_out():
                taken[trick.name].append(steps[trick.name](number))
    counted = {name: phases[warm_up:] for name, phases in taken.items()}
    totals = {name: [sum(one.values()) for one in phases] for name, phases in counted.items()}

    def told(name: str) -> dict[str, Any]:
        beside = totals[base_of(every[name]).name]
        pairs = [own / base for own, base in zip(totals[name], beside, strict=True)]
        phases = {phase: round(statistics.median(one[phase] for one in counted[name]), 4) for phase in PHASES}
        ratio = {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}
        return {"ratio": {key: round(value, 3) for key, value in ratio.items()}, "seconds": phases}

    return {name: told(name) for name in counted}


def remembered(workload: Workload, tricks: Sequence[Trick]) -> dict[str, Any]:
    """Greatest resident memory of two steps with all tricks, and with one left out, over that."""
    found = {}
    for trick in (BASE, *tricks):
        command = [sys.executable, __file__, "--alone", workload.name, trick.name]
        print(f"{workload.name}: {trick.name}", file=sys.stderr)
        found[trick.name] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    base = found[BASE.name]
    return {
        name: one | {"ratio": {"memory": round(one["memory_gb"] / base["memory_gb"], 3)}} for name, one in found.items()
    }


def alone(workload: Workload, trick: Trick) -> dict[str, Any]:
    """Two steps of one variant in this process: memory, and the seconds of the second."""
    with trick.left_out():
        step = Step(workload, **dict(trick.settings))
        step(0)
        seconds = step(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"memory_gb": round(peak, 3), "seconds": {name: round(value, 3) for name, value in seconds.items()}}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints or saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--workload", nargs="+", choices=tuple(WORKLOADS), default=["W1", "W3", "W4", "W5"])
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None, help="file; what it holds of other workloads stays")
    parser.add_argument("--alone", nargs=2, metavar=("WORKLOAD", "TRICK"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.alone:
        name, trick = given.alone
        print(json.dumps(alone(WORKLOADS[name], next(one for one in (BASE, *TRICKS) if one.name == trick))))
        return
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    results: dict[str, Mapping[str, Any]] = {}
    for name in given.workload:
        workload = WORKLOADS[name]
        tricks = [trick for trick in TRICKS if name in trick.workloads or name.startswith("tiny")]
        by_memory = workload.metric == "peak_memory_gb"
        results[name] = (
            remembered(workload, tricks) if by_memory else timed(workload, tricks, given.rounds or ROUNDS.get(name, 1))
        )
        for trick, one in results[name].items():
            print(f"{name} without `{trick}`: {one['ratio']} {one['seconds']}", file=sys.stderr)
    if given.json:
        from rollouts_ahead import saved

        rounds = {name: given.rounds or ROUNDS.get(name, 1) for name in results}
        before = json.loads(given.json.read_text(encoding="utf-8")) if given.json.exists() else {}
        saved(given.json, {key: before.get(key, {}) | new for key, new in (("workloads", results), ("rounds", rounds))})
    else:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
