"""What rollouts gain from a lower precision on this machine, and what it costs in mismatch with the policy.

    python benchmarks/low_precision_rollouts.py --json docs/results/low_precision_rollouts.json

Rollouts of workloads `W1` and `W2`, and of the default policy after its warm start, in float32, bfloat16 and 8 bits
(`low_precision.py`), in turn; seconds, and how far the log-probabilities that tokens were drawn with are from those of
the float32 policy. Random parameters give nearly uniform distributions, so the final norm of the workloads is scaled to
logits that spread as those of a trained policy do. With `--gradients` also what the mismatch does to the policy
gradient, corrected by `losses.mismatch_weight` and not. A subject measured before keeps its place in the file.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import low_precision
import numpy as np
from grpo_engines import architecture_of, chosen_microbatches, our_recipe, our_sampler
from grpo_workloads import SEED, TEMPERATURE, WORKLOADS, Workload, rows_of
from jax.flatten_util import ravel_pytree
from jaxtyping import Array
from rollouts_ahead import saved

from agent_tunix import losses, models, recipes, updates, workshop
from agent_tunix.config import Config
from agent_tunix.models import Architecture, Policy
from agent_tunix.sampling import Sample
from agent_tunix.types import Params, Recipe, Row, TokenBatch

CAP = 2.0
LOGIT_SPREAD = 3.0
"""Standard deviation of the logits that random parameters are scaled to."""
AGAIN = "float32_again"
"""Float32 with other noise: how far two averages of gradients are apart through sampling alone."""


class Subject(NamedTuple):
    """A policy with its parameters, and what is sampled from it.

    Attributes:
      sampler: From a policy to its compiled sampler.
      batch: Rows of the batch with a number.
      parts: In which a run computes log-probabilities that are given.
      recipe: Reward and advantage of the gradients; its loss is not used.
    """

    name: str
    architecture: Architecture
    params: Params
    sampler: Callable[[Policy], Sample]
    batch: Callable[[int], Sequence[Row]]
    group_size: int
    parts: int
    recipe: Recipe


def workload_subject(workload: Workload) -> Subject:
    """A workload of `grpo_step.py` with random parameters whose logits spread."""
    architecture, rows = architecture_of(workload), rows_of(workload)
    return Subject(
        workload.name,
        architecture,
        spread(models.initial_params(architecture, SEED), architecture.width),
        lambda policy: our_sampler(policy, workload),
        lambda number: [rows[index] for index in workload.batch(number)],
        workload.group_size,
        chosen_microbatches(workload),
        our_recipe(workload),
    )


def spread(params: Params, width: int) -> Params:
    """Parameters whose final norm makes logits, of embeddings with deviation 0.02, spread by `LOGIT_SPREAD`."""
    norm = {"w": params["final_norm"]["w"] * (LOGIT_SPREAD / (0.02 * width**0.5))}
    return {**params, "final_norm": norm}


def warm_subject(config: Config) -> Subject:
    """The policy of a configuration after its warm start."""
    shop = workshop.workshop(config)
    with tempfile.TemporaryDirectory() as folder:
        params = workshop.start_params(shop, Path(folder), lambda step, loss: None)
    size, rows = config.training.prompts_per_batch, shop.dataset.train
    return Subject(
        "warm",
        shop.architecture,
        params,
        lambda policy: workshop.sampler(shop._replace(policy=policy)),
        lambda number: [rows[(number * size + index) % len(rows)] for index in range(size)],
        config.training.group_size,
        workshop.plan(config, shop.architecture).microbatches,
        recipes.recipe(config),
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "W1": lambda: workload_subject(WORKLOADS["W1"]),
    "W2": lambda: workload_subject(WORKLOADS["W2"]),
    "warm": lambda: warm_subject(Config()),
}


# --- Speed and mismatch -----------------------------------------------------------------------------------------------


def mismatch(differences: np.ndarray) -> dict[str, float]:
    """Numbers about the importance weights of tokens, from `log policy - log sampler` of each.

    Args:
      differences: Nats, one for every sampled token.

    Returns:
      Mean and greatest size of a difference; mean of the weights, with and without the cap, their effective sample size
      as a fraction, the share above the cap, and the divergence of the policy from the sampler by k3.
    """
    weights = np.exp(differences.astype(np.float64))
    return {
        "mean_abs": float(np.abs(differences).mean()),
        "max_abs": float(np.abs(differences).max()),
        "mean_weight": float(weights.mean()),
        "mean_capped_weight": float(np.minimum(weights, CAP).mean()),
        "effective_fraction": float(weights.sum() ** 2 / (weights.size * (weights**2).sum())),
        "above_cap": float((weights > CAP).mean()),
        "k3": float((weights - 1 - differences).mean()),
    }


class Clock(NamedTuple):
    """Wall and processor seconds."""

    wall: float
    cpu: float


def timed(call: Callable[[], Any]) -> tuple[Any, Clock]:
    """What a call returns, on the host, and the time it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return found, Clock(time.perf_counter() - wall, time.process_time() - cpu)


PASS = "teacher_forced"


def benchmark(subject: Subject, rounds: int) -> dict[str, Any]:
    """Every precision in turn, after a first round that compiles; medians of seconds, and the mismatch of all tokens.

    Besides, the float32 pass over sampled tokens that gives the policy's own log-probabilities of them, which rollouts
    in float32 do without.
    """
    policies = low_precision.policies(subject.architecture)
    samples = {name: subject.sampler(policy) for name, policy in policies.items()}
    parameters = models.full(subject.params)
    logprobs = updates.reference_logprobs(policies["float32"], parameters, TEMPERATURE, subject.parts)
    clocks: dict[str, list[Clock]] = {name: [] for name in (*samples, PASS)}
    differences: dict[str, list[np.ndarray]] = {name: [] for name in samples}
    nats = []
    for number in range(rounds + 1):
        rows, key = subject.batch(number), jax.random.key(number)
        for name, sample in samples.items():
            rollouts, clock = timed(functools.partial(sample, parameters, rows, subject.group_size, key))
            own, pass_clock = timed(functools.partial(logprobs, rollouts))
            clocks[name].append(clock)
            clocks[PASS].append(pass_clock)
            differences[name].append((own - rollouts.logprobs)[rollouts.completion_mask])
            nats.append(-own[rollouts.completion_mask].mean())
    clocks[PASS] = clocks[PASS][:: len(samples)]  # one a round, the first of them compiles
    tokens = sum(part.size for part in differences["float32"])
    return {
        "tokens": tokens,
        "nats_per_token": float(np.mean(nats)),
        PASS: times(clocks[PASS][1:]),
        "precisions": {
            name: {
                **times(clocks[name][1:]),
                "speedup": quotient(clocks["float32"][1:], clocks[name][1:]),
                "speedup_with_pass": quotient(clocks["float32"][1:], added(clocks[name], clocks[PASS])[1:]),
                **mismatch(np.concatenate(differences[name])),
            }
            for name in samples
        },
    }


def added(own: Sequence[Clock], other: Sequence[Clock]) -> list[Clock]:
    """The times of both, round by round."""
    return [Clock(*map(sum, zip(*pair, strict=True))) for pair in zip(own, other, strict=True)]


def times(clocks: Sequence[Clock]) -> dict[str, Any]:
    """Median and range of the seconds, and median of the processor seconds."""
    wall = [clock.wall for clock in clocks]
    return {
        "seconds": statistics.median(wall),
        "range": [min(wall), max(wall)],
        "cpu_seconds": statistics.median(clock.cpu for clock in clocks),
    }


def quotient(own: Sequence[Clock], other: Sequence[Clock]) -> dict[str, float]:
    """Median quotients of wall and processor seconds of the same round: how many times as fast the other one is."""
    pairs = list(zip(own, other, strict=True))
    return {
        "wall": statistics.median(first.wall / second.wall for first, second in pairs),
        "cpu": statistics.median(first.cpu / second.cpu for first, second in pairs),
    }


# --- Gradients --------------------------------------------------------------------------------------------------------


def gradient_of(policy: Policy, cap: float | None) -> Callable[..., Array]:
    """The on-policy gradient of a batch of rollouts as one vector, with or without the correction of the mismatch."""
    loss = losses.policy_loss(mismatch_cap=cap)

    @jax.jit
    def gradient(params: Params, rollouts: dict[str, Any], credit: Array) -> Array:
        def objective(params: Params) -> Array:
            prompts = rollouts["prompt_ids"], rollouts["prompt_mask"]
            logprobs, entropy = policy.logprobs(params, *prompts, rollouts["completion_ids"], TEMPERATURE)
            mask, old = rollouts["completion_mask"], jax.lax.stop_gradient(logprobs)
            tokens = TokenBatch(logprobs, entropy, old, rollouts["logprobs"], None, credit, mask)
            per_token, _ = loss.per_token(tokens)
            return jnp.sum(loss.weights(mask, rollouts["truncated"]) * per_token)

        return ravel_pytree(jax.grad(objective)(params))[0]

    return gradient


ARRAYS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "truncated", "logprobs")


def gradients(subject: Subject, batches: int) -> dict[str, Any]:
    """How far the mean gradient from rollouts in a lower precision is from that of float32, over the same batches.

    All draw with the same noise, so that most completions agree and what is left is little but bias; `AGAIN` draws with
    other noise.
    """
    policies = low_precision.policies(subject.architecture)
    samples = {name: subject.sampler(policy) for name, policy in policies.items()} | {
        AGAIN: subject.sampler(policies["float32"])
    }
    plain, capped = (gradient_of(policies["float32"], cap) for cap in (None, CAP))
    sums: dict[tuple[str, str], np.ndarray] = {}
    for number in range(batches):
        rows = subject.batch(number)
        for name, sample in samples.items():
            key = jax.random.fold_in(jax.random.key(number), name == AGAIN)
            rollouts = sample(models.full(subject.params), rows, subject.group_size, key)
            score, _ = subject.recipe.shaping.update(
                subject.recipe.reward(rollouts), subject.recipe.shaping.init(), rollouts
            )
            credit = updates.per_token(np.asarray(subject.recipe.advantage(score)), rollouts)
            arrays = {field: getattr(rollouts, field) for field in ARRAYS}
            for kind, gradient in (("uncorrected", plain), ("corrected", capped)):
                found = np.asarray(gradient(subject.params, arrays, credit), np.float64)
                sums[name, kind] = sums.get((name, kind), 0.0) + found
    reference = sums["float32", "uncorrected"]
    compared = {f"{name}/{kind}": against(found, reference) for (name, kind), found in sums.items()}
    return {"batches": batches, "compared": compared}


def against(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Cosine of two gradients, and the norm of one over that of the other."""
    norms = np.linalg.norm(found), np.linalg.norm(reference)
    return {"cosine": float(found @ reference / (norms[0] * norms[1])), "norm_ratio": float(norms[0] / norms[1])}


# --- The command ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Parses, measures, prints, saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=7, help="of rollouts that count")
    parser.add_argument("--gradients", type=int, default=0, metavar="BATCHES", help="for gradients; 0 leaves them out")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    before = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    subjects = before.get("subjects", {})
    for name in arguments.subjects:
        subject = SUBJECTS[name]()
        found = subjects.setdefault(name, {})
        if arguments.rounds:
            found |= {"rounds": arguments.rounds, **benchmark(subject, arguments.rounds)}
        if arguments.gradients:
            found["gradients"] = gradients(subject, arguments.gradients)
        print(json.dumps({name: found}, indent=1))
    saved(arguments.json, {"subjects": subjects})


if __name__ == "__main__":
    main()
