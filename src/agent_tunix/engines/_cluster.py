"""Tunix's `RLCluster` without what it gets wrong, and how one is built."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Key
from tunix.rl import rl_cluster
from tunix.rl.rollout import base_rollout

from agent_tunix import models
from agent_tunix.engines import _modules, _rollouts
from agent_tunix.engines._loss import Example
from agent_tunix.engines._rollouts import PromptTokenizer, Rollout, VanillaRollout
from agent_tunix.models import Architecture, Parameters
from agent_tunix.tokenizers import Tokenizer
from agent_tunix.types import Params, Rollouts

Role, Mode = rl_cluster.Role, rl_cluster.Mode

Updated = Callable[[dict[str, float]], None]
"""Told of the loss, the gradient norm and the statistics of an update."""


class Quiet:
    """Stands where Tunix has its metrics logger, which keeps every number for ever, sends it to all listeners of the
    process, takes these listeners away when it is closed, and starts a run of wandb where that is installed."""

    def log(self, *_: Any, **__: Any) -> None:
        """Keeps nothing."""

    def metric_exists(self, *_: Any) -> bool:
        """It has none."""
        return False

    def close(self) -> None:
        """Closes nothing."""


class Cluster(rl_cluster.RLCluster):
    """Models, sampler and trainer of Tunix.

    Attributes:
      on_update: Told of every update.
      take: Which rows the next update is made on, of a batch; None for a batch that has had its updates.
    """

    on_update: Updated
    take: Callable[[], slice | None]

    def prepare(self, rollout: Rollout, lora: bool, softcap: float) -> None:
        """Sets up what Tunix's constructor leaves no room for."""
        self._rollout_settings, self._lora, self._softcap = rollout, lora, softcap
        self._anchor_policy_state = None  # a further copy of all parameters, which nothing here reads
        trainer: Any = self.actor_trainer
        self._rl_metrics_logger = trainer.metrics_logger = Quiet()
        trainer.config.max_steps = None  # it would draw a progress bar
        trainer._post_process_train_step = self._captured
        _modules.settle(trainer.optimizer, self.r2m[Role.ACTOR])
        self._numbers: dict[str, float] = {}

    @property
    def policy(self) -> nnx.Module:
        """The module that is trained."""
        return self.actor_trainer.model

    def draw(self, prompts: list[str], key: Key[Array, ""]) -> base_rollout.RolloutOutput:
        """Draws a completion of every prompt.

        Tunix's own sampler draws with one seed in every call unless it is given another. vLLM and SGLang take a seed
        per prompt, with which all completions of a group would be one and the same; they draw with a generator of their
        own.
        """
        config = self.get_rollout_config(Mode.TRAIN)
        seed = jnp.array(jax.random.key_data(key))  # a copy: the sampler's program takes its memory
        config.seed = seed if self._rollout_settings.engine == "vanilla" else None
        return self.generate(prompts, mode=Mode.TRAIN)

    def logprobs(self, role: Any, rollouts: Rollouts, parts: int) -> np.ndarray:
        """Log-probabilities `[prompts group tokens]` under the policy as it is now, or under the reference.

        At the temperature of the rollouts. Tunix's own function for the policy that sampled leaves that out.

        Args:
          role: `Role.ACTOR` or `Role.REFERENCE`.
          rollouts: Prompts and completions.
          parts: Portions of rows that are computed one after the other.
        """
        module = self.policy if role is Role.ACTOR else self.inference_worker.get_model("reference")
        temperature = self.get_rollout_config(Mode.TRAIN).temperature
        group, width = rollouts.shape[1], rollouts.completion_ids.shape[-1]
        prompts = (np.repeat(values, group, axis=0) for values in (rollouts.prompt_ids, rollouts.prompt_mask))
        rows = (*prompts, rollouts.completion_ids.reshape(-1, width))
        graph, state = nnx.split(module)
        compute = functools.partial(_logprobs, graph, state, temperature=temperature, softcap=self._softcap)
        with self._get_mesh_and_logical_axis_rules_cm(role):
            cut = zip(*(np.split(values, parts) for values in rows), strict=True)
            found = [np.asarray(compute(*part)) for part in cut]
        return np.where(rollouts.completion_mask, np.concatenate(found).reshape(rollouts.completion_ids.shape), 0.0)

    def update_actor(self, train_ds: list[Example], eval_ds: Any, skip_jit: bool = False) -> None:
        """One update on the next part of a batch; Tunix asks for all those of a batch, also beyond the last step."""
        rows = self.take()
        if rows is None:
            return
        part = [jax.tree.map(lambda values: values[rows], example) for example in train_ds]
        super().update_actor(part, eval_ds, skip_jit)
        self.on_update(self._numbers)

    def sync_weights(self) -> None:
        """Brings the policy to where it samples.

        As Tunix does, without its further copy of all parameters, and without its guard, which on a CPU refuses to move
        arrays between meshes of different sizes.
        """
        variables = (_modules.kind(self._lora),)
        self.rollout.update_params(nnx.state(self.policy, variables), variables)
        self.global_steps += 1

    def buffer_metrics(self, *_: Any, **__: Any) -> None:
        """Keeps nothing: rows of the run hold these numbers, and Tunix would write every text of a batch to its log."""

    def _captured(self, statistics: dict[str, Any]) -> None:
        """Takes what the trainer hands over after an update."""
        buffered: Any = self.actor_trainer._buffered_train_metrics
        norm = buffered.additional_metrics["grad_norm"][0][-1]
        loss = buffered.losses[-1]
        numbers = {name: float(value) for name, value in statistics.items()} | {
            "loss": float(loss),
            "gradient_norm": float(norm),
        }
        self._numbers = {f"policy/{name}": value for name, value in numbers.items()}


@functools.partial(jax.jit, static_argnames=("temperature", "softcap"))
def _logprobs(
    graph: Any, state: Any, ids: Array, mask: Array, completion_ids: Array, *, temperature: float, softcap: float
) -> Array:
    module = nnx.merge(graph, state)
    return models.module_logprobs(module, ids, mask, completion_ids, temperature, softcap=softcap)[0]


def guarded(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer that leaves everything as it is where the gradient is not finite; its state is that of the other."""

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        finite = jnp.isfinite(optax.tree.norm(updates))
        return jax.lax.cond(
            finite,
            lambda: optimizer.update(updates, state, params),
            lambda: (jax.tree.map(jnp.zeros_like, updates), state),
        )

    return optax.GradientTransformation(optimizer.init, update)


def build(
    architecture: Architecture,
    parameters: Parameters,
    optimizer: optax.GradientTransformation,
    tokenizer: Tokenizer,
    rollout: Rollout,
    *,
    steps: int,
    needs_reference: bool,
) -> Cluster:
    """Models on their meshes, sampler and trainer.

    Args:
      architecture: Of the policy.
      parameters: Where training starts; also the reference.
      optimizer: Optax transformation.
      tokenizer: Between text and tokens.
      rollout: How and where to sample.
      steps: Updates of the whole run, at least 1.
      needs_reference: Whether log-probabilities of the reference will be asked for.

    Raises:
      ConfigError: If Tunix cannot sample so.
      ModelError: If its module is not the model, or cannot be divided over the mesh.
    """
    config = _rollouts.config(rollout, tokenizer)
    _modules.check(architecture)
    train = _modules.mesh(rollout.train_mesh)
    sample = train if rollout.rollout_mesh is None else _modules.mesh(rollout.rollout_mesh, skip=train.size)
    policy = _modules.actor(architecture, parameters, train)
    cluster = Cluster(
        actor=policy,
        reference=_modules.reference(architecture, policy) if needs_reference else None,
        tokenizer=PromptTokenizer(tokenizer, rollout),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh={Role.ACTOR: train, Role.REFERENCE: train, Role.ROLLOUT: sample},
            rollout_engine=VanillaRollout if rollout.engine == "vanilla" else rollout.engine,
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=guarded(optimizer),
                eval_every_n_steps=steps + 1,
                max_steps=steps,
                data_sharding_axis=(("data", "fsdp"),),  # pyright: ignore[reportArgumentType]
            ),
            rollout_config=config,
        ),
    )
    cluster.prepare(rollout, bool(parameters.lora_scale), architecture.softcap)
    return cluster
