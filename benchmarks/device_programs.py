"""What devices say to each other in a step: one batch over 1, 2, 4 and 8 simulated devices, whose programs are read.

    python benchmarks/device_programs.py --workload W1 > programs.json

A machine with few cores cannot show how time scales with devices, but compiled programs show what would: collectives of
each phase, their bytes, and whether they stand in a loop. The parameters after two updates are compared with those
of one device. The exit code is 1 where a collective is not one of those that are due.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grpo_workloads import TEMPERATURE, WORKLOADS, Batches, Workload

DEVICES = (1, 2, 4, 8)
PHASES = ("rollout", "reference", "update")
RATE = 0.1
"""Of plain gradient descent, so that the gradient can be told from the parameters."""


class Outcome(NamedTuple):
    """What a step comes to; fields are compared between numbers of devices.

    Attributes:
      completion_ids: Tokens drawn.
      logprobs: Of sampling.
      ref_logprobs: Of the reference.
      loss: Of the first update.
      gradient: Its leaves.
      parameters: The leaves after the second update.
    """

    completion_ids: Any
    logprobs: Any
    ref_logprobs: Any
    loss: Any
    gradient: list[Any]
    parameters: list[Any]


def simulate(devices: int) -> None:
    """Makes the processor count as so many devices; to be called before JAX is used."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()


def step(workload: Workload, devices: int, microbatches: int) -> tuple[Outcome, dict[str, list[Any]]]:
    """Two updates on one batch of rollouts; the outcome, and the programs of each phase."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from collectives import recorded
    from grpo_engines import architecture_of, our_recipe, our_sampler

    from agent_tunix import models, updates

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",)) if devices > 1 else None
    architecture, optimizer = architecture_of(workload), optax.sgd(RATE)
    policy, params = models.policy(architecture), models.initial_params(architecture, 0)
    programs: dict[str, list[Any]] = {}
    with recorded() as compiled:
        sample = our_sampler(policy, workload, mesh=mesh)
        rollouts = sample(models.full(params), next(Batches(workload)), workload.group_size, jax.random.key(0))
        programs["rollout"] = compiled[:]
        reference = updates.reference_logprobs(policy, models.full(params), TEMPERATURE, microbatches, mesh=mesh)(
            rollouts
        )
        programs["reference"] = compiled[len(programs["rollout"]) :]
        rollouts, before = dataclasses.replace(rollouts, ref_logprobs=reference), len(compiled)
        update = updates.updater(
            policy, our_recipe(workload).loss, optimizer, temperature=TEMPERATURE, microbatches=microbatches, mesh=mesh
        )
        credit = np.random.default_rng(0).normal(size=rollouts.truncated.shape)
        valid = np.ones(credit.shape, bool)
        ((_, batch),) = updates.portions(rollouts, valid, updates.per_token(credit, rollouts), 1, 1)
        once, state, stats = update(models.full(jax.tree.map(jnp.copy, params)), optimizer.init(params), batch)
        gradient = jax.tree.map(lambda old, new: (np.asarray(old) - np.asarray(new)) / RATE, params, once)
        twice, _, _ = update(models.full(once), state, batch)
        programs["update"] = compiled[before:]
    leaves = [[np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in (gradient, twice)]
    loss = np.asarray(stats["policy/loss"])
    return Outcome(rollouts.completion_ids, rollouts.logprobs, reference, loss, *leaves), programs


def differences(one: Outcome, other: Outcome) -> dict[str, float]:
    """Largest absolute difference of every field."""
    import jax
    import numpy as np

    def largest(first: Any, second: Any) -> float:
        pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        return max(float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max()) for a, b in pairs)

    return {name: largest(*pair) for name, *pair in zip(Outcome._fields, one, other, strict=True)}


def counted(programs: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """Programs and collectives of every phase; `in` names the programs that have any."""
    from collectives import collectives, summary

    found = {}
    for phase, compiled in programs.items():
        talk = {program.name: collectives(program.text) for program in compiled}
        everything = [one for some in talk.values() for one in some]
        found[phase] = {
            "programs": len(compiled),
            "collectives": summary(everything),
            "in": sorted(name for name, some in talk.items() if some),
        }
    return found


def unexpected(report: Mapping[str, Any]) -> list[str]:
    """What a number of devices should not say to each other, in words.

    Due is nothing but the sum of the gradient and of the loss's statistics, once per update, outside of any loop.
    """
    found = []
    for phase in PHASES:
        for kind, one in report["phases"][phase]["collectives"].items():
            if phase != "update" or kind != "all-reduce":
                found.append(f"{phase}: {one['count']} {kind} of {one['bytes']} bytes")
            elif one["looped"]:
                found.append(f"{phase}: {one['looped']} {kind} in a loop")
    due = report["gradient_bytes"] if report["devices"] > 1 else 0
    summed = report["phases"]["update"]["collectives"].get("all-reduce", {"bytes": 0, "scalar_bytes": 0})
    if (arrays := summed["bytes"] - summed["scalar_bytes"]) != due:
        found.append(f"update: {arrays} bytes of arrays are added up over the devices instead of {due}")
    return found


def reports(workload: Workload, numbers: Sequence[int], microbatches: int) -> list[dict[str, Any]]:
    """What each number of devices computes and says; the first should be 1, with which the others are compared."""
    first, found = None, []
    for devices in numbers:
        outcome, programs = step(workload, devices, microbatches)
        first = first or outcome
        report = {
            "devices": devices,
            "gradient_bytes": sum(leaf.nbytes for leaf in outcome.gradient),
            "phases": counted(programs),
            "differences": differences(first, outcome),
        }
        found.append(report | {"unexpected": unexpected(report)})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the reports as JSON; returns 1 if something unexpected was found."""
    parser = argparse.ArgumentParser(description="Collectives of a step over simulated devices, as JSON.")
    parser.add_argument("--workload", choices=tuple(WORKLOADS), default="W1")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=NUMBER", help="other sizes of the workload")
    parser.add_argument("--devices", type=int, nargs="+", default=list(DEVICES))
    parser.add_argument("--microbatches", type=int, default=2, help="buckets on every device")
    given = parser.parse_args(argv)
    simulate(max(given.devices))
    sizes = {name: int(number) for name, number in (word.split("=") for word in given.set)}
    workload = dataclasses.replace(WORKLOADS[given.workload], **sizes)
    found = reports(workload, given.devices, given.microbatches)
    print(json.dumps(found))
    return int(any(report["unexpected"] for report in found))


if __name__ == "__main__":
    sys.exit(main())
