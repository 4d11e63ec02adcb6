"""Tunix's engine of `grpo_step.py`: its `GRPOLearner` on the vanilla sampler, over the weights that ours starts from.

Imports of JAX stand inside the functions: the measuring process reads this file too.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from grpo_engines import architecture_of, describe, optimizer_of, stopped
from grpo_workloads import (
    EPSILON,
    FIRST_ORDINARY,
    KL_COEFFICIENT,
    SEED,
    TEMPERATURE,
    Batches,
    Workload,
    reward_of,
    tokenizer_of,
)
from side_by_side import Turns

TUNIX_LOSS = {
    "beta": KL_COEFFICIENT,
    "kl_loss_mode": "low_var_kl",
    "epsilon": EPSILON,
    "loss_agg_mode": "sequence-mean-token-mean",
    "advantage_estimator": "grpo",
    "num_iterations": 1,
}


def run_tunix(workload: Workload, steps: int, micro_batch_size: int, turns: Turns) -> None:
    """Tunix's `GRPOLearner` on its own sampler and trainer, without checkpoints and metric files.

    A turn ends where the learner begins to generate for the next batch, once the updated parameters are there.

    Args:
      workload: Shapes.
      steps: Updates.
      micro_batch_size: Prompts per forward and backward pass; all of them for no accumulation.
      turns: Handshake.
    """
    import jax
    from flax import nnx
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner

    portions, rollout = tunix_portions(workload, micro_batch_size), tunix_rollout(workload)
    actor, reference, mesh = tunix_models(workload)
    ready = describe(nnx.to_pure_dict(nnx.state(actor)))
    cluster = tunix_cluster(workload, actor, reference, mesh, portions, rollout, steps)
    share, seen = reward_of(workload), {}

    def reward(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
        return [share(completion) for completion in completions]

    def end_step() -> None:
        jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
        turns.wait(dict(seen))

    generate = cluster.generate

    def timed_generate(*args: Any, **arguments: Any) -> Any:
        if seen:
            end_step()
        started = time.perf_counter()
        # Without a seed Tunix draws the same noise in every step; a run that learns would give one, at no cost.
        cluster.cluster_config.rollout_config.seed = jax.random.key_data(jax.random.key(cluster.global_steps))
        output = generate(*args, **arguments)
        seen["split"] = {"rollout_s": time.perf_counter() - started}
        seen["tokens"] = tunix_tokens(workload, output)
        return output

    cluster.generate = timed_generate
    if workload.mean_tokens:
        stop_tunix(workload, cluster.rollout)
    learner = GRPOLearner(cluster, GRPOConfig(num_generations=workload.group_size, **TUNIX_LOSS), [reward])
    turns.wait(ready | {"configuration": portions | rollout, "loss": TUNIX_LOSS})
    learner.train(tunix_batches(workload, steps))
    end_step()
    kl = cluster.actor_trainer.metrics_logger.get_metric_history("actor", "kl", "train")
    turns.finish({"kl": {"first": float(kl[0]), "last": float(kl[-1])}})


def tunix_tokens(workload: Workload, output: Any) -> dict[str, int]:
    """How much a rollout of Tunix drew; it hands completions over without their stop token, which it drew as well."""
    lengths = [len(tokens) for tokens in output.tokens]
    return {
        "completions": len(lengths),
        "prompt_tokens": int((output.left_padded_prompt_tokens != tokenizer_of(workload).pad_id()).sum()),
        "completion_tokens": sum(length + (length < workload.completion_tokens) for length in lengths),
    }


def stop_tunix(workload: Workload, rollout: Any) -> None:
    """Makes completions of Tunix's sampler end where the workload says."""
    import jax.numpy as jnp

    sampler = rollout._sampler
    sample = sampler._sample

    def stopping_sample(*, logits: Any, sampler_state: Any, **arguments: Any) -> Any:
        first = sampler_state.token_buffer[:, 1]
        member = jnp.arange(len(first)) % workload.group_size
        index = sampler_state.decoding_step + 1 - sampler_state.num_input_tokens
        due = jnp.asarray(workload.lengths)[first - FIRST_ORDINARY, member]
        last = stopped(workload, logits[:, -1], due, index)
        return sample(logits=last[:, None], sampler_state=sampler_state, **arguments)

    sampler._sample = stopping_sample


def tunix_portions(workload: Workload, micro_batch_size: int) -> dict[str, Any]:
    """Batch sizes in prompts: one rollout of everything, the rest in micro-batches."""
    whole = workload.prompts
    return {
        "mini_batch_size": whole,
        "train_micro_batch_size": None if micro_batch_size == whole else micro_batch_size,
        "compute_logps_micro_batch_size": micro_batch_size,
        "rollout_micro_batch_size": whole,
    }


def tunix_rollout(workload: Workload) -> dict[str, Any]:
    """Sampling settings: a cache that just holds a sequence, no filters, and no log-probabilities that nobody reads."""
    return {
        "max_prompt_length": workload.prompt_tokens,
        "max_tokens_to_generate": workload.completion_tokens,
        "kv_cache_size": workload.prompt_tokens + workload.completion_tokens,
        "temperature": TEMPERATURE,
        "top_p": 1.0,
        "top_k": None,
        "return_logprobs": False,
    }


def tunix_models(workload: Workload) -> tuple[Any, Any, Any]:
    """Actor, reference and mesh: Tunix's own modules, each with a copy of the weights that our engine starts from."""
    import jax
    import jax.numpy as jnp

    from agent_tunix import models

    architecture = architecture_of(workload)
    params = models.initial_params(architecture, SEED)
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with mesh:
        actor, reference = (models.tunix_module(architecture, jax.tree.map(jnp.copy, params)) for _ in range(2))
    return actor, reference, mesh


def tunix_cluster(
    workload: Workload,
    actor: Any,
    reference: Any,
    mesh: Any,
    portions: dict[str, Any],
    rollout: dict[str, Any],
    steps: int,
) -> Any:
    """Everything on one mesh, so that actor and sampler share weights."""
    from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
    from tunix.rl.rollout.base_rollout import RolloutConfig

    training = RLTrainingConfig(
        actor_optimizer=optimizer_of(steps)[0],
        eval_every_n_steps=steps + 1,
        max_steps=steps,
        metrics_logging_options=None,
        checkpoint_root_directory=None,
        **portions,
    )
    config = ClusterConfig(
        role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
        rollout_engine="vanilla",
        training_config=training,
        rollout_config=RolloutConfig(**rollout),
    )
    tokenizer = tokenizer_of(workload)
    return RLCluster(actor=actor, reference=reference, tokenizer=tokenizer, cluster_config=config)


def tunix_batches(workload: Workload, steps: int) -> Iterator[dict[str, Any]]:
    """The same batches as columns."""
    batches = Batches(workload)
    for _ in range(steps):
        yield {"prompts": np.array([row["prompt"] for row in next(batches)])}
