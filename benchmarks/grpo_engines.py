"""The engines of `grpo_step.py`, ours and Tunix's, and what both get: shapes, weights, prompts, reward and optimizer.

Imports of JAX stand inside the functions: the measuring process reads this file too and stays small, and each worker
loads what its own engine needs.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from side_by_side import Turns

KL_COEFFICIENT = 0.04
EPSILON = 0.2
LEARNING_RATE = 1e-4
TEMPERATURE = 1.0
SEED = 0


@dataclasses.dataclass(frozen=True)
class Workload:
    """Shapes of one step: a Qwen3 decoder with tied embeddings, prompts and completions of fixed lengths.

    Attributes:
      prompt_tokens: Length of every prompt, beginning-of-sequence token included.
      completion_tokens: Length of every completion; no stop token can be sampled.
      prompts: Per batch.
      group_size: Completions per prompt.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocab_size: int
    prompt_tokens: int
    completion_tokens: int
    prompts: int
    group_size: int

    @property
    def tokens(self) -> dict[str, int]:
        """What every engine has to sample and train on in one step."""
        rows = self.prompts * self.group_size
        return {
            "completions": rows,
            "prompt_tokens": rows * self.prompt_tokens,
            "completion_tokens": rows * self.completion_tokens,
        }


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("tiny", 1, 16, 2, 1, 8, 32, 64, 8, 12, 4, 4),
        Workload("W1", 4, 128, 4, 2, 32, 512, 512, 32, 64, 16, 8),
        Workload("W2", 8, 512, 8, 4, 64, 2048, 32_768, 128, 128, 4, 8),
    )
}


# --- What both engines are given --------------------------------------------------------------------------------------


class PrivateTokenizer:
    """One private-use character per token id, so that text and ids turn into each other exactly and at once.

    Pad and end lie outside the vocabulary: they cannot be sampled, so that every completion uses up its tokens.
    """

    FIRST = 0xF0000

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [ord(character) - self.FIRST for character in text]

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Text of token ids."""
        return (np.asarray(ids, "<u4") + np.uint32(self.FIRST)).astype("<u4").tobytes().decode("utf-32-le")

    def bos_id(self) -> int:
        """Id that begins a sequence; not 0, which Tunix's sampler takes for none."""
        return 1

    def pad_id(self) -> int:
        """An id that cannot be sampled."""
        return self.vocab_size

    def eos_id(self) -> int:
        """Another id that cannot be sampled."""
        return self.vocab_size + 1

    def token_id(self, text: str) -> int:
        """Id of a single character."""
        (index,) = self.encode(text)
        return index

    def fingerprint(self) -> str:
        """Changes with the vocabulary."""
        return f"private-{self.vocab_size}"


def low_share(middle: str, completion: str) -> float:
    """Share of the characters before `middle`: plain Python and next to free, and hardly ever equal in a group."""
    return sum(character < middle for character in completion) / len(completion)


def reward_of(workload: Workload) -> Callable[[str], float]:
    """The reward of one completion: how many of its tokens lie in the lower half of the vocabulary."""
    return functools.partial(low_share, chr(PrivateTokenizer.FIRST + workload.vocab_size // 2))


def rows_of(workload: Workload) -> list[dict[str, str]]:
    """Rows of random prompts, every one of full length behind the beginning-of-sequence token."""
    tokenizer, random = PrivateTokenizer(workload.vocab_size), np.random.default_rng(SEED)
    ids = random.integers(2, workload.vocab_size, (4 * workload.prompts, workload.prompt_tokens - 1))
    return [{"prompt": tokenizer.decode(row), "answer": ""} for row in ids]


def batches_of(workload: Workload) -> Any:
    """The batches of prompts, in the order in which both engines see them."""
    from agent_tunix import data

    return data.batches(rows_of(workload), size=workload.prompts, seed=SEED)


def architecture_of(workload: Workload) -> Any:
    """The model's sizes as `agent_tunix.models` takes them."""
    from agent_tunix.models import Architecture

    return Architecture(**{name: getattr(workload, name) for name in Architecture._fields})


def optimizer_of(steps: int) -> tuple[Any, Any]:
    """AdamW behind a clip of the gradient, and its learning rate; the same optax transformation for both engines."""
    from agent_tunix import optimizers

    rate = optimizers.learning_rate_schedule(
        learning_rate=LEARNING_RATE, warmup_steps=1, steps=steps, schedule="constant"
    )
    return optimizers.adamw(rate), rate


def describe(params: Any) -> dict[str, Any]:
    """Number, types, hash and place of parameters, by which the engines are compared."""
    import jax

    from agent_tunix.models import params_sha256

    leaves = jax.tree.leaves(params)
    return {
        "parameters": sum(leaf.size for leaf in leaves),
        "dtypes": sorted({str(leaf.dtype) for leaf in leaves}),
        "params_sha256": params_sha256(params),
        "backend": f"{jax.default_backend()} ({jax.devices()[0].device_kind})",
    }


# --- Ours -------------------------------------------------------------------------------------------------------------


def run_ours(workload: Workload, steps: int, micro_batch_size: int, folder: Path, turns: Turns) -> None:
    """The product as a user runs it: `training.fit` with a run folder, checkpoints and logged samples.

    A turn ends in `show`, after the update was applied and its row of metrics written; what `fit` does behind that,
    such as flushing files, falls into the next step.

    Args:
      workload: Shapes.
      steps: Updates.
      micro_batch_size: Prompts per forward and backward pass; all of them for no accumulation.
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
            batches=batches_of(workload),
            evaluate=lambda parameters, key: {"eval/accuracy": 0.0},
            plan=plan,
            run=run,
            checkpoints=checkpoints,
            show=show,
        )
    rows = runs.read_metrics(folder, "train")
    logged = {"rows": len(rows), "samples": sum(1 for _ in runs.read_samples(folder))}
    turns.finish({"logged": logged, "kl": {"first": rows[0]["policy/kl"], "last": rows[-1]["policy/kl"]}})


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


def our_sampler(policy: Any, workload: Workload) -> Any:
    """The compiled sampler of the package."""
    from agent_tunix import sampling

    return sampling.sampler(
        policy,
        PrivateTokenizer(workload.vocab_size),
        max_prompt_tokens=workload.prompt_tokens,
        max_completion_tokens=workload.completion_tokens,
        distribution=sampling.Distribution(temperature=TEMPERATURE),
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
        microbatches=workload.prompts // micro_batch_size,
        rollout_microbatches=1,
        max_refills=0,
        temperature=TEMPERATURE,
        evaluate_every=0,
        patience=0,
        checkpoint_every=0,
        seed=SEED,
    )


# --- Tunix ------------------------------------------------------------------------------------------------------------

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
        seen["tokens"] = {
            "completions": len(output.tokens),
            "prompt_tokens": int((output.left_padded_prompt_tokens < workload.vocab_size).sum()),
            "completion_tokens": sum(len(tokens) for tokens in output.tokens),
        }
        return output

    cluster.generate = timed_generate
    learner = GRPOLearner(cluster, GRPOConfig(num_generations=workload.group_size, **TUNIX_LOSS), [reward])
    turns.wait(ready | {"configuration": portions | rollout, "loss": TUNIX_LOSS})
    learner.train(tunix_batches(workload, steps))
    end_step()
    kl = cluster.actor_trainer.metrics_logger.get_metric_history("actor", "kl", "train")
    turns.finish({"kl": {"first": float(kl[0]), "last": float(kl[-1])}})


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
    tokenizer = PrivateTokenizer(workload.vocab_size)
    return RLCluster(actor=actor, reference=reference, tokenizer=tokenizer, cluster_config=config)


def tunix_batches(workload: Workload, steps: int) -> Iterator[dict[str, Any]]:
    """The same batches as columns."""
    batches = batches_of(workload)
    for _ in range(steps):
        yield {"prompts": np.array([row["prompt"] for row in next(batches)])}
