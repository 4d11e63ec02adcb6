"""Our engine of `grpo_step.py`, what it shares with Tunix's, and a matrix product that tells the machine's peak.

Imports of JAX stand inside the functions: the measuring process reads this file too and stays small, and each worker
loads what its own engine needs.
"""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_workloads import (
    ADAMW,
    EPSILON,
    FIRST_ORDINARY,
    KL_COEFFICIENT,
    PAD,
    SEED,
    STOP,
    TEMPERATURE,
    Batches,
    Workload,
    reward_of,
    tokenizer_of,
)
from side_by_side import Turns


def architecture_of(workload: Workload) -> Any:
    """The model's sizes as `agent_tunix.models` takes them."""
    from agent_tunix.models import Architecture

    return Architecture(**{name: getattr(workload, name) for name in Architecture._fields if hasattr(workload, name)})


def optimizer_of(steps: int) -> tuple[Any, Any]:
    """`ADAMW` and its learning rate; the same optax transformation for both engines."""
    from agent_tunix import optimizers

    settings = dict(ADAMW)
    rate = optimizers.learning_rate_schedule(
        learning_rate=settings.pop("learning_rate"), warmup_steps=1, steps=steps, schedule="constant"
    )
    return optimizers.adamw(rate, **settings), rate


def describe(params: Any) -> dict[str, Any]:
    """Number, types, hash and place of parameters and how they are trained, by which the engines are compared."""
    import jax

    from agent_tunix.models import params_sha256

    leaves = jax.tree.leaves(params)
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "dtypes": sorted({str(leaf.dtype) for leaf in leaves}),
        "params_sha256": params_sha256(params),
        "optimizer": ADAMW,
        "kl_coefficient": KL_COEFFICIENT,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
    }


def stopped(workload: Workload, logits: Any, due: Any, index: Any) -> Any:
    """Logits under which a ragged completion ends where the workload says: the same few operations for every engine.

    Args:
      workload: Its longest completions are cut off, not stopped.
      logits: `[... vocab]`.
      due: Length of each completion, `[...]`.
      index: Which of its tokens comes next, from 0.

    Returns:
      Logits that leave nothing but the stop token where it is due, and neither that nor the pad token elsewhere.
    """
    import jax.numpy as jnp

    ends = (index + 1 == due) & (due < workload.completion_tokens)
    ids = jnp.arange(logits.shape[-1])
    blocked = jnp.where(ends[..., None], ids != STOP, (ids == STOP) | (ids == PAD))
    return jnp.where(blocked, -1e9, logits)


# --- Ours -------------------------------------------------------------------------------------------------------------


def run_ours(workload: Workload, steps: int, micro_batch_size: int, folder: Path, turns: Turns) -> None:
    """The product as a user runs it: `training.fit` with a run folder, checkpoints and logged samples.

    A turn ends in `show`, after the update was applied and its row of metrics written; what `fit` does behind that,
    such as flushing files, falls into the next step.

    Args:
      workload: Shapes.
      steps: Updates.
      micro_batch_size: Prompts per forward and backward pass; all of them for no accumulation, `OWN_CHOICE` for as many
        buckets as a run chooses where nothing is set.
      folder: Of the run; missing or empty.
      turns: Handshake.
    """
    from agent_tunix import models, runs, training
    from agent_tunix.checkpoints import Checkpoints

    architecture, (optimizer, rate) = architecture_of(workload), optimizer_of(steps)
    policy, params = models.policy(architecture), models.initial_params(architecture, SEED)
    plan = our_plan(workload, steps, micro_batch_size)
    settings = {"configuration": {"microbatches": plan.microbatches, "rollout_microbatches": 1}, "loss": OUR_LOSS}
    ready, seen = describe(params) | settings, {}

    def show(row: dict[str, Any], timing: dict[str, float]) -> None:
        if row["kind"] == "train":
            stages = {name.removeprefix("time/"): value for name, value in timing.items() if name.startswith("time/")}
            turns.wait({"tokens": dict(seen), "split": stages})
        elif row["step"] == 0:
            turns.wait(ready)

    with (
        runs.open_run(folder, config=dataclasses.asdict(workload)) as run,
        contextlib.closing(Checkpoints(folder / runs.CHECKPOINTS, keep=1)) as checkpoints,
    ):
        training.fit(
            policy,
            models.full(params),
            our_recipe(workload),
            optimizer,
            rate,
            sample=counted(our_sampler(policy, workload), seen),
            batches=Batches(workload),
            evaluate=lambda parameters, key: {"eval/accuracy": 0.0},
            plan=plan,
            run=run,
            checkpoints=checkpoints,
            show=show,
        )
    rows = runs.read_metrics(folder, "train")
    logged = {"rows": len(rows), "samples": sum(1 for _ in runs.read_samples(folder))}
    turns.finish({"logged": logged, "kl": {"first": rows[0]["policy/kl"], "last": rows[-1]["policy/kl"]}})


OWN_CHOICE = 0
OUR_LOSS = {
    "surrogate": f"clipped, epsilon {EPSILON}",
    "kl": f"k3, coefficient {KL_COEFFICIENT}",
    "aggregation": "sequence_mean_token_mean",
    "advantage": "group_normalized",
    "num_iterations": 1,
}


def our_recipe(workload: Workload) -> Any:
    """GRPO as `OUR_LOSS` describes it."""
    from agent_tunix import advantages, losses, rewards
    from agent_tunix.types import Recipe

    return Recipe(
        reward=rewards.per_completion(reward_of(workload), name="share", bounds=(0, 1)),
        shaping=rewards.identity(),
        advantage=advantages.per_group(advantages.group_normalized),
        loss=losses.policy_loss(
            losses.clipped(EPSILON),
            kl_coefficient=KL_COEFFICIENT,
            kl_estimator=losses.k3,
            aggregation=losses.sequence_mean_token_mean,
        ),
    )


def our_sampler(policy: Any, workload: Workload, mesh: Any = None) -> Any:
    """The compiled sampler of the package, over the devices of a mesh where there is one."""
    from agent_tunix import sampling

    return sampling.sampler(
        ragged_policy(policy, workload) if workload.mean_tokens else policy,
        tokenizer_of(workload),
        max_prompt_tokens=workload.prompt_tokens,
        max_completion_tokens=workload.completion_tokens,
        distribution=sampling.Distribution(temperature=TEMPERATURE),
        streams=our_streams(workload),
        mesh=mesh,
    )


def ragged_policy(policy: Any, workload: Workload) -> Any:
    """A policy whose completions end where the workload says; the lengths that are due travel with prefix and cache."""
    import jax.numpy as jnp

    def prefix(params: Any, prompt_ids: Any, prompt_mask: Any) -> Any:
        due = jnp.asarray(workload.lengths)[prompt_ids[:, 1] - FIRST_ORDINARY]
        return policy.prefix(params, prompt_ids, prompt_mask), due

    def decoder(params: Any, prefix: Any) -> Any:
        step = policy.decoder(params, prefix[0])

        def stopping_step(state: Any, tokens: Any, index: Any) -> Any:
            cache, due = state
            logits, cache = step(cache, tokens, index)
            return stopped(workload, logits, due, index), (cache, due)

        return stopping_step

    return policy._replace(
        prefix=prefix,
        decoder=decoder,
        cache=lambda params, prefix, *sizes: (policy.cache(params, prefix[0], *sizes), prefix[1]),
        grown=lambda state, slots: (policy.grown(state[0], slots), state[1]),
    )


def counted(sample: Any, seen: dict[str, int]) -> Any:
    """The sampler, which notes in `seen` how much it drew."""

    def sample_and_count(parameters: Any, rows: Sequence[Any], group_size: int, key: Any) -> Any:
        rollouts = sample(parameters, rows, group_size, key)
        seen["completions"] = rollouts.truncated.size
        seen["prompt_tokens"] = int(rollouts.prompt_mask.sum()) * group_size
        seen["completion_tokens"] = int(rollouts.lengths.sum())
        return rollouts

    return sample_and_count


def our_plan(workload: Workload, steps: int, micro_batch_size: int) -> Any:
    """One update per batch; no evaluation and no checkpoint before the end."""
    from agent_tunix.training import Plan

    return Plan(
        steps=steps,
        group_size=workload.group_size,
        num_iterations=1,
        minibatches=1,
        microbatches=workload.prompts // micro_batch_size if micro_batch_size else chosen_microbatches(workload),
        rollout_microbatches=1,
        streams=our_streams(workload),
        max_refills=0,
        temperature=TEMPERATURE,
        evaluate_every=0,
        patience=0,
        checkpoint_every=0,
        seed=SEED,
    )


def chosen_microbatches(workload: Workload) -> int:
    """The buckets that a run takes whose configuration leaves them open."""
    from agent_tunix import workshop
    from agent_tunix.config import Config

    config, replace = Config(), dataclasses.replace
    config = replace(
        config,
        training=replace(
            config.training,
            prompts_per_batch=workload.prompts,
            group_size=workload.group_size,
            minibatches=1,
            microbatches=0,
        ),
        data=replace(config.data, max_prompt_tokens=workload.prompt_tokens),
        sampling=replace(config.sampling, max_completion_tokens=workload.completion_tokens),
    )
    return workshop.plan(config, architecture_of(workload)).microbatches


def our_streams(workload: Workload) -> int:
    """The streams that a run takes whose configuration leaves them open."""
    from agent_tunix import workshop

    return workshop.streams(architecture_of(workload))


# --- The machine's peak -----------------------------------------------------------------------------------------------

MATMUL = {"size": 2048, "repeats": 5}


def run_matmul(steps: int, turns: Turns) -> None:
    """Float32 matrix products through JAX on all cores; a turn reports the best rate of several.

    Args:
      steps: Turns.
      turns: Handshake.
    """
    import jax

    size = MATMUL["size"]
    first, second = jax.random.normal(jax.random.key(0), (2, size, size))
    product = jax.jit(lambda x, y: x @ y)
    product(first, second).block_until_ready()

    def gflops() -> float:
        started = time.perf_counter()
        product(first, second).block_until_ready()
        return 2 * size**3 / (time.perf_counter() - started) / 1e9

    turns.wait({"device": jax.devices()[0].device_kind})
    for _ in range(steps):
        turns.wait({"gflops": max(gflops() for _ in range(MATMUL["repeats"]))})
    turns.finish({})
