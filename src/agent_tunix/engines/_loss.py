"""Our policy loss on Tunix's module, in the form that Tunix's trainer differentiates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array
from tunix.rl import common, function_registry
from tunix.rl.grpo.grpo_learner import GRPOConfig

from agent_tunix import models
from agent_tunix.types import Loss, Rollouts, TokenBatch

NAME = "agent_tunix"
"""Of the reward manager, the advantage estimator and the policy loss in Tunix's registries."""


@struct.dataclass(frozen=True)
class Example(common.TrainExample):
    """A batch, or one minibatch of it, in rows; the completions of a prompt follow each other.

    Attributes:
      sampler_logprobs: Log-probabilities of the tokens under the distribution they were drawn from.
      weights: Weights of the tokens in the loss, from the mask of the whole minibatch.
    """

    sampler_logprobs: Any = None
    weights: Any = None


@dataclasses.dataclass(kw_only=True)
class Algorithm(GRPOConfig):
    """Tunix's settings with what our loss needs; its own `epsilon`, `beta` and so on are not read.

    Attributes:
      policy_loss: The loss.
      microbatches: Parts of an update that are computed one after the other; their number changes no result.
      softcap: Of the module's logits.
    """

    advantage_estimator: str = NAME
    policy_loss_fn: str = NAME
    reward_manager: str = NAME
    policy_loss: Loss | None = None
    microbatches: int = 1
    softcap: float = 0.0
    temperature: float = 1.0
    """Set by the learner to that of the rollouts."""


@function_registry.register_policy_loss_fn(NAME)
def policy_loss(
    model: nnx.Module, train_example: Example, algo_config: Algorithm, pad_id: int, eos_id: int, **_: Any
) -> tuple[Array, dict[str, Array]]:
    """The loss of one update, and the statistics that our engine logs, averaged over the tokens that carry loss.

    Microbatches are a loop inside the gradient. Tunix's own accumulation divides every part by its own number of
    tokens, which weighs the tokens of parts with few of them more.

    Args:
      model: Tunix's module.
      train_example: The minibatch.
      algo_config: With the loss.
      pad_id: Unused: masks say what is padding, so that a token drawn by chance cannot be taken for it.
      eos_id: Unused.
    """
    del pad_id, eos_id
    graph, state = nnx.split(model)
    count = algo_config.microbatches

    def part(example: Example) -> tuple[Array, dict[str, Array]]:
        return _sums(nnx.merge(graph, state), example, algo_config)

    if count == 1:
        total, sums = part(train_example)
    else:
        parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), train_example)
        found = jax.lax.map(jax.checkpoint(part), parts)
        total, sums = jax.tree.map(lambda x: x.sum(0), found)
    tokens = jnp.maximum(train_example.completion_mask.sum(), 1)
    return _poisoned(total), {name: value / tokens for name, value in sums.items()}


def _sums(model: nnx.Module, example: Example, algorithm: Algorithm) -> tuple[Array, dict[str, Array]]:
    """The weighted loss of some rows, and statistics added up over their tokens."""
    loss: Any = algorithm.policy_loss
    logprobs, entropy = models.module_logprobs(
        model, example.prompt_ids, example.prompt_mask, example.completion_ids, algorithm.temperature,
        entropy_gradient=loss.needs_entropy, softcap=algorithm.softcap,
    )  # fmt: skip
    entropy = entropy if loss.needs_entropy else jax.lax.stop_gradient(entropy)

    def grouped(values: Any) -> Any:
        return None if values is None else values.reshape(-1, algorithm.num_generations, values.shape[-1])

    tokens = TokenBatch(
        *map(grouped, (logprobs, entropy, example.old_per_token_logps, example.sampler_logprobs)),
        *map(grouped, (example.ref_per_token_logps, example.advantages, example.completion_mask)),
    )
    per_token, statistics = loss.per_token(tokens)
    statistics = {"entropy": tokens.entropy} | statistics
    sums = {name: jnp.sum(jnp.where(tokens.mask, value, 0.0)) for name, value in statistics.items()}
    return jnp.sum(jnp.where(tokens.mask, grouped(example.weights) * per_token, 0.0)), sums


def _poisoned(loss: Array) -> Array:
    """The loss; one that is not finite has a gradient that is not either, by which the optimizer knows it."""
    return loss * jnp.where(jnp.isfinite(jax.lax.stop_gradient(loss)), 1.0, jnp.nan)


def example_of(rollouts: Rollouts, valid: np.ndarray, credit: np.ndarray, loss: Loss, minibatches: int) -> Example:
    """A batch as Tunix's trainer takes it.

    Args:
      rollouts: The batch.
      valid: False where there is no score: such a completion carries no loss and does not count.
      credit: Advantages `[prompts group tokens]`.
      loss: For the weights of tokens, which are those within their minibatch.
      minibatches: Equal parts, in order, that an update is made on.
    """
    mask, truncated = np.asarray(rollouts.completion_mask) & valid[..., None], np.asarray(rollouts.truncated)
    size = len(rollouts.prompts) // minibatches
    parts = [slice(start, start + size) for start in range(0, size * minibatches, size)]
    weights = [np.asarray(loss.weights(jnp.asarray(mask[part]), jnp.asarray(truncated[part]))) for part in parts]

    def rows(values: Any) -> Any:
        return None if values is None else np.asarray(values).reshape(-1, np.shape(values)[-1])

    def repeated(values: Any) -> np.ndarray:
        return np.repeat(np.asarray(values), rollouts.shape[1], axis=0)

    build: Any = Example  # its base is a dataclass that type checkers do not see
    return build(
        prompt_ids=repeated(rollouts.prompt_ids),
        prompt_mask=repeated(rollouts.prompt_mask),
        completion_ids=rows(rollouts.completion_ids),
        completion_mask=rows(mask),
        advantages=rows(credit),
        ref_per_token_logps=rows(rollouts.ref_logprobs),
        old_per_token_logps=rows(rollouts.old_logprobs),
        sampler_logprobs=rows(rollouts.logprobs),
        weights=rows(np.concatenate(weights)),
    )
